/* User networking against the real libslirp: a guest of a few lines speaks DHCP, ARP, UDP and TCP with sockets of
 * this process. */
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net_offload.h"
#include "net/net_user.h"
#include "tests/net_frames.h"
#include "tests/net_nic.h"

#define PATIENCE 10000
#define GUEST    0x0a00020fu
#define GATEWAY  0x0a000202u
#define ALL      (NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_UFO)

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

typedef struct Guest {
    Board *board;
    NetBackend *backend;
    TestNic *nic;
    uint8_t gateway_mac[6];
    uint32_t sequence, expected, window;
    uint16_t port, peer;
} Guest;

static void send_frame(Guest *guest, uint8_t *frame, uint32_t length, const NetHeader *header)
{
    struct iovec iov[2] = {{frame, length / 2}, {frame + length / 2, length - length / 2}};
    CHECK_EQ(net_backend_send(guest->backend, iov, 2, header), 0);
}

/* The IPv4 header and what is before it. */
static void put_ip(Guest *guest, uint8_t *frame, uint8_t protocol, uint32_t length)
{
    memcpy(frame, guest->gateway_mac, 6);
    memcpy(frame + 6, guest_mac, 6);
    store_be16(frame + 12, 0x0800);
    uint8_t *ip = frame + 14;
    memset(ip, 0, 20);
    ip[0] = 0x45;
    store_be16(ip + 2, (uint16_t)(length - 14));
    ip[8] = 64;
    ip[9] = protocol;
    store_be32(ip + 12, GUEST);
    store_be32(ip + 16, GATEWAY);
    store_be16(ip + 10, (uint16_t)~slow_sum(ip, 20, 0));
}

static void start_guest(Guest *guest, const NetUserOptions *options, uint32_t offloads)
{
    Error error = {0};
    *guest = (Guest){.board = board_new(CLOCK_KIND_REALTIME, &error), .window = 65535};
    IoThread *io = board_add_worker(guest->board, "net-0", &error);
    CHECK(io);
    guest->backend = net_user_new(guest->board, io, options, &error);
    if (!guest->backend)
        fprintf(stderr, "%s\n", error.text);
    CHECK(guest->backend);
    guest->nic = nic_new(guest->backend, offloads);
    CHECK_EQ(board_start_io(guest->board, &error), 0);
    uint8_t arp[42] = {0};
    memset(arp, 0xff, 6);
    memcpy(arp + 6, guest_mac, 6);
    store_be16(arp + 12, 0x0806);
    store_be16(arp + 14, 1), store_be16(arp + 16, 0x0800), arp[18] = 6, arp[19] = 4, arp[21] = 1;
    memcpy(arp + 22, guest_mac, 6);
    store_be32(arp + 28, GUEST);
    store_be32(arp + 38, GATEWAY);
    send_frame(guest, arp, sizeof arp, NULL);
    for (;;) { /* router advertisements may come first */
        const NicFrame *reply = nic_next(guest->nic, PATIENCE);
        CHECK(reply);
        if (load_be16(reply->bytes + 12) != 0x0806 || reply->bytes[21] != 2)
            continue;
        memcpy(guest->gateway_mac, reply->bytes + 22, 6);
        return;
    }
}

static void stop_guest(Guest *guest)
{
    CHECK(guest->nic->on_io);
    board_stop_io(guest->board);
    nic_free(guest->nic);
    net_backend_free(guest->backend);
    board_free(guest->board);
}

/* The next IPv4 frame of a protocol. */
static const NicFrame *next_ip(Guest *guest, uint8_t protocol, int patience)
{
    const NicFrame *frame;
    while ((frame = nic_next(guest->nic, patience)))
        if (load_be16(frame->bytes + 12) == 0x0800 && frame->bytes[23] == protocol)
            return frame;
    return NULL;
}

