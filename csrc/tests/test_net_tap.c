/* A tap of a network namespace that the test makes for itself: frames both ways, big ones as they are, the
 * interface down and taken away. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net_tap.h"
#include "tests/net_frames.h"
#include "tests/net_nic.h"

#define PATIENCE 10000
#define ALL      (NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN)

typedef struct Rig {
    Board *board;
    NetBackend *backend;
    TestNic *nic;
    int packets; /* a socket on the interface: the host's side */
} Rig;

static void set_up(const char *name, bool up)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {0};
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    CHECK_EQ(ioctl(fd, SIOCGIFFLAGS, &request), 0);
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    CHECK_EQ(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    close(fd);
}

static void delete_link(const char *name)
{
    struct {
        struct nlmsghdr head;
        struct ifinfomsg info;
    } request = {{sizeof request, RTM_DELLINK, NLM_F_REQUEST, 1, 0}, {.ifi_index = (int)if_nametoindex(name)}};
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    CHECK_EQ(send(fd, &request, sizeof request, 0), sizeof request);
    close(fd);
}

static void rig_open(Rig *rig, const NetTapOptions *options, uint32_t offloads)
{
    Error error = {0};
    rig->board = board_new(CLOCK_KIND_REALTIME, &error);
    IoThread *io = board_add_worker(rig->board, "net-0", &error);
    rig->backend = net_tap_new(rig->board, io, options, &error);
    if (!rig->backend)
        fprintf(stderr, "%s\n", error.text);
    CHECK(rig->backend);
    rig->nic = nic_new(rig->backend, offloads);
    CHECK_EQ(board_start_io(rig->board, &error), 0);
    const char *name = net_tap_ifname(rig->backend);
    set_up(name, true);
    rig->packets = socket(AF_PACKET, SOCK_RAW, htons(0x88b5));
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5), .sll_ifindex = (int)if_nametoindex(name)};
    CHECK_EQ(bind(rig->packets, (struct sockaddr *)&address, sizeof address), 0);
}

static void rig_close(Rig *rig)
{
    CHECK(rig->nic->on_io);
    close(rig->packets);
    board_stop_io(rig->board);
    nic_free(rig->nic);
    net_backend_free(rig->backend);
    board_free(rig->board);
}

/* The next frame of our own: the kernel speaks IPv6 on a new interface. */
static const NicFrame *next_own(Rig *rig)
{
    const NicFrame *frame;
    while ((frame = nic_next(rig->nic, PATIENCE)))
        if (load_be16(frame->bytes + 12) == 0x88b5)
            return frame;
    return NULL;
}

static uint32_t own_frame(uint8_t *frame, uint32_t length)
{
    memset(frame, 0xff, 6);
    memset(frame + 6, 2, 6);
    store_be16(frame + 12, 0x88b5); /* for local experiments, IEEE 802 §9.2.3 */
    for (uint32_t i = 14; i < length; i++)
        frame[i] = payload_byte(i);
    return length;
}

static int tap_send(Rig *rig, const void *frame, uint32_t length, const NetHeader *header)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)frame, 30}, {(uint8_t *)(uintptr_t)frame + 30, length - 30}};
    return net_backend_send(rig->backend, iov, 2, header);
}

