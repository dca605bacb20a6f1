/*
 * A monitor that has ring 0 for itself: the guest's kernel and its programs both run at CPL 3, in 64-bit mode, on
 * shadow page tables. The stub (stub.S) catches every trap and writes to LAB_PORT; the device behind it, this one,
 * does on a virtual CPU what the guest wanted, and the stub goes back. Engines, exits, Machine.run() need not know
 * of it.
 *
 * Popek and Goldberg's trap-and-emulate is what is here by itself. A LabTechnique adds to it: binary translation,
 * paravirtualisation. The classic weakness is left as it is: what is sensitive and does not trap, goes wrong.
 *
 *    trap  ->  lab_trap (monitor.c)  ->  technique's trap, or: page fault -> mmu/shadow.h
 *                                                              #GP, #UD   -> emulate.c, on the virtual CPU
 *                                                              the guest's own -> inject.c, through its IDT
 *          ->  a waiting interrupt, if the virtual IF allows  ->  technique's resume  ->  the stub
 *
 * Real IF is always 1 at CPL 3. An interrupt that comes while the virtual IF is 0 waits here; the interrupt
 * controller has had its acknowledgement by then. What cannot go on ends: `end` says why, the machine stops, and
 * stays stopped.
 *
 * Left out: more than one virtual CPU, real and protected mode, compatibility mode, 5-level paging, call gates,
 * NMIs, SYSENTER, breakpoints in DR0 to DR3, #AC (CR0.AM) and CR4.OSXMMEXCPT clear, CPUID, RDTSC and RDTSCP (not
 * sensitive enough to trap: they answer as the engine does), MSRs but a few (#GP), moving the local APIC, CR8
 * holding back interrupts, MONITOR and MWAIT, what CR4_LEFT_OUT (emulate_registers.c) stands for, and confining the
 * DMA of devices.
 */
#ifndef PYVMM_LAB_MONITOR_H
#define PYVMM_LAB_MONITOR_H

#include "engine/engine.h"
#include "lab/decode.h"
#include "lab/virtual_cpu.h"
#include "mmu/shadow.h"

/* Why the monitor had its turn. */
#define LAB_REASONS(X)                                                                                             \
    X(START, "start")             /* the first entry */                                                            \
    X(PRIVILEGED, "privileged")   /* #GP of an instruction that the monitor emulated */                            \
    X(SYSCALL, "syscall")         /* SYSCALL */                                                                    \
    X(SOFTWARE, "int n")          /* INT n, INT3 */                                                                \
    X(FILL, "shadow fill")        /* #PF: the shadow had no entry yet, or not the right */                         \
    X(TRACE, "trace")             /* #PF: a store into a page table (or into code that was translated) */          \
    X(PAGE_FAULT, "page fault")   /* #PF: the guest's own */                                                       \
    X(EXCEPTION, "exception")     /* another exception of the guest's own */                                       \
    X(INTERRUPT, "interrupt")     /* a device's */                                                                 \
    X(HYPERCALL, "hypercall")     /* a paravirtual guest's request */                                              \
    X(CALLOUT, "callout")         /* translated code that asks for an instruction to be emulated */                \
    X(MISS, "translation miss")   /* translated code whose target is not translated */                             \
    X(CHECK, "translation check") /* translated code that turned interrupts on while one waits */

#define X(name, text) LAB_##name,
enum LabReason { LAB_REASONS(X) LAB_REASON_COUNT };
#undef X

/* clang-format off */
#define LAB_MNEMONICS(X)                                                                                          \
    X(CLI) X(STI) X(PUSHF) X(POPF) X(HLT) X(IN) X(OUT) X(INS) X(OUTS) X(MOV_FROM_CR) X(MOV_TO_CR)                 \
    X(MOV_FROM_DR) X(MOV_TO_DR) X(CLTS) X(LMSW) X(SMSW) X(LGDT) X(LIDT) X(SGDT) X(SIDT) X(LLDT)                   \
    X(LTR) X(SLDT) X(STR) X(LAR) X(LSL) X(VERR) X(VERW) X(INVLPG) X(INVD) X(WBINVD) X(RDMSR)                      \
    X(WRMSR) X(SWAPGS) X(SYSCALL) X(SYSRET) X(IRET) X(INT) X(INT3) X(RETF) X(CALLF) X(JMPF)                       \
    X(MOV_TO_SEG) X(MOV_FROM_SEG) X(POP_SEG) X(PUSH_SEG) X(LFS) X(MOV) X(CPUID)
/* clang-format on */

#define X(name) LAB_M_##name,
enum LabMnemonic { LAB_MNEMONICS(X) LAB_MNEMONIC_COUNT };
#undef X

