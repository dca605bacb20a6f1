/* Registers, the PCI function, and the device's life. See vga.h. */
#include <stdlib.h>
#include <sys/mman.h>

#include "devices/vga_internal.h"

/* Port offsets from 0x3b0. */
enum {
    PORT_MONO_CRTC_INDEX = 0x04,
    PORT_MONO_STATUS_1 = 0x0a,
    PORT_ATTRIBUTE = 0x10,
    PORT_ATTRIBUTE_READ = 0x11,
    PORT_MISC_WRITE = 0x12,
    PORT_SEQUENCER_INDEX = 0x14,
    PORT_DAC_MASK = 0x16,
    PORT_DAC_READ_INDEX = 0x17,
    PORT_DAC_WRITE_INDEX = 0x18,
    PORT_DAC_DATA = 0x19,
    PORT_FEATURE_READ = 0x1a,
    PORT_MISC_READ = 0x1c,
    PORT_GRAPHICS_INDEX = 0x1e,
    PORT_COLOUR_CRTC_INDEX = 0x24,
    PORT_COLOUR_STATUS_1 = 0x2a,
};
enum { MISC_COLOUR = 0x01, STATUS_0_SENSE = 0x10, STATUS_1_NOT_DISPLAYING = 0x01, STATUS_1_RETRACE = 0x08 };
enum { CRTC_PROTECT = 0x80, CRTC_OVERFLOW_LINE_COMPARE = 0x10, CRTC_REGISTERS = 25, NO_VALUE = 0xff };
enum { REGION_FRAME_BUFFER = VGA_REGION_WINDOW + 1, REGION_REGISTERS, REGION_ROM };
/* BAR 2: what is where in its 4 KiB. */
enum {
    MMIO_PORTS = 0x400,
    MMIO_DISPI = 0x500,
    MMIO_EXTENDED_SIZE = 0x600,
    MMIO_BYTE_ORDER = 0x604,
    MMIO_SIZE = 0x1000
};
#define BYTE_ORDER_LITTLE 0x1e1e1e1eu

/* 31.47 kHz, of which 25.4 us of 31.8 us are displayed (IBM VGA, "Video timing"). */
#define LINE_NS           31778u
#define LINE_DISPLAYED_NS 25422u

/* Bits that a register keeps (IBM VGA); what is not listed keeps nothing. */
static const uint8_t SEQUENCER_MASK[8] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e};
static const uint8_t GRAPHICS_MASK[16] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};
static const uint8_t ATTRIBUTE_MASK[32] = {0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                           0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f};

/* ---- Status ------------------------------------------------------------------------------------------------- */

/* Where the beam is, from the machine's clock: guests wait for the retrace by polling. */
static uint8_t status_1(const Vga *vga)
{
    uint32_t total = vga_vertical_total(vga) + 2, shown = vga_vertical_display_end(vga) + 1;
    uint32_t retrace = vga_retrace_start(vga);
    if (total < 100 || shown >= total)
        total = 449, shown = 400, retrace = 412;
    uint64_t in_frame = clock_now(vga->device.board->clock) % ((uint64_t)total * LINE_NS);
    uint32_t line = (uint32_t)(in_frame / LINE_NS);
    uint8_t status = 0;
    if (line >= shown || in_frame % LINE_NS >= LINE_DISPLAYED_NS)
        status |= STATUS_1_NOT_DISPLAYING;
    if (line >= retrace && line < retrace + 2)
        status |= STATUS_1_RETRACE;
    return status;
}

/* ---- DAC ---------------------------------------------------------------------------------------------------- */

static uint8_t dac_read(VGAState *s)
{
    uint8_t value = s->dac[s->dac_read_index * 3 + s->dac_cycle];
    if (++s->dac_cycle == 3) {
        s->dac_cycle = 0;
        s->dac_read_index++;
    }
    return value;
}

static void dac_write(Vga *vga, uint8_t value)
{
    VGAState *s = &vga->state;
    s->dac_pending[s->dac_cycle] = s->dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC ? value : value & 0x3f;
    if (++s->dac_cycle < 3)
        return;
    memcpy(&s->dac[s->dac_write_index * 3], s->dac_pending, 3);
    s->dac_cycle = 0;
    s->dac_write_index++;
}

/* ---- Ports -------------------------------------------------------------------------------------------------- */

/* The CRTC and status 1 answer at 0x3b? or 0x3d?; the other place is empty. */
static bool is_other_crtc(const Vga *vga, uint32_t port)
{
    bool colour = vga->state.misc_output & MISC_COLOUR;
    return colour ? port < PORT_ATTRIBUTE : port >= PORT_COLOUR_CRTC_INDEX - 4;
}

