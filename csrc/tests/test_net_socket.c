/* Cables that are sockets: each kind between two boards, QEMU's stream format byte by byte, peers that go, lie or
 * do not read, NICs without buffers; and captures. */
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/net_offload.h"
#include "net/net_socket.h"
#include "tests/net_frames.h"
#include "tests/net_nic.h"

#define PATIENCE 10000

typedef struct End {
    Board *board;
    NetBackend *backend;
    TestNic *nic;
} End;

static void end_open(End *end, const NetSocketOptions *options, uint32_t offloads)
{
    Error error = {0};
    end->board = board_new(CLOCK_KIND_REALTIME, &error);
    IoThread *io = board_add_worker(end->board, "net-0", &error);
    end->backend = net_socket_new(end->board, io, options, &error);
    if (!end->backend)
        fprintf(stderr, "%s\n", error.text);
    CHECK(end->backend);
    end->nic = nic_new(end->backend, offloads);
    CHECK_EQ(board_start_io(end->board, &error), 0);
}

static void end_close(End *end)
{
    CHECK(end->nic->on_io);
    board_stop_io(end->board);
    nic_free(end->nic);
    net_backend_free(end->backend);
    board_free(end->board);
}

static int send_bytes(End *end, const void *bytes, uint32_t length, const NetHeader *header)
{
    struct iovec iov = {(void *)(uintptr_t)bytes, length};
    return net_backend_send(end->backend, &iov, 1, header);
}

static void fill(uint8_t *frame, uint32_t length, uint32_t seed)
{
    for (uint32_t i = 0; i < length; i++)
        frame[i] = (uint8_t)(i * 13 + seed);
}

/* Frames of many sizes, all of them, in order, both ways. */
static void exchange(End *a, End *b)
{
    static const uint32_t sizes[] = {14, 60, 61, 1514, 4000, 9014};
    static uint8_t frame[NET_FRAME_MAX];
    WAIT_FOR(net_backend_link(a->backend) && net_backend_link(b->backend));
    for (uint32_t i = 0; i < 600; i++) {
        uint32_t length = sizes[i % ARRAY_SIZE(sizes)];
        fill(frame, length, i);
        while (send_bytes(a, frame, length, NULL) == -EAGAIN)
            nap();
        while (i % 3 == 0 && send_bytes(b, frame, 60, NULL) == -EAGAIN)
            nap();
    }
    for (uint32_t i = 0; i < 600; i++) {
        const NicFrame *got = nic_next(b->nic, PATIENCE);
        CHECK(got);
        CHECK_EQ(got->length, sizes[i % ARRAY_SIZE(sizes)]);
        fill(frame, got->length, i);
        CHECK_EQ(memcmp(frame, got->bytes, got->length), 0);
    }
    for (uint32_t i = 0; i < 200; i++)
        CHECK(nic_next(a->nic, PATIENCE));
}

static char *temp_path(const char *name)
{
    static char folder[64];
    if (!*folder) {
        snprintf(folder, sizeof folder, "/tmp/pyvmm-net-XXXXXX");
        CHECK(mkdtemp(folder));
    }
    char *path = NULL;
    CHECK(asprintf(&path, "unix:%s/%s", folder, name) > 0);
    return path;
}

static void test_unix_stream(void)
{
    End a, b;
    char *path = temp_path("stream");
    end_open(&b, &(NetSocketOptions){.connect = path, .reconnect_ms = 5}, 0); /* before there is a listener */
    CHECK(!net_backend_link(b.backend));
    end_open(&a, &(NetSocketOptions){.listen = path}, 0);
    exchange(&a, &b);
    end_close(&b); /* and another one comes in its place */
    WAIT_FOR(!net_backend_link(a.backend));
    WAIT_FOR(!__atomic_load_n(&a.nic->up, __ATOMIC_SEQ_CST));
    CHECK_EQ(send_bytes(&a, "a frame for nobody", 18, NULL), -ENOLINK);
    end_open(&b, &(NetSocketOptions){.connect = path, .reconnect_ms = 5}, 0);
    a.nic->taken = a.nic->count;
    exchange(&a, &b);
    end_close(&a);
    CHECK(access(path + 5, F_OK) < 0);
    WAIT_FOR(!net_backend_link(b.backend));
    end_open(&a, &(NetSocketOptions){.listen = path}, 0); /* the connector finds it again */
    WAIT_FOR(net_backend_link(b.backend));
    end_close(&a);
    end_close(&b);
    free(path);
}

