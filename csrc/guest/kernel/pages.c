/*
 * The `pages` command: one virtual address through all levels of the page tables, or a summary of everything
 * mapped.
 */
#include "kernel.h"
#include "x86.h"

static void print_flags(uint64_t e)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } bits[] = {
        {PTE_PRESENT, "P"},  {PTE_WRITE, "W"}, {PTE_USER, "U"},   {PTE_PWT, "PWT"},  {PTE_PCD, "PCD"},
        {PTE_ACCESSED, "A"}, {PTE_DIRTY, "D"}, {PTE_LARGE, "PS"}, {PTE_GLOBAL, "G"}, {PTE_NX, "NX"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
        if (e & bits[i].bit)
            print(" %s", bits[i].name);
}

static void print_walk(uint64_t va)
{
    static const char *const names[] = {"PML4E", "PDPTE", "PDE", "PTE"};
    PageWalk walk = paging_walk(va);
    print("virtual %016lx, CR3 %lx\n", va, read_cr3());
    if (!walk.levels) {
        print("  not canonical: bits 63-47 must be equal (#GP, not #PF)\n");
        return;
    }
    for (int level = 0; level < walk.levels; level++) {
        print("  %-5s [%3lu] = %016lx ", names[level], va >> (39 - 9 * level) & 511, walk.entry[level]);
        print_flags(walk.entry[level]);
        print("\n");
    }
    if (!walk.mapped) {
        print("  not mapped: %s is not present\n", names[walk.levels - 1]);
        return;
    }
    print("  physical %lx, in a page of %lu KiB; %s, %s, %s\n", walk.physical, walk.page_size / 1024,
          walk.flags & PTE_USER ? "ring 3 and ring 0" : "ring 0 only",
          walk.flags & PTE_WRITE ? "writable" : "read-only", walk.flags & PTE_NX ? "not executable" : "executable");
}

typedef struct Run {
    uint64_t start, end, flags, page_size;
} Run;

static void print_run(const Run *run)
{
    if (run->end == run->start)
        return;
    print("  %012lx - %012lx %8lu KiB, %4lu KiB pages, %c%c%c %s%s\n", run->start, run->end - 1,
          (run->end - run->start) / 1024, run->page_size / 1024, 'r', run->flags & PTE_WRITE ? 'w' : '-',
          run->flags & PTE_NX ? '-' : 'x', run->flags & PTE_USER ? "user" : "kernel",
          run->flags & PTE_PCD ? ", uncached" : "");
}

/* Goes through the lower half; a missing entry skips all that it would cover. */
static void print_summary(void)
{
    const uint64_t kept = PTE_WRITE | PTE_USER | PTE_NX | PTE_PCD;
    Run run = {0};
    uint64_t va = 0, tables = 1;
    print("CR3 %lx; mapped, by runs of equal rights:\n", read_cr3());
    while (va < 1ul << 47) {
        PageWalk walk = paging_walk(va);
        uint64_t size = walk.mapped ? walk.page_size : 1ul << (39 - 9 * (walk.levels - 1));
        if (!(va & 0x1fffff) && walk.levels == 4)
            tables++;
        if (!(va & 0x3fffffff) && walk.levels >= 3)
            tables++;
        if (!(va & 0x7fffffffff) && walk.levels >= 2)
            tables++;
        if (walk.mapped) {
            if (run.end != va || run.flags != (walk.flags & kept) || run.page_size != walk.page_size) {
                print_run(&run);
                run = (Run){.start = va, .flags = walk.flags & kept, .page_size = walk.page_size};
            }
            run.end = va + size;
        }
        va = (va & ~(size - 1)) + size;
    }
    print_run(&run);
    print("page tables: %lu pages; NX %s, WP %s, SMEP %s\n", tables, rdmsr(MSR_EFER) & 0x800 ? "on" : "off",
          read_cr0() & 0x10000 ? "on" : "off", read_cr4() & 0x100000 ? "on" : "off");
}

void command_pages(int argc, char **argv)
{
    uint64_t va;
    if (argc < 2)
        print_summary();
    else if (!parse_number(argv[1], &va))
        print("pages: not an address: %s\n", argv[1]);
    else
        print_walk(va);
}
