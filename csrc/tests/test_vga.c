/* The VGA, register by register, from the IBM VGA reference (csrc/devices/vga.h names it). */
#include "device_check.h"
#include "devices/vga.h"

enum { DEVFN = PCI_DEVFN(2, 0), PORT0 = 0x3b0 };

typedef struct Rig {
    Board *board;
    PciBus *bus;
    Device *vga;
    uint8_t *memory;
} Rig;

static void rig_new(Rig *rig)
{
    rig->board = test_board();
    rig->bus = pci_bus_new(rig->board);
    rig->vga = vga_new(rig->board, rig->bus, DEVFN, NULL, 0, NULL);
    CHECK(rig->vga);
    rig->memory = vga_memory(rig->vga);
}

static void rig_free(Rig *rig)
{
    device_free(rig->vga);
    device_free(pci_bus_device(rig->bus));
    board_free(rig->board);
}

static void out(Rig *rig, uint32_t port, uint8_t value) { out8(rig->vga, VGA_REGION_PORTS, port - PORT0, value); }

static uint8_t in(Rig *rig, uint32_t port) { return in8(rig->vga, VGA_REGION_PORTS, port - PORT0); }

static void set(Rig *rig, uint32_t port, uint8_t index, uint8_t value)
{
    device_write(rig->vga, VGA_REGION_PORTS, port - PORT0, 2, (uint64_t)value << 8 | index);
}

static uint8_t get(Rig *rig, uint32_t port, uint8_t index)
{
    out(rig, port, index);
    return in(rig, port + 1);
}

static void seq(Rig *rig, uint8_t index, uint8_t value) { set(rig, 0x3c4, index, value); }
static void gc(Rig *rig, uint8_t index, uint8_t value) { set(rig, 0x3ce, index, value); }
static void crtc(Rig *rig, uint8_t index, uint8_t value) { set(rig, 0x3d4, index, value); }

static void attribute(Rig *rig, uint8_t index, uint8_t value)
{
    in(rig, 0x3da);
    out(rig, 0x3c0, index);
    out(rig, 0x3c0, value);
    out(rig, 0x3c0, 0x20);
}

static void poke(Rig *rig, uint32_t at, uint8_t value) { out8(rig->vga, VGA_REGION_WINDOW, at, value); }
static uint8_t peek(Rig *rig, uint32_t at) { return in8(rig->vga, VGA_REGION_WINDOW, at); }

static void dispi(Rig *rig, uint16_t index, uint16_t value)
{
    device_write(rig->vga, VGA_REGION_DISPI, 0, 2, index);
    device_write(rig->vga, VGA_REGION_DISPI, 1, 2, value);
}

static uint16_t dispi_get(Rig *rig, uint16_t index)
{
    device_write(rig->vga, VGA_REGION_DISPI, 0, 2, index);
    return (uint16_t)device_read(rig->vga, VGA_REGION_DISPI, 1, 2);
}

static const uint8_t *planes(Rig *rig, uint32_t offset) { return rig->memory + offset * 4; }

static bool planes_are(Rig *rig, uint32_t offset, uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    const uint8_t *p = planes(rig, offset);
    return p[0] == a && p[1] == b && p[2] == c && p[3] == d;
}

/* Planar access at A0000, all planes, all bits. */
static void planar(Rig *rig)
{
    seq(rig, 2, 0x0f);
    seq(rig, 4, 0x06);
    gc(rig, 5, 0x00);
    gc(rig, 6, 0x05);
    gc(rig, 8, 0xff);
}

static void test_write_mode_0(void)
{
    Rig rig;
    rig_new(&rig);
    planar(&rig);
    poke(&rig, 5, 0xa5);
    CHECK(planes_are(&rig, 5, 0xa5, 0xa5, 0xa5, 0xa5));
    seq(&rig, 2, 0x06); /* map mask */
    poke(&rig, 5, 0x3c);
    CHECK(planes_are(&rig, 5, 0xa5, 0x3c, 0x3c, 0xa5));
    seq(&rig, 2, 0x0f);
    gc(&rig, 3, 0x03); /* rotate right by three */
    poke(&rig, 6, 0x0f);
    CHECK(planes_are(&rig, 6, 0xe1, 0xe1, 0xe1, 0xe1));
    gc(&rig, 3, 0x00);
    gc(&rig, 0, 0x05); /* set/reset on planes 0 and 1 only: 1 and 0 */
    gc(&rig, 1, 0x03);
    poke(&rig, 7, 0x77);
    CHECK(planes_are(&rig, 7, 0xff, 0x00, 0x77, 0x77));
    gc(&rig, 1, 0x00);
    CHECK_EQ(peek(&rig, 5), 0xa5); /* read map 0; all latches load */
    gc(&rig, 8, 0x0f);
    poke(&rig, 8, 0xff);
    CHECK(planes_are(&rig, 8, 0xaf, 0x3f, 0x3f, 0xaf)); /* masked bits are the latches' */
    rig_free(&rig);
}