static void test_tcp(void)
{
    End a, b;
    char address[128];
    end_open(&a, &(NetSocketOptions){.listen = "127.0.0.1:0"}, 0);
    CHECK(net_socket_address(a.backend, address, sizeof address) > 10);
    end_open(&b, &(NetSocketOptions){.connect = address}, 0);
    exchange(&a, &b);
    end_close(&a);
    end_close(&b);
}

static void test_datagrams(void)
{
    End a, b;
    char *one = temp_path("one"), *two = temp_path("two");
    end_open(&a, &(NetSocketOptions){.local = one, .remote = two}, 0);
    end_open(&b, &(NetSocketOptions){.local = two, .remote = one}, 0);
    exchange(&a, &b);
    end_close(&b);
    CHECK(send_bytes(&a, "a frame for nobody", 18, NULL) < 0); /* counted, and the next peer is heard */
    end_open(&b, &(NetSocketOptions){.local = two, .remote = one}, 0);
    CHECK_EQ(send_bytes(&a, "a frame for somebody", 20, NULL), 0);
    CHECK(nic_next(b.nic, PATIENCE));
    end_close(&a);
    end_close(&b);
    free(one);
    free(two);
}

/* A GSO frame crosses a link whole for a NIC that takes it, and cut for one that does not. */
static void check_link(uint32_t offloads, bool cut)
{
    static uint8_t frame[NET_FRAME_MAX];
    End a, b;
    int ends[2];
    FrameSpec spec = {.payload = 60000, .tcp_flags = 0x18};
    NetHeader header;
    uint32_t length = frame_build(frame, &spec, &header), payload = 0;
    header.gso_type = NET_GSO_TCPV4, header.gso_size = 1448;
    CHECK_EQ(net_socket_pair(ends), 0);
    end_open(&a, &(NetSocketOptions){.fd = ends[0], .header = true}, offloads);
    end_open(&b, &(NetSocketOptions){.fd = ends[1], .header = true}, offloads);
    exchange(&a, &b);
    CHECK_EQ(send_bytes(&a, frame, length, &header), 0);
    while (payload < spec.payload) {
        const NicFrame *got = nic_next(b.nic, PATIENCE);
        CHECK(got);
        if (cut)
            frame_verify(got->bytes, got->length, &spec);
        else
            CHECK_EQ(memcmp(&got->header, &header, sizeof header), 0);
        for (uint32_t i = frame_data(&spec); i < got->length; i++, payload++)
            CHECK_EQ(got->bytes[i], payload_byte(payload));
    }
    header.csum_start = 60000; /* an honest frame of a guest that lies */
    header.csum_offset = 6000;
    CHECK_EQ(send_bytes(&a, frame, length, &header), -EINVAL);
    end_close(&a);
    WAIT_FOR(!net_backend_link(b.backend));
    end_close(&b);
}

static void test_link(void)
{
    check_link(NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4, false);
    check_link(NET_OFFLOAD_CSUM, true);
    check_link(0, true);
}

static int plain_pair(End *end, int type, bool header)
{
    int ends[2];
    CHECK_EQ(socketpair(AF_UNIX, type, 0, ends), 0);
    end_open(end, &(NetSocketOptions){.fd = ends[0], .header = header}, 0);
    return ends[1];
}

