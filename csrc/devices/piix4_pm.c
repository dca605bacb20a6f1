#include "devices/piix4_pm.h"

#include <stdlib.h>

enum { HSTCFG_ENABLE = 1, HSTCFG_INTRSEL = 0x0e, HSTCFG_IRQ9 = 0x08 };
enum { STATUS_EVENTS = SMBHSTSTS_INTER | SMBHSTSTS_DEV_ERR | SMBHSTSTS_BUS_ERR | SMBHSTSTS_FAILED };
enum { PROT_RESERVED = 0x10, PROT_BLOCK = 0x14 }; /* 100b; above 101b all are reserved */
/* START, seven bits of address, R/W#, no acknowledge, STOP: 11 bits. */
#define ADDRESS_NS (11 * NS_PER_SECOND / 16000)

typedef struct Piix4Pm {
    Device device;
    PciFunction function;
    IrqLine *irq;
    Timer *timer;
    uint16_t mapped; /* where the SMBus's ports are; 0: nowhere */
    Piix4PmState state;
} Piix4Pm;

static uint16_t smbus_base(const Piix4Pm *pm) { return load_le16(pm->function.config + PIIX4_SMBBA) & 0xfff0; }

/* INTEREN lets the end of a transaction, however it came, interrupt (SMBHSTCNT bit 0). */
static void drive_interrupt(Piix4Pm *pm)
{
    uint8_t config = pm->function.config[PIIX4_SMBHSTCFG];
    bool routed = config & HSTCFG_ENABLE && (config & HSTCFG_INTRSEL) == HSTCFG_IRQ9;
    irq_line_set(pm->irq, routed && pm->state.control & SMBHSTCNT_INTEREN && pm->state.status & STATUS_EVENTS);
}

/* ---- Transactions ------------------------------------------------------------------------------------------- */

static void finish(Piix4Pm *pm, uint8_t event)
{
    pm->state.done_ns = 0;
    pm->state.status |= event;
    timer_disarm(pm->timer);
    drive_interrupt(pm);
}

/* The time of a transaction is over: nobody acknowledged, or nobody could have. */
static void sync(Piix4Pm *pm)
{
    if (pm->state.done_ns && clock_now(pm->device.board->clock) >= pm->state.done_ns)
        finish(pm, SMBHSTSTS_DEV_ERR);
}

static void expired(void *opaque)
{
    Piix4Pm *pm = opaque;
    pthread_mutex_lock(&pm->device.lock);
    sync(pm);
    pthread_mutex_unlock(&pm->device.lock);
}

static void start(Piix4Pm *pm)
{
    uint8_t protocol = pm->state.control & SMBHSTCNT_PROT;
    if (!(pm->function.config[PIIX4_SMBHSTCFG] & HSTCFG_ENABLE) || pm->state.done_ns)
        return;
    if (pm->state.control & SMBHSTCNT_KILL)
        finish(pm, SMBHSTSTS_FAILED);
    else if (protocol == PROT_RESERVED || protocol > PROT_BLOCK)
        finish(pm, SMBHSTSTS_DEV_ERR); /* an invalid command never reaches the bus */
    else {
        pm->state.done_ns = clock_now(pm->device.board->clock) + ADDRESS_NS;
        timer_arm(pm->timer, pm->state.done_ns);
    }
}

static void write_control(Piix4Pm *pm, uint8_t value)
{
    pm->state.control = value & (SMBHSTCNT_INTEREN | SMBHSTCNT_KILL | SMBHSTCNT_PROT);
    if (value & SMBHSTCNT_KILL && pm->state.done_ns)
        finish(pm, SMBHSTSTS_FAILED);
    else if (value & SMBHSTCNT_START)
        start(pm);
    drive_interrupt(pm);
}

/* ---- Registers ---------------------------------------------------------------------------------------------- */

/* Bits of each register that keep what is written. Status, control and the block's data are not among them; the
 * slave's shadow command and data are read-only: an external master would write them. */
