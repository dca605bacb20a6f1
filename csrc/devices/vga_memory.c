/* The CPU's way to the planes: address mapping, latches, read and write modes (IBM VGA, "Graphics Controller"). */
#include "devices/vga_internal.h"

#define PLANE_MASK 0xffffu /* bytes of one plane */
#define WINDOW_64K 0x10000u

/* Whether an offset in the 128 KiB at 0xa0000 is decoded, and which byte of the window it is (Miscellaneous, bits
 * 2-3). */
static bool in_window(const Vga *vga, uint32_t offset, uint32_t *address)
{
    switch (vga->state.graphics[GRAPHICS_MISC] >> 2 & 3) {
    case 0:
        *address = offset;
        return true;
    case 1:
        *address = offset;
        return offset < WINDOW_64K;
    case 2:
        *address = offset - 0x10000;
        return offset >= 0x10000 && offset < 0x18000;
    default:
        *address = offset - 0x18000;
        return offset >= 0x18000;
    }
}

static uint8_t *planes_at(Vga *vga, uint32_t offset)
{
    uint32_t bank = vga_dispi_on(vga) ? (uint32_t)vga->state.dispi[DISPI_BANK] << 16 : 0;
    uint64_t at = vga_dispi_on(vga) ? (uint64_t)(offset + bank) * 4 : (uint64_t)(offset & PLANE_MASK) * 4;
    return vga->memory + at % VGA_MEMORY_SIZE;
}

static void load_latches(Vga *vga, const uint8_t *planes) { memcpy(vga->state.latch, planes, 4); }

static bool is_chained(const Vga *vga) { return vga->state.sequencer[SEQ_MEMORY_MODE] & SEQ_MEMORY_CHAIN_4; }

static uint8_t read_byte(Vga *vga, uint32_t address)
{
    const VGAState *s = &vga->state;
    if (is_chained(vga)) {
        const uint8_t *planes = planes_at(vga, address & ~3u);
        load_latches(vga, planes);
        return planes[address & 3];
    }
    uint32_t plane = s->graphics[GRAPHICS_READ_MAP] & 3;
    bool odd_even = s->graphics[GRAPHICS_MODE] & 0x10;
    const uint8_t *planes = planes_at(vga, odd_even ? address & ~1u : address);
    load_latches(vga, planes);
    if (odd_even)
        plane = (plane & 2) | (address & 1);
    if (!(s->graphics[GRAPHICS_MODE] & 0x08))
        return planes[plane];
    uint8_t differs = 0; /* read mode 1: a bit for each pixel whose colour compares equal */
    for (uint32_t i = 0; i < 4; i++)
        if (s->graphics[GRAPHICS_COLOUR_DONT_CARE] >> i & 1)
            differs |= s->latch[i] ^ (s->graphics[GRAPHICS_COLOUR_COMPARE] >> i & 1 ? 0xff : 0);
    return (uint8_t)~differs;
}

static uint8_t rotate_right(uint8_t value, uint32_t count)
{
    return (uint8_t)(value >> count | value << (8 - count));
}

static uint8_t combine(const VGAState *s, uint8_t data, uint8_t latch, uint8_t mask)
{
    switch (s->graphics[GRAPHICS_ROTATE] >> 3 & 3) {
    case 1:
        data &= latch;
        break;
    case 2:
        data |= latch;
        break;
    case 3:
        data ^= latch;
        break;
    }
    return (uint8_t)((data & mask) | (latch & ~mask));
}

/* What one plane gets for a byte from the CPU, by write mode. */
static uint8_t plane_data(const VGAState *s, uint32_t plane, uint8_t value)
{
    uint8_t set_reset = s->graphics[GRAPHICS_SET_RESET] >> plane & 1 ? 0xff : 0;
    uint8_t mask = s->graphics[GRAPHICS_BIT_MASK], latch = s->latch[plane];
    switch (s->graphics[GRAPHICS_MODE] & 3) {
    case 0:
        value = rotate_right(value, s->graphics[GRAPHICS_ROTATE] & 7);
        return combine(s, s->graphics[GRAPHICS_ENABLE_SET_RESET] >> plane & 1 ? set_reset : value, latch, mask);
    case 1:
        return latch;
    case 2:
        return combine(s, value >> plane & 1 ? 0xff : 0, latch, mask);
    default:
        return combine(s, set_reset, latch, mask & rotate_right(value, s->graphics[GRAPHICS_ROTATE] & 7));
    }
}

static void write_byte(Vga *vga, uint32_t address, uint8_t value)
{
    VGAState *s = &vga->state;
    uint8_t maps = s->sequencer[SEQ_MAP_MASK] & 0xf;
    if (is_chained(vga)) {
        maps &= (uint8_t)(1 << (address & 3));
        address &= ~3u;
    } else if (!(s->sequencer[SEQ_MEMORY_MODE] & SEQ_MEMORY_NO_ODD_EVEN)) {
        maps &= address & 1 ? 0xa : 0x5;
        address &= ~1u;
    }
    uint8_t *planes = planes_at(vga, address);
    for (uint32_t plane = 0; plane < 4; plane++)
        if (maps >> plane & 1)
            planes[plane] = plane_data(s, plane, value);
}

/* A DISPI mode with 8 or more bits a pixel: 64 KiB of the line of bytes, at the bank. */
static uint8_t *banked(Vga *vga, uint64_t offset, uint32_t size)
{
    uint64_t at = ((uint64_t)vga->state.dispi[DISPI_BANK] << 16) + offset;
    return offset + size <= WINDOW_64K && at + size <= VGA_MEMORY_SIZE ? vga->memory + at : NULL;
}

static bool is_linear(const Vga *vga) { return vga_dispi_on(vga) && vga->state.dispi[DISPI_BPP] >= 8; }

uint64_t vga_window_read(Vga *vga, uint64_t offset, uint32_t size)
{
    uint64_t value = 0;
    if (is_linear(vga)) {
        const uint8_t *bytes = banked(vga, offset, size);
        memcpy(&value, bytes ? bytes : (const uint8_t[8]){255, 255, 255, 255, 255, 255, 255, 255}, size);
        return value;
    }
    for (uint32_t i = 0, address; i < size; i++)
        value |= (uint64_t)(in_window(vga, (uint32_t)offset + i, &address) ? read_byte(vga, address) : 0xff)
                 << 8 * i;
    return value;
}

void vga_window_write(Vga *vga, uint64_t offset, uint32_t size, uint64_t value)
{
    if (is_linear(vga)) {
        uint8_t *bytes = banked(vga, offset, size);
        if (bytes)
            memcpy(bytes, &value, size);
        return;
    }
    for (uint32_t i = 0, address; i < size; i++)
        if (in_window(vga, (uint32_t)offset + i, &address))
            write_byte(vga, address, (uint8_t)(value >> 8 * i));
}
