/*
 * The screen as pixels and as text: the CRTC's address counter, the shift registers, the attribute controller's
 * palette and the DAC (IBM VGA, "CRT Controller", "Attribute Controller", "Video Digital-to-Analog Converter").
 */
#include "devices/vga_internal.h"

enum {
    MODE_GRAPHICS = 0x01,
    MODE_BLINK = 0x08,
    MODE_LINE_GRAPHICS = 0x04,
    MODE_PAN_STOPS = 0x20,
    MODE_P54_SELECT = 0x80
};
enum { CRTC_MODE_BYTE = 0x40, CRTC_MODE_ROTATE_MA15 = 0x20, UNDERLINE_DOUBLE_WORD = 0x40, CURSOR_OFF = 0x20 };
#define PLANE_ENTRIES 0x10000u

/* ---- The CRTC's fields -------------------------------------------------------------------------------------- */

/* Ten bits: eight of their own, and two in Overflow at `bit8` and `bit9`. */
static uint32_t ten_bits(const Vga *vga, uint32_t index, uint32_t bit8, uint32_t bit9)
{
    uint32_t overflow = vga->state.crtc[CRTC_OVERFLOW];
    return vga->state.crtc[index] | (overflow >> bit8 & 1) << 8 | (overflow >> bit9 & 1) << 9;
}

uint32_t vga_vertical_total(const Vga *vga) { return ten_bits(vga, CRTC_VERTICAL_TOTAL, 0, 5); }

uint32_t vga_vertical_display_end(const Vga *vga) { return ten_bits(vga, CRTC_VERTICAL_DISPLAY_END, 1, 6); }

uint32_t vga_retrace_start(const Vga *vga) { return ten_bits(vga, CRTC_RETRACE_START, 2, 7); }

uint32_t vga_line_compare(const Vga *vga)
{
    const uint8_t *crtc = vga->state.crtc;
    return crtc[CRTC_LINE_COMPARE] | (crtc[CRTC_OVERFLOW] >> 4 & 1u) << 8 |
           (crtc[CRTC_MAXIMUM_SCAN_LINE] >> 6 & 1u) << 9;
}

static uint32_t scan_lines_of_row(const Vga *vga) { return (vga->state.crtc[CRTC_MAXIMUM_SCAN_LINE] & 0x1fu) + 1; }

static uint32_t double_scan(const Vga *vga) { return vga->state.crtc[CRTC_MAXIMUM_SCAN_LINE] & 0x80 ? 2 : 1; }

static bool is_256_colour(const Vga *vga) { return vga->state.graphics[GRAPHICS_MODE] & 0x40; }

/* How many scan lines show the same pixels: doubled ones, and rows that are not CGA-like banks. */
static uint32_t line_repeat(const Vga *vga)
{
    bool banks = (vga->state.crtc[CRTC_MODE] & 3) != 3;
    return double_scan(vga) * (banks ? 1 : scan_lines_of_row(vga));
}

static uint32_t start_address(const Vga *vga)
{
    return (uint32_t)vga->state.crtc[CRTC_START_HIGH] << 8 | vga->state.crtc[CRTC_START_LOW];
}

/* What one line shows: where its addresses begin, and which scan line of the row it is. */
typedef struct Line {
    uint32_t address; /* of the address counter */
    uint32_t row_scan;
    uint32_t pan; /* pixels */
} Line;

static Line find_line(const Vga *vga, uint32_t scan_line)
{
    const uint8_t *crtc = vga->state.crtc;
    uint32_t compare = vga_line_compare(vga), rows = scan_lines_of_row(vga), scan = scan_line / double_scan(vga);
    Line line = {.address = start_address(vga) + (crtc[CRTC_PRESET_ROW_SCAN] >> 5 & 3u),
                 .pan = vga->state.attribute[ATTRIBUTE_PANNING] & 0xfu};
    if (scan_line > compare) {
        line.address = 0;
        scan = (scan_line - compare - 1) / double_scan(vga);
        if (vga->state.attribute[ATTRIBUTE_MODE] & MODE_PAN_STOPS)
            line.pan = 0;
    } else {
        scan += crtc[CRTC_PRESET_ROW_SCAN] & 0x1fu;
    }
    line.address += scan / rows * crtc[CRTC_OFFSET] * 2;
    line.row_scan = scan % rows;
    return line;
}