/* QEMU's format: in pieces of a byte, then a length that cannot be. */
static void test_stream_format(void)
{
    End end;
    int fd = plain_pair(&end, SOCK_STREAM, false);
    uint8_t bytes[4 + 60] = {0, 0, 0, 60}, back[64];
    fill(bytes + 4, 60, 1);
    for (uint32_t i = 0; i < sizeof bytes; i++)
        CHECK_EQ(write(fd, bytes + i, 1), 1);
    const NicFrame *got = nic_next(end.nic, PATIENCE);
    CHECK(got && got->length == 60);
    CHECK_EQ(memcmp(got->bytes, bytes + 4, 60), 0);
    CHECK_EQ(send_bytes(&end, bytes + 4, 60, NULL), 0);
    CHECK_EQ(recv(fd, back, 64, MSG_WAITALL), 64);
    CHECK_EQ(memcmp(back, bytes, 64), 0);
    CHECK_EQ(write(fd, "\0\0\0\5short", 9), 9); /* not a frame: dropped */
    CHECK_EQ(write(fd, bytes, 64), 64);
    CHECK(nic_next(end.nic, PATIENCE));
    CHECK_EQ(write(fd, "\xff\xff\xff\xff", 4), 4); /* nobody knows where the next one begins */
    WAIT_FOR(!net_backend_link(end.backend));
    close(fd);
    end_close(&end);
}

/* A peer that does not read: sends come back -EAGAIN, and none is lost or twice. */
static void test_slow_peer(void)
{
    End end;
    int fd = plain_pair(&end, SOCK_STREAM, false);
    static uint8_t frame[1514], back[4 + sizeof frame];
    uint32_t sent = 0;
    for (int result = 0; result == 0; sent += result == 0) {
        fill(frame, sizeof frame, sent);
        result = send_bytes(&end, frame, sizeof frame, NULL);
        CHECK(result == 0 || result == -EAGAIN);
        CHECK(sent < 100000);
    }
    CHECK_EQ(end.nic->writable, 0);
    for (uint32_t i = 0; i < sent; i++) {
        CHECK_EQ(recv(fd, back, sizeof back, MSG_WAITALL), sizeof back);
        fill(frame, sizeof frame, i);
        CHECK_EQ(load_be32(back), sizeof frame);
        CHECK_EQ(memcmp(back + 4, frame, sizeof frame), 0);
    }
    WAIT_FOR(__atomic_load_n(&end.nic->writable, __ATOMIC_SEQ_CST) > 0);
    CHECK_EQ(send_bytes(&end, frame, sizeof frame, NULL), 0);
    close(fd);
    WAIT_FOR(!net_backend_link(end.backend));
    end_close(&end);
}

/* The same the other way: frames stay with the sender while there are no buffers, and all come at last. */
static void check_no_buffers(int type)
{
    End end;
    int fd = plain_pair(&end, type, false);
    uint8_t bytes[4 + 1000] = {0, 0, 3, 232};
    uint32_t skip = type == SOCK_STREAM ? 0 : 4, sent = 0;
    nic_set_full(end.nic, true);
    while (sent < 3000) {
        store_be32(bytes + 20, sent);
        ssize_t n = send(fd, bytes + skip, sizeof bytes - skip, MSG_DONTWAIT);
        CHECK(n == (ssize_t)(sizeof bytes - skip) || n < 0);
        if (n < 0)
            break;
        sent++;
    }
    WAIT_FOR(__atomic_load_n(&end.nic->refused, __ATOMIC_SEQ_CST) > 0);
    CHECK(sent > 10 && sent < 3000); /* the sender was stopped */
    nic_set_full(end.nic, false);
    for (uint32_t i = 0; i < sent; i++) {
        const NicFrame *got = nic_next(end.nic, PATIENCE);
        CHECK(got);
        CHECK_EQ(load_be32(got->bytes + 16), i);
    }
    NetCounters counters;
    net_backend_counters(end.backend, &counters);
    CHECK_EQ(counters.rx_drops, 0);
    close(fd);
    end_close(&end);
}

