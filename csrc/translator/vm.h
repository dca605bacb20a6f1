/* The engine's own structures, shared by the files of this folder. */
#ifndef PYVMM_TRANSLATOR_VM_H
#define PYVMM_TRANSLATOR_VM_H

#include <pthread.h>

#include "irq/lapic.h"
#include "translator/library.h"
#include "translator/translator.h"

#define GUEST_ADDRESS_BITS 40 /* CPUID 0x80000008 */
#define MAX_REGIONS        64
#define MAPPINGS           1024    /* a power of two */
#define EFER_KNOWN         0x6d01u /* SCE, LME, LMA, NXE, and AMD's FFXSR and LMSLE, which do nothing here */
#define MAX_INVALIDATIONS  64

/* A memslot as the library knows it. `has_code`: a bit per page that holds translated code. */
typedef struct CodeSlot {
    const Memslot *slot;
    uint64_t ram_addr;
    uint64_t *has_code;
    void *region; /* the library's, once it was asked for (physical.c) */
} CodeSlot;

/* A hole between memslots: an MMIO region of the library. */
typedef struct MmioRegion {
    struct TranslatorVcpu *vcpu;
    uint64_t base;
} MmioRegion;

typedef struct TranslatorVm {
    EngineVm base;
    bool slow;
    struct TranslatorVcpu *vcpu; /* the only one, or NULL */
} TranslatorVm;

/* Written by the vCPU's thread, read by any. Hits are in translated code, and not counted. */
typedef struct TlbCounters {
    uint64_t fills_user, fills_kernel;
    uint64_t flushes, page_flushes;
} TlbCounters;

typedef struct JumpTarget JumpTarget; /* jump_targets.c */

typedef struct TranslatorVcpu {
    Vcpu base;
    Board *board;
    uc_engine *uc;
    void *cpu; /* the library's CPUState */
    Env *env;
    uint16_t *icount_high; /* storing all ones here ends the current translation block chain */
    void *requested_label; /* of the block that is being made (exit_check.c) */
    bool slow;
    uint32_t slow_kick; /* atomic: the slow tier's stand-in for icount_high */

    /* What the library does not keep */
    uint64_t cr8, apic_base; /* on a board without a local APIC */
    uint64_t xcr0;           /* a copy */
    uint64_t tsc_aux, misc_enable;
    Mtrr mtrr;
    uint64_t kvm_system_time, kvm_wall_clock;
    CpuidEntry *cpuid; /* what was given by vcpu_set_cpuid; NULL: its own */
    uint32_t cpuid_count;
    uint64_t tsc_offset;       /* guest TSC = board clock in TSC ticks + this */
    uint64_t kvm_clock_offset; /* paravirtual clock = board clock + this */
    int32_t pending_event;     /* CpuState.pending_exception, until it is delivered */
    uint32_t pending_error;
    bool pending_has_error;

    /* Exits on their way out */
    bool leave;       /* stop at the next block boundary */
    bool hlt_pending; /* HLT was executed and not yet reported */
    VmExit *queue;    /* surfaced exits, oldest first: one block may cause several before it ends */
    uint32_t queue_head, queue_count;
    bool triple_fault;
    TranslatorFault faults[TRANSLATOR_FAULTS]; /* the last exception and those in its delivery */
    uint32_t fault_count;
    bool delivering;           /* a fault now is one in the delivery of an interrupt or exception (not of INT n) */
    uint32_t software_length;  /* bytes of the INT n, INT3 or INTO that is being delivered */
    uint64_t virtual_subticks; /* virtual clock: bytes of code not yet turned into nanoseconds */

    /* Single step and breakpoints */
    int32_t steps_left; /* -1: not stepping */
    uc_hook step_hook;
    uc_hook surface_hook;
    bool instructions_watched; /* surface_hook is set */
    uint32_t a20_pending;      /* atomic: another thread moved the A20 line */
    uint32_t flush_pending;    /* atomic: another thread changed what device RAM there is */
    uc_hook breakpoint_hooks[64];
    size_t breakpoint_count;
    uint64_t resume_address; /* do not stop again at the breakpoint we start from */
    bool resuming;

    /* Physical addresses (physical.c): the library's memory region of a page, which never changes */
    struct {
        uint64_t tag; /* page number + 1; 0: nothing */
        void *region;
    } mappings[MAPPINGS];

    TlbCounters tlb; /* tlb.c */

    /* Jump targets (jump_targets.c) */
    JumpTarget *jump_targets;
    uint32_t jump_generation; /* of the TLB: counts its flushes */

    /* Code pages (code_pages.c) */
    CodeSlot slots[MAX_REGIONS];
    size_t slot_count;
    uint64_t last_written_page; /* ram_addr seen by tb_invalidate_phys_page_fast */
    pthread_mutex_t invalidation_lock;
    uint32_t invalidations_pending; /* atomic */
    bool invalidate_all;
    struct {
        uint64_t start, end; /* ram_addr */
    } invalidations[MAX_INVALIDATIONS];
    size_t invalidation_count;

    MmioRegion regions[MAX_REGIONS];
    size_t region_count;
} TranslatorVcpu;

