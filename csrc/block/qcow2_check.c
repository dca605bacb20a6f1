/*
 * `image check`: counts every reference that the image holds (header, tables, clusters, snapshots, bitmaps) and
 * compares with the refcounts; then the COPIED flags. Repair: leaks are lowered in place, anything worse gets a new
 * refcount structure (qcow2_repair.c) and right COPIED flags. Not repaired: entries that point outside the file or
 * are unaligned.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/qcow2.h"

enum { COUNTS_MAX = 1 << 28 }; /* clusters; 1 GiB of counters */

typedef struct Checker {
    Qcow2 *q;
    BlockCheck *result;
    Qcow2Counts counts;
    bool unfixable;     /* something that new refcounts do not heal */
    uint64_t next_host; /* fragmentation: where a contiguous next cluster would be */
} Checker;

static void found(Checker *c, uint64_t *counter, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void found(Checker *c, uint64_t *counter, const char *format, ...)
{
    if (!c->result->first[0]) {
        va_list args;
        va_start(args, format);
        vsnprintf(c->result->first, sizeof c->result->first, format, args);
        va_end(args);
    }
    ++*counter;
}

#define CORRUPT(c, ...) found(c, &(c)->result->corruptions, __VA_ARGS__)

/* Count the clusters under [offset, offset+length). `what` names the reference. */
static void count(Checker *c, uint64_t offset, uint64_t length, bool aligned, const char *what)
{
    const Qcow2 *q = c->q;
    if (!length)
        return;
    uint64_t first = offset >> q->cluster_bits, last = (offset + length - 1) >> q->cluster_bits;
    if (aligned && offset & (q->cluster_size - 1)) {
        CORRUPT(c, "%s: offset %#llx is not aligned to the cluster size", what, (unsigned long long)offset);
        c->unfixable = true;
        return;
    }
    if (offset + length < offset || first >= c->counts.clusters) {
        CORRUPT(c, "%s: offset %#llx is beyond the end of the file", what, (unsigned long long)offset);
        c->unfixable = true;
        return;
    }
    for (uint64_t i = first; i <= last && i < c->counts.clusters; i++)
        c->counts.count[i] += c->counts.count[i] < UINT32_MAX;
    c->result->image_end_offset =
        MAX(c->result->image_end_offset, (MIN(last + 1, c->counts.clusters)) << q->cluster_bits);
}

static bool has_room(const Checker *c, uint64_t offset)
{
    return !(offset & (c->q->cluster_size - 1)) && offset >> c->q->cluster_bits < c->counts.clusters;
}

/* ---- references ---- */

static void count_entry(Checker *c, uint64_t entry, bool active)
{
    const Qcow2 *q = c->q;
    uint64_t offset = entry & QCOW2_OFFSET_MASK, length = q->cluster_size;
    int type = qcow2_entry_type(q, entry);
    BlockCheck *r = c->result;
    if (type == QCOW2_COMPRESSED_CLUSTER) {
        qcow2_compressed_range(q, entry, &offset, &length);
        if (entry & QCOW2_COPIED)
            CORRUPT(c, "L2 entry %#llx: a compressed cluster with the COPIED flag", (unsigned long long)entry);
        count(c, offset, length, false, "L2 entry of a compressed cluster");
    } else if (type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOCATED) {
        count(c, offset, length, true, "L2 entry");
    }
    if (!active || (type != QCOW2_NORMAL && type != QCOW2_COMPRESSED_CLUSTER && type != QCOW2_ZERO_ALLOCATED))
        return;
    r->allocated_clusters++;
    r->compressed_clusters += type == QCOW2_COMPRESSED_CLUSTER;
    if (type == QCOW2_COMPRESSED_CLUSTER || (c->next_host && offset != c->next_host))
        r->fragmented_clusters++;
    c->next_host = type == QCOW2_COMPRESSED_CLUSTER ? 0 : offset + q->cluster_size;
}

/* An L1 table given in memory (host order), with its L2 tables and their clusters. */
static int count_l1(Checker *c, const uint64_t *l1, uint64_t entries, bool active)
{
    const Qcow2 *q = c->q;
    uint8_t *table = malloc(q->cluster_size);
    int result = table ? 0 : -ENOMEM;
    for (uint64_t i = 0; i < entries && !result; i++) {
        uint64_t offset = l1[i] & QCOW2_OFFSET_MASK;
        if (l1[i] & QCOW2_L1_RESERVED) {
            CORRUPT(c, "L1 entry %llu: %#llx has reserved bits set", (unsigned long long)i,
                    (unsigned long long)l1[i]);
            c->unfixable = true;
        }
        if (!offset)
            continue;
        count(c, offset, q->cluster_size, true, "L1 entry");
        if (!has_room(c, offset))
            continue;
        result = file_pread(q->file, table, q->cluster_size, offset);
        for (uint64_t n = 0; n < q->cluster_size && !result; n += 8) {
            uint64_t entry = load_be64(table + n);
            if (entry)
                count_entry(c, entry, active);
        }
    }
    free(table);
    return result;
}

static int count_foreign_l1(Checker *c, uint64_t offset, uint64_t entries)
{
    if (entries > QCOW2_L1_MAX / 8 || !has_room(c, offset)) {
        CORRUPT(c, "snapshot: L1 table of %llu entries at offset %#llx", (unsigned long long)entries,
                (unsigned long long)offset);
        c->unfixable = true;
        return 0;
    }
    count(c, offset, entries * 8, true, "snapshot's L1 table");
    uint64_t *l1 = malloc(entries * 8 + 8);
    int result = l1 ? file_pread(c->q->file, l1, entries * 8, offset) : -ENOMEM;
    for (uint64_t i = 0; i < entries && !result; i++)
        l1[i] = load_be64(&l1[i]);
    if (!result)
        result = count_l1(c, l1, entries, false);
    free(l1);
    return result;
}

/* [Snapshots]: 40 bytes, extra data, id, name, padded to 8. */
static int count_snapshots(Checker *c)
{
    const Qcow2 *q = c->q;
    uint64_t at = q->snapshots_offset;
    for (uint32_t i = 0; i < q->snapshots; i++) {
        uint8_t entry[40];
        int result = file_pread(q->file, entry, sizeof entry, at);
        if (!result)
            result = count_foreign_l1(c, load_be64(entry), load_be32(entry + 8));
        if (result)
            return result;
        uint64_t length = 40ull + load_be32(entry + 36) + load_be16(entry + 12) + load_be16(entry + 14);
        at += (length + 7) & ~7ull;
        if (at >> q->cluster_bits > c->counts.clusters) {
            CORRUPT(c, "snapshot table: entry %u reaches beyond the end of the file", i);
            c->unfixable = true;
            return 0;
        }
    }
    count(c, q->snapshots_offset, at - q->snapshots_offset, true, "snapshot table");
    return 0;
}

/* [Bitmaps]: the directory, each bitmap's table, and the clusters that it names. */
static int count_bitmaps(Checker *c)
{
    enum { DIRECTORY_MAX = 64 << 20 };
    const Qcow2 *q = c->q;
    if (!q->bitmaps)
        return 0;
    count(c, q->bitmaps_offset, q->bitmaps_size, true, "bitmap directory");
    if (q->bitmaps_size > DIRECTORY_MAX || !has_room(c, q->bitmaps_offset))
        return 0;
    uint8_t *directory = malloc(q->bitmaps_size + 24), *table = NULL;
    int result = directory ? file_pread(q->file, directory, q->bitmaps_size, q->bitmaps_offset) : -ENOMEM;
    for (uint64_t at = 0, i = 0; !result && i < q->bitmaps && at + 24 <= q->bitmaps_size; i++) {
        const uint8_t *entry = directory + at;
        uint64_t offset = load_be64(entry), entries = load_be32(entry + 8);
        count(c, offset, entries * 8, true, "bitmap table");
        table = entries * 8 <= DIRECTORY_MAX && has_room(c, offset) ? malloc(entries * 8 + 8) : NULL;
        if (table)
            result = file_pread(q->file, table, entries * 8, offset);
        for (uint64_t n = 0; table && n < entries && !result; n++)
            if (load_be64(table + n * 8) & QCOW2_OFFSET_MASK)
                count(c, load_be64(table + n * 8) & QCOW2_OFFSET_MASK, q->cluster_size, true, "bitmap table entry");
        free(table);
        at += (24ull + load_be16(entry + 18) + load_be32(entry + 20) + 7) & ~7ull;
    }
    free(directory);
    return result;
}

static int count_all(Checker *c)
{
    const Qcow2 *q = c->q;
    count(c, 0, q->cluster_size, true, "header");
    count(c, q->l1_offset, q->l1_size * 8ull, true, "header: l1_table_offset");
    int result = count_l1(c, q->l1, q->l1_size, true);
    if (!result && q->snapshots)
        result = count_snapshots(c);
    if (!result)
        result = count_bitmaps(c);
    return result;
}

/* The refcount structure itself: kept apart, since a rebuild replaces it. */
static void count_refcounts(Checker *c, bool *rebuild)
{
    Qcow2 *q = c->q;
    count(c, q->reftable_offset, q->reftable_clusters * q->cluster_size, true, "header: refcount_table_offset");
    *rebuild = !has_room(c, q->reftable_offset);
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        uint64_t offset = q->reftable[i];
        if (!offset)
            continue;
        if (offset & QCOW2_REFTABLE_RESERVED || !has_room(c, offset)) {
            CORRUPT(c, "refcount table entry %u: %#llx is unaligned or beyond the end of the file", i,
                    (unsigned long long)offset);
            *rebuild = q->broken = true;
            q->reftable[i] = 0;
            continue;
        }
        count(c, offset, q->cluster_size, true, "refcount table entry");
        if (c->counts.count[offset >> q->cluster_bits] > 1) {
            CORRUPT(c, "refcount table entry %u: block at offset %#llx is used otherwise", i,
                    (unsigned long long)offset);
            *rebuild = q->broken = true; /* until it is rebuilt, nothing may be allocated */
            q->reftable[i] = 0;
        }
    }
}

