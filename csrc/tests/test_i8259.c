/* Intel 8259A datasheet (231468): initialisation, priorities, end of interrupt, rotation, masks, poll, cascade,
 * ELCR. */
#include "device_check.h"
#include "irq/i8259.h"

enum { M = I8259_REGION_MASTER, S = I8259_REGION_SLAVE, E = I8259_REGION_ELCR };

typedef struct Setup {
    Board *board;
    Device *pic;
    IrqLine *line[16];
} Setup;

static void initialise(Device *pic, uint8_t master_icw4, uint8_t slave_icw4)
{
    out8(pic, M, 0, 0x11), out8(pic, M, 1, 0x20), out8(pic, M, 1, 0x04), out8(pic, M, 1, master_icw4);
    out8(pic, S, 0, 0x11), out8(pic, S, 1, 0x28), out8(pic, S, 1, 0x02), out8(pic, S, 1, slave_icw4);
}

static Setup setup_with(uint8_t master_icw4, uint8_t slave_icw4)
{
    Setup s = {.board = test_board()};
    s.pic = i8259_new(s.board, s.board->irqs);
    CHECK(s.pic);
    for (uint32_t i = 0; i < 16; i++)
        s.line[i] = irq_line_new(s.board->irqs, i);
    initialise(s.pic, master_icw4, slave_icw4);
    return s;
}

static Setup setup(void) { return setup_with(0x01, 0x01); }

static void done(Setup *s)
{
    device_free(s->pic);
    board_free(s->board);
}

static int take(Setup *s) { return intr_pin_level(&s->board->intr) ? intr_pin_acknowledge(&s->board->intr) : -1; }

static void priorities(void)
{
    Setup s = setup();
    CHECK_EQ(take(&s), -1);
    irq_line_pulse(s.line[5]);
    irq_line_pulse(s.line[3]);
    CHECK_EQ(in8(s.pic, M, 0), 0x28); /* IRR */
    CHECK_EQ(take(&s), 0x23);
    CHECK_EQ(take(&s), -1); /* 5 waits behind 3 */
    irq_line_pulse(s.line[1]);
    CHECK_EQ(take(&s), 0x21); /* 1 nests in 3 */
    out8(s.pic, M, 0, 0x0b);
    CHECK_EQ(in8(s.pic, M, 0), 0x0a); /* ISR */
    out8(s.pic, M, 0, 0x20);
    CHECK_EQ(in8(s.pic, M, 0), 0x08);
    CHECK_EQ(take(&s), -1);
    out8(s.pic, M, 0, 0x63); /* specific EOI 3 */
    CHECK_EQ(take(&s), 0x25);
    out8(s.pic, M, 0, 0x20);
    CHECK_EQ(intr_pin_level(&s.board->intr), 0);
    done(&s);
}

static void masks(void)
{
    Setup s = setup();
    out8(s.pic, M, 1, 0x10);
    CHECK_EQ(in8(s.pic, M, 1), 0x10);
    irq_line_pulse(s.line[4]);
    CHECK_EQ(take(&s), -1);
    out8(s.pic, M, 1, 0x00);
    CHECK_EQ(take(&s), 0x24);
    irq_line_pulse(s.line[6]);
    CHECK_EQ(take(&s), -1);
    out8(s.pic, M, 1, 0x10); /* special mask: 4 is masked and no longer holds lower levels back */
    out8(s.pic, M, 0, 0x68);
    CHECK_EQ(take(&s), 0x26);
    out8(s.pic, M, 0, 0x20); /* does not clear the masked 4, but 6 */
    out8(s.pic, M, 0, 0x0b);
    CHECK_EQ(in8(s.pic, M, 0), 0x10);
    out8(s.pic, M, 0, 0x48);
    out8(s.pic, M, 0, 0x64);
    CHECK_EQ(in8(s.pic, M, 0), 0x00);
    done(&s);
}

static void edge_and_level(void)
{
    Setup s = setup();
    out8(s.pic, E, 0, 0xff), out8(s.pic, E, 1, 0xff);
    CHECK_EQ(in8(s.pic, E, 0), 0xf8); /* timer, keyboard and cascade stay edge-triggered */
    CHECK_EQ(in8(s.pic, E, 1), 0xde);
    CHECK_EQ(device_read(s.pic, E, 0, 2), 0xdef8);
    irq_line_set(s.line[10], true);
    CHECK_EQ(take(&s), 0x2a);
    out8(s.pic, S, 0, 0x20), out8(s.pic, M, 0, 0x20);
    CHECK_EQ(take(&s), 0x2a); /* still high */
    irq_line_set(s.line[10], false);
    out8(s.pic, S, 0, 0x20), out8(s.pic, M, 0, 0x20);
    CHECK_EQ(take(&s), -1);
    irq_line_set(s.line[0], true); /* an edge gives one interrupt for however long it is high */
    CHECK_EQ(take(&s), 0x20);
    out8(s.pic, M, 0, 0x20);
    CHECK_EQ(take(&s), -1);
    done(&s);
}