/* The colour addresses stand for both. */
static uint32_t fold_port(uint32_t port) { return port < PORT_ATTRIBUTE ? port + 0x20 : port; }

static uint8_t port_read(Vga *vga, uint32_t port)
{
    VGAState *s = &vga->state;
    if (is_other_crtc(vga, port))
        return NO_VALUE;
    switch (fold_port(port)) {
    case PORT_ATTRIBUTE:
        return s->attribute_index;
    case PORT_ATTRIBUTE_READ:
        return s->attribute[s->attribute_index & 0x1f];
    case PORT_MISC_WRITE:
        return STATUS_0_SENSE;
    case PORT_SEQUENCER_INDEX:
        return s->sequencer_index;
    case PORT_SEQUENCER_INDEX + 1:
        return s->sequencer[s->sequencer_index];
    case PORT_DAC_MASK:
        return s->dac_mask;
    case PORT_DAC_READ_INDEX:
        return s->dac_reading ? 3 : 0;
    case PORT_DAC_WRITE_INDEX:
        return s->dac_write_index;
    case PORT_DAC_DATA:
        return dac_read(s);
    case PORT_FEATURE_READ:
        return s->feature_control;
    case PORT_MISC_READ:
        return s->misc_output;
    case PORT_GRAPHICS_INDEX:
        return s->graphics_index;
    case PORT_GRAPHICS_INDEX + 1:
        return s->graphics[s->graphics_index];
    case PORT_COLOUR_CRTC_INDEX:
        return s->crtc_index;
    case PORT_COLOUR_CRTC_INDEX + 1:
        return s->crtc_index < CRTC_REGISTERS ? s->crtc[s->crtc_index] : 0;
    case PORT_COLOUR_STATUS_1:
        s->attribute_is_data = 0;
        return status_1(vga);
    default:
        return NO_VALUE;
    }
}

static void attribute_write(VGAState *s, uint8_t value)
{
    if (!s->attribute_is_data) {
        s->attribute_index = value & 0x3f;
    } else {
        uint32_t index = s->attribute_index & 0x1f;
        /* With the screen on, the palette belongs to the display (IBM VGA, "Attribute Address", bit 5). */
        if (index >= 16 || !(s->attribute_index & ATTRIBUTE_INDEX_SCREEN_ON))
            s->attribute[index] = value & ATTRIBUTE_MASK[index];
    }
    s->attribute_is_data ^= 1;
}

static void crtc_write(VGAState *s, uint8_t value)
{
    uint32_t index = s->crtc_index;
    if (index >= CRTC_REGISTERS)
        return;
    if (index <= CRTC_OVERFLOW && s->crtc[CRTC_RETRACE_END] & CRTC_PROTECT) {
        if (index == CRTC_OVERFLOW)
            s->crtc[index] =
                (uint8_t)((s->crtc[index] & ~CRTC_OVERFLOW_LINE_COMPARE) | (value & CRTC_OVERFLOW_LINE_COMPARE));
        return;
    }
    s->crtc[index] = value;
}

static void port_write(Vga *vga, uint32_t port, uint8_t value)
{
    VGAState *s = &vga->state;
    if (is_other_crtc(vga, port))
        return;
    switch (fold_port(port)) {
    case PORT_ATTRIBUTE:
        attribute_write(s, value);
        break;
    case PORT_MISC_WRITE:
        s->misc_output = value & 0xef;
        break;
    case PORT_SEQUENCER_INDEX:
        s->sequencer_index = value & 7;
        break;
    case PORT_SEQUENCER_INDEX + 1:
        s->sequencer[s->sequencer_index] = value & SEQUENCER_MASK[s->sequencer_index];
        break;
    case PORT_DAC_MASK:
        s->dac_mask = value;
        break;
    case PORT_DAC_READ_INDEX:
        s->dac_read_index = value;
        s->dac_cycle = 0;
        s->dac_reading = 1;
        break;
    case PORT_DAC_WRITE_INDEX:
        s->dac_write_index = value;
        s->dac_cycle = 0;
        s->dac_reading = 0;
        break;
    case PORT_DAC_DATA:
        dac_write(vga, value);
        break;
    case PORT_GRAPHICS_INDEX:
        s->graphics_index = value & 0xf;
        break;
    case PORT_GRAPHICS_INDEX + 1:
        s->graphics[s->graphics_index] = value & GRAPHICS_MASK[s->graphics_index];
        break;
    case PORT_COLOUR_CRTC_INDEX:
        s->crtc_index = value & 0x1f;
        break;
    case PORT_COLOUR_CRTC_INDEX + 1:
        crtc_write(s, value);
        break;
    case PORT_COLOUR_STATUS_1:
        s->feature_control = value & 0x03;
        break;
    }
}

