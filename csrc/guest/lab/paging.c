/*
 * The kernel's own map, 4-level (Intel SDM 3A §4.5): RAM one to one, in 2 MiB pages but for the first 2 MiB, where
 * the kernel's sections have their rights and page 0 and the page below the stack are missing. Every address space
 * shares its PML4 entries 0 and 2.
 */
#include "lab_kernel.h"

#define LARGE_SIZE 0x200000ul

static uint64_t *root;
static uint64_t nx;
static uint64_t window_next = PHYS_WINDOW;

uint64_t paging_nx(void) { return nx; }

uint64_t paging_root(void) { return (uint64_t)root; }

static unsigned table_index(uint64_t va, int level) { return va >> (39 - 9 * level) & 511; }

/*
 * The entry for va at a level (0: PML4, 3: page table). Other spaces than the one in CR3 get new tables before they
 * are first loaded: then those are memory like any other.
 */
static uint64_t *entry_at(uint64_t *table, uint64_t va, int level, uint64_t flags, bool make)
{
    bool live = (uint64_t)table == process_root();
    for (int l = 0; l < level; l++) {
        uint64_t *entry = &table[table_index(va, l)];
        if (!(*entry & PTE_PRESENT)) {
            uint64_t *next = make ? page_alloc() : NULL;
            if (!next)
                return NULL;
            uint64_t value = (uint64_t)next | PTE_PRESENT | PTE_WRITE | (flags & PTE_USER);
            if (live) {
                pte_set(entry, value);
                paging_commit(); /* the way down goes through it */
            } else {
                *entry = value;
            }
        } else if (*entry & PTE_LARGE) {
            return NULL;
        }
        table = (uint64_t *)(*entry & PTE_ADDRESS);
    }
    return &table[table_index(va, level)];
}

uint64_t *paging_entry(uint64_t space, uint64_t va, uint64_t flags, bool make)
{
    return entry_at((uint64_t *)space, va, 3, flags, make);
}

bool paging_map(uint64_t va, uint64_t pa, uint64_t size, uint64_t flags)
{
    uint64_t end = va + size;
    while (va < end) {
        bool large = !((va | pa) % LARGE_SIZE) && end - va >= LARGE_SIZE;
        uint64_t *entry = entry_at(root, va, large ? 2 : 3, flags, true);
        if (!entry)
            return false;
        pte_set(entry, pa | flags | PTE_PRESENT | (large ? PTE_LARGE : 0));
        va += large ? LARGE_SIZE : PAGE_SIZE;
        pa += large ? LARGE_SIZE : PAGE_SIZE;
    }
    paging_commit();
    return true;
}

void *phys_map(uint64_t pa, uint64_t size, bool device)
{
    uint64_t offset = pa % PAGE_SIZE, va = window_next;
    if (!size || size > LARGE_SIZE || pa > PTE_ADDRESS - size)
        return NULL;
    uint64_t bytes = (offset + size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
    /* PCD and PWT: uncacheable with the PAT's reset values (§4.9.2). */
    if (!paging_map(va, pa - offset, bytes, nx | PTE_WRITE | (device ? PTE_PCD | PTE_PWT : 0)))
        return NULL;
    window_next += bytes;
    return (void *)(va + offset);
}

static void map_kernel(void)
{
    uint64_t text = (uint64_t)kernel_start, text_end = (uint64_t)kernel_text_end, data = PTE_WRITE | nx;
    uint64_t rodata_end = (uint64_t)kernel_rodata_end, guard = (uint64_t)kernel_stack_guard;
    paging_map(PAGE_SIZE, PAGE_SIZE, text - PAGE_SIZE, data); /* page 0 stays away */
    paging_map(text, text, text_end - text, 0);
    paging_map(text_end, text_end, rodata_end - text_end, nx);
    paging_map(rodata_end, rodata_end, guard - rodata_end, data);
    guard += PAGE_SIZE;
    paging_map(guard, guard, LARGE_SIZE - guard, data);
}

void paging_init(void)
{
    nx = PARAVIRT || cpuid(0x80000001, 0).edx & 1u << 20 ? PTE_NX : 0;
    if (!PARAVIRT) {
        if (nx)
            wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 0x800); /* NXE */
        write_cr0(read_cr0() | 0x10022);              /* WP, NE, MP */
    }
    root = page_alloc();
    map_kernel();
    if (lab_ram_end() > LARGE_SIZE)
        paging_map(LARGE_SIZE, LARGE_SIZE, lab_ram_end() - LARGE_SIZE, PTE_WRITE | nx);
    /* Entry 2's table now: spaces made later share it. */
    entry_at(root, PHYS_WINDOW, 1, 0, true);
    address_space_load((uint64_t)root, 0);
    paging_commit();
}
