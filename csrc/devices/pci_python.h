/*
 * A PCI function whose registers are in Python: configuration space, BARs and INTx# are here, accesses to its BARs
 * are handed to the two callbacks with no lock held (Python has its own).
 */
#ifndef PYVMM_DEVICES_PCI_PYTHON_H
#define PYVMM_DEVICES_PCI_PYTHON_H

#include "devices/pci.h"

typedef struct PciPythonBar {
    uint32_t index;
    uint32_t flags; /* enum PciBarFlags */
    uint64_t size;
    void *handle; /* first argument of the callbacks */
} PciPythonBar;

typedef struct PciPythonState {
    PciFunctionState pci;
} PciPythonState;

/* `region` in the callbacks is the BAR's index. `name` is copied. */
Device *pci_python_new(Board *board, PciBus *bus, uint32_t devfn, const char *name, const PciIdentity *identity,
                       const PciPythonBar *bars, size_t bar_count, BusRead read, BusWrite write, Error *error);
void pci_python_set_intx(Device *device, bool level);

#endif
