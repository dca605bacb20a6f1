/*
 * The 8259A pair once more, from the Intel datasheet (231468) and PIIX 290562 §2.5.5 by who did not write the
 * device: a model of both chips, level by level, runs beside it through random requests, masks, commands, polls and
 * acknowledge cycles. What i8259.h calls a liberty (an edge stays requested when its line falls) is one here too.
 */
#include "device_check.h"
#include "irq/i8259.h"

typedef struct Chip {
    uint8_t edges, lines, elcr, imr, isr, base, read_isr, lowest;
    bool aeoi, sfnm, smm, rotate_aeoi;
} Chip;

typedef struct Setup {
    Board *board;
    Device *pic;
    IrqLine *line[16];
    Chip chip[2];
    uint32_t seed;
    unsigned taken;
} Setup;

static uint32_t chance(Setup *s, uint32_t below)
{
    s->seed = s->seed * 1664525u + 1013904223u;
    return (s->seed >> 8) % below;
}

static uint8_t requests(const Chip *chip)
{
    return (uint8_t)((chip->edges & ~chip->elcr) | (chip->lines & chip->elcr));
}

/* Levels from the highest priority down. */
static unsigned level_at(const Chip *chip, unsigned rank) { return (chip->lowest + 1u + rank) & 7; }

static int highest(const Chip *chip, uint8_t bits)
{
    for (unsigned rank = 0; rank < 8; rank++)
        if (bits >> level_at(chip, rank) & 1)
            return (int)level_at(chip, rank);
    return -1;
}

/* "Fully nested", "special fully nested" and "special mask" modes: the level that INT asks for, or -1. */
static int wanted(const Chip *chip, bool master)
{
    for (unsigned rank = 0; rank < 8; rank++) {
        unsigned level = level_at(chip, rank);
        bool serving = chip->isr >> level & 1, masked = chip->imr >> level & 1;
        if (serving && chip->smm && masked)
            continue; /* does not hold the others back */
        if (serving && !(master && chip->sfnm && level == 2))
            return -1;
        if (requests(chip) >> level & 1 && !masked)
            return (int)level;
        if (serving)
            return -1;
    }
    return -1;
}

static void settle(Setup *s)
{
    Chip *master = &s->chip[0];
    bool asks = wanted(&s->chip[1], false) >= 0;
    master->lines = (uint8_t)((master->lines & ~4) | asks << 2);
    master->edges = (uint8_t)((master->edges & ~4) | asks << 2);
}

static void serve(Chip *chip, int level)
{
    chip->edges &= (uint8_t) ~(1u << level);
    if (!chip->aeoi)
        chip->isr |= (uint8_t)(1u << level);
    else if (chip->rotate_aeoi)
        chip->lowest = (uint8_t)level;
}

static int acknowledge(Setup *s)
{
    int level = wanted(&s->chip[0], true);
    if (level < 0)
        return -1;
    int vector = s->chip[0].base + level;
    serve(&s->chip[0], level);
    if (level == 2) {
        level = wanted(&s->chip[1], false);
        CHECK(level >= 0);
        serve(&s->chip[1], level);
        vector = s->chip[1].base + level;
    }
    settle(s);
    return vector;
}

/* OCW2: R, SL, EOI. */
static void ocw2(Chip *chip, uint8_t value)
{
    unsigned level = value & 7;
    int top = highest(chip, chip->smm ? chip->isr & ~chip->imr : chip->isr);
    switch (value >> 5) {
    case 0:
    case 4:
        chip->rotate_aeoi = value >> 7;
        break;
    case 1:
    case 5:
        if (top < 0)
            break;
        chip->isr &= (uint8_t) ~(1u << top);
        if (value >> 7)
            chip->lowest = (uint8_t)top;
        break;
    case 3:
    case 7:
        chip->isr &= (uint8_t) ~(1u << level);
        if (value >> 7)
            chip->lowest = (uint8_t)level;
        break;
    case 6:
        chip->lowest = (uint8_t)level;
    }
}

