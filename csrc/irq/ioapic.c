#include <stdlib.h>

#include "irq/ioapic_internal.h"

#define VERSION_VALUE 0x00170020u /* entries 0..23, version 0x20 */
#define RTE_MASKED    (1ull << 16)
#define RTE_WRITABLE  0xff0000000001afffull

enum {
    RTE_MODE_SHIFT = 8,
    RTE_LOGICAL = 1 << 11,
    RTE_REMOTE_IRR = 1 << 14,
    RTE_LEVEL = 1 << 15,
    RTE_DESTINATION_SHIFT = 56,
    ID_MASK = 0x0f000000,
};

struct IoApic {
    Device device;
    ApicBus *bus;
    uint32_t isa_irq0_pin;
    IoApicState state;
};

/* ---- Delivery ----------------------------------------------------------------------------------------------- */

static bool is_level(uint64_t entry) { return entry & RTE_LEVEL; }

static bool has_vector(uint64_t entry)
{
    uint32_t mode = entry >> RTE_MODE_SHIFT & 7;
    return mode == APIC_FIXED || mode == APIC_LOWEST_PRIORITY;
}

static ApicMessage message_of(uint64_t entry)
{
    return (ApicMessage){
        .destination = (uint32_t)(entry >> RTE_DESTINATION_SHIFT),
        .vector = (uint8_t)entry,
        .mode = entry >> RTE_MODE_SHIFT & 7,
        .logical = entry & RTE_LOGICAL,
        /* 82093AA §3.2.4: NMI, INIT and SMI are edge-triggered whatever the entry says. */
        .level = is_level(entry) && has_vector(entry),
    };
}

static void tell_pin(IoApic *ioapic, uint32_t pin)
{
    ApicMessage message = message_of(ioapic->state.redirection[pin]);
    if (ioapic->device.board->ioapic == &ioapic->device)
        apic_bus_level_pin_locked(ioapic->bus, pin, message.level ? &message : NULL);
}

void ioapic_tell_locked(IoApic *ioapic)
{
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        tell_pin(ioapic, pin);
}

static void deliver(IoApic *ioapic, uint32_t pin)
{
    uint64_t *entry = &ioapic->state.redirection[pin];
    ApicMessage message = message_of(*entry);
    uint32_t accepted = apic_bus_interrupt_locked(ioapic->bus, &message);
    if (message.level && accepted)
        *entry |= RTE_REMOTE_IRR;
}

/* A level-triggered input asks as long as it is asserted and the one before was handled. */
static void serve_level(IoApic *ioapic, uint32_t pin)
{
    uint64_t entry = ioapic->state.redirection[pin];
    if (is_level(entry) && !(entry & RTE_MASKED) && !(entry & RTE_REMOTE_IRR) && ioapic->state.lines >> pin & 1)
        deliver(ioapic, pin);
}

/* Nobody listens to the 82093AA's masked edges: they are neither delivered nor held (§3.2.4, bit 16). */
static void set_input(IoApic *ioapic, uint32_t pin, bool asserted)
{
    uint32_t bit = 1u << pin;
    bool before = ioapic->state.lines & bit;
    ioapic->state.lines = asserted ? ioapic->state.lines | bit : ioapic->state.lines & ~bit;
    uint64_t entry = ioapic->state.redirection[pin];
    if (is_level(entry))
        serve_level(ioapic, pin);
    else if (asserted && !before && !(entry & RTE_MASKED))
        deliver(ioapic, pin);
}

static void ioapic_sink(void *opaque, uint32_t gsi, bool level)
{
    IoApic *ioapic = opaque;
    if (gsi >= IOAPIC_PINS || (gsi != 0 && gsi == ioapic->isa_irq0_pin))
        return;
    apic_bus_lock(ioapic->bus);
    set_input(ioapic, gsi == 0 ? ioapic->isa_irq0_pin : gsi, level);
    apic_bus_unlock(ioapic->bus);
}

void ioapic_eoi_locked(IoApic *ioapic, uint8_t vector)
{
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->state.redirection[pin];
        if ((uint8_t)*entry != vector || !(*entry & RTE_REMOTE_IRR))
            continue;
        *entry &= ~(uint64_t)RTE_REMOTE_IRR;
        serve_level(ioapic, pin);
    }
}

/* ---- Registers ---------------------------------------------------------------------------------------------- */

static uint32_t read_window(const IoApic *ioapic)
{
    uint32_t index = ioapic->state.select;
    switch (index) {
    case IOAPIC_INDEX_ID:
    case IOAPIC_INDEX_ARBITRATION:
        return ioapic->state.id;
    case IOAPIC_INDEX_VERSION:
        return VERSION_VALUE;
    default:
        if (index < IOAPIC_INDEX_TABLE || index >= IOAPIC_INDEX_TABLE + 2 * IOAPIC_PINS)
            return 0;
        index -= IOAPIC_INDEX_TABLE;
        return (uint32_t)(ioapic->state.redirection[index / 2] >> (index & 1 ? 32 : 0));
    }
}

static void write_entry(IoApic *ioapic, uint32_t index, uint32_t value)
{
    uint64_t *entry = &ioapic->state.redirection[index / 2];
    uint32_t shift = index & 1 ? 32 : 0;
    uint64_t mask = RTE_WRITABLE & ((uint64_t)UINT32_MAX << shift);
    *entry = (*entry & ~mask) | (((uint64_t)value << shift) & mask);
    if (!is_level(*entry))
        *entry &= ~(uint64_t)RTE_REMOTE_IRR; /* how systems without the EOI register end an interrupt */
    tell_pin(ioapic, index / 2);
    serve_level(ioapic, index / 2);
}

