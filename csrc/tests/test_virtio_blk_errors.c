/*
 * virtio-blk when its host fails: errors to the driver, or a machine that stops and tries again; several queues;
 * the recorder, and the view of a queue.
 */
#include "block/image.h"
#include "virtio/virtio_view.h"
#include "virtio_mock.h"

/* An image that fails where it is told to. */
typedef struct BadImage {
    BlockFormat format;
    int write_error, read_error, flush_error; /* -errno */
    uint64_t from;                            /* offsets from here on fail */
} BadImage;

static BadImage *bad_of(BlockImage *image) { return container_of(image->format, BadImage, format); }

static int bad_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    uint64_t end = offset;
    for (int i = 0; i < iovcnt; i++)
        end += iov[i].iov_len;
    if (bad_of(image)->write_error && end > bad_of(image)->from)
        return bad_of(image)->write_error;
    return raw_format.pwritev(image, iov, iovcnt, offset);
}

static int bad_preadv(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    return bad_of(image)->read_error ? bad_of(image)->read_error : raw_format.preadv(image, iov, iovcnt, offset);
}

static int bad_flush(BlockImage *image)
{
    return bad_of(image)->flush_error ? bad_of(image)->flush_error : raw_format.flush(image);
}

static void make(Mock *mock, BadImage *bad, enum VirtioBlkOnError on_read, enum VirtioBlkOnError on_write)
{
    VirtioBlkOptions options = {.on_read_error = on_read, .on_write_error = on_write};
    mock_new(mock, CLOCK_KIND_VIRTUAL, &options, 0);
    *bad = (BadImage){.format = raw_format};
    bad->format.preadv = bad_preadv;
    bad->format.pwritev = bad_pwritev;
    bad->format.flush = bad_flush;
    mock->image->format = &bad->format;
    mock_assign(mock, 11);
    mock_start(mock, true, VIRTIO_BLK_F_FLUSH);
}

static void drop(Mock *mock)
{
    mock->image->format = &raw_format;
    mock_free(mock);
}

static enum SystemRequest request_of(Mock *mock, uint32_t *code) { return board_take_request(mock->board, code); }

static void test_report(void)
{
    Mock mock;
    BadImage bad;
    uint32_t code;
    make(&mock, &bad, VIRTIO_BLK_ON_ERROR_REPORT, VIRTIO_BLK_ON_ERROR_REPORT);
    bad.write_error = -ENOSPC;
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    bad.write_error = 0;
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    bad.read_error = bad.flush_error = -EIO;
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_FLUSH, 0, MOCK_DATA, 0), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(request_of(&mock, &code), SYSTEM_NONE);
    drop(&mock);
}

/* Three in one batch, the second fails: the first completes, the others are the next ones again. */
static void test_stop_and_go_on(void)
{
    Mock mock;
    BadImage bad;
    uint32_t code;
    make(&mock, &bad, VIRTIO_BLK_ON_ERROR_REPORT, VIRTIO_BLK_ON_ERROR_ENOSPC);
    for (uint16_t tag = 0; tag < 3; tag++) {
        memset(mock_ram(&mock, MOCK_DATA + 512u * tag), 'a' + tag, 512);
        mock_queue(&mock, tag, VIRTIO_BLK_T_OUT, 2u * tag, MOCK_DATA + 512u * tag, 512);
    }
    bad.write_error = -ENOSPC;
    bad.from = 1024;
    mock_kick(&mock);
    CHECK_EQ(mock_used_idx(&mock), 1);
    CHECK_EQ(mock_result(&mock, 0), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_result(&mock, 1), 0xee); /* untouched */
    CHECK_EQ(request_of(&mock, &code), SYSTEM_IO_ERROR);
    CHECK_EQ(code, ENOSPC);
    CHECK_EQ(virtio_blk_stopped_by(mock.blk), ENOSPC);
    mock_kick(&mock); /* nobody looks */
    CHECK_EQ(mock_used_idx(&mock), 1);

    virtio_blk_go_on(mock.blk); /* still full */
    CHECK_EQ(mock_used_idx(&mock), 1);
    CHECK_EQ(request_of(&mock, &code), SYSTEM_IO_ERROR);
    bad.write_error = 0;
    virtio_blk_go_on(mock.blk);
    CHECK_EQ(mock_used_idx(&mock), 3);
    CHECK_EQ(virtio_blk_stopped_by(mock.blk), 0);
    CHECK_EQ(request_of(&mock, &code), SYSTEM_NONE);
    uint8_t disk[512 * 5];
    CHECK_EQ(block_pread(mock.image, disk, sizeof disk, 0), 0);
    for (uint16_t tag = 0; tag < 3; tag++) {
        CHECK_EQ(mock_result(&mock, tag), VIRTIO_BLK_S_OK);
        CHECK_EQ(disk[1024 * tag], 'a' + tag);
        CHECK_EQ(mock.used_ring->ring[tag].id, 3u * tag);
    }
    drop(&mock);
}

