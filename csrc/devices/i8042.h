/*
 * The PC's keyboard controller (8042 with PS/2 firmware), an MF-II keyboard on its first port and a mouse on its
 * second.
 *
 * Sources: IBM Personal System/2 Hardware Interface Technical Reference (1988), "Keyboard and Auxiliary Device
 * Controller" and "Keyboard", named "PS/2 HITR" below. The keyboard speaks scan code sets 1 and 2; the mouse is in
 * ps2_mouse.h. Left out: set 3 with its per-key modes, typematic repeat (the sender of keys repeats), passwords,
 * the serial lines' timing beyond one byte every 0.7 ms.
 */
#ifndef PYVMM_DEVICES_I8042_H
#define PYVMM_DEVICES_I8042_H

#include "devices/device.h"
#include "devices/ps2_mouse.h"

#define I8042_KEYBOARD_QUEUE 32

#define I8042_STATE_VERSION 2
typedef struct I8042State {
    uint64_t next_byte_ns;    /* clock time before which the keyboard sends nothing more */
    uint8_t status;           /* register at 0x64 */
    uint8_t output;           /* output buffer: what 0x60 reads */
    uint8_t command_byte;     /* controller RAM byte 0 */
    uint8_t output_port;      /* P2: bit 0 reset (low), bit 1 A20 */
    uint8_t pending;          /* controller command that waits for its byte at 0x60, or 0 */
    uint8_t ram[31];          /* controller RAM bytes 1 to 31 */
    uint8_t keyboard_pending; /* keyboard command that waits for its parameter, or 0 */
    uint8_t scanning;
    uint8_t scan_set; /* 1 or 2 */
    uint8_t leds;     /* bit 0 scroll, 1 num, 2 caps lock */
    uint8_t typematic;
    uint8_t last_sent;    /* for the resend command */
    uint8_t break_prefix; /* the translation holds an F0 back */
    uint8_t queue_head;
    uint8_t queue_count;
    uint8_t reserved[3];
    uint8_t queue[I8042_KEYBOARD_QUEUE]; /* what the keyboard still has to send */
    Ps2MouseState mouse;
    uint8_t reserved2[4];
} I8042State;
_Static_assert(sizeof(I8042State) == 152, "no padding: the bytes are the snapshot's");

enum { I8042_REGION_DATA, I8042_REGION_COMMAND }; /* 1 port each: 0x60 and 0x64 */

/* `aux` is the second port's interrupt (IRQ12). */
Device *i8042_new(Board *board, IrqLine *keyboard, IrqLine *aux);

/* One key event (a make or break code in scan code set 2, as the keyboard's own: e.g. {0x1c}, {0xe0, 0xf0, 0x75}),
 * from any thread. 0, -EAGAIN when scanning is off, or -ENOSPC when the keyboard's buffer has no room for all of
 * it: then nothing is queued. */
int i8042_key(Device *device, const uint8_t *codes, size_t size);
uint8_t i8042_leds(Device *device);
/* The mouse was moved by so many counts, and its buttons are as given (ps2_mouse.h), from any thread. */
void i8042_mouse(Device *device, int32_t dx, int32_t dy, int32_t dz, uint8_t buttons);

#endif