static void test_no_buffers(void)
{
    check_no_buffers(SOCK_STREAM);
    check_no_buffers(SOCK_SEQPACKET);
}

/* A peer's header is no more believed than a guest's. */
static void test_bad_header(void)
{
    End end;
    int fd = plain_pair(&end, SOCK_SEQPACKET, true);
    static uint8_t packet[10 + 60];
    NetHeader bad = {NET_NEEDS_CSUM, NET_GSO_TCPV4, 0, 1000, 0xffff, 0xffff};
    memcpy(packet, &bad, sizeof bad);
    CHECK_EQ(write(fd, packet, sizeof packet), sizeof packet);
    bad.csum_start = 34, bad.csum_offset = 16; /* possible, but there is no TCP */
    memcpy(packet, &bad, sizeof bad);
    CHECK_EQ(write(fd, packet, sizeof packet), sizeof packet);
    memset(packet, 0, sizeof packet);
    CHECK_EQ(write(fd, packet, sizeof packet), sizeof packet);
    const NicFrame *got = nic_next(end.nic, PATIENCE);
    CHECK(got && got->length == 60);
    NetCounters counters;
    net_backend_counters(end.backend, &counters);
    CHECK_EQ(counters.rx_drops, 2);
    CHECK_EQ(counters.rx_frames, 1);
    close(fd);
    end_close(&end);
}

static void test_cable(void)
{
    End a, b;
    int ends[2];
    uint8_t frame[60] = {0};
    CHECK_EQ(net_socket_pair(ends), 0);
    end_open(&a, &(NetSocketOptions){.fd = ends[0], .header = true}, 0);
    end_open(&b, &(NetSocketOptions){.fd = ends[1], .header = true}, 0);
    net_backend_set_link(b.backend, false);
    WAIT_FOR(!__atomic_load_n(&b.nic->up, __ATOMIC_SEQ_CST));
    CHECK_EQ(send_bytes(&b, frame, 60, NULL), -ENOLINK);
    CHECK_EQ(send_bytes(&a, frame, 60, NULL), 0);
    CHECK(!nic_next(b.nic, 20));
    net_backend_set_link(b.backend, true);
    WAIT_FOR(__atomic_load_n(&b.nic->up, __ATOMIC_SEQ_CST));
    CHECK_EQ(send_bytes(&a, frame, 60, NULL), 0);
    CHECK(nic_next(b.nic, PATIENCE));
    CHECK_EQ(net_connect(a.backend, &nic_ops, b.nic), -EBUSY);
    end_close(&a);
    end_close(&b);
}

/* While the board is paused nothing is read. */
static void test_pause(void)
{
    End end;
    int fd = plain_pair(&end, SOCK_SEQPACKET, false);
    uint8_t frame[60] = {0};
    board_pause_io(end.board);
    CHECK_EQ(write(fd, frame, sizeof frame), sizeof frame);
    CHECK(!nic_next(end.nic, 30));
    board_resume_io(end.board);
    CHECK(nic_next(end.nic, PATIENCE));
    close(fd);
    end_close(&end);
}

/* No I/O thread: frames come from the clock's timer, on the thread that moves it. */
static void test_virtual_clock(void)
{
    Error error = {0};
    int ends[2];
    uint8_t frame[60] = {0};
    Board *board = board_new(CLOCK_KIND_VIRTUAL, &error);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    IoThread *io = board_add_worker(board, "net-0", &error);
    NetBackend *backend = net_socket_new(board, io, &(NetSocketOptions){.fd = ends[0]}, &error);
    CHECK(backend);
    TestNic *nic = nic_new(backend, 0);
    CHECK_EQ(board_start_io(board, &error), 0);
    CHECK_EQ(write(ends[1], frame, sizeof frame), sizeof frame);
    CHECK_EQ(nic->count, 0);
    clock_advance(board->clock, 2000000);
    clock_run_timers(board->clock);
    CHECK_EQ(nic->count, 1);
    close(ends[1]);
    nic_free(nic);
    net_backend_free(backend);
    board_free(board);
}