/* ENOSPC is another matter than EIO for `enospc`; `stop` takes both; a driver's mistake is never one of the host's.
 */
static void test_policies(void)
{
    Mock mock;
    BadImage bad;
    uint32_t code;
    make(&mock, &bad, VIRTIO_BLK_ON_ERROR_STOP, VIRTIO_BLK_ON_ERROR_ENOSPC);
    bad.write_error = -EIO;
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, MOCK_DISK / 512, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(request_of(&mock, &code), SYSTEM_NONE);
    bad.read_error = -EIO;
    mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock_kick(&mock);
    CHECK_EQ(mock_used_idx(&mock), mock.used);
    CHECK_EQ(request_of(&mock, &code), SYSTEM_IO_ERROR);
    CHECK_EQ(code, EIO);
    /* A reset is not in need of the host: what was stopped for is forgotten. */
    bad.read_error = 0;
    mock_start(&mock, true, 0);
    CHECK_EQ(virtio_blk_stopped_by(mock.blk), 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    drop(&mock);
}

/* Somebody cuts the file, or takes its name away: errors, no signal, and it works again when there is a file again.
 */
static void test_truncated(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, true, VIRTIO_BLK_F_FLUSH);
    CHECK_EQ(truncate(mock.path, 4096), 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 4096), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 4, MOCK_DATA, 4096), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 100, MOCK_DATA, 4096), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 8, MOCK_DATA, 4096), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 8, MOCK_DATA, 4096), VIRTIO_BLK_S_OK);
    unlink(mock.path);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 8, MOCK_DATA, 4096), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 8, MOCK_DATA, 4096), VIRTIO_BLK_S_OK);
    mock_free(&mock);
}

static void test_queues(void)
{
    Mock mock;
    VirtioBlkOptions options = {.num_queues = 3};
    mock_new(&mock, CLOCK_KIND_VIRTUAL, &options, 0);
    mock_assign(&mock, 11);
    CHECK(virtio_device_features(mock.blk) & VIRTIO_BLK_F_MQ);
    CHECK_EQ(mock_modern_read(&mock, COMMON_NUM_QUEUES, 2), 3);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_NUM_QUEUES, 2), 3);
    CHECK_EQ(virtio_queue_count(mock.blk), 3);
    mock_start(&mock, true, VIRTIO_BLK_F_MQ);
    /* The second queue beside the first, in other memory. */
    enum { SECOND = 0x50000 };
    mock_modern_write(&mock, COMMON_QUEUE_SELECT, 2, 1);
    mock_modern_write(&mock, COMMON_QUEUE_SIZE, 2, mock.size);
    mock_modern_write(&mock, COMMON_QUEUE_DESC, 8, SECOND);
    mock_modern_write(&mock, COMMON_QUEUE_DRIVER, 8, SECOND + 16u * mock.size);
    mock_modern_write(&mock, COMMON_QUEUE_DEVICE, 8, SECOND + 0x1000);
    mock_modern_write(&mock, COMMON_QUEUE_ENABLE, 2, 1);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    Mock second = mock;
    second.desc = mock_ram(&mock, SECOND);
    second.avail_ring = mock_ram(&mock, SECOND + 16u * mock.size);
    second.used_ring = mock_ram(&mock, SECOND + 0x1000);
    second.avail = 0;
    mock_queue(&second, 1, VIRTIO_BLK_T_IN, 0, MOCK_DATA + 4096, 512);
    mock_modern_write(&mock, VIRTIO_PCI_NOTIFY + VIRTIO_PCI_NOTIFY_MULTIPLIER, 2, 1);
    CHECK_EQ(mock_used_idx(&second), 1);
    CHECK_EQ(second.used_ring->ring[0].id, 3);
    CHECK_EQ(mock_result(&mock, 1), VIRTIO_BLK_S_OK);
    mock_free(&mock);
}

/* Four queues on three threads, all busy at once, while the device is reset, saved and recorded. */
enum { QUEUES = 4, ROUNDS = 60, IN_FLIGHT = 16, QUEUE_BYTES = 0x8000 };

