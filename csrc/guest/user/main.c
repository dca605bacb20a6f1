/*
 * The ring 3 program. It says where it is, goes through every open door into the kernel and back, computes with SSE
 * (which the kernel itself never touches), and then does what ring 3 must not do.
 */
#include "../layout.h"

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden) /* one image: addresses relative to RIP, no GOT */
typedef int64_t (*Door)(uint64_t number, uint64_t arg0, uint64_t arg1);
int64_t call_syscall(uint64_t number, uint64_t arg0, uint64_t arg1);
int64_t call_int80(uint64_t number, uint64_t arg0, uint64_t arg1);
int64_t call_int3(uint64_t number, uint64_t arg0, uint64_t arg1);
long user_main(unsigned doors, unsigned ending);
#pragma GCC visibility pop

#define LOOP_COUNT 2000
#define CALLS      50

enum { END_HLT, END_CLI, END_CR3, END_OUT, END_PEEK, END_NULL, END_NX };

typedef struct Line {
    char text[120];
    size_t used;
} Line;

static void add(Line *line, const char *text)
{
    while (*text && line->used < sizeof(line->text))
        line->text[line->used++] = *text++;
}

static void add_number(Line *line, uint64_t value, unsigned base)
{
    char digits[21];
    size_t i = sizeof(digits) - 1;
    digits[i] = 0;
    do {
        digits[--i] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    add(line, digits + i);
}

static void say(Line *line, Door door)
{
    add(line, "\n");
    door(SYS_WRITE, (uint64_t)line->text, line->used);
    line->used = 0;
}

static uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static void greet(Line *line, Door door, const char *name)
{
    uint64_t start = rdtsc();
    for (int i = 0; i < CALLS; i++)
        door(SYS_TICKS, 0, 0);
    uint64_t cycles = (rdtsc() - start) / CALLS;
    add(line, "[ring 3] hello by ");
    add(line, name);
    add(line, ": ");
    add_number(line, cycles, 10);
    add(line, " TSC cycles for a system call and back");
    say(line, door);
}

static void compute(Line *line, Door door)
{
    uint64_t count = LOOP_COUNT, start = rdtsc();
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(count) : : "cc");
    uint64_t cycles = (rdtsc() - start) * 10 / LOOP_COUNT;
    add(line, "[ring 3] one turn of `dec; jnz` takes ");
    add_number(line, cycles / 10, 10);
    add(line, ".");
    add_number(line, cycles % 10, 10);
    add(line, " TSC cycles here");
    say(line, door);

    uint64_t whole;
    double sum = 0; /* 1 + 1/2 + 1/4 + ... in SSE2 registers */
    for (double term = 1; term > 1e-9; term *= 0.5)
        sum += term;
    whole = (uint64_t)(sum * 1000 + 0.5);
    add(line, "[ring 3] SSE2: 1 + 1/2 + 1/4 + ... = ");
    add_number(line, whole / 1000, 10);
    add(line, whole % 1000 < 10 ? ".00" : ".");
    add_number(line, whole % 1000, 10);
    say(line, door);
}

static void announce(Line *line, Door door, const char *text)
{
    add(line, "[ring 3] now ");
    add(line, text);
    say(line, door);
}

static void commit(Line *line, Door door, unsigned ending)
{
    uint8_t code[4] = {0xc3};
    switch (ending) {
    case END_HLT:
        announce(line, door, "a privileged instruction: HLT");
        __asm__ volatile("hlt");
        break;
    case END_CLI:
        announce(line, door, "keeping interrupts out: CLI");
        __asm__ volatile("cli");
        break;
    case END_CR3:
        announce(line, door, "reading the page table base: MOV RAX, CR3");
        __asm__ volatile("mov %%cr3, %%rax" : : : "rax");
        break;
    case END_OUT:
        announce(line, door, "writing to a port: OUT 80h, AL");
        __asm__ volatile("outb %%al, %%dx" : : "a"(0), "d"(0x80));
        break;
    case END_PEEK:
        announce(line, door, "reading the kernel's memory at 100000h");
        (void)*(volatile uint8_t *)KERNEL_BASE;
        break;
    case END_NULL:
        announce(line, door, "writing through a null pointer");
        __asm__ volatile("movb $1, (%0)" : : "r"(0ul) : "memory");
        break;
    case END_NX:
        announce(line, door, "executing the stack: data pages are marked NX where the CPU can");
        __asm__ volatile("call *%0" : : "r"(code), "m"(code) : "memory");
        break;
    }
}

long user_main(unsigned doors, unsigned ending)
{
    Line line = {.used = 0};
    Door door = doors & DOOR_SYSCALL ? call_syscall : doors & DOOR_INT80 ? call_int80 : call_int3;
    uint16_t cs;
    __asm__ volatile("mov %%cs, %0" : "=r"(cs));
    add(&line, "[ring 3] CS ");
    add_number(&line, cs, 16);
    add(&line, ": CPL ");
    add_number(&line, cs & 3, 10);
    add(&line, ", code at ");
    add_number(&line, (uint64_t)user_main, 16);
    add(&line, ", stack at ");
    add_number(&line, (uint64_t)&line, 16);
    say(&line, door);
    if (doors & DOOR_SYSCALL)
        greet(&line, call_syscall, "SYSCALL");
    if (doors & DOOR_INT80)
        greet(&line, call_int80, "INT 80h");
    if (doors & DOOR_INT3)
        greet(&line, call_int3, "INT3");
    compute(&line, door);
    add(&line, "[ring 3] write(kernel memory) answers -");
    add_number(&line, (uint64_t)-door(SYS_WRITE, KERNEL_BASE, 16), 10);
    add(&line, " (EFAULT)");
    say(&line, door);
    commit(&line, door, ending);
    return 0;
}
