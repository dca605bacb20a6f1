/*
 * The I/O APIC: 24 interrupt inputs, each with an entry of the redirection table.
 *
 * Source: Intel 82093AA I/O APIC datasheet (order number 290566), named "82093AA" below; version 0x20 with the EOI
 * register as in the ICH family (e.g. Intel ICH7 datasheet 307013 §10.5). Input n is GSI n of the board's router,
 * except for the ISA bus's IRQ 0, whose input the machine chooses (its MADT says so). Polarity is kept and changes
 * nothing: the board's lines carry "asserted", whatever voltage that is. Left out: the 8259 pair's output on input
 * 0 (it is wired to LINT0), SMI, the arbitration register's arbitration.
 *
 * Lock: that of the ApicBus, see apic_bus.h.
 */
#ifndef PYVMM_IRQ_IOAPIC_H
#define PYVMM_IRQ_IOAPIC_H

#include "devices/device.h"
#include "irq/apic_bus.h"

#define IOAPIC_PINS        24
#define IOAPIC_REGION_SIZE 0x1000

enum IoApicRegister { /* in the memory-mapped page */
                      IOAPIC_REGSEL = 0x00,
                      IOAPIC_WINDOW = 0x10,
                      IOAPIC_EOI = 0x40,
};

enum { /* by IOREGSEL */
       IOAPIC_INDEX_ID = 0,
       IOAPIC_INDEX_VERSION = 1,
       IOAPIC_INDEX_ARBITRATION = 2,
       IOAPIC_INDEX_TABLE = 0x10, /* two registers an entry, lower half first */
};

#define IOAPIC_STATE_VERSION 1
typedef struct IoApicState {
    uint64_t redirection[IOAPIC_PINS];
    uint32_t id;    /* bits 24..27 */
    uint32_t lines; /* levels of the inputs */
    uint8_t select; /* IOREGSEL */
    uint8_t reserved[7];
} IoApicState;

/* Listens to the router; GSI 0 goes to input `isa_irq0_pin`, and what is GSI of that number goes nowhere. */
Device *ioapic_new(Board *board, IrqRouter *router, uint32_t isa_irq0_pin, Error *error);

#endif
