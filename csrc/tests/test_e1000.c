/* The 82540EM by hand, from the developer's manual (Intel 317453, `8254x §n`): EEPROM, PHY, both kinds of transmit
 * descriptors, receive filters and descriptors, VLAN tags, interrupts and their throttling, statistics, saved
 * state. */
#include "devices/e1000.h"
#include "net_mock.h"

enum {
    MMIO = 0xe0000000,
    IO = 0xc000,
    TX_RING = 0x1000,
    RX_RING = 0x2000,
    COUNT = 16,
    TX_DATA = 0x10000,
    RX_DATA = 0x40000,
    RAM = 0x100000,
    IRQ = 11,
};

static const uint8_t mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56}, other[6] = {0x52, 0x54, 0, 1, 2, 3},
                     all[6] = {255, 255, 255, 255, 255, 255}, group[6] = {1, 0, 0x5e, 0, 0, 1};

typedef struct Bench {
    Board *board;
    PciBus *bus;
    Device *nic;
    NetMock *net;
    uint8_t *ram;
    uint16_t tail; /* TDT */
    EdgeCounter irq;
} Bench;

static uint32_t reg(Bench *bench, uint32_t offset)
{
    uint64_t value;
    bus_read(bench->board->mmio, MMIO + offset, 4, &value);
    return (uint32_t)value;
}

static void set(Bench *bench, uint32_t offset, uint32_t value)
{
    bus_write(bench->board->mmio, MMIO + offset, 4, value);
}

static void config(Bench *bench, uint32_t offset, uint32_t size, uint32_t value)
{
    pci_bus_config_write(bench->bus, PCI_DEVFN(3, 0), offset, size, value);
}

static void bench_new(Bench *bench)
{
    Error error = {0};
    memset(bench, 0, sizeof *bench);
    bench->board = test_board();
    CHECK_EQ(guest_memory_add(bench->board->memory, 0, RAM, 0, &error), 0);
    bench->ram = guest_memory_ptr(bench->board->memory, 0, RAM, true);
    bench->irq.gsi = IRQ;
    irq_router_add_sink(bench->board->irqs, edge_counter_sink, &bench->irq);
    bench->bus = pci_bus_new(bench->board);
    pci_bus_route_link(bench->bus, pci_link(3, 0), IRQ);
    bench->net = net_mock_new(bench->board, bench->board->io, ~0u);
    bench->nic = e1000_new(bench->board, bench->bus, PCI_DEVFN(3, 0), &bench->net->base, mac, &error);
    CHECK(bench->nic);
    config(bench, PCI_BAR0, 4, MMIO);
    config(bench, PCI_BAR0 + 4, 4, IO);
    config(bench, PCI_COMMAND, 2, 7);
}

static void bench_free(Bench *bench)
{
    device_free(bench->nic);
    net_backend_free(&bench->net->base);
    device_free(pci_bus_device(bench->bus));
    board_free(bench->board);
}

/* 8254x §14.3 to §14.5: link up, rings, both directions on. */
static void start(Bench *bench, uint32_t rctl)
{
    set(bench, E1000_CTRL, E1000_CTRL_RST);
    set(bench, E1000_CTRL, reg(bench, E1000_CTRL) | E1000_CTRL_SLU);
    set(bench, E1000_TDBAL, TX_RING);
    set(bench, E1000_TDLEN, 16 * COUNT);
    set(bench, E1000_TCTL, E1000_TCTL_EN | E1000_TCTL_PSP);
    set(bench, E1000_RDBAL, RX_RING);
    set(bench, E1000_RDLEN, 16 * COUNT);
    for (uint32_t i = 0; i < COUNT; i++)
        store_le64(bench->ram + RX_RING + 16 * i, RX_DATA + 0x1000 * i);
    set(bench, E1000_RCTL, E1000_RCTL_EN | rctl);
    set(bench, E1000_RDT, COUNT - 1);
    bench->tail = 0;
    reg(bench, E1000_ICR);
}

