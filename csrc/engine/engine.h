/*
 * What an engine is to the rest of the house: a vtable of a few calls, and the one exit loop above it.
 *
 * Lock order, written once: machine > bus > device > irqchip > clock. The bus takes the device's lock. An engine
 * calls the bus with no lock of its own held.
 */
#ifndef PYVMM_ENGINE_ENGINE_H
#define PYVMM_ENGINE_ENGINE_H

#include <pthread.h>

#include "engine/cpu_state.h"
#include "engine/exit_trace.h"
#include "io/board.h"

/* Why guest code was left. The numbers are bits of a `surface` mask: 1 << reason. */
enum ExitReason {
    EXIT_NONE,
    EXIT_IO,        /* port access, already answered by the bus */
    EXIT_MMIO,      /* memory-mapped access, already answered */
    EXIT_HLT,       /* HLT; the loop sleeps unless it is surfaced */
    EXIT_INTERRUPT, /* an interrupt was delivered: vector; code is 1 for INT n, 0 for an external one */
    EXIT_EXCEPTION, /* an exception is about to be delivered: vector, error code, CR2 */
    EXIT_CPUID,     /* leaf and subleaf */
    EXIT_MSR,       /* read or write of a model-specific register */
    EXIT_SHUTDOWN,  /* triple fault: always surfaced */
    EXIT_SYSTEM,    /* enum SystemRequest in `request`: always surfaced */
    EXIT_KICK,      /* vcpu_kick() from outside: always surfaced */
    EXIT_DEBUG,     /* breakpoint or single step: always surfaced */
    EXIT_FAIL,      /* the engine cannot go on: text says why; always surfaced */
};

typedef struct VmExit {
    uint32_t reason; /* enum ExitReason */
    uint32_t size;   /* bytes of the access */
    uint32_t is_write;
    uint32_t handled; /* a device answered */
    uint64_t address; /* port, GPA, MSR index or CPUID leaf; CR2 for a page fault */
    uint64_t value;   /* what was written or read; error code of an exception */
    uint64_t rip;     /* linear address of the instruction (EXIT_HLT: of the next one) */
    uint32_t vector;
    uint32_t has_error;
    uint32_t request; /* enum SystemRequest */
    uint32_t code;
    uint32_t privilege; /* CPL and mode (exit_trace.h) of one that somebody watches, with EXIT_PRIVILEGE_KNOWN */
    uint32_t cycles;    /* host TSC cycles that answering took, of the same; 0: not measured */
    char text[160];
} VmExit;

enum { EXIT_PRIVILEGE_KNOWN = 1 << 8 };

typedef struct Vcpu Vcpu;
typedef struct EngineVm EngineVm;

/* One row of what CPUID tells the guest. `indexed`: the row is for this ECX only (SDM vol. 2A, CPUID). */
typedef struct CpuidEntry {
    uint32_t leaf, subleaf, indexed;
    uint32_t eax, ebx, ecx, edx;
} CpuidEntry;
#define CPUID_MAX_ENTRIES 256

/* A translation that an engine's TLB holds. */
enum TlbRights { TLB_MAY_READ = 1, TLB_MAY_WRITE = 2, TLB_MAY_EXECUTE = 4 };
typedef struct TlbTranslation {
    gva_t page;
    gpa_t physical;
    uint32_t rights; /* enum TlbRights */
    uint32_t user;   /* for accesses of ring 3; else of the kernel */
} TlbTranslation;

/* One of an engine's own counters of a vCPU; names are the engine's. */
typedef struct EngineStatistic {
    char name[48];
    uint64_t value;
} EngineStatistic;

