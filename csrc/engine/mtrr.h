/*
 * Memory type range registers: kept and checked as Intel SDM 3A §11.11 (and AMD64 APM vol. 2 §7.7) has them.
 *
 * Eight variable ranges, the fixed ranges, write-combining: what QEMU's and KVM's processors have. They say how a
 * processor would cache; nothing here is cached in a way that a guest could see, so they are stored and have no
 * effect. Left out: SMRR, AMD's extended fixed types (SYSCFG.MtrrFixDramModEn), TOP_MEM.
 */
#ifndef PYVMM_ENGINE_MTRR_H
#define PYVMM_ENGINE_MTRR_H

#include "common/common.h"

enum { MTRR_FIXED_COUNT = 11, MTRR_VARIABLE_COUNT = 8 };
enum {
    MSR_MTRR_CAP = 0xfe,
    MSR_MTRR_VARIABLE = 0x200, /* PHYSBASE and PHYSMASK in turn */
    MSR_MTRR_FIX64K_00000 = 0x250,
    MSR_MTRR_FIX16K_80000 = 0x258,
    MSR_MTRR_FIX4K_C0000 = 0x268,
    MSR_MTRR_DEF_TYPE = 0x2ff,
};

/* After RESET# all 0: MTRRs off, everything uncached; INIT leaves them alone. */
typedef struct Mtrr {
    uint64_t def_type;
    uint64_t fixed[MTRR_FIXED_COUNT]; /* 64K, two of 16K, eight of 4K */
    uint64_t variable[2 * MTRR_VARIABLE_COUNT];
} Mtrr;

bool mtrr_owns_msr(uint32_t index);
uint64_t mtrr_read(const Mtrr *mtrr, uint32_t index); /* one that mtrr_owns_msr() */
/* False: #GP(0). MTRRcap, a type that does not exist, or reserved bits: those above `address_bits` too. */
bool mtrr_write(Mtrr *mtrr, uint32_t index, uint64_t value, uint32_t address_bits);
/* The number of a register, 0..MTRR_MSR_COUNT - 1, as an MSR's index; those that can be written. */
enum { MTRR_MSR_COUNT = 1 + MTRR_FIXED_COUNT + 2 * MTRR_VARIABLE_COUNT };
uint32_t mtrr_msr(uint32_t number);

#endif
