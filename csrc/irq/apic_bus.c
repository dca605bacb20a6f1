#include <pthread.h>
#include <stdlib.h>

#include "irq/ioapic_internal.h"
#include "irq/lapic_internal.h"

struct ApicBus {
    pthread_mutex_t lock;
    Lapic *lapics[APIC_BUS_LAPICS]; /* by ID */
    uint32_t end;                   /* one more than the highest ID */
    uint32_t turn;                  /* where the search among equals starts */
    IoApic *ioapics[APIC_BUS_IOAPICS];
    const ApicBusEngine *ops; /* NULL: the local APICs are the bus's */
    void *engine;
};

ApicBus *apic_bus_new(void)
{
    ApicBus *bus = calloc(1, sizeof *bus);
    if (bus)
        pthread_mutex_init(&bus->lock, NULL);
    return bus;
}

void apic_bus_free(ApicBus *bus)
{
    if (!bus)
        return;
    pthread_mutex_destroy(&bus->lock);
    free(bus);
}

void apic_bus_lock(ApicBus *bus) { pthread_mutex_lock(&bus->lock); }

void apic_bus_unlock(ApicBus *bus) { pthread_mutex_unlock(&bus->lock); }

Lapic *apic_bus_lapic(const ApicBus *bus, uint32_t id) { return id < APIC_BUS_LAPICS ? bus->lapics[id] : NULL; }

int apic_bus_add_lapic(ApicBus *bus, Lapic *lapic, uint32_t id)
{
    if (id >= APIC_BUS_LAPICS)
        return -ERANGE;
    apic_bus_lock(bus);
    int result = bus->lapics[id] ? -EEXIST : 0;
    if (result == 0) {
        bus->lapics[id] = lapic;
        bus->end = MAX(bus->end, id + 1);
    }
    apic_bus_unlock(bus);
    return result;
}

void apic_bus_remove_lapic(ApicBus *bus, uint32_t id)
{
    apic_bus_lock(bus);
    bus->lapics[id] = NULL;
    while (bus->end && !bus->lapics[bus->end - 1])
        bus->end--;
    apic_bus_unlock(bus);
}

int apic_bus_add_ioapic(ApicBus *bus, IoApic *ioapic)
{
    int result = -ENOSPC;
    apic_bus_lock(bus);
    for (uint32_t i = 0; i < APIC_BUS_IOAPICS && result < 0; i++)
        if (!bus->ioapics[i]) {
            bus->ioapics[i] = ioapic;
            result = 0;
        }
    apic_bus_unlock(bus);
    return result;
}

void apic_bus_remove_ioapic(ApicBus *bus, IoApic *ioapic)
{
    apic_bus_lock(bus);
    for (uint32_t i = 0; i < APIC_BUS_IOAPICS; i++)
        if (bus->ioapics[i] == ioapic)
            bus->ioapics[i] = NULL;
    apic_bus_unlock(bus);
}

void apic_bus_attach(ApicBus *bus, const ApicBusEngine *ops, void *engine)
{
    apic_bus_lock(bus);
    bus->ops = ops;
    bus->engine = engine;
    for (uint32_t i = 0; i < APIC_BUS_IOAPICS && ops; i++)
        if (bus->ioapics[i])
            ioapic_tell_locked(bus->ioapics[i]);
    apic_bus_unlock(bus);
}

void apic_bus_level_pin_locked(ApicBus *bus, uint32_t pin, const ApicMessage *message)
{
    if (bus->ops)
        bus->ops->level_pin(bus->engine, pin, message);
}

/* SDM 3A §11.6.2.4: of those meant, the one that does the least urgent work. */
static Lapic *lowest_priority(ApicBus *bus, const ApicMessage *message, const Lapic *except)
{
    Lapic *best = NULL;
    for (uint32_t i = 0; i < bus->end; i++) {
        Lapic *lapic = bus->lapics[(bus->turn + i) % bus->end];
        if (lapic && lapic != except && lapic_is_meant_locked(lapic, message) && lapic_accepts_locked(lapic) &&
            (!best || lapic_ppr_locked(lapic) >> 4 < lapic_ppr_locked(best) >> 4))
            best = lapic;
    }
    return best;
}

static uint32_t deliver(ApicBus *bus, const ApicMessage *message, const Lapic *except)
{
    uint32_t count = 0;
    if (bus->ops)
        return bus->ops->deliver(bus->engine, message);
    if (message->mode == APIC_LOWEST_PRIORITY) {
        Lapic *lapic = lowest_priority(bus, message, except);
        if (lapic)
            bus->turn = lapic_id(lapic) + 1;
        return lapic ? lapic_deliver_locked(lapic, message) : 0;
    }
    for (uint32_t i = 0; i < bus->end; i++)
        if (bus->lapics[i] && bus->lapics[i] != except && lapic_is_meant_locked(bus->lapics[i], message))
            count += lapic_deliver_locked(bus->lapics[i], message);
    return count;
}

uint32_t apic_bus_deliver_locked(ApicBus *bus, const ApicMessage *message) { return deliver(bus, message, NULL); }

uint32_t apic_bus_broadcast_locked(ApicBus *bus, const ApicMessage *message, const Lapic *except)
{
    ApicMessage to_all = *message;
    to_all.destination = UINT32_MAX, to_all.wide = true, to_all.logical = false;
    return deliver(bus, &to_all, except);
}

uint32_t apic_bus_interrupt_locked(ApicBus *bus, const ApicMessage *message)
{
    return message->mode == APIC_STARTUP ? 0 : deliver(bus, message, NULL);
}

void apic_bus_eoi_locked(ApicBus *bus, uint8_t vector)
{
    for (uint32_t i = 0; i < APIC_BUS_IOAPICS; i++)
        if (bus->ioapics[i])
            ioapic_eoi_locked(bus->ioapics[i], vector);
}

/*
 * SDM 3A figures 11-14 and 11-15. The redirection hint (bit 3) with a logical destination asks for one of those
 * meant. Level-triggered messages come with assert and deassert; as there is no wire behind them only the assertion
 * counts.
 */
uint32_t apic_bus_msi(ApicBus *bus, uint64_t address, uint32_t data)
{
    ApicMessage message = {
        .destination = address >> 12 & 0xff,
        .vector = (uint8_t)data,
        .mode = data >> 8 & 7,
        .logical = address >> 2 & 1,
        .level = data >> 15 & 1,
    };
    if (message.level && !(data >> 14 & 1))
        return 0;
    if (address >> 3 & 1 && message.logical && message.mode == APIC_FIXED)
        message.mode = APIC_LOWEST_PRIORITY;
    apic_bus_lock(bus);
    uint32_t count = apic_bus_interrupt_locked(bus, &message);
    apic_bus_unlock(bus);
    return count;
}
