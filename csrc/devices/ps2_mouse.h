/*
 * A PS/2 mouse with three buttons; a wheel and two more buttons for drivers that ask for them. The serial line to
 * it is the i8042's business: this is what happens behind it.
 *
 * Sources: IBM PS/2 HITR, "Auxiliary device" (1988); Microsoft's "IntelliMouse and IntelliMouse Explorer" for the
 * sample rates that switch to packets of four bytes (200, 100, 80: a wheel; 200, 200, 80: and buttons 4 and 5).
 * Left out: the resolution has no effect on what is reported, movements come as the host counts them.
 */
#ifndef PYVMM_DEVICES_PS2_MOUSE_H
#define PYVMM_DEVICES_PS2_MOUSE_H

#include "common/common.h"

#define PS2_MOUSE_QUEUE 32

typedef struct Ps2MouseState {
    int32_t dx, dy, dz; /* not yet reported: right, down, and wheel towards the user are positive */
    uint8_t buttons;    /* bit 0 left, 1 right, 2 middle, 3 and 4 the side's */
    uint8_t reported_buttons;
    uint8_t reporting, remote, wrap, scaling; /* each 0 or 1 */
    uint8_t resolution;                       /* 0..3 */
    uint8_t sample_rate;                      /* reports a second */
    uint8_t id;                               /* 0, 3 with a wheel, 4 with five buttons */
    uint8_t rates[2];                         /* the last ones that were set */
    uint8_t pending;                          /* command that waits for its parameter, or 0 */
    uint8_t last_sent;
    uint8_t queue_head, queue_count;
    uint8_t reserved;
    uint8_t queue[PS2_MOUSE_QUEUE]; /* what it still has to send */
} Ps2MouseState;
_Static_assert(sizeof(Ps2MouseState) == 60, "no padding: the bytes are the snapshot's");

void ps2_mouse_reset(Ps2MouseState *mouse); /* power on */
bool ps2_mouse_is_valid(const Ps2MouseState *mouse);
void ps2_mouse_write(Ps2MouseState *mouse, uint8_t byte); /* from the system */
/* Movement since the last call, in counts, and the buttons as they are now. */
void ps2_mouse_move(Ps2MouseState *mouse, int32_t dx, int32_t dy, int32_t dz, uint8_t buttons);
/* The next byte for the system, or -1. */
int ps2_mouse_read(Ps2MouseState *mouse);
bool ps2_mouse_has_data(const Ps2MouseState *mouse);

#endif