static void initialise(Setup *s, unsigned which, uint8_t base, uint8_t icw4)
{
    Chip *chip = &s->chip[which];
    out8(s->pic, which, 0, 0x11);
    out8(s->pic, which, 1, base | 5); /* the low three bits are not the vector's */
    out8(s->pic, which, 1, which ? 2 : 4);
    out8(s->pic, which, 1, icw4);
    *chip = (Chip){.elcr = chip->elcr,
                   .lines = chip->lines,
                   .lowest = 7,
                   .base = base,
                   .aeoi = icw4 >> 1 & 1,
                   .sfnm = icw4 >> 4 & 1};
    settle(s);
}

static void wire(Setup *s, unsigned irq, bool level)
{
    Chip *chip = &s->chip[irq >> 3];
    uint8_t bit = (uint8_t)(1u << (irq & 7));
    irq_line_set(s->line[irq], level);
    if (level && !(chip->lines & bit))
        chip->edges |= bit;
    chip->lines = (uint8_t)(level ? chip->lines | bit : chip->lines & ~bit);
    settle(s);
}

static void compare(Setup *s)
{
    for (unsigned i = 0; i < 2; i++) {
        const Chip *chip = &s->chip[i];
        CHECK_EQ(in8(s->pic, i, 1), chip->imr);
        CHECK_EQ(in8(s->pic, i, 0), chip->read_isr ? chip->isr : requests(chip));
        CHECK_EQ(in8(s->pic, I8259_REGION_ELCR, i), chip->elcr);
    }
    CHECK_EQ(intr_pin_level(&s->board->intr), wanted(&s->chip[0], true) >= 0);
}

static void setup(Setup *s, uint32_t seed)
{
    *s = (Setup){.board = test_board(), .seed = seed};
    s->pic = i8259_new(s->board, s->board->irqs);
    CHECK(s->pic);
    for (uint32_t i = 0; i < 16; i++)
        s->line[i] = irq_line_new(s->board->irqs, i);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t elcr = (uint8_t)chance(s, 256);
        out8(s->pic, I8259_REGION_ELCR, i, elcr);
        s->chip[i].elcr = elcr & (i ? 0xde : 0xf8); /* 0, 1, 2, 8 and 13 are always edges */
        static const uint8_t ICW4[] = {0x01, 0x01, 0x03, 0x11};
        initialise(s, i, (uint8_t)(chance(s, 32) << 3), ICW4[chance(s, i ? 3 : 4)]);
    }
}

static void done(Setup *s)
{
    device_free(s->pic);
    board_free(s->board);
}

/* In special mask mode with a level in service unmasked the datasheet is silent on lower ones: mask what is served.
 */
static void set_special_mask(Setup *s, unsigned which, bool on)
{
    out8(s->pic, which, 0, on ? 0x68 : 0x48);
    s->chip[which].smm = on;
    settle(s);
}

static void poll(Setup *s, unsigned which)
{
    Chip *chip = &s->chip[which];
    out8(s->pic, which, 0, 0x0c);
    uint8_t answer = in8(s->pic, which, 0);
    int level = wanted(chip, !which);
    CHECK_EQ(answer >> 7, level >= 0);
    if (level < 0)
        return;
    CHECK_EQ(answer & 7, level);
    bool asked = !which && level == 2;
    serve(chip, level);
    settle(s);
    if (asked)
        s->taken++;
}