/* ---- comparison ---- */

static int compare(Checker *c, bool lower_leaks, bool *rebuild)
{
    Qcow2 *q = c->q;
    uint64_t counted = MIN((uint64_t)q->reftable_size << q->refblock_bits, (uint64_t)UINT64_MAX >> q->cluster_bits);
    for (uint64_t i = 0; i < MAX(c->counts.clusters, counted); i++) {
        uint64_t in_file = 0, block = i >> q->refblock_bits;
        uint64_t references = i < c->counts.clusters ? c->counts.count[i] : 0;
        if (i >= c->counts.clusters && (block >= q->reftable_size || !q->reftable[block])) {
            i |= (1ull << q->refblock_bits) - 1; /* nothing to compare in this block */
            continue;
        }
        int result = qcow2_refcount_get(q, i, &in_file);
        if (result)
            return result;
        if (in_file == references)
            continue;
        if (in_file > references) {
            if (i < c->counts.clusters) /* beyond the end of the file nothing is wasted: not reported */
                found(c, &c->result->leaks, "leaked cluster %llu: refcount is %llu, references %llu",
                      (unsigned long long)i, (unsigned long long)in_file, (unsigned long long)references);
            if (lower_leaks && (result = qcow2_refcount_set(q, i, references)))
                return result;
        } else {
            CORRUPT(c, "cluster %llu: refcount is %llu, references %llu", (unsigned long long)i,
                    (unsigned long long)in_file, (unsigned long long)references);
            *rebuild = true;
        }
    }
    return 0;
}