/*
 * The address counter's value as a byte address of the planes (IBM VGA, "CRT Mode Control", the table of the
 * counter's wiring). By double words the counter is shifted left by two. What enters below differs: the table, and
 * Cirrus Logic's CL-GD542X manual (CR14 bit 6), name counter bits 12 and 13. That shows mode 13h's pixels from
 * 4000h on only if CPU addresses are rotated the same way in chain 4, while programs take chain 4 to store at every
 * fourth address. So here chain 4 stores at multiples of four, and bits 14 and 15 enter: the same picture while the
 * counter is below 4000h, which is all that chain 4 reaches; from there on, the bytes between, where the table has
 * the first ones again.
 */
static uint32_t plane_offset(const Vga *vga, uint32_t counter, uint32_t row_scan)
{
    uint8_t mode = vga->state.crtc[CRTC_MODE];
    uint32_t address = counter;
    if (vga->state.crtc[CRTC_UNDERLINE] & UNDERLINE_DOUBLE_WORD)
        address = counter << 2 | (counter >> 14 & 3);
    else if (!(mode & CRTC_MODE_BYTE))
        address = counter << 1 | (counter >> (mode & CRTC_MODE_ROTATE_MA15 ? 15 : 13) & 1);
    if (!(mode & 1))
        address = (address & ~0x2000u) | (row_scan & 1) << 13;
    if (!(mode & 2))
        address = (address & ~0x4000u) | (row_scan >> 1 & 1) << 14;
    return address & (PLANE_ENTRIES - 1);
}

/* ---- Colours ------------------------------------------------------------------------------------------------ */

typedef struct Palette {
    uint32_t dac[256];   /* 0x00RRGGBB */
    uint32_t colour[16]; /* through the attribute controller */
} Palette;

static uint32_t dac_colour(const Vga *vga, uint32_t index)
{
    const uint8_t *entry = &vga->state.dac[(index & vga->state.dac_mask) * 3];
    uint32_t rgb = 0;
    for (uint32_t i = 0; i < 3; i++) {
        bool wide = vga->state.dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC;
        rgb = rgb << 8 | (wide ? entry[i] : (uint32_t)(entry[i] << 2 | entry[i] >> 4));
    }
    return rgb;
}

static void make_palette(const Vga *vga, Palette *palette)
{
    const uint8_t *attribute = vga->state.attribute;
    for (uint32_t i = 0; i < 256; i++)
        palette->dac[i] = dac_colour(vga, i);
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t index = attribute[i & attribute[ATTRIBUTE_PLANE_ENABLE] & 0xf] & 0x3f;
        if (attribute[ATTRIBUTE_MODE] & MODE_P54_SELECT)
            index = (index & 0xf) | (attribute[ATTRIBUTE_COLOUR_SELECT] & 3u) << 4;
        palette->colour[i] = palette->dac[index | (attribute[ATTRIBUTE_COLOUR_SELECT] >> 2 & 3u) << 6];
    }
}

/* ---- Modes -------------------------------------------------------------------------------------------------- */

static bool is_off(const Vga *vga)
{
    const VGAState *s = &vga->state;
    return !(s->attribute_index & ATTRIBUTE_INDEX_SCREEN_ON) ||
           s->sequencer[SEQ_CLOCKING] & SEQ_CLOCKING_SCREEN_OFF || !(s->crtc[CRTC_MODE] & 0x80);
}

