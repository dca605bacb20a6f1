/* The 9P device: requests in any number of pieces, chains that are no requests, resets under load (the messages
 * themselves: test_p9.c). */
#include "virtio/virtio_9p.h"

#include "p9_client.h"
#include "virtio_driver.h"

enum { IN = DRIVER_DATA, OUT = DRIVER_DATA + 0x100000, BIG = 40000 };

typedef struct Share {
    Driver driver;
    char folder[64];
} Share;

static void share_up(Share *share, enum ClockKind clock, bool worker)
{
    Error error = {0};
    strcpy(share->folder, "/tmp/pyvmm-9p-XXXXXX");
    CHECK(mkdtemp(share->folder));
    client_write_file(share->folder, "file", "what is in the file");
    VirtioPlace place = driver_new(&share->driver, clock);
    if (worker)
        place.io = board_add_worker(share->driver.board, "9p-0", &error);
    Virtio9pOptions options = {.path = share->folder, .tag = "tag"};
    share->driver.device = virtio_9p_new(share->driver.board, &place, &options, &error);
    CHECK(share->driver.device);
    CHECK_EQ(board_start_io(share->driver.board, &error), 0);
    driver_start(&share->driver, VIRTIO_9P_F_MOUNT_TAG, 1);
}

static void share_down(Share *share)
{
    driver_free(&share->driver);
    CHECK_EQ(nftw(share->folder, client_delete, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static P9Counters counters_of(Share *share)
{
    P9Counters counters;
    virtio_9p_counters(share->driver.device, &counters);
    return counters;
}

/* One chain: `sent` bytes at IN and room for `room` at OUT, cut into pieces of `piece` bytes; the last takes the
 * rest.
 */
static void offer(Share *share, uint32_t sent, uint32_t room, uint32_t piece)
{
    DriverQueue *queue = &share->driver.queues[0];
    uint16_t index = (uint16_t)(queue->made % 2 * (DRIVER_SIZE / 2)), head = index, half = DRIVER_SIZE / 4;
    for (uint32_t way = 0; way < 2; way++) {
        uint32_t left = way ? room : sent;
        gpa_t at = way ? OUT : IN;
        for (uint16_t count = 1; left; count++, index++) {
            uint32_t n = count == half ? left : MIN(piece, left);
            left -= n;
            bool last = left == 0 && (way || room == 0);
            queue->desc[index] =
                (VirtqDesc){.addr = at,
                            .len = n,
                            .flags = (uint16_t)((way ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT)),
                            .next = (uint16_t)(index + 1)};
            at += n;
        }
    }
    queue->avail->ring[queue->made % DRIVER_SIZE] = head;
    __atomic_store_n(&queue->avail->idx, ++queue->made, __ATOMIC_SEQ_CST);
}

static uint32_t put_message(Share *share, uint8_t type, const void *body, uint32_t bytes)
{
    uint8_t *to = driver_ram(&share->driver, IN);
    store_le32(to, 7 + bytes);
    to[4] = type;
    store_le16(to + 5, 77);
    memcpy(to + 7, body, bytes);
    return 7 + bytes;
}

/* Send one, and look at the reply: its body. */
static const uint8_t *request(Share *share, uint8_t type, const void *body, uint32_t bytes, uint32_t room,
                              uint32_t piece)
{
    offer(share, put_message(share, type, body, bytes), room, piece);
    driver_kick(&share->driver, 0);
    const uint8_t *reply = driver_ram(&share->driver, OUT);
    CHECK_EQ(driver_used(&share->driver, 0), load_le32(reply));
    CHECK_EQ(load_le16(reply + 5), 77);
    CHECK_EQ(reply[4], type + 1);
    return reply + 7;
}

static void mount_it(Share *share, uint32_t piece)
{
    static const char version[] = "\0\0\4\0\x08\0"
                                  "9P2000.L";
    static const char attach[] = "\1\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0";
    request(share, 100, version, sizeof version - 1, 100, piece);
    request(share, 104, attach, sizeof attach - 1, 100, piece);
}

static void test_pieces(void)
{
    static const uint32_t pieces[] = {1, 3, 5, 7, 11, 1000, 100000};
    Share share;
    share_up(&share, CLOCK_KIND_VIRTUAL, false);
    static uint8_t body[16 + BIG];
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        uint32_t piece = pieces[i];
        mount_it(&share, piece);
        request(&share, 110, "\1\0\0\0\2\0\0\0\1\0\4\0file", 16, 50, piece);
        request(&share, 12, "\2\0\0\0\2\0\0\0", 8, 50, piece);
        memcpy(body, "\2\0\0\0", 4);
        store_le64(body + 4, 10 * i);
        store_le32(body + 12, BIG);
        for (uint32_t at = 0; at < BIG; at++)
            body[16 + at] = (uint8_t)(at * 7 + i);
        CHECK_EQ(load_le32(request(&share, 118, body, sizeof body, 50, piece)), BIG);
        const uint8_t *reply = request(&share, 116, body, 16, 7 + 4 + BIG, piece);
        CHECK_EQ(load_le32(reply), BIG);
        CHECK_EQ(memcmp(reply + 4, body + 16, BIG), 0);
        memset(driver_ram(&share.driver, OUT), 0xee, 2000);
        reply = request(&share, 116, body, 16, 7 + 4 + 1000, piece); /* as much as there is room for */
        CHECK_EQ(load_le32(reply), 1000);
        CHECK_EQ(memcmp(reply + 4, body + 16, 1000), 0);
        CHECK_EQ(reply[4 + 1000], 0xee);
    }
    VirtioCounters counters;
    virtio_counters(share.driver.device, &counters);
    CHECK_EQ(counters.faults, 0);
    share_down(&share);
}

static void test_no_requests(void)
{
    static const struct {
        uint32_t sent, room;
    } chains[] = {{6, 100}, {0, 100}, {20, 0}, {20, 10}};
    Share share;
    share_up(&share, CLOCK_KIND_VIRTUAL, false);
    for (size_t i = 0; i < ARRAY_SIZE(chains); i++) {
        put_message(&share, 120, "\0\0\0\0", 4);
        offer(&share, chains[i].sent, chains[i].room, 100);
        driver_kick(&share.driver, 0);
        CHECK(driver_status(&share.driver) & VIRTIO_STATUS_NEEDS_RESET);
        driver_start(&share.driver, 0, 1);
        mount_it(&share, 100);
        CHECK_EQ(counters_of(&share).fids, 1);
        driver_start(&share.driver, 0, 1); /* forgets it */
        CHECK_EQ(counters_of(&share).fids, 0);
    }
    check_save_restore(share.driver.device);
    share_down(&share);
}

static void test_mounted_state_is_refused(void)
{
    Share share;
    static VirtioPciState state;
    share_up(&share, CLOCK_KIND_VIRTUAL, false);
    mount_it(&share, 100);
    device_save(share.driver.device, &state);
    CHECK_EQ(device_restore(share.driver.device, &state), -EINVAL);
    CHECK_EQ(counters_of(&share).fids, 0);
    share_down(&share);
}

/* On a thread of its own, reset while requests are under way: none is left behind, and the next driver starts anew.
 */
static void test_reset_under_load(void)
{
    Share share;
    static uint8_t body[16 + BIG];
    share_up(&share, CLOCK_KIND_REALTIME, true);
    memcpy(body, "\1\0\0\0\0\0\0\0\0\0\0\0", 12);
    store_le32(body + 12, BIG);
    uint32_t bytes = put_message(&share, 118, body, sizeof body); /* a write to what is not open: an error each */
    for (uint32_t round = 0; round < 300; round++) {
        for (uint32_t i = 0; i < 1 + round % 2; i++)
            offer(&share, bytes, 100, 9000);
        driver_kick(&share.driver, 0);
        if (round % 3 == 0)
            usleep(50);
        driver_start(&share.driver, 0, 1);
    }
    offer(&share, bytes, 100, 9000);
    driver_kick(&share.driver, 0);
    int64_t used;
    while ((used = driver_used(&share.driver, 0)) < 0)
        usleep(100);
    CHECK_EQ(used, 11);
    CHECK(counters_of(&share).requests >= 1);
    share_down(&share);
}

int main(void)
{
    RUN(test_pieces);
    RUN(test_no_requests);
    RUN(test_mounted_state_is_refused);
    RUN(test_reset_under_load);
    return 0;
}