static void make_frame(uint8_t *frame, size_t length, const uint8_t *to)
{
    for (size_t i = 0; i < length; i++)
        frame[i] = (uint8_t)(i * 7 + length);
    memcpy(frame, to, 6);
    memcpy(frame + 6, mac, 6);
    store_be16(frame + 12, 0x88b5);
}

static uint8_t *put(Bench *bench, uint64_t address, uint32_t lower, uint32_t upper)
{
    uint8_t *desc = bench->ram + TX_RING + 16 * bench->tail;
    store_le64(desc, address);
    store_le32(desc + 8, lower);
    store_le32(desc + 12, upper);
    bench->tail = (uint16_t)((bench->tail + 1) % COUNT);
    return desc;
}

static void go(Bench *bench) { set(bench, E1000_TDT, bench->tail); }

#define CMD(bits) ((uint32_t)(bits) << 24)

static void test_identity(void)
{
    Bench bench;
    bench_new(&bench);
    CHECK_EQ(pci_bus_config_read(bench.bus, PCI_DEVFN(3, 0), 0, 4), 0x100e8086);
    CHECK_EQ(pci_bus_config_read(bench.bus, PCI_DEVFN(3, 0), PCI_CLASS_CODE + 1, 2), 0x0200);
    uint16_t sum = 0;
    for (uint32_t i = 0; i < 64; i++) { /* §13.4.5 */
        set(&bench, E1000_EERD, i << 8 | E1000_EERD_START);
        CHECK(reg(&bench, E1000_EERD) & E1000_EERD_DONE);
        uint16_t word = (uint16_t)(reg(&bench, E1000_EERD) >> 16);
        sum = (uint16_t)(sum + word);
        if (i < 3)
            CHECK_EQ(word, load_le16(mac + 2 * i));
    }
    CHECK_EQ(sum, 0xbaba);
    CHECK_EQ(reg(&bench, E1000_RA), load_le32(mac));
    CHECK_EQ(reg(&bench, E1000_RA + 4), load_le16(mac + 4) | E1000_RAH_AV);
    uint64_t value; /* §13.3: the same by ports */
    bus_write(bench.board->pio, IO, 4, E1000_RA);
    bus_read(bench.board->pio, IO + 4, 4, &value);
    CHECK_EQ(value, load_le32(mac));
    Error error;
    CHECK(!e1000_new(bench.board, bench.bus, PCI_DEVFN(4, 0), &bench.net->base, mac, &error));
    CHECK_EQ(error.code, EBUSY);
    CHECK(!e1000_new(bench.board, bench.bus, PCI_DEVFN(4, 0), &bench.net->base, group, &error));
    bench_free(&bench);
}

/* §5.3: nine bits in, then a 0 and sixteen bits out. */
static uint16_t microwire_read(Bench *bench, uint32_t address)
{
    uint32_t command = 6u << 6 | address, word = 0;
    set(bench, E1000_EECD, E1000_EECD_REQ);
    CHECK(reg(bench, E1000_EECD) & E1000_EECD_GNT);
    for (int bit = 8; bit >= 0; bit--) {
        uint32_t in = E1000_EECD_REQ | E1000_EECD_CS | (command >> bit & 1 ? E1000_EECD_DI : 0);
        set(bench, E1000_EECD, in);
        set(bench, E1000_EECD, in | E1000_EECD_SK);
        set(bench, E1000_EECD, in);
    }
    CHECK(!(reg(bench, E1000_EECD) & E1000_EECD_DO));
    for (int bit = 0; bit < 16; bit++) {
        set(bench, E1000_EECD, E1000_EECD_REQ | E1000_EECD_CS | E1000_EECD_SK);
        word = word << 1 | !!(reg(bench, E1000_EECD) & E1000_EECD_DO);
        set(bench, E1000_EECD, E1000_EECD_REQ | E1000_EECD_CS);
    }
    set(bench, E1000_EECD, 0);
    return (uint16_t)word;
}

