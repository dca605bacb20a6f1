/* The DISPI registers: linear modes of any size that fits (the Bochs project's "VBE Display Interface", version
 * B0C5). */
#include "devices/vga_internal.h"

enum { DISPI_ID_NEWEST = 0xb0c5, DISPI_ID_OLDEST = 0xb0c0, MAX_WIDTH = 4096, MAX_HEIGHT = 4096, MAX_BITS = 32 };

uint16_t vga_dispi_read(const Vga *vga, uint32_t index)
{
    bool capabilities = vga->state.dispi[DISPI_ENABLE] & DISPI_GET_CAPABILITIES;
    switch (index) {
    case DISPI_XRES:
        return capabilities ? MAX_WIDTH : vga->state.dispi[index];
    case DISPI_YRES:
        return capabilities ? MAX_HEIGHT : vga->state.dispi[index];
    case DISPI_BPP:
        return capabilities ? MAX_BITS : vga->state.dispi[index];
    case DISPI_MEMORY_64K:
        return VGA_MEMORY_SIZE >> 16;
    default:
        return index < DISPI_COUNT ? vga->state.dispi[index] : 0;
    }
}

static bool is_depth(uint16_t bits)
{
    return bits == 4 || bits == 8 || bits == 15 || bits == 16 || bits == 24 || bits == 32;
}

/* Lines of the virtual width that memory holds. */
static uint32_t lines(const Vga *vga)
{
    uint32_t pitch = vga_dispi_pitch(vga->state.dispi),
             memory = VGA_MEMORY_SIZE / (vga->state.dispi[DISPI_BPP] == 4 ? 4 : 1);
    return pitch ? MIN(memory / pitch, 0xffffu) : 0;
}

/* The virtual width is at least the visible one, and the visible lines must fit; the offsets too. */
static void set_virtual_width(Vga *vga, uint32_t width)
{
    uint16_t *dispi = vga->state.dispi;
    dispi[DISPI_VIRTUAL_WIDTH] = (uint16_t)MAX((width + 7) & ~7u, dispi[DISPI_XRES]);
    if (lines(vga) < dispi[DISPI_YRES])
        dispi[DISPI_VIRTUAL_WIDTH] = dispi[DISPI_XRES];
    dispi[DISPI_VIRTUAL_HEIGHT] = (uint16_t)lines(vga);
    dispi[DISPI_X_OFFSET] = dispi[DISPI_Y_OFFSET] = 0;
}

static void enable(Vga *vga, uint16_t value)
{
    uint16_t *dispi = vga->state.dispi;
    bool was_on = vga_dispi_on(vga);
    dispi[DISPI_ENABLE] =
        value & (DISPI_ENABLED | DISPI_GET_CAPABILITIES | DISPI_8_BIT_DAC | 0x40 | DISPI_KEEP_MEMORY);
    if (was_on || !vga_dispi_on(vga)) {
        if (!vga_dispi_on(vga))
            dispi[DISPI_BANK] = 0;
        return;
    }
    dispi[DISPI_BANK] = 0;
    dispi[DISPI_VIRTUAL_WIDTH] = dispi[DISPI_XRES];
    if (!dispi[DISPI_XRES] || !dispi[DISPI_YRES] || lines(vga) < dispi[DISPI_YRES]) {
        event_log_add(vga->device.board->log, "vga: mode %ux%u with %u bits does not fit; it stays off",
                      dispi[DISPI_XRES], dispi[DISPI_YRES], dispi[DISPI_BPP]);
        dispi[DISPI_ENABLE] &= (uint16_t)~DISPI_ENABLED;
        return;
    }
    set_virtual_width(vga, dispi[DISPI_XRES]);
    if (!(value & DISPI_KEEP_MEMORY))
        memset(vga->memory, 0,
               (size_t)vga_dispi_pitch(dispi) * dispi[DISPI_YRES] * (dispi[DISPI_BPP] == 4 ? 4 : 1));
}

void vga_dispi_write(Vga *vga, uint32_t index, uint16_t value)
{
    uint16_t *dispi = vga->state.dispi;
    bool on = vga_dispi_on(vga);
    switch (index) {
    case DISPI_ID:
        if (value >= DISPI_ID_OLDEST && value <= DISPI_ID_NEWEST)
            dispi[DISPI_ID] = value;
        break;
    case DISPI_XRES:
        if (!on && value <= MAX_WIDTH)
            dispi[index] = value & ~7u;
        break;
    case DISPI_YRES:
        if (!on && value <= MAX_HEIGHT)
            dispi[index] = value;
        break;
    case DISPI_BPP:
        if (!on && (is_depth(value) || value == 0))
            dispi[index] = value ? value : 8;
        break;
    case DISPI_ENABLE:
        enable(vga, value);
        break;
    case DISPI_BANK:
        if (value < VGA_MEMORY_SIZE >> 16)
            dispi[index] = value;
        break;
    case DISPI_VIRTUAL_WIDTH:
        if (on)
            set_virtual_width(vga, MIN(value, 0x7ff8u));
        break;
    case DISPI_X_OFFSET:
        if (on && value + dispi[DISPI_XRES] <= dispi[DISPI_VIRTUAL_WIDTH])
            dispi[index] = value;
        break;
    case DISPI_Y_OFFSET:
        if (on && value + dispi[DISPI_YRES] <= dispi[DISPI_VIRTUAL_HEIGHT])
            dispi[index] = value;
        break;
    }
}

/* Drawing trusts these: what is visible lies within the virtual screen, and that within video memory. */
bool vga_dispi_is_valid(const VGAState *state)
{
    const uint16_t *d = state->dispi;
    if (!is_depth(d[DISPI_BPP]) || d[DISPI_XRES] > MAX_WIDTH || d[DISPI_XRES] % 8 || d[DISPI_YRES] > MAX_HEIGHT ||
        d[DISPI_BANK] >= VGA_MEMORY_SIZE >> 16)
        return false;
    if (!(d[DISPI_ENABLE] & DISPI_ENABLED))
        return true;
    uint64_t bytes = (uint64_t)vga_dispi_pitch(d) * d[DISPI_VIRTUAL_HEIGHT] * (d[DISPI_BPP] == 4 ? 4 : 1);
    return d[DISPI_XRES] && d[DISPI_YRES] && d[DISPI_VIRTUAL_WIDTH] % 8 == 0 && bytes <= VGA_MEMORY_SIZE &&
           d[DISPI_XRES] + d[DISPI_X_OFFSET] <= d[DISPI_VIRTUAL_WIDTH] &&
           d[DISPI_YRES] + d[DISPI_Y_OFFSET] <= d[DISPI_VIRTUAL_HEIGHT];
}
