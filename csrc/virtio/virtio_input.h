/*
 * virtio input device: a keyboard, a mouse or a tablet that speaks Linux's evdev.
 *
 * Source: virtio 1.2 §5.8; event types and codes are those of Linux's include/uapi/linux/input-event-codes.h, to
 * which §5.8 refers. Events go to the driver as whole reports (up to SYN_REPORT); those that find neither buffers
 * nor room in the queue of VIRTIO_INPUT_BACKLOG events are refused. Left out: multi-touch, force feedback,
 * joysticks.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_INPUT_H
#define PYVMM_VIRTIO_VIRTIO_INPUT_H

#include "virtio/virtio_place.h"

enum VirtioInputConfig { /* §5.8.4 */
                         INPUT_CONFIG_SELECT = 0,
                         INPUT_CONFIG_SUBSEL = 1,
                         INPUT_CONFIG_SIZE_FIELD = 2,
                         INPUT_CONFIG_DATA = 8,
                         INPUT_CONFIG_SIZE = 136,
};

enum VirtioInputSelect {
    INPUT_CFG_ID_NAME = 0x01,
    INPUT_CFG_ID_SERIAL = 0x02,
    INPUT_CFG_ID_DEVIDS = 0x03,
    INPUT_CFG_PROP_BITS = 0x10,
    INPUT_CFG_EV_BITS = 0x11,
    INPUT_CFG_ABS_INFO = 0x12,
};

enum VirtioInputKind { VIRTIO_INPUT_KEYBOARD, VIRTIO_INPUT_MOUSE, VIRTIO_INPUT_TABLET };

#define VIRTIO_INPUT_QUEUE_SIZE 64
#define VIRTIO_INPUT_BACKLOG    256
#define VIRTIO_INPUT_ABS_MAX    32767 /* of a tablet's both axes */

typedef struct VirtioInputEvent { /* §5.8.6 */
    uint16_t type;
    uint16_t code;
    uint32_t value;
} VirtioInputEvent;

Device *virtio_input_new(Board *board, const VirtioPlace *place, uint32_t kind, Error *error);
/* A report: SYN_REPORT is added. 0; -ENOSPC when the driver does not read, -EINVAL for more than 16 events. Any
 * thread. */
int virtio_input_send(Device *device, const VirtioInputEvent *events, uint32_t count);
uint32_t virtio_input_leds(Device *device); /* that the driver has set: bits by LED code */

#endif
