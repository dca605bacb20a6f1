/*
 * What every part of the C library shares: address types, the error record, byte order, small macros.
 *
 * Convention: a function that can fail returns 0 (or a count) or -errno; one that can say more than errno
 * takes an `Error *` (may be NULL) and fills it. Nothing here, or anywhere in csrc/, holds a mutable static.
 */
#ifndef PYVMM_COMMON_H
#define PYVMM_COMMON_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t gpa_t; /* guest physical address */
typedef uint64_t gva_t; /* guest virtual (linear) address */

/* One line that names file, offset or option, and what to do. */
typedef struct Error {
    int code; /* positive errno */
    char text[480];
} Error;

/* Fill `error` (if any) and return -code, so that a caller writes `return error_set(error, EINVAL, ...)`. */
int error_set(Error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define ARRAY_SIZE(array)               (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b)                       ((a) < (b) ? (a) : (b))
#define MAX(a, b)                       ((a) > (b) ? (a) : (b))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define likely(x)                       __builtin_expect(!!(x), 1)
#define unlikely(x)                     __builtin_expect(!!(x), 0)

#define LOAD_STORE(bits)                                                                                           \
    static inline uint##bits##_t load_le##bits(const void *p)                                                      \
    {                                                                                                              \
        uint##bits##_t v;                                                                                          \
        memcpy(&v, p, sizeof v);                                                                                   \
        return v;                                                                                                  \
    }                                                                                                              \
    static inline uint##bits##_t load_be##bits(const void *p) { return __builtin_bswap##bits(load_le##bits(p)); }  \
    static inline void store_le##bits(void *p, uint##bits##_t v) { memcpy(p, &v, sizeof v); }                      \
    static inline void store_be##bits(void *p, uint##bits##_t v) { store_le##bits(p, __builtin_bswap##bits(v)); }
LOAD_STORE(16)
LOAD_STORE(32)
LOAD_STORE(64)
#undef LOAD_STORE

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pyvmm runs on little-endian hosts");

#endif
