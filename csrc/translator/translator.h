/*
 * The translator engine: full-system x86-64 by binary translation, with the Unicorn library as the translator.
 * Nothing outside csrc/translator/ and pyvmm/translator/ knows of Unicorn.
 *
 * One vCPU a machine. Left out, and refused by name elsewhere: SMP, AVX (CPUID does not offer it), SVM and VMX.
 */
#ifndef PYVMM_TRANSLATOR_TRANSLATOR_H
#define PYVMM_TRANSLATOR_TRANSLATOR_H

#include "engine/engine.h"

/* Run the start-up self-tests on a throw-away machine: 0, or -EPROTO with the name of the first that failed. */
int translator_self_test(bool slow, Error *error);

/*
 * Memory must be complete: slots are given to the library when the vCPU is made. `slow`: leave the library's
 * code-page bookkeeping as it is (code_pages.c): right, and three to four times slower.
 */
EngineVm *translator_vm_new(Board *board, bool slow, Error *error);

/* The last exception of a vCPU and the ones that its delivery led to: after a triple fault, the way to it. */
#define TRANSLATOR_FAULTS 4
typedef struct TranslatorFault {
    uint64_t rip; /* linear */
    uint64_t cr2;
    uint32_t vector, error, has_error, in_delivery;
} TranslatorFault;

/* How many; 0 for a vCPU of another engine. */
uint32_t translator_faults(const Vcpu *vcpu, TranslatorFault faults[TRANSLATOR_FAULTS]);

#endif
