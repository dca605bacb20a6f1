/* The network device by a driver written by hand: frames both ways, buffers that merge or run out, the control
 * queue and its filter, malformed chains, saved state (virtio 1.2 §5.1). */
#include <unistd.h>

#include "devices/pci_bridges.h"
#include "net_mock.h"
#include "virtio/virtio_net.h"
#include "virtio/virtio_pci.h"

enum {
    IO = 0xc000,
    MMIO = 0xe0000000,
    RINGS = 0x10000, /* 0x4000 for each queue */
    CTRL_DATA = 0x30000,
    TX_DATA = 0x100000,
    RX_DATA = 0x200000,
    RAM = 0x400000,
    SIZE = 64,
};

static const uint8_t mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56}, other[6] = {0x52, 0x54, 0, 1, 2, 3};

typedef struct Ring {
    VirtqDesc *desc;
    VirtqAvail *avail;
    VirtqUsed *used;
} Ring;

typedef struct Bench {
    Board *board;
    PciBus *bus;
    Device *nic;
    NetMock *net;
    uint8_t *ram;
    bool modern;
    uint64_t features;
    Ring rings[VIRTIO_NET_QUEUES];
} Bench;

static void modern_write(Bench *bench, uint64_t offset, uint32_t size, uint64_t value)
{
    bus_write(bench->board->mmio, MMIO + offset, size, value);
}

static uint64_t modern_read(Bench *bench, uint64_t offset, uint32_t size)
{
    uint64_t value;
    bus_read(bench->board->mmio, MMIO + offset, size, &value);
    return value;
}

static void config(Bench *bench, uint32_t offset, uint32_t size, uint32_t value)
{
    pci_bus_config_write(bench->bus, PCI_DEVFN(3, 0), offset, size, value);
}

static void bench_new_on(Bench *bench, enum ClockKind clock, const VirtioNetOptions *options)
{
    Error error = {0};
    memset(bench, 0, sizeof *bench);
    bench->board = board_new(clock, &error);
    CHECK(bench->board);
    CHECK_EQ(guest_memory_add(bench->board->memory, 0, RAM, 0, &error), 0);
    bench->ram = guest_memory_ptr(bench->board->memory, 0, RAM, true);
    bench->bus = pci_bus_new(bench->board);
    bench->net = net_mock_new(bench->board, board_add_worker(bench->board, "net-0", &error), ~0u);
    VirtioPlace place = {.bus = bench->bus, .devfn = PCI_DEVFN(3, 0)};
    bench->nic = virtio_net_new(bench->board, &place, &bench->net->base, options, &error);
    CHECK(bench->nic);
    config(bench, PCI_BAR0, 4, IO);
    config(bench, PCI_BAR0 + 16, 4, MMIO);
    config(bench, PCI_BAR0 + 20, 4, 0);
    config(bench, PCI_COMMAND, 2, 7);
}

static void bench_new(Bench *bench)
{
    VirtioNetOptions options = {.mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56}};
    bench_new_on(bench, CLOCK_KIND_VIRTUAL, &options);
}

static void bench_free(Bench *bench)
{
    device_free(bench->nic);
    net_backend_free(&bench->net->base);
    device_free(pci_bus_device(bench->bus));
    board_free(bench->board);
}

static gpa_t ring_at(uint32_t queue) { return RINGS + 0x4000u * queue; }

static void find_ring(Bench *bench, uint32_t queue, uint32_t size)
{
    gpa_t base = ring_at(queue), avail = base + 16 * size, used = (avail + 6 + 2 * size + 4095) & ~4095u;
    memset(bench->ram + base, 0, 0x4000);
    bench->rings[queue] = (Ring){(VirtqDesc *)(bench->ram + base), (VirtqAvail *)(bench->ram + avail),
                                 (VirtqUsed *)(bench->ram + used)};
}

static void start(Bench *bench, uint64_t features)
{
    bench->modern = true;
    bench->features = features;
    modern_write(bench, COMMON_DEVICE_STATUS, 1, 0);
    modern_write(bench, COMMON_DEVICE_STATUS, 1, 3);
    for (uint32_t word = 0; word < 2; word++) {
        modern_write(bench, COMMON_DRIVER_FEATURE_SELECT, 4, word);
        modern_write(bench, COMMON_DRIVER_FEATURE, 4, (features | VIRTIO_F_VERSION_1) >> (32 * word) & UINT32_MAX);
    }
    modern_write(bench, COMMON_DEVICE_STATUS, 1, 11);
    CHECK_EQ(modern_read(bench, COMMON_DEVICE_STATUS, 1), 11);
    for (uint32_t i = 0; i < VIRTIO_NET_QUEUES; i++) {
        find_ring(bench, i, SIZE);
        modern_write(bench, COMMON_QUEUE_SELECT, 2, i);
        modern_write(bench, COMMON_QUEUE_SIZE, 2, SIZE);
        modern_write(bench, COMMON_QUEUE_DESC, 8, ring_at(i));
        modern_write(bench, COMMON_QUEUE_DRIVER, 8, ring_at(i) + 16 * SIZE);
        modern_write(bench, COMMON_QUEUE_DEVICE, 8, (uint8_t *)bench->rings[i].used - bench->ram);
        modern_write(bench, COMMON_QUEUE_ENABLE, 2, 1);
    }
    modern_write(bench, COMMON_DEVICE_STATUS, 1, 15);
}

