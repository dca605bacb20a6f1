#include "engine/mtrr.h"

/* SDM 3A figure 11-5: VCNT, FIX, WC. No SMRR. */
#define MTRR_CAP (MTRR_VARIABLE_COUNT | 1u << 8 | 1u << 10)

enum {
    DEF_TYPE_FIXED_ENABLE = 1 << 10,
    DEF_TYPE_ENABLE = 1 << 11,
    PHYSMASK_VALID = 1 << 11,
    PAGE_BITS = 12,
};

/* Where a register is in the struct, in eight bytes; -1: not an MTRR. */
static int slot_of(uint32_t index)
{
    if (index == MSR_MTRR_DEF_TYPE)
        return 0;
    if (index == MSR_MTRR_FIX64K_00000)
        return 1;
    if (index - MSR_MTRR_FIX16K_80000 < 2)
        return 2 + (int)(index - MSR_MTRR_FIX16K_80000);
    if (index - MSR_MTRR_FIX4K_C0000 < 8)
        return 4 + (int)(index - MSR_MTRR_FIX4K_C0000);
    if (index - MSR_MTRR_VARIABLE < 2 * MTRR_VARIABLE_COUNT)
        return 1 + MTRR_FIXED_COUNT + (int)(index - MSR_MTRR_VARIABLE);
    return -1;
}

uint32_t mtrr_msr(uint32_t number)
{
    if (number == 0)
        return MSR_MTRR_DEF_TYPE;
    if (number == 1)
        return MSR_MTRR_FIX64K_00000;
    if (number < 4)
        return MSR_MTRR_FIX16K_80000 + number - 2;
    if (number < 1 + MTRR_FIXED_COUNT)
        return MSR_MTRR_FIX4K_C0000 + number - 4;
    return MSR_MTRR_VARIABLE + number - 1 - MTRR_FIXED_COUNT;
}

static uint64_t *register_at(Mtrr *mtrr, int slot)
{
    _Static_assert(sizeof(Mtrr) == MTRR_MSR_COUNT * sizeof(uint64_t), "the registers follow each other");
    if (slot == 0)
        return &mtrr->def_type;
    return slot <= MTRR_FIXED_COUNT ? &mtrr->fixed[slot - 1] : &mtrr->variable[slot - 1 - MTRR_FIXED_COUNT];
}

bool mtrr_owns_msr(uint32_t index) { return index == MSR_MTRR_CAP || slot_of(index) >= 0; }

uint64_t mtrr_read(const Mtrr *mtrr, uint32_t index)
{
    int slot = slot_of(index);
    return slot < 0 ? MTRR_CAP : *register_at((Mtrr *)mtrr, slot);
}

/* UC, WC, WT, WP, WB (SDM 3A table 11-8). */
static bool type_is_valid(uint8_t type) { return type < 2 || (type >= 4 && type <= 6); }

/* SDM 3A §11.11.2: reserved bits of each register. */
static bool value_is_valid(uint32_t index, uint64_t value, uint32_t address_bits)
{
    uint64_t pages = (1ull << address_bits) - (1ull << PAGE_BITS);
    if (index == MSR_MTRR_DEF_TYPE)
        return type_is_valid((uint8_t)value) && !(value & ~(0xffull | DEF_TYPE_FIXED_ENABLE | DEF_TYPE_ENABLE));
    if (index < MSR_MTRR_VARIABLE + 2 * MTRR_VARIABLE_COUNT) {
        if (index & 1)
            return !(value & ~(pages | PHYSMASK_VALID));
        return type_is_valid((uint8_t)value) && !(value & ~(pages | 0xff));
    }
    for (int i = 0; i < 64; i += 8)
        if (!type_is_valid((uint8_t)(value >> i)))
            return false;
    return true;
}

bool mtrr_write(Mtrr *mtrr, uint32_t index, uint64_t value, uint32_t address_bits)
{
    int slot = slot_of(index);
    if (slot < 0 || !value_is_valid(index, value, address_bits))
        return false;
    *register_at(mtrr, slot) = value;
    return true;
}
