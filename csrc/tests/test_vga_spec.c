/*
 * The VGA once more, from the IBM PS/2 Hardware Interface Technical Reference (Video Subsystem, 1992) by who did
 * not write the device: a model of the graphics controller's data path beside it through random settings, the
 * registers' bits, the attribute controller's flip-flop, the DAC's state machine, and the memory maps.
 */
#include "device_check.h"
#include "devices/vga.h"

typedef struct Rig {
    Board *board;
    PciBus *bus;
    Device *vga;
    uint8_t seq[8], gc[16], planes[4][65536], latch[4];
    uint32_t seed;
} Rig;

static uint32_t chance(Rig *rig, uint32_t below)
{
    rig->seed = rig->seed * 1664525u + 1013904223u;
    return (rig->seed >> 8) % below;
}

static void out(Rig *rig, uint32_t port, uint8_t value) { out8(rig->vga, VGA_REGION_PORTS, port - 0x3b0, value); }
static uint8_t in(Rig *rig, uint32_t port) { return in8(rig->vga, VGA_REGION_PORTS, port - 0x3b0); }

static void indexed(Rig *rig, uint32_t port, uint8_t index, uint8_t value)
{
    out(rig, port, index);
    out(rig, port + 1, value);
}

static uint8_t indexed_in(Rig *rig, uint32_t port, uint8_t index)
{
    out(rig, port, index);
    return in(rig, port + 1);
}

static void seq(Rig *rig, uint8_t index, uint8_t value) { indexed(rig, 0x3c4, index, rig->seq[index] = value); }
static void gc(Rig *rig, uint8_t index, uint8_t value) { indexed(rig, 0x3ce, index, rig->gc[index] = value); }

static void rig_new(Rig *rig, uint32_t seed)
{
    memset(rig, 0, sizeof *rig);
    rig->seed = seed;
    rig->board = test_board();
    rig->bus = pci_bus_new(rig->board);
    rig->vga = vga_new(rig->board, rig->bus, PCI_DEVFN(2, 0), NULL, 0, NULL);
    CHECK(rig->vga);
    out(rig, 0x3c2, 0x63); /* colour addresses, memory enabled */
}

static void rig_free(Rig *rig)
{
    device_free(rig->vga);
    device_free(pci_bus_device(rig->bus));
    board_free(rig->board);
}

/* "Graphics Controller": rotate, set/reset, function, bit mask, in write modes 0 to 3; map mask of the sequencer.
 */
static void model_write(Rig *rig, uint32_t at, uint8_t value)
{
    const uint8_t *g = rig->gc;
    unsigned mode = g[5] & 3, rotate = g[3] & 7;
    uint8_t rotated = (uint8_t)(value >> rotate | value << (8 - rotate)), mask = g[8];
    for (unsigned plane = 0; plane < 4; plane++) {
        if (!(rig->seq[2] >> plane & 1))
            continue;
        uint8_t latch = rig->latch[plane], data = rotated;
        if (mode == 1) {
            rig->planes[plane][at] = latch;
            continue;
        }
        if (mode == 0 && g[1] >> plane & 1)
            data = g[0] >> plane & 1 ? 0xff : 0;
        if (mode == 2)
            data = value >> plane & 1 ? 0xff : 0;
        if (mode == 3) {
            data = g[0] >> plane & 1 ? 0xff : 0;
            mask = g[8] & rotated;
        }
        switch (g[3] >> 3 & 3) {
        case 1:
            data &= latch;
            break;
        case 2:
            data |= latch;
            break;
        case 3:
            data ^= latch;
        }
        rig->planes[plane][at] = (uint8_t)((data & mask) | (latch & ~mask));
    }
}

/* Read mode 0: a plane; 1: where the planes that are cared for have the colour. */
static uint8_t model_read(Rig *rig, uint32_t at)
{
    uint8_t same = 0xff;
    for (unsigned plane = 0; plane < 4; plane++) {
        rig->latch[plane] = rig->planes[plane][at];
        if (rig->gc[7] >> plane & 1)
            same &= (uint8_t)(rig->gc[2] >> plane & 1 ? rig->latch[plane] : ~rig->latch[plane]);
    }
    return rig->gc[5] & 8 ? same : rig->latch[rig->gc[4] & 3];
}

