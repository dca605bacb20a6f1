/* 8237A datasheet: flip-flop, addresses and counts, masks, modes, terminal count, and the PC's page registers. */
#include "device_check.h"
#include "devices/i8237.h"

enum { STATUS = 8, REQUEST, SINGLE_MASK, MODE, FLIP_FLOP, CLEAR, CLEAR_MASK, ALL_MASK };

typedef struct Setup {
    Board *board;
    Device *dma;
} Setup;

static Setup set_up(void)
{
    Error error;
    Setup s = {.board = test_board()};
    CHECK_EQ(guest_memory_add(s.board->memory, 0, 0x40000, 0, &error), 0);
    s.dma = i8237_new(s.board);
    CHECK(s.dma);
    return s;
}

static void done(Setup *s)
{
    device_free(s->dma);
    board_free(s->board);
}

/* Channel 2 by its ports: 04h, 05h and page 81h. */
static void program(Setup *s, uint8_t mode, uint16_t address, uint16_t count, uint8_t page)
{
    out8(s->dma, 0, FLIP_FLOP, 0);
    out8(s->dma, 0, 4, (uint8_t)address), out8(s->dma, 0, 4, address >> 8);
    out8(s->dma, 0, 5, (uint8_t)count), out8(s->dma, 0, 5, count >> 8);
    out8(s->dma, 0, MODE, mode);
    out8(s->dma, 2, 0, page);
    out8(s->dma, 0, SINGLE_MASK, 2);
}

static uint8_t byte_at(Setup *s, gpa_t gpa)
{
    uint8_t byte;
    CHECK_EQ(guest_memory_read(s->board->memory, gpa, &byte, 1), 0);
    return byte;
}

static void test_registers(void)
{
    Setup s = set_up();
    CHECK_EQ(in8(s.dma, 0, ALL_MASK), 0xff); /* all masked */
    program(&s, 0x46, 0x1234, 0x01ff, 3);
    CHECK_EQ(in8(s.dma, 0, 4), 0x34);
    CHECK_EQ(in8(s.dma, 0, 4), 0x12);
    CHECK_EQ(in8(s.dma, 0, 5), 0xff);
    CHECK_EQ(in8(s.dma, 0, 5), 0x01);
    CHECK_EQ(in8(s.dma, 0, ALL_MASK), 0xfb);
    CHECK_EQ(in8(s.dma, 2, 0), 3);
    CHECK_EQ(in8(s.dma, 2, 15), 0xff); /* port 90h is nobody's */
    out8(s.dma, 0, 4, 0xaa);           /* one byte, then the flip-flop back: low again */
    out8(s.dma, 0, FLIP_FLOP, 0);
    CHECK_EQ(in8(s.dma, 0, 4), 0xaa);
    out8(s.dma, 0, REQUEST, 5);
    CHECK_EQ(in8(s.dma, 0, STATUS), 0x20);
    out8(s.dma, 0, CLEAR, 0);
    CHECK_EQ(in8(s.dma, 0, STATUS), 0);
    CHECK_EQ(in8(s.dma, 0, ALL_MASK), 0xff);
    out8(s.dma, 0, CLEAR_MASK, 0);
    CHECK_EQ(in8(s.dma, 0, ALL_MASK), 0xf0);
    out8(s.dma, 1, 2 * ALL_MASK, 0x0e); /* the second chip: each register twice */
    CHECK_EQ(in8(s.dma, 1, 2 * ALL_MASK + 1), 0xfe);
    check_save_restore(s.dma);
    done(&s);
}

