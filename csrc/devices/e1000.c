#include <stdlib.h>

#include "devices/e1000_internal.h"

#define ITR_UNIT_NS  256u /* §13.4.18 */
#define CAUSES       0x0001fedfu
#define RING_LENGTH  0x000fff80u
#define RING_ADDRESS 0xfffffff0u
#define RING_INDEX   0x0000ffffu

/* ---- Interrupts, §13.4.17 to §13.4.21 ----------------------------------------------------------------------- */

/* ITR: the line goes up again that long after it last did. */
static void update_line(E1000 *nic)
{
    if (!(nic->registers.icr & nic->registers.ims)) {
        pci_function_set_intx(&nic->function, false);
        return;
    }
    if (nic->function.intx)
        return;
    uint64_t now = clock_now(nic->device.board->clock);
    if (now < nic->irq_allowed) {
        timer_arm(nic->throttle, nic->irq_allowed);
        return;
    }
    nic->irq_allowed = now + (uint64_t)(nic->registers.itr & 0xffff) * ITR_UNIT_NS;
    nic->counters.interrupts++;
    pci_function_set_intx(&nic->function, true);
}

static void throttle_over(void *opaque)
{
    E1000 *nic = opaque;
    pthread_mutex_lock(&nic->device.lock);
    update_line(nic);
    pthread_mutex_unlock(&nic->device.lock);
}

void e1000_raise(E1000 *nic, uint32_t causes)
{
    if (!causes)
        return;
    nic->registers.icr |= causes;
    update_line(nic);
}

static uint32_t read_icr(E1000 *nic)
{
    uint32_t icr = nic->registers.icr;
    nic->registers.icr = 0;
    update_line(nic);
    return icr;
}

/* ---- Statistics, §13.7 -------------------------------------------------------------------------------------- */

static void count(E1000 *nic, enum E1000Statistic which)
{
    nic->registers.statistics[which] += nic->registers.statistics[which] != UINT32_MAX;
}

/* Those of 64 bits: two registers. */
static void add_bytes(E1000 *nic, enum E1000Statistic which, uint64_t bytes)
{
    uint32_t *low = &nic->registers.statistics[which];
    uint64_t sum = ((uint64_t)low[1] << 32 | low[0]) + bytes;
    low[0] = (uint32_t)sum;
    low[1] = (uint32_t)(sum >> 32);
}

void e1000_count_frame(E1000 *nic, bool sent, const uint8_t *start, size_t length)
{
    static const uint16_t limits[] = {64, 127, 255, 511, 1023};
    size_t on_wire = length + 4, class = 0; /* with FCS */
    while (class < ARRAY_SIZE(limits) && on_wire > limits[class])
        class ++;
    count(nic, (enum E1000Statistic)((sent ? E1000_PTC64 : E1000_PRC64) + class));
    count(nic, sent ? E1000_GPTC : E1000_GPRC);
    count(nic, sent ? E1000_TPT : E1000_TPR);
    add_bytes(nic, sent ? E1000_GOTC : E1000_GORC, on_wire);
    add_bytes(nic, sent ? E1000_TOT : E1000_TOR, on_wire);
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (!memcmp(start, broadcast, 6))
        count(nic, sent ? E1000_BPTC : E1000_BPRC);
    else if (start[0] & 1)
        count(nic, sent ? E1000_MPTC : E1000_MPRC);
}

/* All are cleared by reading; those of 64 bits by reading the high half. */
static uint32_t read_statistic(E1000 *nic, uint32_t index)
{
    uint32_t *statistics = nic->registers.statistics, value = statistics[index];
    bool wide = index >= E1000_GORC && index <= E1000_GOTC + 1;
    wide |= index >= E1000_TOR && index <= E1000_TOT + 1;
    if (!wide || index & 1)
        statistics[index] = 0;
    if (wide && index & 1)
        statistics[index - 1] = 0;
    return value;
}

/* ---- Registers ---------------------------------------------------------------------------------------------- */

/* Those that only keep what is written, and the bits that can be. */
typedef struct PlainRegister {
    uint32_t offset;
    uint32_t place; /* in E1000Registers */
    uint32_t mask;
    uint32_t reset;
} PlainRegister;

#define PLAIN(register, field, mask, reset)                                                                        \
    {                                                                                                              \
        register, offsetof(E1000Registers, field), mask, reset                                                     \
    }

