#include <stdlib.h>

#include "mmu/shadow_internal.h"

#define CR0_WP   (1ull << 16)
#define CR0_PG   (1ull << 31)
#define CR4_PAE  (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define CR4_PKE  (1ull << 22)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define ALL_RIGHTS      (PAGE_WRITE | PAGE_USER | PAGE_EXECUTE)
#define PAGES_FOR_FAULT 8u    /* a root, three tables, two pieces of a large page, and some */
#define UNCHANGED_MAX   1000u /* faults at one address in a row for which nothing had to be done */

static uint32_t index_of(gva_t address, uint32_t level)
{
    return address >> (12 + 9 * (level - 1)) & (ENTRIES - 1);
}

static uint32_t role_of(const ShadowMode *mode)
{
    uint32_t role = mode->paging.efer & EFER_NXE ? ROLE_NXE : 0;
    if (mode->user)
        return role | ROLE_USER;
    role |= mode->paging.cr0 & CR0_WP ? ROLE_WP : 0;
    role |= mode->paging.cr4 & CR4_SMEP ? ROLE_SMEP : 0;
    return role | (mode->paging.cr4 & CR4_SMAP && !mode->ac ? ROLE_SMAP : 0);
}

static int check_mode(const ShadowMode *mode, Error *error)
{
    const PagingMode *paging = &mode->paging;
    if (!(paging->cr0 & CR0_PG) || !(paging->efer & EFER_LMA) || !(paging->cr4 & CR4_PAE))
        return error_set(error, EOPNOTSUPP, "CR0 %#llx, CR4 %#llx, EFER %#llx: only 64-bit paging is shadowed",
                         (unsigned long long)paging->cr0, (unsigned long long)paging->cr4,
                         (unsigned long long)paging->efer);
    if (paging->cr4 & (CR4_LA57 | CR4_PKE))
        return error_set(error, EOPNOTSUPP, "CR4.%s is on: %s not shadowed",
                         paging->cr4 & CR4_LA57 ? "LA57" : "PKE",
                         paging->cr4 & CR4_LA57 ? "5-level tables are" : "protection keys are");
    return 0;
}

/* What devices and the host wrote into tables, since the last look. */
static void take_written(Shadow *shadow)
{
    if (likely(!__atomic_exchange_n(&shadow->any_written, false, __ATOMIC_ACQUIRE)))
        return;
    uint64_t words = (shadow->config.guest_end / GUEST_PAGE_SIZE + 63) / 64;
    for (uint64_t word = 0; word < words; word++) {
        uint64_t bits = __atomic_exchange_n(&shadow->written[word], 0, __ATOMIC_RELAXED);
        for (; bits; bits &= bits - 1) {
            gpa_t table = (word * 64 + (uint32_t)__builtin_ctzll(bits)) * GUEST_PAGE_SIZE;
            Frame *frame = &shadow->frames[table >> GUEST_PAGE_BITS];
            shadow->code_written += frame->code && !frame->code_written;
            frame->code_written |= frame->code;
            if (frame->tables) {
                shadow_compare(shadow, table);
                shadow->statistics.host_writes++;
            }
        }
    }
}

static void on_written(void *opaque, gpa_t gpa, uint64_t size)
{
    Shadow *shadow = opaque;
    gpa_t end = MIN(gpa + size, shadow->config.guest_end);
    if (pthread_equal(__atomic_load_n(&shadow->writer, __ATOMIC_RELAXED), pthread_self()))
        return;
    for (gpa_t page = gpa >> GUEST_PAGE_BITS; page << GUEST_PAGE_BITS < end; page++) {
        uint64_t bit = 1ull << page % 64;
        if (!(__atomic_load_n(&shadow->watched[page / 64], __ATOMIC_RELAXED) & bit))
            continue;
        __atomic_fetch_or(&shadow->written[page / 64], bit, __ATOMIC_RELAXED);
        __atomic_store_n(&shadow->any_written, true, __ATOMIC_RELEASE);
    }
}