static void test_microwire(void)
{
    Bench bench;
    bench_new(&bench);
    for (uint32_t i = 0; i < 64; i++) {
        set(&bench, E1000_EERD, i << 8 | E1000_EERD_START);
        CHECK_EQ(microwire_read(&bench, i), reg(&bench, E1000_EERD) >> 16);
    }
    bench_free(&bench);
}

static uint32_t phy(Bench *bench, uint32_t number)
{
    set(bench, E1000_MDIC, E1000_MDIC_READ | 1 << 21 | number << 16);
    CHECK(reg(bench, E1000_MDIC) & E1000_MDIC_READY);
    return reg(bench, E1000_MDIC) & 0xffff;
}

static void test_phy_and_link(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    CHECK(phy(&bench, 2) == 0x0141 && (phy(&bench, 3) & 0xfff0) == 0x0c20);
    CHECK_EQ(phy(&bench, 1) & 0x24, 0x24); /* negotiated, up */
    CHECK(reg(&bench, E1000_STATUS) & E1000_STATUS_LU);
    set(&bench, E1000_MDIC, E1000_MDIC_READ | 2 << 21);
    CHECK(reg(&bench, E1000_MDIC) & E1000_MDIC_ERROR);
    set(&bench, E1000_MDIC, E1000_MDIC_WRITE | E1000_MDIC_INTERRUPT | 1 << 21 | 4 << 16 | 0x1e1);
    CHECK_EQ(phy(&bench, 4), 0x1e1);
    CHECK(reg(&bench, E1000_ICR) & E1000_ICR_MDAC);
    set(&bench, E1000_IMS, E1000_ICR_LSC);
    net_backend_set_link(&bench.net->base, false);
    net_mock_settle(bench.net);
    CHECK(bench.irq.edges == 1 && !(reg(&bench, E1000_STATUS) & E1000_STATUS_LU) && !(phy(&bench, 1) & 4));
    CHECK_EQ(reg(&bench, E1000_ICR), E1000_ICR_LSC);
    CHECK(!bench.irq.level);
    net_backend_set_link(&bench.net->base, true);
    net_mock_settle(bench.net);
    CHECK(bench.irq.edges == 2 && reg(&bench, E1000_STATUS) & E1000_STATUS_LU);
    set(&bench, E1000_MDIC, E1000_MDIC_WRITE | 1 << 21 | 0x8000); /* PHY reset */
    CHECK_EQ(phy(&bench, 4), 0x0de1);
    bench_free(&bench);
}

/* §3.3.3 */
static void test_legacy_transmit(void)
{
    Bench bench;
    uint8_t frame[1514];
    bench_new(&bench);
    start(&bench, 0);
    set(&bench, E1000_IMS, E1000_ICR_TXDW);
    make_frame(bench.ram + TX_DATA, 1514, other);
    make_frame(frame, 1514, other);
    uint8_t *desc = put(&bench, TX_DATA, 1514 | CMD(E1000_TXD_EOP | E1000_TXD_RS), 0);
    go(&bench);
    CHECK(bench.net->sent == 1 && bench.net->length == 1514 && !memcmp(bench.net->frame, frame, 1514));
    CHECK(desc[12] == E1000_TXD_DD && reg(&bench, E1000_TDH) == 1 && bench.irq.edges == 1);
    CHECK_EQ(reg(&bench, E1000_ICR), E1000_ICR_TXDW | E1000_ICR_TXQE);
    desc = put(&bench, TX_DATA, 10, 0); /* two pieces; the first has no report */
    put(&bench, TX_DATA + 10, 90 | CMD(E1000_TXD_EOP), 0);
    go(&bench);
    CHECK(bench.net->sent == 2 && bench.net->length == 100 && desc[12] == 0);
    CHECK_EQ(reg(&bench, E1000_ICR), E1000_ICR_TXQE);
    put(&bench, TX_DATA, 20 | CMD(E1000_TXD_EOP), 0);
    go(&bench);
    CHECK(bench.net->sent == 3 && bench.net->length == 60 && bench.net->frame[59] == 0); /* padded */
    put(&bench, TX_DATA, 100 | 30 << 16 | CMD(E1000_TXD_EOP | E1000_TXD_IC), 24 << 8);
    go(&bench);
    CHECK(bench.net->header.flags == NET_NEEDS_CSUM && bench.net->header.csum_start == 24);
    CHECK_EQ(bench.net->header.csum_offset, 6);
    CHECK(reg(&bench, 0x4080) == 4 && reg(&bench, 0x4080) == 0); /* GPTC, cleared by reading */
    CHECK_EQ(reg(&bench, 0x40c8), 1518 + 104 + 64 + 104);        /* TOTL */
    CHECK(reg(&bench, 0x40cc) == 0 && reg(&bench, 0x40c8) == 0); /* TOTH clears both */
    CHECK_EQ(reg(&bench, 0x40ec), 1);                            /* PTC1522 */
    bench_free(&bench);
}