static const PlainRegister plain_registers[] = {
    PLAIN(E1000_CTRL_EXT, ctrl_ext, UINT32_MAX, 0),
    PLAIN(E1000_FCAL, fcal, UINT32_MAX, 0),
    PLAIN(E1000_FCAH, fcah, 0xffff, 0),
    PLAIN(E1000_FCT, fct, 0xffff, 0),
    PLAIN(E1000_VET, vet, 0xffff, 0x8100),
    PLAIN(E1000_ITR, itr, 0xffff, 0),
    PLAIN(E1000_FCTTV, fcttv, 0xffff, 0),
    PLAIN(E1000_TXCW, txcw, UINT32_MAX, 0),
    PLAIN(E1000_TIPG, tipg, 0x3fffffff, 0),
    PLAIN(E1000_AIT, ait, 0xffff, 0),
    PLAIN(E1000_LEDCTL, ledctl, UINT32_MAX, 0x07068302),
    PLAIN(E1000_PBA, pba, UINT32_MAX, 0x00100030),
    PLAIN(E1000_FCRTL, fcrtl, 0x8000fff8, 0),
    PLAIN(E1000_FCRTH, fcrth, 0x8000fff8, 0),
    PLAIN(E1000_RDBAL, rdbal, RING_ADDRESS, 0),
    PLAIN(E1000_RDBAH, rdbah, UINT32_MAX, 0),
    PLAIN(E1000_RDLEN, rdlen, RING_LENGTH, 0),
    PLAIN(E1000_RDH, rdh, RING_INDEX, 0),
    PLAIN(E1000_RDTR, rdtr, 0xffff, 0),
    PLAIN(E1000_RXDCTL, rxdctl, UINT32_MAX, 0x01010000),
    PLAIN(E1000_RADV, radv, 0xffff, 0),
    PLAIN(E1000_RSRPD, rsrpd, 0xfff, 0),
    PLAIN(E1000_TDBAL, tdbal, RING_ADDRESS, 0),
    PLAIN(E1000_TDBAH, tdbah, UINT32_MAX, 0),
    PLAIN(E1000_TDLEN, tdlen, RING_LENGTH, 0),
    PLAIN(E1000_TDH, tdh, RING_INDEX, 0),
    PLAIN(E1000_TIDV, tidv, 0xffff, 0),
    PLAIN(E1000_TXDCTL, txdctl, UINT32_MAX, 0),
    PLAIN(E1000_TADV, tadv, 0xffff, 0),
    PLAIN(E1000_TSPMT, tspmt, UINT32_MAX, 0x01000400),
    PLAIN(E1000_RXCSUM, rxcsum, 0x7ff, 0),
    PLAIN(E1000_WUC, wuc, UINT32_MAX, 0),
    PLAIN(E1000_WUFC, wufc, UINT32_MAX, 0),
    PLAIN(E1000_MANC, manc, UINT32_MAX, 0),
};

static uint32_t *plain_value(E1000 *nic, const PlainRegister *plain)
{
    return (uint32_t *)((uint8_t *)&nic->registers + plain->place);
}

static const PlainRegister *find_plain(uint32_t offset)
{
    for (uint32_t i = 0; i < ARRAY_SIZE(plain_registers); i++)
        if (plain_registers[i].offset == offset)
            return &plain_registers[i];
    return NULL;
}

/* Those that are one of a table; NULL: it is in none. */
static uint32_t *table_entry(E1000 *nic, uint32_t offset)
{
    E1000Registers *registers = &nic->registers;
    if (offset >= E1000_RA && offset < E1000_RA + sizeof registers->ra)
        return &registers->ra[(offset - E1000_RA) / 4];
    if (offset >= E1000_MTA && offset < E1000_MTA + sizeof registers->mta)
        return &registers->mta[(offset - E1000_MTA) / 4];
    if (offset >= E1000_VFTA && offset < E1000_VFTA + sizeof registers->vfta)
        return &registers->vfta[(offset - E1000_VFTA) / 4];
    return NULL;
}

/* §13.4.2: full duplex, 1000 Mb/s, up while there is a carrier and the driver wants it. */
static uint32_t read_status(const E1000 *nic)
{
    bool up = nic->link && nic->registers.ctrl & E1000_CTRL_SLU;
    return E1000_STATUS_FD | E1000_STATUS_SPEED_1000 | (up ? E1000_STATUS_LU : 0);
}

