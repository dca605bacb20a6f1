/* The VGA's own structure, for the files vga*.c. */
#ifndef PYVMM_DEVICES_VGA_INTERNAL_H
#define PYVMM_DEVICES_VGA_INTERNAL_H

#include "devices/vga.h"

/* Register indices, IBM VGA's names. */
enum { SEQ_CLOCKING = 1, SEQ_MAP_MASK, SEQ_CHARACTER_MAP, SEQ_MEMORY_MODE };
enum {
    SEQ_CLOCKING_8_DOTS = 0x01,
    SEQ_CLOCKING_SCREEN_OFF = 0x20,
    SEQ_MEMORY_NO_ODD_EVEN = 0x04,
    SEQ_MEMORY_CHAIN_4 = 0x08
};
enum {
    GRAPHICS_SET_RESET,
    GRAPHICS_ENABLE_SET_RESET,
    GRAPHICS_COLOUR_COMPARE,
    GRAPHICS_ROTATE,
    GRAPHICS_READ_MAP,
    GRAPHICS_MODE,
    GRAPHICS_MISC,
    GRAPHICS_COLOUR_DONT_CARE,
    GRAPHICS_BIT_MASK,
};
enum {
    CRTC_HORIZONTAL_DISPLAY_END = 0x01,
    CRTC_VERTICAL_TOTAL = 0x06,
    CRTC_OVERFLOW = 0x07,
    CRTC_PRESET_ROW_SCAN = 0x08,
    CRTC_MAXIMUM_SCAN_LINE = 0x09,
    CRTC_CURSOR_START = 0x0a,
    CRTC_CURSOR_END = 0x0b,
    CRTC_START_HIGH = 0x0c,
    CRTC_START_LOW = 0x0d,
    CRTC_CURSOR_HIGH = 0x0e,
    CRTC_CURSOR_LOW = 0x0f,
    CRTC_RETRACE_START = 0x10,
    CRTC_RETRACE_END = 0x11,
    CRTC_VERTICAL_DISPLAY_END = 0x12,
    CRTC_OFFSET = 0x13,
    CRTC_UNDERLINE = 0x14,
    CRTC_MODE = 0x17,
    CRTC_LINE_COMPARE = 0x18,
};
enum {
    ATTRIBUTE_MODE = 0x10,
    ATTRIBUTE_PLANE_ENABLE = 0x12,
    ATTRIBUTE_PANNING = 0x13,
    ATTRIBUTE_COLOUR_SELECT = 0x14
};
enum { ATTRIBUTE_INDEX_SCREEN_ON = 0x20 };

/* DISPI registers and the bits of ENABLE. */
enum {
    DISPI_ID,
    DISPI_XRES,
    DISPI_YRES,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_BANK,
    DISPI_VIRTUAL_WIDTH,
    DISPI_VIRTUAL_HEIGHT,
    DISPI_X_OFFSET,
    DISPI_Y_OFFSET,
    DISPI_MEMORY_64K,
    DISPI_COUNT,
};
enum {
    DISPI_ENABLED = 0x01,
    DISPI_GET_CAPABILITIES = 0x02,
    DISPI_8_BIT_DAC = 0x20,
    DISPI_KEEP_MEMORY = 0x80,
};

typedef struct Vga {
    Device device;
    PciFunction function;
    VGAState state; /* all but `pci`, which is the function's */
    uint8_t *memory;
    uint8_t *rom;
    uint32_t rom_size; /* a power of two, 0 for none */
} Vga;

static inline Vga *vga_of(Device *device) { return container_of(device, Vga, device); }

static inline bool vga_dispi_on(const Vga *vga) { return vga->state.dispi[DISPI_ENABLE] & DISPI_ENABLED; }

/* Bytes from one line to the next in a DISPI mode; of one plane with 4 bits a pixel. */
static inline uint32_t vga_dispi_pitch(const uint16_t *dispi)
{
    uint32_t width = dispi[DISPI_VIRTUAL_WIDTH], bits = dispi[DISPI_BPP];
    return bits == 4 ? width / 8 : width * ((bits + 7) / 8);
}

/* vga_dispi.c */
uint16_t vga_dispi_read(const Vga *vga, uint32_t index);
void vga_dispi_write(Vga *vga, uint32_t index, uint16_t value);
bool vga_dispi_is_valid(const VGAState *state); /* a saved one */

/* vga_memory.c: the CPU's way to video memory through the window at 0xa0000. */
uint64_t vga_window_read(Vga *vga, uint64_t offset, uint32_t size);
void vga_window_write(Vga *vga, uint64_t offset, uint32_t size, uint64_t value);

/* vga_geometry in vga_render.c needs the CRTC's longer fields. */
uint32_t vga_vertical_total(const Vga *vga);
uint32_t vga_vertical_display_end(const Vga *vga);
uint32_t vga_retrace_start(const Vga *vga);
uint32_t vga_line_compare(const Vga *vga);

#endif