/* §3.3.6, §3.3.7: a context, then data with both sums; IP's is the device's own. */
static void test_checksum_context(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    uint8_t *frame = bench.ram + TX_DATA;
    make_frame(frame, 100, other);
    static const uint8_t ip[20] = {0x45, 0, 0, 86, 1, 2, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2};
    memcpy(frame + 14, ip, 20);
    put(&bench, 14 | 24 << 8 | 33 << 16 | 34ull << 32 | 50ull << 40, CMD(E1000_TXD_DEXT | 3), 0);
    put(&bench, TX_DATA, 100 | 1 << 20 | CMD(E1000_TXD_DEXT | E1000_TXD_EOP | E1000_TXD_RS), 3 << 8);
    go(&bench);
    CHECK(bench.net->sent == 1 && bench.net->header.flags == NET_NEEDS_CSUM);
    CHECK(bench.net->header.csum_start == 34 && bench.net->header.csum_offset == 16);
    uint32_t sum = 0;
    for (uint32_t i = 14; i < 34; i += 2)
        sum += load_be16(bench.net->frame + i);
    CHECK_EQ((sum & 0xffff) + (sum >> 16), 0xffff);
    CHECK_EQ(load_be16(frame + 24), 0); /* guest memory is as it was */
    bench_free(&bench);
}

/* §3.5: the driver's headers have no lengths; a GSO frame's have those of the whole. */
static void test_segmentation(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    uint8_t *frame = bench.ram + TX_DATA;
    make_frame(frame, 20000, other);
    static const uint8_t ip[20] = {0x45, 0, 0, 0, 1, 2, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2};
    store_be16(frame + 12, 0x0800);
    memcpy(frame + 14, ip, 20);
    frame[46] = 0x50;
    uint32_t pseudo = 0x0a00 + 0x020f + 0x0a00 + 0x0202 + 6;
    store_be16(frame + 50, (uint16_t)pseudo);
    uint32_t tucmd = E1000_TUCMD_TCP | E1000_TUCMD_IP | E1000_TUCMD_TSE | E1000_TXD_DEXT;
    put(&bench, 14 | 24 << 8 | 33 << 16 | 34ull << 32 | 50ull << 40, (20000 - 54) | CMD(tucmd),
        54 << 8 | 1460u << 16);
    uint32_t dcmd = E1000_TUCMD_TSE | E1000_TXD_DEXT;
    put(&bench, TX_DATA, 54 | 1 << 20 | CMD(dcmd), 3 << 8);
    put(&bench, TX_DATA + 54, 19946 | 1 << 20 | CMD(dcmd | E1000_TXD_EOP | E1000_TXD_RS), 0);
    go(&bench);
    const NetHeader *header = &bench.net->header;
    CHECK(bench.net->sent == 1 && bench.net->length == 20000 && header->gso_type == NET_GSO_TCPV4);
    CHECK(header->gso_size == 1460 && header->csum_start == 34 && header->csum_offset == 16);
    CHECK_EQ(load_be16(bench.net->frame + 16), 20000 - 14);
    CHECK_EQ(load_be16(bench.net->frame + 50), pseudo + 20000 - 34);
    CHECK_EQ(reg(&bench, 0x40f8), 1); /* TSCTC */
    E1000Counters counters;
    e1000_counters(bench.nic, &counters);
    CHECK(counters.tx_segmented == 1 && counters.tx_drops == 0);
    put(&bench, TX_DATA, 100 | 1 << 20 | CMD(dcmd | E1000_TXD_EOP), 3 << 8); /* fits one segment */
    go(&bench);
    CHECK(bench.net->sent == 2 && bench.net->header.gso_type == 0 && bench.net->header.flags == NET_NEEDS_CSUM);
    check_save_restore(bench.nic);
    bench_free(&bench);
}