static void queue_memory(Mock *mock, Mock *own, uint32_t index)
{
    gpa_t base = MOCK_DATA + 0x80000 + index * (gpa_t)QUEUE_BYTES;
    mock_modern_write(mock, COMMON_QUEUE_SELECT, 2, index);
    mock_modern_write(mock, COMMON_QUEUE_SIZE, 2, mock->size);
    mock_modern_write(mock, COMMON_QUEUE_DESC, 8, base);
    mock_modern_write(mock, COMMON_QUEUE_DRIVER, 8, base + 16u * mock->size);
    mock_modern_write(mock, COMMON_QUEUE_DEVICE, 8, base + 0x2000);
    mock_modern_write(mock, COMMON_QUEUE_ENABLE, 2, 1);
    *own = *mock;
    own->desc = mock_ram(mock, base);
    own->avail_ring = mock_ram(mock, base + 16u * mock->size);
    own->used_ring = mock_ram(mock, base + 0x2000);
    memset(own->desc, 0, QUEUE_BYTES);
    own->avail = own->used = 0;
}

/* As mock_start, but with all queues before DRIVER_OK. */
static void start_queues(Mock *mock, Mock *own)
{
    mock->modern = true;
    mock->size = 64;
    mock_set_status(mock, 0);
    mock_set_status(mock, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    mock_write_features(mock, VIRTIO_BLK_F_MQ | VIRTIO_F_VERSION_1);
    mock_set_status(mock, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    for (uint32_t i = 0; i < QUEUES; i++)
        queue_memory(mock, &own[i], i);
    mock_set_status(mock, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
                              VIRTIO_STATUS_DRIVER_OK);
}

static void fill_queues(Mock *mock, Mock *own)
{
    for (uint32_t i = 0; i < QUEUES; i++) {
        for (uint16_t n = 0; n < IN_FLIGHT; n++) {
            uint16_t tag = (uint16_t)(i * IN_FLIGHT + n), head = (uint16_t)(3 * n);
            mock_header(&own[i], tag, n % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 8u * tag);
            mock_desc(&own[i], head, MOCK_HEADERS + 16u * tag, 16, VIRTQ_DESC_F_NEXT, (uint16_t)(head + 1));
            mock_desc(&own[i], (uint16_t)(head + 1), MOCK_SEAM + 4096u * tag, 4096,
                      VIRTQ_DESC_F_NEXT | (n % 2 ? VIRTQ_DESC_F_WRITE : 0), (uint16_t)(head + 2));
            mock_desc(&own[i], (uint16_t)(head + 2), MOCK_STATUS + tag, 1, VIRTQ_DESC_F_WRITE, 0);
            mock_make_available(&own[i], head);
        }
        mock_modern_write(mock, VIRTIO_PCI_NOTIFY + i * VIRTIO_PCI_NOTIFY_MULTIPLIER, 2, i);
    }
}

static void test_queues_on_threads(void)
{
    Mock mock, own[QUEUES];
    mock_new(&mock, CLOCK_KIND_REALTIME, NULL, 0); /* a disk of its own takes the place of this one */
    board_stop_io(mock.board);
    device_free(mock.blk);
    Error error = {0};
    IoThread *io[3];
    for (uint32_t i = 0; i < 3; i++) {
        const char *names[] = {"blk-0", "blk-0.1", "blk-0.2"};
        io[i] = board_add_worker(mock.board, names[i], &error);
        CHECK(io[i]);
    }
    VirtioPlace place = mock_place(&mock, MOCK_SLOT);
    VirtioBlkOptions options = {.num_queues = QUEUES, .io = io, .io_count = 3};
    mock.blk = virtio_blk_new(mock.board, &place, mock.image, &options, &error);
    CHECK(mock.blk);
    CHECK_EQ(board_start_io(mock.board, &error), 0);
    mock_assign(&mock, 11);
    static VirtioPciState state;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        start_queues(&mock, own);
        bool recorded = round % 3 == 0;
        if (recorded)
            CHECK_EQ(virtio_blk_record_start(mock.blk, 16), 0);
        fill_queues(&mock, own);
        if (round % 4 == 1)
            device_save(mock.blk, &state);
        if (round % 4 != 3) /* else the reset meets them under way */
            for (uint32_t i = 0; i < QUEUES; i++)
                while (mock_used_idx(&own[i]) != IN_FLIGHT)
                    usleep(50);
        if (recorded)
            virtio_blk_record_stop(mock.blk);
        CHECK(!(mock_status(&mock) & VIRTIO_STATUS_NEEDS_RESET));
    }
    mock_free(&mock);
}

static void test_recorder(void)
{
    Mock mock;
    VirtioBlkRecord records[8];
    uint64_t lost;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, true, VIRTIO_BLK_F_FLUSH);
    mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512);
    CHECK_EQ(virtio_blk_record_take(mock.blk, records, 8, &lost), 0);
    CHECK_EQ(virtio_blk_record_start(mock.blk, 0), -EINVAL);
    CHECK_EQ(virtio_blk_record_start(mock.blk, 4), 0);
    CHECK_EQ(virtio_blk_record_start(mock.blk, 4), -EBUSY);
    mock_queue(&mock, 0, VIRTIO_BLK_T_OUT, 8, MOCK_DATA, 512); /* two that are merged, and one that fails */
    mock_queue(&mock, 1, VIRTIO_BLK_T_OUT, 9, MOCK_DATA, 1024);
    mock_queue(&mock, 2, VIRTIO_BLK_T_IN, MOCK_DISK / 512, MOCK_DATA, 512);
    mock_kick(&mock);
    CHECK_EQ(virtio_blk_record_take(mock.blk, records, 8, &lost), 3);
    CHECK_EQ(lost, 0);
    for (int i = 0; i < 3; i++) {
        const VirtioBlkRecord *r = &records[i];
        CHECK(r->kick_ns && r->kick_ns <= r->pop_ns && r->pop_ns <= r->begin_ns && r->begin_ns <= r->end_ns);
        CHECK(r->end_ns <= r->used_ns && r->used_ns <= r->interrupt_ns);
        CHECK_EQ(r->id, 3 * i);
        CHECK_EQ(r->merged, i < 2 ? 2 : 1);
        CHECK_EQ(r->status, i < 2 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
    }
    CHECK_EQ(records[1].sector, 9);
    CHECK_EQ(records[1].bytes, 1024);
    CHECK_EQ(records[1].type, VIRTIO_BLK_T_OUT);
    mock.used = mock.avail;
    for (uint32_t i = 0; i < 6; i++)
        mock_do(&mock, VIRTIO_BLK_T_IN, i, MOCK_DATA, 512);
    CHECK_EQ(virtio_blk_record_take(mock.blk, records, 8, &lost), 4);
    CHECK_EQ(lost, 2);
    CHECK_EQ(records[0].sector, 2); /* the last four */
    virtio_blk_record_stop(mock.blk);
    mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    CHECK_EQ(virtio_blk_record_take(mock.blk, records, 8, &lost), 0);
    CHECK_EQ(virtio_blk_record_start(mock.blk, 4), 0); /* freed with the device */
    mock_free(&mock);
}

