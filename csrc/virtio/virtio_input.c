#include <stdlib.h>

#include "virtio/virtio_chain.h"
#include "virtio/virtio_input.h"

#define CHAIN_SEGMENTS (VIRTIO_INPUT_QUEUE_SIZE + 16u)
#define EVENT_BYTES    8u
#define MAX_REPORT     16u
#define DATA_BYTES     (INPUT_CONFIG_SIZE - INPUT_CONFIG_DATA)

enum { QUEUE_EVENTS, QUEUE_STATUS };
enum { EV_SYN = 0, EV_KEY = 1, EV_REL = 2, EV_ABS = 3, EV_LED = 17, EV_REP = 20 };
enum { REL_X = 0, REL_Y = 1, REL_HWHEEL = 6, REL_WHEEL = 8, ABS_X = 0, ABS_Y = 1 };
enum { BTN_LEFT = 0x110, BTN_EXTRA = 0x114, BTN_TOUCH = 0x14a };
enum { LED_NUML = 0, LED_CAPSL = 1, LED_SCROLLL = 2 };
enum { KEY_LAST = 127, INPUT_PROP_POINTER = 0, BUS_VIRTUAL = 6 };

typedef struct VirtioInput {
    VirtioDevice virtio;
    enum VirtioInputKind kind;
    uint32_t leds;
    uint32_t head, count;
    VirtioInputEvent backlog[VIRTIO_INPUT_BACKLOG]; /* the host's, not the machine's state */
    VirtqSegment chain[CHAIN_SEGMENTS];
} VirtioInput;

static VirtioInput *input_of(VirtioDevice *device) { return container_of(device, VirtioInput, virtio); }

/* ---- What it is, §5.8.5: answers in configuration space to a selection -------------------------------------- */

static void set_bits(uint8_t *bits, uint32_t first, uint32_t last)
{
    for (uint32_t i = first; i <= last; i++)
        bits[i / 8] |= (uint8_t)(1u << i % 8);
}

static void event_bits(const VirtioInput *input, uint8_t type, uint8_t *bits)
{
    bool keyboard = input->kind == VIRTIO_INPUT_KEYBOARD, tablet = input->kind == VIRTIO_INPUT_TABLET;
    if (type == EV_KEY && keyboard) {
        set_bits(bits, 1, KEY_LAST);
    } else if (type == EV_KEY) {
        set_bits(bits, BTN_LEFT, BTN_EXTRA);
    } else if (type == EV_REL && !keyboard) {
        set_bits(bits, REL_WHEEL, REL_WHEEL);
        if (!tablet)
            set_bits(bits, REL_X, REL_Y);
    } else if (type == EV_ABS && tablet) {
        set_bits(bits, ABS_X, ABS_Y);
    } else if (type == EV_LED && keyboard) {
        set_bits(bits, LED_NUML, LED_SCROLLL);
    } else if (type == EV_REP && keyboard) {
        set_bits(bits, 0, 1); /* delay and period: the driver's system repeats */
    }
}

/* The length of a bit map or text is up to its last byte that is not 0. */
static uint8_t used_bytes(const uint8_t *data)
{
    uint32_t size = DATA_BYTES;
    while (size && !data[size - 1])
        size--;
    return (uint8_t)size;
}

static void select_config(VirtioInput *input)
{
    static const char *const names[] = {"pyvmm keyboard", "pyvmm mouse", "pyvmm tablet"};
    uint8_t *config = input->virtio.config, *data = config + INPUT_CONFIG_DATA;
    uint8_t subsel = config[INPUT_CONFIG_SUBSEL];
    memset(config + INPUT_CONFIG_SIZE_FIELD, 0, INPUT_CONFIG_SIZE - INPUT_CONFIG_SIZE_FIELD);
    switch (config[INPUT_CONFIG_SELECT]) {
    case INPUT_CFG_ID_NAME:
    case INPUT_CFG_ID_SERIAL:
        if (subsel == 0)
            strcpy((char *)data, config[INPUT_CONFIG_SELECT] == INPUT_CFG_ID_NAME ? names[input->kind] : "0");
        break;
    case INPUT_CFG_ID_DEVIDS:
        if (subsel == 0) {
            store_le16(data, BUS_VIRTUAL);
            store_le16(data + 2, 0x1af4);
            store_le16(data + 4, (uint16_t)(input->kind + 1));
            store_le16(data + 6, 1);
        }
        break;
    case INPUT_CFG_PROP_BITS:
        if (subsel == 0 && input->kind == VIRTIO_INPUT_TABLET)
            set_bits(data, INPUT_PROP_POINTER, INPUT_PROP_POINTER);
        break;
    case INPUT_CFG_EV_BITS:
        event_bits(input, subsel, data);
        break;
    case INPUT_CFG_ABS_INFO:
        if (input->kind == VIRTIO_INPUT_TABLET && subsel <= ABS_Y) {
            store_le32(data + 4, VIRTIO_INPUT_ABS_MAX); /* min, max, fuzz, flat, resolution */
            config[INPUT_CONFIG_SIZE_FIELD] = 20;
            return;
        }
        break;
    }
    config[INPUT_CONFIG_SIZE_FIELD] = used_bytes(data);
}

