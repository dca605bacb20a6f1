/*
 * A VGA with Bochs's VBE extension on PCI: text, planar, 256-colour and linear frame buffer modes.
 *
 * Sources: IBM PS/2 Hardware Interface Technical Reference, Video Subsystem (1992), named "IBM VGA" below, for
 * registers, memory and the address counter; "VBE Display Interface" of the Bochs project for ports 0x1ce to 0x1d0
 * (DISPI); the PCI function is the one that its drivers know: 1234:1111, BAR 0 the frame buffer, BAR 2 the same
 * registers in memory.
 *
 * Video memory is 64 Ki entries of four planes, interleaved: byte 4 * offset + plane; DISPI modes see the same
 * bytes as one line. So does BAR 0 in every mode, as RAM: stores to it are not exits, and who shows the screen
 * finds out by drawing it. Left out: the address bit that odd/even mode takes from elsewhere (it is 0 here), light
 * pen, cursor and display skew, EDID, interrupts at retrace. Legacy ports and memory answer whatever the PCI
 * command register says.
 */
#ifndef PYVMM_DEVICES_VGA_H
#define PYVMM_DEVICES_VGA_H

#include "devices/pci.h"

#define VGA_MEMORY_SIZE (16u << 20) /* bytes */

/* Regions for the machine to map; the BARs' are further ones. */
enum VgaRegion {
    VGA_REGION_PORTS,  /* ports 0x3b0 to 0x3df */
    VGA_REGION_DISPI,  /* ports 0x1ce to 0x1d1 */
    VGA_REGION_WINDOW, /* 128 KiB at 0xa0000 */
};

#define VGA_STATE_VERSION 1
typedef struct VGAState {
    uint8_t misc_output, feature_control;
    uint8_t sequencer_index, crtc_index, graphics_index, attribute_index;
    uint8_t attribute_is_data; /* the next write to 0x3c0 is data */
    uint8_t dac_mask, dac_read_index, dac_write_index, dac_cycle, dac_reading;
    uint8_t sequencer[8], crtc[32], graphics[16], attribute[32];
    uint8_t dac[768], dac_pending[3];
    uint8_t latch[4]; /* one byte a plane */
    uint8_t reserved;
    uint16_t dispi_index, dispi[16];
    PciFunctionState pci;
    uint8_t reserved2;
} VGAState;
_Static_assert(sizeof(VGAState) == 1168, "no padding: the bytes are the snapshot's");

enum VgaKind { VGA_BLANK, VGA_TEXT, VGA_GRAPHICS };

/* What is on the screen now. Sizes in pixels, unless they say cells. */
typedef struct VgaMode {
    uint32_t kind; /* enum VgaKind */
    uint32_t width, height;
    uint32_t bits_per_pixel;
    uint32_t columns, rows, cell_width, cell_height; /* text only */
    uint32_t cursor_visible, cursor_row, cursor_column;
} VgaMode;

/* `rom`: what the expansion ROM holds (a VGA BIOS), copied; NULL for none. */
Device *vga_new(Board *board, PciBus *bus, uint32_t devfn, const uint8_t *rom, size_t rom_size, Error *error);

void vga_mode(Device *device, VgaMode *mode);
/* Draw the screen as 0x00RRGGBB pixels. -EAGAIN when its size is not width by height (any more). `blink`: the phase
 * in which blinking things are seen. */
int vga_render(Device *device, uint32_t *pixels, uint32_t width, uint32_t height, bool blink);
/* Text modes: character | attribute << 8 of each cell, by rows. -EAGAIN as above. */
int vga_cells(Device *device, uint16_t *cells, uint32_t columns, uint32_t rows);
uint8_t *vga_memory(Device *device); /* VGA_MEMORY_SIZE bytes */
void vga_clear(Device *device);      /* all of video memory */

#endif
