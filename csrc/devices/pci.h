/*
 * The PCI root bus: configuration mechanism 1, functions with their configuration space, base address registers
 * that come and go on the board's buses, and INTx# wired through four links to interrupt lines.
 *
 * Source: PCI Local Bus Specification 3.0 (`PCI 3.0 §n`); links and PIRQRC as in the PIIX3 (82371SB, Intel 290550,
 * register PIRQRC). MSI and MSI-X are in pci_msi.h.
 * Left out: bridges and further buses, mechanism 2 and memory-mapped configuration, power management, hot plug,
 * special cycles, parity and SERR# (their command bits are kept, nothing asserts them).
 *
 * Who guards what. A function's configuration space and its INTx# belong to its device's lock; what is mapped of
 * all functions, and the links' routes, to the bus's `wiring` lock. Order: PciBus's own lock (CONFADD; held by the
 * port bus) > device's lock > wiring > the buses' writer lock or the irqchip.
 */
#ifndef PYVMM_DEVICES_PCI_H
#define PYVMM_DEVICES_PCI_H

#include "devices/device.h"

#define PCI_CONFIG_SIZE           256
#define PCI_DEVFN_COUNT           256
#define PCI_BAR_COUNT             7 /* six base address registers, then the expansion ROM */
#define PCI_ROM_BAR               6
#define PCI_LINK_COUNT            4
#define PCI_DEVFN(slot, function) (((slot) << 3) | (function))

/* Regions of the PciBus device itself. */
enum PciRegion {
    PCI_REGION_ADDRESS, /* port 0xcf8: answers 4-byte accesses only, so a range of one port is enough */
    PCI_REGION_DATA,    /* ports 0xcfc..0xcff */
};

/* Configuration registers, PCI 3.0 §6.1. */
enum PciRegister {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_CODE = 0x09,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_EXPANSION_ROM = 0x30,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};

enum PciCommand {
    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_PARITY = 1 << 6,
    PCI_COMMAND_SERR = 1 << 8,
    PCI_COMMAND_INTX_DISABLE = 1 << 10,
};

enum PciStatus {
    PCI_STATUS_INTERRUPT = 1 << 3,
    PCI_STATUS_CAPABILITIES = 1 << 4,
};

enum PciBarFlags { PCI_BAR_MEMORY = 0, PCI_BAR_IO = 1, PCI_BAR_MEMORY64 = 4, PCI_BAR_PREFETCH = 8 };

typedef struct PciBar {
    uint64_t size; /* 0: not there; else a power of two */
    uint32_t flags;
    uint32_t region;
    const DeviceOps *ops;
    void *opaque;
    pthread_mutex_t *lock;
    uint8_t *ram; /* what it shows, when that is plain memory; else NULL */
    /* Under the wiring lock: */
    bool wanted; /* the guest enabled it at `base` */
    bool mapped; /* and it is on the bus there */
    bool is_ram; /* and the guest reaches `ram` there without an exit (memory/device_ram.h) */
    uint64_t base;
} PciBar;

typedef struct PciBus PciBus;
typedef struct PciFunction PciFunction;

/* Both are called with the device's lock held; NULL for what a function does not need. */
typedef struct PciFunctionOps {
    void (*before_read)(PciFunction *function, uint32_t offset, uint32_t size);
    void (*written)(PciFunction *function, uint32_t offset, uint32_t size);
} PciFunctionOps;

/* Embedded in the device that it belongs to. */
struct PciFunction {
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t write_mask[PCI_CONFIG_SIZE];   /* bits that a write changes */
    uint8_t clear_mask[PCI_CONFIG_SIZE];   /* bits that writing 1 clears */
    uint8_t reset_config[PCI_CONFIG_SIZE]; /* what reset puts back: taken by pci_bus_add() */
    PciBar bars[PCI_BAR_COUNT];
    const PciFunctionOps *ops;
    Device *device;
    PciBus *bus;
    uint32_t devfn;
    uint32_t capability_end; /* first free byte for the next capability */
    uint32_t capability_last;
    IrqLine *line; /* NULL without an interrupt pin */
    bool intx;     /* the function asks */
};

/* The configuration space of a function inside its device's saved state. */
typedef struct PciFunctionState {
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t intx;
} PciFunctionState;