static const uint8_t kept[16] = {
    [SMBHSTCMD] = 0xff, [SMBHSTADD] = 0xff, [SMBHSTDAT0] = 0xff,    [SMBHSTDAT1] = 0xff,
    [SMBSLVCNT] = 0x0f, [SMBSLVEVT] = 0xff, [SMBSLVEVT + 1] = 0xff,
};

static uint8_t read_register(Piix4Pm *pm, uint64_t offset)
{
    Piix4PmState *s = &pm->state;
    sync(pm);
    switch (offset) {
    case SMBHSTSTS:
        return s->status | (s->done_ns ? SMBHSTSTS_BUSY : 0);
    case SMBHSTCNT: /* reading it sends the block's index back to its start */
        s->block_index = 0;
        return s->control;
    case SMBBLKDAT:
        return s->block[s->block_index++ % sizeof s->block];
    default:
        return s->registers[offset & 15];
    }
}

static void write_register(Piix4Pm *pm, uint64_t offset, uint8_t value)
{
    Piix4PmState *s = &pm->state;
    sync(pm);
    switch (offset) {
    case SMBHSTSTS: /* write one to clear */
        s->status &= ~value;
        drive_interrupt(pm);
        break;
    case SMBHSTCNT:
        write_control(pm, value);
        break;
    case SMBBLKDAT:
        s->block[s->block_index++ % sizeof s->block] = value;
        break;
    default:
        s->registers[offset & 15] = value & kept[offset & 15];
    }
    s->block_index %= sizeof s->block;
}

static uint64_t smbus_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++)
        value |= (uint64_t)(offset + i < PIIX4_SMBUS_PORTS ? read_register(opaque, offset + i) : 0xff) << 8 * i;
    return value;
}

static void smbus_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    for (uint32_t i = 0; i < size && offset + i < PIIX4_SMBUS_PORTS; i++)
        write_register(opaque, offset + i, (uint8_t)(value >> 8 * i));
}

/* ---- The PCI function --------------------------------------------------------------------------------------- */

static const DeviceClass piix4_pm_class;

static void unmap(Piix4Pm *pm)
{
    if (pm->mapped)
        bus_remove(pm->device.board->pio, pm->mapped);
    pm->mapped = 0;
}

/* PCICMD's IOSE lets the ports answer; a base of 0 was never set. */
static void update_mapping(Piix4Pm *pm)
{
    Error error;
    uint16_t base = pm->function.config[PCI_COMMAND] & PCI_COMMAND_IO ? smbus_base(pm) : 0;
    if (!pm->function.bus || base == pm->mapped)
        return;
    unmap(pm);
    if (base && bus_add(pm->device.board->pio, base, PIIX4_SMBUS_PORTS, &piix4_pm_class.ops, pm, 0,
                        &pm->device.lock, "piix4-smbus", &error) < 0)
        event_log_add(pm->device.board->log, "SMBBA: the SMBus is not mapped: %s", error.text);
    else
        pm->mapped = base;
}

static void config_written(PciFunction *function, uint32_t offset, uint32_t size)
{
    Piix4Pm *pm = container_of(function, Piix4Pm, function);
    update_mapping(pm);
    drive_interrupt(pm);
}

static void piix4_pm_reset(Device *device)
{
    Piix4Pm *pm = container_of(device, Piix4Pm, device);
    memset(&pm->state, 0, sizeof pm->state);
    timer_disarm(pm->timer);
    pci_function_reset(&pm->function);
    update_mapping(pm);
    drive_interrupt(pm);
}

static void piix4_pm_destroy(Device *device)
{
    Piix4Pm *pm = container_of(device, Piix4Pm, device);
    unmap(pm);
    pci_bus_remove(&pm->function);
    timer_free(pm->timer);
}

static void piix4_pm_save(Device *device, void *state)
{
    Piix4Pm *pm = container_of(device, Piix4Pm, device);
    sync(pm);
    *(Piix4PmState *)state = pm->state;
    pci_function_save(&pm->function, &((Piix4PmState *)state)->pci);
}

