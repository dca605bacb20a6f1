/*
 * A file server for 9P2000.L: one folder of the host, seen through messages. It knows nothing of what carries them.
 *
 * Source: the protocol as diod's protocol.md describes it (9P2000.L, with 9P2000's and 9P2000.u's messages that it
 * keeps), Linux's Documentation/filesystems/9p.rst, and openat2(2). Left out: Tauth (Rlerror EOPNOTSUPP), 9P2000
 * and 9P2000.u themselves (Rversion "unknown"), names of attach other than "" and "/". Locks are granted without
 * being taken on the host: Linux's client has settled them among its own processes before it asks, and no other
 * host process or guest sees them.
 *
 * Nothing outside the folder can be reached. A name is one component, never ".." or "."; it is looked up beneath
 * the descriptor of the folder where it is (openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, or one openat
 * with O_NOFOLLOW where the kernel has no openat2), and what is found is kept as an O_PATH descriptor: what the
 * host renames meanwhile changes nothing. Symbolic links are text for the client. Only regular files and folders
 * are ever opened, so no device, pipe or socket of the host is.
 *
 * Requests are answered one by one, in order, so a flush has nothing to cancel. One thread at a time calls.
 */
#ifndef PYVMM_P9_SERVER_H
#define PYVMM_P9_SERVER_H

#include <sys/uio.h>

#include "common/common.h"

#define P9_MAX_SEGMENTS 1024u /* of one message, each way: IOV_MAX */
#define P9_HEADER_BYTES 7u    /* size[4] type[1] tag[2] */
#define P9_ERROR_BYTES  11u   /* the shortest reply that there is room for in any case: Rlerror */

enum P9Security {
    P9_SECURITY_NONE,   /* owner, mode and kind are the host's own, as far as this process may set them */
    P9_SECURITY_MAPPED, /* they are kept in user.virtfs.* extended attributes, as QEMU's mapped-xattr has them */
};

typedef struct P9Options {
    const char *path;
    enum P9Security security;
    bool read_only;
    uint32_t max_descriptors; /* of the host, at most open at once; 0: half of what the process may have */
} P9Options;

typedef struct P9Counters {
    uint64_t requests;
    uint64_t errors; /* answered with Rlerror */
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint32_t fids;        /* that the client has now */
    uint32_t descriptors; /* of the host, open now for them */
} P9Counters;

typedef struct P9Server P9Server;

/* NULL with `error` filled: no such folder, or one whose file system has no user extended attributes (mapped). */
P9Server *p9_server_new(const P9Options *options, Error *error);
void p9_server_free(P9Server *server);
/* Forget the client: its fids, and what was negotiated. */
void p9_server_reset(P9Server *server);
void p9_server_counters(const P9Server *server, P9Counters *counters);
uint32_t p9_server_msize(const P9Server *server);

/*
 * Answer the message in `in` into `out`. Returns the bytes of the reply; 0 when `in` has no whole header or `out`
 * no room for an Rlerror: nothing is done then.
 */
size_t p9_server_handle(P9Server *server, const struct iovec *in, uint32_t in_count, const struct iovec *out,
                        uint32_t out_count);

#endif