static void legacy_write(Bench *bench, uint32_t offset, uint32_t size, uint64_t value)
{
    bus_write(bench->board->pio, IO + offset, size, value);
}

static void start_legacy(Bench *bench, uint32_t features)
{
    bench->modern = false;
    legacy_write(bench, LEGACY_DEVICE_STATUS, 1, 0);
    legacy_write(bench, LEGACY_DEVICE_STATUS, 1, 3);
    legacy_write(bench, LEGACY_DRIVER_FEATURES, 4, features);
    for (uint32_t i = 0; i < VIRTIO_NET_QUEUES; i++) {
        uint64_t size;
        legacy_write(bench, LEGACY_QUEUE_SELECT, 2, i);
        bus_read(bench->board->pio, IO + LEGACY_QUEUE_SIZE, 2, &size);
        find_ring(bench, i, (uint32_t)size);
        legacy_write(bench, LEGACY_QUEUE_ADDRESS, 4, ring_at(i) / 4096);
    }
    legacy_write(bench, LEGACY_DEVICE_STATUS, 1, 7);
}

static uint32_t ring_size(const Bench *bench, uint32_t queue)
{
    return bench->modern || queue == VIRTIO_NET_CTRL ? SIZE : 256;
}

static void offer(Bench *bench, uint32_t queue, uint16_t head)
{
    VirtqAvail *avail = bench->rings[queue].avail;
    avail->ring[avail->idx % ring_size(bench, queue)] = head;
    avail->idx++;
}

static void kick(Bench *bench, uint32_t queue)
{
    if (bench->modern)
        modern_write(bench, VIRTIO_PCI_NOTIFY + 4 * queue, 2, queue);
    else
        legacy_write(bench, LEGACY_QUEUE_NOTIFY, 2, queue);
}

static uint16_t used(const Bench *bench, uint32_t queue) { return bench->rings[queue].used->idx; }

static bool needs_reset(Bench *bench)
{
    return modern_read(bench, COMMON_DEVICE_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET;
}

static VirtioNetCounters counters(Bench *bench)
{
    VirtioNetCounters found;
    virtio_net_counters(bench->nic, &found);
    return found;
}

/* A frame to `to`, with a pattern by its length. */
static void make_frame(uint8_t *frame, size_t length, const uint8_t *to)
{
    for (size_t i = 0; i < length; i++)
        frame[i] = (uint8_t)(i * 7 + i / 256 + length);
    memcpy(frame, to, 6);
    memcpy(frame + 6, mac, 6);
    store_be16(frame + 12, 0x88b5); /* IEEE 802, local experimental */
}

/* Header and frame in one descriptor. */
static void send_frame(Bench *bench, uint32_t header, size_t length)
{
    memset(bench->ram + TX_DATA, 0, header);
    make_frame(bench->ram + TX_DATA + header, length, other);
    bench->rings[VIRTIO_NET_TX].desc[0] = (VirtqDesc){TX_DATA, (uint32_t)(header + length), 0, 0};
    offer(bench, VIRTIO_NET_TX, 0);
    kick(bench, VIRTIO_NET_TX);
}

/* Receive buffers of `bytes`, 4 KiB apart. */
static void add_buffers(Bench *bench, uint16_t first, uint16_t count, uint32_t bytes)
{
    for (uint16_t i = first; i < first + count; i++) {
        bench->rings[VIRTIO_NET_RX].desc[i] = (VirtqDesc){RX_DATA + 0x1000u * i, bytes, VIRTQ_DESC_F_WRITE, 0};
        offer(bench, VIRTIO_NET_RX, i);
    }
}

static bool receive(Bench *bench, size_t length, const uint8_t *to)
{
    uint8_t frame[NET_FRAME_MAX];
    make_frame(frame, length, to);
    return net_mock_deliver(bench->net, frame, length, NULL);
}

static void test_identity(void)
{
    Bench bench;
    VirtioNetOptions options = {.mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56}, .mtu = 9000};
    bench_new_on(&bench, CLOCK_KIND_VIRTUAL, &options);
    CHECK_EQ(pci_bus_config_read(bench.bus, PCI_DEVFN(3, 0), 0, 4), 0x10001af4);
    CHECK_EQ(pci_bus_config_read(bench.bus, PCI_DEVFN(3, 0), PCI_CLASS_CODE + 1, 2), 0x0200);
    uint64_t features = virtio_device_features(bench.nic);
    CHECK(features & VIRTIO_NET_F_MTU && features & VIRTIO_NET_F_MAC && features & VIRTIO_NET_F_MRG_RXBUF);
    for (uint32_t i = 0; i < 6; i++)
        CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + i, 1), mac[i]);
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + NET_CONFIG_STATUS, 2), VIRTIO_NET_S_LINK_UP);
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + NET_CONFIG_MTU, 2), 9000);
    Error error;
    VirtioPlace place = {.bus = bench.bus, .devfn = PCI_DEVFN(4, 0)};
    CHECK(!virtio_net_new(bench.board, &place, &bench.net->base, &options, &error)); /* its backend is taken */
    CHECK_EQ(error.code, EBUSY);
    options.mac[0] = 1;
    CHECK(!virtio_net_new(bench.board, &place, &bench.net->base, &options, &error) && error.code == EINVAL);
    options = (VirtioNetOptions){.mac = {2}, .mtu = 67};
    CHECK(!virtio_net_new(bench.board, &place, &bench.net->base, &options, &error) && error.code == EINVAL);
    options = (VirtioNetOptions){.mac = {2}, .rx_size = 100};
    CHECK(!virtio_net_new(bench.board, &place, &bench.net->base, &options, &error) && error.code == EINVAL);
    bench_free(&bench);
}

