#include "devices/i8237.h"

#include <stdlib.h>

/* Registers above the channels' own (8237A figure 7). */
enum { COMMAND_STATUS = 8, REQUEST, SINGLE_MASK, MODE, CLEAR_FLIP_FLOP, MASTER_CLEAR, CLEAR_MASK, ALL_MASK };
enum { COMMAND_DISABLE = 0x04 };
enum {
    MODE_TYPE = 0x0c,
    MODE_VERIFY = 0x00,
    MODE_TO_MEMORY = 0x04,
    MODE_FROM_MEMORY = 0x08,
    MODE_AUTO = 0x10,
    MODE_DECREMENT = 0x20
};

typedef struct I8237 {
    Device device;
    I8237State state;
} I8237;

/* Which page register is a channel's, from port 0x81 on (PC/AT: 87h, 83h, 81h, 82h, 8Fh, 8Bh, 89h, 8Ah). */
static const uint8_t page_of[I8237_CHANNELS] = {6, 2, 0, 1, 14, 10, 8, 9};

/* ---- Registers ---------------------------------------------------------------------------------------------- */

static void master_clear(I8237 *dma, uint32_t unit) { dma->state.units[unit] = (I8237Unit){.mask = 0x0f}; }

static uint8_t read_half(I8237Unit *unit, uint16_t value)
{
    uint8_t half = (uint8_t)(unit->flip_flop ? value >> 8 : value);
    unit->flip_flop ^= 1;
    return half;
}

static uint8_t read_register(I8237 *dma, uint32_t number, uint32_t offset)
{
    I8237Unit *unit = &dma->state.units[number];
    if (offset < COMMAND_STATUS) {
        const I8237Channel *channel = &dma->state.channels[number * 4 + offset / 2];
        return read_half(unit, offset & 1 ? channel->count : channel->address);
    }
    uint8_t value;
    switch (offset) {
    case COMMAND_STATUS: /* reading clears the terminal counts */
        value = unit->terminal_count | (uint8_t)(unit->request << 4);
        unit->terminal_count = 0;
        return value;
    case MASTER_CLEAR: /* the temporary register, of memory-to-memory transfers */
        return 0;
    case ALL_MASK:
        return unit->mask | 0xf0;
    default:
        return 0xff;
    }
}

/* Base and current are written together. */
static void write_half(I8237Unit *unit, uint16_t *base, uint16_t *current, uint8_t value)
{
    *base = (uint16_t)(unit->flip_flop ? (*base & 0xff) | value << 8 : (*base & 0xff00) | value);
    *current = *base;
    unit->flip_flop ^= 1;
}

static void set_bit(uint8_t *bits, uint8_t value)
{
    uint8_t bit = (uint8_t)(1 << (value & 3));
    *bits = value & 4 ? *bits | bit : *bits & (uint8_t)~bit;
}

static void write_register(I8237 *dma, uint32_t number, uint32_t offset, uint8_t value)
{
    I8237Unit *unit = &dma->state.units[number];
    I8237Channel *channel = &dma->state.channels[number * 4 + (offset < COMMAND_STATUS ? offset / 2 : value & 3)];
    switch (offset) {
    case COMMAND_STATUS:
        unit->command = value;
        break;
    case REQUEST:
        set_bit(&unit->request, value);
        break;
    case SINGLE_MASK:
        set_bit(&unit->mask, value);
        break;
    case MODE:
        channel->mode = value & 0xfc;
        break;
    case CLEAR_FLIP_FLOP:
        unit->flip_flop = 0;
        break;
    case MASTER_CLEAR:
        master_clear(dma, number);
        break;
    case CLEAR_MASK:
        unit->mask = 0;
        break;
    case ALL_MASK:
        unit->mask = value & 0x0f;
        break;
    default:
        if (offset & 1)
            write_half(unit, &channel->base_count, &channel->count, value);
        else
            write_half(unit, &channel->base_address, &channel->address, value);
    }
}

static uint8_t read_byte(I8237 *dma, uint32_t region, uint64_t offset)
{
    if (region == I8237_REGION_PAGES)
        return offset < I8237_PAGE_PORTS ? dma->state.pages[offset] : 0xff;
    return read_register(dma, region, (uint32_t)(region == I8237_REGION_SLAVE ? offset / 2 : offset) & 15);
}

static void write_byte(I8237 *dma, uint32_t region, uint64_t offset, uint8_t value)
{
    if (region != I8237_REGION_PAGES)
        write_register(dma, region, (uint32_t)(region == I8237_REGION_SLAVE ? offset / 2 : offset) & 15, value);
    else if (offset < I8237_PAGE_PORTS)
        dma->state.pages[offset] = value;
}

/* The chips have eight data lines: a wider access is one to each port, but the slave's odd ports are its even ones.
 */
static uint64_t i8237_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++)
        value |= (uint64_t)read_byte(opaque, region, offset + i) << 8 * i;
    return value;
}

static void i8237_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    for (uint32_t i = 0; i < size; i++)
        write_byte(opaque, region, offset + i, (uint8_t)(value >> 8 * i));
}

