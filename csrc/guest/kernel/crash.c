/*
 * The `crash` command: the kernel breaks a rule itself, on purpose. All but `triple` end in the report of report.c.
 */
#include "kernel.h"
#include "x86.h"

static void crash_pf(void)
{
    __asm__ volatile("movq $1, (%0)" : : "r"(0x10ul) : "memory"); /* page 0 is not mapped */
}

static void crash_gp(void)
{
    /* Not canonical (Intel SDM 1 §3.3.7.1). */
    __asm__ volatile("movq $1, (%0)" : : "r"(0x8000000000000000ul) : "memory");
}

static void crash_ud(void) { __asm__ volatile("ud2"); }

static void crash_de(void) { __asm__ volatile("divl %%ecx" : : "a"(1), "d"(0), "c"(0) : "cc"); }

/*
 * Recursion without end runs into the guard page; the #PF cannot be pushed on that same stack: #DF, on its own
 * stack.
 */
static unsigned __attribute__((noinline)) crash_df_deeper(volatile unsigned *above)
{
    volatile unsigned frame[64];
    frame[0] = above ? above[0] + 1 : 0;
    if (frame[0] == 0xffffffff) /* never: the stack is much shorter */
        return 0;
    return crash_df_deeper(frame) + frame[0];
}

static void crash_df(void) { crash_df_deeper(NULL); }

/*
 * With an empty IDT neither the exception nor the double fault nor anything else can be delivered: the CPU shuts
 * down.
 */
static void crash_triple(void)
{
    TablePointer empty = {0, 0};
    lidt(&empty);
    __asm__ volatile("ud2");
}

void command_crash(int argc, char **argv)
{
    static const struct {
        const char *name, *what;
        void (*run)(void);
    } kinds[] = {
        {"pf", "page fault: writing to an unmapped page", crash_pf},
        {"gp", "general protection: a non-canonical address", crash_gp},
        {"ud", "invalid opcode: UD2", crash_ud},
        {"de", "divide error: 1 / 0", crash_de},
        {"df", "double fault: the stack runs into its guard page", crash_df},
        {"triple", "triple fault: an empty IDT; resets the machine", crash_triple},
    };
    const char *kind = argc > 1 ? argv[1] : "pf";
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (!strcmp(kinds[i].name, kind)) {
            print("crash: %s\n", kinds[i].what);
            kinds[i].run();
            return;
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        print("  crash %-7s %s\n", kinds[i].name, kinds[i].what);
}
