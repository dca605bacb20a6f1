/*
 * Model-specific registers that KVM does not know, as they come out by KVM_EXIT_X86_RDMSR and WRMSR (api.rst 7.21,
 * KVM_CAP_X86_USER_SPACE_MSR): those that kernels read by CPU family without asking CPUID have one value and drop
 * writes; anything else is #GP (Intel SDM vol. 4; AMD64 APM vol. 2 appendix A).
 */
#include "engine/guest_msr.h"
#include "kvm/vm.h"

bool kvm_read_unknown_msr(uint32_t index, uint64_t *value) { return guest_msr_is_fixed(index, value); }

bool kvm_write_unknown_msr(uint32_t index, uint64_t value) { return guest_msr_is_fixed(index, &value); }