/* §5.1.6.1: what the header's size is, and any layout of it. */
static void test_transmit(void)
{
    Bench bench;
    uint8_t frame[1514];
    bench_new(&bench);
    start(&bench, 0);
    send_frame(&bench, VIRTIO_NET_HDR, 1514);
    make_frame(frame, 1514, other);
    CHECK(bench.net->sent == 1 && bench.net->length == 1514 && !memcmp(bench.net->frame, frame, 1514));
    CHECK(used(&bench, VIRTIO_NET_TX) == 1 && bench.rings[VIRTIO_NET_TX].used->ring[0].len == 0);
    CHECK(bench.net->flushes == 1);
    VirtqDesc *desc = bench.rings[VIRTIO_NET_TX].desc; /* cut in the header, and in the frame */
    desc[0] = (VirtqDesc){TX_DATA, 5, VIRTQ_DESC_F_NEXT, 7};
    desc[7] = (VirtqDesc){TX_DATA + 5, 7 + 20, VIRTQ_DESC_F_NEXT, 9};
    desc[9] = (VirtqDesc){TX_DATA + 32, 1494, 0, 0};
    offer(&bench, VIRTIO_NET_TX, 0);
    kick(&bench, VIRTIO_NET_TX);
    CHECK(bench.net->sent == 2 && bench.net->length == 1514 && !memcmp(bench.net->frame, frame, 1514));
    send_frame(&bench, VIRTIO_NET_HDR, 13); /* no Ethernet header: lost, not the driver's end */
    CHECK(bench.net->sent == 2 && used(&bench, VIRTIO_NET_TX) == 3 && !needs_reset(&bench));
    CHECK(counters(&bench).tx_drops == 1 && counters(&bench).tx_frames == 2 && counters(&bench).tx_bytes == 3028);
    start_legacy(&bench, 0);
    send_frame(&bench, VIRTIO_NET_HDR_LEGACY, 60);
    CHECK(bench.net->sent == 3 && bench.net->length == 60);
    start_legacy(&bench, VIRTIO_NET_F_MRG_RXBUF);
    send_frame(&bench, VIRTIO_NET_HDR, 60);
    CHECK(bench.net->sent == 4 && bench.net->length == 60);
    bench_free(&bench);
}

/* A GSO frame of 60000 bytes goes whole to a backend that takes it; a header that contradicts its frame is lost. */
static void test_transmit_offloads(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4);
    make_frame(bench.ram + TX_DATA + VIRTIO_NET_HDR, 60000, other);
    NetHeader header = {.flags = NET_NEEDS_CSUM,
                        .gso_type = NET_GSO_TCPV4,
                        .hdr_len = 54,
                        .gso_size = 1460,
                        .csum_start = 34,
                        .csum_offset = 16};
    memcpy(bench.ram + TX_DATA, &header, sizeof header);
    VirtqDesc *desc = bench.rings[VIRTIO_NET_TX].desc;
    desc[0] = (VirtqDesc){TX_DATA, VIRTIO_NET_HDR + 60000, 0, 0};
    offer(&bench, VIRTIO_NET_TX, 0);
    kick(&bench, VIRTIO_NET_TX);
    CHECK(bench.net->sent == 1 && bench.net->length == 60000 && bench.net->header.gso_size == 1460);
    CHECK_EQ(counters(&bench).tx_gso, 1);
    const NetHeader bad[] = {
        {.flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_TCPV4, .csum_start = 34, .csum_offset = 16},
        {.gso_type = NET_GSO_TCPV4, .gso_size = 1460},
        {.flags = NET_NEEDS_CSUM, .csum_start = 60000, .csum_offset = 16},
        {.flags = NET_NEEDS_CSUM, .csum_start = 65535, .csum_offset = 65535},
        {.gso_type = 9},
    };
    for (uint32_t i = 0; i < ARRAY_SIZE(bad); i++) {
        memcpy(bench.ram + TX_DATA, &bad[i], sizeof bad[i]);
        offer(&bench, VIRTIO_NET_TX, 0);
        kick(&bench, VIRTIO_NET_TX);
        CHECK(bench.net->sent == 1 && used(&bench, VIRTIO_NET_TX) == i + 2 && !needs_reset(&bench));
    }
    CHECK_EQ(counters(&bench).tx_drops, ARRAY_SIZE(bad));
    bench_free(&bench);
}

