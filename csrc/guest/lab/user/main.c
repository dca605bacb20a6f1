/*
 * The lab's programs, in ring 3: one image, the first argument says which. Each measures itself by the TSC and
 * tells the kernel operations, cycles and a value. They have no writable data but the stack and the heap, which are
 * given page by page.
 */
#include "../../layout.h"
#include "loop.h"
#include "user.h"

#include <stdint.h>

#pragma GCC visibility push(hidden) /* one image: addresses relative to RIP, no GOT */
typedef int64_t (*Door)(uint64_t number, uint64_t a, uint64_t b, uint64_t c);
int64_t call_syscall(uint64_t number, uint64_t a, uint64_t b, uint64_t c);
int64_t call_int80(uint64_t number, uint64_t a, uint64_t b, uint64_t c);
int64_t call_int3(uint64_t number, uint64_t a, uint64_t b, uint64_t c);
int64_t user_main(uint64_t program, uint64_t count, uint64_t door);
#pragma GCC visibility pop

#define HEAP (USER_BASE + 0x200000)
#define PAGE 4096ul

static uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static volatile uint64_t *heap(uint64_t page) { return (volatile uint64_t *)(HEAP + page * PAGE); }

static uint64_t touch(uint64_t count, Door call)
{
    uint64_t sum = 0;
    for (uint64_t done = 0; done < count;) {
        for (uint64_t page = 0; page < HEAP_WINDOW && done < count; page++, done++) {
            sum += *heap(page); /* zero: a fresh page */
            *heap(page) = done + 1;
        }
        call(LAB_SYS_TRIM, 0, 0, 0);
    }
    return sum;
}

static void divide_by_zero(uint64_t count)
{
    while (count--)
        __asm__ volatile("div %%ecx" : : "a"(1), "d"(0), "c"(0) : "cc");
}

static uint64_t crc32_of(uint64_t crc, const uint8_t *data, uint64_t size)
{
    uint32_t c = ~(uint32_t)crc;
    for (uint64_t i = 0; i < size; i++) {
        c ^= data[i];
        for (unsigned bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (0xedb88320 & -(c & 1));
    }
    return (uint32_t)~c;
}

static int64_t read_disk(uint64_t count, Door call)
{
    uint64_t crc = 0, cycles = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t start = rdtsc();
        int64_t error = call(LAB_SYS_READ, i * 8, HEAP, 0);
        if (error)
            return error < 0 ? error : -error;
        cycles += rdtsc() - start; /* the checksum is not the disk's time */
        crc = crc32_of(crc, (const uint8_t *)HEAP, PAGE);
    }
    call(LAB_SYS_REPORT, count, cycles, crc);
    return 0;
}

/* A child that writes to what it shares, and its parent that waits. */
static int64_t fork_and_wait(uint64_t count, Door call)
{
    uint64_t done = 0, sum = 0;
    for (uint64_t page = 0; page < 4; page++)
        *heap(page) = page;
    for (; done < count; done++) {
        int64_t child = call(LAB_SYS_FORK, 0, 0, 0);
        if (!child) {
            *heap(1) = done;
            call(LAB_SYS_EXIT, *heap(1) + *heap(2), 0, 0);
        }
        sum += (uint64_t)call(LAB_SYS_WAIT, (uint64_t)child, 0, 0) + *heap(1);
    }
    return (int64_t)sum;
}

static void yield(uint64_t count, Door call)
{
    while (count--)
        call(LAB_SYS_YIELD, 0, 0, 0);
}

static void say(const char *text, Door call)
{
    uint64_t size = 0;
    while (text[size])
        size++;
    call(LAB_SYS_WRITE, (uint64_t)text, size, 0);
}

int64_t user_main(uint64_t program, uint64_t count, uint64_t door)
{
    Door call = door == DOOR_SYSCALL ? call_syscall : door == DOOR_INT80 ? call_int80 : call_int3;
    uint64_t value = 0, start = rdtsc();
    int64_t cycles = -1;
    switch (program) {
    case PROGRAM_HELLO:
        say("lab: hello from ring 3\n", call);
        count = 1;
        break;
    case PROGRAM_SYSCALL:
        for (uint64_t i = 0; i < count; i++)
            value += (uint64_t)call(LAB_SYS_NULL, 0, 0, 0);
        break;
    case PROGRAM_PGFAULT:
        value = touch(count, call);
        break;
    case PROGRAM_PTEMOD:
        for (uint64_t page = 0; page < PROTECT_PAGES; page++)
            *heap(page) = page;
        cycles = call(LAB_SYS_PROTECT, count, 0, 0);
        for (uint64_t page = 0; page < PROTECT_PAGES; page++)
            value += *heap(page) = *heap(page) + 1; /* the rights are back */
        break;
    case PROGRAM_DIVZERO:
        divide_by_zero(count);
        break;
    case PROGRAM_YIELD:
        yield(count, call);
        break;
    case PROGRAM_SPIN:
        while (count--)
            lab_loop(SPIN_TURNS);
        return 0;
    case PROGRAM_DISK:
        return read_disk(count, call);
    case PROGRAM_FORK:
        value = (uint64_t)fork_and_wait(count, call);
        break;
    case PROGRAM_LOOP:
        value = lab_loop(count);
        break;
    default:
        return -1;
    }
    if (cycles < 0)
        cycles = (int64_t)(rdtsc() - start);
    call(LAB_SYS_REPORT, count, (uint64_t)cycles, value);
    return 0;
}
