#include <stdio.h>
#include <stdlib.h>

#include "devices/pci_internal.h"

#define CONFIG_ENABLE       (1u << 31)
#define CONFIG_ADDRESS_MASK 0x80fffffcu /* PCI 3.0 §3.2.2.3.2: the rest is reserved and reads as 0 */

static uint32_t ones(uint32_t size) { return size >= 4 ? UINT32_MAX : (1u << (size * 8)) - 1; }

/* Mechanism 1 -----------------------------------------------------------------------------------------------------
 */

static PciFunction *addressed(PciBus *bus)
{
    uint32_t address = bus->config_address;
    if (!(address & CONFIG_ENABLE) || (address >> 16 & 0xff) != 0)
        return NULL;
    return bus->functions[address >> 8 & 0xff];
}

static uint64_t pci_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    PciBus *bus = device;
    if (region == PCI_REGION_ADDRESS)
        return size == 4 ? bus->config_address : UINT64_MAX;
    PciFunction *function = addressed(bus);
    if (!function)
        return UINT64_MAX;
    uint32_t start = (bus->config_address & 0xfc) + (uint32_t)offset;
    uint32_t valid = MIN(size, 4 - (uint32_t)offset); /* what runs over the end of the window is nobody's */
    uint32_t value = pci_function_config_read(function, start, valid);
    return value | (uint64_t)~ones(valid);
}

static void pci_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    PciBus *bus = device;
    if (region == PCI_REGION_ADDRESS) {
        if (size == 4)
            bus->config_address = (uint32_t)value & CONFIG_ADDRESS_MASK;
        return;
    }
    PciFunction *function = addressed(bus);
    if (function)
        pci_function_config_write(function, (bus->config_address & 0xfc) + (uint32_t)offset,
                                  MIN(size, 4 - (uint32_t)offset), (uint32_t)value);
}

static void pci_reset(Device *device) { ((PciBus *)device)->config_address = 0; }

static void pci_destroy(Device *device) { pthread_mutex_destroy(&((PciBus *)device)->wiring); }

static void pci_save(Device *device, void *state)
{
    ((PciBusState *)state)->config_address = ((PciBus *)device)->config_address;
}

static int pci_restore(Device *device, const void *state)
{
    uint32_t address = ((const PciBusState *)state)->config_address;
    if (address & ~CONFIG_ADDRESS_MASK)
        return -EINVAL;
    ((PciBus *)device)->config_address = address;
    return 0;
}

static const DeviceClass pci_class = {
    .name = "pci",
    .ops = {.read = pci_read, .write = pci_write},
    .reset = pci_reset,
    .destroy = pci_destroy,
    .state_size = sizeof(PciBusState),
    .state_version = 1,
    .save = pci_save,
    .restore = pci_restore,
};

PciBus *pci_bus_new(Board *board)
{
    PciBus *bus = calloc(1, sizeof *bus);
    if (!bus)
        return NULL;
    device_init(&bus->device, &pci_class, board);
    pthread_mutex_init(&bus->wiring, NULL);
    for (uint32_t link = 0; link < PCI_LINK_COUNT; link++)
        bus->routes[link] = -1;
    return bus;
}

Device *pci_bus_device(PciBus *bus) { return &bus->device; }

/* ---- Functions and links ------------------------------------------------------------------------------------ */

int pci_bus_add(PciBus *bus, uint32_t devfn, PciFunction *function, Error *error)
{
    const char *name = function->device->class->name;
    if (devfn >= PCI_DEVFN_COUNT)
        return error_set(error, EINVAL, "%s: PCI slot %u is not one of 0 to 31", name, devfn >> 3);
    if (bus->functions[devfn])
        return error_set(error, EEXIST, "%s: PCI slot %u function %u is taken by %s: choose another slot", name,
                         devfn >> 3, devfn & 7, bus->functions[devfn]->device->class->name);
    if ((devfn & 7) && !bus->functions[devfn & ~7u])
        return error_set(error, EINVAL, "%s: PCI slot %u has no function 0 yet: add that first", name, devfn >> 3);
    uint32_t pin = function->config[PCI_INTERRUPT_PIN];
    if (pin) {
        int route = pci_bus_link_route(bus, pci_link(devfn >> 3, pin - 1));
        function->line = irq_line_new(bus->device.board->irqs, route < 0 ? IRQ_GSI_COUNT : (uint32_t)route);
        if (!function->line)
            return error_set(error, ENOMEM, "%s: no host memory for its interrupt line", name);
    }
    function->bus = bus;
    function->devfn = devfn;
    memcpy(function->reset_config, function->config, PCI_CONFIG_SIZE);
    if (devfn & 7) { /* PCI 3.0 §6.2.1: bit 7 of function 0 says that there are others */
        PciFunction *first = bus->functions[devfn & ~7u];
        first->config[PCI_HEADER_TYPE] |= 0x80;
        first->reset_config[PCI_HEADER_TYPE] |= 0x80;
    }
    bus->functions[devfn] = function;
    return 0;
}