/* A backend without room: the frame stays in the ring, in its order, and goes when there is room. */
static void test_transmit_waits(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, VIRTIO_F_EVENT_IDX);
    net_mock_set_full(bench.net, true);
    for (uint16_t i = 0; i < 10; i++) {
        uint32_t at = TX_DATA + 0x1000u * i;
        make_frame(bench.ram + at + VIRTIO_NET_HDR, 60 + i, other);
        bench.rings[VIRTIO_NET_TX].desc[i] = (VirtqDesc){at, VIRTIO_NET_HDR + 60u + i, 0, 0};
        offer(&bench, VIRTIO_NET_TX, i);
    }
    kick(&bench, VIRTIO_NET_TX);
    kick(&bench, VIRTIO_NET_TX);
    CHECK(bench.net->sent == 0 && used(&bench, VIRTIO_NET_TX) == 0 && !needs_reset(&bench));
    CHECK_EQ(counters(&bench).tx_waits, 1);
    check_save_restore(bench.nic);
    net_mock_set_full(bench.net, false);
    kick(&bench, VIRTIO_NET_TX); /* restore on a virtual clock leaves it to the driver's next one */
    CHECK(bench.net->sent == 10 && bench.net->length == 69 && used(&bench, VIRTIO_NET_TX) == 10);
    net_mock_set_full(bench.net, true);
    for (uint16_t i = 0; i < 10; i++)
        offer(&bench, VIRTIO_NET_TX, i);
    kick(&bench, VIRTIO_NET_TX);
    net_mock_set_full(bench.net, false); /* no kick: the backend says that there is room */
    CHECK(bench.net->sent == 20 && used(&bench, VIRTIO_NET_TX) == 20);
    net_mock_set_full(bench.net, true);
    offer(&bench, VIRTIO_NET_TX, 0);
    kick(&bench, VIRTIO_NET_TX);
    start(&bench, 0); /* reset forgets it */
    net_mock_set_full(bench.net, false);
    CHECK_EQ(bench.net->sent, 20);
    send_frame(&bench, VIRTIO_NET_HDR, 60);
    CHECK_EQ(bench.net->sent, 21);
    bench_free(&bench);
}

static void check_received(Bench *bench, gpa_t gpa, size_t length, const uint8_t *to)
{
    uint8_t frame[NET_FRAME_MAX];
    make_frame(frame, length, to);
    CHECK(!memcmp(bench->ram + gpa, frame, length));
}

static void test_receive(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, 0);
    add_buffers(&bench, 0, 3, 2048);
    memset(bench.ram + RX_DATA, 0xee, 0x3000);
    CHECK(receive(&bench, 1514, mac));
    CHECK(used(&bench, VIRTIO_NET_RX) == 1 && bench.rings[VIRTIO_NET_RX].used->ring[0].len == 1514 + 12);
    check_received(&bench, RX_DATA + 12, 1514, mac);
    for (uint32_t i = 0; i < 10; i++)
        CHECK_EQ(bench.ram[RX_DATA + i], 0);
    CHECK_EQ(load_le16(bench.ram + RX_DATA + VIRTIO_NET_HDR_NUM_BUFFERS), 1);
    CHECK_EQ(bench.ram[RX_DATA + 12 + 1514], 0xee);
    CHECK(receive(&bench, 2037, mac)); /* one byte too long for its buffer: lost, the buffer stays */
    CHECK(used(&bench, VIRTIO_NET_RX) == 1 && counters(&bench).rx_drops == 1);
    CHECK(receive(&bench, 2036, mac));
    CHECK(used(&bench, VIRTIO_NET_RX) == 2 && bench.rings[VIRTIO_NET_RX].used->ring[1].len == 2048);
    start_legacy(&bench, 0);
    bench.rings[VIRTIO_NET_RX].desc[0] =
        (VirtqDesc){RX_DATA, 10, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 1}; /* §5.1.6.3.2 */
    bench.rings[VIRTIO_NET_RX].desc[1] = (VirtqDesc){RX_DATA + 0x1000, 1514, VIRTQ_DESC_F_WRITE, 0};
    offer(&bench, VIRTIO_NET_RX, 0);
    CHECK(receive(&bench, 100, mac));
    CHECK(used(&bench, VIRTIO_NET_RX) == 1 && bench.rings[VIRTIO_NET_RX].used->ring[0].len == 110);
    check_received(&bench, RX_DATA + 0x1000, 100, mac);
    bench_free(&bench);
}

