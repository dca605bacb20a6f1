/*
 * The wires that every device gets: memory, buses, clock, I/O thread, interrupt router, log, and the request line
 * for reset, power and A20. A device's constructor takes the Board and nothing of the engine.
 */
#ifndef PYVMM_IO_BOARD_H
#define PYVMM_IO_BOARD_H

#include <pthread.h>

#include "common/common.h"
#include "io/bus.h"
#include "io/clock.h"
#include "io/event_log.h"
#include "io/io_thread.h"
#include "io/ioeventfd.h"
#include "irq/apic_bus.h"
#include "irq/irq.h"
#include "irq/irqfd.h"
#include "memory/device_ram.h"
#include "memory/memory.h"

/* What a device may ask of the machine; the run loop returns with it. */
enum SystemRequest {
    SYSTEM_NONE,
    SYSTEM_RESET,    /* CPU and board reset (i8042, port 0x92, 0xcf9, triple fault policy) */
    SYSTEM_POWEROFF, /* ACPI S5 */
    SYSTEM_EXIT,     /* exit port: code is the guest's */
    SYSTEM_FIRMWARE, /* a BIOS service call of the vCPU that returns with it: code is the service number */
    SYSTEM_FAULT,    /* a Python device raised: the exception is kept on the Python side */
    SYSTEM_IO_ERROR, /* a disk failed, and was told to stop the machine for it: code is the errno */
};

typedef struct Board {
    GuestMemory *memory;
    Bus *pio;
    Bus *mmio;
    Clock *clock;
    IoThread *io; /* timers, and whatever is never slow */
    struct BoardWorker *workers;
    IoEventFds *ioeventfds;
    DeviceRams *device_rams; /* what of devices is RAM to the guest */
    IrqFds *irqfds;          /* message signalled interrupts that an engine takes by eventfd */
    IrqRouter *irqs;
    EventLog *log;
    ApicBus *apics; /* local and I/O APICs, if any */
    IntrPin intr;
    ExtInt extint;
    uint32_t nmi_pending; /* atomic count of NMI edges */
    union {
        uint64_t system; /* atomic: both halves at once */
        struct {
            uint32_t system_request; /* enum SystemRequest from outside; the first one wins until vCPU 0 takes it */
            uint32_t system_code;
        };
    };
    uint32_t a20;             /* atomic: 1 = enabled */
    uint32_t a20_sources;     /* bit 0: i8042, bit 1: port 0x92; enabled when any is set */
    pthread_mutex_t a20_lock; /* of sources and gate: the two devices have locks of their own */
    uint64_t tsc_hz;          /* guest TSC frequency */
    bool tsc_is_hosts;        /* the guest's TSC is the host's own: an engine can neither scale nor set it */
    /* Set by the engine that is attached (engine/engine.h, engine_vm_attach). */
    void (*kick)(void *engine); /* leave guest code soon, from any thread */
    bool (*vcpu_request)(void *engine, enum SystemRequest request,
                         uint32_t code);        /* false: not on a vCPU's thread */
    void (*a20_changed)(void *engine, bool on); /* on a vCPU's thread; one at a time */
    void *engine;                               /* atomic */
    /* Set by the first local APIC, or by an engine whose irqchip is in the kernel. */
    int (*msi)(void *irqchip, uint64_t address, uint32_t data); /* how many CPUs took it, or -errno */
    void *msi_irqchip;
    bool (*lint1_edge)(void *lapic); /* the NMI source; false: LINT1 does not take it */
    void *lint1;
    Device *pic;                  /* the 8259 pair, or NULL: set by itself */
    Device *ioapic;               /* the same */
    const EngineIrqchip *irqchip; /* set by an engine that has interrupt controllers of its own (irq/irq.h) */
    void *irqchip_engine;
} Board;

Board *board_new(enum ClockKind clock, Error *error);
void board_free(Board *board);

/*
 * A further I/O thread, for work that may be slow: it starts, pauses and stops with the board, and is freed with
 * it. So devices that have it go first. NULL with `error` filled when it cannot be made.
 */
IoThread *board_add_worker(Board *board, const char *name, Error *error);
/*
 * All I/O threads. Nothing starts on a virtual clock. stop joins them, workers first: they use timers and sinks.
 * Between pause and resume no worker does anything: pause waits for what is under way (as much as a worker does in
 * one go: some batches of requests), and what the guest asked for meanwhile is done after resume.
 */
int board_start_io(Board *board, Error *error);
void board_stop_io(Board *board);
void board_pause_io(Board *board);
void board_resume_io(Board *board);

void board_request(Board *board, enum SystemRequest request, uint32_t code);
enum SystemRequest board_take_request(Board *board, uint32_t *code);
enum A20Source { A20_I8042 = 1, A20_PORT92 = 2 };
void board_set_a20(Board *board, enum A20Source source, bool on);
/* The NMI source: through LINT1 of the local APIC when the guest unmasked that, else straight to the CPU. */
void board_nmi(Board *board);
void board_nmi_edge(Board *board); /* the CPU's own pin */
/*
 * A device's message signalled interrupt: a 4-byte store to `address` (PCI 3.0 §6.8). To 0xfee00000 and the
 * megabyte after it it is an interrupt (Intel SDM 3A §11.11), elsewhere a store to memory. Any thread, with a
 * device's lock held or not. Returns how many CPUs took it, or -errno: -ENODEV where there is no APIC, -EFAULT
 * where there is no RAM.
 */
int board_msi(Board *board, uint64_t address, uint32_t data);

#endif