/* Tell everybody but ourselves. */
static void written(Shadow *shadow, gpa_t gpa, uint32_t size)
{
    __atomic_store_n(&shadow->writer, pthread_self(), __ATOMIC_RELAXED);
    guest_memory_written(shadow->memory, gpa, size);
    __atomic_store_n(&shadow->writer, 0, __ATOMIC_RELAXED);
}

static int check_config(const GuestMemory *memory, const ShadowConfig *config, Error *error)
{
    if (config->physical_bits < 32 || config->physical_bits > 52)
        return error_set(error, EINVAL, "shadow: %u physical address bits: 32 to 52", config->physical_bits);
    if (config->monitor_slot >= ENTRIES)
        return error_set(error, EINVAL, "shadow: monitor slot %u: 0 to 511", config->monitor_slot);
    if ((config->guest_end | config->pool | config->pool_size) % GUEST_PAGE_SIZE ||
        config->pool < config->guest_end || config->pool_size < 32 * GUEST_PAGE_SIZE ||
        config->pool_size > 1ull << 32 || !guest_memory_ptr(memory, config->pool, config->pool_size, true))
        return error_set(error, EINVAL,
                         "shadow: a pool of %#llx bytes at %#llx: 32 pages to 4 GiB of RAM above %#llx",
                         (unsigned long long)config->pool_size, (unsigned long long)config->pool,
                         (unsigned long long)config->guest_end);
    return 0;
}

Shadow *shadow_new(GuestMemory *memory, const ShadowConfig *config, Error *error)
{
    if (check_config(memory, config, error) < 0)
        return NULL;
    uint32_t count = (uint32_t)(config->pool_size / GUEST_PAGE_SIZE), buckets = 64;
    while (buckets < count)
        buckets *= 2;
    uint64_t frames = config->guest_end / GUEST_PAGE_SIZE;
    Shadow *shadow = calloc(1, sizeof *shadow);
    if (shadow) {
        shadow->memory = memory;
        guest_memory_ref(memory);
        shadow->config = *config;
        shadow->pool = guest_memory_ptr(memory, config->pool, config->pool_size, true);
        shadow->count = shadow->free_count = shadow->statistics.pages_total = count;
        shadow->hash_mask = buckets - 1;
        shadow->pages = calloc(count, sizeof *shadow->pages);
        shadow->hash = calloc(buckets, sizeof *shadow->hash);
        shadow->next = calloc((size_t)count * ENTRIES, sizeof *shadow->next);
        shadow->previous = calloc((size_t)count * ENTRIES, sizeof *shadow->previous);
        shadow->touched = calloc(count, sizeof *shadow->touched);
        shadow->frames = calloc(frames + 1, sizeof *shadow->frames);
        shadow->large = calloc((config->guest_end >> LARGE_BITS) + 1, sizeof *shadow->large);
        shadow->watched = calloc(frames / 64 + 1, sizeof *shadow->watched);
        shadow->written = calloc(frames / 64 + 1, sizeof *shadow->written);
    }
    if (!shadow || !shadow->pages || !shadow->hash || !shadow->next || !shadow->previous || !shadow->touched ||
        !shadow->frames || !shadow->large || !shadow->watched || !shadow->written ||
        guest_memory_add_listener(memory, on_written, shadow) < 0) {
        shadow_free(shadow);
        error_set(error, ENOMEM, "no host memory for shadow page tables: a smaller guest, or a smaller pool");
        return NULL;
    }
    for (uint32_t page = count; page--;) {
        shadow_page_clear(shadow, page);
        shadow->pages[page].next = shadow->free_list;
        shadow->free_list = page + 1;
    }
    return shadow;
}

void shadow_free(Shadow *shadow)
{
    if (!shadow)
        return;
    guest_memory_remove_listener(shadow->memory, shadow);
    guest_memory_free(shadow->memory);
    free(shadow->pages);
    free(shadow->hash);
    free(shadow->next);
    free(shadow->previous);
    free(shadow->touched);
    free(shadow->frames);
    free(shadow->large);
    free(shadow->watched);
    free(shadow->written);
    free(shadow);
}

