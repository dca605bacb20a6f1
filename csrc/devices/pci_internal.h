/* What the PCI bus (pci.c) and its functions (pci_function.c) know of each other. */
#ifndef PYVMM_DEVICES_PCI_INTERNAL_H
#define PYVMM_DEVICES_PCI_INTERNAL_H

#include "devices/pci.h"

struct PciBus {
    Device device;
    uint32_t config_address; /* CONFADD */
    PciFunction *functions[PCI_DEVFN_COUNT];
    pthread_mutex_t wiring;
    int routes[PCI_LINK_COUNT]; /* GSI of each link, -1 = not routed */
};

/* Both take the device's lock. The bytes lie in one aligned dword. */
uint32_t pci_function_config_read(PciFunction *function, uint32_t offset, uint32_t size);
void pci_function_config_write(PciFunction *function, uint32_t offset, uint32_t size, uint32_t value);

void pci_function_unmap(PciFunction *function);

#endif
