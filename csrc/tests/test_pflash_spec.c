/*
 * Flash memory once more, from the 28F320J5 datasheet (290606) and CFI (JESD68.01) by who did not write the device:
 * a model of the array and the status register beside it, through random commands; and what a driver finds by
 * query.
 */
#include "device_check.h"
#include "devices/pflash.h"

enum { BLOCKS = 8, SIZE = BLOCKS * PFLASH_BLOCK_SIZE };
enum { READY = 0x80, ERASE_ERROR = 0x20, PROGRAM_ERROR = 0x10, SEQUENCE_ERROR = 0x30 };

typedef struct Setup {
    Board *board;
    Device *flash;
    uint8_t array[SIZE], status;
    uint32_t seed;
} Setup;

static uint32_t chance(Setup *s, uint32_t below)
{
    s->seed = s->seed * 1664525u + 1013904223u;
    return (s->seed >> 8) % below;
}

static void put(Setup *s, uint32_t at, uint8_t value) { out8(s->flash, 0, at, value); }
static uint8_t get(Setup *s, uint32_t at) { return in8(s->flash, 0, at); }

static void setup(Setup *s, uint32_t seed)
{
    Error error = {0};
    s->seed = seed, s->status = READY;
    memset(s->array, 0xff, SIZE);
    s->board = test_board();
    s->flash = pflash_new(s->board, -1, SIZE, &error);
    CHECK(s->flash);
}

static void done(Setup *s)
{
    device_free(s->flash);
    board_free(s->board);
}

static void program(Setup *s, uint32_t at, uint8_t value)
{
    put(s, at, chance(s, 2) ? 0x40 : 0x10);
    s->status |= READY;
    CHECK_EQ(get(s, chance(s, SIZE)), s->status); /* after the first cycle reads are of the status */
    put(s, at, value);
    s->array[at] &= value; /* programming only clears */
}

static void erase(Setup *s, uint32_t at, uint8_t confirm)
{
    put(s, at, 0x20);
    s->status |= READY;
    put(s, at, confirm);
    if (confirm == 0xd0)
        memset(s->array + at / PFLASH_BLOCK_SIZE * PFLASH_BLOCK_SIZE, 0xff, PFLASH_BLOCK_SIZE);
    else
        s->status |= SEQUENCE_ERROR;
}

/* E8, count - 1, the data in any order within the buffer's reach, D0. */
static void write_to_buffer(Setup *s, uint32_t at, uint32_t count, uint8_t confirm)
{
    uint8_t data[PFLASH_BUFFER_SIZE];
    put(s, at, 0xe8);
    s->status |= READY;
    CHECK(get(s, at) & READY); /* XSR.7: the buffer is free */
    put(s, at, (uint8_t)(count - 1));
    for (uint32_t i = 0; i < count; i++)
        put(s, at + i, data[i] = (uint8_t)chance(s, 256));
    put(s, at, confirm);
    if (confirm != 0xd0) {
        s->status |= SEQUENCE_ERROR;
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        s->array[at + i] &= data[i];
}

static void test_against_the_model(void)
{
    static Setup s;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        setup(&s, seed);
        for (int i = 0; i < 400; i++) {
            uint32_t at = chance(&s, SIZE), count = 1 + chance(&s, 32);
            switch (chance(&s, 8)) {
            case 0:
            case 1:
                program(&s, at, (uint8_t)chance(&s, 256));
                break;
            case 2:
                erase(&s, at, chance(&s, 4) ? 0xd0 : 0x12);
                break;
            case 3:
            case 4:
                at &= ~(uint32_t)(PFLASH_BUFFER_SIZE - 1);
                write_to_buffer(&s, at, count, chance(&s, 4) ? 0xd0 : 0x77);
                break;
            case 5:
                put(&s, at, 0x50);
                s.status = 0; /* the quirk that pflash.c tells of: READY on hardware */
                put(&s, at, 0x70);
                break;
            case 6:
                put(&s, at, 0x70);
                check_save_restore(s.flash);
                break;
            default:
                put(&s, at, 0x90);
                CHECK_EQ(get(&s, 0), 0x89); /* Intel */
                put(&s, at, 0x70);
            }
            CHECK_EQ(get(&s, chance(&s, SIZE)), s.status);
            if (i % 16 == 0) {
                put(&s, at, 0xff);
                for (uint32_t j = 0; j < SIZE; j += 8)
                    CHECK_EQ(device_read(s.flash, 0, j, 8), load_le64(s.array + j));
                put(&s, at, 0x70);
            }
        }
        CHECK(!memcmp(pflash_data(s.flash), s.array, SIZE));
        done(&s);
    }
}

/* CFI: a driver learns the geometry and the command set from the query table alone. */
static void test_query(void)
{
    static Setup s;
    setup(&s, 1);
    put(&s, 0x55, 0x98);
    CHECK(get(&s, 0x10) == 'Q' && get(&s, 0x11) == 'R' && get(&s, 0x12) == 'Y');
    uint32_t set = get(&s, 0x13) | (uint32_t)get(&s, 0x14) << 8;
    CHECK(set == 1 || set == 3); /* Intel's command sets */
    uint32_t extended = get(&s, 0x15) | (uint32_t)get(&s, 0x16) << 8;
    if (extended)
        CHECK(get(&s, extended) == 'P' && get(&s, extended + 1) == 'R' && get(&s, extended + 2) == 'I');
    CHECK_EQ(1u << get(&s, 0x27), SIZE);
    CHECK_EQ(1u << (get(&s, 0x2a) | get(&s, 0x2b) << 8), PFLASH_BUFFER_SIZE);
    uint32_t total = 0, regions = get(&s, 0x2c);
    for (uint32_t i = 0; i < regions; i++) {
        uint32_t at = 0x2d + 4 * i;
        uint32_t blocks = 1 + (get(&s, at) | (uint32_t)get(&s, at + 1) << 8);
        uint32_t bytes = (get(&s, at + 2) | (uint32_t)get(&s, at + 3) << 8) * 256;
        CHECK_EQ(bytes, PFLASH_BLOCK_SIZE);
        total += blocks * bytes;
    }
    CHECK_EQ(total, SIZE);
    put(&s, 0, 0xff);
    CHECK_EQ(get(&s, 0x10), 0xff);
    done(&s);
}

int main(void)
{
    RUN(test_against_the_model);
    RUN(test_query);
    return 0;
}
