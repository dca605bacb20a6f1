/*
 * 9P's numbers and strings on the wire: little-endian, strings with a 16-bit length and no terminator.
 *
 * A reader is told once how much there is; reading beyond marks it bad and gives zeros. A message's head is
 * gathered into one buffer first: the client cannot change it while it is read.
 */
#ifndef PYVMM_P9_WIRE_H
#define PYVMM_P9_WIRE_H

#include <sys/uio.h>

#include "common/common.h"

#define P9_NAME_SIZE   256  /* NAME_MAX and the terminator */
#define P9_TARGET_SIZE 4096 /* PATH_MAX, of a symbolic link's text */
#define P9_REPLY_MAX   8192 /* of what is not file data or folder entries */

typedef struct P9Reader {
    const uint8_t *data;
    size_t left;
    int error; /* positive errno of the first thing that was wrong; 0 */
} P9Reader;

uint8_t p9_get8(P9Reader *reader);
uint16_t p9_get16(P9Reader *reader);
uint32_t p9_get32(P9Reader *reader);
uint64_t p9_get64(P9Reader *reader);
/* A string of less than `size` bytes, terminated: ENAMETOOLONG, or EINVAL when there is a NUL in it. */
void p9_get_string(P9Reader *reader, char *text, size_t size);
/* The name of something in a folder: one component, not empty, "." or "..". */
void p9_get_name(P9Reader *reader, char name[P9_NAME_SIZE]);

typedef struct P9Writer {
    uint8_t data[P9_REPLY_MAX];
    size_t size;
} P9Writer;

/* The caller keeps what it writes below P9_REPLY_MAX. */
void p9_put8(P9Writer *writer, uint8_t value);
void p9_put16(P9Writer *writer, uint16_t value);
void p9_put32(P9Writer *writer, uint32_t value);
void p9_put64(P9Writer *writer, uint64_t value);
void p9_put_string(P9Writer *writer, const char *text, size_t length);

uint64_t p9_iov_bytes(const struct iovec *iov, uint32_t count);
/* The bytes [skip, skip + bytes) of `iov` as segments of `to`; returns how many. */
uint32_t p9_iov_slice(const struct iovec *iov, uint32_t count, uint64_t skip, uint64_t bytes, struct iovec *to,
                      uint32_t capacity);
/* Copy to or from the bytes from `skip` on; returns how many there were. */
size_t p9_iov_gather(const struct iovec *iov, uint32_t count, void *to, size_t bytes);
size_t p9_iov_scatter(const struct iovec *iov, uint32_t count, uint64_t skip, const void *from, size_t bytes);

#endif
