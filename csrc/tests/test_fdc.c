/* 82077AA datasheet: reset, seeks, sense commands, data by DMA and by the FIFO, their errors, the change line. */
#include <fcntl.h>
#include <unistd.h>

#include "device_check.h"
#include "devices/fdc.h"
#include "devices/i8237.h"

enum { TRACKS = 80, HEADS = 2, SECTORS = 18, MS = 1000000, BUFFER = 0x8000 };

typedef struct Setup {
    Board *board;
    Device *dma, *fdc;
    BlockImage *image;
    EdgeCounter irq;
    char path[40];
} Setup;

static Setup *set_up(uint32_t flags)
{
    Setup *s = calloc(1, sizeof *s);
    Error error;
    CHECK(s);
    s->board = test_board();
    CHECK_EQ(guest_memory_add(s->board->memory, 0, 0x20000, 0, &error), 0);
    strcpy(s->path, "/tmp/pyvmm-fdc-XXXXXX");
    int fd = mkstemp(s->path);
    CHECK(fd >= 0);
    for (uint32_t sector = 0; sector < TRACKS * HEADS * SECTORS; sector++) {
        uint8_t data[FDC_SECTOR];
        memset(data, (int)(sector & 0xff), sizeof data);
        store_le32(data, sector);
        CHECK_EQ(write(fd, data, sizeof data), sizeof data);
    }
    close(fd);
    s->image = block_open(s->path, "raw", BLOCK_CACHE_UNSAFE, flags, &error);
    CHECK(s->image);
    s->irq.gsi = 6;
    irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->irq);
    s->dma = i8237_new(s->board);
    FdcOptions options = {.drives = {{s->image, {TRACKS, HEADS, SECTORS, 0}, 1}, {NULL, {0}, 1}}};
    s->fdc = fdc_new(s->board, irq_line_new(s->board->irqs, 6), s->dma, 2, &options);
    CHECK(s->dma && s->fdc);
    return s;
}

static void done(Setup *s)
{
    device_free(s->fdc);
    device_free(s->dma);
    block_close(s->image);
    board_free(s->board);
    unlink(s->path);
    free(s);
}

static uint8_t msr(Setup *s) { return in8(s->fdc, 0, FDC_MSR); }

static void put(Setup *s, uint8_t byte)
{
    CHECK_EQ(msr(s) & (MSR_RQM | MSR_DIO), MSR_RQM);
    out8(s->fdc, 0, FDC_FIFO, byte);
}

static uint8_t get(Setup *s)
{
    CHECK_EQ(msr(s) & (MSR_RQM | MSR_DIO), MSR_RQM | MSR_DIO);
    return in8(s->fdc, 0, FDC_FIFO);
}

static void command(Setup *s, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        put(s, bytes[i]);
}
#define COMMAND(s, ...) command(s, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void expect(Setup *s, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK_EQ(get(s), bytes[i]);
    CHECK_EQ(msr(s) & 0xf0, MSR_RQM); /* the command is over */
}
#define EXPECT(s, ...) expect(s, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

/* Out of reset, motor A on, INT and DMA let out, 500 kbit/s. */
static void start(Setup *s)
{
    out8(s->fdc, 0, FDC_DOR, 0x1c);
    pass(s->board, MS);
    for (uint8_t drive = 0; drive < 4; drive++) {
        COMMAND(s, 0x08);
        EXPECT(s, (uint8_t)(0xc0 | drive), 0);
    }
    out8(s->fdc, 1, 0, 0);
    COMMAND(s, 0x03, 0xaf, 0x02); /* SPECIFY, with DMA */
}

static void seek(Setup *s, uint8_t drive, uint8_t cylinder)
{
    COMMAND(s, 0x0f, drive, cylinder);
    CHECK_EQ(msr(s), MSR_RQM | 1 << drive);
    pass(s->board, MS);
    CHECK(s->irq.level);
    COMMAND(s, 0x08);
    CHECK(!s->irq.level);
    EXPECT(s, (uint8_t)(ST0_SEEK_END | drive), cylinder);
}

static void program_dma(Setup *s, uint8_t mode, uint32_t bytes)
{
    out8(s->dma, 0, 12, 0);
    out8(s->dma, 0, 4, 0), out8(s->dma, 0, 4, BUFFER >> 8);
    out8(s->dma, 0, 5, (uint8_t)(bytes - 1)), out8(s->dma, 0, 5, (uint8_t)((bytes - 1) >> 8));
    out8(s->dma, 0, 11, mode | 2);
    out8(s->dma, 2, 0, 0);
    out8(s->dma, 0, 10, 2);
}