static void test_view(void)
{
    Mock mock;
    static VirtioQueueView view, again;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    CHECK_EQ(virtio_queue_view(mock.blk, 1, &view), -ENOENT);
    CHECK_EQ(virtio_queue_view(mock.blk, 0, &view), 0);
    CHECK_EQ(view.enabled, 0);
    mock_start(&mock, true, VIRTIO_F_EVENT_IDX);
    mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512);
    mock_queue(&mock, 1, VIRTIO_BLK_T_IN, 3, MOCK_DATA, 512);
    CHECK_EQ(virtio_queue_view(mock.blk, 0, &view), 0);
    CHECK(view.enabled && view.event_idx && !view.packed);
    CHECK_EQ(view.desc_gpa, MOCK_RINGS);
    CHECK_EQ(view.size, mock.size);
    CHECK_EQ(view.driver_index, 2);
    CHECK_EQ(view.last_avail, 1);
    CHECK_EQ(view.device_index, 1);
    CHECK_EQ(view.device_event, 1); /* tell me of the next one */
    CHECK_EQ(view.avail[1], 3);
    CHECK_EQ(view.used[0].id, 0);
    CHECK_EQ(view.desc[4].addr, MOCK_DATA);
    CHECK_EQ(virtio_queue_view(mock.blk, 0, &again), 0); /* looking changes nothing */
    CHECK(!memcmp(&view, &again, sizeof view));
    mock_kick(&mock);
    CHECK_EQ(mock_used_idx(&mock), 2);
    VirtqDesc table[2];
    CHECK_EQ(virtio_queue_table(mock.blk, MOCK_RINGS, 2, table), 0);
    CHECK_EQ(table[0].addr, MOCK_HEADERS);
    CHECK_EQ(virtio_queue_table(mock.blk, MOCK_RAM_END - 16, 2, table), -EFAULT);
    CHECK_EQ(virtio_queue_table(mock.blk, 0, VIRTQ_MAX_SIZE + 1, table), -EINVAL);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_report);
    RUN(test_stop_and_go_on);
    RUN(test_policies);
    RUN(test_truncated);
    RUN(test_queues);
    RUN(test_queues_on_threads);
    RUN(test_recorder);
    RUN(test_view);
    return 0;
}
