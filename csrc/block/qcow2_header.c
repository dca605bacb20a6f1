/*
 * The header, its extensions and the two tables that stay in memory, each field checked before it is believed
 * [Header, Header extensions, Feature name table, Refcount table, L1 table].
 *
 * Refused by name: encryption (AES, LUKS), external data files, extended L2 entries, and incompatible features that
 * are not in the specification (with the name that the image's own feature name table gives).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define FAIL(code, format, ...) error_set(error, code, "%s: qcow2 " format, q->file->path, __VA_ARGS__)

enum { EXTENSIONS_MAX = 64, FEATURE_ENTRY = 48 };

bool qcow2_probe(const uint8_t *header, size_t length) { return length >= 4 && load_be32(header) == QCOW2_MAGIC; }

static int read_fixed(Qcow2 *q, const uint8_t *h, Error *error)
{
    if (load_be32(h) != QCOW2_MAGIC)
        return FAIL(EINVAL, "header offset 0: magic is %#x, not %#x ('QFI\\xfb'): not a qcow2 image, try -f raw",
                    load_be32(h), QCOW2_MAGIC);
    q->version = load_be32(h + QCOW2_H_VERSION);
    if (q->version != 2 && q->version != 3)
        return FAIL(ENOTSUP, "header offset %d: version is %u: only 2 and 3 are known", QCOW2_H_VERSION,
                    q->version);
    q->cluster_bits = load_be32(h + QCOW2_H_CLUSTER_BITS);
    if (q->cluster_bits < 9 || q->cluster_bits > 21)
        return FAIL(EINVAL, "header offset %d: cluster_bits is %u, not 9 to 21", QCOW2_H_CLUSTER_BITS,
                    q->cluster_bits);
    q->cluster_size = 1ull << q->cluster_bits;
    q->l2_bits = q->cluster_bits - 3;
    q->header_length = QCOW2_V2_LENGTH;
    q->refcount_order = 4;
    if (q->version >= 3) {
        q->incompatible = load_be64(h + QCOW2_H_INCOMPATIBLE);
        q->compatible = load_be64(h + QCOW2_H_COMPATIBLE);
        q->autoclear = load_be64(h + QCOW2_H_AUTOCLEAR);
        q->refcount_order = load_be32(h + QCOW2_H_REFCOUNT_ORDER);
        q->header_length = load_be32(h + QCOW2_H_LENGTH);
        if (q->header_length < QCOW2_V3_LENGTH || q->header_length > q->cluster_size || q->header_length % 8)
            return FAIL(EINVAL, "header offset %d: header_length is %u, not a multiple of 8 in %d to %" PRIu64,
                        QCOW2_H_LENGTH, q->header_length, QCOW2_V3_LENGTH, q->cluster_size);
        if (q->refcount_order > 6)
            return FAIL(EINVAL, "header offset %d: refcount_order is %u, not 0 to 6", QCOW2_H_REFCOUNT_ORDER,
                        q->refcount_order);
        if (q->header_length > QCOW2_H_COMPRESSION)
            q->compression = h[QCOW2_H_COMPRESSION];
    }
    q->refblock_bits = q->cluster_bits + 3 - q->refcount_order;
    uint32_t crypt = load_be32(h + QCOW2_H_CRYPT);
    if (crypt)
        return FAIL(ENOTSUP,
                    "header offset %d: the image is encrypted (%s), which is not supported: decrypt a copy with "
                    "qemu-img convert",
                    QCOW2_H_CRYPT,
                    crypt == 1   ? "AES"
                    : crypt == 2 ? "LUKS"
                                 : "unknown method");
    return 0;
}

static int check_features(Qcow2 *q, const uint8_t *names, size_t names_length, Error *error)
{
    static const char *const known[] = {"dirty bit", "corrupt bit", "external data file", "compression type",
                                        "extended L2 entries"};
    uint64_t supported = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_COMPRESSION;
    uint64_t unknown = q->incompatible & ~supported;
    if (unknown) {
        int bit = __builtin_ctzll(unknown);
        char name[47] = "a feature without a name";
        if ((size_t)bit < ARRAY_SIZE(known))
            snprintf(name, sizeof name, "%s", known[bit]);
        for (size_t at = 0; (size_t)bit >= ARRAY_SIZE(known) && at + FEATURE_ENTRY <= names_length;
             at += FEATURE_ENTRY)
            if (names[at] == 0 && names[at + 1] == bit)
                snprintf(name, sizeof name, "%.46s", (const char *)names + at + 2);
        for (char *c = name; *c; c++)
            *c = *c < ' ' || *c > '~' ? '?' : *c;
        return FAIL(ENOTSUP,
                    "header offset %d: incompatible feature bit %d (%s) is not supported: convert a copy with "
                    "qemu-img convert",
                    QCOW2_H_INCOMPATIBLE, bit, name);
    }
    bool named = q->incompatible & QCOW2_INCOMPAT_COMPRESSION;
    if (q->compression > 1 || (q->compression && !named) || (!q->compression && named))
        return FAIL(EINVAL, "header offset %d: compression_type is %u%s", QCOW2_H_COMPRESSION, q->compression,
                    q->compression > 1 ? ": only 0 (zlib) and 1 (zstd) are known"
                                       : ", but the compression type feature bit says otherwise");
    return 0;
}

static int read_extensions(Qcow2 *q, const uint8_t *h, uint64_t end, Error *error)
{
    const uint8_t *names = NULL;
    uint32_t names_length = 0;
    uint64_t at = q->header_length;
    for (int n = 0; at + 8 <= end; n++) {
        uint32_t type = load_be32(h + at), length = load_be32(h + at + 4);
        const uint8_t *data = h + at + 8;
        if (!type)
            break;
        if (n == EXTENSIONS_MAX || length > end - at - 8)
            return FAIL(EINVAL,
                        "header extension %#x at offset %" PRIu64 ": length %u reaches beyond offset %" PRIu64,
                        type, at, length, end);
        if (type == QCOW2_EXT_BACKING_FORMAT) {
            if (length >= sizeof q->backing_format)
                return FAIL(EINVAL, "header extension at offset %" PRIu64 ": backing format name has %u bytes", at,
                            length);
            memcpy(q->backing_format, data, length);
        } else if (type == QCOW2_EXT_FEATURE_NAMES) {
            names = data;
            names_length = length;
        } else if (type == QCOW2_EXT_BITMAPS && length >= 24 && q->autoclear & QCOW2_AUTOCLEAR_BITMAPS) {
            q->bitmaps = load_be32(data);
            q->bitmaps_size = load_be64(data + 8);
            q->bitmaps_offset = load_be64(data + 16);
        }
        at += 8 + (((uint64_t)length + 7) & ~7ull);
    }
    return check_features(q, names, names_length, error);
}

static int read_backing_name(Qcow2 *q, const uint8_t *h, Error *error)
{
    uint64_t offset = load_be64(h + QCOW2_H_BACKING_OFFSET);
    uint32_t length = load_be32(h + QCOW2_H_BACKING_SIZE);
    if (!offset || !length)
        return 0;
    if (length >= sizeof q->backing_file)
        return FAIL(EINVAL, "header offset %d: backing_file_size is %u, more than 1023", QCOW2_H_BACKING_SIZE,
                    length);
    if (length > q->cluster_size || offset < q->header_length || offset > q->cluster_size - length)
        return FAIL(EINVAL, "header offset %d: backing_file_offset %#" PRIx64 " is outside the header cluster",
                    QCOW2_H_BACKING_OFFSET, offset);
    memcpy(q->backing_file, h + offset, length);
    if (strlen(q->backing_file) != length)
        return FAIL(EINVAL, "offset %" PRIu64 ": backing file name contains a zero byte", offset);
    q->has_backing = true;
    return 0;
}

/* A table's place: aligned, behind the header, and wholly inside the file. */
static int check_place(const Qcow2 *q, const char *field, int at, uint64_t offset, uint64_t length,
                       uint64_t file_bytes, Error *error)
{
    if (offset & (q->cluster_size - 1) || (length && !offset))
        return FAIL(EINVAL, "header offset %d: %s %#" PRIx64 " is not aligned to the cluster size %" PRIu64, at,
                    field, offset, q->cluster_size);
    if (offset > file_bytes || length > file_bytes - offset)
        return FAIL(EINVAL,
                    "header offset %d: %s %#" PRIx64 " + %" PRIu64 " bytes is beyond the end of the file (%" PRIu64
                    " bytes): truncated?",
                    at, field, offset, length, file_bytes);
    return 0;
}

