/*
 * The PC's ports that are hardly a chip each: system control, reset, POST code, and the ways a guest talks to the
 * machine.
 *
 * Sources: IBM PC/AT Technical Reference (1984) and PS/2 HITR (1988) for 0x61, 0x80 and 0x92; Intel PIIX 290562
 * §2.5.7 for 0xcf9; 0xe9 and the exit port are conventions of the field (Bochs, isa-debug-exit). Each is a device
 * of one region of one port. Left out: the speaker makes no sound; parity and I/O channel checks never happen.
 */
#ifndef PYVMM_DEVICES_PORTS_H
#define PYVMM_DEVICES_PORTS_H

#include "devices/char_sink.h"
#include "devices/device.h"

#define PORT_STATE_VERSION 1
typedef struct PortState {
    uint32_t value; /* what was written last, as far as it is kept */
} PortState;

Device *port92_new(Board *board);              /* system control A: bit 0 fast reset, bit 1 A20 */
Device *port61_new(Board *board, Device *pit); /* NMI status and control: PIT channel 2's gate and output */
Device *post_code_new(Board *board);           /* 0x80: keeps the last byte */
Device *debug_console_new(Board *board, CharSink *sink); /* 0xe9: reads as 0xe9; NULL: swallows */
Device *exit_port_new(Board *board);                     /* N ends the machine with code (N << 1) | 1 */
Device *reset_control_new(Board *board);                 /* 0xcf9 */
Device *firmware_port_new(Board *board);                 /* a 16-bit service number for the BIOS in Python */

#endif
