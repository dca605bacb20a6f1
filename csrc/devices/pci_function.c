#include "devices/pci_internal.h"

#define CAPABILITIES_START 0x40 /* first byte after the standard header, PCI 3.0 §6.1 */
#define ROM_ENABLE         1u

static uint32_t bar_register(uint32_t index)
{
    return index == PCI_ROM_BAR ? PCI_EXPANSION_ROM : PCI_BAR0 + 4 * index;
}

static void put_mask(uint8_t *mask, uint32_t offset, uint32_t value) { store_le32(mask + offset, value); }

/* ---- Making one --------------------------------------------------------------------------------------------- */

void pci_function_init(PciFunction *function, Device *device, const PciIdentity *identity,
                       const PciFunctionOps *ops)
{
    memset(function, 0, sizeof *function);
    function->device = device;
    function->ops = ops;
    function->capability_end = CAPABILITIES_START;
    uint8_t *config = function->config;
    store_le16(config + PCI_VENDOR_ID, identity->vendor_id);
    store_le16(config + PCI_DEVICE_ID, identity->device_id);
    config[PCI_REVISION_ID] = identity->revision;
    config[PCI_CLASS_CODE] = (uint8_t)identity->class_code;
    store_le16(config + PCI_CLASS_CODE + 1, (uint16_t)(identity->class_code >> 8));
    store_le16(config + PCI_SUBSYSTEM_VENDOR_ID, identity->subsystem_vendor_id);
    store_le16(config + PCI_SUBSYSTEM_ID, identity->subsystem_id);
    config[PCI_INTERRUPT_PIN] = identity->interrupt_pin;
    function->write_mask[PCI_INTERRUPT_LINE] = 0xff;
    function->write_mask[0x0c] = 0xff; /* cache line size: kept, nothing depends on it */
    store_le16(function->write_mask + PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
                                                       (identity->interrupt_pin ? PCI_COMMAND_INTX_DISABLE : 0));
}

int pci_function_add_bar(PciFunction *function, uint32_t index, uint64_t size, uint32_t flags, const DeviceOps *ops,
                         void *opaque, uint32_t region, pthread_mutex_t *lock)
{
    bool io = flags & PCI_BAR_IO, wide = flags & PCI_BAR_MEMORY64, rom = index == PCI_ROM_BAR;
    uint64_t least = io ? 4 : rom ? 2048 : 16, most = io ? 256 : wide ? 1ull << 38 : 1ull << 31;
    if (index >= PCI_BAR_COUNT || function->bars[index].size || (size & (size - 1)) || size < least || size > most)
        return -EINVAL;
    if ((io && flags != PCI_BAR_IO) || (rom && flags != PCI_BAR_MEMORY) || flags & ~0xdu)
        return -EINVAL;
    if (wide && (index >= 5 || function->bars[index + 1].size))
        return -EINVAL;
    if (index > 0 && index < PCI_ROM_BAR && function->bars[index - 1].flags & PCI_BAR_MEMORY64)
        return -EINVAL;
    function->bars[index] =
        (PciBar){.size = size, .flags = flags, .region = region, .ops = ops, .opaque = opaque, .lock = lock};
    uint32_t at = bar_register(index);
    store_le32(function->config + at, flags);
    put_mask(function->write_mask, at, (uint32_t) ~(size - 1) | (rom ? ROM_ENABLE : 0));
    if (wide)
        put_mask(function->write_mask, at + 4, (uint32_t)(~(size - 1) >> 32));
    function->write_mask[PCI_COMMAND] |= io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    return 0;
}

void pci_function_bar_is_ram(PciFunction *function, uint32_t index, uint8_t *ram)
{
    function->bars[index].ram = ram;
}

int pci_function_add_capability(PciFunction *function, uint8_t id, uint32_t length)
{
    uint32_t at = function->capability_end;
    if (length < 2 || length > PCI_CONFIG_SIZE - at)
        return -ENOSPC;
    function->config[at] = id;
    function->config[at + 1] = 0;
    function->config[function->capability_last ? function->capability_last + 1 : PCI_CAPABILITIES] = (uint8_t)at;
    function->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    function->capability_last = at;
    function->capability_end = (at + length + 3) & ~3u;
    return (int)at;
}