static int host_socket(int type, uint16_t *port)
{
    int fd = socket(AF_INET, type, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, size), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    if (type == SOCK_STREAM)
        CHECK_EQ(listen(fd, 4), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void test_dhcp(void)
{
    Guest guest;
    start_guest(&guest, &(NetUserOptions){.hostname = "calf"}, 0);
    uint8_t frame[300] = {0}, options[] = {99, 130, 83, 99, 53, 1, 1, 255};
    put_ip(&guest, frame, 17, sizeof frame);
    store_be32(frame + 26, 0), store_be32(frame + 30, 0xffffffff);
    store_be16(frame + 24, 0), store_be16(frame + 24, (uint16_t)~slow_sum(frame + 14, 20, 0));
    memset(frame, 0xff, 6);
    store_be16(frame + 34, 68), store_be16(frame + 36, 67), store_be16(frame + 38, sizeof frame - 34);
    frame[42] = frame[43] = 1, frame[44] = 6;
    memcpy(frame + 70, guest_mac, 6);
    memcpy(frame + 42 + 236, options, sizeof options);
    send_frame(&guest, frame, sizeof frame, NULL);
    const NicFrame *offer = next_ip(&guest, 17, PATIENCE);
    CHECK(offer);
    CHECK_EQ(load_be16(offer->bytes + 36), 68);
    CHECK_EQ(load_be32(offer->bytes + 42 + 16), GUEST);
    CHECK(memmem(offer->bytes, offer->length, "calf", 4));
    stop_guest(&guest);
}

/* A datagram of 5000 bytes there and back: no frame for the guest is above 1514 bytes. */
static void test_big_datagram(void)
{
    Guest guest;
    uint16_t port;
    int fd = host_socket(SOCK_DGRAM, &port);
    start_guest(&guest, NULL, ALL);
    static uint8_t frame[NET_FRAME_MAX], data[8192], back[8192];
    uint32_t length = 42 + 5000, got = 0;
    put_ip(&guest, frame, 17, length);
    store_be16(frame + 34, 999), store_be16(frame + 36, port), store_be16(frame + 38, 5008);
    for (uint32_t i = 0; i < 5000; i++)
        frame[42 + i] = payload_byte(i);
    FrameSpec spec = {.udp = true};
    store_be16(frame + 40, slow_pseudo(&spec, frame, 5008));
    send_frame(&guest, frame, length,
               &(NetHeader){NET_NEEDS_CSUM, NET_GSO_UDP, 42, 1472, 34, 6}); /* unfragmented offload */
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, PATIENCE), 1);
    CHECK_EQ(recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &size), 5000);
    CHECK_EQ(memcmp(data, frame + 42, 5000), 0);
    CHECK_EQ(sendto(fd, data, 5000, 0, (struct sockaddr *)&from, size), 5000);
    for (bool more = true; more;) {
        const NicFrame *part = next_ip(&guest, 17, PATIENCE);
        CHECK(part && part->length <= 1514);
        uint32_t offset = (load_be16(part->bytes + 20) & 0x1fffu) * 8;
        CHECK(offset + part->length - 34 <= sizeof back);
        memcpy(back + offset, part->bytes + 34, part->length - 34);
        got += part->length - 34;
        more = load_be16(part->bytes + 20) & 0x2000;
    }
    CHECK_EQ(got, 5008);
    CHECK_EQ(memcmp(back + 8, data, 5000), 0);
    close(fd);
    stop_guest(&guest);
}

/* TCP, as little as does: no retransmission, as nothing is lost. */
static void tcp_send(Guest *guest, uint8_t flags, const void *data, uint32_t size, bool mss)
{
    static uint8_t frame[NET_FRAME_MAX];
    uint32_t options = mss ? 4 : 0, length = 54 + options + size;
    put_ip(guest, frame, 6, length);
    uint8_t *tcp = frame + 34;
    memset(tcp, 0, 24);
    store_be16(tcp, guest->port), store_be16(tcp + 2, guest->peer);
    store_be32(tcp + 4, guest->sequence), store_be32(tcp + 8, guest->expected);
    tcp[12] = (uint8_t)((20 + options) / 4 << 4);
    tcp[13] = flags;
    store_be16(tcp + 14, (uint16_t)guest->window);
    if (mss)
        tcp[20] = 2, tcp[21] = 4, store_be16(tcp + 22, 1460);
    if (size)
        memcpy(tcp + 20 + options, data, size);
    FrameSpec spec = {0};
    store_be16(tcp + 16, slow_pseudo(&spec, frame, length - 34));
    NetHeader header = {NET_NEEDS_CSUM, size > 1460 ? NET_GSO_TCPV4 : 0, 54, 1460, 34, 16};
    send_frame(guest, frame, length, &header);
    guest->sequence += size + !!(flags & 3);
}

/* What came, appended to `to`; its acknowledgement goes back. */
static uint32_t tcp_receive(Guest *guest, uint8_t *to, uint32_t *largest, uint8_t *flags)
{
    const NicFrame *frame = next_ip(guest, 6, PATIENCE);
    CHECK(frame);
    const uint8_t *tcp = frame->bytes + 34;
    uint32_t header = (tcp[12] >> 4) * 4u, size = load_be16(frame->bytes + 16) - 20 - header;
    NetLayers layers;
    CHECK(net_layers(frame->bytes, frame->length, &layers) && layers.l4 == 34);
    *flags = tcp[13];
    if (tcp[13] & 2)
        guest->expected = load_be32(tcp + 4) + 1, guest->peer = load_be16(tcp);
    else if (size || tcp[13] & 1)
        CHECK_EQ(load_be32(tcp + 4), guest->expected);
    if (frame->length > 1514) {
        CHECK_EQ(frame->header.gso_type, NET_GSO_TCPV4);
        CHECK_EQ(frame->header.gso_size, 1460);
        CHECK(frame->header.flags & NET_NEEDS_CSUM);
        static uint8_t whole[NET_FRAME_MAX];
        memcpy(whole, frame->bytes, frame->length);
        net_finish_checksum(whole, frame->length, &frame->header);
        FrameSpec spec = {0};
        CHECK_EQ(slow_sum(whole + 34, frame->length - 34, slow_pseudo(&spec, whole, frame->length - 34)), 0xffff);
    }
    *largest = MAX(*largest, frame->length);
    memcpy(to, tcp + header, size);
    if (!(tcp[13] & 2))
        guest->expected += size + (tcp[13] & 1);
    if (size || tcp[13] & 1)
        tcp_send(guest, 0x10, NULL, 0, false);
    return size;
}