typedef struct EngineOps {
    const char *name;
    /* The engine's part of engine_vm_attach() and engine_vm_detach(), which move the board's hooks. */
    int (*vm_attach)(EngineVm *vm, Error *error);
    int (*vm_detach)(EngineVm *vm, Error *error);
    void (*vm_notify)(EngineVm *vm);       /* the board's kick, or its INTR pin went up: any thread */
    void (*vm_a20)(EngineVm *vm, bool on); /* the A20 gate moved: the vCPU's thread */
    /* Signal an eventfd in place of an access, or no more (io/ioeventfd.h). NULL: the engine cannot. */
    int (*vm_ioeventfd)(EngineVm *vm, const IoEventFd *entry, bool add);
    /* Map a device's memory as RAM, or no more (memory/device_ram.h). Any thread. NULL: the engine cannot. */
    int (*vm_device_ram)(EngineVm *vm, uint32_t number, const DeviceRam *ram, bool add);
    void (*vm_free)(EngineVm *vm);
    Vcpu *(*vcpu_new)(EngineVm *vm, uint32_t index, Error *error);
    void (*vcpu_free)(Vcpu *vcpu);
    /* Run until something that the mask asks for, or that is always surfaced. 0 or -errno. */
    int (*vcpu_run)(Vcpu *vcpu, VmExit *exit);
    int (*vcpu_step)(Vcpu *vcpu, VmExit *exit); /* one instruction */
    void (*vcpu_notify)(Vcpu *vcpu); /* make vcpu_run look at its flags: any thread, any number of times */
    int (*vcpu_get_state)(Vcpu *vcpu, CpuState *state);
    int (*vcpu_set_state)(Vcpu *vcpu, const CpuState *state);
    /* The same when the vCPU is known to hold `before`: an engine may write only what changed. NULL: set_state. */
    int (*vcpu_update_state)(Vcpu *vcpu, const CpuState *before, const CpuState *state);
    int (*vcpu_set_breakpoints)(Vcpu *vcpu, const gva_t *addresses, size_t count);
    /* May be NULL: what the engine has beside CpuState and the board's devices. */
    int (*vcpu_reset)(Vcpu *vcpu); /* after the reset state was set */
    int (*vm_reset)(EngineVm *vm);
    void (*vm_pause)(EngineVm *vm); /* the guest's own clocks stand still until a vCPU runs again */
    int (*vcpu_get_cpuid)(Vcpu *vcpu, CpuidEntry *entries, uint32_t capacity);
    int (*vcpu_set_cpuid)(Vcpu *vcpu, const CpuidEntry *entries, uint32_t count);
    int (*vcpu_statistics)(Vcpu *vcpu, EngineStatistic *statistics, uint32_t capacity); /* NULL: none */
    int (*vcpu_tlb)(Vcpu *vcpu, TlbTranslation *translations, uint32_t capacity); /* NULL: it cannot be seen */
    /* CPL and mode at the exit that is being handled, as ExitEvent.flags has them. The vCPU's thread. */
    uint32_t (*vcpu_privilege)(Vcpu *vcpu);
} EngineOps;

struct EngineVm {
    const EngineOps *ops;
    Board *board;
    Vcpu *vcpus; /* in the order of their making; the first is the bootstrap processor */
    /* The local APICs are the engine's: HLT, and waiting for a startup IPI, are vcpu_run's and never seen by the
     * loop; NMIs that wait for a vCPU are in its CpuState. */
    bool halts_inside;
};

typedef struct ExitCounters {
    uint64_t exits[16]; /* by enum ExitReason, surfaced or not */
} ExitCounters;

#define HAND_OVER_KINDS 32

/* Instructions that the engine refused and its fallback executed: by opcode, the first HAND_OVER_KINDS kinds. */
typedef struct HandOverKind {
    uint64_t count;
    uint32_t opcode; /* mandatory prefix, opcode and where it belongs to it ModRM, as one number */
    uint32_t size;
    uint8_t instruction[16]; /* the first one of its kind, and what followed it */
} HandOverKind;

typedef struct HandOverCounters {
    uint64_t total;
    HandOverKind kinds[HAND_OVER_KINDS];
} HandOverCounters;

enum { KICK_ONCE = 1, KICK_REQUEST = 2, KICK_CALLED_IN = 4 }; /* Vcpu.kicked */

