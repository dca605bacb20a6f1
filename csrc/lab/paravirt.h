/*
 * Paravirtualisation: a technique whose guest knows that it has a monitor. The guest's kernel runs at CPL 3 on
 * shadow page tables like any other's here, but asks instead of being caught: csrc/guest/lab/hypercall.h is the
 * contract, docs/paravirt.md the explanation.
 *
 *    paravirt.c   what comes to the guest: exceptions by its trap table, lines and timer as events
 *    hypercall.c  what the guest asks for
 *
 * Whatever else the guest does is trapped and emulated as ever; only GDT, IDT, TSS and the 8259A mean nothing to
 * it. All that it gives (pointers, counts, page table entries) is untrusted: an answer of -LAB_E*, or an explained
 * end.
 *
 * Left out: several virtual CPUs, a timer beside the PIT (whose channel 0 and the 8259A are the monitor's, and not
 * protected from the guest's OUT), saving and restoring a guest.
 */
#ifndef PYVMM_LAB_PARAVIRT_H
#define PYVMM_LAB_PARAVIRT_H

#include "guest/lab/hypercall.h"
#include "lab/monitor.h"

typedef struct ParavirtTrap {
    uint64_t handler; /* 0: none */
    bool user;
} ParavirtTrap;

typedef struct Paravirt {
    LabShared *shared; /* NULL until LAB_HC_SHARED */
    gpa_t shared_gpa;
    uint64_t stack; /* for traps from programs */
    ParavirtTrap traps[LAB_TRAP_VECTORS];
    uint16_t lines;  /* that the guest wants */
    uint16_t closed; /*   of which interrupted and were not served yet; bit 0: the timer */
    bool timer;      /* will interrupt again */
    uint64_t period; /* of the timer, ns; 0: once */
} Paravirt;

extern const LabTechnique lab_paravirtual;

static inline Paravirt *paravirt_of(const Monitor *monitor) { return monitor->technique_state; }

/* Memory of the guest's kernel, at a virtual address; nothing is injected. False: not (all) mapped RAM. */
bool paravirt_read(Monitor *monitor, gva_t address, void *data, uint64_t size);
bool paravirt_write(Monitor *monitor, gva_t address, const void *data, uint64_t size);

/* A trap on the kernel's stack, to go on at a handler of the trap table. Ends the guest when there is none. */
void paravirt_trap(Monitor *monitor, uint32_t vector, bool has_error, uint32_t error, uint64_t rip);
void paravirt_store_events(Monitor *monitor, bool on);

/* The chips: all lines shut and forgotten; a line's mask as `lines`, `closed` and `timer` say. */
void paravirt_reset_lines(Monitor *monitor);
void paravirt_update_lines(Monitor *monitor);
void paravirt_serve_lines(Monitor *monitor, uint32_t served);
void paravirt_set_level(Monitor *monitor, uint32_t line, bool level);
void paravirt_set_timer(Monitor *monitor, uint64_t ns, bool periodic); /* 0: off */

/* The guest is at an `int 0x82`. */
void paravirt_hypercall(Monitor *monitor);

#endif