/* ---- Transfers ---------------------------------------------------------------------------------------------- */

/* A word channel's address has no bit 0 and its page none either: 128 KiB. */
static gpa_t bus_address(const I8237 *dma, uint32_t channel, uint16_t address)
{
    uint8_t page = dma->state.pages[page_of[channel]];
    return channel < 4 ? (gpa_t)page << 16 | address : (gpa_t)(page & 0xfe) << 16 | (gpa_t)address << 1;
}

/* Memory that is not there reads as ones, and what is written to it is lost, as on the bus. */
static void move(I8237 *dma, gpa_t gpa, uint8_t *data, size_t bytes, enum I8237Direction direction)
{
    GuestMemory *memory = dma->device.board->memory;
    if (!memory)
        return;
    if (direction == I8237_TO_MEMORY)
        guest_memory_write(memory, gpa, data, bytes);
    else if (guest_memory_read(memory, gpa, data, bytes) < 0)
        memset(data, 0xff, bytes);
}

static void end_of_process(I8237 *dma, uint32_t number)
{
    I8237Unit *unit = &dma->state.units[number / 4];
    I8237Channel *channel = &dma->state.channels[number];
    unit->terminal_count |= (uint8_t)(1 << number % 4);
    unit->request &= (uint8_t) ~(1 << number % 4);
    if (channel->mode & MODE_AUTO) {
        channel->address = channel->base_address;
        channel->count = channel->base_count;
    } else {
        unit->mask |= (uint8_t)(1 << number % 4);
    }
}

/* As many units as lie next to each other in memory; the count is not over within them. */
static size_t run_length(const I8237Channel *channel, size_t units)
{
    if (channel->mode & MODE_DECREMENT)
        return 1;
    return MIN(units, 0x10000u - channel->address);
}

static bool is_ready(const I8237 *dma, uint32_t number, enum I8237Direction direction)
{
    const I8237Unit *unit = &dma->state.units[number / 4];
    uint8_t type = dma->state.channels[number].mode & MODE_TYPE;
    uint8_t wanted = direction == I8237_TO_MEMORY ? MODE_TO_MEMORY : MODE_FROM_MEMORY;
    return !(unit->command & COMMAND_DISABLE) && !(unit->mask >> number % 4 & 1) &&
           (type == wanted || type == MODE_VERIFY);
}

size_t i8237_transfer(Device *device, uint32_t number, void *data, size_t bytes, enum I8237Direction direction,
                      bool *terminal_count)
{
    I8237 *dma = container_of(device, I8237, device);
    I8237Channel *channel = &dma->state.channels[number];
    size_t width = number < 4 ? 1 : 2, done = 0;
    *terminal_count = false;
    pthread_mutex_lock(&device->lock);
    while (!*terminal_count && bytes - done >= width && is_ready(dma, number, direction)) {
        size_t units = run_length(channel, MIN((bytes - done) / width, (size_t)channel->count + 1));
        if ((channel->mode & MODE_TYPE) != MODE_VERIFY)
            move(dma, bus_address(dma, number, channel->address), (uint8_t *)data + done, units * width, direction);
        channel->address = (uint16_t)(channel->address + (channel->mode & MODE_DECREMENT ? -1 : (int)units));
        channel->count = (uint16_t)(channel->count - units);
        done += units * width;
        *terminal_count = channel->count == 0xffff;
        if (*terminal_count)
            end_of_process(dma, number);
    }
    pthread_mutex_unlock(&device->lock);
    return done;
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static void i8237_reset(Device *device)
{
    I8237 *dma = container_of(device, I8237, device);
    memset(&dma->state, 0, sizeof dma->state);
    master_clear(dma, 0);
    master_clear(dma, 1);
}

static void i8237_destroy(Device *device) {}

static void i8237_save(Device *device, void *state)
{
    *(I8237State *)state = container_of(device, I8237, device)->state;
}

static int i8237_restore(Device *device, const void *state)
{
    I8237State saved = *(const I8237State *)state;
    for (size_t i = 0; i < 2; i++)
        if ((saved.units[i].terminal_count | saved.units[i].request | saved.units[i].mask) & 0xf0 ||
            saved.units[i].flip_flop > 1)
            return -EINVAL;
    for (size_t i = 0; i < I8237_CHANNELS; i++)
        if (saved.channels[i].mode & 3)
            return -EINVAL;
    container_of(device, I8237, device)->state = saved;
    return 0;
}

static const DeviceClass i8237_class = {
    .name = "i8237",
    .ops = {i8237_read, i8237_write},
    .reset = i8237_reset,
    .destroy = i8237_destroy,
    .state_size = sizeof(I8237State),
    .state_version = I8237_STATE_VERSION,
    .save = i8237_save,
    .restore = i8237_restore,
};

Device *i8237_new(Board *board)
{
    I8237 *dma = calloc(1, sizeof *dma);
    if (!dma)
        return NULL;
    device_init(&dma->device, &i8237_class, board);
    i8237_reset(&dma->device);
    return &dma->device;
}