static uint32_t read_register(E1000 *nic, uint32_t offset)
{
    const PlainRegister *plain = find_plain(offset);
    const uint32_t *entry = table_entry(nic, offset);
    if (plain)
        return *plain_value(nic, plain);
    if (entry)
        return *entry;
    if (offset >= E1000_STATISTICS && offset < E1000_STATISTICS + 4 * E1000_STATISTICS_COUNT)
        return read_statistic(nic, (offset - E1000_STATISTICS) / 4);
    switch (offset) {
    case E1000_CTRL:
        return nic->registers.ctrl;
    case E1000_STATUS:
        return read_status(nic);
    case E1000_EECD:
        return e1000_read_eecd(nic);
    case E1000_EERD:
        return nic->registers.eerd;
    case E1000_MDIC:
        return nic->registers.mdic;
    case E1000_ICR:
        return read_icr(nic);
    case E1000_IMS:
        return nic->registers.ims;
    case E1000_RCTL:
        return nic->registers.rctl;
    case E1000_TCTL:
        return nic->registers.tctl;
    case E1000_RDT:
        return nic->registers.rdt;
    case E1000_TDT:
        return nic->registers.tdt;
    default:
        return 0;
    }
}

/* What CTRL.RST does: all but the PHY, with the address from the EEPROM again. */
static void reset_mac(E1000 *nic)
{
    e1000_drain(nic);
    uint16_t phy[E1000_PHY_REGISTERS];
    memcpy(phy, nic->registers.phy, sizeof phy);
    nic->registers = (E1000Registers){.ctrl = E1000_CTRL_FD | E1000_CTRL_SPEED_1000};
    memcpy(nic->registers.phy, phy, sizeof phy);
    for (uint32_t i = 0; i < ARRAY_SIZE(plain_registers); i++)
        *plain_value(nic, &plain_registers[i]) = plain_registers[i].reset;
    nic->registers.ra[0] = load_le32(nic->mac);
    nic->registers.ra[1] = load_le16(nic->mac + 4) | E1000_RAH_AV;
    nic->checksum = nic->segmentation = (E1000Context){0};
    nic->eeprom_in = nic->eeprom_count = 0;
    nic->irq_allowed = 0;
    nic->rx_causes = 0;
    nic->tx_blocked = false;
    update_line(nic);
    net_backend_resume(nic->backend); /* what waited for buffers: nobody wants it now */
}

static void write_ctrl(E1000 *nic, uint32_t value)
{
    if (value & E1000_CTRL_RST) {
        reset_mac(nic);
        return;
    }
    if (value & E1000_CTRL_PHY_RST)
        e1000_reset_phy(nic);
    bool up = value & ~nic->registers.ctrl & E1000_CTRL_SLU;
    nic->registers.ctrl = value & ~(uint32_t)E1000_CTRL_PHY_RST;
    if (up && nic->link)
        e1000_raise(nic, E1000_ICR_LSC);
}

static void write_rctl(E1000 *nic, uint32_t value)
{
    nic->registers.rctl = value;
    if (value & E1000_RCTL_EN)
        net_backend_resume(nic->backend);
}

static void write_plain(E1000 *nic, uint32_t offset, uint32_t value)
{
    const PlainRegister *plain = find_plain(offset);
    uint32_t *entry = table_entry(nic, offset);
    if (plain)
        *plain_value(nic, plain) = value & plain->mask;
    else if (entry)
        *entry = value;
}

static void write_register(E1000 *nic, uint32_t offset, uint32_t value)
{
    switch (offset) {
    case E1000_CTRL:
        write_ctrl(nic, value);
        break;
    case E1000_EECD:
        e1000_write_eecd(nic, value);
        break;
    case E1000_EERD:
        e1000_write_eerd(nic, value);
        break;
    case E1000_MDIC:
        e1000_write_mdic(nic, value);
        break;
    case E1000_ICR: /* writing 1 clears */
        nic->registers.icr &= ~value;
        update_line(nic);
        break;
    case E1000_ICS:
        e1000_raise(nic, value & CAUSES);
        break;
    case E1000_IMS:
        nic->registers.ims |= value & CAUSES;
        update_line(nic);
        break;
    case E1000_IMC:
        nic->registers.ims &= ~value;
        update_line(nic);
        break;
    case E1000_RCTL:
        write_rctl(nic, value);
        break;
    case E1000_RDT:
        nic->registers.rdt = value & RING_INDEX;
        net_backend_resume(nic->backend);
        break;
    case E1000_TCTL:
        nic->registers.tctl = value;
        e1000_kick(nic);
        break;
    case E1000_TDT:
        nic->registers.tdt = value & RING_INDEX;
        e1000_kick(nic);
        break;
    default:
        write_plain(nic, offset, value);
    }
}

