/* The VGA's saved state: one that does not fit into video memory is refused, and what a screen shows depends on
 * nothing else. */
#include "device_check.h"
#include "devices/vga.h"

enum { XRES = 1, YRES, BPP, ENABLE, BANK, VIRTUAL_WIDTH, VIRTUAL_HEIGHT, X_OFFSET, Y_OFFSET };

typedef struct Mode {
    uint16_t xres, yres, bits, virtual_width, virtual_height, x, y;
} Mode;

static int restore(Device *vga, const Mode *mode, bool on)
{
    VGAState state;
    device_save(vga, &state);
    state.dispi[XRES] = mode->xres;
    state.dispi[YRES] = mode->yres;
    state.dispi[BPP] = mode->bits;
    state.dispi[ENABLE] = on;
    state.dispi[VIRTUAL_WIDTH] = mode->virtual_width;
    state.dispi[VIRTUAL_HEIGHT] = mode->virtual_height;
    state.dispi[X_OFFSET] = mode->x;
    state.dispi[Y_OFFSET] = mode->y;
    return device_restore(vga, &state);
}

static uint32_t *render(Device *vga, uint32_t width, uint32_t height)
{
    uint32_t *pixels = malloc((size_t)width * height * sizeof *pixels);
    CHECK(pixels);
    CHECK_EQ(vga_render(vga, pixels, width, height, true), 0);
    return pixels;
}

static void states_that_fit(Device *vga)
{
    static const Mode FIT[] = {
        {1024, 768, 32, 1024, 4096, 0, 3328}, {2048, 4096, 15, 2048, 4096, 0, 0},
        {4096, 1024, 32, 4096, 1024, 0, 0},   {800, 600, 4, 8192, 4096, 7392, 3496},
        {640, 480, 24, 648, 8000, 8, 7520},
    };
    for (size_t i = 0; i < ARRAY_SIZE(FIT); i++) {
        CHECK_EQ(restore(vga, &FIT[i], true), 0);
        free(render(vga, FIT[i].xres, FIT[i].yres));
    }
}

static void states_that_do_not(Device *vga)
{
    static const Mode NOT[] = {
        {2048, 4096, 15, 2048, 4369, 0, 273},   /* 15 bits are 2 bytes */
        {4096, 4096, 1, 4096, 32768, 0, 28672}, /* no depth */
        {4096, 4096, 0, 4096, 65535, 0, 0},     {4096, 4000, 9, 4096, 4000, 0, 0},
        {4092, 4096, 4, 4092, 8200, 0, 4104}, /* no whole character clocks */
        {1024, 768, 32, 1024, 4097, 0, 3329},   {1024, 768, 32, 1024, 4096, 1, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(NOT); i++)
        CHECK_EQ(restore(vga, &NOT[i], true), -EINVAL);
    /* Nor may a mode wait that is off, and that the guest would only have to switch on. */
    CHECK_EQ(restore(vga, &(Mode){.xres = 640, .yres = 480, .bits = 7}, false), -EINVAL);
    CHECK_EQ(restore(vga, &(Mode){.xres = 641, .yres = 480, .bits = 4}, false), -EINVAL);
}

/* Four bits a pixel are four planes, whatever the shift registers were set to for the VGA's own modes. */
static void planes_shift_one_way(Device *vga)
{
    const Mode mode = {64, 16, 4, 64, 16, 0, 0};
    VGAState state;
    CHECK_EQ(restore(vga, &mode, true), 0);
    for (uint32_t i = 0; i < 64 * 16 / 2; i++)
        vga_memory(vga)[i] = (uint8_t)(i * 37);
    device_save(vga, &state);
    for (uint32_t i = 0; i < 16; i++)
        state.attribute[i] = (uint8_t)i;
    state.attribute[0x12] = 0xf;
    for (uint32_t i = 0; i < sizeof state.dac; i++)
        state.dac[i] = (uint8_t)(i % 64);
    CHECK_EQ(device_restore(vga, &state), 0);
    uint32_t *first = render(vga, 64, 16);
    for (uint8_t shift = 0x20; shift <= 0x60; shift += 0x20) {
        state.graphics[5] = shift;
        CHECK_EQ(device_restore(vga, &state), 0);
        uint32_t *pixels = render(vga, 64, 16);
        CHECK(memcmp(first, pixels, 64 * 16 * sizeof *pixels) == 0);
        free(pixels);
    }
    free(first);
}

int main(void)
{
    Error error = {0};
    Board *board = test_board();
    PciBus *bus = pci_bus_new(board);
    Device *vga = vga_new(board, bus, 2 << 3, NULL, 0, &error);
    CHECK(vga);
    states_that_fit(vga);
    states_that_do_not(vga);
    planes_shift_one_way(vga);
    puts("ok saved states of the VGA");
    device_free(vga);
    device_free(pci_bus_device(bus));
    board_free(board);
    return 0;
}
