/* The cache of L2 and refcount slices, and the order in which changed ones reach the file (see qcow2.h). */
#include <stdlib.h>

#include "block/qcow2.h"

int qcow2_cache_init(Qcow2Cache *cache, const Qcow2 *q, uint64_t most_bytes, bool is_l2)
{
    memset(cache, 0, sizeof *cache);
    cache->slice = (uint32_t)MIN(q->cluster_size, (uint64_t)QCOW2_SLICE);
    cache->is_l2 = is_l2;
    uint64_t limit = is_l2 ? QCOW2_L2_CACHE_MAX : QCOW2_REFBLOCK_CACHE_MAX;
    cache->capacity = (int)(MIN(MAX(most_bytes, 64u * 1024), limit) / cache->slice);
    uint32_t heads = 64;
    while (heads < (uint32_t)cache->capacity)
        heads *= 2;
    cache->hash_mask = heads - 1;
    cache->heads = malloc(heads * sizeof *cache->heads);
    cache->slots = calloc((size_t)cache->capacity, sizeof *cache->slots);
    if (!cache->heads || !cache->slots)
        return -ENOMEM;
    memset(cache->heads, -1, heads * sizeof *cache->heads);
    return 0;
}

void qcow2_cache_free(Qcow2Cache *cache)
{
    for (int i = 0; cache->slots && i < cache->capacity; i++)
        free(cache->slots[i].data);
    free(cache->slots);
    free(cache->heads);
}

void qcow2_cache_empty(Qcow2Cache *cache)
{
    memset(cache->heads, -1, ((size_t)cache->hash_mask + 1) * sizeof *cache->heads);
    for (int i = 0; i < cache->capacity; i++)
        cache->slots[i].offset = 0, cache->slots[i].dirty = false;
    cache->dirty = cache->used = cache->hand = 0;
}

static int *head_of(Qcow2Cache *cache, uint64_t offset)
{
    return &cache->heads[(uint32_t)((offset / cache->slice) * 0x9e3779b97f4a7c15ull >> 32) & cache->hash_mask];
}

static void unlink_slot(Qcow2Cache *cache, int index)
{
    Qcow2Slot *slot = &cache->slots[index];
    int *link = head_of(cache, slot->offset);
    while (*link != index)
        link = &cache->slots[*link].next;
    *link = slot->next;
    cache->dirty -= slot->dirty;
    slot->dirty = false;
    slot->offset = 0;
}

/* A slot to fill: an unused one, or the next one that was not looked at since the hand passed last. */
static int take_slot(Qcow2 *q, Qcow2Cache *cache, int *index)
{
    if (cache->used < cache->capacity) {
        *index = cache->used;
        Qcow2Slot *slot = &cache->slots[*index];
        if (!slot->data && posix_memalign((void **)&slot->data, QCOW2_SLICE, cache->slice))
            return slot->data = NULL, -ENOMEM;
        cache->used++;
        return 0;
    }
    for (;;) {
        Qcow2Slot *slot = &cache->slots[cache->hand];
        *index = cache->hand;
        cache->hand = (cache->hand + 1) % cache->capacity;
        if (slot->offset && slot->referenced) {
            slot->referenced = false;
            continue;
        }
        if (slot->dirty && cache->is_l2) {
            int result = qcow2_write_metadata(q);
            if (result)
                return result;
        } else if (slot->dirty) { /* a refcount that is raised too early, or lowered after its L2, does no harm */
            int result = file_pwrite(q->file, slot->data, cache->slice, slot->offset);
            if (result)
                return result;
            q->unsynced = true;
            slot->dirty = false;
            cache->dirty--;
        }
        if (slot->offset)
            unlink_slot(cache, *index);
        return 0;
    }
}