void shadow_flush(Shadow *shadow)
{
    for (uint32_t page = 0; page < shadow->count; page++) {
        if (page + 1 == shadow->root)
            shadow_page_empty(shadow, page);
        else if (shadow->pages[page].used)
            shadow_page_free(shadow, page);
    }
    shadow->flush = true;
}

static void make_room(Shadow *shadow)
{
    if (likely(shadow->free_count >= PAGES_FOR_FAULT))
        return;
    shadow_flush(shadow);
    shadow->statistics.flushes++;
}

gpa_t shadow_root(Shadow *shadow, const ShadowMode *mode, Error *error)
{
    if (check_mode(mode, error) < 0)
        return 0;
    gpa_t table = mode->paging.cr3 & ((1ull << shadow->config.physical_bits) - GUEST_PAGE_SIZE);
    if (!shadow_frame(shadow, table)) {
        error_set(error, EFAULT, "CR3 is %#llx: no RAM of the guest's for a PML4",
                  (unsigned long long)mode->paging.cr3);
        return 0;
    }
    take_written(shadow);
    make_room(shadow);
    bool made;
    uint32_t page = shadow_page_get(shadow, table, 4, role_of(mode), ALL_RIGHTS, false, &made);
    shadow->root = page + 1;
    shadow->statistics.roots++;
    shadow->statistics.roots_found += !made;
    return shadow_page_gpa(shadow, page);
}

/* The guest's walk for an access; all ends but a page that may be used are results. */
static enum ShadowResult guest_walk(Shadow *shadow, const ShadowMode *mode, gva_t address, uint32_t access,
                                    PageWalk *walk, ShadowFault *fault, Error *error)
{
    if (check_mode(mode, error) < 0)
        return SHADOW_UNSUPPORTED;
    PagingMode paging = mode->paging;
    paging.physical_bits = shadow->config.physical_bits;
    page_walk(shadow->memory, &paging, address, walk);
    for (uint32_t i = 0; i < walk->count; i++) {
        if (shadow_frame(shadow, walk->steps[i].address))
            continue;
        walk->end = WALK_NO_RAM;
        walk->physical = walk->steps[i].address;
    }
    if (walk->end == WALK_NO_RAM) {
        error_set(error, EFAULT, "the page tables for %#llx lead to %#llx, where the guest has no RAM",
                  (unsigned long long)address, (unsigned long long)walk->physical);
        return SHADOW_BAD_TABLE;
    }
    int code = page_check(walk, &paging, access | (mode->user ? PF_USER : 0), mode->ac);
    if (code >= 0) {
        fault->error_code = (uint32_t)code;
        fault->not_canonical = walk->end == WALK_NOT_CANONICAL;
        return SHADOW_GUEST_FAULT;
    }
    fault->gpa = walk->physical;
    if (index_of(address, 4) == shadow->config.monitor_slot) {
        error_set(error, EADDRINUSE,
                  "the guest maps %#llx, which lies in the monitor's slot %u of the address space",
                  (unsigned long long)address, shadow->config.monitor_slot);
        return SHADOW_MONITOR;
    }
    if (shadow_is_monitors(shadow, walk->physical)) {
        error_set(error, EADDRINUSE,
                  "the guest maps %#llx to %#llx, which is the monitor's memory (its own ends at %#llx)",
                  (unsigned long long)address, (unsigned long long)walk->physical,
                  (unsigned long long)shadow->config.guest_end);
        return SHADOW_MONITOR;
    }
    return SHADOW_FILLED;
}

/* A in every entry of the walk, D in the last for a store, as a processor would set them (SDM 3A §4.8). Tables in
 * ROM stay. */