static void test_logical_functions(void)
{
    static const uint8_t expected[4] = {0xcc, 0x88, 0xee, 0x66}; /* 0xcc with 0xaa: none, and, or, xor */
    Rig rig;
    rig_new(&rig);
    planar(&rig);
    poke(&rig, 0, 0xaa);
    for (uint32_t i = 0; i < 4; i++) {
        gc(&rig, 3, (uint8_t)(i << 3));
        peek(&rig, 0);
        poke(&rig, 1, 0xcc);
        CHECK_EQ(planes(&rig, 1)[3], expected[i]);
    }
    rig_free(&rig);
}

static void test_write_modes_1_to_3(void)
{
    Rig rig;
    rig_new(&rig);
    planar(&rig);
    for (uint8_t i = 0; i < 4; i++)
        rig.memory[i] = (uint8_t)(0x11 * (i + 1));
    peek(&rig, 0);
    gc(&rig, 5, 0x01); /* latches, whatever the CPU writes */
    poke(&rig, 9, 0xff);
    CHECK(planes_are(&rig, 9, 0x11, 0x22, 0x33, 0x44));
    gc(&rig, 5, 0x02); /* bits 0-3 are the planes' colours */
    gc(&rig, 8, 0xf0);
    poke(&rig, 10, 0x0a);
    CHECK(planes_are(&rig, 10, 0x01, 0xf2, 0x03, 0xf4));
    gc(&rig, 5, 0x03); /* the byte, rotated, masks too; the colour is set/reset's */
    gc(&rig, 0, 0x09);
    gc(&rig, 3, 0x04);
    poke(&rig, 11, 0x3c); /* rotated c3, and f0: c0 */
    CHECK(planes_are(&rig, 11, 0xd1, 0x22, 0x33, 0xc4));
    rig_free(&rig);
}

static void test_read_modes(void)
{
    Rig rig;
    rig_new(&rig);
    planar(&rig);
    memcpy(rig.memory + 12, (uint8_t[4]){0xf0, 0xcc, 0xaa, 0x00}, 4);
    for (uint8_t i = 0; i < 4; i++) {
        gc(&rig, 4, i);
        CHECK_EQ(peek(&rig, 3), rig.memory[12 + i]);
    }
    gc(&rig, 5, 0x08);
    gc(&rig, 2, 0x05);
    gc(&rig, 7, 0x0f);
    CHECK_EQ(peek(&rig, 3), 0xf0 & ~0xcc & 0xaa); /* pixels of colour 5 */
    gc(&rig, 7, 0x01);
    CHECK_EQ(peek(&rig, 3), 0xf0); /* only plane 0 is looked at */
    gc(&rig, 7, 0x00);
    CHECK_EQ(peek(&rig, 3), 0xff);
    rig_free(&rig);
}

static void test_chain_4_and_odd_even(void)
{
    Rig rig;
    rig_new(&rig);
    planar(&rig);
    seq(&rig, 4, 0x0e);
    for (uint8_t i = 0; i < 8; i++)
        poke(&rig, 0x4000u + i, (uint8_t)(i + 1));
    CHECK(planes_are(&rig, 0x4000, 1, 2, 3, 4));
    CHECK(planes_are(&rig, 0x4004, 5, 6, 7, 8));
    CHECK_EQ(peek(&rig, 0x4006), 7);
    seq(&rig, 2, 0x0d); /* plane 1 is not to be written */
    poke(&rig, 0x4001, 0x99);
    CHECK_EQ(planes(&rig, 0x4000)[1], 2);
    seq(&rig, 2, 0x03);
    seq(&rig, 4, 0x02);
    gc(&rig, 5, 0x10);
    gc(&rig, 6, 0x0e); /* B8000, 32 KiB */
    poke(&rig, 0x18000, 'A');
    poke(&rig, 0x18001, 0x1f);
    CHECK(planes_are(&rig, 0, 'A', 0x1f, 0, 0));
    CHECK(peek(&rig, 0x18000) == 'A' && peek(&rig, 0x18001) == 0x1f);
    CHECK_EQ(peek(&rig, 0x0000), 0xff); /* A0000 and B0000 are not decoded */
    CHECK_EQ(peek(&rig, 0x17fff), 0xff);
    gc(&rig, 6, 0x0a);
    CHECK_EQ(peek(&rig, 0x10000), 'A');
    CHECK_EQ(peek(&rig, 0x18000), 0xff);
    rig_free(&rig);
}

