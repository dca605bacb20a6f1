/*
 * Model-specific registers that every engine of ours answers alike, because the board and not the engine decides.
 */
#ifndef PYVMM_ENGINE_GUEST_MSR_H
#define PYVMM_ENGINE_GUEST_MSR_H

#include "common/common.h"

/* Registers that kernels read by CPU family without asking CPUID: they read as 0, and writes are dropped. */
bool guest_msr_reads_as_zero(uint32_t index);

#endif
