/*
 * The exception report: which one, why as far as the error code tells (Intel SDM 3A §6.13, §6.15), and the
 * registers.
 */
#include "kernel.h"
#include "x86.h"

static const struct {
    const char *name, *meaning;
} vectors[] = {
    [0] = {"#DE", "divide error"},
    [1] = {"#DB", "debug"},
    [2] = {"NMI", "non-maskable interrupt"},
    [3] = {"#BP", "breakpoint"},
    [4] = {"#OF", "overflow"},
    [5] = {"#BR", "bound range exceeded"},
    [6] = {"#UD", "invalid opcode"},
    [7] = {"#NM", "no math coprocessor"},
    [8] = {"#DF", "double fault"},
    [9] = {"", "coprocessor segment overrun"},
    [10] = {"#TS", "invalid TSS"},
    [11] = {"#NP", "segment not present"},
    [12] = {"#SS", "stack fault"},
    [13] = {"#GP", "general protection"},
    [14] = {"#PF", "page fault"},
    [16] = {"#MF", "x87 floating point"},
    [17] = {"#AC", "alignment check"},
    [18] = {"#MC", "machine check"},
    [19] = {"#XM", "SIMD floating point"},
};

const char *report_vector_name(uint64_t vector)
{
    return vector < ARRAY_SIZE(vectors) && vectors[vector].name ? vectors[vector].name : "#??";
}

static void report_page_fault(uint64_t error, uint64_t address)
{
    print("  CR2 = %016lx: %s by ring %d, %s\n", address,
          error & 16  ? "instruction fetch"
          : error & 2 ? "write"
                      : "read",
          error & 4 ? 3 : 0,
          error & 8   ? "reserved bit set in a page table"
          : error & 1 ? "the page's rights forbid it"
                      : "no page there");
}

static void report_selector(uint64_t error)
{
    print("  error code %04lx: %s entry %lu%s\n", error,
          error & 2   ? "IDT"
          : error & 4 ? "LDT"
                      : "GDT",
          error >> 3, error & 1 ? ", during delivery of an external event" : "");
}

/* Reads memory that may not be there: asks the page tables first. */
static bool report_peek(uint64_t va, void *to, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        PageWalk walk = paging_walk(va + i);
        if (!walk.mapped || walk.physical >= MEMORY_TOP || !paging_walk(walk.physical).mapped)
            return false;
        ((uint8_t *)to)[i] = *(uint8_t *)walk.physical;
    }
    return true;
}

static void report_memory(const TrapFrame *f)
{
    uint8_t code[12];
    uint64_t word;
    if (report_peek(f->rip, code, sizeof(code))) {
        print("  code at rip:");
        for (unsigned i = 0; i < sizeof(code); i++)
            print(" %02x", code[i]);
        print("\n");
    }
    print("  stack:");
    for (unsigned i = 0; i < 4; i++) {
        if (!report_peek(f->rsp + 8 * i, &word, sizeof(word))) {
            print(" (no page at %lx)", f->rsp + 8 * i);
            break;
        }
        print(" %016lx", word);
    }
    print("\n");
}

void report_exception(const TrapFrame *f)
{
    uint64_t cr2 = read_cr2();
    const char *meaning =
        f->vector < ARRAY_SIZE(vectors) && vectors[f->vector].meaning ? vectors[f->vector].meaning : "reserved";
    print("\n*** exception %lu, %s %s, in ring %lu at %016lx\n", f->vector, report_vector_name(f->vector), meaning,
          f->cs & 3, f->rip);
    if (f->vector == 14)
        report_page_fault(f->error, cr2);
    else if (f->vector >= 10 && f->vector <= 13 && f->error)
        report_selector(f->error);
    else if (f->vector == 8)
        print("  the CPU could not deliver an exception; this handler runs on its own stack (IST %d)\n"
              "  CR2 = %016lx%s\n",
              IST_DOUBLE_FAULT, cr2,
              cr2 - (uint64_t)kernel_stack_guard < PAGE_SIZE ? ": the guard page below the kernel stack" : "");
    print("  rax %016lx rbx %016lx rcx %016lx rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
    print("  rsi %016lx rdi %016lx rbp %016lx rsp %016lx\n", f->rsi, f->rdi, f->rbp, f->rsp);
    print("  r8  %016lx r9  %016lx r10 %016lx r11 %016lx\n", f->r8, f->r9, f->r10, f->r11);
    print("  r12 %016lx r13 %016lx r14 %016lx r15 %016lx\n", f->r12, f->r13, f->r14, f->r15);
    print("  cs %04lx ss %04lx rflags %08lx error %lx\n", f->cs, f->ss, f->rflags, f->error);
    print("  cr0 %08lx cr2 %016lx cr3 %08lx cr4 %08lx efer %lx\n", read_cr0(), cr2, read_cr3(), read_cr4(),
          rdmsr(MSR_EFER));
    report_memory(f);
}
