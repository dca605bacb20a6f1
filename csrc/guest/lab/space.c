/*
 * Address spaces of programs: code and gate page shared, stack and heap given page by page when first touched, all
 * of it copied at a fork by sharing the pages read-only (PTE_COW) until somebody writes.
 */
#include "lab_kernel.h"

#define USER_STACK_PAGES 4u
#define USER_INDEX       (USER_BASE >> 39 & 511)
#define PF_PRESENT       1u /* error code of a page fault: Intel SDM 3A §4.7 */
#define PF_WRITE         2u

extern char user_image[], user_image_end[], gate_page[];

static bool map_shared(uint64_t root, uint64_t va, uint64_t from, uint64_t size)
{
    for (uint64_t done = 0; done < size; done += PAGE_SIZE) {
        uint64_t *entry = paging_entry(root, va + done, PTE_USER, true);
        if (!entry)
            return false;
        *entry = (from + done) | PTE_PRESENT | PTE_USER; /* not live: no CR3 has been there */
    }
    return true;
}

uint64_t space_new(void)
{
    uint64_t *pml4 = page_alloc(), *kernel = (uint64_t *)paging_root();
    if (!pml4)
        return 0;
    pml4[0] = kernel[0];
    pml4[PHYS_WINDOW >> 39 & 511] = kernel[PHYS_WINDOW >> 39 & 511];
    uint64_t root = (uint64_t)pml4, code = (uint64_t)user_image;
    if (map_shared(root, USER_BASE, code, (uint64_t)user_image_end - code) &&
        map_shared(root, USER_GATE, (uint64_t)gate_page, PAGE_SIZE))
        return root;
    space_free(root);
    return 0;
}

static bool page_private(uint64_t entry) { return entry & (PTE_WRITE | PTE_COW); } /* else the kernel's own image */

typedef void (*LeafVisitor)(uint64_t *table, uint64_t va, void *context);

/* The tables of the program's part: leaf() for each page table, then table() for it and, after all below, for
 * others. */
static void space_visit(uint64_t root, LeafVisitor leaf, void (*table)(void *), void *context)
{
    uint64_t top = ((uint64_t *)root)[USER_INDEX];
    uint64_t *pdpt = (uint64_t *)(top & PTE_ADDRESS);
    for (unsigned i = 0; top & PTE_PRESENT && i < 512; i++) {
        uint64_t *pd = (uint64_t *)(pdpt[i] & PTE_ADDRESS);
        if (!(pdpt[i] & PTE_PRESENT))
            continue;
        for (unsigned k = 0; k < 512; k++) {
            uint64_t *pt = (uint64_t *)(pd[k] & PTE_ADDRESS);
            if (!(pd[k] & PTE_PRESENT))
                continue;
            if (leaf)
                leaf(pt, USER_BASE + ((uint64_t)i << 30) + ((uint64_t)k << 21), context);
            if (table)
                table(pt);
        }
        if (table)
            table(pd);
    }
    if (table && top & PTE_PRESENT)
        table(pdpt);
}

static void pages_release(uint64_t *table, uint64_t va, void *context)
{
    (void)va, (void)context;
    for (unsigned i = 0; i < 512; i++)
        if (table[i] & PTE_PRESENT && page_private(table[i]))
            page_release(table[i] & PTE_ADDRESS);
}

/* The space must not be in CR3. Tables are given up before their pages are somebody else's. */
void space_free(uint64_t root)
{
    space_visit(root, pages_release, table_release, NULL);
    table_release((void *)root);
    paging_commit();
    space_visit(root, NULL, page_free, NULL);
    page_free((void *)root);
}

typedef struct Copy {
    uint64_t to;
    bool failed;
} Copy;

static void table_copy(uint64_t *table, uint64_t va, void *context)
{
    Copy *copy = context;
    for (unsigned i = 0; i < 512; i++) {
        uint64_t entry = table[i];
        if (!(entry & PTE_PRESENT) || !page_private(entry))
            continue;
        uint64_t *to = paging_entry(copy->to, va + i * PAGE_SIZE, PTE_USER, true);
        if (!to) {
            copy->failed = true;
            return;
        }
        if (entry & PTE_WRITE) {
            entry = (entry & ~PTE_WRITE) | PTE_COW;
            pte_set(&table[i], entry);
        }
        *to = entry & ~(PTE_ACCESSED | PTE_DIRTY);
        page_share(entry & PTE_ADDRESS);
    }
}

uint64_t space_copy(uint64_t root)
{
    Copy copy = {.to = space_new()};
    if (!copy.to)
        return 0;
    space_visit(root, table_copy, NULL, &copy);
    if (!PARAVIRT)
        write_cr3(root); /* rights went down in the live space */
    if (!copy.failed)
        return copy.to;
    space_free(copy.to);
    return 0;
}

static bool may_have(uint64_t va)
{
    return (va >= USER_STACK_TOP - USER_STACK_PAGES * PAGE_SIZE && va < USER_STACK_TOP) ||
           (va >= USER_HEAP && va < USER_HEAP + USER_HEAP_PAGES * PAGE_SIZE);
}

bool space_fault(uint64_t root, uint64_t va, uint64_t error)
{
    if (!may_have(va))
        return false;
    uint64_t *entry = paging_entry(root, va, PTE_USER, true);
    if (!entry)
        return false;
    uint64_t old = *entry, rights = PTE_PRESENT | PTE_WRITE | PTE_USER | paging_nx();
    rights |= PTE_ACCESSED | PTE_DIRTY; /* it is about to be: saves the CPU, or a shadow, coming back for it */
    if (!(old & PTE_PRESENT)) {
        uint64_t page = (uint64_t)page_alloc();
        if (!page)
            return false;
        pte_set(entry, page | rights);
    } else if (error & PF_WRITE && old & PTE_COW) {
        uint64_t from = old & PTE_ADDRESS, page = from;
        if (page_shared(from)) {
            page = (uint64_t)page_alloc();
            if (!page)
                return false;
            memcpy((void *)page, (void *)from, PAGE_SIZE);
            page_release(from);
        }
        pte_set(entry, page | rights);
        paging_flush(va);
    } else if (error & PF_PRESENT && !(error & PF_WRITE && old & PTE_WRITE)) {
        return false; /* what the entry does not allow */
    }
    return true;
}

uint64_t space_trim(uint64_t root)
{
    uint64_t count = 0;
    for (uint64_t va = USER_HEAP; va < USER_HEAP + USER_HEAP_PAGES * PAGE_SIZE; va += PAGE_SIZE) {
        uint64_t *entry = paging_entry(root, va, PTE_USER, false);
        if (!entry || !(*entry & PTE_PRESENT))
            continue;
        page_release(*entry & PTE_ADDRESS);
        pte_set(entry, 0);
        paging_flush(va);
        count++;
    }
    return count;
}