typedef struct LabCounters {
    uint64_t exits[LAB_REASON_COUNT];
    uint64_t cycles[LAB_REASON_COUNT]; /* host TSC cycles between the stub's OUT and its return */
    uint64_t emulated[LAB_MNEMONIC_COUNT];
    uint64_t hypercalls[32];
    uint64_t injected_exceptions, injected_interrupts;
    uint64_t blocks, chained, flushes; /* of a translator */
} LabCounters;

typedef struct LabEnd {
    uint32_t ended;
    uint8_t size; /* of what is known of `instruction` */
    uint8_t instruction[INSTRUCTION_MAX];
    uint64_t rip; /* the guest's */
    char text[200];
} LabEnd;

/* One trap, for who looks at them one by one: monitor_watch(). The guest's view, as it was before the answer. */
typedef struct LabExit {
    uint64_t number; /* grows with each trap of the guest; 0: none since the monitor started to watch */
    uint64_t rip, cr2, error, cycles;
    uint64_t rax, rdx; /* number of a hypercall, value and port of an OUT */
    uint64_t result;   /* RAX afterwards */
    uint8_t reason, vector, cpl;
    uint8_t size; /* of what can be read at `rip` */
    uint8_t instruction[INSTRUCTION_MAX];
} LabExit;

typedef struct Monitor Monitor;

/* What an engine of another idea puts in; each may be NULL. On the vCPU's thread. */
typedef struct LabTechnique {
    const char *name;
    bool steps; /* it can run one instruction of ring 0 and come back: what an STI is followed by */
    int (*create)(Monitor *monitor, Error *error);
    void (*destroy)(Monitor *monitor);
    /* Before anything else, for interrupts too: RIP and registers may be made the guest's. True: it is dealt with.
     */
    bool (*trap)(Monitor *monitor);
    /* A device's interrupt. True: it is dealt with, else it waits for the virtual IF. */
    bool (*interrupt)(Monitor *monitor, uint8_t vector);
    /* Exceptions and INT n of the guest. True: delivered. */
    bool (*deliver)(Monitor *monitor, uint8_t vector, bool has_error, uint32_t error, bool software,
                    uint64_t next_rip);
    /* Last thing: the guest runs at trap->rip in the ring of cpu.cpl; RIP may be made another one. */
    void (*resume)(Monitor *monitor);
    /* After that: frame->cr3 is the root that the guest will run on, in the ring of cpu.cpl. */
    void (*tables)(Monitor *monitor);
    /* The guest stored into a page of shadow_trace(), or a device did (then nobody waits for it). */
    void (*code_written)(Monitor *monitor, gpa_t page);
} LabTechnique;

extern const LabTechnique lab_trap_and_emulate;
const LabTechnique *lab_technique(const char *name); /* NULL: there is none of that name */

struct Monitor {
    Vcpu *vcpu;
    Board *board;
    const LabTechnique *technique;
    void *technique_state;
    uint8_t *memory; /* the monitor's, LAB_SIZE bytes at physical `base` */
    gpa_t base;
    LabFrame *frame;
    LabTrapFrame *trap; /* &frame->trap */
    VirtualCpu cpu;
    LabTrapFrame waiting; /* of a halted guest, while the stub waits in ring 0 */
    Shadow *shadow;
    /*
     * Interrupts that wait for the virtual IF, in the order of their acknowledgements. The last goes first: it came
     * through although the others were in service, and an EOI is for the highest in service (8259A, local APIC).
     * One vector may wait twice: an EOI that the guest meant for another has let it through again, and each
     * acknowledgement must have its EOI. More than fit: of a guest that sends EOIs and takes no interrupts.
     */
    uint8_t pending[256];
    uint32_t pending_count;
    bool new_tables;       /* shadow_root() is due, on the way out */
    bool touch;            /* a KVM: see ShadowConfig.touch */
    enum LabReason reason; /* of this trap, as far as it is known */
    bool watched;
    LabExit last; /* while watched */
    LabCounters counters;
    LabEnd end;
};

/*
 * The guest is to have the RAM below guest_end; the LAB_SIZE bytes from there must be RAM too, and nobody else's.
 * Maps LAB_PORT. The vCPU, its engine and board outlive the monitor. NULL with `error`.
 */
Monitor *monitor_new(Vcpu *vcpu, gpa_t guest_end, const LabTechnique *technique, Error *error);
void monitor_free(Monitor *monitor);
/* `state` is what the guest is to start with: 64-bit mode, paging on, ring 0. The vCPU gets the stub's state; what
 * runs it next, runs the guest. -EINVAL with `error` for another mode. */
int monitor_start(Monitor *monitor, const CpuState *state, Error *error);
LabCounters monitor_counters(const Monitor *monitor);
LabEnd monitor_end(const Monitor *monitor);
/* Keep of each trap what monitor_last_exit() has of the newest; off at first, and then it costs a branch. While
 * the vCPU does not run. */