/* Registers are of 32 bits, and written as such (§13.2); a narrower read gets its part. */
static uint64_t region_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    E1000 *nic = device;
    uint32_t value;
    if (region == E1000_REGION_IO && (offset & ~3u) == E1000_IOADDR)
        value = nic->io_address;
    else if (region == E1000_REGION_IO)
        value = (offset & ~3u) == E1000_IODATA && nic->io_address < E1000_MMIO_SIZE
                    ? read_register(nic, nic->io_address & ~3u)
                    : 0;
    else
        value = read_register(nic, (uint32_t)offset & ~3u);
    uint64_t part = value >> (8 * (offset & 3));
    return size < 8 ? part & ((1ull << (8 * size)) - 1) : part;
}

static void region_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    E1000 *nic = device;
    if (size != 4 || offset & 3)
        return;
    if (region == E1000_REGION_MMIO)
        write_register(nic, (uint32_t)offset, (uint32_t)value);
    else if (offset == E1000_IOADDR) /* §13.3 */
        nic->io_address = (uint32_t)value & 0xfffff;
    else if (offset == E1000_IODATA && nic->io_address < E1000_MMIO_SIZE)
        write_register(nic, nic->io_address & ~3u, (uint32_t)value);
}

bool e1000_may_dma(const E1000 *nic) { return pci_function_is_master(&nic->function); }