/* §5.1.6.4: over as many buffers as it takes; all of them or none. */
static void test_mergeable(void)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, VIRTIO_NET_F_MRG_RXBUF | VIRTIO_F_EVENT_IDX);
    add_buffers(&bench, 0, 3, 1000);
    kick(&bench, VIRTIO_NET_RX);
    CHECK(receive(&bench, 2988, mac)); /* 12 + 2988 = 3 * 1000 */
    CHECK_EQ(used(&bench, VIRTIO_NET_RX), 3);
    CHECK_EQ(load_le16(bench.ram + RX_DATA + VIRTIO_NET_HDR_NUM_BUFFERS), 3);
    uint8_t frame[3000];
    make_frame(frame, 2988, mac);
    CHECK(!memcmp(bench.ram + RX_DATA + 12, frame, 988));
    CHECK(!memcmp(bench.ram + RX_DATA + 0x1000, frame + 988, 1000));
    CHECK(!memcmp(bench.ram + RX_DATA + 0x2000, frame + 1988, 1000));
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(bench.rings[VIRTIO_NET_RX].used->ring[i].len, 1000);
    add_buffers(&bench, 3, 2, 1000);
    CHECK(!receive(&bench, 2988, mac)); /* two are not enough: it waits, and they stay */
    CHECK(used(&bench, VIRTIO_NET_RX) == 3 && counters(&bench).rx_waits == 1);
    VirtqUsed *ring = bench.rings[VIRTIO_NET_RX].used;
    CHECK_EQ(load_le16(&ring->ring[SIZE]), 5); /* avail_event: tell us of the sixth, not of those that are there */
    check_save_restore(bench.nic);
    add_buffers(&bench, 5, 1, 1000);
    kick(&bench, VIRTIO_NET_RX);
    net_mock_settle(bench.net);
    CHECK_EQ(used(&bench, VIRTIO_NET_RX), 6);
    make_frame(frame, 2988, mac);
    CHECK(!memcmp(bench.ram + RX_DATA + 0x3000 + 12, frame, 988));
    bench.rings[VIRTIO_NET_RX].desc[6] = /* num_buffers across two descriptors */
        (VirtqDesc){RX_DATA, 11, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 7};
    bench.rings[VIRTIO_NET_RX].desc[7] = (VirtqDesc){RX_DATA + 0x1000, 50, VIRTQ_DESC_F_WRITE, 0};
    offer(&bench, VIRTIO_NET_RX, 6);
    add_buffers(&bench, 8, 1, 1000);
    CHECK(receive(&bench, 100, mac));
    CHECK(bench.ram[RX_DATA + 10] == 2 && bench.ram[RX_DATA + 0x1000] == 0);
    CHECK(ring->ring[6].len == 61 && ring->ring[7].len == 51);
    bench_free(&bench);
}

/* What the driver took of GUEST_CSUM and GUEST_TSO is what it gets. */
static void test_receive_offloads(void)
{
    Bench bench;
    const NetHeader valid = {.flags = NET_DATA_VALID};
    uint8_t frame[100];
    make_frame(frame, sizeof frame, mac);
    bench_new(&bench);
    start(&bench, 0);
    CHECK_EQ(bench.net->base.nic_offloads, 0);
    add_buffers(&bench, 0, 1, 2048);
    net_mock_deliver(bench.net, frame, sizeof frame, &valid);
    CHECK(used(&bench, VIRTIO_NET_RX) == 1 && bench.ram[RX_DATA] == 0);
    start(&bench, VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_CTRL_VQ |
                      VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    CHECK_EQ(bench.net->base.nic_offloads, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
    add_buffers(&bench, 0, 1, 2048);
    net_mock_deliver(bench.net, frame, sizeof frame, &valid);
    CHECK(used(&bench, VIRTIO_NET_RX) == 1 && bench.ram[RX_DATA] == NET_DATA_VALID);
    device_reset(bench.nic);
    CHECK_EQ(bench.net->base.nic_offloads, 0);
    bench_free(&bench);
}

/* A command of `bytes` bytes after class and command: what it answered. */
static uint8_t command(Bench *bench, uint8_t class, uint8_t number, const void *data, uint32_t bytes)
{
    uint8_t *at = bench->ram + CTRL_DATA;
    uint16_t before = used(bench, VIRTIO_NET_CTRL);
    at[0] = class;
    at[1] = number;
    if (bytes)
        memcpy(at + 2, data, bytes);
    at[0x2000] = 0xee;
    VirtqDesc *desc = bench->rings[VIRTIO_NET_CTRL].desc;
    desc[0] = (VirtqDesc){CTRL_DATA, 2, VIRTQ_DESC_F_NEXT, (uint16_t)(bytes ? 1 : 2)};
    desc[1] = (VirtqDesc){CTRL_DATA + 2, bytes, VIRTQ_DESC_F_NEXT, 2};
    desc[2] = (VirtqDesc){CTRL_DATA + 0x2000, 1, VIRTQ_DESC_F_WRITE, 0};
    offer(bench, VIRTIO_NET_CTRL, 0);
    kick(bench, VIRTIO_NET_CTRL);
    CHECK_EQ(used(bench, VIRTIO_NET_CTRL), (uint16_t)(before + 1));
    return at[0x2000];
}

static bool passes(Bench *bench, const uint8_t *to)
{
    uint16_t before = used(bench, VIRTIO_NET_RX);
    CHECK(receive(bench, 60, to));
    bool passed = used(bench, VIRTIO_NET_RX) != before;
    if (passed)
        offer(bench, VIRTIO_NET_RX, 0);
    return passed;
}

#define CONTROL                                                                                                    \
    (VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_CTRL_VLAN |           \
     VIRTIO_NET_F_CTRL_MAC_ADDR)

/* §5.1.6.5.1, §5.1.6.5.2 */
static void test_filter(void)
{
    Bench bench;
    const uint8_t on = 1, off = 0, all[6] = {255, 255, 255, 255, 255, 255}, group[6] = {1, 0, 0x5e, 0, 0, 1};
    bench_new(&bench);
    start(&bench, CONTROL);
    add_buffers(&bench, 0, 1, 2048);
    CHECK(passes(&bench, other) && passes(&bench, group)); /* all, until it says otherwise */
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1), VIRTIO_NET_OK);
    CHECK(passes(&bench, mac) && passes(&bench, all) && !passes(&bench, other) && !passes(&bench, group));
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1), VIRTIO_NET_OK);
    CHECK(passes(&bench, group) && !passes(&bench, other));
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOMULTI, &on, 1), VIRTIO_NET_OK);
    CHECK(!passes(&bench, group));
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, &on, 1), VIRTIO_NET_OK);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOUNI, &on, 1), VIRTIO_NET_OK);
    CHECK(!passes(&bench, all) && !passes(&bench, mac));
    for (uint8_t mode = VIRTIO_NET_CTRL_RX_ALLMULTI; mode < VIRTIO_NET_RX_MODES; mode++)
        CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_RX, mode, &off, 1), VIRTIO_NET_OK);
    uint8_t table[4 + 6 + 4 + 6] = {1};
    memcpy(table + 4, other, 6);
    table[10] = 1;
    memcpy(table + 14, group, 6);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof table), 0);
    CHECK(passes(&bench, other) && passes(&bench, group) && passes(&bench, mac));
    check_save_restore(bench.nic);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 19), VIRTIO_NET_ERR);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 4), VIRTIO_NET_ERR);
    store_le32(table, UINT32_MAX);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 20), VIRTIO_NET_ERR);
    CHECK(passes(&bench, other)); /* a refused one changes nothing */
    uint8_t many[8 + 6 * 65] = {65};
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, many, sizeof many), 0);
    CHECK(passes(&bench, other) && !passes(&bench, group)); /* more than fit: all of that kind */
    memset(table, 0, 8);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 8), 0);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6), 0);
    CHECK(passes(&bench, other) && !passes(&bench, mac));
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + 5, 1), 3);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 5), VIRTIO_NET_ERR);
    modern_write(&bench, VIRTIO_PCI_DEVICE + 5, 1, 9); /* §5.1.4.2: not by configuration space */
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + 5, 1), 3);
    device_reset(bench.nic);
    config(&bench, PCI_BAR0 + 16, 4, MMIO);
    config(&bench, PCI_COMMAND, 2, 7);
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + 5, 1), mac[5]);
    CHECK(counters(&bench).commands == 18 && counters(&bench).command_errors == 4);
    bench_free(&bench);
}