static uint32_t memory32(Setup *s, gpa_t gpa)
{
    uint8_t data[4];
    CHECK_EQ(guest_memory_read(s->board->memory, gpa, data, 4), 0);
    return load_le32(data);
}

static void finish(Setup *s)
{
    CHECK_EQ(msr(s), MSR_BUSY);
    CHECK(!s->irq.level);
    pass(s->board, MS);
    CHECK(s->irq.level);
    CHECK_EQ(msr(s), MSR_RQM | MSR_DIO | MSR_BUSY);
}

static void test_reset(void)
{
    Setup *s = set_up(0);
    CHECK_EQ(msr(s), 0);
    CHECK_EQ(in8(s->fdc, 0, 0), 0xff); /* SRA: not in AT mode */
    out8(s->fdc, 0, FDC_DOR, 0x0c);
    CHECK_EQ(msr(s), 0); /* it takes its time */
    pass(s->board, MS);
    CHECK(s->irq.level);
    CHECK_EQ(in8(s->fdc, 0, FDC_DOR), 0x0c);
    out8(s->fdc, 0, FDC_DOR, 0x04); /* DMAGATE closed */
    CHECK(!s->irq.level);
    out8(s->fdc, 0, FDC_DOR, 0x0c);
    COMMAND(s, 0x08);
    CHECK(!s->irq.level);
    EXPECT(s, 0xc0, 0);
    for (uint8_t drive = 1; drive < 4; drive++) {
        COMMAND(s, 0x08);
        EXPECT(s, (uint8_t)(0xc0 | drive), 0);
    }
    COMMAND(s, 0x08); /* nothing to tell */
    EXPECT(s, ST0_INVALID);
    out8(s->fdc, 0, FDC_MSR, 0x82); /* DSR: software reset */
    pass(s->board, MS);
    CHECK_EQ(s->irq.edges, 3);
    COMMAND(s, 0x08);
    EXPECT(s, 0xc0, 0);
    done(s);
}

static void test_control_commands(void)
{
    Setup *s = set_up(0);
    start(s);
    COMMAND(s, 0x10);
    EXPECT(s, 0x90);
    COMMAND(s, 0x18); /* PART ID: the 82078's */
    EXPECT(s, ST0_INVALID);
    COMMAND(s, 0x13, 0, 0x57, 0x11);
    COMMAND(s, 0x94);
    EXPECT(s, 0x10);
    COMMAND(s, 0x12, 0x84);
    seek(s, 0, 5);
    COMMAND(s, 0x0e);
    EXPECT(s, 5, 0, 0, 0, 0xaf, 0x02, 0, 0x84, 0x57, 0x11);
    out8(s->fdc, 0, FDC_DOR, 0x18), start(s);
    COMMAND(s, 0x0e); /* LOCK kept the FIFO's, and the precompensation track */
    EXPECT(s, 0, 0, 0, 0, 0xaf, 0x02, 0, 0x84, 0x07, 0x11);
    COMMAND(s, 0x14);
    EXPECT(s, 0);
    out8(s->fdc, 0, FDC_DOR, 0x18), start(s);
    COMMAND(s, 0x0e);
    EXPECT(s, 0, 0, 0, 0, 0xaf, 0x02, 0, 0x04, 0x20, 0);
    done(s);
}

