/*
 * 4-level paging (Intel SDM 3A §4.5): makes the kernel's own tables and walks them. RAM is mapped one to one, in 2
 * MiB pages where alignment allows, never executable; the kernel's image page by page with the rights of its
 * sections; page 0 and the page below the kernel's stack not at all. USER is set for ring 3's region only.
 * Left out: 1 GiB pages, PCID, 5 levels, unmapping, freeing of tables.
 */
#include "kernel.h"
#include "x86.h"

#define LARGE_SIZE 0x200000ul
#define LEVELS     4
#define LOW_MEMORY 0x200000ul /* the first 2 MiB are mapped in 4 KiB pages */
#define CR4_SMEP   (1ul << 20)
#define CR4_PGE    (1ul << 7)

static uint64_t *pml4;
static uint64_t nx;
static uint64_t window_next = PHYS_WINDOW;

uint64_t paging_nx(void) { return nx; }

static unsigned table_index(uint64_t va, int level) /* level 0: PML4, 3: page table */
{
    return va >> (39 - 9 * level) & 511;
}

/* The entry for va at a level, making the tables on the way; NULL: out of memory, or a large page is in the way. */
static uint64_t *paging_entry(uint64_t va, int level, uint64_t flags)
{
    uint64_t *table = pml4;
    for (int l = 0; l < level; l++) {
        uint64_t *entry = &table[table_index(va, l)];
        if (!(*entry & PTE_PRESENT)) {
            uint64_t *next = page_alloc();
            if (!next)
                return NULL;
            *entry = (uint64_t)next | PTE_PRESENT | PTE_WRITE | (flags & PTE_USER);
        } else if (*entry & PTE_LARGE) {
            return NULL;
        }
        table = (uint64_t *)(*entry & PTE_ADDRESS);
    }
    return &table[table_index(va, level)];
}

bool paging_map(uint64_t va, uint64_t pa, uint64_t size, uint64_t flags)
{
    uint64_t end = va + size;
    while (va < end) {
        if (!((va | pa) % LARGE_SIZE) && end - va >= LARGE_SIZE) {
            uint64_t *pde = paging_entry(va, 2, flags);
            if (!pde)
                return false;
            *pde = pa | flags | PTE_PRESENT | PTE_LARGE;
            va += LARGE_SIZE, pa += LARGE_SIZE;
            continue;
        }
        uint64_t *pte = paging_entry(va, 3, flags); /* then along the page table, without walking again */
        if (!pte)
            return false;
        do {
            *pte++ = pa | flags | PTE_PRESENT;
            va += PAGE_SIZE, pa += PAGE_SIZE;
        } while (va < end && va % LARGE_SIZE);
    }
    return true;
}

PageWalk paging_walk(uint64_t va)
{
    PageWalk walk = {.flags = PTE_WRITE | PTE_USER};
    uint64_t *table = (uint64_t *)(read_cr3() & PTE_ADDRESS);
    int64_t sign = (int64_t)va >> 47;
    if (sign != 0 && sign != -1) /* not canonical: no walk at all */
        return walk;
    for (int level = 0; level < LEVELS; level++) {
        uint64_t entry = table[table_index(va, level)];
        walk.entry[walk.levels++] = entry;
        if (!(entry & PTE_PRESENT))
            return walk;
        walk.flags &= entry | ~(PTE_WRITE | PTE_USER); /* both must be set at every level (§4.6) */
        walk.flags |= entry & PTE_NX;                  /* one NX anywhere is enough */
        if (level == 3 || (level > 0 && entry & PTE_LARGE)) {
            walk.page_size = 1ul << (39 - 9 * level);
            walk.physical = (entry & PTE_ADDRESS & ~(walk.page_size - 1)) | (va & (walk.page_size - 1));
            walk.flags |= entry & ~PTE_ADDRESS & ~(PTE_WRITE | PTE_USER);
            walk.mapped = true;
            return walk;
        }
        table = (uint64_t *)(entry & PTE_ADDRESS);
    }
    return walk;
}

void *phys_map(uint64_t pa, uint64_t size, bool device)
{
    uint64_t offset = pa % PAGE_SIZE, va = window_next;
    if (!size || size > LARGE_SIZE || pa > PTE_ADDRESS - size)
        return NULL;
    uint64_t bytes = (offset + size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
    /* PCD and PWT: uncacheable with the PAT's reset values (§4.9.2). */
    uint64_t flags = nx | PTE_WRITE | (device ? PTE_PCD | PTE_PWT : 0);
    if (!paging_map(va, pa - offset, bytes, flags))
        return NULL;
    window_next += bytes;
    return (void *)(va + offset);
}

static void map_low_memory(void)
{
    uint64_t text = (uint64_t)kernel_start, text_end = (uint64_t)kernel_text_end;
    uint64_t rodata_end = (uint64_t)kernel_rodata_end, guard = (uint64_t)kernel_stack_guard;
    uint64_t data = PTE_WRITE | PTE_GLOBAL | nx;
    paging_map(PAGE_SIZE, PAGE_SIZE, text - PAGE_SIZE, data); /* page 0 stays away */
    paging_map(text, text, text_end - text, PTE_GLOBAL);
    paging_map(text_end, text_end, rodata_end - text_end, PTE_GLOBAL | nx);
    paging_map(rodata_end, rodata_end, guard - rodata_end, data);
    guard += PAGE_SIZE;
    paging_map(guard, guard, LOW_MEMORY - guard, data);
}

void paging_init(void)
{
    nx = rdmsr(MSR_EFER) & 0x800 ? PTE_NX : 0;
    pml4 = page_alloc();
    if (!pml4) {
        print("kernel: no memory for page tables\n");
        for (;;)
            sti_hlt();
    }
    map_low_memory();
    const MemoryRange *ranges;
    size_t count = memory_ranges(&ranges);
    for (size_t i = 0; i < count; i++) {
        uint64_t base = ranges[i].base, end = base + ranges[i].size;
        if (ranges[i].type != 1 || base >= MEMORY_TOP)
            continue;
        base = base < LOW_MEMORY ? LOW_MEMORY : (base + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
        end = end < ranges[i].base || end > MEMORY_TOP ? MEMORY_TOP : end & ~(PAGE_SIZE - 1);
        if (base < end)
            paging_map(base, base, end - base, PTE_WRITE | PTE_GLOBAL | nx);
    }
    write_cr3((uint64_t)pml4);
    write_cr4(read_cr4() | CR4_PGE);
}