static void check_frames(const NetTapOptions *options)
{
    Rig rig;
    uint8_t frame[1514], got[2048];
    rig_open(&rig, options, ALL);
    CHECK_EQ(tap_send(&rig, frame, own_frame(frame, 1514), NULL), 0);
    CHECK_EQ(poll(&(struct pollfd){.fd = rig.packets, .events = POLLIN}, 1, PATIENCE), 1);
    CHECK_EQ(recv(rig.packets, got, sizeof got, 0), 1514);
    CHECK_EQ(memcmp(got, frame, 1514), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(send(rig.packets, frame, own_frame(frame, 60), 0), 60);
    for (int i = 0; i < 100; i++) {
        const NicFrame *received = next_own(&rig);
        CHECK(received && received->length == 60);
        CHECK_EQ(memcmp(received->bytes, frame, 60), 0);
    }
    rig_close(&rig);
}

static void test_frames(void)
{
    check_frames(&(NetTapOptions){.ifname = "test-tap"});
    check_frames(&(NetTapOptions){.ifname = "test-tap", .no_header = true});
    check_frames(&(NetTapOptions){0}); /* the kernel's choice of a name */
}

/* A GSO frame goes to the kernel whole, and is cut for a tap without headers; a bad one is refused by either. */
static void check_big(bool no_header)
{
    static uint8_t frame[NET_FRAME_MAX];
    Rig rig;
    FrameSpec spec = {.payload = 20000};
    NetHeader header;
    NetCounters counters;
    rig_open(&rig, &(NetTapOptions){.ifname = "test-tap", .no_header = no_header}, ALL);
    uint32_t length = frame_build(frame, &spec, &header);
    header.gso_type = NET_GSO_TCPV4, header.gso_size = 1448;
    CHECK_EQ(tap_send(&rig, frame, length, &header), 0);
    net_backend_counters(rig.backend, &counters);
    CHECK_EQ(counters.segmented, no_header);
    CHECK_EQ(counters.tx_frames, 1);
    header.gso_size = 0;
    CHECK_EQ(tap_send(&rig, frame, length, &header), -EINVAL);
    rig_close(&rig);
}

static void test_big(void)
{
    check_big(false);
    check_big(true);
}

static void test_no_buffers(void)
{
    Rig rig;
    uint8_t frame[60];
    rig_open(&rig, &(NetTapOptions){.ifname = "test-tap"}, 0);
    nic_set_full(rig.nic, true);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(send(rig.packets, frame, own_frame(frame, 60), 0), 60);
    WAIT_FOR(__atomic_load_n(&rig.nic->refused, __ATOMIC_SEQ_CST) > 0);
    nic_set_full(rig.nic, false);
    for (int i = 0; i < 50; i++)
        CHECK(next_own(&rig));
    rig_close(&rig);
}

static void test_taken_away(void)
{
    Rig rig;
    uint8_t frame[60];
    NetCounters counters;
    rig_open(&rig, &(NetTapOptions){.ifname = "test-tap"}, ALL);
    set_up("test-tap", false);
    CHECK_EQ(tap_send(&rig, frame, own_frame(frame, 60), NULL), -EIO); /* down: lost, as on a wire */
    CHECK(net_backend_link(rig.backend));
    set_up("test-tap", true);
    CHECK_EQ(tap_send(&rig, frame, own_frame(frame, 60), NULL), 0);
    delete_link("test-tap");
    WAIT_FOR(!net_backend_link(rig.backend));
    WAIT_FOR(!__atomic_load_n(&rig.nic->up, __ATOMIC_SEQ_CST));
    CHECK_EQ(tap_send(&rig, frame, own_frame(frame, 60), NULL), -ENOLINK);
    net_backend_set_offloads(rig.backend, 0);
    net_backend_counters(rig.backend, &counters);
    CHECK_EQ(counters.link_changes, 1);
    CHECK(counters.tx_drops >= 2);
    rig_close(&rig);
}

static void test_refused(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(!net_tap_new(board, board->io, &(NetTapOptions){.ifname = "a-name-that-is-too-long"}, &error));
    CHECK(strstr(error.text, "ifname=a-name-that-is-too-long"));
    CHECK(!net_tap_new(board, board->io, &(NetTapOptions){.ifname = "lo"}, &error));
    CHECK(strstr(error.text, "ifname=lo"));
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(!net_tap_new(board, board->io, &(NetTapOptions){.fd = fd}, &error));
    CHECK(strstr(error.text, "fd="));
    close(fd);
    NetBackend *first = net_tap_new(board, board->io, &(NetTapOptions){.ifname = "test-tap"}, &error);
    CHECK(first);
    CHECK(!net_tap_new(board, board->io, &(NetTapOptions){.ifname = "test-tap"}, &error));
    CHECK_EQ(error.code, EBUSY);
    net_backend_free(first);
    board_free(board);
}

int main(void)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0 && unshare(CLONE_NEWNET) < 0) {
        printf("skipped: no network namespace of one's own here: %s\n", strerror(errno));
        return 77;
    }
    if (access("/dev/net/tun", R_OK | W_OK) < 0) {
        printf("skipped: /dev/net/tun: %s\n", strerror(errno));
        return 77;
    }
    RUN(test_refused);
    RUN(test_frames);
    RUN(test_big);
    RUN(test_no_buffers);
    RUN(test_taken_away);
    return 0;
}
