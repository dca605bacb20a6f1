#include <stdlib.h>

#include "devices/pci_bridges.h"

typedef struct PciBridge {
    Device device;
    PciFunction function;
} PciBridge;

static void bridge_destroy(Device *device) { pci_bus_remove(&((PciBridge *)device)->function); }

static void bridge_reset(Device *device) { pci_function_reset(&((PciBridge *)device)->function); }

static void bridge_save(Device *device, void *state)
{
    pci_function_save(&((PciBridge *)device)->function, &((PciBridgeState *)state)->pci);
}

static int bridge_restore(Device *device, const void *state)
{
    return pci_function_restore(&((PciBridge *)device)->function, &((const PciBridgeState *)state)->pci);
}

#define BRIDGE_CLASS(NAME, RESET, RESTORE)                                                                         \
    {                                                                                                              \
        .name = NAME, .reset = RESET, .destroy = bridge_destroy, .state_size = sizeof(PciBridgeState),             \
        .state_version = 1, .save = bridge_save, .restore = RESTORE,                                               \
    }

static PciBridge *bridge_new(Board *board, const DeviceClass *class, const PciIdentity *identity,
                             const PciFunctionOps *ops, Error *error)
{
    PciBridge *bridge = calloc(1, sizeof *bridge);
    if (!bridge) {
        error_set(error, ENOMEM, "no host memory for %s", class->name);
        return NULL;
    }
    device_init(&bridge->device, class, board);
    pci_function_init(&bridge->function, &bridge->device, identity, ops);
    return bridge;
}

static Device *bridge_add(PciBridge *bridge, PciBus *bus, uint32_t devfn, Error *error)
{
    if (pci_bus_add(bus, devfn, &bridge->function, error) < 0) {
        device_free(&bridge->device);
        return NULL;
    }
    return &bridge->device;
}

/* Command bits that the chip holds at 1, whatever is written. */
static void fix_command(PciFunction *function, uint16_t command)
{
    store_le16(function->config + PCI_COMMAND, command);
    store_le16(function->write_mask + PCI_COMMAND, PCI_COMMAND_SERR | PCI_COMMAND_PARITY);
}

/* ---- Host bridge -------------------------------------------------------------------------------------------- */

static const DeviceClass i440fx_class = BRIDGE_CLASS("i440fx", bridge_reset, bridge_restore);

Device *i440fx_new(Board *board, PciBus *bus, uint32_t devfn, Error *error)
{
    static const PciIdentity identity = {
        .vendor_id = 0x8086, .device_id = 0x1237, .class_code = 0x060000, .revision = 2};
    PciBridge *bridge = bridge_new(board, &i440fx_class, &identity, NULL, error);
    if (!bridge)
        return NULL;
    PciFunction *function = &bridge->function;
    fix_command(function, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
    store_le16(function->config + PCI_STATUS, 0x0280); /* medium DEVSEL#, fast back-to-back */
    memset(function->write_mask + I440FX_PAM0, 0xff, 7);
    memset(function->config + I440FX_DRB0, 1, 8);
    memset(function->write_mask + I440FX_DRB0, 0xff, 8);
    function->config[I440FX_SMRAM] = 0x02;
    function->write_mask[I440FX_SMRAM] = 0x78;
    return bridge_add(bridge, bus, devfn, error);
}

/* ---- ISA bridge --------------------------------------------------------------------------------------------- */

/* PIIX3 PIRQRC: bit 7 disables; IRQ 0, 1, 2, 8 and 13 are reserved and route nowhere. */
static int pirq_route(uint8_t pirqrc)
{
    uint32_t irq = pirqrc & 0x0f;
    return pirqrc & PIRQRC_DISABLED || irq < 3 || irq == 8 || irq == 13 ? -1 : (int)irq;
}

static void piix3_route_all(PciFunction *function)
{
    for (uint32_t link = 0; function->bus && link < PCI_LINK_COUNT; link++) {
        int route = pirq_route(function->config[PIIX3_PIRQRC + link]);
        if (route != pci_bus_link_route(function->bus, link))
            pci_bus_route_link(function->bus, link, route);
    }
}

static void piix3_written(PciFunction *function, uint32_t offset, uint32_t size)
{
    if (offset < PIIX3_PIRQRC + PCI_LINK_COUNT && offset + size > PIIX3_PIRQRC)
        piix3_route_all(function);
}

static void piix3_reset(Device *device)
{
    bridge_reset(device);
    piix3_route_all(&((PciBridge *)device)->function);
}

static int piix3_restore(Device *device, const void *state)
{
    int result = bridge_restore(device, state);
    if (result == 0)
        piix3_route_all(&((PciBridge *)device)->function);
    return result;
}

static const DeviceClass piix3_isa_class = BRIDGE_CLASS("piix3-isa", piix3_reset, piix3_restore);

Device *piix3_isa_new(Board *board, PciBus *bus, uint32_t devfn, Error *error)
{
    static const PciIdentity identity = {.vendor_id = 0x8086, .device_id = 0x7000, .class_code = 0x060100};
    static const PciFunctionOps ops = {.written = piix3_written};
    PciBridge *bridge = bridge_new(board, &piix3_isa_class, &identity, &ops, error);
    if (!bridge)
        return NULL;
    PciFunction *function = &bridge->function;
    fix_command(function, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
    store_le16(function->config + PCI_STATUS, 0x0200);
    memset(function->config + PIIX3_PIRQRC, PIRQRC_DISABLED, PCI_LINK_COUNT);
    memset(function->write_mask + PIIX3_PIRQRC, PIRQRC_DISABLED | 0x0f, PCI_LINK_COUNT);
    return bridge_add(bridge, bus, devfn, error);
}
