/*
 * The KVM engine: guest code runs by KVM_RUN on /dev/kvm (Documentation/virt/kvm/api.rst in the kernel's tree, cited
 * below as api.rst), over the same Board as every engine.
 * Needs the kernel headers of Linux 5.14 or later on x86-64; the kernel that runs may be older (4.13).
 *
 * The interrupt controllers stay the board's own (no in-kernel irqchip): a vector goes in by KVM_INTERRUPT when KVM says
 * that the guest can take it. Left out: an in-kernel irqchip, hence more than one vCPU; A20 above 2 MiB (KVM has no
 * such wire; real mode's megabyte is what memslots imitate); a virtual clock; stopping the TSC while the machine is
 * paused; exits for CPUID and exceptions (KVM has none).
 */
#ifndef PYVMM_KVM_KVM_H
#define PYVMM_KVM_KVM_H

#include "engine/engine.h"
#include "kvm/kick.h"

/* What KVM said when it could not go on, or when the guest shut down: the raw numbers behind VmExit.text. */
typedef struct KvmFailure {
    uint32_t exit_reason;        /* KVM_EXIT_*: SHUTDOWN, INTERNAL_ERROR, FAIL_ENTRY, or one not known to the engine */
    uint32_t suberror;           /* KVM_INTERNAL_ERROR_* */
    uint64_t entry_failure;      /* FAIL_ENTRY: the hardware's reason */
    uint32_t cpu;                /* FAIL_ENTRY: the host CPU it was seen on */
    uint32_t data_count;
    uint64_t data[16];           /* INTERNAL_ERROR: what KVM adds; the meaning depends on suberror */
    uint32_t instruction_size;   /* 0: not told */
    uint8_t instruction[16];
} KvmFailure;

/* `device` is /dev/kvm or a file that stands for it. Opens, checks, makes the VM and maps the board's memory. */
EngineVm *kvm_vm_new(Board *board, const char *device, Error *error);

/* For those who want to look underneath: the file descriptors, -1 when there is no such vCPU. */
int kvm_vm_fd(const EngineVm *vm);
int kvm_vcpu_fd(const Vcpu *vcpu);
/* False when nothing failed since the vCPU was made or its state was last set. */
bool kvm_vcpu_failure(const Vcpu *vcpu, KvmFailure *failure);

#endif
