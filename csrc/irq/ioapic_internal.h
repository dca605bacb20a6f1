/* What the APIC bus asks of an I/O APIC. */
#ifndef PYVMM_IRQ_IOAPIC_INTERNAL_H
#define PYVMM_IRQ_IOAPIC_INTERNAL_H

#include "irq/ioapic.h"

/* To the engine on the bus: what level-triggered inputs send. */
void ioapic_tell_locked(IoApic *ioapic);
void ioapic_eoi_locked(IoApic *ioapic, uint8_t vector);

#endif
