/* The engine's own structures, shared by the files of this folder. */
#ifndef PYVMM_KVM_VM_H
#define PYVMM_KVM_VM_H

#include <linux/kvm.h>

#include "kvm/kvm.h"

#define KVM_MAX_BREAKPOINTS 4 /* debug registers */
#define KVM_MAX_SLOTS       96
#define KVM_MSI_ROUTES      128 /* GSIs from IRQ_GSI_COUNT on: one for each vector of a device that has an irqfd */

typedef struct KvmSlot {
    gpa_t gpa; /* of the board's bytes that it shows; without A20 it may lie elsewhere */
    uint64_t size;
    bool logged, read_only; /* KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY */
} KvmSlot;

typedef struct KvmMsiRoute {
    MsiMessage message;
    bool known; /* is in KVM's table */
    bool used;  /* has an irqfd */
} KvmMsiRoute;

typedef struct KvmVm {
    EngineVm base;
    int system_fd, fd;
    size_t run_size; /* of the page run that a vCPU shares with the kernel */
    bool has_xcrs, has_debugregs, has_sync_regs, has_guest_debug, has_read_only, has_ioeventfd, has_any_length;
    bool has_mtrr;       /* memory type range registers: found out with the first vCPU */
    uint32_t slot_count; /* memslots that KVM has */
    KvmSlot slots[KVM_MAX_SLOTS];
    bool log_writes;  /* another engine over the board wants to know what the guest writes */
    int a20_error;    /* -errno: switching A20 failed, and the guest's memory is not whole */
    uint32_t irqchip; /* enum IrqchipPlace */
    CpuTopology topology;
    bool is_amd; /* or Hygon: CPUID has AMD's leaves */
    uint32_t recommended_vcpus;
    /* The board's own, while the irqchip is in the kernel */
    int (*board_msi)(void *irqchip, uint64_t address, uint32_t data);
    void *board_msi_irqchip;
    bool (*board_lint1)(void *lapic);
    bool has_irqfd;
    pthread_mutex_t routes_lock;
    KvmMsiRoute msi_routes[KVM_MSI_ROUTES];
    KvmMsiRoute pin_routes[IRQ_GSI_COUNT]; /* split: level-triggered inputs of the I/O APIC */
    bool holds_board;                      /* the board's hooks are this VM's: irqchip.c */
    uint32_t extint;                       /* split, atomic: the 8259 pair asks */
    void (*board_extint_changed)(void *sink, bool level);
    void *board_extint_sink;
    pthread_mutex_t time_lock;
    uint32_t time_stopped; /* atomic; changed with time_lock held and no vCPU running */
    bool tsc_fixed;        /* the guest's TSC is the host's */
    bool has_clock;        /* `clock` is what the paravirtual clock read when time was stopped */
    struct kvm_clock_data clock;
    uint64_t clock_ns; /* and when, by the board's clock; 0: when time goes on */
} KvmVm;

typedef struct KvmVcpu {
    Vcpu base;
    KvmVm *vm;
    Board *board;
    int fd;
    struct kvm_run *run;
    int thread_id;     /* whose KVM_RUN it is; 0 before the first */
    uint32_t in_guest; /* atomic: between the last look at the flags and the return of KVM_RUN */
    bool incomplete;   /* an access was answered and KVM_RUN has not yet taken the answer (api.rst 5, kvm_run) */
    bool answering;    /* a device is being asked: KVM_RUN must wait for the answer */
    bool unhandled;    /* completing an access led to another exit, which nobody looked at yet */
    uint32_t io_left;  /* elements of a string instruction's port access not yet answered */
    bool stepping;
    uint64_t step_rip;                  /* linear: where the step began */
    uint64_t apic_base;                 /* IA32_APIC_BASE as KVM had it last */
    uint64_t tsc_stopped;               /* what it reads while time is stopped */
    uint64_t tsc_stopped_ns;            /* and when, by the board's clock; 0: when time goes on */
    struct kvm_lapic_state reset_lapic; /* as KVM made it */
    Mtrr mtrr; /* what a state brought: where KVM has no memory type range registers, the only place */
    uint64_t tsc_read,
        kvm_clock_read;       /* by kvm_get_state: the same coming back means "as it was", and it runs on */
    struct CpuidTable *cpuid; /* what KVM was told to show */
    bool failed;
    KvmFailure failure;
    gva_t breakpoints[KVM_MAX_BREAKPOINTS];
    size_t breakpoint_count;
} KvmVcpu;

static inline KvmVcpu *kvm_vcpu_of(Vcpu *base) { return container_of(base, KvmVcpu, base); }

