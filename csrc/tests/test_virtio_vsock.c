/* The socket device: packets in any number of pieces, buffers that are none, and its I/O thread under load with
 * resets (connections: test_vsock.c). */
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "virtio/virtio_vsock.h"

#include "virtio_driver.h"

enum { CID = 5, PORT = 9, RX_DATA = DRIVER_DATA, TX_DATA = DRIVER_DATA + 0x200000, SLOT = 0x4000 };

typedef struct Guest {
    Driver driver;
    char folder[40], path[64];
    int listener;
} Guest;

static void guest_up(Guest *guest, enum ClockKind clock)
{
    Error error = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(guest->folder, "/tmp/pyvmm-vsock-XXXXXX");
    CHECK(mkdtemp(guest->folder));
    snprintf(guest->path, sizeof guest->path, "%s/v", guest->folder);
    VirtioPlace place = driver_new(&guest->driver, clock);
    if (clock == CLOCK_KIND_REALTIME)
        place.io = board_add_worker(guest->driver.board, "vsock", &error);
    guest->driver.device = virtio_vsock_new(guest->driver.board, &place, guest->path, CID, &error);
    CHECK(guest->driver.device);
    CHECK_EQ(board_start_io(guest->driver.board, &error), 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s_%d", guest->path, PORT);
    guest->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(guest->listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(guest->listener, 100), 0);
    driver_start(&guest->driver, VIRTIO_VSOCK_F_STREAM, 3);
}

static void guest_down(Guest *guest)
{
    char name[80];
    driver_free(&guest->driver);
    close(guest->listener);
    snprintf(name, sizeof name, "%s_%d", guest->path, PORT);
    CHECK_EQ(unlink(name), 0);
    CHECK_EQ(rmdir(guest->folder), 0); /* and its own socket is gone */
}

/* A chain at descriptors of its own: `bytes` from `at` on, in four pieces of which three have `piece` bytes. */
static void offer(Guest *guest, uint16_t index, gpa_t at, uint32_t bytes, uint32_t piece)
{
    DriverQueue *queue = &guest->driver.queues[index];
    uint16_t head = (uint16_t)(queue->made % (DRIVER_SIZE / 4) * 4);
    for (uint16_t i = 0; i < 4 && bytes; i++) {
        uint32_t n = i == 3 ? bytes : MIN(piece, bytes);
        bytes -= n;
        queue->desc[head + i] =
            (VirtqDesc){.addr = at,
                        .len = n,
                        .flags = (uint16_t)((index == VIRTIO_VSOCK_TX ? 0 : VIRTQ_DESC_F_WRITE) |
                                            (bytes ? VIRTQ_DESC_F_NEXT : 0)),
                        .next = (uint16_t)(head + i + 1)};
        at += n;
    }
    queue->avail->ring[queue->made % DRIVER_SIZE] = head;
    __atomic_store_n(&queue->avail->idx, ++queue->made, __ATOMIC_SEQ_CST);
}

static void say(Guest *guest, uint16_t op, uint32_t port, const char *text, uint32_t piece)
{
    uint16_t slot = guest->driver.queues[VIRTIO_VSOCK_TX].made % (DRIVER_SIZE / 4);
    gpa_t at = TX_DATA + SLOT * slot;
    VsockHeader header = {.src_cid = CID,
                          .dst_cid = VSOCK_HOST_CID,
                          .src_port = port,
                          .dst_port = PORT,
                          .len = (uint32_t)strlen(text),
                          .type = VSOCK_TYPE_STREAM,
                          .op = op,
                          .buf_alloc = 1 << 20};
    memcpy(driver_ram(&guest->driver, at), &header, sizeof header);
    memcpy(driver_ram(&guest->driver, at + sizeof header), text, strlen(text));
    offer(guest, VIRTIO_VSOCK_TX, at, (uint32_t)(sizeof header + strlen(text)), piece);
    driver_kick(&guest->driver, VIRTIO_VSOCK_TX);
}

/* Offer a receive buffer; the packet that came into it, or NULL. */
static const VsockHeader *hear(Guest *guest, uint32_t room, uint32_t piece)
{
    DriverQueue *queue = &guest->driver.queues[VIRTIO_VSOCK_RX];
    gpa_t at = RX_DATA + (gpa_t)SLOT * (queue->made % (DRIVER_SIZE / 4));
    memset(driver_ram(&guest->driver, at), 0xee, room + 8);
    offer(guest, VIRTIO_VSOCK_RX, at, room, piece);
    driver_kick(&guest->driver, VIRTIO_VSOCK_RX);
    const VsockHeader *header = (const VsockHeader *)driver_ram(&guest->driver, at);
    int64_t used = driver_used(&guest->driver, VIRTIO_VSOCK_RX);
    if (used < 0)
        return NULL;
    CHECK_EQ(used, sizeof *header + header->len);
    CHECK_EQ(((const uint8_t *)header)[used], 0xee);
    return header;
}

static void test_pieces(void)
{
    static const uint32_t pieces[] = {1, 10, 43, 44, 45, 4000};
    Guest guest;
    char text[64];
    guest_up(&guest, CLOCK_KIND_VIRTUAL);
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        say(&guest, VSOCK_OP_REQUEST, 100 + (uint32_t)i, "", pieces[i]);
        const VsockHeader *header = hear(&guest, 200, pieces[i]);
        CHECK(header && header->op == VSOCK_OP_RESPONSE && header->dst_port == 100 + i);
        int program = accept(guest.listener, NULL, NULL);
        say(&guest, VSOCK_OP_RW, 100 + (uint32_t)i, "from the guest", pieces[i]);
        CHECK_EQ(read(program, text, sizeof text), 14);
        CHECK_EQ(memcmp(text, "from the guest", 14), 0);
        CHECK_EQ(write(program, "from the host", 13), 13);
        header = hear(&guest, 44 + 5, pieces[i]);
        CHECK(header && header->op == VSOCK_OP_RW && header->len == 5 && !memcmp(header + 1, "from ", 5));
        header = hear(&guest, 200, pieces[i]);
        CHECK(header && header->len == 8 && !memcmp(header + 1, "the host", 8));
        close(program);
        header = hear(&guest, 100, pieces[i]);
        CHECK(header && header->op == VSOCK_OP_SHUTDOWN && header->flags == VSOCK_SHUTDOWN_BOTH);
        say(&guest, VSOCK_OP_RST, 100 + (uint32_t)i, "", pieces[i]);
        while (driver_used(&guest.driver, VIRTIO_VSOCK_TX) >= 0)
            ;
    }
    VirtioCounters counters;
    virtio_counters(guest.driver.device, &counters);
    CHECK_EQ(counters.faults, 0);
    check_save_restore(guest.driver.device);
    guest_down(&guest);
}