/* ---- Base address registers --------------------------------------------------------------------------------- */

/* Where the guest wants a BAR; false when its decoding is off, or it was never given a usable address. */
static bool bar_wanted(const PciFunction *function, uint32_t index, uint64_t *base)
{
    const PciBar *bar = &function->bars[index];
    uint32_t value = load_le32(function->config + bar_register(index));
    bool io = bar->flags & PCI_BAR_IO;
    if (!(function->config[PCI_COMMAND] & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return false;
    if (index == PCI_ROM_BAR && !(value & ROM_ENABLE))
        return false;
    *base = value & ~(bar->size - 1);
    if (bar->flags & PCI_BAR_MEMORY64)
        *base |= (uint64_t)load_le32(function->config + bar_register(index) + 4) << 32;
    /* Address 0 is what reset leaves; the top of the space is what sizing leaves (PCI 3.0 §6.2.5.1). */
    uint64_t limit = io ? 0x10000 : bar->flags & PCI_BAR_MEMORY64 ? UINT64_MAX : 1ull << 32;
    return *base != 0 && *base < limit && bar->size <= limit - *base;
}

static Bus *bar_bus(const PciFunction *function, const PciBar *bar)
{
    Board *board = function->device->board;
    return bar->flags & PCI_BAR_IO ? board->pio : board->mmio;
}

/* Wiring lock held. `quiet`: a second try, whose failure was told already. */
static void bar_map(PciFunction *function, uint32_t index, bool quiet)
{
    PciBar *bar = &function->bars[index];
    Error error;
    int result = bus_add(bar_bus(function, bar), bar->base, bar->size, bar->ops, bar->opaque, bar->region,
                         bar->lock, function->device->class->name, &error);
    bar->mapped = result == 0;
    if (bar->mapped && bar->ram) {
        Board *board = function->device->board;
        DeviceRam ram = {.gpa = bar->base, .size = bar->size, .hva = bar->ram};
        bar->is_ram = device_ram_add(board->device_rams, board->memory, &ram) == 0;
    }
    if (result < 0 && !quiet)
        event_log_add(function->device->board->log, "pci %02x.%u BAR %u is not mapped: %s", function->devfn >> 3,
                      function->devfn & 7, index, error.text);
}

static void bar_unmap(PciFunction *function, PciBar *bar)
{
    if (bar->is_ram)
        device_ram_remove(function->device->board->device_rams, bar->base);
    if (bar->mapped)
        bus_remove(bar_bus(function, bar), bar->base);
    bar->mapped = bar->wanted = bar->is_ram = false;
}

/* What could not be mapped because of a range that has gone now. Wiring lock held. */
static void retry_others(PciBus *bus)
{
    for (uint32_t devfn = 0; devfn < PCI_DEVFN_COUNT; devfn++)
        for (uint32_t index = 0; bus->functions[devfn] && index < PCI_BAR_COUNT; index++) {
            const PciBar *bar = &bus->functions[devfn]->bars[index];
            if (bar->wanted && !bar->mapped)
                bar_map(bus->functions[devfn], index, true);
        }
}

/* Make the buses agree with the command register and the BARs. Device's lock held. */
static void update_mappings(PciFunction *function)
{
    PciBus *bus = function->bus;
    if (!bus)
        return;
    bool moved[PCI_BAR_COUNT] = {false}, freed = false;
    pthread_mutex_lock(&bus->wiring);
    for (uint32_t index = 0; index < PCI_BAR_COUNT; index++) {
        PciBar *bar = &function->bars[index];
        uint64_t base = 0;
        bool wanted = bar->size && bar_wanted(function, index, &base);
        if (wanted == bar->wanted && (!wanted || base == bar->base))
            continue;
        freed |= bar->mapped;
        bar_unmap(function, bar);
        bar->wanted = moved[index] = wanted;
        bar->base = base;
    }
    for (uint32_t index = 0; index < PCI_BAR_COUNT; index++)
        if (moved[index])
            bar_map(function, index, false);
    if (freed)
        retry_others(bus);
    pthread_mutex_unlock(&bus->wiring);
}

void pci_function_unmap(PciFunction *function)
{
    pthread_mutex_lock(&function->bus->wiring);
    for (uint32_t index = 0; index < PCI_BAR_COUNT; index++)
        bar_unmap(function, &function->bars[index]);
    retry_others(function->bus);
    pthread_mutex_unlock(&function->bus->wiring);
}

bool pci_function_bar_at(PciFunction *function, uint32_t index, uint64_t *base)
{
    if (!function->bus)
        return false;
    pthread_mutex_lock(&function->bus->wiring);
    const PciBar *bar = &function->bars[index];
    bool mapped = bar->mapped;
    *base = bar->base;
    pthread_mutex_unlock(&function->bus->wiring);
    return mapped;
}

/* ---- INTx# -------------------------------------------------------------------------------------------------- */

static void drive_intx(PciFunction *function)
{
    uint16_t command = load_le16(function->config + PCI_COMMAND);
    if (function->line)
        irq_line_set(function->line, function->intx && !(command & PCI_COMMAND_INTX_DISABLE));
}

void pci_function_set_intx(PciFunction *function, bool level)
{
    function->intx = level;
    if (level)
        function->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    else
        function->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
    drive_intx(function);
}

bool pci_function_is_master(const PciFunction *function)
{
    return function->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* ---- Configuration accesses --------------------------------------------------------------------------------- */

uint32_t pci_function_config_read(PciFunction *function, uint32_t offset, uint32_t size)
{
    uint32_t value = 0;
    pthread_mutex_lock(&function->device->lock);
    if (function->ops && function->ops->before_read)
        function->ops->before_read(function, offset, size);
    memcpy(&value, function->config + offset, size);
    pthread_mutex_unlock(&function->device->lock);
    return value;
}

static bool touches(uint32_t offset, uint32_t size, uint32_t first, uint32_t count)
{
    return offset < first + count && first < offset + size;
}

void pci_function_config_write(PciFunction *function, uint32_t offset, uint32_t size, uint32_t value)
{
    pthread_mutex_lock(&function->device->lock);
    for (uint32_t i = 0; i < size; i++) {
        uint8_t *byte = &function->config[offset + i], data = (uint8_t)(value >> (8 * i));
        uint8_t mask = function->write_mask[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | (data & mask));
        *byte &= (uint8_t) ~(data & function->clear_mask[offset + i]);
    }
    if (touches(offset, size, PCI_COMMAND, 2) || touches(offset, size, PCI_BAR0, 24) ||
        touches(offset, size, PCI_EXPANSION_ROM, 4)) {
        update_mappings(function);
        drive_intx(function);
    }
    if (function->ops && function->ops->written)
        function->ops->written(function, offset, size);
    pthread_mutex_unlock(&function->device->lock);
}

/* ---- Reset and saved state ---------------------------------------------------------------------------------- */

void pci_function_reset(PciFunction *function)
{
    memcpy(function->config, function->reset_config, PCI_CONFIG_SIZE);
    pci_function_set_intx(function, false);
    update_mappings(function);
}

void pci_function_save(PciFunction *function, PciFunctionState *state)
{
    memcpy(state->config, function->config, PCI_CONFIG_SIZE);
    state->intx = function->intx;
}

int pci_function_restore(PciFunction *function, const PciFunctionState *state)
{
    /* Bits that nobody can write must be as this function has them, whatever the file says. */
    for (uint32_t i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t writable = function->write_mask[i] | function->clear_mask[i];
        if (i == PCI_STATUS)
            writable |= PCI_STATUS_INTERRUPT;
        if ((state->config[i] ^ function->reset_config[i]) & (uint8_t)~writable)
            return -EINVAL;
    }
    memcpy(function->config, state->config, PCI_CONFIG_SIZE);
    pci_function_set_intx(function, state->intx != 0);
    update_mappings(function);
    return 0;
}