static void step(Setup *s)
{
    unsigned which = chance(s, 2), irq = chance(s, 16);
    Chip *chip = &s->chip[which];
    switch (chance(s, 12)) {
    case 0:
    case 1:
        if (irq != 2)
            wire(s, irq, !(s->chip[irq >> 3].lines >> (irq & 7) & 1));
        break;
    case 2:
        if (irq != 2)
            wire(s, irq, true), wire(s, irq, false);
        break;
    case 3:
    case 4:
        if (intr_pin_level(&s->board->intr)) {
            CHECK_EQ(intr_pin_acknowledge(&s->board->intr), acknowledge(s));
            s->taken++;
        } else /* the request is gone: level 7's vector, and nothing in service */
            CHECK_EQ(intr_pin_acknowledge(&s->board->intr), s->chip[0].base | 7);
        break;
    case 5:
        chip->imr = (uint8_t)(chance(s, 256) & chance(s, 256));
        out8(s->pic, which, 1, chip->imr);
        settle(s);
        break;
    case 6:
    case 7: {
        static const uint8_t COMMANDS[] = {0x20, 0x20, 0x20, 0x60, 0xa0, 0xe0, 0xc0, 0x80, 0x00, 0x40};
        uint8_t value = (uint8_t)(COMMANDS[chance(s, ARRAY_SIZE(COMMANDS))] | (irq & 7));
        out8(s->pic, which, 0, value);
        ocw2(chip, value);
        settle(s);
        break;
    }
    case 8:
        chip->read_isr = irq & 1;
        out8(s->pic, which, 0, 0x0a | chip->read_isr);
        out8(s->pic, which, 0, 0x08); /* RR clear: what is read stays */
        break;
    case 9:
        set_special_mask(s, which, irq & 1);
        break;
    case 10:
        poll(s, which);
        break;
    default:
        check_save_restore(s->pic);
        if (!chance(s, 20))
            initialise(s, which, (uint8_t)(chance(s, 32) << 3), which ? 1 : 0x11);
    }
    compare(s);
}

static void test_against_the_model(void)
{
    unsigned taken = 0;
    for (uint32_t seed = 1; seed <= 300; seed++) {
        Setup s;
        setup(&s, seed);
        for (unsigned i = 0; i < 300; i++)
            step(&s);
        taken += s.taken;
        done(&s);
    }
    CHECK(taken > 2000); /* it was not all masked */
}

/* ICW1: what initialisation clears, with lines that are up; and the short forms of the sequence. */
static void test_initialisation(void)
{
    Setup s;
    setup(&s, 7);
    out8(s.pic, I8259_REGION_ELCR, 0, 0), out8(s.pic, I8259_REGION_ELCR, 1, 0);
    s.chip[0].elcr = s.chip[1].elcr = 0;
    initialise(&s, 0, 0x20, 1), initialise(&s, 1, 0x28, 1);
    wire(&s, 3, true), wire(&s, 9, true);
    out8(s.pic, 0, 1, 0xff), out8(s.pic, 0, 0, 0x0b), out8(s.pic, 0, 0, 0x68), out8(s.pic, 0, 0, 0xc2);
    initialise(&s, 0, 0x40, 1);
    compare(&s); /* IMR 0, IRR read, no request from a line that is up already, the slave still asks */
    CHECK_EQ(in8(s.pic, 0, 0), 4);
    CHECK_EQ(intr_pin_acknowledge(&s.board->intr), acknowledge(&s));
    wire(&s, 3, false), wire(&s, 3, true);
    compare(&s);
    /* Single, no ICW4: two words and it works; AEOI is off. */
    out8(s.pic, 0, 0, 0x12), out8(s.pic, 0, 1, 0x70), out8(s.pic, 0, 1, 0xf7);
    CHECK_EQ(in8(s.pic, 0, 1), 0xf7); /* that was OCW1 */
    wire(&s, 3, false), wire(&s, 3, true);
    CHECK_EQ(intr_pin_acknowledge(&s.board->intr), 0x73);
    out8(s.pic, 0, 0, 0x0b);
    CHECK_EQ(in8(s.pic, 0, 0), 8);
    done(&s);
}

int main(void)
{
    RUN(test_against_the_model);
    RUN(test_initialisation);
    return 0;
}