static void text_mode(const Vga *vga, VgaMode *mode)
{
    const uint8_t *crtc = vga->state.crtc;
    mode->kind = VGA_TEXT;
    mode->bits_per_pixel = 4;
    mode->cell_width = vga->state.sequencer[SEQ_CLOCKING] & SEQ_CLOCKING_8_DOTS ? 8 : 9;
    mode->cell_height = scan_lines_of_row(vga);
    mode->columns = crtc[CRTC_HORIZONTAL_DISPLAY_END] + 1u;
    mode->width = mode->columns * mode->cell_width;
    mode->height = (vga_vertical_display_end(vga) + 1) / double_scan(vga);
    mode->rows = mode->height / mode->cell_height;
    uint32_t pitch = crtc[CRTC_OFFSET] * 2u, first = start_address(vga);
    uint32_t cursor = ((uint32_t)crtc[CRTC_CURSOR_HIGH] << 8 | crtc[CRTC_CURSOR_LOW]) - first;
    if (pitch && cursor < PLANE_ENTRIES) {
        mode->cursor_row = cursor / pitch;
        mode->cursor_column = cursor % pitch;
        mode->cursor_visible = !(crtc[CRTC_CURSOR_START] & CURSOR_OFF) && mode->cursor_row < mode->rows &&
                               mode->cursor_column < mode->columns &&
                               (crtc[CRTC_CURSOR_START] & 0x1f) <= (crtc[CRTC_CURSOR_END] & 0x1f);
    }
}

static void get_mode(const Vga *vga, VgaMode *mode)
{
    const VGAState *s = &vga->state;
    memset(mode, 0, sizeof *mode);
    if (vga_dispi_on(vga)) {
        mode->kind = VGA_GRAPHICS;
        mode->width = s->dispi[DISPI_XRES];
        mode->height = s->dispi[DISPI_YRES];
        mode->bits_per_pixel = s->dispi[DISPI_BPP];
    } else if (is_off(vga)) {
        mode->kind = VGA_BLANK;
    } else if (s->graphics[GRAPHICS_MISC] & 1) {
        mode->kind = VGA_GRAPHICS;
        mode->width = (s->crtc[CRTC_HORIZONTAL_DISPLAY_END] + 1u) * (is_256_colour(vga) ? 4 : 8);
        mode->height = (vga_vertical_display_end(vga) + 1) / line_repeat(vga);
        mode->bits_per_pixel = is_256_colour(vga) ? 8 : 4;
    } else {
        text_mode(vga, mode);
    }
    if (mode->width == 0 || mode->height == 0)
        *mode = (VgaMode){.kind = VGA_BLANK};
}

/* ---- Text --------------------------------------------------------------------------------------------------- */

/* The two character maps; bit 3 of the attribute chooses (Sequencer, Character Map Select). */
static uint32_t character_map(const Vga *vga, bool a)
{
    uint8_t select = vga->state.sequencer[SEQ_CHARACTER_MAP];
    uint32_t map = a ? (select >> 2 & 3u) | (select >> 5 & 1u) << 2 : (select & 3u) | (select >> 4 & 1u) << 2;
    return (map & 3) * 0x4000 + (map >> 2) * 0x2000;
}

typedef struct TextLine {
    const Vga *vga;
    const Palette *palette;
    const VgaMode *mode;
    uint32_t maps[2];
    bool blink, cursor;
} TextLine;

/* The dots of one cell in one of its lines, leftmost in bit 8. */
static uint32_t cell_dots(const TextLine *text, uint8_t code, uint8_t attribute, uint32_t line)
{
    const Vga *vga = text->vga;
    uint32_t at = text->maps[attribute >> 3 & 1] + code * 32u + line;
    uint32_t dots = (uint32_t)vga->memory[(at & (PLANE_ENTRIES - 1)) * 4 + 2] << 1;
    if (vga->state.attribute[ATTRIBUTE_MODE] & MODE_LINE_GRAPHICS && code >= 0xc0 && code <= 0xdf)
        dots |= dots >> 1 & 1;
    bool underlined = (attribute & 0x77) == 0x01 && line == (vga->state.crtc[CRTC_UNDERLINE] & 0x1fu);
    if (underlined)
        dots = 0x1ff;
    if (vga->state.attribute[ATTRIBUTE_MODE] & MODE_BLINK && attribute & 0x80 && !text->blink)
        dots = 0;
    return dots;
}

