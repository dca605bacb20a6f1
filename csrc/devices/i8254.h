/*
 * The 8254 programmable interval timer: three channels, all six modes, binary and BCD.
 *
 * Source: Intel 8254 datasheet (order number 231164), named "8254" below. The input is the PC's 1.193182 MHz.
 * A channel's past is computed from the tick at which its count was loaded, so a period never drifts. Channel 0's
 * OUT pulls an IrqLine, by a timer armed for rising edges only: the line's fall in modes 2 and 3 is shown just
 * before the next rise. When the host was late by several periods the line gets one edge, not one for each: an
 * 8259A whose request is still latched loses them as well. Two things happen at once that the chip does at the next
 * clock pulse: a count that is about to be loaded reads back, and a strobe of modes 4 and 5 ends when a new count
 * or trigger comes in it. Left out: counts of 1 in modes 2 and 3 (illegal by the datasheet) make no edges.
 */
#ifndef PYVMM_DEVICES_I8254_H
#define PYVMM_DEVICES_I8254_H

#include "devices/device.h"

#define I8254_HZ 1193182u

typedef struct I8254ChannelState {
    uint64_t start;   /* tick at which `count` is loaded into the counting element */
    uint64_t elapsed; /* ticks counted before `start`'s clock was stopped by GATE */
    uint32_t count;   /* what the counting element started from: 1..65536 */
    uint16_t reload;  /* count register, as written */
    uint16_t output_latch;
    uint8_t control; /* RW1 RW0 M2 M1 M0 BCD, as the status byte shows them */
    uint8_t phase;   /* enum I8254Phase */
    uint8_t out;
    uint8_t gate;
    uint8_t reload_pending; /* modes 2 and 3: `reload` is taken at the end of this (half) cycle */
    uint8_t fired;          /* modes 4 and 5: the strobe is over */
    uint8_t written;        /* a whole count came since the control word */
    uint8_t write_msb;      /* the next write is the most significant byte */
    uint8_t read_msb;
    uint8_t write_lsb; /* the low byte that waits for its high byte */
    uint8_t latched;   /* bytes of output_latch still to be read: 0..2 */
    uint8_t status_latched;
    uint8_t status_latch;
    uint8_t reserved[3];
} I8254ChannelState;

enum I8254Phase { I8254_IDLE, I8254_COUNTING, I8254_STOPPED };

#define I8254_STATE_VERSION 1
typedef struct I8254State {
    I8254ChannelState channel[3];
} I8254State;
_Static_assert(sizeof(I8254State) == 120, "no padding: the bytes are the snapshot's");

/* Region 0: 4 ports. `irq` is channel 0's OUT. */
Device *i8254_new(Board *board, IrqLine *irq);

/* Wires of a channel that leave the chip; the PC has channel 2's at port 0x61. They take the device's lock. */
void i8254_set_gate(Device *device, uint32_t channel, bool level);
bool i8254_out(Device *device, uint32_t channel);
bool i8254_gate(Device *device, uint32_t channel);

#endif