/* vcpu.c */
int kvm_vcpu_run(Vcpu *vcpu, VmExit *exit);
int kvm_vcpu_step(Vcpu *vcpu, VmExit *exit);
void kvm_vcpu_notify(Vcpu *vcpu);
int kvm_vcpu_set_breakpoints(Vcpu *vcpu, const gva_t *addresses, size_t count);
/* Let KVM take the answer of the last access, so that registers can be read and written. */
int kvm_vcpu_complete(KvmVcpu *vcpu);
uint64_t kvm_vcpu_rip(KvmVcpu *vcpu);
uint32_t kvm_vcpu_privilege(Vcpu *vcpu); /* linear */

/* exits.c: what KVM_RUN returned. True when the exit is to be seen above. */
bool kvm_handle_exit(KvmVcpu *vcpu, VmExit *exit);
bool kvm_answer_io(KvmVcpu *vcpu, VmExit *exit);                /* the elements left */
void kvm_describe_error(KvmVcpu *vcpu, int code, VmExit *exit); /* KVM_RUN itself failed with -code */

/* msr.c: registers that KVM does not know. False: #GP. */
/* mtrr.c */
void kvm_probe_mtrr(KvmVcpu *vcpu);
void kvm_get_mtrr(KvmVcpu *vcpu, Mtrr *mtrr);
void kvm_set_mtrr(KvmVcpu *vcpu, const Mtrr *mtrr);

bool kvm_read_unknown_msr(uint32_t index, uint64_t *value);
bool kvm_write_unknown_msr(uint32_t index, uint64_t value);

/* state.c */
int kvm_get_state(Vcpu *vcpu, CpuState *state);
int kvm_set_state(Vcpu *vcpu, const CpuState *state);
/* `before`: NULL, or what it holds. */
int kvm_update_state(Vcpu *vcpu, const CpuState *before, const CpuState *state);

/* irqchip.c: controllers in the kernel; none of these does anything when they are the board's. */
int kvm_irqchip_create(KvmVm *vm, Error *error); /* before the first vCPU */
int kvm_irqchip_reset(KvmVm *vm);
/* The state of the interrupt controllers goes from the board's devices into KVM, and they are KVM's from now on;
 * and back. While no vCPU runs; a second time does nothing. */
int kvm_irqchip_load(EngineVm *vm);
int kvm_irqchip_store(EngineVm *vm); /* negative: they stay KVM's, all of them */
void kvm_irqchip_let_go(KvmVm *vm);  /* the board's controllers go on with what they had */
bool kvm_lint1_takes_nmi(KvmVcpu *vcpu);

/* routes.c: KVM's routing table, and messages by eventfd */
int kvm_set_routing(KvmVm *vm);
void kvm_set_pin_route(KvmVm *vm, uint32_t pin, const MsiMessage *message); /* NULL: none */
extern const IrqFdOps KVM_IRQFDS;

/* split.c: for irqchip.c, and KVM_EXIT_IOAPIC_EOI */
int kvm_split_create(KvmVm *vm, Error *error);
void kvm_split_take_board(KvmVm *vm);
void kvm_split_let_go(KvmVm *vm);
void kvm_split_eoi(KvmVcpu *vcpu);

/* board_apic.c: the board's local APIC where KVM has none; none of these does anything where it has */
bool kvm_has_board_apic(const KvmVcpu *vcpu);
void kvm_board_apic_enter(KvmVcpu *vcpu); /* before KVM_RUN, and after it */
void kvm_board_apic_leave(KvmVcpu *vcpu);
void kvm_board_apic_get(const KvmVcpu *vcpu, CpuState *state);
void kvm_board_apic_set(KvmVcpu *vcpu, const CpuState *state);

/* apic.c: the state of the APICs, for irqchip.c */
int kvm_ioapic_get(void *engine, void *state);
int kvm_ioapic_set(void *engine, const void *state);
int kvm_lapics_load(KvmVm *vm);
int kvm_lapics_store(KvmVm *vm);

static inline bool kvm_tsc_is_stopped(const KvmVm *vm)
{
    return !vm->tsc_fixed && __atomic_load_n(&vm->time_stopped, __ATOMIC_ACQUIRE);
}

/* time.c: while no vCPU runs; a second time does nothing. */
void kvm_time_init(KvmVcpu *first);
bool kvm_read_msr(KvmVcpu *vcpu, uint32_t index, uint64_t *value);
bool kvm_write_msr(KvmVcpu *vcpu, uint32_t index, uint64_t value);
void kvm_time_stop(KvmVm *vm);
void kvm_time_start(KvmVm *vm);

/* cpuid.c */
int kvm_set_cpuid(KvmVcpu *vcpu, Error *error);
int kvm_get_cpuid_entries(Vcpu *vcpu, CpuidEntry *entries, uint32_t capacity);
int kvm_set_cpuid_entries(Vcpu *vcpu, const CpuidEntry *entries, uint32_t count);

/* stats.c */
int kvm_statistics(Vcpu *vcpu, EngineStatistic *statistics, uint32_t capacity);

#endif