static bool flag_is_right(const Checker *c, uint64_t entry)
{
    uint64_t cluster = (entry & QCOW2_OFFSET_MASK) >> c->q->cluster_bits;
    bool once = cluster < c->counts.clusters && c->counts.count[cluster] == 1;
    return once == !!(entry & QCOW2_COPIED);
}

/* COPIED says that the refcount is exactly one; `fix` writes it anew where it is wrong. */
static int check_flags(Checker *c, bool fix)
{
    Qcow2 *q = c->q;
    uint8_t *table = malloc(q->cluster_size);
    int result = table ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < q->l1_size && !result; i++) {
        uint64_t offset = q->l1[i] & QCOW2_OFFSET_MASK;
        if (!offset || !has_room(c, offset))
            continue;
        if (!flag_is_right(c, q->l1[i])) {
            CORRUPT(c, "L1 entry %u: COPIED flag does not agree with the refcount", i);
            if (fix) {
                q->l1[i] ^= QCOW2_COPIED;
                q->l1_dirty_low = MIN(q->l1_dirty_low, i);
                q->l1_dirty_high = MAX(q->l1_dirty_high, i + 1);
            }
        }
        bool changed = false;
        result = file_pread(q->file, table, q->cluster_size, offset);
        for (uint64_t n = 0; n < q->cluster_size && !result; n += 8) {
            uint64_t entry = load_be64(table + n);
            int type = qcow2_entry_type(q, entry);
            bool stray = type == QCOW2_COMPRESSED_CLUSTER && entry & QCOW2_COPIED;
            bool hosted =
                (type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOCATED) && has_room(c, entry & QCOW2_OFFSET_MASK);
            if (hosted && !flag_is_right(c, entry))
                CORRUPT(c, "L2 entry %#llx: COPIED flag does not agree with the refcount",
                        (unsigned long long)entry);
            else if (!stray)
                continue;
            store_be64(table + n, entry ^ QCOW2_COPIED);
            changed = true;
        }
        if (changed && fix && !result) {
            result = file_pwrite(q->file, table, q->cluster_size, offset);
            qcow2_cache_forget(&q->l2_cache, offset, q->cluster_size);
        }
    }
    free(table);
    return result;
}