static int check_tables(Qcow2 *q, const uint8_t *h, uint64_t size, Error *error)
{
    int64_t file_bytes = file_size(q->file);
    q->l1_size = load_be32(h + QCOW2_H_L1_SIZE);
    q->l1_offset = load_be64(h + QCOW2_H_L1_OFFSET);
    q->reftable_offset = load_be64(h + QCOW2_H_REFTABLE_OFFSET);
    q->reftable_clusters = load_be32(h + QCOW2_H_REFTABLE_CLUSTERS);
    q->snapshots = load_be32(h + QCOW2_H_SNAPSHOTS);
    q->snapshots_offset = load_be64(h + QCOW2_H_SNAPSHOTS_OFFSET);
    if (file_bytes < 0)
        return FAIL((int)-file_bytes, "size: %s", strerror((int)-file_bytes));
    q->file_end = q->file->regular ? qcow2_clusters(q, (uint64_t)file_bytes) : UINT64_MAX >> q->cluster_bits;
    uint64_t bytes = q->file->regular ? (uint64_t)file_bytes : (uint64_t)INT64_MAX;
    uint64_t up = (bytes + q->cluster_size - 1) & ~(q->cluster_size - 1);

    if (size > INT64_MAX)
        return FAIL(EFBIG, "header offset %d: size %" PRIu64 " is absurd", QCOW2_H_SIZE, size);
    uint64_t span = q->cluster_size << q->l2_bits, needed = size / span + !!(size % span);
    if (q->l1_size > QCOW2_L1_MAX / 8 || needed > QCOW2_L1_MAX / 8)
        return FAIL(EFBIG, "header offset %d: L1 table of %" PRIu64 " entries is more than %d", QCOW2_H_L1_SIZE,
                    MAX((uint64_t)q->l1_size, needed), QCOW2_L1_MAX / 8);
    if (q->l1_size < needed)
        return FAIL(EINVAL,
                    "header offset %d: L1 table has %u entries, too few for %" PRIu64 " bytes (%" PRIu64 ")",
                    QCOW2_H_L1_SIZE, q->l1_size, size, needed);
    if (!q->reftable_clusters || q->reftable_clusters > (uint32_t)QCOW2_REFTABLE_MAX >> q->cluster_bits)
        return FAIL(EINVAL, "header offset %d: refcount table of %u clusters, not 1 to %d",
                    QCOW2_H_REFTABLE_CLUSTERS, q->reftable_clusters, QCOW2_REFTABLE_MAX >> q->cluster_bits);
    int result = check_place(q, "l1_table_offset", QCOW2_H_L1_OFFSET, q->l1_offset, q->l1_size * 8ull, up, error);
    if (!result && !(q->image->flags & BLOCK_FIX))
        result = check_place(q, "refcount_table_offset", QCOW2_H_REFTABLE_OFFSET, q->reftable_offset,
                             q->reftable_clusters * q->cluster_size, up, error);
    if (!result && q->snapshots > QCOW2_SNAPSHOTS_MAX)
        return FAIL(EINVAL, "header offset %d: nb_snapshots is %u, more than %d", QCOW2_H_SNAPSHOTS, q->snapshots,
                    QCOW2_SNAPSHOTS_MAX);
    if (!result && q->snapshots)
        result = check_place(q, "snapshots_offset", QCOW2_H_SNAPSHOTS_OFFSET, q->snapshots_offset,
                             q->snapshots * 40ull, up, error);
    return result;
}