void monitor_watch(Monitor *monitor, bool on);
LabExit monitor_last_exit(const Monitor *monitor);
VirtualCpu monitor_virtual_cpu(const Monitor *monitor);
ShadowStatistics monitor_shadow_statistics(const Monitor *monitor);
const char *lab_reason_name(uint32_t reason);     /* NULL beyond the last */
const char *lab_mnemonic_name(uint32_t mnemonic); /* NULL beyond the last */

/* ---- for the techniques, on the vCPU's thread in a trap ---- */
void lab_end(Monitor *monitor, const char *format, ...) __attribute__((format(printf, 2, 3)));
void lab_wait(Monitor *monitor); /* the virtual CPU is halted: the stub will wait for an interrupt */
void lab_shadow(Monitor *monitor, uint64_t next_rip); /* no interrupt before that instruction */
void lab_queue_interrupt(Monitor *monitor, uint8_t vector);
bool lab_interrupt_waits(const Monitor *monitor);
void lab_note(Monitor *monitor);                  /* for LabExit: RIP and registers are the guest's from now on */
ShadowMode lab_mode(const Monitor *monitor);      /* of the current virtual ring */
void lab_set_ring(Monitor *monitor, uint8_t cpl); /* and shadow tables with it */
void lab_load_tables(Monitor *monitor);           /* due after a change of CR0, CR3, CR4, EFER */
uint64_t lab_rflags(const Monitor *monitor);      /* as the guest should see them */
void lab_set_rflags(Monitor *monitor, uint64_t rflags, bool system); /* system: IF and IOPL too */
const VirtualCpu *lab_cpu(const Monitor *monitor);

static inline bool lab_canonical(uint64_t address) { return (uint64_t)((int64_t)(address << 16) >> 16) == address; }

/* inject.c. An access by the virtual CPU. False: an exception was injected (or the guest has ended): the caller is
 * done. */
enum LabAccess { LAB_READ = 0, LAB_WRITE = PF_WRITE, LAB_FETCH = PF_FETCH };
enum LabBy {
    LAB_BY_RING,   /* as the ring it is in */
    LAB_BY_SYSTEM, /* as a supervisor, whatever the ring: descriptor tables, task state */
    LAB_BY_STACK,  /* by SS, as the ring it is in: an address that is not canonical is #SS (SDM 3A §6.15) */
};
/* Who reads or writes the memory operand: RSP and RBP as the base mean SS (SDM vol. 1 table 3-5). */
static inline enum LabBy lab_operand_by(const Instruction *in)
{
    return (in->base == REG_RSP || in->base == REG_RBP) && !in->segment ? LAB_BY_STACK : LAB_BY_RING;
}
bool lab_read(Monitor *monitor, gva_t address, void *data, uint32_t size, enum LabBy by);
bool lab_write(Monitor *monitor, gva_t address, const void *data, uint32_t size, enum LabBy by);
/* The same question without the access. */
bool lab_probe(Monitor *monitor, gva_t address, uint32_t size, enum LabAccess access, enum LabBy by);
/* Bytes at the virtual RIP, up to 15; no exception. Returns how many. */
size_t lab_fetch(Monitor *monitor, uint8_t *bytes);
void lab_inject(Monitor *monitor, uint8_t vector, bool has_error, uint32_t error);
void lab_inject_gp(Monitor *monitor, uint32_t error);
bool lab_undefined(Monitor *monitor);                                             /* #UD; true */
void lab_software_interrupt(Monitor *monitor, uint8_t vector, uint64_t next_rip); /* INT n: its gate's DPL counts */
void lab_deliver_interrupt(Monitor *monitor);                                     /* the last that waits */

/* emulate.c: the instruction at the virtual RIP, decoded, on the virtual CPU. True: done, or the guest got an
 * exception for it; false: not an instruction that the monitor has to do with. */
bool lab_emulate(Monitor *monitor, const Instruction *instruction);
bool lab_lock_allowed(const Instruction *instruction); /* with that ModRM: 2A LOCK */
void lab_syscall(Monitor *monitor, uint64_t next_rip);
/* emulate_registers.c: the same for MOV of CRn and DRn, RDMSR, WRMSR; what LMSW and CLTS do to CR0 */
bool lab_move_control(Monitor *monitor, const Instruction *instruction, uint64_t next_rip);
bool lab_move_debug(Monitor *monitor, const Instruction *instruction, uint64_t next_rip);
bool lab_emulate_msr(Monitor *monitor, bool write, uint64_t next_rip);
bool lab_set_cr0(Monitor *monitor, uint64_t value);
/* emulate_segments.c: the same for LGDT, LAR, MOV to SS, far transfers, IRET... */
bool lab_emulate_segments(Monitor *monitor, const Instruction *instruction);
/* emulate_io.c */
bool lab_emulate_io(Monitor *monitor, const Instruction *instruction);
/* store.c: plain stores into traced pages. False: it is none of those that are known. */
bool lab_emulate_store(Monitor *monitor, const Instruction *instruction, gpa_t gpa);

#endif