static void test_data_path(void)
{
    static Rig rig;
    for (uint32_t seed = 1; seed <= 10; seed++) {
        rig_new(&rig, seed);
        seq(&rig, 4, 6); /* all of memory, neither odd/even nor chained */
        gc(&rig, 6, 5);  /* graphics, 64 KiB at A0000 */
        seq(&rig, 2, 0x0f), gc(&rig, 8, 0xff);
        for (unsigned i = 0; i < 4000; i++) {
            static const uint8_t MASKS[9] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x0b, 0, 0x0f, 0xff};
            uint8_t index = (uint8_t)chance(&rig, 9), value = (uint8_t)chance(&rig, 256);
            uint32_t at = chance(&rig, 4) ? chance(&rig, 16) : chance(&rig, 65536);
            switch (chance(&rig, 5)) {
            case 0:
                if (index != 6)
                    gc(&rig, index, value & MASKS[index]);
                break;
            case 1:
                seq(&rig, 2, value & 15);
                break;
            case 2:
                CHECK_EQ(in8(rig.vga, VGA_REGION_WINDOW, at), model_read(&rig, at));
                break;
            default:
                out8(rig.vga, VGA_REGION_WINDOW, at, value);
                model_write(&rig, at, value);
            }
        }
        gc(&rig, 5, 0);
        for (uint8_t plane = 0; plane < 4; plane++) {
            gc(&rig, 4, plane);
            for (uint32_t at = 0; at < 65536; at++)
                CHECK_EQ(in8(rig.vga, VGA_REGION_WINDOW, at), rig.planes[plane][at]);
        }
        rig_free(&rig);
    }
}

/* "Miscellaneous Register" of the graphics controller: where memory answers; outside it nothing does. */
static void test_memory_maps(void)
{
    static const struct {
        uint32_t start, size;
    } MAPS[] = {{0, 0x20000}, {0, 0x10000}, {0x10000, 0x8000}, {0x18000, 0x8000}};
    static Rig rig;
    for (uint8_t map = 0; map < 4; map++) {
        rig_new(&rig, 1);
        seq(&rig, 4, 6), seq(&rig, 2, 1), gc(&rig, 8, 0xff);
        gc(&rig, 6, (uint8_t)(map << 2 | 1));
        for (uint32_t at = 0; at < 0x20000; at += 0x4000)
            out8(rig.vga, VGA_REGION_WINDOW, at + 1, (uint8_t)(0x40 + (at >> 14)));
        for (uint32_t at = 0; at < 0x20000; at += 0x4000) {
            bool inside = at >= MAPS[map].start && at < MAPS[map].start + MAPS[map].size;
            uint32_t last = at; /* 128 KiB of window over 64 KiB of a plane: the later write is there */
            if (!map)
                last |= 0x10000;
            CHECK_EQ(in8(rig.vga, VGA_REGION_WINDOW, at + 1), inside ? 0x40 + (last >> 14) : 0xff);
        }
        rig_free(&rig);
    }
}

/* Text: even addresses are characters in plane 0, odd ones attributes in plane 1; fonts go to plane 2 alone. */
static void test_odd_even(void)
{
    static Rig rig;
    rig_new(&rig, 1);
    seq(&rig, 4, 2), seq(&rig, 2, 3), gc(&rig, 5, 0x10), gc(&rig, 6, 0x0e), gc(&rig, 8, 0xff);
    for (uint32_t at = 0; at < 160; at++)
        out8(rig.vga, VGA_REGION_WINDOW, 0x18000 + at, (uint8_t)(at * 3 + 1));
    for (uint32_t at = 0; at < 160; at++)
        CHECK_EQ(in8(rig.vga, VGA_REGION_WINDOW, 0x18000 + at), (uint8_t)(at * 3 + 1));
    /* By the planes: a cell's two bytes are at one address. */
    seq(&rig, 4, 6), gc(&rig, 5, 0), gc(&rig, 6, 5);
    for (uint32_t cell = 0; cell < 80; cell++)
        for (uint8_t plane = 0; plane < 2; plane++) {
            gc(&rig, 4, plane);
            CHECK_EQ(in8(rig.vga, VGA_REGION_WINDOW, 2 * cell), (uint8_t)((2 * cell + plane) * 3 + 1));
        }
    seq(&rig, 2, 4);
    out8(rig.vga, VGA_REGION_WINDOW, 0x41 * 32, 0x18);
    gc(&rig, 4, 2);
    CHECK_EQ(in8(rig.vga, VGA_REGION_WINDOW, 0x41 * 32), 0x18);
    gc(&rig, 4, 0);
    CHECK(in8(rig.vga, VGA_REGION_WINDOW, 0x41 * 32) != 0x18);
    rig_free(&rig);
}

