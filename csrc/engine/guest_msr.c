#include "engine/guest_msr.h"

bool guest_msr_reads_as_zero(uint32_t index)
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
