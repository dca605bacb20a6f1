#include <stdlib.h>

#include "irq/i8259.h"

#define CASCADE 2 /* the slave's INT is the master's IR2 */

enum { ICW1_IC4 = 0x01, ICW1_SNGL = 0x02, ICW1_LTIM = 0x08, ICW1_SELECT = 0x10 };
enum { ICW4_AEOI = 0x02, ICW4_SFNM = 0x10 };
enum { OCW3_SELECT = 0x08, OCW3_POLL = 0x04 };
/* Levels 0..2, 8 and 13 are wired to edge-triggered sources of the board (290562 §2.5.5). */
enum { ELCR_MASTER_MASK = 0xf8, ELCR_SLAVE_MASK = 0xde };

typedef struct I8259 {
    Device device;
    I8259State state;
} I8259;

/* The level of highest priority among `bits`, counted from the one after `lowest`: 0..7 places away, or 8 for none.
 */
static inline unsigned place_of(const I8259ChipState *chip, uint8_t bits)
{
    if (!bits)
        return 8;
    unsigned first = (chip->lowest + 1) & 7;
    return (unsigned)__builtin_ctz(((bits >> first) | (bits << (8 - first))) & 0xff);
}

static inline unsigned level_at(const I8259ChipState *chip, unsigned place)
{
    return (chip->lowest + 1 + place) & 7;
}

static inline uint8_t level_triggered(const I8259ChipState *chip)
{
    return chip->icw1 & ICW1_LTIM ? 0xff : chip->elcr;
}

/* The level that the chip's INT asks for, or -1 (8259A "Fully nested mode", "Special mask mode", "Special fully
 * nested mode"). */
static int chip_request(const I8259ChipState *chip, bool is_master)
{
    uint8_t requests = chip->irr & ~chip->imr;
    if (!requests || chip->next_icw)
        return -1;
    uint8_t serving = chip->isr;
    if (chip->special_mask)
        serving &= ~chip->imr;
    unsigned place = place_of(chip, requests), served = place_of(chip, serving);
    int level = (int)level_at(chip, place);
    bool not_locked_out = is_master && (chip->icw4 & ICW4_SFNM) && level == CASCADE && place == served;
    return place < served || not_locked_out ? level : -1;
}

/* Recompute the cascade and the CPU's pin. Called after every change. */
static void i8259_update(I8259 *pic)
{
    I8259ChipState *master = &pic->state.master;
    uint8_t cascade = chip_request(&pic->state.slave, false) >= 0 ? 1u << CASCADE : 0;
    master->lines = (master->lines & ~(1u << CASCADE)) | cascade;
    master->irr = (master->irr & ~(1u << CASCADE)) | cascade;
    bool up = !pic->device.board->irqchip && chip_request(master, true) >= 0;
    ext_int_set(&pic->device.board->extint, up);
}

static void chip_set_line(I8259ChipState *chip, unsigned level, bool high)
{
    uint8_t bit = 1u << level;
    bool was_high = chip->lines & bit;
    chip->lines = high ? chip->lines | bit : chip->lines & ~bit;
    if (level_triggered(chip) & bit)
        chip->irr = high ? chip->irr | bit : chip->irr & ~bit;
    else if (high && !was_high)
        chip->irr |= bit;
}

static void i8259_sink(void *opaque, uint32_t gsi, bool level)
{
    I8259 *pic = opaque;
    if (gsi >= 16 || gsi == CASCADE)
        return;
    pthread_mutex_lock(&pic->device.lock);
    chip_set_line(gsi < 8 ? &pic->state.master : &pic->state.slave, gsi & 7, level);
    i8259_update(pic);
    pthread_mutex_unlock(&pic->device.lock);
}

/* What the INTA cycle does to the level that it serves. */
static void chip_serve(I8259ChipState *chip, unsigned level)
{
    uint8_t bit = 1u << level;
    if (!(level_triggered(chip) & bit))
        chip->irr &= ~bit;
    if (!(chip->icw4 & ICW4_AEOI))
        chip->isr |= bit;
    else if (chip->rotate_aeoi)
        chip->lowest = level;
}