/* ---- the whole ---- */

static int check_once(Checker *c, int repair, bool *rebuilt, Error *error)
{
    Qcow2 *q = c->q;
    bool rebuild = false;
    int64_t bytes = file_size(q->file);
    c->counts.clusters = bytes < 0 ? 0 : qcow2_clusters(q, (uint64_t)bytes);
    if (c->counts.clusters > COUNTS_MAX)
        return error_set(error, EFBIG, "%s: %llu clusters are too many to check", q->file->path,
                         (unsigned long long)c->counts.clusters);
    c->counts.count = calloc(c->counts.clusters + 1, sizeof *c->counts.count);
    Qcow2Counts without = {calloc(c->counts.clusters + 1, sizeof *c->counts.count), c->counts.clusters};
    int result = c->counts.count && without.count ? count_all(c) : -ENOMEM;
    if (!result) {
        memcpy(without.count, c->counts.count, c->counts.clusters * sizeof *without.count);
        count_refcounts(c, &rebuild);
        result = compare(c, repair != BLOCK_REPAIR_NONE, &rebuild);
    }
    *rebuilt = !result && rebuild && repair == BLOCK_REPAIR_ALL && !c->unfixable;
    if (!result && repair != BLOCK_REPAIR_NONE && !*rebuilt)
        result = qcow2_write_metadata(q);
    if (*rebuilt) {
        result = qcow2_rebuild_refcounts(q, &without, error);
        if (!result) { /* old structures are free now; the flags below go by the new counts */
            memcpy(c->counts.count, without.count, c->counts.clusters * sizeof *without.count);
        }
    }
    if (!result)
        result = check_flags(c, repair == BLOCK_REPAIR_ALL);
    if (!result && repair == BLOCK_REPAIR_ALL)
        result = qcow2_write_metadata(q);
    free(c->counts.count);
    free(without.count);
    return result;
}

static int clear_marks(Qcow2 *q)
{
    if (q->version < 3 || !(q->incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT)))
        return 0;
    int result = file_flush(q->file);
    q->incompatible &= ~(uint64_t)(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    return result ? result : qcow2_write_features(q);
}

int qcow2_check(BlockImage *image, int repair, BlockCheck *result, Error *error)
{
    Qcow2 *q = image->state;
    bool rebuilt = false;
    pthread_mutex_lock(&image->lock);
    int code = image->read_only ? 0 : qcow2_write_metadata(q);
    Checker first = {.q = q, .result = result};
    result->total_clusters = qcow2_clusters(q, image->size);
    if (!code)
        code = check_once(&first, repair, &rebuilt, error);
    BlockCheck found_first = *result;
    if (!code && repair != BLOCK_REPAIR_NONE && (result->corruptions || result->leaks)) {
        Checker again = {.q = q, .result = result}; /* what is left, and so what was fixed */
        memset(result, 0, sizeof *result);
        result->total_clusters = found_first.total_clusters;
        code = check_once(&again, BLOCK_REPAIR_NONE, &rebuilt, error);
        result->corruptions_fixed = found_first.corruptions - MIN(result->corruptions, found_first.corruptions);
        result->leaks_fixed = found_first.leaks - MIN(result->leaks, found_first.leaks);
    }
    if (!code && repair == BLOCK_REPAIR_ALL && !result->corruptions)
        code = clear_marks(q);
    pthread_mutex_unlock(&image->lock);
    if (code && !(error && error->text[0]))
        error_set(error, -code, "%s: check: %s", q->file->path, image->fault[0] ? image->fault : strerror(-code));
    return code;
}