static void set_accessed(Shadow *shadow, PageWalk *walk, bool write)
{
    for (uint32_t i = 0; i < walk->count; i++) {
        PageStep *step = &walk->steps[i];
        uint64_t bits = PTE_A | (write && i == walk->count - 1 ? PTE_D : 0);
        if ((step->value & bits) == bits)
            continue;
        step->value |= bits;
        uint64_t *entry = guest_memory_ptr(shadow->memory, step->address, sizeof *entry, true);
        if (!entry)
            continue;
        __atomic_fetch_or(entry, bits, __ATOMIC_RELAXED);
        written(shadow, step->address, sizeof *entry);
    }
}

/* The shadow page below, linked; `changed` when it was not. */
static uint32_t child_table(Shadow *shadow, uint32_t page, uint32_t index, gpa_t gpa, uint32_t rights, bool direct,
                            bool *changed)
{
    const ShadowPage *p = &shadow->pages[page];
    bool made;
    uint32_t level = p->level - 1u, role = p->role;
    uint32_t child = shadow_page_get(shadow, gpa, level, role, rights, direct, &made);
    *changed |= shadow_entry_set(shadow, page, index, shadow_table_value(shadow, child));
    shadow->pages[child].writes = 0;
    if (made && direct && level == 1) { /* the guest said it all in one entry */
        for (uint32_t i = 0; i < ENTRIES; i++)
            if (shadow_frame(shadow, gpa + i * GUEST_PAGE_SIZE))
                shadow_entry_set(shadow, child, i,
                                 shadow_small_leaf(shadow, role, rights, gpa + i * GUEST_PAGE_SIZE));
    }
    return child;
}

/* Make the shadow say what the walk found. False when it did already. */
static bool fill(Shadow *shadow, uint32_t page, gva_t address, const PageWalk *walk)
{
    const PageStep *last = &walk->steps[walk->count - 1];
    bool changed = false;
    shadow->pages[page].writes = 0;
    for (const PageStep *step = walk->steps; step < last; step++)
        page = child_table(shadow, page, step->index, FRAME_OF(step[1].address), step->rights, false, &changed);
    const ShadowPage *p = &shadow->pages[page];
    uint32_t role = p->role, rights = shadow_leaf_rights(role, p->rights, last->value);
    for (uint32_t level = p->level;; level--) {
        uint32_t index = index_of(address, level), bits = 12 + 9 * (level - 1);
        gpa_t gpa = walk->physical & ~((1ull << bits) - 1);
        if (level == 1)
            return shadow_entry_set(shadow, page, index, shadow_small_leaf(shadow, role, rights, gpa)) || changed;
        uint64_t value = level == 2 ? shadow_large_leaf(shadow, role, rights, gpa) : 0;
        if (value) {
            bool filled = shadow_entry_set(shadow, page, index, value);
            shadow->statistics.large_fills += filled;
            return filled || changed;
        }
        page = child_table(shadow, page, index, gpa, rights, true, &changed);
    }
}

/* Is the table at `gpa` no longer used as one, by what we know? Then its shadows go, and it is not traced any more.
 */
static bool retire(Shadow *shadow, gpa_t gpa)
{
    bool wanted = false, tired = false;
    for (uint32_t at = 0; (at = shadow_page_of(shadow, gpa, at));) {
        ShadowPage *page = &shadow->pages[at - 1];
        if (at == shadow->root)
            return false;
        wanted = wanted || page->parents;
        page->writes = (uint16_t)MIN(page->writes + 1u, UINT16_MAX);
        tired = tired || (shadow->config.write_limit && page->writes > shadow->config.write_limit);
    }
    if (wanted && !tired)
        return false;
    shadow_zap(shadow, gpa);
    return true;
}

static enum ShadowResult unchanged(Shadow *shadow, gva_t address, uint32_t hardware_code, Error *error)
{
    shadow->unchanged = shadow->last_address == address ? shadow->unchanged + 1 : 1;
    shadow->last_address = address;
    shadow->statistics.spurious++;
    if (shadow->unchanged < UNCHANGED_MAX)
        return SHADOW_FILLED;
    error_set(error, EFAULT,
              "the processor goes on faulting at %#llx (error code %#x), where the shadow has what it needs",
              (unsigned long long)address, hardware_code);
    return SHADOW_UNSUPPORTED;
}