static void test_registers(void)
{
    Rig rig;
    rig_new(&rig);
    CHECK_EQ(in(&rig, 0x3b5), 0xff); /* colour: the CRTC is at 3D4 */
    out(&rig, 0x3c2, 0x66);
    CHECK_EQ(in(&rig, 0x3cc), 0x66);
    CHECK_EQ(in(&rig, 0x3d5), 0xff);
    set(&rig, 0x3b4, 0x0e, 0x12);
    CHECK_EQ(get(&rig, 0x3b4, 0x0e), 0x12);
    out(&rig, 0x3c2, 0x67);
    CHECK_EQ(get(&rig, 0x3d4, 0x0e), 0x12);
    crtc(&rig, 0x11, 0x80); /* protect 0 to 7, but for line compare's bit in 7 */
    crtc(&rig, 0x00, 0x55);
    crtc(&rig, 0x07, 0xff);
    CHECK(get(&rig, 0x3d4, 0x00) == 0 && get(&rig, 0x3d4, 0x07) == 0x10);
    in(&rig, 0x3da);
    out(&rig, 0x3c0, 0x05);
    out(&rig, 0x3c0, 0xff);
    out(&rig, 0x3c0, 0x25); /* an index again: the palette is the display's now */
    CHECK_EQ(in(&rig, 0x3c1), 0x3f);
    out(&rig, 0x3c0, 0x01);
    CHECK_EQ(in(&rig, 0x3c1), 0x3f);
    check_save_restore(rig.vga);
    rig_free(&rig);
}

static void test_dac(void)
{
    Rig rig;
    rig_new(&rig);
    out(&rig, 0x3c8, 255);
    for (uint8_t i = 0; i < 6; i++)
        out(&rig, 0x3c9, (uint8_t)(0xc0 + i)); /* six bits are kept; the index wraps */
    out(&rig, 0x3c7, 255);
    CHECK_EQ(in(&rig, 0x3c7), 3);
    for (uint8_t i = 0; i < 6; i++)
        CHECK_EQ(in(&rig, 0x3c9), i);
    out(&rig, 0x3c8, 7);
    CHECK_EQ(in(&rig, 0x3c7), 0);
    out(&rig, 0x3c9, 1);
    out(&rig, 0x3c8, 7); /* an index drops what was begun */
    for (uint8_t i = 0; i < 3; i++)
        out(&rig, 0x3c9, 9);
    out(&rig, 0x3c7, 7);
    CHECK_EQ(in(&rig, 0x3c9), 9);
    rig_free(&rig);
}

/* 256 colours with `lines` scan lines of 4 * columns pixels, a grey palette. */
static void graphics_256(Rig *rig, uint8_t columns, uint8_t lines)
{
    planar(rig);
    out(rig, 0x3c2, 0x63);
    seq(rig, 1, 0x01);
    gc(rig, 5, 0x40);
    crtc(rig, 0x01, (uint8_t)(columns - 1));
    crtc(rig, 0x12, (uint8_t)(lines - 1));
    crtc(rig, 0x13, (uint8_t)(columns / 2));
    crtc(rig, 0x17, 0xe3);
    crtc(rig, 0x18, 0xff);
    crtc(rig, 0x07, 0x10);
    crtc(rig, 0x09, 0x40);
    attribute(rig, 0x10, 0x41);
    attribute(rig, 0x12, 0x0f);
    out(rig, 0x3c8, 0);
    for (uint32_t i = 0; i < 768; i++)
        out(rig, 0x3c9, (uint8_t)(i / 3 & 0x3f));
}

static uint32_t grey(uint32_t value)
{
    uint32_t level = (value & 0x3f) << 2 | (value & 0x3f) >> 4;
    return level * 0x010101;
}

