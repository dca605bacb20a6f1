#include <stdio.h>
#include <stdlib.h>

#include "devices/pci_python.h"

typedef struct PciPython {
    Device device;
    PciFunction function;
    DeviceClass class; /* of this one: its name */
    DeviceOps ops;
    PciMsix msix;
    uint32_t msi; /* offset of the capability, 0 = none */
    bool asks;    /* INTx#, as the function wants it */
    char name[28];
} PciPython;

enum { MSIX_BAR_SIZE = 0x1000, MSIX_PENDING = 0x800 };

/* With messages on, INTx# is silent (PCI 3.0 §6.8.1.3, §6.8.2.3). */
static void update_intx(PciPython *python)
{
    bool messages = pci_msi_is_enabled(&python->function, python->msi) || pci_msix_is_enabled(&python->msix);
    pci_function_set_intx(&python->function, python->asks && !messages);
}

static void python_written(PciFunction *function, uint32_t offset, uint32_t size)
{
    PciPython *python = container_of(function, PciPython, function);
    pci_msix_config_written(&python->msix, offset, size);
    update_intx(python);
}

static const PciFunctionOps function_ops = {.written = python_written};

static uint64_t msix_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    return pci_msix_read(&((PciPython *)opaque)->msix, offset, size);
}

static void msix_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    pci_msix_write(&((PciPython *)opaque)->msix, offset, size, value);
}

static const DeviceOps msix_ops = {.read = msix_read, .write = msix_write};

static void python_reset(Device *device)
{
    PciPython *python = (PciPython *)device;
    python->asks = false;
    pci_function_reset(&python->function);
    pci_msix_reset(&python->msix);
}

static void python_destroy(Device *device) { pci_bus_remove(&((PciPython *)device)->function); }

static void python_save(Device *device, void *state)
{
    PciPython *python = (PciPython *)device;
    pci_function_save(&python->function, &((PciPythonState *)state)->pci);
    ((PciPythonState *)state)->pci.intx = python->asks;
    pci_msix_save(&python->msix, &((PciPythonState *)state)->msix);
}

static int python_restore(Device *device, const void *opaque)
{
    PciPython *python = (PciPython *)device;
    const PciPythonState *state = opaque;
    PciMsixState before;
    pci_msix_save(&python->msix, &before);
    if (pci_msix_restore(&python->msix, &state->msix) < 0)
        return -EINVAL;
    if (pci_function_restore(&python->function, &state->pci) < 0) {
        pci_msix_restore(&python->msix, &before);
        return -EINVAL;
    }
    python->asks = state->pci.intx != 0;
    update_intx(python);
    return 0;
}

static const DeviceClass python_class = {
    .reset = python_reset,
    .destroy = python_destroy,
    .state_size = sizeof(PciPythonState),
    .state_version = 2, /* 2: MSI-X */
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

static int add_messages(PciPython *python, const PciPythonMessages *messages, Error *error)
{
    PciFunction *function = &python->function;
    int result = 0;
    if (!messages)
        return 0;
    if (messages->msix) {
        result = pci_function_add_bar(function, messages->msix_bar, MSIX_BAR_SIZE, PCI_BAR_MEMORY, &msix_ops,
                                      python, 0, &python->device.lock);
        if (result == 0)
            result = pci_msix_init(&python->msix, function, messages->msix, messages->msix_bar, 0, MSIX_PENDING);
        if (result < 0)
            return error_set(error, -result, "%s: %u MSI-X vectors in BAR %u: at most %d, in a BAR that is free",
                             python->name, messages->msix, messages->msix_bar, PCI_MSIX_VECTORS);
    }
    if (messages->msi) {
        result = pci_msi_init(function, messages->msi);
        if (result < 0)
            return error_set(error, -result, "%s: %u MSI vectors: a power of two up to %d", python->name,
                             messages->msi, PCI_MSI_VECTORS);
        python->msi = (uint32_t)result;
    }
    return 0;
}

Device *pci_python_new(Board *board, PciBus *bus, uint32_t devfn, const char *name, const PciIdentity *identity,
                       const PciPythonBar *bars, size_t bar_count, const PciPythonMessages *messages, BusRead read,
                       BusWrite write, Error *error)
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
    pci_function_init(&python->function, &python->device, identity, &function_ops);
    if (identity->interrupt_pin > 4)
        error_set(error, EINVAL, "%s: interrupt pin %u is not one of 0 (none) to 4 (INTD#)", name,
                  identity->interrupt_pin);
    else if (add_bars(python, bars, bar_count, error) == 0 && add_messages(python, messages, error) == 0 &&
             pci_bus_add(bus, devfn, &python->function, error) == 0)
        return &python->device;
    device_free(&python->device);
    return NULL;
}

void pci_python_set_intx(Device *device, bool level)
{
    pthread_mutex_lock(&device->lock);
    ((PciPython *)device)->asks = level;
    update_intx((PciPython *)device);
    pthread_mutex_unlock(&device->lock);
}

bool pci_python_notify(Device *device, uint32_t vector)
{
    PciPython *python = (PciPython *)device;
    pthread_mutex_lock(&device->lock);
    bool msix = pci_msix_is_enabled(&python->msix), msi = pci_msi_is_enabled(&python->function, python->msi);
    if (msix)
        pci_msix_notify(&python->msix, vector);
    else if (msi)
        pci_msi_notify(&python->function, python->msi, vector);
    pthread_mutex_unlock(&device->lock);
    return msix || msi;
}