/* A request that went away before its INTA is answered with IR7 and no ISR bit (8259A "Interrupt sequence"). */
static int i8259_acknowledge(void *opaque)
{
    I8259 *pic = opaque;
    I8259ChipState *master = &pic->state.master, *slave = &pic->state.slave;
    pthread_mutex_lock(&pic->device.lock);
    int level = chip_request(master, true);
    int vector = master->icw2 | 7;
    if (level >= 0) {
        chip_serve(master, (unsigned)level);
        vector = master->icw2 | level;
    }
    if (level == CASCADE) {
        level = chip_request(slave, false);
        if (level >= 0)
            chip_serve(slave, (unsigned)level);
        vector = slave->icw2 | (level >= 0 ? level : 7);
    }
    i8259_update(pic);
    pthread_mutex_unlock(&pic->device.lock);
    return vector;
}

/* 8259A "Initialization command words": what ICW1 resets. */
static void chip_icw1(I8259ChipState *chip, uint8_t value)
{
    chip->icw1 = value;
    chip->irr = chip->lines & level_triggered(chip); /* the edge sense circuit is reset */
    chip->imr = 0;
    chip->isr = 0;
    chip->lowest = 7;
    chip->special_mask = 0;
    chip->read_isr = 0;
    chip->poll = 0;
    chip->rotate_aeoi = 0;
    if (!(value & ICW1_IC4))
        chip->icw4 = 0;
    chip->next_icw = 2;
}

static void chip_next_icw(I8259ChipState *chip, uint8_t value)
{
    switch (chip->next_icw) {
    case 2:
        chip->icw2 = value & 0xf8;
        chip->next_icw = !(chip->icw1 & ICW1_SNGL) ? 3 : chip->icw1 & ICW1_IC4 ? 4 : 0;
        break;
    case 3:
        chip->icw3 = value;
        chip->next_icw = chip->icw1 & ICW1_IC4 ? 4 : 0;
        break;
    default:
        chip->icw4 = value & 0x1f;
        chip->next_icw = 0;
    }
}

/* OCW2: bit 7 rotate, bit 6 specific level, bit 5 EOI (8259A figure 8). */
static void chip_ocw2(I8259ChipState *chip, uint8_t value)
{
    unsigned level = value & 7;
    bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
    if (!eoi) {
        if (!specific)
            chip->rotate_aeoi = rotate;
        else if (rotate)
            chip->lowest = level;
        return;
    }
    if (!specific) {
        /* In special mask mode a non-specific EOI does not clear what is masked. */
        unsigned place = place_of(chip, chip->special_mask ? chip->isr & ~chip->imr : chip->isr);
        if (place == 8)
            return;
        level = level_at(chip, place);
    }
    chip->isr &= ~(1u << level);
    if (rotate)
        chip->lowest = level;
}

static void chip_ocw3(I8259ChipState *chip, uint8_t value)
{
    if (value & OCW3_POLL)
        chip->poll = 1;
    if (value & 0x02)
        chip->read_isr = value & 0x01;
    if (value & 0x40)
        chip->special_mask = (value >> 5) & 1;
}

static void chip_write(I8259ChipState *chip, uint64_t offset, uint8_t value)
{
    if (offset & 1) {
        if (chip->next_icw)
            chip_next_icw(chip, value);
        else
            chip->imr = value;
    } else if (value & ICW1_SELECT) {
        chip_icw1(chip, value);
    } else if (value & OCW3_SELECT) {
        chip_ocw3(chip, value);
    } else {
        chip_ocw2(chip, value);
    }
}

static uint8_t chip_read(I8259ChipState *chip, uint64_t offset, bool is_master)
{
    if (chip->poll) { /* the read is an acknowledge (8259A "Poll command") */
        chip->poll = 0;
        int level = chip_request(chip, is_master);
        if (level < 0)
            return 0;
        chip_serve(chip, (unsigned)level);
        return 0x80 | (uint8_t)level;
    }
    if (offset & 1)
        return chip->imr;
    return chip->read_isr ? chip->isr : chip->irr;
}

static void chip_set_elcr(I8259ChipState *chip, uint8_t value)
{
    uint8_t changed = chip->elcr ^ value;
    chip->elcr = value;
    chip->irr = (chip->irr & ~changed) | (chip->lines & level_triggered(chip) & changed);
}