static void test_seeks_and_the_change_line(void)
{
    Setup *s = set_up(0);
    start(s);
    CHECK_EQ(in8(s->fdc, 1, 0) & 0x80, 0x80);
    COMMAND(s, 0x07, 0);
    pass(s->board, MS);
    COMMAND(s, 0x08);
    EXPECT(s, ST0_SEEK_END, 0);
    CHECK_EQ(in8(s->fdc, 1, 0) & 0x80, 0x80); /* it was there already: no step */
    seek(s, 0, 40);
    CHECK_EQ(in8(s->fdc, 1, 0) & 0x80, 0);
    COMMAND(s, 0x04, 0x04);
    EXPECT(s, ST3_FIXED | ST3_HEAD);
    COMMAND(s, 0x0f, 0, 1), COMMAND(s, 0x0f, 1, 2); /* two at once */
    CHECK_EQ(msr(s), MSR_RQM | 3);
    pass(s->board, MS);
    COMMAND(s, 0x08);
    CHECK(s->irq.level); /* one is left */
    EXPECT(s, ST0_SEEK_END, 1);
    COMMAND(s, 0x08);
    CHECK(!s->irq.level);
    EXPECT(s, ST0_SEEK_END | 1, 2);
    COMMAND(s, 0x07, 0), pass(s->board, MS);
    COMMAND(s, 0x08);
    EXPECT(s, ST0_SEEK_END, 0);
    COMMAND(s, 0x04, 0);
    EXPECT(s, ST3_FIXED | ST3_TRACK0);
    COMMAND(s, 0x07, 2), pass(s->board, MS); /* no drive: no track 0 */
    COMMAND(s, 0x08);
    EXPECT(s, ST0_SEEK_END | ST0_ABNORMAL | ST0_EQUIPMENT | 2, 0);
    FdcGeometry geometry = {TRACKS, HEADS, SECTORS, 0};
    CHECK_EQ(fdc_change_medium(s->fdc, 0, s->image, &geometry), 0);
    CHECK_EQ(fdc_change_medium(s->fdc, 2, s->image, &geometry), -EINVAL);
    CHECK_EQ(in8(s->fdc, 1, 0) & 0x80, 0x80);
    CHECK_EQ(fdc_change_medium(s->fdc, 0, NULL, NULL), 0);
    seek(s, 0, 3);
    CHECK_EQ(in8(s->fdc, 1, 0) & 0x80, 0x80); /* no disk: it stays */
    done(s);
}

static void test_read(void)
{
    Setup *s = set_up(0);
    start(s);
    seek(s, 0, 2);
    COMMAND(s, 0x4a, 0x04);
    finish(s);
    EXPECT(s, ST0_HEAD, 0, 0, 2, 1, 1, 2);
    program_dma(s, 0x44, 3 * FDC_SECTOR); /* ends by terminal count, over the side's end */
    COMMAND(s, 0xe6, 0, 2, 0, 17, 2, SECTORS, 0x1b, 0xff);
    finish(s);
    EXPECT(s, ST0_HEAD, 0, 0, 2, 1, 2, 2);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(memory32(s, BUFFER + i * FDC_SECTOR), 2 * HEADS * SECTORS + 16 + i);
    program_dma(s, 0x44, 8 * FDC_SECTOR); /* ends by the end of the cylinder */
    COMMAND(s, 0x66, 4, 2, 1, 18, 2, SECTORS, 0x1b, 0xff);
    finish(s);
    EXPECT(s, ST0_ABNORMAL | ST0_HEAD, ST1_END, 0, 3, 1, 1, 2);
    program_dma(s, 0x44, FDC_SECTOR);
    COMMAND(s, 0x13, 0, 0x60, 0); /* implied seek */
    COMMAND(s, 0x66, 0, 79, 0, 4, 2, SECTORS, 0x1b, 0xff);
    finish(s);
    EXPECT(s, 0, 0, 0, 79, 0, 5, 2);
    CHECK_EQ(memory32(s, BUFFER), 79 * HEADS * SECTORS + 3);
    program_dma(s, 0x44, SECTORS * FDC_SECTOR);
    COMMAND(s, 0x42, 4, 79, 1, 9, 2, SECTORS, 0x1b, 0xff); /* READ TRACK begins with the first */
    finish(s);
    EXPECT(s, ST0_HEAD, 0, 0, 80, 1, 1, 2);
    CHECK_EQ(memory32(s, BUFFER), (79 * HEADS + 1) * SECTORS);
    COMMAND(s, 0x56, 0x80, 79, 0, 1, 2, SECTORS, 0x1b, 3); /* VERIFY three sectors */
    finish(s);
    EXPECT(s, 0, 0, 0, 79, 0, 4, 2);
    COMMAND(s, 0x4c, 0, 79, 0, 1, 2, SECTORS, 0x1b, 0xff); /* READ DELETED: no sector has such a mark */
    program_dma(s, 0x44, 2 * FDC_SECTOR);
    finish(s);
    EXPECT(s, ST0_ABNORMAL, 0, ST2_CONTROL_MARK, 79, 0, 2, 2);
    done(s);
}

