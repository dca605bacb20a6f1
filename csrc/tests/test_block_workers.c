/*
 * Disks with I/O threads of their own: who waits for whom. Nothing here looks at a time: what must not wait is what
 * lets the other one go on, so that a wrong order is a test that never ends (ctest's time limit).
 */
#include <semaphore.h>

#include "block/image.h"
#include "virtio_mock.h"

#define TICKS 20

/* An image whose flush tells that it has begun, and waits until it is let go. */
typedef struct SlowImage {
    BlockFormat format; /* raw, but for flush */
    sem_t begun, go;
} SlowImage;

static int slow_flush(BlockImage *image)
{
    SlowImage *slow = container_of(image->format, SlowImage, format);
    sem_post(&slow->begun);
    sem_wait(&slow->go);
    return raw_format.flush(image);
}

static void slow_down(SlowImage *slow, Mock *mock)
{
    slow->format = *mock->image->format;
    slow->format.flush = slow_flush;
    sem_init(&slow->begun, 0, 0);
    sem_init(&slow->go, 0, 0);
    mock->image->format = &slow->format;
}

static void slow_free(SlowImage *slow, Mock *mock)
{
    mock->image->format = &raw_format;
    sem_destroy(&slow->begun);
    sem_destroy(&slow->go);
}

static void wait_used(Mock *mock, uint16_t index)
{
    while (mock_used_idx(mock) != index)
        usleep(100);
}

static void start(Mock *mock)
{
    mock_assign(mock, 11);
    mock_start(mock, true, VIRTIO_BLK_F_FLUSH);
}

static void begin_flush(Mock *mock, SlowImage *slow)
{
    mock_queue(mock, 0, VIRTIO_BLK_T_FLUSH, 0, MOCK_DATA, 0);
    mock_kick(mock);
    sem_wait(&slow->begun);
}

typedef struct Ticker {
    Clock *clock;
    Timer *timer;
    SlowImage *slow;
    uint32_t count;
} Ticker;

static void on_tick(void *opaque)
{
    Ticker *ticker = opaque;
    if (++ticker->count == TICKS)
        sem_post(&ticker->slow->go);
    else
        timer_arm(ticker->timer, clock_now(ticker->clock) + 100000);
}

/* The flush ends only after so many ticks: on one thread there would never be a second one. */
static void test_slow_flush_delays_no_timer(void)
{
    Mock mock;
    SlowImage slow;
    mock_new_with_worker(&mock, CLOCK_KIND_REALTIME);
    slow_down(&slow, &mock);
    start(&mock);
    begin_flush(&mock, &slow);
    Ticker ticker = {.clock = mock.board->clock, .slow = &slow};
    ticker.timer = timer_new(mock.board->clock, on_tick, &ticker);
    timer_arm(ticker.timer, clock_now(mock.board->clock) + 1000);
    wait_used(&mock, 1);
    CHECK_EQ(mock_result(&mock, 0), VIRTIO_BLK_S_OK);
    timer_free(ticker.timer);
    CHECK_EQ(ticker.count, TICKS);
    slow_free(&slow, &mock);
    mock_free(&mock);
}