static void test_capture(void)
{
    End a, b;
    Error error = {0};
    int ends[2];
    static uint8_t frame[1000], file[4096];
    char *path = temp_path("capture");
    CHECK_EQ(net_socket_pair(ends), 0);
    end_open(&a, &(NetSocketOptions){.fd = ends[0], .header = true}, 0);
    end_open(&b, &(NetSocketOptions){.fd = ends[1], .header = true}, 0);
    CHECK_EQ(net_backend_capture(a.backend, "/nonexistent/x", 0, &error), -ENOENT);
    CHECK_EQ(net_backend_capture(a.backend, path + 5, 3, &error), -EINVAL);
    CHECK_EQ(net_backend_capture(a.backend, path + 5, 100, &error), 0);
    fill(frame, sizeof frame, 5);
    CHECK_EQ(send_bytes(&a, frame, sizeof frame, NULL), 0);
    CHECK_EQ(send_bytes(&b, frame, 60, NULL), 0);
    CHECK(nic_next(a.nic, PATIENCE));
    CHECK_EQ(net_backend_capture_stop(a.backend, &error), 0);
    FILE *pcap = fopen(path + 5, "rb");
    CHECK_EQ(fread(file, 1, sizeof file, pcap), 24 + 16 + 100 + 16 + 60);
    fclose(pcap);
    CHECK_EQ(load_le32(file), 0xa1b23c4d);
    CHECK_EQ(load_le32(file + 20), 1);
    CHECK_EQ(load_le32(file + 24 + 8), 100);
    CHECK_EQ(load_le32(file + 24 + 12), 1000);
    CHECK(load_le32(file + 24 + 4) < 1000000000);
    CHECK_EQ(memcmp(file + 40, frame, 100), 0);
    CHECK_EQ(load_le32(file + 140 + 12), 60);
    if (access("/dev/full", W_OK) == 0) {
        CHECK_EQ(net_backend_capture(a.backend, "/dev/full", 0, &error), 0);
        CHECK_EQ(send_bytes(&a, frame, sizeof frame, NULL), 0);
        CHECK_EQ(net_backend_capture_stop(a.backend, &error), -ENOSPC);
    }
    unlink(path + 5);
    free(path);
    end_close(&a);
    end_close(&b);
}

static void test_refused(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    const struct {
        NetSocketOptions options;
        const char *says;
    } wrong[] = {
        {{0}, "one of listen="},
        {{.listen = "unix:a", .connect = "unix:b"}, "one of listen="},
        {{.listen = "nowhere"}, "listen=nowhere"},
        {{.listen = "unix:"}, "listen=unix:"},
        {{.connect = "127.0.0.1:1"}, "connect=127.0.0.1:1"},
        {{.connect = "127.0.0.1:99999999"}, "connect="},
        {{.remote = "unix:/tmp/x"}, "local="},
        {{.remote = "unix:/tmp/x", .local = "127.0.0.1:0"}, "two kinds"},
        {{.fd = 9999}, "fd=9999"},
        {{.listen = "unix:/nonexistent/socket"}, "listen="},
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        CHECK(!net_socket_new(board, board->io, &wrong[i].options, &error));
        CHECK(strstr(error.text, wrong[i].says));
    }
    board_free(board);
}

int main(void)
{
    RUN(test_refused);
    RUN(test_unix_stream);
    RUN(test_tcp);
    RUN(test_datagrams);
    RUN(test_link);
    RUN(test_stream_format);
    RUN(test_slow_peer);
    RUN(test_no_buffers);
    RUN(test_bad_header);
    RUN(test_cable);
    RUN(test_pause);
    RUN(test_virtual_clock);
    RUN(test_capture);
    return 0;
}