int qcow2_read_header(Qcow2 *q, uint64_t *size, Error *error)
{
    uint8_t fixed[QCOW2_V3_FULL_LENGTH];
    int64_t bytes = file_size(q->file);
    int result = file_pread(q->file, fixed, sizeof fixed, 0);
    if (result)
        return FAIL(-result, "header: %s", strerror(-result));
    if (bytes < QCOW2_V2_LENGTH || (load_be32(fixed + QCOW2_H_VERSION) >= 3 && bytes < QCOW2_V3_LENGTH))
        return FAIL(EINVAL, "header is truncated: the file has only %lld bytes", (long long)bytes);
    result = read_fixed(q, fixed, error);
    if (result)
        return result;
    uint8_t *cluster = malloc(q->cluster_size);
    if (!cluster)
        return FAIL(ENOMEM, "header: %s", "out of memory");
    result = file_pread(q->file, cluster, q->cluster_size, 0);
    if (result)
        FAIL(-result, "header: %s", strerror(-result));
    if (!result)
        result = read_backing_name(q, cluster, error);
    uint64_t end = q->has_backing ? load_be64(cluster + QCOW2_H_BACKING_OFFSET) : q->cluster_size;
    if (!result)
        result = read_extensions(q, cluster, end, error);
    *size = load_be64(cluster + QCOW2_H_SIZE);
    if (!result)
        result = check_tables(q, cluster, *size, error);
    free(cluster);
    return result;
}

/* ---- tables ---- */