static int piix4_pm_restore(Device *device, const void *state)
{
    Piix4Pm *pm = container_of(device, Piix4Pm, device);
    const Piix4PmState *saved = state;
    uint64_t latest = clock_now(device->board->clock) + ADDRESS_NS;
    if (saved->status & ~STATUS_EVENTS || saved->block_index >= sizeof saved->block || saved->done_ns > latest ||
        saved->control & ~(SMBHSTCNT_INTEREN | SMBHSTCNT_KILL | SMBHSTCNT_PROT))
        return -EINVAL;
    for (size_t i = 0; i < sizeof kept; i++)
        if (saved->registers[i] & ~kept[i])
            return -EINVAL;
    int result = pci_function_restore(&pm->function, &saved->pci);
    if (result < 0)
        return result;
    pm->state = *saved;
    memset(&pm->state.pci, 0, sizeof pm->state.pci);
    memset(pm->state.reserved, 0, sizeof pm->state.reserved);
    if (pm->state.done_ns)
        timer_arm(pm->timer, pm->state.done_ns);
    else
        timer_disarm(pm->timer);
    update_mapping(pm);
    drive_interrupt(pm);
    return 0;
}

static const DeviceClass piix4_pm_class = {
    .name = "piix4-pm",
    .ops = {smbus_read, smbus_write},
    .reset = piix4_pm_reset,
    .destroy = piix4_pm_destroy,
    .state_size = sizeof(Piix4PmState),
    .state_version = PIIX4_PM_STATE_VERSION,
    .save = piix4_pm_save,
    .restore = piix4_pm_restore,
};

static void init_config(PciFunction *function, uint16_t pm_base)
{
    store_le16(function->write_mask + PCI_COMMAND, PCI_COMMAND_IO);
    store_le16(function->config + PCI_STATUS, 0x0280);
    store_le32(function->config + PIIX4_PMBASE, (pm_base & 0xffc0u) | 1); /* bit 0: I/O space */
    function->config[PIIX4_PMREGMISC] = 1;                                /* PMIOSE: decoding is on */
    /* Quirk: SeaBIOS takes APMC_EN for "system management mode is set up"; without it, it waits for an SMI for
     * ever, and there is no SMM here (tests/boot/test_seabios.py). */
    store_le32(function->config + PIIX4_DEVACTB, PIIX4_DEVACTB_APMC_EN);
    store_le32(function->config + PIIX4_SMBBA, 1);
    store_le32(function->write_mask + PIIX4_SMBBA, 0xfff0);
    function->write_mask[PIIX4_SMBHSTCFG] = HSTCFG_ENABLE | HSTCFG_INTRSEL;
    memset(function->write_mask + PIIX4_SMBSLVC, 0xff, 3); /* slave command, shadow addresses */
}

Device *piix4_pm_new(Board *board, PciBus *bus, uint32_t devfn, uint16_t pm_base, IrqLine *irq, Error *error)
{
    static const PciIdentity identity = {
        .vendor_id = 0x8086, .device_id = 0x7113, .class_code = 0x068000, .revision = 3};
    Piix4Pm *pm = calloc(1, sizeof *pm);
    Timer *timer = pm ? timer_new(board->clock, expired, pm) : NULL;
    if (!timer) {
        free(pm);
        error_set(error, ENOMEM, "no host memory for %s", piix4_pm_class.name);
        return NULL;
    }
    static const PciFunctionOps ops = {.written = config_written};
    pm->irq = irq;
    pm->timer = timer;
    device_init(&pm->device, &piix4_pm_class, board);
    pci_function_init(&pm->function, &pm->device, &identity, &ops);
    init_config(&pm->function, pm_base);
    if (pci_bus_add(bus, devfn, &pm->function, error) < 0) {
        device_free(&pm->device);
        return NULL;
    }
    return &pm->device;
}