static bool input_config_write(VirtioDevice *device, uint32_t offset, uint8_t value)
{
    if (offset > INPUT_CONFIG_SUBSEL)
        return false;
    device->config[offset] = value;
    select_config(input_of(device));
    return true;
}

/* ---- Events ------------------------------------------------------------------------------------------------- */

static bool take(VirtioInput *input, VirtioQueue *queue, VirtqChain *chain)
{
    int result = virtqueue_pop(&queue->ring, chain, input->chain, CHAIN_SEGMENTS);
    if (result < 0)
        virtio_fail(&input->virtio, queue,
                    result == -ENOSPC ? "buffers are in too many pieces" : queue->ring.fault);
    return result > 0;
}

/* One event a buffer; one interrupt for all that go at once. */
static void run_events(VirtioInput *input, VirtioQueue *queue)
{
    bool sent = false;
    while (virtio_queue_is_live(queue)) {
        VirtqChain chain;
        virtqueue_disable_notify(&queue->ring);
        if (!input->count)
            break;
        if (take(input, queue, &chain)) {
            const VirtioInputEvent *event = &input->backlog[input->head];
            uint8_t bytes[EVENT_BYTES];
            store_le16(bytes, event->type);
            store_le16(bytes + 2, event->code);
            store_le32(bytes + 4, event->value);
            size_t written = virtio_chain_write(input->virtio.owner->board->memory, input->chain, &chain, 0, bytes,
                                                sizeof bytes);
            virtqueue_push(&queue->ring, chain.token, (uint32_t)written);
            input->head = (input->head + 1) % VIRTIO_INPUT_BACKLOG;
            input->count--;
            sent = true;
        } else if (!virtio_queue_is_live(queue) || !virtqueue_enable_notify(&queue->ring)) {
            break;
        }
    }
    if (sent && virtio_queue_is_live(queue))
        virtio_publish(&input->virtio, queue);
}

/* §5.8.6.1: what the driver sets: LEDs. */
static bool status_batch(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioInput *input = input_of(device);
    VirtqChain chain;
    uint8_t bytes[EVENT_BYTES];
    if (!take(input, queue, &chain))
        return false;
    bool whole = virtio_chain_read(input->chain, &chain, 0, bytes, sizeof bytes) == sizeof bytes;
    uint16_t code = load_le16(bytes + 2);
    if (whole && load_le16(bytes) == EV_LED && code < 32)
        input->leds = (input->leds & ~(1u << code)) | (load_le32(bytes + 4) ? 1u << code : 0);
    virtqueue_push(&queue->ring, chain.token, 0);
    virtio_publish(device, queue);
    return true;
}

static void input_run(VirtioDevice *device, VirtioQueue *queue)
{
    if (queue->index == QUEUE_EVENTS)
        run_events(input_of(device), queue);
    else
        virtio_serve(device, queue, status_batch);
}

int virtio_input_send(Device *device, const VirtioInputEvent *events, uint32_t count)
{
    VirtioInput *input = input_of(virtio_of(device));
    if (count > MAX_REPORT)
        return -EINVAL;
    int result = -ENOSPC;
    pthread_mutex_lock(&device->lock);
    if (input->virtio.status & VIRTIO_STATUS_DRIVER_OK && VIRTIO_INPUT_BACKLOG - input->count > count) {
        for (uint32_t i = 0; i <= count; i++)
            input->backlog[(input->head + input->count++) % VIRTIO_INPUT_BACKLOG] =
                i < count ? events[i] : (VirtioInputEvent){.type = EV_SYN};
        virtio_notify(&input->virtio, QUEUE_EVENTS);
        result = 0;
    }
    pthread_mutex_unlock(&device->lock);
    return result;
}

uint32_t virtio_input_leds(Device *device)
{
    pthread_mutex_lock(&device->lock);
    uint32_t leds = input_of(virtio_of(device))->leds;
    pthread_mutex_unlock(&device->lock);
    return leds;
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static void input_reset(VirtioDevice *device)
{
    VirtioInput *input = input_of(device);
    input->leds = input->head = input->count = 0;
    memset(device->config, 0, sizeof device->config);
}

static void input_save(VirtioDevice *device, void *state)
{
    memcpy(state, &input_of(device)->leds, sizeof(uint32_t));
}

static int input_restore(VirtioDevice *device, const void *state)
{
    memcpy(&input_of(device)->leds, state, sizeof(uint32_t));
    return 0;
}

static const VirtioClass input_class = {
    .name = "virtio-input",
    .id = 18,
    .pci_class = 0x098000, /* input device controller, other */
    .run = input_run,
    .config_write = input_config_write,
    .reset = input_reset,
    .state_size = sizeof(uint32_t),
    .save = input_save,
    .restore = input_restore,
};

Device *virtio_input_new(Board *board, const VirtioPlace *place, uint32_t kind, Error *error)
{
    VirtioInput *input = kind <= VIRTIO_INPUT_TABLET ? calloc(1, sizeof *input) : NULL;
    if (!input) {
        error_set(error, ENOMEM, "no host memory for virtio-input");
        return NULL;
    }
    input->kind = kind;
    VirtioSetup setup = {.config_size = INPUT_CONFIG_SIZE, .queue_count = 2, .queue_size = VIRTIO_INPUT_QUEUE_SIZE};
    virtio_init(&input->virtio, &input_class, &setup);
    return virtio_place(board, &input->virtio, place, error);
}
