/*
 * Model-specific registers that every engine of ours answers alike, because the board and not the engine decides.
 */
#ifndef PYVMM_ENGINE_GUEST_MSR_H
#define PYVMM_ENGINE_GUEST_MSR_H

#include "common/common.h"

/* Registers that kernels read by CPU family without asking CPUID: they have one value, most of them 0, and writes
 * are dropped. False: not one of them. */
bool guest_msr_is_fixed(uint32_t index, uint64_t *value);

#endif
