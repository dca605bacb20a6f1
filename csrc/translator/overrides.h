/*
 * Functions of the library that ours stand in for, by symbol. Two lists: what the engine cannot do without, and the
 * code-page bookkeeping that the slow tier leaves as it is.
 */
#ifndef PYVMM_TRANSLATOR_OVERRIDES_H
#define PYVMM_TRANSLATOR_OVERRIDES_H

#include "common/common.h"

typedef struct Replacement {
    const char *symbol;
    void *function;
} Replacement;

const Replacement *overrides_list(bool slow, size_t *count);

#endif