static void test_addressing_and_split(void)
{
    Rig rig;
    uint32_t pixels[32 * 8];
    VgaMode mode;
    rig_new(&rig);
    graphics_256(&rig, 8, 8);
    for (uint32_t i = 0; i < 256; i++)
        rig.memory[i] = (uint8_t)(i % 61);
    vga_mode(rig.vga, &mode);
    CHECK(mode.kind == VGA_GRAPHICS && mode.width == 32 && mode.height == 8);
    CHECK_EQ(vga_render(rig.vga, pixels, 33, 8, true), -EAGAIN);
    CHECK_EQ(vga_render(rig.vga, pixels, 32, 8, true), 0);
    for (uint32_t i = 0; i < 256; i++)
        CHECK_EQ(pixels[i], grey(i % 61));
    crtc(&rig, 0x0d, 3);      /* the first address, of four pixels */
    attribute(&rig, 0x13, 2); /* one pixel to the left */
    crtc(&rig, 0x18, 4);      /* lines 5, 6, 7 are from address 0 */
    crtc(&rig, 0x07, 0x00);
    crtc(&rig, 0x09, 0x00);
    CHECK_EQ(vga_render(rig.vga, pixels, 32, 8, true), 0);
    for (uint32_t y = 0; y < 8; y++)
        for (uint32_t x = 0; x < 31; x++)
            CHECK_EQ(pixels[y * 32 + x], grey((y < 5 ? 12 + y * 32 + x + 1 : (y - 5) * 32 + x + 1) % 61));
    attribute(&rig, 0x10, 0x61); /* panning stops at the split */
    CHECK_EQ(vga_render(rig.vga, pixels, 32, 8, true), 0);
    CHECK_EQ(pixels[5 * 32], grey(0));
    crtc(&rig, 0x09, 0x80); /* doubled lines */
    vga_mode(rig.vga, &mode);
    CHECK_EQ(mode.height, 4);
    rig_free(&rig);
}

static void test_double_words_beyond_16k(void)
{
    Rig rig;
    uint32_t pixels[32 * 8];
    rig_new(&rig);
    graphics_256(&rig, 8, 8);
    seq(&rig, 4, 0x0e);
    crtc(&rig, 0x14, 0x40);
    crtc(&rig, 0x0c, 0x10); /* counter 1000h: byte 4000h of the window */
    crtc(&rig, 0x13, 1);
    crtc(&rig, 0x13, 4);
    for (uint32_t i = 0; i < 64; i++)
        poke(&rig, 0x4000 + i, (uint8_t)(i + 1));
    CHECK_EQ(vga_render(rig.vga, pixels, 32, 8, true), 0);
    for (uint32_t i = 0; i < 32; i++)
        CHECK_EQ(pixels[i], grey(i + 1));
    crtc(&rig, 0x0c, 0x40); /* counter 4000h: the bytes that chain 4 does not reach */
    for (uint32_t i = 0; i < 8; i++)
        memset(rig.memory + (4 * i + 1) * 4, (int)(20 + i), 4);
    CHECK_EQ(vga_render(rig.vga, pixels, 32, 8, true), 0);
    for (uint32_t i = 0; i < 32; i++)
        CHECK_EQ(pixels[i], grey(20 + i / 4));
    rig_free(&rig);
}

/* 2 x 1 cells of 8 or 9 by 16 dots. */
static void text(Rig *rig, bool nine)
{
    out(rig, 0x3c2, 0x67);
    seq(rig, 1, nine ? 0x00 : 0x01);
    crtc(rig, 0x01, 1);
    crtc(rig, 0x09, 0x4f);
    crtc(rig, 0x12, 15);
    crtc(rig, 0x13, 2);
    crtc(rig, 0x07, 0x10);
    crtc(rig, 0x14, 0x1f);
    crtc(rig, 0x17, 0xa3);
    crtc(rig, 0x18, 0xff);
    crtc(rig, 0x0a, 0x20);
    for (uint8_t i = 0; i < 16; i++)
        attribute(rig, i, i);
    attribute(rig, 0x10, 0x0c);
    attribute(rig, 0x12, 0x0f);
    attribute(rig, 0x13, nine ? 8 : 0);
    out(rig, 0x3c8, 0);
    for (uint32_t i = 0; i < 48; i++)
        out(rig, 0x3c9, (uint8_t)(i / 3));
    for (uint32_t line = 0; line < 16; line++) {
        rig->memory[(0xc4 * 32 + line) * 4 + 2] = 0x81;
        rig->memory[('A' * 32 + line) * 4 + 2] = 0x81;
    }
    memcpy(rig->memory, (uint8_t[2]){0xc4, 0x1e}, 2);
    memcpy(rig->memory + 8, (uint8_t[2]){'A', 0x9e}, 2);
}

