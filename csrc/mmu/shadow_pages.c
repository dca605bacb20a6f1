/*
 * The pool of shadow pages: which guest table each was made for (a hash by frame), and who points where. Every
 * entry of the pool that points to a shadow page, or lets the guest write a page of its RAM, is in a list of that
 * page: two links for each entry, so that tracing a page finds all that has to change.
 */
#include "mmu/shadow_internal.h"

static void entry_place(EntryRef ref, uint32_t *page, uint32_t *index)
{
    *page = (ref - 1) / ENTRIES;
    *index = (ref - 1) % ENTRIES;
}

Frame *shadow_frame(const Shadow *shadow, gpa_t gpa)
{
    if (gpa >= shadow->config.guest_end || !guest_memory_find(shadow->memory, gpa))
        return NULL;
    return &shadow->frames[gpa >> GUEST_PAGE_BITS];
}

bool shadow_is_monitors(const Shadow *shadow, gpa_t gpa)
{
    return gpa >= shadow->config.guest_end && guest_memory_find(shadow->memory, gpa);
}

/* The list that an entry belongs to, by what it says; NULL for none. */
static EntryRef *list_of(Shadow *shadow, uint32_t level, uint64_t entry)
{
    if (!(entry & PTE_P))
        return NULL;
    if (!entry_is_leaf(level, entry))
        return &shadow->pages[shadow_page_at(shadow, entry)].parents;
    gpa_t gpa = FRAME_OF(entry);
    if (!(entry & PTE_RW) || !shadow_frame(shadow, gpa))
        return NULL;
    return level == 1 ? &shadow->frames[gpa >> GUEST_PAGE_BITS].writable
                      : &shadow->large[gpa >> LARGE_BITS].writable;
}

static void link_entry(Shadow *shadow, EntryRef *list, EntryRef ref)
{
    if (!list)
        return;
    shadow->previous[ref - 1] = 0;
    shadow->next[ref - 1] = *list;
    if (*list)
        shadow->previous[*list - 1] = ref;
    *list = ref;
}

static void unlink_entry(Shadow *shadow, EntryRef *list, EntryRef ref)
{
    if (!list)
        return;
    EntryRef next = shadow->next[ref - 1], previous = shadow->previous[ref - 1];
    if (next)
        shadow->previous[next - 1] = previous;
    *(previous ? &shadow->next[previous - 1] : list) = next;
}

static void touch(Shadow *shadow, uint32_t page, uint32_t index)
{
    ShadowPage *p = &shadow->pages[page];
    if (!shadow->config.touch)
        return;
    shadow->statistics.touches++;
    if (p->touched_first == p->touched_end) {
        shadow->touched[shadow->touched_count++] = page;
        p->touched_first = (uint16_t)index;
        p->touched_end = (uint16_t)(index + 1);
    }
    p->touched_first = MIN(p->touched_first, (uint16_t)index);
    p->touched_end = MAX(p->touched_end, (uint16_t)(index + 1));
}

size_t shadow_touches(Shadow *shadow, ShadowTouch *touches, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && shadow->touched_count) {
        uint32_t page = shadow->touched[--shadow->touched_count];
        ShadowPage *p = &shadow->pages[page];
        touches[count++] = (ShadowTouch){.gpa = shadow_page_gpa(shadow, page) + p->touched_first * sizeof(uint64_t),
                                         .count = p->touched_end - p->touched_first};
        p->touched_first = p->touched_end = 0;
    }
    return count;
}

bool shadow_entry_set(Shadow *shadow, uint32_t page, uint32_t index, uint64_t value)
{
    ShadowPage *p = &shadow->pages[page];
    uint64_t *entry = &shadow_entries(shadow, page)[index], old = *entry;
    EntryRef ref = page * ENTRIES + index + 1;
    if (old == value)
        return false;
    unlink_entry(shadow, list_of(shadow, p->level, old), ref);
    link_entry(shadow, list_of(shadow, p->level, value), ref);
    __atomic_store_n(entry, value, __ATOMIC_RELAXED);
    p->present = (uint16_t)(p->present + (value & PTE_P ? 1 : 0) - (old & PTE_P ? 1 : 0));
    bool only_more = FRAME_OF(old) == FRAME_OF(value) && !((old ^ PTE_XD) & ~(value ^ PTE_XD));
    if (old & PTE_P && !only_more) {
        shadow->flush |= !shadow->by_guest;
        shadow->stale |= shadow->by_guest;
        touch(shadow, page, index);
    }
    return true;
}

/* Take the right to write a frame away wherever it is. */
static void protect(Shadow *shadow, gpa_t gpa)
{
    EntryRef *list = &shadow->frames[gpa >> GUEST_PAGE_BITS].writable,
             *large = &shadow->large[gpa >> LARGE_BITS].writable;
    uint32_t page, index;
    while (*list) {
        entry_place(*list, &page, &index);
        shadow_entry_set(shadow, page, index, shadow_entries(shadow, page)[index] & ~PTE_RW);
    }
    while (*large) { /* comes back in pieces */
        entry_place(*large, &page, &index);
        shadow_entry_set(shadow, page, index, 0);
    }
}