/* The bits that each register has; others are reserved. */
static void test_registers(void)
{
    static const struct {
        uint32_t port;
        uint8_t index, bits;
    } REGISTERS[] = {
        {0x3c4, 1, 0x3d},  {0x3c4, 2, 0x0f},  {0x3c4, 3, 0x3f},         {0x3c4, 4, 0x0e},  {0x3ce, 0, 0x0f},
        {0x3ce, 1, 0x0f},  {0x3ce, 2, 0x0f},  {0x3ce, 3, 0x1f},         {0x3ce, 4, 0x03},  {0x3ce, 5, 0x7b},
        {0x3ce, 6, 0x0f},  {0x3ce, 7, 0x0f},  {0x3ce, 8, 0xff},         {0x3d4, 8, 0x7f},  {0x3d4, 9, 0xff},
        {0x3d4, 10, 0x3f}, {0x3d4, 11, 0x7f}, {0x3d4, 12, 0xff},        {0x3d4, 13, 0xff}, {0x3d4, 14, 0xff},
        {0x3d4, 15, 0xff}, {0x3d4, 16, 0xff}, {0x3d4, 18, 0xff},        {0x3d4, 19, 0xff}, {0x3d4, 20, 0x7f},
        {0x3d4, 21, 0xff}, {0x3d4, 22, 0xff}, {0x3d4, 23, 0xe3 | 0x0c}, {0x3d4, 24, 0xff},
    };
    static Rig rig;
    rig_new(&rig, 1);
    for (size_t i = 0; i < ARRAY_SIZE(REGISTERS); i++)
        for (unsigned value = 0; value < 256; value += 5) {
            indexed(&rig, REGISTERS[i].port, REGISTERS[i].index, (uint8_t)value);
            CHECK_EQ(indexed_in(&rig, REGISTERS[i].port, REGISTERS[i].index) & REGISTERS[i].bits,
                     value & REGISTERS[i].bits);
        }
    /* Attribute controller: index and data by turns at 3C0; 3DA sets the turn, 3C1 does not change it. */
    static const uint8_t ATTRIBUTES[21] = {[0 ... 15] = 0x3f, 0xe7, 0xff, 0x0f, 0x0f, 0x0f};
    for (uint8_t index = 0; index < 21; index++)
        for (unsigned value = 0; value < 256; value += 17) {
            in(&rig, 0x3da);
            out(&rig, 0x3c0, index);
            CHECK_EQ(in(&rig, 0x3c0) & 0x1f, index);
            in(&rig, 0x3c1);
            out(&rig, 0x3c0, (uint8_t)value);
            out(&rig, 0x3c0, index);
            CHECK_EQ(in(&rig, 0x3c1) & ATTRIBUTES[index], value & ATTRIBUTES[index]);
        }
    /* Retrace: both of the status bits come and go. */
    uint8_t seen = 0, all = 0xff;
    for (unsigned i = 0; i < 40000; i++) {
        pass(rig.board, 1000);
        uint8_t now = in(&rig, 0x3da);
        seen |= now, all &= now;
        CHECK(!(now & 8) || now & 1); /* in vertical retrace the display is off */
    }
    CHECK_EQ(seen & 9, 9);
    CHECK_EQ(all & 9, 0);
    CHECK_EQ(in(&rig, 0x3cc), 0x63);
    rig_free(&rig);
}

/* "Video Digital-to-Analog Converter": three bytes a colour, the index goes on after each third. */
static void test_dac(void)
{
    static Rig rig;
    rig_new(&rig, 1);
    out(&rig, 0x3c8, 0);
    CHECK_EQ(in(&rig, 0x3c7) & 3, 0); /* a write cycle */
    for (unsigned i = 0; i < 768; i++)
        out(&rig, 0x3c9, (uint8_t)(i * 7 & 63));
    CHECK_EQ(in(&rig, 0x3c8), 0);
    out(&rig, 0x3c7, 0);
    CHECK_EQ(in(&rig, 0x3c7) & 3, 3);
    for (unsigned i = 0; i < 768; i++)
        CHECK_EQ(in(&rig, 0x3c9), i * 7 & 63);
    out(&rig, 0x3c7, 10);
    in(&rig, 0x3c9), in(&rig, 0x3c9);
    out(&rig, 0x3c7, 20); /* a new index begins with red */
    CHECK_EQ(in(&rig, 0x3c9), 60 * 7 & 63);
    out(&rig, 0x3c8, 30);
    out(&rig, 0x3c9, 1), out(&rig, 0x3c9, 2);
    out(&rig, 0x3c8, 31); /* two of three are no colour */
    out(&rig, 0x3c7, 30);
    CHECK_EQ(in(&rig, 0x3c9), 90 * 7 & 63);
    out(&rig, 0x3c6, 0x5a);
    CHECK_EQ(in(&rig, 0x3c6), 0x5a);
    rig_free(&rig);
}

int main(void)
{
    RUN(test_data_path);
    RUN(test_memory_maps);
    RUN(test_odd_even);
    RUN(test_registers);
    RUN(test_dac);
    return 0;
}