static void test_what_is_not_found(void)
{
    Setup *s = set_up(0);
    start(s);
    static const struct {
        uint8_t command[9], result[7];
    } cases[] = {
        {{0x66, 0, 1, 0, 1, 2, 18, 0, 0xff}, {ST0_ABNORMAL, ST1_NO_DATA, ST2_WRONG_CYLINDER, 1, 0, 1, 2}},
        {{0x66, 0, 0, 1, 1, 2, 18, 0, 0xff}, {ST0_ABNORMAL, ST1_NO_DATA, 0, 0, 1, 1, 2}},
        {{0x66, 0, 0, 0, 19, 2, 18, 0, 0xff}, {ST0_ABNORMAL, ST1_NO_DATA, 0, 0, 0, 19, 2}},
        {{0x66, 0, 0, 0, 0, 2, 18, 0, 0xff}, {ST0_ABNORMAL, ST1_NO_DATA, 0, 0, 0, 0, 2}},
        {{0x66, 0, 0, 0, 1, 3, 18, 0, 0xff}, {ST0_ABNORMAL, ST1_NO_DATA, 0, 0, 0, 1, 3}},
        {{0x26, 0, 0, 0, 1, 2, 18, 0, 0xff}, {ST0_ABNORMAL, ST1_NO_MARK, 0, 0, 0, 1, 2}}, /* FM */
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        program_dma(s, 0x44, FDC_SECTOR);
        command(s, cases[i].command, 9);
        finish(s);
        expect(s, cases[i].result, 7);
    }
    out8(s->fdc, 1, 0, 2); /* 250 kbit/s: nothing to be made out */
    COMMAND(s, 0x4a, 0);
    finish(s);
    EXPECT(s, ST0_ABNORMAL, ST1_NO_MARK, 0, 0, 0, 0, 0);
    out8(s->fdc, 1, 0, 0);
    out8(s->dma, 0, 10, 6); /* the channel is masked */
    COMMAND(s, 0x66, 0, 0, 0, 1, 2, 18, 0, 0xff);
    finish(s);
    EXPECT(s, ST0_ABNORMAL, ST1_OVERRUN, 0, 0, 0, 1, 2);
    out8(s->fdc, 0, FDC_DOR, 0x2d); /* drive B has no disk: no index pulses */
    COMMAND(s, 0x4a, 1);
    pass(s->board, 1000 * MS);
    CHECK_EQ(msr(s), MSR_BUSY);
    out8(s->fdc, 0, FDC_DOR, 0), start(s);
    out8(s->fdc, 0, FDC_DOR, 0x0c); /* drive A without its motor */
    COMMAND(s, 0x4a, 0);
    pass(s->board, 1000 * MS);
    CHECK_EQ(msr(s), MSR_BUSY);
    done(s);
}

static void test_write_and_format(void)
{
    Setup *s = set_up(0);
    uint8_t data[FDC_SECTOR], ids[4 * SECTORS];
    start(s);
    memset(data, 0xa5, sizeof data);
    CHECK_EQ(guest_memory_write(s->board->memory, BUFFER, data, 100), 0);
    program_dma(s, 0x48, 100); /* a terminal count inside the sector: the rest is zeros */
    COMMAND(s, 0x45, 4, 0, 1, 7, 2, SECTORS, 0x1b, 0xff);
    finish(s);
    EXPECT(s, ST0_HEAD, 0, 0, 0, 1, 8, 2);
    CHECK_EQ(block_pread(s->image, data, sizeof data, (SECTORS + 6) * FDC_SECTOR), 0);
    CHECK(data[99] == 0xa5 && data[100] == 0 && data[511] == 0);
    seek(s, 0, 1);
    for (uint8_t i = 0; i < SECTORS; i++)
        memcpy(ids + 4 * i, (const uint8_t[]){1, 0, (uint8_t)(i + 1), 2}, 4);
    CHECK_EQ(guest_memory_write(s->board->memory, BUFFER, ids, sizeof ids), 0);
    program_dma(s, 0x48, sizeof ids);
    COMMAND(s, 0x4d, 0, 2, SECTORS, 0x54, 0xf6);
    finish(s);
    CHECK_EQ(get(s), 0);
    for (int i = 0; i < 6; i++)
        get(s);
    CHECK_EQ(block_pread(s->image, data, sizeof data, (2 * SECTORS + 17) * FDC_SECTOR), 0);
    CHECK(data[0] == 0xf6 && data[511] == 0xf6);
    CHECK_EQ(block_pread(s->image, data, sizeof data, 3 * SECTORS * FDC_SECTOR), 0);
    CHECK_EQ(load_le32(data), 3 * SECTORS); /* the other side is as it was */
    ids[2] = SECTORS + 1;
    CHECK_EQ(guest_memory_write(s->board->memory, BUFFER, ids, sizeof ids), 0);
    program_dma(s, 0x48, sizeof ids);
    COMMAND(s, 0x4d, 0, 2, SECTORS, 0x54, 0xf6);
    finish(s);
    CHECK_EQ(get(s), ST0_ABNORMAL);
    CHECK_EQ(get(s), ST1_NO_DATA);
    done(s);

    s = set_up(BLOCK_READ_ONLY);
    start(s);
    COMMAND(s, 0x04, 0);
    EXPECT(s, ST3_FIXED | ST3_TRACK0 | ST3_WRITE_PROTECT);
    program_dma(s, 0x48, FDC_SECTOR);
    COMMAND(s, 0x45, 0, 0, 0, 1, 2, SECTORS, 0x1b, 0xff);
    finish(s);
    EXPECT(s, ST0_ABNORMAL, ST1_WRITE_PROTECT, 0, 0, 0, 1, 2);
    done(s);
}

