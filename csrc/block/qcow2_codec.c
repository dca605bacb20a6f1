/*
 * zlib (raw deflate, 4 KiB window) and zstd for compressed clusters [Compressed Clusters Descriptor], from the
 * host's shared libraries, loaded when first needed: their C interfaces are stable (zlib.h 1.x, zstd.h 1.x).
 */
#include <dlfcn.h>
#include <stdlib.h>

#include "block/qcow2.h"

typedef struct ZStream { /* z_stream of zlib.h, the layout of which is part of its ABI */
    const uint8_t *next_in;
    unsigned avail_in;
    unsigned long total_in;
    uint8_t *next_out;
    unsigned avail_out;
    unsigned long total_out;
    const char *msg;
    void *state, *zalloc, *zfree, *opaque;
    int data_type;
    unsigned long adler, reserved;
} ZStream;

enum {
    Z_FINISH = 4,
    Z_OK = 0,
    Z_STREAM_END = 1,
    Z_BUF_ERROR = -5,
    Z_DEFLATED = 8,
    QCOW2_WINDOW = -12,
    Z_MEMORY = 9
};

/* dlopen counts its users; the libraries stay loaded (RTLD_NODELETE), so that a handle need not be kept anywhere.
 */
static int load(const char *name, const char *package, const char *const *symbols, void **out, Error *error)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library)
        return error_set(error, ENOTSUP, "needs the library %s, which is not installed (Debian: %s)", name,
                         package);
    for (int i = 0; symbols[i]; i++) {
        out[i] = dlsym(library, symbols[i]);
        if (!out[i]) {
            dlclose(library);
            return error_set(error, ENOTSUP, "library %s has no %s", name, symbols[i]);
        }
    }
    dlclose(library);
    return 0;
}

static int load_zlib(const char *const *symbols, void **out, Error *error)
{
    return load("libz.so.1", "zlib1g", symbols, out, error);
}

static int load_zstd(const char *const *symbols, void **out, Error *error)
{
    return load("libzstd.so.1", "libzstd1", symbols, out, error);
}

static int inflate_cluster(void *out, size_t out_length, const void *in, size_t in_length, Error *error)
{
    static const char *const symbols[] = {"inflateInit2_", "inflate", "inflateEnd", NULL};
    void *f[3];
    ZStream stream = {
        .next_in = in, .avail_in = (unsigned)in_length, .next_out = out, .avail_out = (unsigned)out_length};
    int result = load_zlib(symbols, f, error);
    if (result)
        return result;
    if (((int (*)(ZStream *, int, const char *, int))f[0])(&stream, QCOW2_WINDOW, "1", (int)sizeof stream) != Z_OK)
        return error_set(error, ENOMEM, "zlib cannot start");
    int code = ((int (*)(ZStream *, int))f[1])(&stream, Z_FINISH);
    ((int (*)(ZStream *))f[2])(&stream);
    if ((code != Z_STREAM_END && code != Z_BUF_ERROR) || stream.avail_out)
        return error_set(error, EIO, "zlib data is corrupt");
    return 0;
}

typedef struct ZstdIn {
    const void *data;
    size_t size, at;
} ZstdIn;
typedef struct ZstdOut {
    void *data;
    size_t size, at;
} ZstdOut;

static int unzstd_cluster(void *out, size_t out_length, const void *in, size_t in_length, Error *error)
{
    static const char *const symbols[] = {"ZSTD_createDStream", "ZSTD_decompressStream", "ZSTD_freeDStream",
                                          "ZSTD_isError", NULL};
    void *f[4];
    int result = load_zstd(symbols, f, error);
    if (result)
        return result;
    void *stream = ((void *(*)(void))f[0])();
    if (!stream)
        return error_set(error, ENOMEM, "zstd cannot start");
    ZstdIn from = {in, in_length, 0};
    ZstdOut to = {out, out_length, 0};
    while (to.at <
           to.size) { /* the sectors may hold other data behind the frame, so stop when the cluster is full */
        size_t before_in = from.at, before_out = to.at;
        size_t code = ((size_t(*)(void *, ZstdOut *, ZstdIn *))f[1])(stream, &to, &from);
        if (((unsigned (*)(size_t))f[3])(code) || (from.at == before_in && to.at == before_out)) {
            result = error_set(error, EIO, "zstd data is corrupt");
            break;
        }
    }
    ((size_t(*)(void *))f[2])(stream);
    return result;
}

int qcow2_decompress(int type, void *out, size_t out_length, const void *in, size_t in_length, Error *error)
{
    return type ? unzstd_cluster(out, out_length, in, in_length, error)
                : inflate_cluster(out, out_length, in, in_length, error);
}

static int64_t deflate_cluster(void *out, size_t room, const void *in, size_t length, Error *error)
{
    static const char *const symbols[] = {"deflateInit2_", "deflate", "deflateEnd", NULL};
    void *f[3];
    ZStream stream = {.next_in = in, .avail_in = (unsigned)length, .next_out = out, .avail_out = (unsigned)room};
    int result = load_zlib(symbols, f, error);
    if (result)
        return result;
    if (((int (*)(ZStream *, int, int, int, int, int, const char *, int))f[0])(
            &stream, -1, Z_DEFLATED, QCOW2_WINDOW, Z_MEMORY, 0, "1", (int)sizeof stream) != Z_OK)
        return error_set(error, ENOMEM, "zlib cannot start");
    int code = ((int (*)(ZStream *, int))f[1])(&stream, Z_FINISH);
    ((int (*)(ZStream *))f[2])(&stream);
    return code == Z_STREAM_END ? (int64_t)(room - stream.avail_out) : -EFBIG;
}

static int64_t zstd_cluster(void *out, size_t room, const void *in, size_t length, Error *error)
{
    static const char *const symbols[] = {"ZSTD_compress", "ZSTD_isError", NULL};
    enum { LEVEL = 3 };
    void *f[2];
    int result = load_zstd(symbols, f, error);
    if (result)
        return result;
    size_t size = ((size_t(*)(void *, size_t, const void *, size_t, int))f[0])(out, room, in, length, LEVEL);
    return ((unsigned (*)(size_t))f[1])(size) ? -EFBIG : (int64_t)size;
}

int64_t qcow2_compress(int type, void *out, size_t room, const void *in, size_t length, Error *error)
{
    return type ? zstd_cluster(out, room, in, length, error) : deflate_cluster(out, room, in, length, error);
}