static uint64_t ports_read(Vga *vga, uint64_t port, uint32_t size)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++)
        value |= (uint64_t)(port + i < 0x30 ? port_read(vga, (uint32_t)port + i) : NO_VALUE) << 8 * i;
    return value;
}

static void ports_write(Vga *vga, uint64_t port, uint32_t size, uint64_t value)
{
    for (uint32_t i = 0; i < size && port + i < 0x30; i++)
        port_write(vga, (uint32_t)port + i, (uint8_t)(value >> 8 * i));
}

/* ---- Regions ------------------------------------------------------------------------------------------------ */

/* BAR 2: DISPI registers are 16 bits wide, the VGA's are bytes from port 0x3c0 on. */
static uint64_t registers_read(Vga *vga, uint64_t offset, uint32_t size)
{
    if (offset >= MMIO_PORTS && offset + size <= MMIO_PORTS + 0x20)
        return ports_read(vga, offset - MMIO_PORTS + PORT_ATTRIBUTE, size);
    if (offset >= MMIO_DISPI && offset < MMIO_DISPI + 2 * DISPI_COUNT && size == 2)
        return vga_dispi_read(vga, (uint32_t)(offset - MMIO_DISPI) / 2);
    if (offset == MMIO_EXTENDED_SIZE && size == 4)
        return 8;
    if (offset == MMIO_BYTE_ORDER && size == 4)
        return BYTE_ORDER_LITTLE;
    return 0;
}

static void registers_write(Vga *vga, uint64_t offset, uint32_t size, uint64_t value)
{
    if (offset >= MMIO_PORTS && offset + size <= MMIO_PORTS + 0x20)
        ports_write(vga, offset - MMIO_PORTS + PORT_ATTRIBUTE, size, value);
    else if (offset >= MMIO_DISPI && offset < MMIO_DISPI + 2 * DISPI_COUNT && size == 2)
        vga_dispi_write(vga, (uint32_t)(offset - MMIO_DISPI) / 2, (uint16_t)value);
}

static uint64_t vga_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    Vga *vga = opaque;
    uint64_t value = 0;
    switch (region) {
    case VGA_REGION_PORTS:
        return ports_read(vga, offset, size);
    case VGA_REGION_DISPI:
        return offset == 0 ? vga->state.dispi_index : vga_dispi_read(vga, vga->state.dispi_index);
    case VGA_REGION_WINDOW:
        return vga_window_read(vga, offset, size);
    case REGION_FRAME_BUFFER:
        memcpy(&value, vga->memory + MIN(offset, VGA_MEMORY_SIZE - size), size);
        return value;
    case REGION_REGISTERS:
        return registers_read(vga, offset, size);
    default:
        memcpy(&value, vga->rom + MIN(offset, vga->rom_size - size), size);
        return value;
    }
}

static void vga_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Vga *vga = opaque;
    switch (region) {
    case VGA_REGION_PORTS:
        ports_write(vga, offset, size, value);
        break;
    case VGA_REGION_DISPI: /* the data register is at 0x1cf and, aligned, at 0x1d0 */
        if (offset == 0)
            vga->state.dispi_index = (uint16_t)value;
        else
            vga_dispi_write(vga, vga->state.dispi_index, (uint16_t)value);
        break;
    case VGA_REGION_WINDOW:
        vga_window_write(vga, offset, size, value);
        break;
    case REGION_FRAME_BUFFER:
        memcpy(vga->memory + MIN(offset, VGA_MEMORY_SIZE - size), &value, size);
        break;
    case REGION_REGISTERS:
        registers_write(vga, offset, size, value);
        break;
    }
}

/* ---- Life --------------------------------------------------------------------------------------------------- */

/* Private pages read as zero again, and take no room. */
void vga_clear(Device *device) { madvise(vga_of(device)->memory, VGA_MEMORY_SIZE, MADV_DONTNEED); }

static void vga_reset(Device *device)
{
    Vga *vga = vga_of(device);
    vga->state = (VGAState){.dac_mask = 0xff, .misc_output = MISC_COLOUR};
    vga->state.dispi[DISPI_ID] = 0xb0c0;
    vga->state.dispi[DISPI_BPP] = 8;
    vga_clear(device);
    pci_function_reset(&vga->function);
}

static void vga_destroy(Device *device)
{
    Vga *vga = vga_of(device);
    pci_bus_remove(&vga->function);
    if (vga->memory)
        munmap(vga->memory, VGA_MEMORY_SIZE);
    free(vga->rom);
}

