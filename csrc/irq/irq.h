/*
 * Interrupt wires: a device pulls an IrqLine; the IrqRouter ORs the lines of one GSI and hands the level to every
 * irqchip that listens (8259 pair, I/O APIC, KVM's); the irqchip raises the CPU's INTR pin, and the engine
 * acknowledges through it. Between the 8259 pair and the pin is the local APIC's LINT0 when the board has one
 * (lapic.h). Lock order: device, then the router's, the 8259 pair's and the APIC bus's; no call goes back up.
 */
#ifndef PYVMM_IRQ_IRQ_H
#define PYVMM_IRQ_IRQ_H

#include "common/common.h"

#define IRQ_GSI_COUNT 24
#define IRQ_MAX_SINKS 4

typedef struct IrqRouter IrqRouter;
typedef struct IrqLine IrqLine;

IrqRouter *irq_router_new(void);
void irq_router_free(IrqRouter *router); /* frees its lines too */

/* A new source on a GSI (several sources may share one: level = OR). */
IrqLine *irq_line_new(IrqRouter *router, uint32_t gsi);
void irq_line_set(IrqLine *line, bool level);
void irq_line_pulse(IrqLine *line); /* raise, then lower: an edge */
bool irq_line_level(const IrqLine *line);
uint32_t irq_line_gsi(const IrqLine *line);
void irq_line_route(IrqLine *line, uint32_t gsi); /* PCI link moved: the level moves with it */

typedef void (*IrqSink)(void *opaque, uint32_t gsi, bool level);
int irq_router_add_sink(IrqRouter *router, IrqSink sink, void *opaque);
void irq_router_remove_sink(IrqRouter *router, IrqSink sink, void *opaque); /* it is not called any more */
uint32_t irq_router_levels(IrqRouter *router);                              /* bit n: GSI n is up */

typedef struct Device Device;

/*
 * Interrupt controllers that live in the engine (KVM's irqchip in the kernel). While the board has this, its own
 * controllers interrupt nobody, and are where those of the engine are looked at, saved, restored and reset: their
 * save asks `pic_get`, their reset and restore tell `pic_set`. `state` is the device's State struct. 0 or -errno.
 */
typedef struct EngineIrqchip {
    int (*pic_get)(void *engine, void *state); /* all of an I8259State but `lines` */
    int (*pic_set)(void *engine, const void *state);
    int (*ioapic_get)(void *engine, void *state); /* all of an IoApicState but `lines` */
    int (*ioapic_set)(void *engine, const void *state);
} EngineIrqchip;

/* The CPU's INTR pin and its acknowledge cycle (Intel SDM 3A §6.3.2). */
typedef struct IntrPin {
    uint32_t level;                    /* atomic: 1 while an irqchip asks */
    void (*changed)(void *engine);     /* set by the engine: called on 0 -> 1 */
    void *engine;                      /* atomic */
    int (*acknowledge)(void *irqchip); /* set by the irqchip: vector 0..255, or -1 when it was withdrawn */
    void *irqchip;
} IntrPin;

void intr_pin_set(IntrPin *pin, bool level);
bool intr_pin_level(const IntrPin *pin);
int intr_pin_acknowledge(IntrPin *pin);

/* The 8259 pair's INT output: the CPU's INTR pin, or what was connected in between. */
typedef struct ExtInt {
    uint32_t level;                          /* atomic */
    IntrPin *pin;                            /* where it goes while nothing is connected */
    void (*changed)(void *sink, bool level); /* the 8259 pair's lock is held */
    void *sink;
    int (*acknowledge)(void *pic); /* set by the 8259 pair */
    void *pic;
} ExtInt;

void ext_int_set(ExtInt *wire, bool level);
int ext_int_acknowledge(ExtInt *wire);
/* The 8259 pair comes (NULL: goes). */
void ext_int_drive(ExtInt *wire, int (*acknowledge)(void *pic), void *pic);
/* A local APIC comes between (NULL: goes). While no vCPU runs. */
void ext_int_connect(ExtInt *wire, void (*changed)(void *sink, bool level), void *sink);

#endif