void pci_bus_remove(PciFunction *function)
{
    PciBus *bus = function->bus;
    if (!bus)
        return;
    pci_function_unmap(function);
    if (function->line)
        irq_line_set(function->line, false);
    bus->functions[function->devfn] = NULL;
    function->bus = NULL;
}

uint32_t pci_link(uint32_t slot, uint32_t pin) { return (slot + pin + PCI_LINK_COUNT - 1) % PCI_LINK_COUNT; }

void pci_bus_route_link(PciBus *bus, uint32_t link, int gsi)
{
    pthread_mutex_lock(&bus->wiring);
    bus->routes[link] = gsi;
    for (uint32_t devfn = 0; devfn < PCI_DEVFN_COUNT; devfn++) {
        PciFunction *function = bus->functions[devfn];
        if (function && function->line &&
            pci_link(devfn >> 3, function->reset_config[PCI_INTERRUPT_PIN] - 1u) == link)
            irq_line_route(function->line, gsi < 0 ? IRQ_GSI_COUNT : (uint32_t)gsi);
    }
    pthread_mutex_unlock(&bus->wiring);
}

int pci_bus_link_route(PciBus *bus, uint32_t link)
{
    pthread_mutex_lock(&bus->wiring);
    int gsi = bus->routes[link];
    pthread_mutex_unlock(&bus->wiring);
    return gsi;
}

/* ---- For Python --------------------------------------------------------------------------------------------- */

PciFunction *pci_bus_function(PciBus *bus, uint32_t devfn)
{
    return devfn < PCI_DEVFN_COUNT ? bus->functions[devfn] : NULL;
}

static bool is_config_access(uint32_t offset, uint32_t size)
{
    return (size == 1 || size == 2 || size == 4) && offset < PCI_CONFIG_SIZE && offset % size == 0;
}

uint32_t pci_bus_config_read(PciBus *bus, uint32_t devfn, uint32_t offset, uint32_t size)
{
    PciFunction *function = pci_bus_function(bus, devfn);
    return function && is_config_access(offset, size) ? pci_function_config_read(function, offset, size)
                                                      : ones(size);
}

void pci_bus_config_write(PciBus *bus, uint32_t devfn, uint32_t offset, uint32_t size, uint32_t value)
{
    PciFunction *function = pci_bus_function(bus, devfn);
    if (function && is_config_access(offset, size))
        pci_function_config_write(function, offset, size, value);
}

int pci_bus_bar(PciBus *bus, uint32_t devfn, uint32_t index, PciBarInfo *info)
{
    PciFunction *function = pci_bus_function(bus, devfn);
    if (!function || index >= PCI_BAR_COUNT || !function->bars[index].size)
        return -ENOENT;
    pthread_mutex_lock(&bus->wiring);
    const PciBar *bar = &function->bars[index];
    *info = (PciBarInfo){.size = bar->size,
                         .base = bar->base,
                         .flags = bar->flags,
                         .wanted = bar->wanted,
                         .mapped = bar->mapped,
                         .is_ram = bar->is_ram};
    pthread_mutex_unlock(&bus->wiring);
    return 0;
}

const char *pci_bus_device_name(PciBus *bus, uint32_t devfn)
{
    PciFunction *function = pci_bus_function(bus, devfn);
    return function ? function->device->class->name : NULL;
}