static void test_without_dma(void)
{
    Setup *s = set_up(0);
    start(s);
    COMMAND(s, 0x03, 0xaf, 0x03); /* ND */
    COMMAND(s, 0x66, 0, 0, 0, 17, 2, SECTORS, 0x1b, 0xff);
    for (uint32_t sector = 16; sector < 18; sector++) {
        pass(s->board, MS);
        CHECK(s->irq.level);
        CHECK_EQ(msr(s), MSR_RQM | MSR_DIO | MSR_NDM | MSR_BUSY);
        CHECK_EQ(get(s), sector);
        check_save_restore(s->fdc);
        for (int i = 1; i < FDC_SECTOR; i++)
            CHECK_EQ(get(s), i < 4 ? 0 : sector);
    }
    EXPECT(s, ST0_ABNORMAL, ST1_END, 0, 1, 0, 1, 2); /* without TC every command ends so */
    COMMAND(s, 0x45, 0, 0, 0, 18, 2, SECTORS, 0x1b, 0xff);
    pass(s->board, MS);
    CHECK_EQ(msr(s), MSR_RQM | MSR_NDM | MSR_BUSY);
    for (int i = 0; i < FDC_SECTOR; i++)
        put(s, (uint8_t)(i ^ 0x5a));
    pass(s->board, MS);
    EXPECT(s, ST0_ABNORMAL, ST1_END, 0, 1, 0, 1, 2);
    uint8_t data[FDC_SECTOR];
    CHECK_EQ(block_pread(s->image, data, sizeof data, 17 * FDC_SECTOR), 0);
    CHECK(data[0] == 0x5a && data[511] == 0xa5);
    done(s);
}

static void test_state(void)
{
    Setup *s = set_up(0);
    FdcState state;
    start(s);
    program_dma(s, 0x44, FDC_SECTOR);
    COMMAND(s, 0x66, 0, 0, 0, 1, 2, SECTORS, 0x1b, 0xff);
    check_save_restore(s->fdc); /* on its way */
    finish(s);
    check_save_restore(s->fdc);
    EXPECT(s, 0, 0, 0, 0, 0, 2, 2);
    device_save(s->fdc, &state);
    FdcState bad = state;
    bad.phase = FDC_RESULT + 1;
    CHECK_EQ(device_restore(s->fdc, &bad), -EINVAL);
    bad = state, bad.phase = FDC_FIFO_IN, bad.fifo_length = FDC_SECTOR, bad.fifo_position = FDC_SECTOR;
    CHECK_EQ(device_restore(s->fdc, &bad), -EINVAL);
    bad = state, bad.track[0] = FDC_MAX_TRACKS;
    CHECK_EQ(device_restore(s->fdc, &bad), -EINVAL);
    bad = state, bad.deadline_ns = 1;
    CHECK_EQ(device_restore(s->fdc, &bad), -EINVAL);
    CHECK_EQ(device_restore(s->fdc, &state), 0);
    done(s);
}

int main(void)
{
    RUN(test_reset);
    RUN(test_control_commands);
    RUN(test_seeks_and_the_change_line);
    RUN(test_read);
    RUN(test_what_is_not_found);
    RUN(test_write_and_format);
    RUN(test_without_dma);
    RUN(test_state);
    return 0;
}