typedef struct PciIdentity {
    uint16_t vendor_id;
    uint16_t device_id;
    uint32_t class_code; /* 24 bits: base class, sub-class, interface */
    uint8_t revision;
    uint16_t subsystem_vendor_id;
    uint16_t subsystem_id;
    uint8_t interrupt_pin; /* 0 none, 1..4 INTA#..INTD# */
} PciIdentity;

typedef struct PciBusState {
    uint32_t config_address; /* CONFADD */
} PciBusState;

/* The bus is a Device whose two regions are mechanism 1's ports. */
PciBus *pci_bus_new(Board *board);
Device *pci_bus_device(PciBus *bus); /* for map, reset, save and free; free it after the functions' devices */

/* A device's constructor: identity, then base address registers and capabilities, then its place on the bus. */
void pci_function_init(PciFunction *function, Device *device, const PciIdentity *identity,
                       const PciFunctionOps *ops);
/* `size` is a power of two: at least 4 (I/O, at most 256) or 16 (memory). A 64-bit one takes index and index + 1.
 * `lock` is what the bus takes around ops. -EINVAL when it cannot be. */
int pci_function_add_bar(PciFunction *function, uint32_t index, uint64_t size, uint32_t flags, const DeviceOps *ops,
                         void *opaque, uint32_t region, pthread_mutex_t *lock);
/* Before pci_bus_add(): the BAR shows these bytes (page aligned), and accesses have no side effects. `ops` must
 * answer with the same bytes. They must stay where they are until pci_bus_remove(). */
void pci_function_bar_is_ram(PciFunction *function, uint32_t index, uint8_t *ram);
/* Append a capability of `length` bytes (with its two header bytes); returns its offset, or -ENOSPC. */
int pci_function_add_capability(PciFunction *function, uint8_t id, uint32_t length);
/* devfn is PCI_DEVFN(slot, function). -EEXIST when somebody is there. From here on it answers. */
int pci_bus_add(PciBus *bus, uint32_t devfn, PciFunction *function, Error *error);
/* The device goes away: unmap, forget. */
void pci_bus_remove(PciFunction *function);

/* For the device's reset, save and restore: its lock is held. */
void pci_function_reset(PciFunction *function);
void pci_function_save(PciFunction *function, PciFunctionState *state);
int pci_function_restore(PciFunction *function, const PciFunctionState *state); /* -EINVAL: another identity */

/* Level of INTA#..INTD#: the device's lock is held. */
void pci_function_set_intx(PciFunction *function, bool level);
bool pci_function_is_master(const PciFunction *function); /* may it reach memory? */
/* Where a BAR answers now; false when it does not. The device's lock is held. */
bool pci_function_bar_at(PciFunction *function, uint32_t index, uint64_t *base);

/* Which of the four links a slot's pin (0 = INTA#) is soldered to: slot 1's INTA# is link A, as on the 440FX boards
 * that SeaBIOS and kernels know. And where the ISA bridge sends a link: a GSI, or -1. */
uint32_t pci_link(uint32_t slot, uint32_t pin);
void pci_bus_route_link(PciBus *bus, uint32_t link, int gsi);
int pci_bus_link_route(PciBus *bus, uint32_t link);

/* For Python: configuration accesses of 1, 2 or 4 bytes, naturally aligned, as the guest makes them. */
PciFunction *pci_bus_function(PciBus *bus, uint32_t devfn); /* NULL: nobody there */
uint32_t pci_bus_config_read(PciBus *bus, uint32_t devfn, uint32_t offset, uint32_t size);
void pci_bus_config_write(PciBus *bus, uint32_t devfn, uint32_t offset, uint32_t size, uint32_t value);

typedef struct PciBarInfo {
    uint64_t size;
    uint64_t base; /* valid while wanted */
    uint32_t flags;
    uint8_t wanted;
    uint8_t mapped;
    uint8_t is_ram;
} PciBarInfo;

int pci_bus_bar(PciBus *bus, uint32_t devfn, uint32_t index,
                PciBarInfo *info);                            /* -ENOENT: no such function or BAR */
const char *pci_bus_device_name(PciBus *bus, uint32_t devfn); /* NULL: nobody there */

#endif