/* A backend without room, a frame that is not there whole yet, damaged ones. */
static void test_transmit_waits(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    net_mock_set_full(bench.net, true);
    for (uint32_t i = 0; i < 3; i++)
        put(&bench, TX_DATA, (100 + i) | CMD(E1000_TXD_EOP | E1000_TXD_RS), 0);
    go(&bench);
    CHECK(bench.net->sent == 0 && reg(&bench, E1000_TDH) == 0);
    net_mock_set_full(bench.net, false);
    CHECK(bench.net->sent == 3 && bench.net->length == 102 && reg(&bench, E1000_TDH) == 3);
    put(&bench, TX_DATA, 50, 0);
    go(&bench);
    CHECK_EQ(reg(&bench, E1000_TDH), 3);
    put(&bench, TX_DATA, 50 | CMD(E1000_TXD_EOP), 0);
    go(&bench);
    CHECK(bench.net->sent == 4 && bench.net->length == 100 && reg(&bench, E1000_TDH) == 5);
    put(&bench, RAM, 100 | CMD(E1000_TXD_EOP), 0);    /* not in RAM */
    put(&bench, TX_DATA, 13 | CMD(E1000_TXD_EOP), 0); /* no Ethernet header */
    put(&bench, TX_DATA, 0, 0);                       /* and one that is longer than any */
    put(&bench, TX_DATA, 65535, 0);
    put(&bench, TX_DATA, 65535 | CMD(E1000_TXD_EOP), 0);
    put(&bench, TX_DATA, 100 | CMD(E1000_TXD_EOP), 0);
    go(&bench);
    E1000Counters counters;
    e1000_counters(bench.nic, &counters);
    CHECK(bench.net->sent == 5 && counters.tx_drops == 3 && counters.faults == 1);
    CHECK_EQ(reg(&bench, E1000_TDH), bench.tail);
    set(&bench, E1000_TDBAL, RAM); /* a ring that is nowhere: nothing happens */
    put(&bench, TX_DATA, 100 | CMD(E1000_TXD_EOP), 0);
    go(&bench);
    CHECK_EQ(bench.net->sent, 5);
    start(&bench, 0);
    put(&bench, TX_DATA, 100 | CMD(E1000_TXD_EOP), 0);
    set(&bench, E1000_TDT, 500); /* beyond the ring: the head would never meet it */
    CHECK(bench.net->sent == 5 && reg(&bench, E1000_TDH) == 0);
    go(&bench);
    CHECK_EQ(bench.net->sent, 6);
    bench_free(&bench);
}

static bool receive(Bench *bench, size_t length, const uint8_t *to)
{
    uint8_t frame[16384];
    make_frame(frame, length, to);
    return net_mock_deliver(bench->net, frame, length, NULL);
}

static uint8_t *rx_desc(Bench *bench, uint32_t index) { return bench->ram + RX_RING + 16 * index; }