static void test_to_memory(void)
{
    Setup s = set_up();
    uint8_t data[512];
    bool tc;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 512, I8237_TO_MEMORY, &tc), 0); /* masked */
    program(&s, 0x46, 0xff00, 1023, 1);
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 512, I8237_FROM_MEMORY, &tc), 0); /* the other direction */
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 512, I8237_TO_MEMORY, &tc), 512);
    CHECK(!tc);
    CHECK_EQ(byte_at(&s, 0x1ff00), 0);
    CHECK_EQ(byte_at(&s, 0x1ffff), (uint8_t)(255 * 7));
    CHECK_EQ(byte_at(&s, 0x10000), 0); /* over the end of the page it starts again: 256 * 7 */
    CHECK_EQ(byte_at(&s, 0x10001), (uint8_t)(257 * 7));
    CHECK_EQ(byte_at(&s, 0x20001), 0);
    CHECK_EQ(in8(s.dma, 0, STATUS), 0);
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 600, I8237_TO_MEMORY, &tc), 512); /* the count is over */
    CHECK(tc);
    CHECK_EQ(in8(s.dma, 0, ALL_MASK), 0xff);
    CHECK_EQ(in8(s.dma, 0, STATUS), 0x04);
    CHECK_EQ(in8(s.dma, 0, STATUS), 0); /* reading cleared it */
    done(&s);
}

static void test_modes(void)
{
    Setup s = set_up();
    uint8_t data[4] = {1, 2, 3, 4};
    bool tc;
    program(&s, 0x66, 0x103, 3, 0); /* decrement */
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 4, I8237_TO_MEMORY, &tc), 4);
    CHECK(tc && byte_at(&s, 0x103) == 1 && byte_at(&s, 0x100) == 4);
    program(&s, 0x5a, 0x100, 3, 0); /* automatic initialization, from memory */
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(i8237_transfer(s.dma, 2, data, 4, I8237_FROM_MEMORY, &tc), 4);
        CHECK(tc && data[0] == 4 && data[3] == 1);
        CHECK_EQ(in8(s.dma, 0, ALL_MASK), 0xfb);
    }
    memset(data, 0x55, sizeof data);
    program(&s, 0x42, 0x100, 3, 0); /* verify: it counts */
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 4, I8237_FROM_MEMORY, &tc), 4);
    CHECK(tc && data[0] == 0x55);
    program(&s, 0x4a, 0, 3, 0x80); /* no memory there: ones */
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 4, I8237_FROM_MEMORY, &tc), 4);
    CHECK_EQ(data[3], 0xff);
    program(&s, 0x46, 0x100, 3, 0);
    out8(s.dma, 0, STATUS, 4); /* controller disable */
    CHECK_EQ(i8237_transfer(s.dma, 2, data, 4, I8237_TO_MEMORY, &tc), 0);
    done(&s);
}

static void test_words(void)
{
    Setup s = set_up();
    uint8_t data[6] = {1, 2, 3, 4, 5, 6};
    bool tc;
    out8(s.dma, 1, 2 * 2, 0x80), out8(s.dma, 1, 2 * 2, 0x00); /* channel 5: address / 2 */
    out8(s.dma, 1, 2 * 3, 0x01), out8(s.dma, 1, 2 * 3, 0x00); /* two words */
    out8(s.dma, 1, 2 * MODE, 0x45);
    out8(s.dma, 2, 0x8b - 0x81, 0x03); /* the page's bit 0 is not used */
    out8(s.dma, 1, 2 * SINGLE_MASK, 1);
    CHECK_EQ(i8237_transfer(s.dma, 5, data, 6, I8237_TO_MEMORY, &tc), 4);
    CHECK(tc && byte_at(&s, 0x20100) == 1 && byte_at(&s, 0x20103) == 4 && byte_at(&s, 0x20104) == 0);
    done(&s);
}

static void test_bad_states(void)
{
    Setup s = set_up();
    I8237State state;
    device_save(s.dma, &state);
    state.units[0].mask = 0x10;
    CHECK_EQ(device_restore(s.dma, &state), -EINVAL);
    device_save(s.dma, &state);
    state.units[1].flip_flop = 2;
    CHECK_EQ(device_restore(s.dma, &state), -EINVAL);
    device_save(s.dma, &state);
    state.channels[3].mode = 1;
    CHECK_EQ(device_restore(s.dma, &state), -EINVAL);
    done(&s);
}

int main(void)
{
    RUN(test_registers);
    RUN(test_to_memory);
    RUN(test_modes);
    RUN(test_words);
    RUN(test_bad_states);
    return 0;
}
