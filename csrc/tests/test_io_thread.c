/* The I/O thread: timers armed from several threads at once are never lost; kicks are not lost; removal waits. */
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "io/board.h"
#include "tests/check.h"

#define ROUNDS 20000

static void pause_ns(long ns) { nanosleep(&(struct timespec){.tv_nsec = ns}, NULL); }

typedef struct Shot {
    Clock *clock;
    Timer *timer;
    uint32_t fired; /* atomic */
} Shot;

static void on_shot(void *opaque)
{
    Shot *shot = opaque;
    __atomic_fetch_add(&shot->fired, 1, __ATOMIC_SEQ_CST);
}

/* Arm, wait until it fired, again: one lost timer ends this in the five-second limit. */
static void *shoot(void *opaque)
{
    Shot *shot = opaque;
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        timer_arm(shot->timer, clock_now(shot->clock) + 1000 + (i * 7919) % 20000);
        uint64_t limit = clock_now(shot->clock) + 5 * NS_PER_SECOND;
        while (__atomic_load_n(&shot->fired, __ATOMIC_SEQ_CST) < i) {
            CHECK(clock_now(shot->clock) < limit);
            sched_yield();
        }
    }
    return NULL;
}

static void test_timers_from_several_threads(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(board);
    Shot shots[3];
    pthread_t threads[3];
    CHECK_EQ(io_thread_start(board->io, &error), 0);
    for (int i = 0; i < 3; i++) {
        shots[i] = (Shot){.clock = board->clock};
        shots[i].timer = timer_new(board->clock, on_shot, &shots[i]);
        pthread_create(&threads[i], NULL, shoot, &shots[i]);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(shots[i].fired, ROUNDS);
        timer_free(shots[i].timer);
    }
    board_free(board);
}

typedef struct Work {
    uint64_t asked, done; /* atomic */
} Work;