static int tcp_connect(Guest *guest)
{
    uint8_t flags = 0, none[8];
    uint32_t largest = 0;
    int listener = host_socket(SOCK_STREAM, &guest->peer);
    guest->port = 4000, guest->sequence = 1000;
    tcp_send(guest, 2, NULL, 0, true);
    while (!(flags & 2))
        tcp_receive(guest, none, &largest, &flags);
    tcp_send(guest, 0x10, NULL, 0, false);
    CHECK_EQ(poll(&(struct pollfd){.fd = listener, .events = POLLIN}, 1, PATIENCE), 1);
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0);
    close(listener);
    return fd;
}

#define STREAM 200000

static void check_tcp(uint32_t offloads, bool plain)
{
    static uint8_t data[STREAM + 65536], from[STREAM];
    Guest guest;
    uint32_t largest = 0, got = 0;
    uint8_t flags = 0;
    start_guest(&guest, &(NetUserOptions){.plain = plain}, offloads);
    int fd = tcp_connect(&guest);
    for (uint32_t i = 0; i < STREAM; i++)
        from[i] = payload_byte(i);
    tcp_send(&guest, 0x18, from, 60000, false); /* one frame */
    for (uint32_t read_ = 0; read_ < 60000;) {
        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, PATIENCE), 1);
        ssize_t n = read(fd, data + read_, 60000 - read_);
        CHECK(n > 0);
        read_ += (uint32_t)n;
    }
    CHECK_EQ(memcmp(data, from, 60000), 0);
    for (uint32_t sent = 0; sent < STREAM || got < STREAM;) {
        ssize_t n = send(fd, from + sent, STREAM - sent, MSG_DONTWAIT);
        sent += n > 0 ? (uint32_t)n : 0;
        got += tcp_receive(&guest, data + got, &largest, &flags);
    }
    CHECK_EQ(memcmp(data, from, STREAM), 0);
    if (offloads && !plain)
        CHECK(largest > 1514);
    else
        CHECK(largest <= 1514);
    close(fd); /* the peer goes */
    for (flags = 0; !(flags & 1);)
        tcp_receive(&guest, data, &largest, &flags);
    NetCounters counters;
    net_backend_counters(guest.backend, &counters);
    CHECK_EQ(counters.rx_drops, 0);
    CHECK_EQ(counters.tx_drops + counters.tx_invalid, 0);
    stop_guest(&guest);
}

static void test_tcp_big(void) { check_tcp(ALL, false); }
static void test_tcp_small_nic(void) { check_tcp(0, false); }
static void test_tcp_plain(void) { check_tcp(ALL, true); }

/* A driver that took TSO at its SYN and is reset since: big frames of the connection are cut for it. */
static void test_offloads_lost(void)
{
    static uint8_t data[STREAM + 65536], from[30000];
    Guest guest;
    uint32_t largest = 0, got = 0;
    uint8_t flags;
    start_guest(&guest, NULL, ALL);
    int fd = tcp_connect(&guest);
    net_backend_set_offloads(guest.backend, 0);
    CHECK_EQ(write(fd, from, sizeof from), sizeof from);
    while (got < sizeof from)
        got += tcp_receive(&guest, data + got, &largest, &flags);
    CHECK(largest <= 1514);
    NetCounters counters;
    net_backend_counters(guest.backend, &counters);
    CHECK(counters.segmented > 0);
    close(fd);
    stop_guest(&guest);
}