static int read_table(Qcow2 *q, uint64_t **out, uint64_t entries, uint64_t offset, const char *what, Error *error)
{
    uint64_t *table = calloc(entries ? entries : 1, 8);
    if (!table)
        return FAIL(ENOMEM, "%s: out of memory for %" PRIu64 " entries", what, entries);
    int result = file_pread(q->file, table, entries * 8, offset);
    if (result) {
        free(table);
        return FAIL(-result, "%s at offset %#" PRIx64 ": %s", what, offset, strerror(-result));
    }
    for (uint64_t i = 0; i < entries; i++)
        table[i] = load_be64(&table[i]);
    *out = table;
    return 0;
}

static int check_entries(Qcow2 *q, const uint64_t *table, uint64_t entries, uint64_t table_offset,
                         uint64_t reserved, const char *what, Error *error)
{
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t offset = table[i] & QCOW2_OFFSET_MASK;
        const char *problem = NULL;
        if (table[i] & reserved)
            problem = "has reserved bits set";
        else if (offset & (q->cluster_size - 1))
            problem = "is unaligned";
        else if (offset >> q->cluster_bits >= q->file_end)
            problem = "is beyond the end of the file";
        if (problem)
            return FAIL(EINVAL,
                        "%s entry %" PRIu64 " at offset %#" PRIx64 ": %#" PRIx64 " %s: run `pyvmm image check`",
                        what, i, table_offset + i * 8, table[i], problem);
    }
    return 0;
}

int qcow2_read_tables(Qcow2 *q, uint64_t size, Error *error)
{
    (void)size;
    bool strict = !(q->image->flags & BLOCK_FIX);
    q->reftable_size = (uint32_t)(q->reftable_clusters << q->cluster_bits >> 3);
    int result = read_table(q, &q->l1, q->l1_size, q->l1_offset, "L1 table", error);
    if (!result)
        result = read_table(q, &q->reftable, q->reftable_size, MIN(q->reftable_offset, (uint64_t)INT64_MAX),
                            "refcount table", error);
    if (!result && strict)
        result = check_entries(q, q->l1, q->l1_size, q->l1_offset, QCOW2_L1_RESERVED, "L1 table", error);
    if (!result && strict)
        result = check_entries(q, q->reftable, q->reftable_size, q->reftable_offset,
                               QCOW2_REFTABLE_RESERVED | ~QCOW2_OFFSET_MASK, "refcount table", error);
    if (result)
        return result;
    uint64_t most = (uint64_t)q->l1_size << q->cluster_bits;
    uint64_t blocks = (uint64_t)q->reftable_size << q->cluster_bits;
    if (qcow2_cache_init(&q->l2_cache, q, most, true) || qcow2_cache_init(&q->refblock_cache, q, blocks, false))
        return FAIL(ENOMEM, "%s", "caches: out of memory");
    return 0;
}

int qcow2_write_features(Qcow2 *q)
{
    uint8_t words[24];
    if (q->version < 3)
        return 0;
    store_be64(words, q->incompatible);
    store_be64(words + 8, q->compatible);
    store_be64(words + 16, q->autoclear);
    return file_pwrite(q->file, words, sizeof words, QCOW2_H_INCOMPATIBLE);
}

/* ---- extensions of a new header ---- */

static uint8_t *put_extension(uint8_t *at, uint32_t type, const void *data, size_t length)
{
    store_be32(at, type);
    store_be32(at + 4, (uint32_t)length);
    if (length)
        memcpy(at + 8, data, length);
    return at + 8 + ((length + 7) & ~(size_t)7);
}

/* `out` is zeroed. Returns the bytes used; the feature name table is left out where it does not fit. */
size_t qcow2_header_extensions(uint8_t *out, size_t room, const char *backing_format, uint32_t version)
{
    static const struct {
        uint8_t type, bit;
        const char *name;
    } features[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };
    uint8_t *at = out, table[ARRAY_SIZE(features) * FEATURE_ENTRY] = {0};
    if (backing_format)
        at = put_extension(at, QCOW2_EXT_BACKING_FORMAT, backing_format, strlen(backing_format));
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        table[i * FEATURE_ENTRY] = features[i].type;
        table[i * FEATURE_ENTRY + 1] = features[i].bit;
        strncpy((char *)table + i * FEATURE_ENTRY + 2, features[i].name, FEATURE_ENTRY - 2);
    }
    if (version >= 3 && (size_t)(at - out) + 16 + sizeof table <= room)
        at = put_extension(at, QCOW2_EXT_FEATURE_NAMES, table, sizeof table);
    return (size_t)(at - out) + 8; /* the end mark, type 0 */
}