static void spurious(void)
{
    Setup s = setup();
    out8(s.pic, E, 0, 0x20), out8(s.pic, E, 1, 0x04);
    irq_line_set(s.line[5], true);
    irq_line_set(s.line[5], false); /* gone before the acknowledge cycle, which the CPU had begun */
    CHECK_EQ(intr_pin_acknowledge(&s.board->intr), 0x27);
    out8(s.pic, M, 0, 0x0b);
    CHECK_EQ(in8(s.pic, M, 0), 0); /* no ISR bit */
    done(&s);
}

static void cascade(void)
{
    Setup s = setup();
    irq_line_pulse(s.line[12]);
    irq_line_pulse(s.line[3]);
    CHECK_EQ(take(&s), 0x2c); /* the slave's are at level 2 */
    irq_line_pulse(s.line[8]);
    CHECK_EQ(take(&s), -1); /* the master still serves the slave */
    out8(s.pic, M, 0, 0x20);
    CHECK_EQ(take(&s), 0x28);
    out8(s.pic, S, 0, 0x20);
    out8(s.pic, S, 0, 0x0b);
    CHECK_EQ(in8(s.pic, S, 0), 0x10);
    out8(s.pic, S, 0, 0x20);
    out8(s.pic, M, 0, 0x20);
    CHECK_EQ(take(&s), 0x23);
    done(&s);
}

static void special_fully_nested(void)
{
    Setup s = setup_with(0x11, 0x01);
    irq_line_pulse(s.line[12]);
    CHECK_EQ(take(&s), 0x2c);
    irq_line_pulse(s.line[8]);
    CHECK_EQ(take(&s), 0x28); /* a higher one of the same slave comes through */
    done(&s);
}

static void rotation(void)
{
    Setup s = setup();
    irq_line_pulse(s.line[4]);
    irq_line_pulse(s.line[6]);
    CHECK_EQ(take(&s), 0x24);
    out8(s.pic, M, 0, 0xa0); /* rotate on non-specific EOI: 4 is lowest now, 5 highest */
    irq_line_pulse(s.line[3]);
    CHECK_EQ(take(&s), 0x26);
    out8(s.pic, M, 0, 0xc1); /* set priority: 1 is lowest */
    out8(s.pic, M, 0, 0x66);
    irq_line_pulse(s.line[0]);
    CHECK_EQ(take(&s), 0x23);
    done(&s);
    s = setup_with(0x03, 0x03); /* automatic EOI, rotating */
    out8(s.pic, M, 0, 0x80);
    irq_line_pulse(s.line[4]);
    CHECK_EQ(take(&s), 0x24);
    irq_line_pulse(s.line[3]);
    irq_line_pulse(s.line[5]);
    CHECK_EQ(take(&s), 0x25);
    CHECK_EQ(take(&s), 0x23);
    out8(s.pic, M, 0, 0x0b);
    CHECK_EQ(in8(s.pic, M, 0), 0);
    irq_line_pulse(s.line[12]); /* cascade with AEOI on both */
    irq_line_pulse(s.line[13]);
    CHECK_EQ(take(&s), 0x2c);
    CHECK_EQ(take(&s), 0x2d);
    done(&s);
}

static void poll(void)
{
    Setup s = setup();
    out8(s.pic, M, 0, 0x0c);
    CHECK_EQ(in8(s.pic, M, 0), 0x00);
    irq_line_pulse(s.line[3]);
    out8(s.pic, M, 0, 0x0c);
    CHECK_EQ(in8(s.pic, M, 0), 0x83);
    CHECK_EQ(intr_pin_level(&s.board->intr), 0);
    out8(s.pic, M, 0, 0x0b);
    CHECK_EQ(in8(s.pic, M, 0), 0x08);
    done(&s);
}

static void initialisation(void)
{
    Setup s = setup();
    irq_line_set(s.line[1], true);
    CHECK_EQ(take(&s), 0x21);
    irq_line_pulse(s.line[6]);
    initialise(s.pic, 1, 1);
    CHECK_EQ(in8(s.pic, M, 0), 0); /* the edge sense is reset: 1 must fall and rise */
    CHECK_EQ(take(&s), -1);
    irq_line_set(s.line[1], false);
    irq_line_set(s.line[1], true);
    CHECK_EQ(take(&s), 0x21);
    out8(s.pic, M, 0, 0x13); /* single, with ICW4: two more words */
    out8(s.pic, M, 1, 0x40), out8(s.pic, M, 1, 0x01), out8(s.pic, M, 1, 0xfe);
    CHECK_EQ(in8(s.pic, M, 1), 0xfe);
    done(&s);
}

static void state(void)
{
    Setup s = setup();
    out8(s.pic, E, 0, 0x20);
    irq_line_set(s.line[5], true);
    irq_line_pulse(s.line[1]);
    CHECK_EQ(take(&s), 0x21);
    check_save_restore(s.pic);
    I8259State bad;
    device_save(s.pic, &bad);
    bad.slave.lowest = 8;
    CHECK_EQ(device_restore(s.pic, &bad), -EINVAL);
    out8(s.pic, M, 0, 0x20);
    CHECK_EQ(take(&s), 0x25);
    done(&s);
}

int main(void)
{
    RUN(priorities);
    RUN(masks);
    RUN(edge_and_level);
    RUN(spurious);
    RUN(cascade);
    RUN(special_fully_nested);
    RUN(rotation);
    RUN(poll);
    RUN(initialisation);
    RUN(state);
    return 0;
}