/* A NIC without buffers loses nothing: the host's socket waits. */
static void test_no_buffers(void)
{
    static uint8_t data[STREAM + 65536], from[20000];
    Guest guest;
    uint32_t largest = 0, got = 0;
    uint8_t flags;
    start_guest(&guest, NULL, ALL);
    int fd = tcp_connect(&guest);
    nic_set_full(guest.nic, true);
    CHECK_EQ(write(fd, from, sizeof from), sizeof from);
    WAIT_FOR(__atomic_load_n(&guest.nic->refused, __ATOMIC_SEQ_CST) > 0);
    NetCounters counters;
    net_backend_counters(guest.backend, &counters);
    CHECK_EQ(counters.rx_waits, 1);
    CHECK(counters.rx_queued > 0);
    nic_set_full(guest.nic, false);
    while (got < sizeof from)
        got += tcp_receive(&guest, data + got, &largest, &flags);
    close(fd);
    stop_guest(&guest);
}

static void check_hostfwd(uint32_t offloads)
{
    static uint8_t data[STREAM + 65536], from[STREAM];
    Guest guest;
    Error error = {0};
    uint8_t flags = 0;
    uint32_t largest = 0, got = 0;
    char rule[64], table[4096];
    start_guest(&guest, NULL, offloads);
    int port = net_user_hostfwd(guest.backend, "tcp:127.0.0.1:0-:22", &error);
    CHECK(port > 0);
    snprintf(rule, sizeof rule, "tcp:127.0.0.1:%d-:23", port);
    CHECK_EQ(net_user_hostfwd(guest.backend, rule, &error), -EADDRINUSE);
    CHECK(strstr(error.text, rule));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    while (!(flags & 2))
        tcp_receive(&guest, data, &largest, &flags);
    guest.port = 22, guest.sequence = 5;
    tcp_send(&guest, 0x12, NULL, 0, true);
    for (uint32_t sent = 0; got < STREAM;) {
        ssize_t n = send(fd, from + sent, STREAM - sent, MSG_DONTWAIT);
        sent += n > 0 ? (uint32_t)n : 0;
        got += tcp_receive(&guest, data + got, &largest, &flags);
    }
    CHECK(offloads ? largest > 1514 : largest <= 1514);
    CHECK(net_user_connections(guest.backend, table, sizeof table) > 0);
    CHECK(strstr(table, "ESTABLISHED"));
    close(fd);
    snprintf(rule, sizeof rule, "tcp:127.0.0.1:%d", port);
    CHECK_EQ(net_user_hostfwd_remove(guest.backend, rule, &error), 0);
    CHECK_EQ(net_user_hostfwd_remove(guest.backend, rule, &error), -ENOENT);
    int udp = net_user_hostfwd(guest.backend, "udp:127.0.0.1:0-:53", &error);
    CHECK(udp > 0);
    stop_guest(&guest);
}

static void test_hostfwd(void) { check_hostfwd(ALL); }
static void test_hostfwd_small(void) { check_hostfwd(0); }

static void test_options(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    const struct {
        NetUserOptions options;
        const char *says;
    } wrong[] = {
        {{.net = "10.0.2"}, "net=10.0.2 "},
        {{.net = "10.0.2.0/31"}, "mask"},
        {{.net = "10.0.2.0/255.0.255.0"}, "mask"},
        {{.host = "10.0.3.1"}, "host=10.0.3.1"},
        {{.dhcpstart = "10.0.2.255"}, "dhcpstart=10.0.2.255"},
        {{.dns = "10.0.2.2"}, "host and dns"},
        {{.no_ipv4 = true, .no_ipv6 = true}, "ipv4=off"},
        {{.hostname = "a-name-that-is-longer-than-slirps-buffer"}, "hostname"},
        {{.ipv6_net = "fec0::/200"}, "ipv6-net"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        CHECK(!net_user_new(board, board->io, &wrong[i].options, &error));
        CHECK_EQ(error.code, EINVAL);
        CHECK(strstr(error.text, wrong[i].says));
    }
    NetBackend *backend = net_user_new(board, board->io, &(NetUserOptions){.net = "192.168.7.0/29"}, &error);
    CHECK(backend);
    const char *rules[] = {"",
                           "icmp::1-:2",
                           "tcp:1:2-:3",
                           "tcp::70000-:1",
                           "tcp::1",
                           "tcp::1-:0",
                           "tcp::1-:x",
                           "tcp:::::",
                           "tcp::1-1.2.3.4.5.6.7.8.9.10:1"};
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
        CHECK_EQ(net_user_hostfwd(backend, rules[i], &error), -EINVAL);
    net_backend_free(backend);
    board_free(board);
}

int main(void)
{
    Error error = {0};
    if (net_user_available(&error) < 0) {
        printf("skipped: %s\n", error.text);
        return 77;
    }
    RUN(test_options);
    RUN(test_dhcp);
    RUN(test_big_datagram);
    RUN(test_tcp_big);
    RUN(test_tcp_small_nic);
    RUN(test_tcp_plain);
    RUN(test_offloads_lost);
    RUN(test_no_buffers);
    RUN(test_hostfwd);
    RUN(test_hostfwd_small);
    return 0;
}