int qcow2_cache_get(Qcow2 *q, Qcow2Cache *cache, uint64_t offset, Qcow2Slot **found)
{
    int *head = head_of(cache, offset);
    for (int i = *head; i >= 0; i = cache->slots[i].next) {
        if (cache->slots[i].offset == offset) {
            cache->slots[i].referenced = true;
            *found = &cache->slots[i];
            return 0;
        }
    }
    int index, result = take_slot(q, cache, &index);
    if (result)
        return result;
    Qcow2Slot *slot = &cache->slots[index];
    result = file_pread(q->file, slot->data, cache->slice, offset);
    if (result) {
        slot->offset = 0; /* stays taken but empty: the hand finds it */
        slot->referenced = false;
        return result;
    }
    slot->offset = offset;
    slot->referenced = true;
    slot->next = *head;
    *head = index;
    *found = slot;
    return 0;
}

void qcow2_cache_forget(Qcow2Cache *cache, uint64_t offset, uint64_t length)
{
    for (uint64_t at = offset; at < offset + length; at += cache->slice) {
        for (int i = *head_of(cache, at); i >= 0; i = cache->slots[i].next) {
            if (cache->slots[i].offset == at) {
                unlink_slot(cache, i);
                break;
            }
        }
    }
}

static int compare_slots(const void *a, const void *b)
{
    uint64_t left = (*(Qcow2Slot *const *)a)->offset, right = (*(Qcow2Slot *const *)b)->offset;
    return left < right ? -1 : left > right;
}

int qcow2_cache_write(Qcow2 *q, Qcow2Cache *cache)
{
    enum { BATCH = 64 };
    if (!cache->dirty)
        return 0;
    Qcow2Slot **list = malloc((size_t)cache->dirty * sizeof *list);
    if (!list)
        return -ENOMEM;
    int count = 0, result = 0;
    for (int i = 0; i < cache->used; i++)
        if (cache->slots[i].dirty)
            list[count++] = &cache->slots[i];
    qsort(list, (size_t)count, sizeof *list, compare_slots);
    for (int i = 0; i < count && !result;) {
        struct iovec iov[BATCH];
        int run = 0;
        while (run < BATCH && i + run < count &&
               list[i + run]->offset == list[i]->offset + (uint64_t)run * cache->slice) {
            iov[run] = (struct iovec){list[i + run]->data, cache->slice};
            run++;
        }
        result = file_pwritev(q->file, iov, run, list[i]->offset);
        for (int n = 0; n < run && !result; n++)
            list[i + n]->dirty = false, cache->dirty--;
        i += run;
    }
    free(list);
    q->unsynced = true;
    return result;
}

int qcow2_barrier(Qcow2 *q)
{
    if (!q->unsynced)
        return 0;
    int result = file_flush(q->file);
    if (!result)
        q->unsynced = false;
    return result;
}

static int write_l1(Qcow2 *q)
{
    enum { BATCH = 512 };
    while (q->l1_dirty_low < q->l1_dirty_high) {
        uint8_t buffer[BATCH * 8];
        uint32_t count = MIN(q->l1_dirty_high - q->l1_dirty_low, (uint32_t)BATCH);
        for (uint32_t i = 0; i < count; i++)
            store_be64(buffer + i * 8, q->l1[q->l1_dirty_low + i]);
        int result = file_pwrite(q->file, buffer, count * 8, q->l1_offset + q->l1_dirty_low * 8ull);
        if (result)
            return result;
        q->unsynced = true;
        q->l1_dirty_low += count;
    }
    q->l1_dirty_low = UINT32_MAX;
    q->l1_dirty_high = 0;
    return 0;
}

int qcow2_write_metadata(Qcow2 *q)
{
    int result = qcow2_cache_write(q, &q->refblock_cache);
    bool l1_dirty = q->l1_dirty_high > 0;
    if (!result && (q->l2_cache.dirty || l1_dirty))
        result = qcow2_barrier(q);
    if (!result)
        result = qcow2_cache_write(q, &q->l2_cache);
    if (!result && l1_dirty)
        result = qcow2_barrier(q);
    if (!result)
        result = write_l1(q);
    if (!result && q->frees_count) {
        result = qcow2_barrier(q);
        if (!result)
            result = qcow2_apply_frees(q);
    }
    return result;
}