struct Vcpu {
    EngineVm *vm;
    Vcpu *next; /* in vm->vcpus */
    uint32_t index;
    uintptr_t runner; /* atomic: the thread in vcpu_run or vcpu_step, or 0 */
    uint32_t surface; /* bits 1 << enum ExitReason */
    uint32_t watched; /* of a run: `surface`, or every reason while exits are recorded */
    uint32_t kicked;  /* atomic, bits KICK_*: not 0 makes vcpu_run look */
    uint32_t request; /* with KICK_REQUEST: enum SystemRequest that this vCPU made, and its code */
    uint32_t request_code;
    uint32_t halted;      /* after HLT, until an interrupt can be taken */
    uint32_t halted_if;   /* RFLAGS.IF at that HLT */
    uint32_t nmi_blocked; /* at that HLT: an NMI was being handled */
    pthread_mutex_t lock; /* with `wake`: where a halted vCPU sleeps */
    pthread_cond_t wake;
    uint64_t instructions; /* where the engine can count, else 0 */
    ExitCounters counters;
    ExitTrace *trace;           /* NULL: exits are not recorded */
    struct HandOver *hand_over; /* NULL: no fallback was ever set */
};

/*
 * Several EngineVms may be made over one board; one at a time is attached: it gets the board's kicks, interrupts
 * and A20 gate, and only its vCPUs may run. Making the first attaches it; the others wait. A VM that is not
 * attached keeps its vCPUs and what it knows of guest memory. The board's hooks are the same functions for every
 * engine, so that moving them is the store of one pointer, and a device that kicks meanwhile finds either VM.
 *
 * attach: -EBUSY when another is attached, or the engine's own error. detach: the same VM's vCPUs must not run;
 * state that the engine kept for the board's devices is back in them.
 */
int engine_vm_attach(EngineVm *vm, Error *error);
int engine_vm_detach(EngineVm *vm, Error *error);
bool engine_vm_is_attached(const EngineVm *vm);
/*
 * From one engine to the other: all vCPUs' states, counters and kicks, detach and attach. No vCPU of either may
 * run. When the new engine refuses, the old one has the machine as before, and `error` says why.
 */
int engine_vm_switch(Vcpu *const *from, Vcpu *const *to, size_t count, Error *error);
void engine_vm_free(EngineVm *vm);
/* The machine's reset, after its devices' and while no vCPU runs: every vCPU at its reset state, and what of the
 * board's devices the engine holds. 0 or -errno. */
int engine_vm_reset(EngineVm *vm);
/* The machine stops, and no vCPU runs: TSC and paravirtual clock stand still until one does. */
void engine_vm_pause(EngineVm *vm);
Vcpu *vcpu_new(EngineVm *vm, uint32_t index, Error *error);
void vcpu_free(Vcpu *vcpu);

/* For engines: attach a new VM when nobody is, and take a VM off the board for good. */
int engine_vm_adopt(EngineVm *vm, Error *error);
void engine_vm_disown(EngineVm *vm);
/* For engines: fills what is common, and undoes it. */
void vcpu_init(Vcpu *vcpu, EngineVm *vm, uint32_t index);
void vcpu_fini(Vcpu *vcpu);
/* For engines, as the Board's vcpu_request: the vCPU that runs on the calling thread returns with it. False: none
 * does. */
bool engine_vm_request(EngineVm *vm, enum SystemRequest request, uint32_t code);
/* For engines: wakes a halted vCPU, and makes a running one look. The Board's kick and INTR pin come here. */
void vcpu_notify(Vcpu *vcpu);

/* The exit loop. -EXDEV when another EngineVm is attached. Blocks; call it without the GIL. `exit` says why it
 * returned. While it runs, another run, step or change of breakpoints is -EBUSY, and so are the state's calls from
 * any thread but its own (a device may look). */
int vcpu_run(Vcpu *vcpu, uint32_t surface, VmExit *exit);
int vcpu_step(Vcpu *vcpu, VmExit *exit);
/* Every vcpu_run of this VM returns EXIT_KICK, at once if it was called later, until engine_vm_let_go(). For who
 * runs several vCPUs and has had the machine's last exit from one of them. Any thread. */