static void vga_save(Device *device, void *state)
{
    const Vga *vga = vga_of(device);
    VGAState *saved = state;
    *saved = vga->state;
    pci_function_save(&vga_of(device)->function, &saved->pci);
}

static bool is_valid(const VGAState *s)
{
    for (uint32_t i = 0; i < 8; i++)
        if (s->sequencer[i] & ~SEQUENCER_MASK[i])
            return false;
    for (uint32_t i = 0; i < 16; i++)
        if (s->graphics[i] & ~GRAPHICS_MASK[i])
            return false;
    return vga_dispi_is_valid(s) && s->sequencer_index < 8 && s->crtc_index < 32 && s->graphics_index < 16 &&
           s->attribute_index < 64 && s->attribute_is_data < 2 && s->dac_cycle < 3 && s->dac_reading < 2;
}

static int vga_restore(Device *device, const void *state)
{
    Vga *vga = vga_of(device);
    const VGAState *saved = state;
    if (!is_valid(saved))
        return -EINVAL;
    int result = pci_function_restore(&vga->function, &saved->pci);
    if (result == 0) {
        vga->state = *saved;
        memset(&vga->state.pci, 0, sizeof vga->state.pci);
    }
    return result;
}

static const DeviceClass vga_class = {
    .name = "vga",
    .ops = {vga_read, vga_write},
    .reset = vga_reset,
    .destroy = vga_destroy,
    .state_size = sizeof(VGAState),
    .state_version = VGA_STATE_VERSION,
    .save = vga_save,
    .restore = vga_restore,
};

static int take_rom(Vga *vga, const uint8_t *rom, size_t size, Error *error)
{
    if (!rom)
        return 0;
    if (size < 512 || size > 1 << 20 || load_le16(rom) != 0xaa55)
        return error_set(error, EINVAL, "VGA BIOS: %zu bytes that do not begin with 55 aa are not an option ROM",
                         size);
    for (vga->rom_size = 2048; vga->rom_size < size;)
        vga->rom_size *= 2;
    vga->rom = malloc(vga->rom_size);
    if (!vga->rom)
        return error_set(error, ENOMEM, "no host memory for the VGA's ROM");
    memset(vga->rom, 0xff, vga->rom_size);
    memcpy(vga->rom, rom, size);
    return 0;
}

static int add_bars(Vga *vga)
{
    PciFunction *function = &vga->function;
    const DeviceOps *ops = &vga_class.ops;
    pthread_mutex_t *lock = &vga->device.lock;
    int result = pci_function_add_bar(function, 0, VGA_MEMORY_SIZE, PCI_BAR_MEMORY | PCI_BAR_PREFETCH, ops, vga,
                                      REGION_FRAME_BUFFER, lock);
    if (result == 0)
        pci_function_bar_is_ram(function, 0, vga->memory);
    if (result == 0)
        result = pci_function_add_bar(function, 2, MMIO_SIZE, PCI_BAR_MEMORY, ops, vga, REGION_REGISTERS, lock);
    if (result == 0 && vga->rom)
        result =
            pci_function_add_bar(function, PCI_ROM_BAR, vga->rom_size, PCI_BAR_MEMORY, ops, vga, REGION_ROM, lock);
    return result;
}

Device *vga_new(Board *board, PciBus *bus, uint32_t devfn, const uint8_t *rom, size_t rom_size, Error *error)
{
    static const PciIdentity identity = {.vendor_id = 0x1234,
                                         .device_id = 0x1111,
                                         .class_code = 0x030000,
                                         .revision = 2,
                                         .subsystem_vendor_id = 0x1af4,
                                         .subsystem_id = 0x1100};
    Vga *vga = calloc(1, sizeof *vga);
    if (!vga) {
        error_set(error, ENOMEM, "no host memory for the VGA");
        return NULL;
    }
    device_init(&vga->device, &vga_class, board);
    pci_function_init(&vga->function, &vga->device, &identity, NULL);
    vga->function.write_mask[PCI_COMMAND] |= PCI_COMMAND_IO; /* its ports are the legacy ones: no BAR says so */
    void *memory =
        mmap(NULL, VGA_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        error_set(error, errno, "no host memory for the VGA's frame buffer: %s", strerror(errno));
    else
        vga->memory = memory;
    if (!vga->memory || take_rom(vga, rom, rom_size, error) < 0 || add_bars(vga) < 0 ||
        pci_bus_add(bus, devfn, &vga->function, error) < 0) {
        device_free(&vga->device);
        return NULL;
    }
    device_reset(&vga->device);
    return &vga->device;
}

uint8_t *vga_memory(Device *device) { return vga_of(device)->memory; }