static void draw_text_line(const TextLine *text, uint32_t y, uint32_t *pixels)
{
    const Vga *vga = text->vga;
    const uint8_t *crtc = vga->state.crtc;
    uint32_t scan = y * double_scan(vga), width = text->mode->width, cell = text->mode->cell_width;
    Line line = find_line(vga, scan);
    uint32_t cursor_at = (uint32_t)crtc[CRTC_CURSOR_HIGH] << 8 | crtc[CRTC_CURSOR_LOW];
    bool cursor_line = text->cursor && line.row_scan >= (crtc[CRTC_CURSOR_START] & 0x1fu) &&
                       line.row_scan <= (crtc[CRTC_CURSOR_END] & 0x1fu) && !(crtc[CRTC_CURSOR_START] & CURSOR_OFF);
    bool blinks = vga->state.attribute[ATTRIBUTE_MODE] & MODE_BLINK;
    uint32_t pan = cell == 9 ? (line.pan > 7 ? 0 : line.pan + 1) : line.pan & 7, x = 0;
    for (uint32_t column = 0; x < width; column++) {
        const uint8_t *planes = vga->memory + plane_offset(vga, line.address + column, line.row_scan) * 4;
        uint8_t attribute = planes[1];
        uint32_t dots = cell_dots(text, planes[0], attribute, line.row_scan);
        if (cursor_line && line.address + column == cursor_at)
            dots = 0x1ff;
        uint32_t fore = text->palette->colour[attribute & 0xf];
        uint32_t back = text->palette->colour[attribute >> 4 & (blinks ? 0x7 : 0xf)];
        for (uint32_t dot = column ? 0 : pan; dot < cell && x < width; dot++)
            pixels[x++] = dots >> (8 - dot) & 1 ? fore : back;
    }
}

static void draw_text(const Vga *vga, const VgaMode *mode, const Palette *palette, bool blink, uint32_t *pixels)
{
    TextLine text = {.vga = vga,
                     .palette = palette,
                     .mode = mode,
                     .blink = blink,
                     .cursor = blink,
                     .maps = {character_map(vga, false), character_map(vga, true)}};
    for (uint32_t y = 0; y < mode->height; y++)
        draw_text_line(&text, y, pixels + (size_t)y * mode->width);
}

/* ---- VGA graphics ------------------------------------------------------------------------------------------- */

/* The eight (or, with 256 colours, four) pixels that one character clock shifts out. `shift`: Graphics Mode,
 * bits 5 and 6. */
static void shift_out(uint32_t shift, const uint8_t *planes, const Palette *palette, uint32_t *pixels)
{
    if (shift >= 2) {
        for (uint32_t i = 0; i < 4; i++)
            pixels[i] = palette->dac[planes[i]];
    } else if (shift == 1) {
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t low = planes[i / 4] >> (6 - i % 4 * 2) & 3u, high = planes[2 + i / 4] >> (6 - i % 4 * 2) & 3u;
            pixels[i] = palette->colour[high << 2 | low];
        }
    } else {
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t bit = 7 - i;
            uint32_t index = (planes[0] >> bit & 1u) | (planes[1] >> bit & 1u) << 1 | (planes[2] >> bit & 1u) << 2 |
                             (planes[3] >> bit & 1u) << 3;
            pixels[i] = palette->colour[index];
        }
    }
}

static void draw_planar(const Vga *vga, const VgaMode *mode, const Palette *palette, uint32_t *pixels)
{
    uint32_t repeat = line_repeat(vga), step = is_256_colour(vga) ? 4 : 8;
    uint32_t shift = vga->state.graphics[GRAPHICS_MODE] >> 5 & 3;
    for (uint32_t y = 0; y < mode->height; y++, pixels += mode->width) {
        Line line = find_line(vga, y * repeat);
        uint32_t pan = is_256_colour(vga) ? line.pan / 2 & 3 : line.pan & 7, some[8];
        for (uint32_t x = 0, column = 0; x < mode->width; column++) {
            shift_out(shift, vga->memory + plane_offset(vga, line.address + column, line.row_scan) * 4, palette,
                      some);
            for (uint32_t i = column ? 0 : pan; i < step && x < mode->width; i++)
                pixels[x++] = some[i];
        }
    }
}

/* ---- DISPI -------------------------------------------------------------------------------------------------- */