static bool vlan_passes(Bench *bench, uint16_t id)
{
    uint8_t frame[64] = {0};
    uint16_t before = used(bench, VIRTIO_NET_RX);
    memcpy(frame, mac, 6);
    store_be16(frame + 12, 0x8100);
    store_be16(frame + 14, (uint16_t)(0xe000 | id));
    net_mock_deliver(bench->net, frame, sizeof frame, NULL);
    bool passed = used(bench, VIRTIO_NET_RX) != before;
    if (passed)
        offer(bench, VIRTIO_NET_RX, 0);
    return passed;
}

/* §5.1.6.5.3 */
static void test_vlan_filter(void)
{
    Bench bench;
    uint16_t id = 100, beyond = 4096;
    bench_new(&bench);
    start(&bench, 0);
    add_buffers(&bench, 0, 1, 2048);
    CHECK(vlan_passes(&bench, 100));
    start(&bench, CONTROL);
    add_buffers(&bench, 0, 1, 2048);
    CHECK(!vlan_passes(&bench, 100) && passes(&bench, mac));
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &id, 2), VIRTIO_NET_OK);
    CHECK(vlan_passes(&bench, 100) && !vlan_passes(&bench, 101));
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL, &id, 2), VIRTIO_NET_OK);
    CHECK(!vlan_passes(&bench, 100));
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &beyond, 2), VIRTIO_NET_ERR);
    CHECK_EQ(command(&bench, 77, 0, NULL, 0), VIRTIO_NET_ERR);
    bench_free(&bench);
}

/* §5.1.6.5.4, §5.1.6.5.6, and the carrier. */
static void test_other_commands(void)
{
    Bench bench;
    uint64_t offloads = VIRTIO_NET_F_GUEST_CSUM, more = offloads | VIRTIO_NET_F_GUEST_TSO6;
    bench_new(&bench);
    start(&bench, CONTROL | VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_GUEST_CSUM |
                      VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &offloads, 8), VIRTIO_NET_OK);
    CHECK_EQ(bench.net->base.nic_offloads, NET_OFFLOAD_CSUM);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &more, 8), VIRTIO_NET_ERR);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &offloads, 7), VIRTIO_NET_ERR);
    check_save_restore(bench.nic);
    CHECK_EQ(bench.net->base.nic_offloads, NET_OFFLOAD_CSUM);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 0), VIRTIO_NET_ERR); /* nobody asked */
    uint8_t generation = (uint8_t)modern_read(&bench, COMMON_CONFIG_GENERATION, 1);
    virtio_net_announce(bench.nic);
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + NET_CONFIG_STATUS, 2), 3);
    CHECK(modern_read(&bench, COMMON_CONFIG_GENERATION, 1) != generation);
    CHECK(modern_read(&bench, VIRTIO_PCI_ISR, 1) & VIRTIO_ISR_CONFIG);
    check_save_restore(bench.nic);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 0), VIRTIO_NET_OK);
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + NET_CONFIG_STATUS, 2), 1);
    modern_read(&bench, VIRTIO_PCI_ISR, 1);
    net_backend_set_link(&bench.net->base, false);
    net_mock_settle(bench.net);
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + NET_CONFIG_STATUS, 2), 0);
    CHECK(modern_read(&bench, VIRTIO_PCI_ISR, 1) & VIRTIO_ISR_CONFIG);
    send_frame(&bench, VIRTIO_NET_HDR, 60); /* lost, as on a pulled cable */
    CHECK(bench.net->sent == 0 && used(&bench, VIRTIO_NET_TX) == 1);
    net_backend_set_link(&bench.net->base, true);
    net_mock_settle(bench.net);
    CHECK_EQ(modern_read(&bench, VIRTIO_PCI_DEVICE + NET_CONFIG_STATUS, 2), VIRTIO_NET_S_LINK_UP);
    bench_free(&bench);
}

