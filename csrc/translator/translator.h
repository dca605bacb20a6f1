/*
 * The translator engine: full-system x86-64 by binary translation, with the Unicorn library as the translator.
 * Nothing outside csrc/translator/ and pyvmm/translator/ knows of Unicorn.
 *
 * One vCPU a machine. Left out, and refused by name elsewhere: SMP, AVX (CPUID does not offer it), SVM and VMX.
 */
#ifndef PYVMM_TRANSLATOR_TRANSLATOR_H
#define PYVMM_TRANSLATOR_TRANSLATOR_H

#include "engine/engine.h"

typedef struct UnicornLibrary UnicornLibrary;

/* `slow`: leave the library's code-page bookkeeping as it is (code_pages.h): right, and three to four times slower.
 * Opening takes some 50 ms. */
UnicornLibrary *unicorn_library_open(const char *path, bool slow, Error *error);
void unicorn_library_close(UnicornLibrary *library); /* after the last machine that uses it */
bool unicorn_library_is_slow(const UnicornLibrary *library);

/* Run the start-up self-tests on a throw-away machine: 0, or -EPROTO with the name of the first that failed. */
int translator_self_test(UnicornLibrary *library, Error *error);

/* Memory must be complete: slots are given to the library here. */
EngineVm *translator_vm_new(UnicornLibrary *library, Board *board, Error *error);

#endif
