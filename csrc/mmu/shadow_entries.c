/*
 * What the entries of shadow pages have to say: rights of a guest's entry for a role (SDM 3A §4.6.1), pages that
 * are traced, large pages; and whether what is there still is right after the guest's entry changed.
 */
#include "mmu/shadow_internal.h"

/* What a leaf of a shadow page says: of a guest page at `gpa` with these rights (enum PageRights, ShadowRights). 0
 * when the role may not even read it. SDM 3A §4.6.1, for a supervisor that runs in ring 3. */
static uint64_t leaf_value(uint32_t role, uint32_t rights, gpa_t gpa)
{
    bool user = rights & PAGE_USER, execute = rights & PAGE_EXECUTE, write = rights & PAGE_WRITE;
    if (role & ROLE_USER ? !user : user && role & ROLE_SMAP)
        return 0;
    if (!(role & ROLE_USER)) {
        execute = execute && !(user && role & ROLE_SMEP);
        write = write || !(role & ROLE_WP);
    }
    return gpa | PTE_P | PTE_US | PTE_A | PTE_D | (write && rights & RIGHTS_DIRTY ? PTE_RW : 0) |
           (execute ? 0 : PTE_XD) | (rights & RIGHTS_PWT ? PTE_PWT : 0) | (rights & RIGHTS_PCD ? PTE_PCD : 0);
}

uint64_t shadow_table_value(const Shadow *shadow, uint32_t page)
{
    return shadow_page_gpa(shadow, page) | PTE_P | PTE_RW | PTE_US | PTE_A;
}

/* The same for a 4 KiB page: traced ones are not writable, the monitor's are not there. */
uint64_t shadow_small_leaf(const Shadow *shadow, uint32_t role, uint32_t rights, gpa_t gpa)
{
    const Frame *frame = shadow_frame(shadow, gpa);
    if (!frame && shadow_is_monitors(shadow, gpa))
        return 0;
    return leaf_value(role, rights, gpa) & ~(frame && frame_is_traced(frame) ? PTE_RW : 0);
}

/* One 2 MiB entry when that says the same: all of it the guest's RAM and not traced (or not writable), or no RAM at
 * all. */
uint64_t shadow_large_leaf(const Shadow *shadow, uint32_t role, uint32_t rights, gpa_t gpa)
{
    uint64_t value = leaf_value(role, rights, gpa) | PTE_PS;
    if (!(value & PTE_P))
        return 0;
    const Memslot *slot = guest_memory_find(shadow->memory, gpa);
    if (!slot) {
        for (size_t i = 0; (slot = guest_memory_slot(shadow->memory, i)); i++)
            if (slot->gpa < gpa + LARGE_SIZE && gpa < slot->gpa + slot->size)
                return 0;
        return value;
    }
    if (gpa + LARGE_SIZE > MIN(slot->gpa + slot->size, shadow->config.guest_end))
        return 0;
    return value & PTE_RW && shadow->large[gpa >> LARGE_BITS].traced ? 0 : value;
}

/* Rights of an entry below those of the levels above it. */
static uint32_t entry_rights(uint32_t role, uint32_t above, uint64_t entry)
{
    return above & ((entry & PTE_RW ? PAGE_WRITE : 0) | (entry & PTE_US ? PAGE_USER : 0) |
                    (entry & PTE_XD && role & ROLE_NXE ? 0 : PAGE_EXECUTE));
}

uint32_t shadow_leaf_rights(uint32_t role, uint32_t above, uint64_t entry)
{
    return entry_rights(role, above, entry) | (entry & PTE_D ? RIGHTS_DIRTY : 0) |
           (entry & PTE_PWT ? RIGHTS_PWT : 0) | (entry & PTE_PCD ? RIGHTS_PCD : 0);
}

static uint64_t reserved_bits(const Shadow *shadow, uint32_t role, uint64_t entry, uint32_t level)
{
    uint64_t mask = ((1ull << 52) - (1ull << shadow->config.physical_bits)) | (role & ROLE_NXE ? 0 : PTE_XD);
    if (level == 4)
        mask |= PTE_PS;
    else if (level > 1 && entry & PTE_PS)
        mask |= (1ull << (12 + 9 * (level - 1))) - (1ull << 13);
    return entry & mask;
}

/* What the guest's entry of a table with that shadow page allows there now, as far as it is there already: what the
 * shadow says when that is right, 0 when it is not. A last-level entry may be made without a fault (`fill`). */
static uint64_t entry_now(const Shadow *shadow, uint32_t page, uint32_t index, uint64_t guest, bool fill)
{
    const ShadowPage *p = &shadow->pages[page];
    uint64_t old = shadow_entries(shadow, page)[index];
    if (!(guest & PTE_P) || !(guest & PTE_A) || reserved_bits(shadow, p->role, guest, p->level))
        return 0;
    if (p->level == 1)
        return old || fill ? shadow_small_leaf(shadow, p->role, shadow_leaf_rights(p->role, p->rights, guest),
                                               FRAME_OF(guest))
                           : 0;
    if (!old)
        return 0;
    if (!(guest & PTE_PS)) {
        uint32_t child = shadow_page_at(shadow, old), rights = entry_rights(p->role, p->rights, guest);
        const ShadowPage *c = &shadow->pages[child];
        bool right = !(old & PTE_PS) && !c->direct && c->gpa == FRAME_OF(guest) && c->rights == rights;
        return right ? old : 0;
    }
    uint32_t rights = shadow_leaf_rights(p->role, p->rights, guest);
    gpa_t gpa = guest & ~((1ull << (12 + 9 * (p->level - 1))) - 1) & FRAME_OF(~0ull);
    if (old & PTE_PS)
        return p->level == 2 ? shadow_large_leaf(shadow, p->role, rights, gpa) : 0;
    const ShadowPage *c = &shadow->pages[shadow_page_at(shadow, old)];
    return c->direct && c->gpa == gpa && c->rights == rights ? old : 0;
}

/* Make one entry of every shadow page of a guest table right again. Returns how many were not. */
uint32_t shadow_refresh(Shadow *shadow, gpa_t table, uint32_t index, uint64_t guest, bool fill)
{
    uint32_t changed = 0;
    for (uint32_t at = 0; (at = shadow_page_of(shadow, table, at));) {
        const ShadowPage *page = &shadow->pages[at - 1];
        if (page->level == 4 && index == shadow->config.monitor_slot)
            continue;
        uint64_t old = shadow_entries(shadow, at - 1)[index];
        if (!old && !fill)
            continue;
        uint64_t value = entry_now(shadow, at - 1, index, guest, fill);
        shadow->statistics.prefetched += value && !old;
        changed += shadow_entry_set(shadow, at - 1, index, value);
    }
    return changed;
}

/* Compare all of a table with its shadows. */
void shadow_compare(Shadow *shadow, gpa_t table)
{
    const uint64_t *guest = guest_memory_ptr(shadow->memory, table, GUEST_PAGE_SIZE, false);
    for (uint32_t i = 0; guest && i < ENTRIES; i++)
        shadow->statistics.sync_drops +=
            shadow_refresh(shadow, table, i, __atomic_load_n(&guest[i], __ATOMIC_RELAXED), false);
    shadow->statistics.synced++;
}