void shadow_frame_changed(Shadow *shadow, gpa_t gpa, bool was)
{
    gpa_t number = gpa >> GUEST_PAGE_BITS;
    Frame *frame = &shadow->frames[number];
    uint64_t bit = 1ull << number % 64, *watched = &shadow->watched[number / 64];
    if (frame->tables || frame->code)
        __atomic_fetch_or(watched, bit, __ATOMIC_RELAXED);
    else
        __atomic_fetch_and(watched, ~bit, __ATOMIC_RELAXED);
    bool is = frame_is_traced(frame);
    if (is == was)
        return;
    shadow->large[gpa >> LARGE_BITS].traced += is ? 1 : -1u;
    shadow->statistics.traced += is ? 1 : -1u;
    if (!is)
        return;
    shadow->flush |= shadow->stale;
    protect(shadow, gpa);
}

void shadow_page_clear(Shadow *shadow, uint32_t page)
{
    uint64_t *entries = shadow_entries(shadow, page);
    for (uint32_t i = 0; i < ENTRIES; i++)
        if (entries[i])
            touch(shadow, page, i);
    memset(entries, 0, GUEST_PAGE_SIZE);
}

static uint32_t *bucket(const Shadow *shadow, gpa_t gpa)
{
    uint64_t number = gpa >> GUEST_PAGE_BITS;
    return &shadow->hash[(number ^ number >> 9) & shadow->hash_mask];
}

uint32_t shadow_page_find(const Shadow *shadow, gpa_t gpa, uint32_t level, uint32_t role, uint32_t rights,
                          bool direct)
{
    for (uint32_t at = *bucket(shadow, gpa); at; at = shadow->pages[at - 1].next) {
        const ShadowPage *page = &shadow->pages[at - 1];
        if (page->gpa == gpa && page->level == level && page->role == role && page->rights == rights &&
            page->direct == direct)
            return at;
    }
    return 0;
}

uint32_t shadow_page_of(const Shadow *shadow, gpa_t gpa, uint32_t after)
{
    uint32_t at = after ? shadow->pages[after - 1].next : *bucket(shadow, gpa);
    while (at && (shadow->pages[at - 1].gpa != gpa || shadow->pages[at - 1].direct))
        at = shadow->pages[at - 1].next;
    return at;
}

uint32_t shadow_page_get(Shadow *shadow, gpa_t gpa, uint32_t level, uint32_t role, uint32_t rights, bool direct,
                         bool *made)
{
    uint32_t at = shadow_page_find(shadow, gpa, level, role, rights, direct);
    if (made)
        *made = !at;
    if (at)
        return at - 1;
    at = shadow->free_list;
    ShadowPage *page = &shadow->pages[at - 1];
    uint32_t *head = bucket(shadow, gpa);
    shadow->free_list = page->next;
    shadow->free_count--;
    *page = (ShadowPage){.gpa = gpa,
                         .next = *head,
                         .touched_first = page->touched_first,
                         .touched_end = page->touched_end,
                         .level = (uint8_t)level,
                         .role = (uint8_t)role,
                         .rights = (uint8_t)rights,
                         .direct = direct,
                         .used = true};
    *head = at;
    if (!direct) {
        Frame *frame = &shadow->frames[gpa >> GUEST_PAGE_BITS];
        bool was = frame_is_traced(frame);
        frame->tables++;
        shadow_frame_changed(shadow, gpa, was);
    }
    if (level == 4)
        shadow_entries(shadow, at - 1)[shadow->config.monitor_slot] = shadow->config.monitor_pml4e;
    ShadowStatistics *count = &shadow->statistics;
    count->pages_made++;
    count->splintered += direct;
    count->pages = shadow->count - shadow->free_count;
    count->pages_peak = MAX(count->pages_peak, count->pages);
    return at - 1;
}

void shadow_page_empty(Shadow *shadow, uint32_t page)
{
    const ShadowPage *p = &shadow->pages[page];
    for (uint32_t i = 0; i < ENTRIES && p->present; i++)
        if (!(p->level == 4 && i == shadow->config.monitor_slot))
            shadow_entry_set(shadow, page, i, 0);
}

void shadow_page_free(Shadow *shadow, uint32_t page)
{
    ShadowPage *p = &shadow->pages[page];
    uint32_t owner, index, *at;
    while (p->parents) {
        entry_place(p->parents, &owner, &index);
        shadow_entry_set(shadow, owner, index, 0);
    }
    shadow_page_empty(shadow, page);
    if (p->level == 4) {
        shadow_entries(shadow, page)[shadow->config.monitor_slot] = 0;
        touch(shadow, page, shadow->config.monitor_slot);
    }
    for (at = bucket(shadow, p->gpa); *at != page + 1; at = &shadow->pages[*at - 1].next)
        ;
    *at = p->next;
    if (!p->direct) {
        Frame *frame = &shadow->frames[p->gpa >> GUEST_PAGE_BITS];
        bool was = frame_is_traced(frame);
        frame->tables--;
        shadow_frame_changed(shadow, p->gpa, was);
    }
    p->used = false;
    p->next = shadow->free_list;
    shadow->free_list = page + 1;
    shadow->free_count++;
    shadow->flush = true; /* a processor may hold entries of the way through it */
    shadow->statistics.pages = shadow->count - shadow->free_count;
}
