/*
 * The KVM engine: guest code runs by KVM_RUN on /dev/kvm (Documentation/virt/kvm/api.rst in the kernel's tree,
 * cited below as api.rst), over the same Board as every engine. Needs the kernel headers of Linux 5.14 or later on
 * x86-64; the kernel that runs may be older (4.13).
 *
 * Interrupt controllers are the board's own (one vCPU: a vector goes in by KVM_INTERRUPT when KVM says that the
 * guest can take it), or the kernel's (irqchip.c), or half of both (split.c). Left out: A20 above 2 MiB (KVM has no
 * such wire; real mode's megabyte is what memslots imitate), and vCPUs that run while it is switched may miss
 * memory for that moment; a virtual clock; exits for CPUID and exceptions (KVM has none). With local APICs in the
 * kernel HLT stays in the kernel: nobody is told of a guest that halts for good.
 */
#ifndef PYVMM_KVM_KVM_H
#define PYVMM_KVM_KVM_H

#include "engine/engine.h"
#include "engine/topology.h"
#include "kvm/kick.h"

/* What KVM said when it could not go on, or when the guest shut down: the raw numbers behind VmExit.text. */
typedef struct KvmFailure {
    uint32_t exit_reason;   /* KVM_EXIT_*: SHUTDOWN, INTERNAL_ERROR, FAIL_ENTRY, or one not known to the engine */
    uint32_t suberror;      /* KVM_INTERNAL_ERROR_* */
    uint64_t entry_failure; /* FAIL_ENTRY: the hardware's reason */
    uint32_t cpu;           /* FAIL_ENTRY: the host CPU it was seen on */
    uint32_t data_count;
    uint64_t data[16];         /* INTERNAL_ERROR: what KVM adds; the meaning depends on suberror */
    uint32_t instruction_size; /* 0: not told */
    uint8_t instruction[16];
} KvmFailure;

enum IrqchipPlace {
    IRQCHIP_USER,   /* all of them are the board's; one vCPU */
    IRQCHIP_SPLIT,  /* local APICs are KVM's, 8259s and I/O APIC the board's */
    IRQCHIP_KERNEL, /* 8259s, I/O APIC and local APICs are KVM's */
};

typedef struct KvmOptions {
    uint32_t irqchip;     /* enum IrqchipPlace */
    CpuTopology topology; /* of the vCPUs that will be made */
    /* VT-x without unrestricted guest runs real mode as a task with an identity map: a page for that and three for
     * the task that no slot may hold (api.rst 4.36, 4.40). 0: where KVM puts them. */
    gpa_t reserved_pages;
} KvmOptions;

/* `device` is /dev/kvm or a file that stands for it. Opens, checks, makes the VM and maps the board's memory.
 * `options` NULL: one vCPU, the board's irqchip. */
EngineVm *kvm_vm_new(Board *board, const char *device, const KvmOptions *options, Error *error);

/* How many vCPUs this KVM recommends at most (KVM_CAP_NR_VCPUS); more is slow, and no error. */
uint32_t kvm_vm_recommended_vcpus(const EngineVm *vm);

/* For those who want to look underneath: the file descriptors, -1 when there is no such vCPU. */
int kvm_vm_fd(const EngineVm *vm);
int kvm_vcpu_fd(const Vcpu *vcpu);
/* False when nothing failed since the vCPU was made or its state was last set. */
bool kvm_vcpu_failure(const Vcpu *vcpu, KvmFailure *failure);

#endif
