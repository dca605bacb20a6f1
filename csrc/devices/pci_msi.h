/*
 * Message signalled interrupts of a PCI function: the MSI capability, and MSI-X with its table and pending bits.
 *
 * Source: PCI Local Bus Specification 3.0 §6.8 (`PCI 3.0 §6.8.n`). A message goes out only while the function is a
 * bus master: an MSI-X vector's by eventfd where the function wants that and the engine takes it (irq/irqfd.h), all
 * others by board_msi(). Left out: per-vector masking of MSI (§6.8.1.6, optional; MSI-X has it).
 *
 * All functions: the device's lock is held. MSI-X's table and pending bits lie in a BAR of the function, which
 * hands accesses to them on to pci_msix_read() and pci_msix_write().
 */
#ifndef PYVMM_DEVICES_PCI_MSI_H
#define PYVMM_DEVICES_PCI_MSI_H

#include "devices/pci.h"

#define PCI_CAP_MSI          0x05
#define PCI_CAP_MSIX         0x11
#define PCI_MSI_VECTORS      32 /* at most, §6.8.1.3 */
#define PCI_MSIX_VECTORS     64 /* at most here; the specification's limit is 2048 */
#define PCI_MSIX_ENTRY_SIZE  16
#define PCI_MSIX_TABLE_BYTES (PCI_MSIX_VECTORS * PCI_MSIX_ENTRY_SIZE)

typedef struct PciMsix {
    PciFunction *function;
    uint32_t capability; /* offset, 0 = the function has none */
    uint32_t count;
    uint32_t table_offset, pba_offset; /* in the BAR */
    uint8_t table[PCI_MSIX_TABLE_BYTES];
    uint64_t pending;
    bool use_irqfd;                  /* set by the function's maker after pci_msix_init */
    uint64_t irqfd_sent;             /* messages that went by eventfd */
    IrqFd *irqfds[PCI_MSIX_VECTORS]; /* made when first used */
} PciMsix;

typedef struct PciMsixState {
    uint8_t table[PCI_MSIX_TABLE_BYTES];
    uint64_t pending;
} PciMsixState;

/* The capability: `count` vectors, the table at `table_offset` of BAR `bar`, the pending bits at `pba_offset`; both
 * are multiples of 8. -EINVAL when that cannot be, -ENOSPC when configuration space is full. */
int pci_msix_init(PciMsix *msix, PciFunction *function, uint32_t count, uint32_t bar, uint32_t table_offset,
                  uint32_t pba_offset);
void pci_msix_fini(PciMsix *msix); /* also of a function without MSI-X, all zeroes */
void pci_msix_reset(PciMsix *msix);
void pci_msix_save(const PciMsix *msix, PciMsixState *state);
int pci_msix_restore(PciMsix *msix, const PciMsixState *state); /* after the function's; -EINVAL */

bool pci_msix_is_enabled(const PciMsix *msix);
/* Send a vector's message, or hold it while it is masked. Beyond the table: nothing. */
void pci_msix_notify(PciMsix *msix, uint32_t vector);

/* Whether an access to the BAR is to the table or the pending bits, and what it does. */
bool pci_msix_covers(const PciMsix *msix, uint64_t offset);
uint64_t pci_msix_read(const PciMsix *msix, uint64_t offset, uint32_t size);
void pci_msix_write(PciMsix *msix, uint64_t offset, uint32_t size, uint64_t value);
/* From PciFunctionOps.written: what waited for the function mask or for mastering goes out. True: enable may have
 * changed. */
bool pci_msix_config_written(PciMsix *msix, uint32_t offset, uint32_t size);

/* The MSI capability of `count` vectors (1, 2, 4 ... 32) with 64-bit addresses: its offset, -EINVAL or -ENOSPC. */
int pci_msi_init(PciFunction *function, uint32_t count);
bool pci_msi_is_enabled(const PciFunction *function, uint32_t capability);
/* How many vectors the system granted: a function that got fewer than it asked for shares them. */
uint32_t pci_msi_granted(const PciFunction *function, uint32_t capability);
void pci_msi_notify(PciFunction *function, uint32_t capability, uint32_t vector);

#endif