static void test_text(void)
{
    Rig rig;
    VgaMode mode;
    uint32_t pixels[18 * 16];
    uint16_t cells[2];
    rig_new(&rig);
    text(&rig, true);
    vga_mode(rig.vga, &mode);
    CHECK(mode.kind == VGA_TEXT && mode.width == 18 && mode.height == 16 && mode.columns == 2 && mode.rows == 1);
    CHECK_EQ(vga_cells(rig.vga, cells, 2, 1), 0);
    CHECK(cells[0] == 0x1ec4 && cells[1] == 0x9e41);
    CHECK_EQ(vga_render(rig.vga, pixels, 18, 16, true), 0);
    CHECK(pixels[0] == grey(14) && pixels[1] == grey(1) && pixels[7] == grey(14));
    CHECK_EQ(pixels[8], grey(14)); /* C0h to DFh: the ninth dot is the eighth */
    CHECK(pixels[9] == grey(14) && pixels[16] == grey(14) && pixels[17] == grey(1));
    CHECK_EQ(vga_render(rig.vga, pixels, 18, 16, false), 0); /* the other phase of blinking */
    CHECK(pixels[0] == grey(14) && pixels[9] == grey(1));
    attribute(&rig, 0x10, 0x04); /* no blinking: bit 7 is the background's */
    CHECK_EQ(vga_render(rig.vga, pixels, 18, 16, false), 0);
    CHECK(pixels[9] == grey(14) && pixels[10] == grey(9));
    crtc(&rig, 0x0a, 14);
    crtc(&rig, 0x0b, 15);
    crtc(&rig, 0x0f, 1);
    vga_mode(rig.vga, &mode);
    CHECK(mode.cursor_visible && mode.cursor_column == 1 && mode.cursor_row == 0);
    CHECK_EQ(vga_render(rig.vga, pixels, 18, 16, true), 0);
    CHECK(pixels[13 * 18 + 10] == grey(9) && pixels[14 * 18 + 10] == grey(14) && pixels[15 * 18 + 1] == grey(1));
    text(&rig, false);
    CHECK_EQ(vga_render(rig.vga, pixels, 16, 16, true), 0);
    CHECK(pixels[7] == grey(14) && pixels[8] == grey(14) && pixels[9] == grey(1));
    rig_free(&rig);
}

static void test_dispi_limits(void)
{
    Rig rig;
    VgaMode mode;
    rig_new(&rig);
    dispi(&rig, 1, 5000);
    CHECK_EQ(dispi_get(&rig, 1), 0);
    dispi(&rig, 1, 1024);
    dispi(&rig, 2, 768);
    dispi(&rig, 3, 7);
    CHECK_EQ(dispi_get(&rig, 3), 8);
    dispi(&rig, 3, 32);
    rig.memory[0] = 1;
    dispi(&rig, 4, 0x81); /* on, memory kept */
    CHECK_EQ(rig.memory[0], 1);
    vga_mode(rig.vga, &mode);
    CHECK(mode.width == 1024 && mode.height == 768 && mode.bits_per_pixel == 32);
    CHECK_EQ(dispi_get(&rig, 7), (16u << 20) / 4096);
    dispi(&rig, 1, 640); /* not while it is on */
    CHECK_EQ(dispi_get(&rig, 1), 1024);
    dispi(&rig, 9, (16u << 20) / 4096 - 768 + 1);
    CHECK_EQ(dispi_get(&rig, 9), 0);
    dispi(&rig, 9, (16u << 20) / 4096 - 768);
    CHECK_EQ(dispi_get(&rig, 9), (16u << 20) / 4096 - 768);
    uint32_t *pixels = malloc(1024 * 768 * 4);
    CHECK_EQ(vga_render(rig.vga, pixels, 1024, 768, true), 0);
    free(pixels);
    dispi(&rig, 5, 256);
    CHECK_EQ(dispi_get(&rig, 5), 0);
    dispi(&rig, 5, 255);
    poke(&rig, 0xffff, 0x5a);
    CHECK_EQ(rig.memory[(16u << 20) - 1], 0x5a);
    CHECK_EQ(peek(&rig, 0x10000), 0xff); /* the window is 64 KiB */
    dispi(&rig, 4, 0);
    dispi(&rig, 1, 4096);
    dispi(&rig, 2, 4096);
    dispi(&rig, 4, 1); /* 64 MiB: it stays off */
    CHECK_EQ(dispi_get(&rig, 4) & 1, 0);
    rig_free(&rig);
}

int main(void)
{
    RUN(test_write_mode_0);
    RUN(test_logical_functions);
    RUN(test_write_modes_1_to_3);
    RUN(test_read_modes);
    RUN(test_chain_4_and_odd_even);
    RUN(test_registers);
    RUN(test_dac);
    RUN(test_addressing_and_split);
    RUN(test_double_words_beyond_16k);
    RUN(test_text);
    RUN(test_dispi_limits);
    return 0;
}
