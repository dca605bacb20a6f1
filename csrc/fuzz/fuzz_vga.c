/* A program that does anything with the VGA: ports, memory, DISPI, its base address registers, saved states; then
 * its picture is drawn. */
#include <stdlib.h>

#include "devices/vga.h"
#include "fuzz/input.h"

enum { DEVFN = PCI_DEVFN(2, 0), MAX_PIXELS = 1 << 20 };

static void draw(Device *vga)
{
    VgaMode mode;
    vga_mode(vga, &mode);
    if ((uint64_t)mode.width * mode.height > MAX_PIXELS)
        return;
    uint32_t *pixels = malloc(((size_t)mode.width * mode.height + 1) * sizeof *pixels);
    if (vga_render(vga, pixels, mode.width, mode.height, true) < 0)
        abort();
    free(pixels);
    if (mode.kind == VGA_TEXT) {
        uint16_t *cells = malloc(((size_t)mode.columns * mode.rows + 1) * sizeof *cells);
        if (vga_cells(vga, cells, mode.columns, mode.rows) < 0)
            abort();
        free(cells);
    }
}

static void change_state(Device *vga, Input *input)
{
    VGAState state;
    device_save(vga, &state);
    ((uint8_t *)&state)[take(input, 2) % sizeof state] ^= (uint8_t)take(input, 1);
    device_restore(vga, &state);
}

/* Whatever the guest writes there, the frame buffer is RAM where its register says, and nowhere else. */
static void program(PciBus *bus, Device *vga, Input *input)
{
    static const uint8_t REGISTERS[] = {PCI_COMMAND, PCI_BAR0, PCI_BAR0 + 8, PCI_EXPANSION_ROM};
    PciBarInfo before, after;
    if (pci_bus_bar(bus, DEVFN, 0, &before) < 0)
        abort();
    pci_bus_config_write(bus, DEVFN, REGISTERS[take(input, 1) & 3], 4, (uint32_t)take(input, 4));
    if (pci_bus_bar(bus, DEVFN, 0, &after) < 0 || (after.is_ram && !after.mapped))
        abort();
    DeviceRams *list = vga->board->device_rams;
    if (after.is_ram && device_ram_find(list, after.base) != vga_memory(vga))
        abort();
    if (before.is_ram && !(after.is_ram && after.base == before.base) && device_ram_find(list, before.base))
        abort();
}

static void step(PciBus *bus, Device *vga, Input *input)
{
    uint32_t kind = (uint32_t)take(input, 1), size = 1u << (kind >> 4 & 3);
    switch (kind & 7) {
    case 0:
    case 1: /* an indexed register */
        device_write(vga, VGA_REGION_PORTS, (const uint8_t[]){0x14, 0x1e, 0x24, 0x04}[kind >> 6], 2,
                     take(input, 2));
        break;
    case 2:
        device_write(vga, VGA_REGION_PORTS, take(input, 1) % 0x30, MIN(size, 4u), take(input, 2));
        device_read(vga, VGA_REGION_PORTS, take(input, 1) % 0x30, MIN(size, 4u));
        break;
    case 3:
        device_write(vga, VGA_REGION_DISPI, 0, 2, take(input, 1) % 12);
        device_write(vga, VGA_REGION_DISPI, 1, 2, take(input, 2));
        device_read(vga, VGA_REGION_DISPI, 1, 2);
        break;
    case 4:
        device_write(vga, VGA_REGION_WINDOW, take(input, 3) % (0x20001 - size), size, take(input, size));
        break;
    case 5:
        device_read(vga, VGA_REGION_WINDOW, take(input, 3) % (0x20001 - size), size);
        break;
    case 6:
        change_state(vga, input);
        break;
    case 7:
        if (kind & 0x40)
            program(bus, vga, input);
        else
            draw(vga);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Board *board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    guest_memory_add(board->memory, 0, 1 << 20, 0, NULL);
    PciBus *bus = pci_bus_new(board);
    Device *vga = vga_new(board, bus, DEVFN, NULL, 0, NULL);
    Input input = {data, MIN(size, 1024)};
    while (input.left)
        step(bus, vga, &input);
    draw(vga);
    device_reset(vga);
    device_free(vga);
    device_free(pci_bus_device(bus));
    board_free(board);
    return 0;
}