void engine_vm_call_in(EngineVm *vm);
void engine_vm_let_go(EngineVm *vm);
/* The calling thread is called vcpu-0, vcpu-1...: what `top -H` and debuggers show. */
void vcpu_name_thread(const Vcpu *vcpu);
void vcpu_kick(Vcpu *vcpu); /* vcpu_run returns EXIT_KICK soon; never lost, also when given before vcpu_run */
int vcpu_get_state(Vcpu *vcpu, CpuState *state); /* only while it does not run */
int vcpu_set_state(Vcpu *vcpu, const CpuState *state);
int vcpu_set_breakpoints(Vcpu *vcpu, const gva_t *addresses, size_t count);
/* Record exits there from the next run on; NULL: no more. The trace must outlive that, and is of one vCPU. An
 * engine that takes the vCPU over (engine_vm_switch) goes on with it. -EBUSY while it runs. */
int vcpu_set_trace(Vcpu *vcpu, ExitTrace *trace);
int vcpu_reset(Vcpu *vcpu); /* RESET#, only while it does not run; vCPUs other than 0 then wait for a startup IPI */
/*
 * Whose vCPU executes an instruction that this one's engine refuses: of a VM over the same board that is not
 * attached. NULL: nobody, and a refusal is EXIT_FAIL. It must outlive this vCPU, or be taken back before.
 */
int vcpu_set_fallback(Vcpu *vcpu, Vcpu *fallback);
bool vcpu_has_fallback(const Vcpu *vcpu);
void vcpu_hand_over_counters(const Vcpu *vcpu, HandOverCounters *counters);
void vcpu_carry_hand_over(const Vcpu *from, Vcpu *to); /* the counters, to the vCPU that goes on */
/* For engines: let the fallback execute the instruction at RIP, whose bytes (as many as are known) name it. 0 with
 * an exit as after a step, or -errno: the state is as before. */
int vcpu_hand_over(Vcpu *vcpu, const uint8_t *instruction, uint32_t size, VmExit *exit);
/*
 * What CPUID tells the guest: number of rows or -errno (-ENOSPC). Rows can be changed until the vCPU first runs; an
 * engine is free to answer bits that follow from the state (OSXSAVE), and to refuse what it does not have.
 */
int vcpu_get_cpuid(Vcpu *vcpu, CpuidEntry *entries, uint32_t capacity);
int vcpu_set_cpuid(Vcpu *vcpu, const CpuidEntry *entries, uint32_t count);
void vcpu_counters(const Vcpu *vcpu, ExitCounters *counters);
/* What the engine counts by itself: how many counters there are, of which the first `capacity` are stored, or
 * -errno. Any thread, while the vCPU runs too. */
int vcpu_statistics(Vcpu *vcpu, EngineStatistic *statistics, uint32_t capacity);
/* What the TLB holds, of which the first `capacity` are stored; -ENOTSUP: the engine cannot see it. Only while it
 * does not run. */
int vcpu_tlb(Vcpu *vcpu, TlbTranslation *translations, uint32_t capacity);

/*
 * For engines, at each exit: count it, and tell whoever watches.
 *
 *     uint64_t begun = vcpu_exit_begun(vcpu, EXIT_IO);
 *     (answer it)
 *     vcpu->counters.exits[EXIT_IO]++;
 *     if (vcpu_watches(vcpu, EXIT_IO) && vcpu_note_exit(vcpu, &(VmExit){...}, begun, exit_trace_cycles()))
 *         (surface it)
 *
 * Nobody watches in normal running: two branches that are always predicted.
 */
static inline bool vcpu_watches(const Vcpu *vcpu, enum ExitReason reason)
{
    return unlikely(vcpu->watched & 1u << reason);
}
static inline uint64_t vcpu_exit_begun(const Vcpu *vcpu, enum ExitReason reason)
{
    return vcpu_watches(vcpu, reason) ? exit_trace_cycles() : 0;
}
/* Fills privilege and cycles, and records it when that is wanted; true: it is to be surfaced. `begun` 0: not
 * answered by anybody. */
bool vcpu_note_exit(Vcpu *vcpu, VmExit *exit, uint64_t begun, uint64_t answered);
/* For engines: what the next run watches. */
static inline void vcpu_watch(Vcpu *vcpu, uint32_t surface)
{
    vcpu->surface = surface;
    vcpu->watched = vcpu->trace ? UINT32_MAX : surface;
}
uint64_t vcpu_instructions(const Vcpu *vcpu);

#endif