/*
 * Which vCPU the calling thread runs. The library's internal functions carry no context of ours, and a
 * replacement can be called only from inside a call that we made on the same thread: docs/adr/0004.
 */
extern __thread TranslatorVcpu *translator_running __attribute__((
    tls_model("initial-exec"), visibility("hidden"))); /* one load: it is asked for in every slow access */
static inline TranslatorVcpu *translator_current(void) { return translator_running; }
TranslatorVcpu *translator_enter(TranslatorVcpu *vcpu); /* returns the one before, to give back when leaving */

/* Ask to leave guest code at the next block boundary. vCPU's thread. */
void translator_leave(TranslatorVcpu *vcpu);
/* End the block chain soon. Any thread. */
static inline void translator_kick(TranslatorVcpu *vcpu)
{
    if (unlikely(vcpu->slow))
        __atomic_store_n(&vcpu->slow_kick, 1, __ATOMIC_SEQ_CST);
    else
        __atomic_store_n(vcpu->icount_high, 0xffff, __ATOMIC_SEQ_CST);
}
/* An exit that somebody watches, without its RIP: recorded, and surfaced if the mask asks for it. `return_address`:
 * of the helper in the middle of a block, 0 where RIP is right. `begun`: vcpu_exit_begun(). */
void translator_note(TranslatorVcpu *vcpu, const VmExit *exit, uint64_t begun, uintptr_t return_address);
/* Queue an exit and leave. */
void translator_surface(TranslatorVcpu *vcpu, const VmExit *exit);
void translator_count_interrupt(TranslatorVcpu *vcpu, uint32_t vector, bool software);
uint64_t translator_rip(const TranslatorVcpu *vcpu); /* linear; right at instruction and block boundaries */
/* The same from inside a helper that translated code called: finds the instruction by the helper's return address.
 */
uint64_t translator_rip_at(TranslatorVcpu *vcpu, uintptr_t return_address);

/* tlb.c */
int translator_statistics(Vcpu *vcpu, EngineStatistic *statistics, uint32_t capacity);
int translator_tlb(Vcpu *vcpu, TlbTranslation *translations, uint32_t capacity);
void translator_count_fill(TranslatorVcpu *vcpu, int mmu_index);

/* jump_targets.c */
int jump_targets_init(TranslatorVcpu *vcpu, Error *error);
void jump_targets_free(TranslatorVcpu *vcpu);
void jump_targets_tlb_flushed(TranslatorVcpu *vcpu); /* all or a page of it */

/* state.c */
int translator_get_state(Vcpu *vcpu, CpuState *state);
int translator_set_state(Vcpu *vcpu, const CpuState *state);

/* msr.c */
bool translator_read_msr(TranslatorVcpu *vcpu, uint32_t index, uint64_t *value); /* false: #GP */
bool translator_write_msr(TranslatorVcpu *vcpu, uint32_t index, uint64_t value);
uint64_t translator_library_msr(TranslatorVcpu *vcpu, uint32_t index);
void translator_set_library_msr(TranslatorVcpu *vcpu, uint32_t index, uint64_t value);
bool translator_can_hold(const CpuState *state); /* no bits of CR4, EFER and XCR0 that it does not know */
void translator_set_xcr0(TranslatorVcpu *vcpu, uint64_t value);
uint64_t translator_tsc(const TranslatorVcpu *vcpu);
void translator_set_tsc_offset(TranslatorVcpu *vcpu,
                               uint64_t offset);     /* deadlines of the local APIC move with it */
void translator_publish_clock(TranslatorVcpu *vcpu); /* the paravirtual clock's record anew, if the guest has one */

/* The local APIC of this vCPU, or NULL: CR8, IA32_APIC_BASE and the x2APIC registers are its. */
static inline Lapic *translator_lapic(const TranslatorVcpu *vcpu)
{
    return apic_bus_lapic(vcpu->board->apics, vcpu->base.index);
}

/* cpuid.c */
void translator_cpuid(TranslatorVcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
int translator_get_cpuid(Vcpu *vcpu, CpuidEntry *entries, uint32_t capacity);
int translator_set_cpuid(Vcpu *vcpu, const CpuidEntry *entries, uint32_t count);

/* code_pages.c */
int code_pages_init(TranslatorVcpu *vcpu, Error *error);
void code_pages_free(TranslatorVcpu *vcpu);
void code_pages_host_wrote(void *vcpu, gpa_t gpa, uint64_t size); /* GuestMemoryWritten: any thread */
void code_pages_run_invalidations(TranslatorVcpu *vcpu);          /* vCPU's thread, between blocks */

#endif