static uint64_t i8259_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    I8259 *pic = opaque;
    if (region == I8259_REGION_ELCR) {
        uint16_t both = pic->state.master.elcr | pic->state.slave.elcr << 8;
        return offset & 1 ? both >> 8 : both;
    }
    bool is_master = region == I8259_REGION_MASTER;
    I8259ChipState *chip = is_master ? &pic->state.master : &pic->state.slave;
    bool polled = chip->poll;
    uint8_t value = chip_read(chip, offset, is_master);
    if (polled)
        i8259_update(pic);
    return value;
}

static void i8259_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    I8259 *pic = opaque;
    if (region != I8259_REGION_ELCR) {
        chip_write(region == I8259_REGION_MASTER ? &pic->state.master : &pic->state.slave, offset, (uint8_t)value);
    } else {
        for (uint32_t i = 0; i < size && offset + i < 2; i++, value >>= 8) {
            if (offset + i == 0)
                chip_set_elcr(&pic->state.master, value & ELCR_MASTER_MASK);
            else
                chip_set_elcr(&pic->state.slave, value & ELCR_SLAVE_MASK);
        }
    }
    i8259_update(pic);
}

static void chip_reset(I8259ChipState *chip)
{
    *chip = (I8259ChipState){
        .lines = chip->lines, /* the wires are the devices' */
        .imr = 0xff,          /* undefined in the datasheet; nothing comes before ICW1 here */
        .lowest = 7,
        .icw3 = chip->icw3,
    };
}

static void i8259_reset(Device *device)
{
    I8259 *pic = container_of(device, I8259, device);
    chip_reset(&pic->state.master);
    chip_reset(&pic->state.slave);
    pic->state.master.icw3 = 1u << CASCADE;
    pic->state.slave.icw3 = CASCADE;
    i8259_update(pic);
    if (device->board->irqchip)
        device->board->irqchip->pic_set(device->board->irqchip_engine, &pic->state);
}

static void i8259_destroy(Device *device)
{
    irq_router_remove_sink(device->board->irqs, i8259_sink, container_of(device, I8259, device));
    ext_int_drive(&device->board->extint, NULL, NULL);
    device->board->pic = NULL;
}

static void i8259_save(Device *device, void *state)
{
    I8259 *pic = container_of(device, I8259, device);
    *(I8259State *)state = pic->state;
    if (device->board->irqchip)
        device->board->irqchip->pic_get(device->board->irqchip_engine, state);
}

static bool chip_is_valid(const I8259ChipState *chip)
{
    return chip->lowest <= 7 && chip->next_icw <= 4 && chip->next_icw != 1 && !(chip->icw2 & 7);
}

static int i8259_restore(Device *device, const void *state)
{
    I8259 *pic = container_of(device, I8259, device);
    I8259State saved = *(const I8259State *)state;
    if (!chip_is_valid(&saved.master) || !chip_is_valid(&saved.slave))
        return -EINVAL;
    saved.master.elcr &= ELCR_MASTER_MASK;
    saved.slave.elcr &= ELCR_SLAVE_MASK;
    pic->state = saved;
    i8259_update(pic);
    return device->board->irqchip ? device->board->irqchip->pic_set(device->board->irqchip_engine, &pic->state) : 0;
}

static const DeviceClass i8259_class = {
    .name = "i8259",
    .ops = {i8259_read, i8259_write},
    .reset = i8259_reset,
    .destroy = i8259_destroy,
    .state_size = sizeof(I8259State),
    .state_version = I8259_STATE_VERSION,
    .save = i8259_save,
    .restore = i8259_restore,
};

Device *i8259_new(Board *board, IrqRouter *router)
{
    I8259 *pic = calloc(1, sizeof *pic);
    if (!pic)
        return NULL;
    device_init(&pic->device, &i8259_class, board);
    if (irq_router_add_sink(router, i8259_sink, pic) < 0) {
        device_free(&pic->device);
        return NULL;
    }
    i8259_reset(&pic->device);
    ext_int_drive(&board->extint, i8259_acknowledge, pic);
    board->pic = &pic->device;
    return &pic->device;
}