enum ShadowResult shadow_fault(Shadow *shadow, const ShadowMode *mode, gva_t address, uint32_t hardware_code,
                               ShadowFault *fault, Error *error)
{
    PageWalk walk;
    bool write = hardware_code & PF_WRITE;
    *fault = (ShadowFault){0};
    shadow->statistics.faults++;
    take_written(shadow);
    enum ShadowResult result =
        guest_walk(shadow, mode, address, hardware_code & (PF_WRITE | PF_FETCH), &walk, fault, error);
    shadow->statistics.guest_faults += result == SHADOW_GUEST_FAULT;
    if (result != SHADOW_FILLED)
        return result;
    uint32_t role = role_of(mode);
    if (role & ROLE_SMAP && walk.steps[walk.count - 1].rights & PAGE_USER) {
        error_set(error, EOPNOTSUPP,
                  "ring 0 runs a user page at %#llx under SMAP without SMEP: it cannot be readable only for that",
                  (unsigned long long)address);
        return SHADOW_UNSUPPORTED;
    }
    set_accessed(shadow, &walk, write);
    gpa_t frame_gpa = FRAME_OF(walk.physical);
    Frame *frame = shadow_frame(shadow, frame_gpa);
    if (write && frame && frame_is_traced(frame) && (frame->code || !retire(shadow, frame_gpa))) {
        fault->table = frame->tables && !frame->unsync;
        fault->code = frame->code;
        shadow->statistics.trace_faults++;
        return SHADOW_TRACED;
    }
    make_room(shadow);
    uint32_t root = shadow_page_get(shadow, FRAME_OF(walk.steps[0].address), 4, role, ALL_RIGHTS, false, NULL);
    if (!fill(shadow, root, address, &walk))
        return unchanged(shadow, address, hardware_code, error);
    /* When the page became a table on the way just now, the store is traced as it comes back. */
    shadow->unchanged = 0;
    shadow->statistics.fills++;
    shadow->statistics.mmio_fills += !frame;
    return SHADOW_FILLED;
}

enum ShadowResult shadow_translate(Shadow *shadow, const ShadowMode *mode, gva_t address, uint32_t access,
                                   ShadowFault *fault, Error *error)
{
    PageWalk walk;
    *fault = (ShadowFault){0};
    take_written(shadow);
    enum ShadowResult result =
        guest_walk(shadow, mode, address, access & (PF_WRITE | PF_FETCH), &walk, fault, error);
    if (result == SHADOW_FILLED)
        set_accessed(shadow, &walk, access & PF_WRITE);
    return result;
}

int shadow_write(Shadow *shadow, gpa_t gpa, const void *data, uint32_t size)
{
    Frame *frame = shadow_frame(shadow, gpa);
    uint64_t offset = gpa % GUEST_PAGE_SIZE;
    void *place = frame && size && size <= GUEST_PAGE_SIZE - offset
                      ? guest_memory_ptr(shadow->memory, gpa, size, true)
                      : NULL;
    if (!place)
        return -EFAULT;
    take_written(shadow);
    memcpy(place, data, size);
    written(shadow, gpa, size);
    if (frame->tables) {
        shadow->by_guest = true;
        const uint64_t *table = (const void *)((uint8_t *)place - offset);
        for (uint64_t i = offset / 8; i <= (offset + size - 1) / 8; i++) {
            shadow_refresh(shadow, FRAME_OF(gpa), (uint32_t)i, table[i], true);
            shadow->statistics.table_writes++;
        }
        shadow->by_guest = false;
    }
    return frame->code;
}