/* A disk that hangs is no other disk's business; its registers answer meanwhile. */
static void test_slow_disk_delays_no_other(void)
{
    Mock mock;
    SlowImage slow;
    Error error;
    mock_new_with_worker(&mock, CLOCK_KIND_REALTIME);
    Mock second = {.board = mock.board, .bus = mock.bus, .image = mock.image};
    BlockImage *image = block_open(mock.path, "raw", BLOCK_CACHE_UNSAFE, BLOCK_READ_ONLY | BLOCK_NO_LOCK, &error);
    VirtioPlace place = mock_place(&mock, MOCK_SLOT + 1);
    place.io = board_add_worker(mock.board, "blk-1", &error);
    CHECK(image && place.io && io_thread_running(place.io)); /* the board runs: so does what is added */
    CHECK(!strcmp(io_thread_name(place.io), "blk-1"));
    second.blk = virtio_blk_new(mock.board, &place, image, NULL, &error);
    CHECK(second.blk);
    slow_down(&slow, &mock);
    start(&mock);
    begin_flush(&mock, &slow);
    CHECK(mock_status(&mock) & VIRTIO_STATUS_DRIVER_OK);

    /* The second disk takes the place of the first in the mock's address map; the first goes on by its ring alone.
     */
    uint32_t devfn = PCI_DEVFN(MOCK_SLOT, 0), other = PCI_DEVFN(MOCK_SLOT + 1, 0);
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    mock_config_write(&mock, other, PCI_BAR0 + 16, 4, MOCK_MMIO);
    mock_config_write(&mock, other, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    gpa_t rings = 0x50000;
    second.modern = true;
    mock_set_status(&second, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    mock_write_features(&second, VIRTIO_F_VERSION_1);
    mock_set_status(&second, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    second.size = 16;
    second.desc = mock_ram(&second, rings);
    second.avail_ring = mock_ram(&second, rings + 0x1000);
    second.used_ring = mock_ram(&second, rings + 0x2000);
    mock_modern_queue(&second, rings, rings + 0x1000, rings + 0x2000);
    mock_set_status(&second, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
                                 VIRTIO_STATUS_DRIVER_OK);
    mock_queue(&second, 1, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock_kick(&second);
    wait_used(&second, 1);
    CHECK_EQ(mock_result(&second, 1), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_used_idx(&mock), 0);
    sem_post(&slow.go);
    wait_used(&mock, 1);
    board_stop_io(mock.board);
    device_free(second.blk);
    block_close(image);
    slow_free(&slow, &mock);
    mock_free(&mock);
}

static void *let_go_later(void *opaque)
{
    SlowImage *slow = opaque;
    usleep(20000);
    sem_post(&slow->go);
    return NULL;
}

/* A paused machine's disks do nothing: what is under way ends first, and what comes then waits. */
static void test_pause_drains(void)
{
    Mock mock;
    SlowImage slow;
    Error error;
    pthread_t thread;
    mock_new_with_worker(&mock, CLOCK_KIND_REALTIME);
    slow_down(&slow, &mock);
    start(&mock);
    begin_flush(&mock, &slow);
    pthread_create(&thread, NULL, let_go_later, &slow);
    board_pause_io(mock.board);
    CHECK_EQ(mock_used_idx(&mock), 1);
    pthread_join(thread, NULL);
    board_pause_io(mock.board);
    mock_queue(&mock, 1, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock_kick(&mock);
    usleep(20000);
    CHECK_EQ(mock_used_idx(&mock), 1);
    VirtioPciState *state = calloc(1, sizeof *state);
    device_save(mock.blk, state); /* waits for nobody */
    CHECK_EQ(state->virtio.queues[0].last_avail, 1);
    free(state);
    board_resume_io(mock.board);
    wait_used(&mock, 2);

    board_pause_io(mock.board); /* stopping ends a pause's wait, and a start after it is still paused */
    mock_queue(&mock, 2, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock_kick(&mock);
    usleep(5000);
    board_stop_io(mock.board);
    CHECK_EQ(mock_used_idx(&mock), 2);
    CHECK_EQ(board_start_io(mock.board, &error), 0);
    usleep(5000);
    CHECK_EQ(mock_used_idx(&mock), 2);
    board_resume_io(mock.board);
    wait_used(&mock, 3);
    slow_free(&slow, &mock);
    mock_free(&mock);
}

/* Pause and resume against a driver that never stops: no request is lost. */
static void *pause_and_resume(void *opaque)
{
    Board *board = opaque;
    for (int i = 0; i < 300; i++) {
        board_pause_io(board);
        board_resume_io(board);
        usleep(100);
    }
    return NULL;
}

static void test_pause_under_load(void)
{
    Mock mock;
    pthread_t thread;
    mock_new_with_worker(&mock, CLOCK_KIND_REALTIME);
    start(&mock);
    pthread_create(&thread, NULL, pause_and_resume, mock.board);
    for (int round = 0; round < 1000; round++) {
        for (uint16_t i = 0; i < 4; i++)
            mock_queue(&mock, i, VIRTIO_BLK_T_IN, i, MOCK_DATA + 512u * i, 512);
        mock_kick(&mock);
        wait_used(&mock, mock.avail);
        if (round % 100 == 99)
            start(&mock);
    }
    pthread_join(thread, NULL);
    mock_free(&mock);
}

/* With threads stopped, and on a virtual clock always, the work is done inside the notification. */
static void test_without_a_thread(void)
{
    for (int virtual = 0; virtual < 2; virtual ++) {
        Mock mock;
        mock_new_with_worker(&mock, virtual ? CLOCK_KIND_VIRTUAL : CLOCK_KIND_REALTIME);
        CHECK_EQ(io_thread_running(mock.worker), !virtual);
        board_stop_io(mock.board);
        start(&mock);
        CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
        mock_free(&mock);
    }
}

int main(void)
{
    RUN(test_slow_flush_delays_no_timer);
    RUN(test_slow_disk_delays_no_other);
    RUN(test_pause_drains);
    RUN(test_pause_under_load);
    RUN(test_without_a_thread);
    return 0;
}
