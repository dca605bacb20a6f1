/*
 * The `ring3` command: maps the program of user/ (a flat binary inside the kernel's image), lets the same small
 * loop run in ring 0 and in ring 3, and ends with the program breaking a rule of its choice.
 */
#include "kernel.h"
#include "x86.h"

#define LOOP_COUNT  2000
#define STACK_PAGES 2

extern char user_image[], user_image_end[];

static const char *const crimes[] = {"hlt", "cli", "cr3", "out", "peek", "null", "nx", "none"};

static bool user_map(void)
{
    static bool mapped;
    if (mapped)
        return true;
    for (unsigned i = 1; i <= STACK_PAGES; i++) {
        void *page = page_alloc();
        if (!page || !paging_map(USER_STACK_TOP - i * PAGE_SIZE, (uint64_t)page, PAGE_SIZE,
                                 PTE_USER | PTE_WRITE | paging_nx()))
            return false;
    }
    mapped = paging_map(USER_BASE, (uint64_t)user_image, (uint64_t)(user_image_end - user_image), PTE_USER);
    return mapped;
}

static uint64_t loop_cycles(void)
{
    uint64_t count = LOOP_COUNT, start = rdtsc();
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(count) : : "cc");
    return (rdtsc() - start) * 10 / LOOP_COUNT;
}

void command_ring3(int argc, char **argv)
{
    size_t crime = 0;
    if (argc > 1)
        while (crime < ARRAY_SIZE(crimes) && strcmp(crimes[crime], argv[1]))
            crime++;
    if (crime == ARRAY_SIZE(crimes)) {
        print("ring3: how to end is one of: hlt cli cr3 out peek null nx none\n");
        return;
    }
    if (!user_map()) {
        print("ring3: no memory\n");
        return;
    }
    uint64_t cycles = loop_cycles();
    print("[ring 0] doors: ");
    syscall_print_doors();
    print("[ring 0] one turn of `dec; jnz` takes %lu.%lu TSC cycles here\n", cycles / 10, cycles % 10);
    print("[ring 0] IRETQ to ring 3 at %lx, stack %lx\n", USER_BASE, USER_STACK_TOP);
    long result = user_run(USER_BASE, syscall_doors(), crime);
    print("[ring 0] back in the kernel: the program %s %ld\n", result < 0 ? "was ended by exception" : "returned",
          result < 0 ? -result : result);
}
