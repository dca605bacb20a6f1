#include "engine/cpu_state.h"

enum {
    RESET_CR0 = 0x60000010, /* CD, NW, ET */
    RESET_RFLAGS = 0x2,
    RESET_DR6 = 0xffff0ff0,
    RESET_DR7 = 0x400,
    RESET_MXCSR = 0x1f80,
    RESET_FCW = 0x40, /* RESET#; INIT leaves it alone */
    ACCESSED_DATA = 0x93,
    ACCESSED_CODE = 0x9b,
    PRESENT_LDT = 0x82,
    BUSY_TSS32 = 0x8b,
};
#define RESET_PAT       0x0007040600070406ull
#define RESET_APIC_BASE 0xfee00900ull /* enabled, bootstrap processor */
#define APIC_BASE_BSP   (1ull << 8)

void cpu_state_reset(CpuState *state)
{
    memset(state, 0, sizeof *state);
    state->rip = 0xfff0;
    state->rflags = RESET_RFLAGS;
    for (int i = 0; i < 6; i++)
        state->segment[i] = (Segment){.attributes = ACCESSED_DATA, .limit = 0xffff};
    state->segment[SEG_CS] =
        (Segment){.selector = 0xf000, .attributes = ACCESSED_CODE, .limit = 0xffff, .base = 0xffff0000};
    state->ldtr = (Segment){.attributes = PRESENT_LDT, .limit = 0xffff};
    state->tr = (Segment){.attributes = BUSY_TSS32, .limit = 0xffff};
    state->gdtr.limit = 0xffff;
    state->idtr.limit = 0xffff;
    state->gpr[REG_RDX] = 0x600; /* a family 6 processor; the exact signature is CPUID's */
    state->cr0 = RESET_CR0;
    state->dr[6] = RESET_DR6;
    state->dr[7] = RESET_DR7;
    state->xcr0 = 1;
    state->pat = RESET_PAT;
    state->apic_base = RESET_APIC_BASE;
    state->misc_enable = 1; /* fast strings */
    state->pending_exception = -1;
    store_le16(state->xsave, RESET_FCW);
    store_le16(state->xsave + 4, 0); /* abridged FTW: all empty */
    store_le32(state->xsave + 24, RESET_MXCSR);
    store_le32(state->xsave + 28, 0xffff);
    store_le64(state->xsave + 512, 3); /* XSTATE_BV: x87 and SSE */
}

uint64_t cpu_state_elapsed(const CpuState *state, uint64_t now)
{
    return state->clock_ns && now > state->clock_ns ? now - state->clock_ns : 0;
}

void cpu_state_reset_ap(CpuState *state)
{
    cpu_state_reset(state);
    state->apic_base &= ~APIC_BASE_BSP;
    state->wait_for_sipi = 1;
}