/* §3.2 */
static void test_receive(void)
{
    Bench bench;
    uint8_t frame[1514];
    bench_new(&bench);
    CHECK(receive(&bench, 100, mac)); /* not enabled: lost */
    start(&bench, 0);
    set(&bench, E1000_IMS, E1000_ICR_RXT0);
    CHECK(receive(&bench, 1514, mac));
    make_frame(frame, 1514, mac);
    CHECK(!memcmp(bench.ram + RX_DATA, frame, 1514));
    uint8_t *desc = rx_desc(&bench, 0);
    CHECK_EQ(load_le16(desc + 8), 1518);
    CHECK_EQ(desc[12], E1000_RXD_DD | E1000_RXD_EOP | E1000_RXD_IXSM);
    CHECK(bench.irq.edges == 1 && reg(&bench, E1000_ICR) == E1000_ICR_RXT0 && !bench.irq.level);
    CHECK(receive(&bench, 42, mac)); /* as on the wire: 60 bytes and FCS */
    CHECK_EQ(load_le16(rx_desc(&bench, 1) + 8), 64);
    set(&bench, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_SECRC | 3 << 16); /* buffers of 256 bytes */
    CHECK(receive(&bench, 600, mac));
    CHECK(load_le16(rx_desc(&bench, 2) + 8) == 256 && rx_desc(&bench, 2)[12] == E1000_RXD_DD);
    CHECK(load_le16(rx_desc(&bench, 4) + 8) == 88 && rx_desc(&bench, 4)[12] & E1000_RXD_EOP);
    CHECK_EQ(reg(&bench, E1000_RDH), 5);
    CHECK(receive(&bench, 1519, mac)); /* too long without LPE */
    CHECK(reg(&bench, 0x40ac) == 1 && reg(&bench, E1000_RDH) == 5);
    set(&bench, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_LPE | E1000_RCTL_BSEX | 1 << 16); /* of 16384 */
    CHECK(receive(&bench, 9000, mac));
    CHECK_EQ(load_le16(rx_desc(&bench, 5) + 8), 9004);
    check_save_restore(bench.nic);
    CHECK_EQ(reg(&bench, 0x4074), 4); /* GPRC */
    bench_free(&bench);
}

/* Without descriptors frames wait with the backend, and come when there are some. */
static void test_receive_waits(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    reg(&bench, E1000_ICR);
    for (uint32_t i = 0; i < 6; i++)
        CHECK(receive(&bench, 100, mac));
    CHECK_EQ(reg(&bench, E1000_ICR), E1000_ICR_RXT0); /* 9 are free: above half of 16 */
    CHECK(receive(&bench, 100, mac));
    CHECK_EQ(reg(&bench, E1000_ICR), E1000_ICR_RXT0 | E1000_ICR_RXDMT0); /* RDMTS 00: half */
    for (uint32_t i = 7; i < 15; i++)
        CHECK(receive(&bench, 100, mac));
    CHECK(!receive(&bench, 101, mac));
    CHECK_EQ(reg(&bench, E1000_RDH), 15);
    CHECK_EQ(reg(&bench, 0x40a0), 1); /* RNBC */
    set(&bench, E1000_RDT, 5);
    net_mock_settle(bench.net);
    CHECK_EQ(reg(&bench, E1000_RDH), 0);
    CHECK_EQ(load_le16(rx_desc(&bench, 15) + 8), 105);
    store_le64(rx_desc(&bench, 0), RAM); /* a buffer that is nowhere */
    CHECK(receive(&bench, 100, mac));
    E1000Counters counters;
    e1000_counters(bench.nic, &counters);
    CHECK_EQ(counters.faults, 1);
    set(&bench, E1000_RDT, 0xffff); /* beyond the ring: no descriptors */
    CHECK(!receive(&bench, 100, mac));
    set(&bench, E1000_CTRL, E1000_CTRL_RST);
    net_mock_settle(bench.net);
    start(&bench, 0);
    CHECK(receive(&bench, 100, mac));
    CHECK_EQ(reg(&bench, E1000_RDH), 1);
    bench_free(&bench);
}