static void write_window(IoApic *ioapic, uint32_t value)
{
    uint32_t index = ioapic->state.select;
    if (index == IOAPIC_INDEX_ID)
        ioapic->state.id = value & ID_MASK;
    else if (index >= IOAPIC_INDEX_TABLE && index < IOAPIC_INDEX_TABLE + 2 * IOAPIC_PINS)
        write_entry(ioapic, index - IOAPIC_INDEX_TABLE, value);
}

/* Registers are read and written whole: 82093AA §3.0. */
static uint64_t ioapic_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    IoApic *ioapic = opaque;
    uint32_t byte = (uint32_t)offset & 15;
    uint64_t value = 0;
    apic_bus_lock(ioapic->bus);
    if (offset < IOAPIC_WINDOW)
        value = ioapic->state.select;
    else if (offset < IOAPIC_WINDOW + 16)
        value = read_window(ioapic);
    apic_bus_unlock(ioapic->bus);
    return byte < 4 ? value >> (8 * byte) : 0;
}

static void ioapic_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    IoApic *ioapic = opaque;
    apic_bus_lock(ioapic->bus);
    if (offset == IOAPIC_REGSEL)
        ioapic->state.select = (uint8_t)value;
    else if (offset == IOAPIC_WINDOW && size == 4)
        write_window(ioapic, (uint32_t)value);
    else if (offset == IOAPIC_EOI)
        ioapic_eoi_locked(ioapic, (uint8_t)value);
    apic_bus_unlock(ioapic->bus);
}

/* ---- Life --------------------------------------------------------------------------------------------------- */

static void ioapic_reset(Device *device)
{
    IoApic *ioapic = container_of(device, IoApic, device);
    apic_bus_lock(ioapic->bus);
    ioapic->state = (IoApicState){.lines = ioapic->state.lines}; /* the wires are the devices' */
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->state.redirection[pin] = RTE_MASKED;
    ioapic_tell_locked(ioapic);
    apic_bus_unlock(ioapic->bus);
    if (device->board->irqchip)
        device->board->irqchip->ioapic_set(device->board->irqchip_engine, &ioapic->state);
}

static void ioapic_destroy(Device *device)
{
    IoApic *ioapic = container_of(device, IoApic, device);
    apic_bus_remove_ioapic(ioapic->bus, ioapic);
    irq_router_remove_sink(device->board->irqs, ioapic_sink, ioapic);
    if (device->board->ioapic == device)
        device->board->ioapic = NULL;
}

static void ioapic_save(Device *device, void *state)
{
    IoApic *ioapic = container_of(device, IoApic, device);
    apic_bus_lock(ioapic->bus);
    *(IoApicState *)state = ioapic->state;
    apic_bus_unlock(ioapic->bus);
    if (device->board->irqchip)
        device->board->irqchip->ioapic_get(device->board->irqchip_engine, state);
}

static int ioapic_restore(Device *device, const void *opaque)
{
    IoApic *ioapic = container_of(device, IoApic, device);
    const IoApicState *state = opaque;
    if (state->id & ~ID_MASK || state->lines >> IOAPIC_PINS)
        return -EINVAL;
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        if (state->redirection[pin] & ~(RTE_WRITABLE | RTE_REMOTE_IRR))
            return -EINVAL;
    apic_bus_lock(ioapic->bus);
    ioapic->state = *state;
    ioapic_tell_locked(ioapic);
    apic_bus_unlock(ioapic->bus);
    const EngineIrqchip *engine = device->board->irqchip;
    return engine ? engine->ioapic_set(device->board->irqchip_engine, state) : 0;
}

static const DeviceClass ioapic_class = {
    .name = "ioapic",
    .ops = {ioapic_read, ioapic_write},
    .reset = ioapic_reset,
    .destroy = ioapic_destroy,
    .state_size = sizeof(IoApicState),
    .state_version = IOAPIC_STATE_VERSION,
    .save = ioapic_save,
    .restore = ioapic_restore,
};

Device *ioapic_new(Board *board, IrqRouter *router, uint32_t isa_irq0_pin, Error *error)
{
    IoApic *ioapic = isa_irq0_pin < IOAPIC_PINS ? calloc(1, sizeof *ioapic) : NULL;
    if (!ioapic) {
        error_set(error, ENOMEM, "I/O APIC: no host memory, or ISA IRQ 0 on input %u of %d", isa_irq0_pin,
                  IOAPIC_PINS);
        return NULL;
    }
    device_init(&ioapic->device, &ioapic_class, board);
    ioapic->bus = board->apics;
    ioapic->isa_irq0_pin = isa_irq0_pin;
    ioapic_reset(&ioapic->device);
    if (apic_bus_add_ioapic(ioapic->bus, ioapic) < 0 || irq_router_add_sink(router, ioapic_sink, ioapic) < 0) {
        error_set(error, ENOSPC, "I/O APIC: the board takes at most %d, and %d listeners to its interrupt lines",
                  APIC_BUS_IOAPICS, IRQ_MAX_SINKS);
        device_free(&ioapic->device);
        return NULL;
    }
    if (!board->ioapic)
        board->ioapic = &ioapic->device;
    return &ioapic->device;
}
