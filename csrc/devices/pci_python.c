#include <stdio.h>
#include <stdlib.h>

#include "devices/pci_python.h"

typedef struct PciPython {
    Device device;
    PciFunction function;
    DeviceClass class; /* of this one: its name */
    DeviceOps ops;
    char name[28];
} PciPython;

static void python_reset(Device *device) { pci_function_reset(&((PciPython *)device)->function); }

static void python_destroy(Device *device) { pci_bus_remove(&((PciPython *)device)->function); }

static void python_save(Device *device, void *state)
{
    pci_function_save(&((PciPython *)device)->function, &((PciPythonState *)state)->pci);
}

static int python_restore(Device *device, const void *state)
{
    return pci_function_restore(&((PciPython *)device)->function, &((const PciPythonState *)state)->pci);
}

static const DeviceClass python_class = {
    .reset = python_reset,
    .destroy = python_destroy,
    .state_size = sizeof(PciPythonState),
    .state_version = 1,
    .save = python_save,
    .restore = python_restore,
};

static int add_bars(PciPython *python, const PciPythonBar *bars, size_t count, Error *error)
{
    for (size_t i = 0; i < count; i++)
        if (pci_function_add_bar(&python->function, bars[i].index, bars[i].size, bars[i].flags, &python->ops,
                                 bars[i].handle, bars[i].index, NULL) < 0)
            return error_set(
                error, EINVAL,
                "%s: BAR %u of %llu bytes, flags %#x: size must be a power of two (I/O: 4 to 256, memory: 16 up, "
                "ROM: 2048 up), and a 64-bit BAR takes the next index too",
                python->name, bars[i].index, (unsigned long long)bars[i].size, bars[i].flags);
    return 0;
}

Device *pci_python_new(Board *board, PciBus *bus, uint32_t devfn, const char *name, const PciIdentity *identity,
                       const PciPythonBar *bars, size_t bar_count, BusRead read, BusWrite write, Error *error)
{
    PciPython *python = calloc(1, sizeof *python);
    if (!python) {
        error_set(error, ENOMEM, "no host memory for %s", name);
        return NULL;
    }
    snprintf(python->name, sizeof python->name, "%s", name);
    python->class = python_class;
    python->class.name = python->name;
    python->ops = (DeviceOps){.read = read, .write = write};
    device_init(&python->device, &python->class, board);
    pci_function_init(&python->function, &python->device, identity, NULL);
    if (identity->interrupt_pin > 4)
        error_set(error, EINVAL, "%s: interrupt pin %u is not one of 0 (none) to 4 (INTD#)", name,
                  identity->interrupt_pin);
    else if (add_bars(python, bars, bar_count, error) == 0 &&
             pci_bus_add(bus, devfn, &python->function, error) == 0)
        return &python->device;
    device_free(&python->device);
    return NULL;
}

void pci_python_set_intx(Device *device, bool level)
{
    pthread_mutex_lock(&device->lock);
    pci_function_set_intx(&((PciPython *)device)->function, level);
    pthread_mutex_unlock(&device->lock);
}