static void test_no_packets(void)
{
    Guest guest;
    guest_up(&guest, CLOCK_KIND_VIRTUAL);
    for (uint32_t bytes = 1; bytes < 44; bytes += 7) {
        offer(&guest, VIRTIO_VSOCK_TX, TX_DATA, bytes, 5);
        driver_kick(&guest.driver, VIRTIO_VSOCK_TX);
        CHECK(driver_status(&guest.driver) & VIRTIO_STATUS_NEEDS_RESET);
        driver_start(&guest.driver, 0, 3);
        say(&guest, VSOCK_OP_REQUEST, 1, "", 100);
        offer(&guest, VIRTIO_VSOCK_RX, RX_DATA, bytes, 5);
        driver_kick(&guest.driver, VIRTIO_VSOCK_RX);
        CHECK(driver_status(&guest.driver) & VIRTIO_STATUS_NEEDS_RESET);
        driver_start(&guest.driver, 0, 3);
        CHECK(!hear(&guest, 100, 100)); /* the connection went with the reset */
    }
    driver_start(&guest.driver, 0, 3);
    say(&guest, VSOCK_OP_RW, 1, "", 100);
    driver_add(&guest.driver, VIRTIO_VSOCK_RX, RX_DATA, 100, false); /* a buffer to be read, where one is written */
    driver_kick(&guest.driver, VIRTIO_VSOCK_RX);
    CHECK(driver_status(&guest.driver) & VIRTIO_STATUS_NEEDS_RESET);
    guest_down(&guest);
}

/* Programs write all the time, the driver is reset all the time: no connection outlives its driver. */
static void test_reset_under_load(void)
{
    Guest guest;
    static char block[30000];
    guest_up(&guest, CLOCK_KIND_REALTIME);
    for (uint32_t round = 0; round < 200; round++) {
        int programs[4] = {-1, -1, -1, -1};
        for (uint32_t i = 0; i < ARRAY_SIZE(programs); i++) {
            offer(&guest, VIRTIO_VSOCK_RX, RX_DATA + SLOT * i, 4096, 44);
            say(&guest, VSOCK_OP_REQUEST, i, "", 20);
        }
        driver_kick(&guest.driver, VIRTIO_VSOCK_RX);
        for (uint32_t i = 0; i < ARRAY_SIZE(programs); i++) {
            programs[i] = accept4(guest.listener, NULL, NULL, SOCK_NONBLOCK);
            for (uint32_t tries = 0; programs[i] < 0 && tries < 10000; tries++) {
                usleep(100);
                programs[i] = accept4(guest.listener, NULL, NULL, SOCK_NONBLOCK);
            }
            CHECK(programs[i] >= 0);
            CHECK(send(programs[i], block, sizeof block, MSG_NOSIGNAL) != 0);
            offer(&guest, VIRTIO_VSOCK_RX, RX_DATA + 0x40000 + SLOT * i, 4096, 44);
            driver_kick(&guest.driver, VIRTIO_VSOCK_RX);
        }
        if (round % 4 == 0)
            usleep(200);
        driver_start(&guest.driver, 0, 3);
        VsockCounters counters;
        virtio_vsock_counters(guest.driver.device, &counters);
        CHECK_EQ(counters.connections, 0);
        for (uint32_t i = 0; i < ARRAY_SIZE(programs); i++)
            close(programs[i]);
    }
    VirtioCounters counters;
    virtio_counters(guest.driver.device, &counters);
    CHECK_EQ(counters.faults, 0);
    guest_down(&guest);
}

int main(void)
{
    RUN(test_pieces);
    RUN(test_no_packets);
    RUN(test_reset_under_load);
    return 0;
}