void shadow_unsync(Shadow *shadow, gpa_t gpa)
{
    Frame *frame = shadow_frame(shadow, gpa);
    if (!frame || !frame->tables || frame->unsync)
        return;
    if (shadow->unsync_count == UNSYNC_MAX)
        shadow_sync(shadow);
    bool was = frame_is_traced(frame);
    frame->unsync = true;
    shadow->unsync[shadow->unsync_count++] = (uint32_t)(gpa >> GUEST_PAGE_BITS);
    shadow->statistics.unsyncs++;
    shadow_frame_changed(shadow, FRAME_OF(gpa), was);
}

void shadow_sync(Shadow *shadow)
{
    take_written(shadow);
    while (shadow->unsync_count) {
        gpa_t gpa = (gpa_t)shadow->unsync[--shadow->unsync_count] << GUEST_PAGE_BITS;
        Frame *frame = &shadow->frames[gpa >> GUEST_PAGE_BITS];
        bool was = frame_is_traced(frame);
        frame->unsync = false;
        shadow_frame_changed(shadow, gpa, was);
        if (frame->tables)
            shadow_compare(shadow, gpa);
    }
}

void shadow_invlpg(Shadow *shadow, gva_t address)
{
    shadow->statistics.invlpg++;
    (void)address; /* few tables are out of step at a time: all of them */
    shadow_sync(shadow);
}

int shadow_trace(Shadow *shadow, gpa_t gpa, bool on)
{
    Frame *frame = shadow_frame(shadow, gpa);
    if (!frame)
        return -EFAULT;
    bool was = frame_is_traced(frame);
    frame->code = on;
    shadow_frame_changed(shadow, FRAME_OF(gpa), was);
    return 0;
}

bool shadow_take_written_code(Shadow *shadow, gpa_t *page)
{
    take_written(shadow);
    for (gpa_t at = 0; shadow->code_written; at += GUEST_PAGE_SIZE) {
        Frame *frame = &shadow->frames[at >> GUEST_PAGE_BITS];
        if (!frame->code_written)
            continue;
        frame->code_written = false;
        shadow->code_written--;
        *page = at;
        return true;
    }
    return false;
}

bool shadow_is_traced(const Shadow *shadow, gpa_t gpa)
{
    const Frame *frame = shadow_frame(shadow, gpa);
    return frame && frame_is_traced(frame);
}

void shadow_zap(Shadow *shadow, gpa_t gpa)
{
    gpa_t table = FRAME_OF(gpa);
    for (uint32_t at = shadow_page_of(shadow, table, 0); at;) {
        if (at == shadow->root) {
            shadow_page_empty(shadow, at - 1);
            at = shadow_page_of(shadow, table, at);
            continue;
        }
        shadow_page_free(shadow, at - 1);
        shadow->statistics.pages_zapped++;
        at = shadow_page_of(shadow, table, 0);
        while (at == shadow->root && at)
            at = shadow_page_of(shadow, table, at);
    }
}

bool shadow_flush_due(Shadow *shadow)
{
    bool due = shadow->flush;
    shadow->flush = false;
    shadow->stale &= !due;
    shadow->statistics.tlb_flushes += due;
    return due;
}

int shadow_look(const Shadow *shadow, const ShadowMode *mode, gva_t address, PageWalk *walk)
{
    gpa_t table = mode->paging.cr3 & ((1ull << shadow->config.physical_bits) - GUEST_PAGE_SIZE);
    uint32_t at = shadow_page_find(shadow, table, 4, role_of(mode), ALL_RIGHTS, false);
    if (!at)
        return -ENOENT;
    PagingMode real = {.cr0 = CR0_PG | CR0_WP,
                       .cr3 = shadow_page_gpa(shadow, at - 1),
                       .cr4 = CR4_PAE,
                       .efer = EFER_LMA | EFER_NXE,
                       .physical_bits = shadow->config.physical_bits};
    page_walk(shadow->memory, &real, address, walk);
    return 0;
}

ShadowStatistics shadow_statistics(const Shadow *shadow) { return shadow->statistics; }
