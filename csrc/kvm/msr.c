/*
 * Model-specific registers that KVM does not know, as they come out by KVM_EXIT_X86_RDMSR and WRMSR (api.rst 7.21,
 * KVM_CAP_X86_USER_SPACE_MSR): those that kernels read by CPU family without asking CPUID read 0 and drop writes;
 * anything else is #GP (Intel SDM vol. 4; AMD64 APM vol. 2 appendix A).
 */
#include "kvm/vm.h"

static bool reads_as_zero(uint32_t index)
{
    switch (index) {
    case 0x8b:       /* microcode level */
    case 0xfe:       /* MTRRcap: no ranges */
    case 0x2ff:      /* MTRR default type */
    case 0xc0010010: /* SYSCFG */
    case 0xc0010015: /* HWCR */
    case 0xc001001f: /* NB_CFG */
    case 0xc0010055: /* interrupt pending message */
    case 0xc0010140: /* OSVW id length */
    case 0xc0010141: /* OSVW status */
    case 0xc0011020: /* LS_CFG */
    case 0xc0011022: /* DC_CFG */
    case 0xc0011029: /* DE_CFG */
        return true;
    default:
        return false;
    }
}

bool kvm_read_unknown_msr(uint32_t index, uint64_t *value)
{
    *value = 0;
    return reads_as_zero(index);
}

bool kvm_write_unknown_msr(uint32_t index, uint64_t value) { return reads_as_zero(index); }