static void config_written(PciFunction *function, uint32_t offset, uint32_t size)
{
    E1000 *nic = e1000_of(function->device);
    (void)size;
    if (offset == PCI_COMMAND && e1000_may_dma(nic)) {
        e1000_kick(nic);
        net_backend_resume(nic->backend);
    }
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static void e1000_reset(Device *device)
{
    E1000 *nic = e1000_of(device);
    nic->link = net_backend_link(nic->backend);
    reset_mac(nic);
    e1000_reset_phy(nic);
    nic->io_address = 0;
    pci_function_reset(&nic->function);
}

static void e1000_destroy(Device *device)
{
    E1000 *nic = e1000_of(device);
    e1000_unplug(device);
    timer_free(nic->throttle);
    io_notifier_free(nic->notifier);
    pci_bus_remove(&nic->function);
    pthread_cond_destroy(&nic->idle);
}

static void e1000_save(Device *device, void *opaque)
{
    E1000 *nic = e1000_of(device);
    E1000State *state = opaque;
    e1000_drain(nic);
    e1000_raise(nic, nic->rx_causes);
    nic->rx_causes = 0;
    pci_function_save(&nic->function, &state->pci);
    state->registers = nic->registers;
    state->checksum = nic->checksum;
    state->segmentation = nic->segmentation;
    state->io_address = nic->io_address;
    state->irq_allowed = nic->irq_allowed;
    state->eeprom_in = nic->eeprom_in;
    state->eeprom_count = nic->eeprom_count;
    state->link = nic->link;
}

static int e1000_restore(Device *device, const void *opaque)
{
    E1000 *nic = e1000_of(device);
    const E1000State *state = opaque;
    bool asks = state->registers.icr & state->registers.ims;
    if (state->link > 1 || (state->pci.intx && !asks) || state->eeprom_in >= 1u << 9 ||
        state->eeprom_count > 9 + 16 * E1000_EEPROM_WORDS || state->io_address > 0xfffff)
        return -EINVAL;
    e1000_drain(nic);
    int result = pci_function_restore(&nic->function, &state->pci);
    if (result < 0)
        return result;
    nic->registers = state->registers;
    nic->checksum = state->checksum;
    nic->segmentation = state->segmentation;
    nic->io_address = state->io_address;
    nic->irq_allowed = state->irq_allowed;
    nic->eeprom_in = state->eeprom_in;
    nic->eeprom_count = state->eeprom_count;
    nic->link = state->link;
    nic->rx_causes = 0;
    nic->tx_blocked = false;
    update_line(nic);
    e1000_update_link(nic); /* this host's cable */
    if (clock_kind(nic->device.board->clock) == CLOCK_KIND_REALTIME)
        io_notifier_post(nic->notifier);
    net_backend_resume(nic->backend);
    return 0;
}

static const DeviceClass e1000_class = {
    .name = "e1000",
    .ops = {.read = region_read, .write = region_write},
    .reset = e1000_reset,
    .destroy = e1000_destroy,
    .state_size = sizeof(E1000State),
    .state_version = 1,
    .save = e1000_save,
    .restore = e1000_restore,
};

static void link_changed(void *opaque, bool up)
{
    E1000 *nic = opaque;
    (void)up;
    pthread_mutex_lock(&nic->device.lock);
    e1000_update_link(nic);
    pthread_mutex_unlock(&nic->device.lock);
}

static const NetNicOps nic_ops = {
    .receive = e1000_receive, .received = e1000_received, .writable = e1000_writable, .link = link_changed};

static const PciFunctionOps function_ops = {.written = config_written};

static void add_function(E1000 *nic)
{
    static const PciIdentity identity = {
        .vendor_id = 0x8086,
        .device_id = 0x100e,
        .class_code = 0x020000,
        .revision = 3,
        .subsystem_vendor_id = 0x8086,
        .subsystem_id = 0x001e, /* PRO/1000 MT Desktop Adapter */
        .interrupt_pin = 1,
    };
    pci_function_init(&nic->function, &nic->device, &identity, &function_ops);
    pci_function_add_bar(&nic->function, 0, E1000_MMIO_SIZE, PCI_BAR_MEMORY, &e1000_class.ops, nic,
                         E1000_REGION_MMIO, &nic->device.lock);
    pci_function_add_bar(&nic->function, 1, E1000_IO_SIZE, PCI_BAR_IO, &e1000_class.ops, nic, E1000_REGION_IO,
                         &nic->device.lock);
}

static bool is_station(const uint8_t mac[6])
{
    static const uint8_t none[6];
    return !(mac[0] & 1) && memcmp(mac, none, sizeof none) != 0;
}

Device *e1000_new(Board *board, PciBus *bus, uint32_t devfn, NetBackend *backend, const uint8_t mac[6],
                  Error *error)
{
    if (!is_station(mac)) {
        error_set(error, EINVAL, "e1000: MAC address %02x:%02x:%02x:%02x:%02x:%02x is not a station's", mac[0],
                  mac[1], mac[2], mac[3], mac[4], mac[5]);
        return NULL;
    }
    E1000 *nic = calloc(1, sizeof *nic);
    if (!nic) {
        error_set(error, ENOMEM, "no host memory for e1000");
        return NULL;
    }
    device_init(&nic->device, &e1000_class, board);
    nic->backend = backend;
    memcpy(nic->mac, mac, sizeof nic->mac);
    pthread_cond_init(&nic->idle, NULL);
    add_function(nic);
    nic->throttle = timer_new(board->clock, throttle_over, nic);
    nic->notifier = io_notifier_new(net_backend_io(backend), e1000_run, nic);
    if (!nic->throttle || !nic->notifier)
        error_set(error, EMFILE, "e1000: no descriptor for its queue: raise `ulimit -n`");
    else if (pci_bus_add(bus, devfn, &nic->function, error) == 0) {
        nic->connected = net_connect(backend, &nic_ops, nic) == 0;
        if (nic->connected) {
            net_backend_set_offloads(backend,
                                     NET_OFFLOAD_CSUM); /* it can say that a sum is good, and finishes others */
            device_reset(&nic->device);
            return &nic->device;
        }
        error_set(error, EBUSY, "e1000: the network backend has a NIC already");
    }
    device_free(&nic->device);
    return NULL;
}

void e1000_unplug(Device *device)
{
    E1000 *nic = e1000_of(device);
    if (nic->connected)
        net_disconnect(nic->backend);
    nic->connected = false;
}

void e1000_counters(Device *device, E1000Counters *counters)
{
    E1000 *nic = e1000_of(device);
    pthread_mutex_lock(&device->lock);
    *counters = nic->counters;
    pthread_mutex_unlock(&device->lock);
}
