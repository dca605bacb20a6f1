/*
 * The high precision event timers: a main counter of 64 bits at 100 MHz and three comparators.
 *
 * Source: IA-PC HPET specification 1.0a, named "HPET" below. Each timer is one-shot or periodic, 64 or 32 bits
 * wide, and interrupts by an edge or a level on an input of the I/O APIC, by a message (FSB), or, timers 0 and 1,
 * in the place of the PIT and the RTC, whose lines are then cut (LegacyReplacement, HPET §2.3.5). Matches are
 * computed when somebody looks; a timer of the host is armed only for interrupts that are enabled. So an edge whose
 * next one is due already is not seen twice, and a period below HPET_MIN_PERIOD_NS gives an interrupt every
 * HPET_MIN_PERIOD_NS (the ACPI table says so: "minimum clock ticks"). A write that does not begin in the register's
 * own 8 bytes ends with them. Left out: a second block of timers.
 */
#ifndef PYVMM_DEVICES_HPET_H
#define PYVMM_DEVICES_HPET_H

#include "devices/device.h"

#define HPET_TIMERS        3
#define HPET_TICK_NS       10u
#define HPET_MIN_PERIOD_NS 20000u
#define HPET_ROUTES        0x00f00000u /* inputs 20 to 23 of the I/O APIC: nothing else is on them */
#define HPET_BLOCK_ID      0x8086a201u /* low half of the capabilities: what the ACPI table repeats */
#define HPET_SIZE          0x400u

#define HPET_STATE_VERSION 1
typedef struct HpetTimerState {
    uint64_t config;     /* the bits that a guest may write */
    uint64_t comparator; /* periodic: the accumulator */
    uint64_t period;     /* periodic: the value last written */
    uint64_t fsb;        /* value, and address in the upper half */
} HpetTimerState;

typedef struct HpetState {
    uint64_t config;
    uint64_t status;
    uint64_t counter; /* halted: its value; running: its value less the clock's ticks */
    uint64_t synced;  /* counter value up to which matches were acted on */
    HpetTimerState timers[HPET_TIMERS];
} HpetState;
_Static_assert(sizeof(HpetState) == 128, "no padding: the bytes are the snapshot's");

/* Region 0: HPET_SIZE bytes. `pit` and `rtc` are those devices' lines: they are cut in legacy replacement mode. */
Device *hpet_new(Board *board, IrqLine *pit, IrqLine *rtc);

#endif
