/*
 * The compute loop that runs in ring 3 of the lab kernel and, from the same lines, as a program of the host's: a
 * linear congruential generator (Knuth, TAOCP 2 §3.3.4, table 1, line 26), six instructions a turn.
 */
#ifndef GUEST_LAB_LOOP_H
#define GUEST_LAB_LOOP_H

#include <stdint.h>

static inline uint64_t lab_loop(uint64_t count)
{
    uint64_t x = 1, multiplier = 6364136223846793005ul, increment = 1442695040888963407ul;
    if (count)
        __asm__ volatile("1: imulq %2, %0; addq %3, %0; decq %1; jnz 1b"
                         : "+r"(x), "+r"(count)
                         : "r"(multiplier), "r"(increment)
                         : "cc");
    return x;
}

#endif