static bool passes(Bench *bench, const uint8_t *to)
{
    uint32_t before = reg(bench, E1000_RDH);
    receive(bench, 60, to);
    bool passed = reg(bench, E1000_RDH) != before;
    set(bench, E1000_RDT, (reg(bench, E1000_RDH) + COUNT - 1) % COUNT);
    return passed;
}

/* §3.2.1, §13.5 */
static void test_filters(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    CHECK(passes(&bench, mac) && !passes(&bench, other) && !passes(&bench, all) && !passes(&bench, group));
    set(&bench, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_BAM);
    CHECK(passes(&bench, all) && !passes(&bench, group));
    set(&bench, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_MPE);
    CHECK(passes(&bench, group) && !passes(&bench, other));
    set(&bench, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_UPE);
    CHECK(passes(&bench, other) && !passes(&bench, group));
    set(&bench, E1000_RA + 8, load_le32(other));
    set(&bench, E1000_RA + 12, load_le16(other + 4) | E1000_RAH_AV);
    static const uint8_t shifts[4] = {4, 3, 2, 0};
    for (uint32_t offset = 0; offset < 4; offset++) { /* of 01:00:5e:00:00:01: bits of 0x0100 */
        uint32_t hash = 0x0100 >> shifts[offset] & 0xfff;
        set(&bench, E1000_RCTL, E1000_RCTL_EN | offset << 12);
        CHECK(passes(&bench, other) && !passes(&bench, group));
        set(&bench, E1000_MTA + 4 * (hash >> 5), 1u << (hash & 31));
        CHECK(passes(&bench, group));
        set(&bench, E1000_MTA + 4 * (hash >> 5), 0);
    }
    bench_free(&bench);
}

/* §9: tags are filtered, stripped and inserted. */
static void test_vlan(void)
{
    Bench bench;
    uint8_t frame[100];
    bench_new(&bench);
    start(&bench, 0);
    make_frame(frame, sizeof frame, mac);
    store_be16(frame + 12, 0x8100);
    store_be16(frame + 14, 0x2064);
    net_mock_deliver(bench.net, frame, sizeof frame, NULL);
    CHECK(load_le16(rx_desc(&bench, 0) + 8) == 104 && !memcmp(bench.ram + RX_DATA, frame, sizeof frame));
    set(&bench, E1000_CTRL, reg(&bench, E1000_CTRL) | E1000_CTRL_VME);
    set(&bench, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_VFE);
    net_mock_deliver(bench.net, frame, sizeof frame, NULL);
    CHECK_EQ(reg(&bench, E1000_RDH), 1);
    set(&bench, E1000_VFTA + 4 * (100 / 32), 1u << (100 % 32));
    net_mock_deliver(bench.net, frame, sizeof frame, NULL);
    uint8_t *desc = rx_desc(&bench, 1);
    CHECK(load_le16(desc + 8) == 100 && desc[12] & E1000_RXD_VP && load_le16(desc + 14) == 0x2064);
    CHECK(!memcmp(bench.ram + RX_DATA + 0x1000 + 12, frame + 16, 84));
    memcpy(bench.ram + TX_DATA, frame, 12);
    memcpy(bench.ram + TX_DATA + 12, frame + 16, 84);
    put(&bench, TX_DATA, 96 | 30 << 16 | CMD(E1000_TXD_EOP | E1000_TXD_VLE | E1000_TXD_IC),
        24 << 8 | 0x2064u << 16);
    go(&bench);
    CHECK(bench.net->length == 100 && !memcmp(bench.net->frame, frame, sizeof frame));
    CHECK_EQ(bench.net->header.csum_start, 28);
    bench_free(&bench);
}

