#include "engine/guest_msr.h"

#define HWCR_TSC_FREQ_SEL                                                                                          \
    (1ull << 24) /* the TSC counts at P0's frequency, whatever the core's (PPR 17h, MSRC001_0015) */

bool guest_msr_is_fixed(uint32_t index, uint64_t *value)
{
    *value = 0;
    switch (index) {
    case 0xc0010015: /* HWCR */
        *value = HWCR_TSC_FREQ_SEL;
        return true;
    case 0x8b:       /* microcode level */
    case 0x179:      /* MCG_CAP: machine checks without banks that report them (SDM 3B §16.3.1.1) */
    case 0x17a:      /* MCG_STATUS: none is in progress */
    case 0xc0010010: /* SYSCFG */
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
