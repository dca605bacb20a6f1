/* Pieces of scatter-gather lists: length, copying in and out, zeroing, and a list that covers a part of another. */
#ifndef PYVMM_BLOCK_IOV_H
#define PYVMM_BLOCK_IOV_H

#include <sys/uio.h>

#include "common/common.h"

enum { BLOCK_IOV_MAX = 1024 }; /* IOV_MAX of Linux */

static inline size_t iov_length(const struct iovec *iov, int iovcnt)
{
    size_t total = 0;
    for (int i = 0; i < iovcnt; i++)
        total += iov[i].iov_len;
    return total;
}

/* Fill `out` (room for iovcnt entries) with bytes [skip, skip+length) of `iov`; returns the number of entries. */
static inline int iov_slice(struct iovec *out, const struct iovec *iov, int iovcnt, size_t skip, size_t length)
{
    int count = 0;
    for (int i = 0; i < iovcnt && length; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t piece = MIN(iov[i].iov_len - skip, length);
        out[count].iov_base = (char *)iov[i].iov_base + skip;
        out[count++].iov_len = piece;
        length -= piece, skip = 0;
    }
    return count;
}

enum IovMove { IOV_FROM_BUFFER, IOV_TO_BUFFER, IOV_ZERO };

static inline void iov_move(const struct iovec *iov, int iovcnt, size_t skip, void *buffer, size_t length, int move)
{
    char *at = buffer;
    for (int i = 0; i < iovcnt && length; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t piece = MIN(iov[i].iov_len - skip, length);
        char *place = (char *)iov[i].iov_base + skip;
        if (move == IOV_FROM_BUFFER)
            memcpy(place, at, piece);
        else if (move == IOV_TO_BUFFER)
            memcpy(at, place, piece);
        else
            memset(place, 0, piece);
        if (move != IOV_ZERO)
            at += piece;
        length -= piece, skip = 0;
    }
}

static inline void iov_from_buffer(const struct iovec *iov, int iovcnt, size_t skip, const void *buffer,
                                   size_t length)
{
    iov_move(iov, iovcnt, skip, (void *)(uintptr_t)buffer, length, IOV_FROM_BUFFER);
}

static inline void iov_to_buffer(const struct iovec *iov, int iovcnt, size_t skip, void *buffer, size_t length)
{
    iov_move(iov, iovcnt, skip, buffer, length, IOV_TO_BUFFER);
}

static inline void iov_zero(const struct iovec *iov, int iovcnt, size_t skip, size_t length)
{
    iov_move(iov, iovcnt, skip, NULL, length, IOV_ZERO);
}

#endif