/* Without its feature a command is refused. */
static void test_commands_not_negotiated(void)
{
    Bench bench;
    uint8_t byte = 0, table[8] = {0};
    uint64_t none = 0;
    bench_new(&bench);
    start(&bench, VIRTIO_NET_F_CTRL_VQ);
    for (uint8_t mode = 0; mode < VIRTIO_NET_RX_MODES; mode++)
        CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_RX, mode, &byte, 1), VIRTIO_NET_ERR);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 8), VIRTIO_NET_ERR);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), VIRTIO_NET_ERR);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, table, 2), VIRTIO_NET_ERR);
    CHECK_EQ(command(&bench, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &none, 8), VIRTIO_NET_ERR);
    CHECK(!needs_reset(&bench));
    bench_free(&bench);
}

/* Chains that are no frames, buffers and commands at all: needs-reset, and well again after. */
static void broken(uint32_t queue, VirtqDesc desc, bool frame)
{
    Bench bench;
    bench_new(&bench);
    start(&bench, VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_MRG_RXBUF);
    bench.rings[queue].desc[0] = desc;
    offer(&bench, queue, 0);
    if (frame)
        receive(&bench, 60, mac);
    else
        kick(&bench, queue);
    CHECK(needs_reset(&bench));
    CHECK(used(&bench, queue) == 0 && bench.net->sent == 0);
    CHECK(receive(&bench, 60, mac)); /* lost */
    start(&bench, 0);
    send_frame(&bench, VIRTIO_NET_HDR, 60);
    add_buffers(&bench, 0, 1, 2048);
    receive(&bench, 60, mac);
    CHECK(bench.net->sent == 1 && used(&bench, VIRTIO_NET_RX) == 1);
    bench_free(&bench);
}

static void test_broken_drivers(void)
{
    broken(VIRTIO_NET_TX, (VirtqDesc){TX_DATA, 11, 0, 0}, false);
    broken(VIRTIO_NET_TX, (VirtqDesc){TX_DATA, 100, VIRTQ_DESC_F_WRITE, 0}, false);
    broken(VIRTIO_NET_TX, (VirtqDesc){RAM, 100, 0, 0}, false);
    broken(VIRTIO_NET_TX, (VirtqDesc){TX_DATA, 10, VIRTQ_DESC_F_NEXT, 0}, false);
    broken(VIRTIO_NET_RX, (VirtqDesc){RX_DATA, 11, VIRTQ_DESC_F_WRITE, 0}, true);
    broken(VIRTIO_NET_RX, (VirtqDesc){RX_DATA, 2048, 0, 0}, true);
    broken(VIRTIO_NET_RX, (VirtqDesc){RAM - 10, 2048, VIRTQ_DESC_F_WRITE, 0}, true);
    broken(VIRTIO_NET_CTRL, (VirtqDesc){CTRL_DATA, 3, 0, 0}, false);
    broken(VIRTIO_NET_CTRL, (VirtqDesc){CTRL_DATA, 3, VIRTQ_DESC_F_WRITE, 0}, false);
}

/* One interrupt for what came in one go, and none that the driver does not want. */
static void test_interrupts(void)
{
    Bench bench;
    VirtioCounters before, after;
    uint8_t frame[60];
    bench_new(&bench);
    start(&bench, 0);
    add_buffers(&bench, 0, 20, 2048);
    make_frame(frame, sizeof frame, mac);
    struct iovec iov = {frame, sizeof frame};
    virtio_counters(bench.nic, &before);
    for (uint32_t i = 0; i < 10; i++)
        net_deliver(&bench.net->base, &iov, 1, NULL);
    net_delivered(&bench.net->base);
    virtio_counters(bench.nic, &after);
    CHECK(after.interrupts == before.interrupts + 1 && used(&bench, VIRTIO_NET_RX) == 10);
    bench.rings[VIRTIO_NET_RX].avail->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
    receive(&bench, 60, mac);
    virtio_counters(bench.nic, &before);
    CHECK(after.interrupts == before.interrupts && used(&bench, VIRTIO_NET_RX) == 11);
    bench_free(&bench);
}

