/*
 * A PCI function whose registers are in Python: configuration space, BARs, INTx#, MSI and MSI-X are here, accesses
 * to its BARs are handed to the two callbacks with no lock held (Python has its own).
 */
#ifndef PYVMM_DEVICES_PCI_PYTHON_H
#define PYVMM_DEVICES_PCI_PYTHON_H

#include "devices/pci_msi.h"

typedef struct PciPythonBar {
    uint32_t index;
    uint32_t flags; /* enum PciBarFlags */
    uint64_t size;
    void *handle; /* first argument of the callbacks */
} PciPythonBar;

/* How many vectors it has; 0: not the capability. MSI-X's table and pending bits take a whole BAR, a memory BAR of
 * 4 KiB that must not be among the function's own. */
typedef struct PciPythonMessages {
    uint32_t msi; /* 1, 2, 4 ... 32 */
    uint32_t msix;
    uint32_t msix_bar;
} PciPythonMessages;

typedef struct PciPythonState {
    PciFunctionState pci;
    PciMsixState msix;
} PciPythonState;

/* `region` in the callbacks is the BAR's index. `name` is copied; `messages` may be NULL. */
Device *pci_python_new(Board *board, PciBus *bus, uint32_t devfn, const char *name, const PciIdentity *identity,
                       const PciPythonBar *bars, size_t bar_count, const PciPythonMessages *messages, BusRead read,
                       BusWrite write, Error *error);
void pci_python_set_intx(Device *device, bool level);
/* Its message of a vector, by whichever the guest has enabled; false: neither. */
bool pci_python_notify(Device *device, uint32_t vector);

#endif
