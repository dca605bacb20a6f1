/*
 * The bus that local APICs and I/O APICs talk over: interrupt messages by destination, end-of-interrupt broadcasts
 * back.
 *
 * Source: Intel SDM 3A §11.6 (interprocessor interrupts and destinations), §11.11 (message signalled interrupts);
 * chapter numbers are those of the editions since 2022, where the APIC is chapter 11 (10 before). Left out:
 * interrupt remapping and posted interrupts, SMI (there is no system management mode), the arbitration of the real
 * bus: of several candidates for a lowest-priority message the one with the lowest processor priority takes it,
 * among equals the one that comes next in turn.
 *
 * One lock guards all of it (`irqchip` in the order of csrc/engine/engine.h): the registers of every APIC on the
 * bus are read and changed under it only. Nothing is called with it held but the CPUs' pins, the clock and the
 * event log.
 */
#ifndef PYVMM_IRQ_APIC_BUS_H
#define PYVMM_IRQ_APIC_BUS_H

#include "common/common.h"

#define APIC_BUS_LAPICS  255 /* IDs 0..254: 255 is the broadcast of 8-bit destinations */
#define APIC_BUS_IOAPICS 4

/* MSI addresses, SDM 3A §11.11.1. */
#define MSI_ADDRESS_BASE 0xfee00000u
#define MSI_ADDRESS_MASK 0xfff00000u

enum ApicDeliveryMode { /* SDM 3A §11.5.1 and §11.6.1 */
                        APIC_FIXED,
                        APIC_LOWEST_PRIORITY,
                        APIC_SMI,
                        APIC_NMI = 4,
                        APIC_INIT,
                        APIC_STARTUP,
                        APIC_EXTINT,
};

typedef struct ApicMessage {
    uint32_t destination;
    uint8_t vector;
    uint8_t mode; /* enum ApicDeliveryMode */
    bool logical;
    bool level; /* level-triggered: its EOI is told to the I/O APICs */
    bool wide;  /* a 32-bit destination, as x2APIC sends; else 8 bits */
} ApicMessage;

/*
 * Local APICs that live in the engine while the I/O APICs are the board's. The bus's lock is held. deliver: as
 * apic_bus_deliver_locked. level_pin: what an input of the board's first I/O APIC sends when it is level-triggered,
 * whether masked or not, and NULL when it is not: of these vectors the engine must tell the end
 * (apic_bus_eoi_locked).
 */
typedef struct ApicBusEngine {
    uint32_t (*deliver)(void *engine, const ApicMessage *message);
    void (*level_pin)(void *engine, uint32_t pin, const ApicMessage *message);
} ApicBusEngine;

typedef struct ApicBus ApicBus;
typedef struct Lapic Lapic;
typedef struct IoApic IoApic;

ApicBus *apic_bus_new(void);
void apic_bus_free(ApicBus *bus);
void apic_bus_lock(ApicBus *bus);
void apic_bus_unlock(ApicBus *bus);

/* For engines: messages go there from now on (ops NULL: to the bus's own local APICs), and what the I/O APICs'
 * entries hold is told. While no vCPU runs. */
void apic_bus_attach(ApicBus *bus, const ApicBusEngine *ops, void *engine);
/* For I/O APICs, lock held: see ApicBusEngine.level_pin. */
void apic_bus_level_pin_locked(ApicBus *bus, uint32_t pin, const ApicMessage *message);

/* The local APIC of a vCPU, or NULL. The machine makes and frees them while no vCPU runs. */
Lapic *apic_bus_lapic(const ApicBus *bus, uint32_t id);

/* For the APICs. -EEXIST: the ID is taken; -ERANGE: it cannot be one; -ENOSPC: too many I/O APICs. */
int apic_bus_add_lapic(ApicBus *bus, Lapic *lapic, uint32_t id);
void apic_bus_remove_lapic(ApicBus *bus, uint32_t id);
int apic_bus_add_ioapic(ApicBus *bus, IoApic *ioapic);
void apic_bus_remove_ioapic(ApicBus *bus, IoApic *ioapic);

/* Lock held. To all whom the destination means; how many accepted it. */
uint32_t apic_bus_deliver_locked(ApicBus *bus, const ApicMessage *message);
/* The same for what a device asks: a startup message is a processor's only (SDM 3A §11.11.2, 82093AA §3.2.4). */
uint32_t apic_bus_interrupt_locked(ApicBus *bus, const ApicMessage *message);
/* Lock held. To all but `except` (NULL: to all); a lowest-priority message to one of them. */
uint32_t apic_bus_broadcast_locked(ApicBus *bus, const ApicMessage *message, const Lapic *except);
/* Lock held. A level-triggered interrupt was handled, SDM 3A §11.8.5. */
void apic_bus_eoi_locked(ApicBus *bus, uint8_t vector);

/* A message signalled interrupt, SDM 3A §11.11. How many accepted it. Takes the lock. */
uint32_t apic_bus_msi(ApicBus *bus, uint64_t address, uint32_t data);

#endif