static void set_receive_queue(Bench *bench)
{
    find_ring(bench, VIRTIO_NET_RX, ring_size(bench, VIRTIO_NET_RX));
    if (!bench->modern) {
        legacy_write(bench, LEGACY_QUEUE_ADDRESS, 4, ring_at(VIRTIO_NET_RX) / 4096);
        return;
    }
    modern_write(bench, COMMON_QUEUE_SIZE, 2, SIZE);
    modern_write(bench, COMMON_QUEUE_DESC, 8, ring_at(VIRTIO_NET_RX));
    modern_write(bench, COMMON_QUEUE_DRIVER, 8, ring_at(VIRTIO_NET_RX) + 16 * SIZE);
    modern_write(bench, COMMON_QUEUE_DEVICE, 8, (uint8_t *)bench->rings[VIRTIO_NET_RX].used - bench->ram);
    modern_write(bench, COMMON_QUEUE_ENABLE, 2, 1);
}

/* The driver takes the receive queue away (virtio 1.2 §2.6.1) between a frame and the end of its batch. */
static void test_queue_gone_amid_batch(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Bench bench;
        uint8_t frame[60];
        struct iovec iov = {frame, sizeof frame};
        bench_new(&bench);
        if (modern)
            start(&bench, VIRTIO_F_RING_RESET);
        else
            start_legacy(&bench, 0);
        add_buffers(&bench, 0, 4, 2048);
        make_frame(frame, sizeof frame, mac);
        net_deliver(&bench.net->base, &iov, 1, NULL);
        if (modern) {
            modern_write(&bench, COMMON_QUEUE_SELECT, 2, VIRTIO_NET_RX);
            modern_write(&bench, COMMON_QUEUE_RESET, 2, 1);
        } else {
            legacy_write(&bench, LEGACY_QUEUE_SELECT, 2, VIRTIO_NET_RX);
            legacy_write(&bench, LEGACY_QUEUE_ADDRESS, 4, 0);
        }
        net_delivered(&bench.net->base);
        CHECK_EQ(used(&bench, VIRTIO_NET_RX), 0);
        set_receive_queue(&bench);
        net_delivered(&bench.net->base); /* what was in the ring before is not of this one */
        CHECK_EQ(used(&bench, VIRTIO_NET_RX), 0);
        add_buffers(&bench, 0, 4, 2048);
        CHECK(receive(&bench, 60, mac));
        CHECK_EQ(used(&bench, VIRTIO_NET_RX), 1);
        bench_free(&bench);
    }
}

/* A driver that resets, feeds and kicks the device while frames come and go on the I/O thread. */
typedef struct Stress {
    Bench *bench;
    IoNotifier *notifier;
    uint32_t delivered;
    bool stop;
} Stress;

static void keep_delivering(void *opaque)
{
    Stress *stress = opaque;
    for (uint32_t i = 0; i < 20; i++)
        receive(stress->bench, 60 + stress->delivered++ * 97 % 3000, mac);
    if (!__atomic_load_n(&stress->stop, __ATOMIC_RELAXED))
        io_notifier_post(stress->notifier);
}

static void test_reset_under_load(void)
{
    Bench bench;
    VirtioNetOptions options = {.mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56}};
    bench_new_on(&bench, CLOCK_KIND_REALTIME, &options);
    IoThread *io = net_backend_io(&bench.net->base);
    Stress stress = {.bench = &bench};
    stress.notifier = io_notifier_new(io, keep_delivering, &stress);
    CHECK_EQ(board_start_io(bench.board, NULL), 0);
    io_notifier_post(stress.notifier);
    for (uint32_t round = 0; round < 300; round++) {
        start(&bench, VIRTIO_NET_F_MRG_RXBUF | (round & 1 ? VIRTIO_F_EVENT_IDX : 0));
        for (uint16_t i = 0; i < 60; i += 20) {
            add_buffers(&bench, i, 20, 600);
            kick(&bench, VIRTIO_NET_RX);
            send_frame(&bench, VIRTIO_NET_HDR, 60);
        }
        if (round % 7 == 0) {
            VirtioPciState state = {0};
            device_save(bench.nic, &state);
            CHECK_EQ(device_restore(bench.nic, &state), 0);
        }
        if (round % 11 == 0)
            net_backend_set_link(&bench.net->base, round & 1);
    }
    net_backend_set_link(&bench.net->base, true);
    CHECK(!needs_reset(&bench));
    start(&bench, 0);
    add_buffers(&bench, 0, 20, 4096);
    kick(&bench, VIRTIO_NET_RX);
    send_frame(&bench, VIRTIO_NET_HDR, 60);
    while (__atomic_load_n(&bench.rings[VIRTIO_NET_TX].used->idx, __ATOMIC_ACQUIRE) != 1 ||
           __atomic_load_n(&bench.rings[VIRTIO_NET_RX].used->idx, __ATOMIC_ACQUIRE) == 0)
        usleep(100);
    __atomic_store_n(&stress.stop, true, __ATOMIC_RELAXED);
    board_stop_io(bench.board);
    io_notifier_free(stress.notifier);
    bench_free(&bench);
}

int main(void)
{
    RUN(test_identity);
    RUN(test_transmit);
    RUN(test_transmit_offloads);
    RUN(test_transmit_waits);
    RUN(test_receive);
    RUN(test_mergeable);
    RUN(test_receive_offloads);
    RUN(test_filter);
    RUN(test_vlan_filter);
    RUN(test_other_commands);
    RUN(test_commands_not_negotiated);
    RUN(test_broken_drivers);
    RUN(test_interrupts);
    RUN(test_queue_gone_amid_batch);
    RUN(test_reset_under_load);
    return 0;
}