/* §3.2.9 */
static void test_receive_checksums(void)
{
    Bench bench;
    uint8_t frame[100] = {0};
    static const uint8_t ip[20] = {0x45, 0, 0, 86, 1, 2, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2};
    const NetHeader valid = {.flags = NET_DATA_VALID},
                    unfinished = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    memcpy(frame, mac, 6);
    store_be16(frame + 12, 0x0800);
    memcpy(frame + 14, ip, 20);
    frame[46] = 0x50;
    uint32_t sum = 0;
    for (uint32_t i = 14; i < 34; i += 2)
        sum += load_be16(frame + i);
    store_be16(frame + 24, (uint16_t) ~((sum & 0xffff) + (sum >> 16)));
    bench_new(&bench);
    start(&bench, 0);
    set(&bench, E1000_RXCSUM, E1000_RXCSUM_IPOFL | E1000_RXCSUM_TUOFL);
    net_mock_deliver(bench.net, frame, sizeof frame, &valid);
    CHECK_EQ(rx_desc(&bench, 0)[12], E1000_RXD_DD | E1000_RXD_EOP | E1000_RXD_IPCS | E1000_RXD_TCPCS);
    CHECK_EQ(rx_desc(&bench, 0)[13], 0);
    net_mock_deliver(bench.net, frame, sizeof frame, NULL); /* nobody vouches for TCP's */
    CHECK_EQ(rx_desc(&bench, 1)[12], E1000_RXD_DD | E1000_RXD_EOP | E1000_RXD_IPCS);
    net_mock_deliver(bench.net, frame, sizeof frame, &unfinished);
    CHECK(rx_desc(&bench, 2)[12] & E1000_RXD_TCPCS && load_be16(bench.ram + RX_DATA + 0x2000 + 50) != 0);
    frame[24] ^= 1;
    net_mock_deliver(bench.net, frame, sizeof frame, &valid);
    CHECK(rx_desc(&bench, 3)[13] & E1000_RXD_IPE);
    bench_free(&bench);
}

/* §13.4.17 to §13.4.21 */
static void test_interrupts(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    set(&bench, E1000_ICS, E1000_ICR_TXDW);
    CHECK_EQ(bench.irq.edges, 0);
    set(&bench, E1000_IMS, E1000_ICR_TXDW);
    CHECK(bench.irq.edges == 1 && reg(&bench, E1000_IMS) == E1000_ICR_TXDW);
    set(&bench, E1000_IMC, E1000_ICR_TXDW);
    CHECK(!bench.irq.level && reg(&bench, E1000_ICR) == E1000_ICR_TXDW && reg(&bench, E1000_ICR) == 0);
    set(&bench, E1000_ITR, 4000); /* 1.024 ms */
    set(&bench, E1000_IMS, E1000_ICR_TXDW);
    set(&bench, E1000_ICS, E1000_ICR_TXDW);
    CHECK_EQ(bench.irq.edges, 2);
    reg(&bench, E1000_ICR);
    pass(bench.board, 1000000);
    set(&bench, E1000_ICS, E1000_ICR_TXDW);
    CHECK_EQ(bench.irq.edges, 2);
    check_save_restore(bench.nic);
    pass(bench.board, 24001);
    CHECK(bench.irq.edges == 3 && bench.irq.level);
    CHECK_EQ(reg(&bench, E1000_ICR), E1000_ICR_TXDW);
    set(&bench, E1000_ICS, E1000_ICR_TXDW); /* read before the time: none */
    reg(&bench, E1000_ICR);
    pass(bench.board, 2000000);
    CHECK_EQ(bench.irq.edges, 3);
    bench_free(&bench);
}

int main(void)
{
    RUN(test_identity);
    RUN(test_microwire);
    RUN(test_phy_and_link);
    RUN(test_legacy_transmit);
    RUN(test_checksum_context);
    RUN(test_segmentation);
    RUN(test_transmit_waits);
    RUN(test_receive);
    RUN(test_receive_waits);
    RUN(test_filters);
    RUN(test_vlan);
    RUN(test_receive_checksums);
    RUN(test_interrupts);
    return 0;
}