static void on_kick(void *opaque)
{
    Work *work = opaque;
    __atomic_store_n(&work->done, __atomic_load_n(&work->asked, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
}

static void test_kicks_are_not_lost(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Work work = {0};
    IoNotifier *notifier = io_notifier_new(board->io, on_kick, &work);
    CHECK_EQ(io_thread_start(board->io, &error), 0);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        __atomic_store_n(&work.asked, i, __ATOMIC_SEQ_CST);
        io_notifier_kick(notifier);
        uint64_t limit = clock_now(board->clock) + 5 * NS_PER_SECOND;
        while (__atomic_load_n(&work.done, __ATOMIC_SEQ_CST) < i)
            CHECK(clock_now(board->clock) < limit);
    }
    io_notifier_free(notifier);
    board_free(board);
}

static void on_ready(void *opaque, uint32_t events)
{
    int fd = *(int *)opaque;
    char byte;
    CHECK_EQ(read(fd, &byte, 1), 1);
    pause_ns(20000000);
}

static void test_removal_waits_for_the_callback(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(io_watch_add(board->io, fds[0], EPOLLIN, on_ready, &fds[0]), 0);
    CHECK_EQ(io_thread_start(board->io, &error), 0);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    pause_ns(5000000);
    CHECK_EQ(io_watch_remove(board->io, fds[0]), 0);
    CHECK_EQ(io_watch_remove(board->io, fds[0]), -ENOENT);
    close(fds[0]);
    close(fds[1]);
    board_free(board);
}

typedef struct Rearming {
    Timer *timer;
    Clock *clock;
    uint32_t entered; /* atomic */
} Rearming;

static void on_rearming(void *opaque)
{
    Rearming *rearming = opaque;
    __atomic_store_n(&rearming->entered, 1, __ATOMIC_SEQ_CST);
    pause_ns(20000000); /* meanwhile it is being freed */
    timer_arm(rearming->timer, clock_now(rearming->clock) + 3600 * NS_PER_SECOND);
}

static void test_free_of_a_timer_that_arms_itself(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Rearming rearming = {.clock = board->clock};
    rearming.timer = timer_new(board->clock, on_rearming, &rearming);
    CHECK_EQ(io_thread_start(board->io, &error), 0);
    timer_arm(rearming.timer, clock_now(board->clock));
    while (!__atomic_load_n(&rearming.entered, __ATOMIC_SEQ_CST))
        sched_yield();
    timer_free(rearming.timer);
    CHECK_EQ(clock_next_deadline(board->clock), CLOCK_NEVER);
    board_free(board);
}

typedef struct Moved {
    Clock *clock;
    Timer *timer;
    uint64_t deadline;     /* atomic */
    uint32_t fired, early; /* atomic */
} Moved;

static void on_moved(void *opaque)
{
    Moved *moved = opaque;
    if (clock_now(moved->clock) < __atomic_load_n(&moved->deadline, __ATOMIC_SEQ_CST))
        __atomic_fetch_add(&moved->early, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&moved->fired, 1, __ATOMIC_SEQ_CST);
}

static void move(Moved *moved, uint64_t ns)
{
    uint64_t deadline = clock_now(moved->clock) + ns;
    __atomic_store_n(&moved->deadline, deadline, __ATOMIC_SEQ_CST);
    timer_arm(moved->timer, deadline);
}

/* Later, earlier, taken back, over a pause and another time of day: it fires once, and not before its time. */
static void test_deadlines_that_move(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Moved moved = {.clock = board->clock};
    moved.timer = timer_new(board->clock, on_moved, &moved);
    CHECK_EQ(io_thread_start(board->io, &error), 0);
    for (uint32_t i = 1; i <= 60; i++) {
        move(&moved, 200000000);
        if (i % 2)
            move(&moved, 400000000);
        if (i % 3 == 0)
            timer_disarm(moved.timer);
        if (i % 5 == 0)
            clock_pause(board->clock);
        move(&moved, 1000000 + i * 10000);
        move(&moved, 2000000 + i * 10000);
        if (i % 10 == 0)
            clock_set(board->clock, i % 20 ? 5 : 1ull << 50); /* the deadline is far away, or long past */
        if (i % 10 == 0)
            move(&moved, 1000000);
        if (i % 5 == 0) {
            pause_ns(4000000);
            CHECK_EQ(__atomic_load_n(&moved.fired, __ATOMIC_SEQ_CST), i - 1);
            clock_resume(board->clock);
        }
        while (__atomic_load_n(&moved.fired, __ATOMIC_SEQ_CST) < i)
            sched_yield();
        if (i % 7 == 0) { /* the thread that stopped has its timers when it goes on */
            io_thread_stop(board->io);
            CHECK_EQ(io_thread_start(board->io, &error), 0);
        }
    }
    pause_ns(5000000);
    CHECK_EQ(moved.fired, 60);
    CHECK_EQ(moved.early, 0);
    timer_free(moved.timer);
    board_free(board);
}

/* Its wake-ups are counted: without the rule there are thousands. */
static void test_a_paused_clock_wakes_nobody(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Shot shot = {.clock = board->clock};
    shot.timer = timer_new(board->clock, on_shot, &shot);
    CHECK_EQ(io_thread_start(board->io, &error), 0);
    clock_pause(board->clock);
    timer_arm(shot.timer, clock_now(board->clock) + 10000);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    pause_ns(100000000);
    getrusage(RUSAGE_SELF, &after);
    CHECK(after.ru_nvcsw - before.ru_nvcsw < 500);
    CHECK_EQ(__atomic_load_n(&shot.fired, __ATOMIC_SEQ_CST), 0);
    clock_resume(board->clock);
    while (!__atomic_load_n(&shot.fired, __ATOMIC_SEQ_CST))
        sched_yield();
    timer_free(shot.timer);
    board_free(board);
}

/* A worker has no timers: the clock goes on telling the thread that has them, whatever workers come and go. */
static void test_workers_leave_the_clock_alone(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Shot shot = {.clock = board->clock};
    shot.timer = timer_new(board->clock, on_shot, &shot);
    CHECK_EQ(io_thread_start(board->io, &error), 0);
    IoThread *worker = io_thread_new_worker(board->clock, "worker", &error);
    CHECK(worker);
    for (uint32_t i = 1; i <= 3; i++) {
        if (i == 2)
            CHECK_EQ(io_thread_start(worker, &error), 0);
        if (i == 3)
            io_thread_free(worker);
        timer_arm(shot.timer, clock_now(board->clock) + 1000);
        while (__atomic_load_n(&shot.fired, __ATOMIC_SEQ_CST) < i)
            sched_yield();
    }
    timer_free(shot.timer);
    board_free(board);
}

int main(void)
{
    RUN(test_timers_from_several_threads);
    RUN(test_kicks_are_not_lost);
    RUN(test_removal_waits_for_the_callback);
    RUN(test_free_of_a_timer_that_arms_itself);
    RUN(test_deadlines_that_move);
    RUN(test_a_paused_clock_wakes_nobody);
    RUN(test_workers_leave_the_clock_alone);
    return 0;
}