static uint32_t widen(uint32_t value, uint32_t bits) { return value << (8 - bits) | value >> (2 * bits - 8); }

static uint32_t linear_pixel(const uint8_t *line, uint32_t x, uint32_t bits, const Palette *palette)
{
    uint16_t word;
    switch (bits) {
    case 8:
        return palette->dac[line[x]];
    case 15:
        word = load_le16(line + 2 * x);
        return widen(word >> 10 & 31u, 5) << 16 | widen(word >> 5 & 31u, 5) << 8 | widen(word & 31u, 5);
    case 16:
        word = load_le16(line + 2 * x);
        return widen(word >> 11 & 31u, 5) << 16 | widen(word >> 5 & 63u, 6) << 8 | widen(word & 31u, 5);
    case 24:
        return line[3 * x] | (uint32_t)line[3 * x + 1] << 8 | (uint32_t)line[3 * x + 2] << 16;
    default:
        return load_le32(line + 4 * x) & 0xffffff;
    }
}

static void draw_dispi(const Vga *vga, const VgaMode *mode, const Palette *palette, uint32_t *pixels)
{
    const uint16_t *dispi = vga->state.dispi;
    uint32_t bits = dispi[DISPI_BPP], pitch = vga_dispi_pitch(dispi), x0 = dispi[DISPI_X_OFFSET], some[8];
    for (uint32_t y = 0; y < mode->height; y++, pixels += mode->width) {
        size_t start = (size_t)(y + dispi[DISPI_Y_OFFSET]) * pitch;
        const uint8_t *line = vga->memory + start * (bits == 4 ? 4 : 1);
        if (bits == 4)
            for (uint32_t x = 0; x < mode->width; x++) {
                if (x == 0 || (x + x0) % 8 == 0)
                    shift_out(0, line + (x + x0) / 8 * 4, palette, some);
                pixels[x] = some[(x + x0) % 8];
            }
        else
            for (uint32_t x = 0; x < mode->width; x++)
                pixels[x] = linear_pixel(line, x + x0, bits, palette);
    }
}

/* ---- The device's face -------------------------------------------------------------------------------------- */

void vga_mode(Device *device, VgaMode *mode)
{
    pthread_mutex_lock(&device->lock);
    get_mode(vga_of(device), mode);
    pthread_mutex_unlock(&device->lock);
}

int vga_render(Device *device, uint32_t *pixels, uint32_t width, uint32_t height, bool blink)
{
    const Vga *vga = vga_of(device);
    VgaMode mode;
    Palette palette;
    int result = 0;
    pthread_mutex_lock(&device->lock);
    get_mode(vga, &mode);
    if (mode.kind != VGA_BLANK && (mode.width != width || mode.height != height)) {
        result = -EAGAIN;
    } else {
        make_palette(vga, &palette);
        if (mode.kind == VGA_BLANK)
            memset(pixels, 0, (size_t)width * height * sizeof *pixels);
        else if (mode.kind == VGA_TEXT)
            draw_text(vga, &mode, &palette, blink, pixels);
        else if (vga_dispi_on(vga))
            draw_dispi(vga, &mode, &palette, pixels);
        else
            draw_planar(vga, &mode, &palette, pixels);
    }
    pthread_mutex_unlock(&device->lock);
    return result;
}

int vga_cells(Device *device, uint16_t *cells, uint32_t columns, uint32_t rows)
{
    const Vga *vga = vga_of(device);
    VgaMode mode;
    pthread_mutex_lock(&device->lock);
    get_mode(vga, &mode);
    bool same = mode.kind == VGA_TEXT && mode.columns == columns && mode.rows == rows;
    for (uint32_t row = 0; same && row < rows; row++) {
        Line line = find_line(vga, row * mode.cell_height * double_scan(vga));
        for (uint32_t column = 0; column < columns; column++) {
            const uint8_t *planes = vga->memory + plane_offset(vga, line.address + column, line.row_scan) * 4;
            cells[row * columns + column] = (uint16_t)(planes[0] | planes[1] << 8);
        }
    }
    pthread_mutex_unlock(&device->lock);
    return same ? 0 : -EAGAIN;
}
