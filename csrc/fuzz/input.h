/* What a fuzzer feeds, taken a few bytes at a time; zeros once it is used up. */
#ifndef PYVMM_FUZZ_INPUT_H
#define PYVMM_FUZZ_INPUT_H

#include "common/common.h"

typedef struct Input {
    const uint8_t *data;
    size_t left;
} Input;

/* The next `bytes` (up to 8) as a little-endian number. */
static inline uint64_t take(Input *input, size_t bytes)
{
    uint64_t value = 0;
    size_t n = MIN(bytes, input->left);
    memcpy(&value, input->data, n);
    input->data += n;
    input->left -= n;
    return value;
}

#endif
