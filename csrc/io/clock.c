#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "io/clock.h"

struct Timer {
    Clock *clock;
    TimerCallback callback;
    void *opaque;
    uint64_t deadline; /* CLOCK_NEVER: not in the list */
    Timer *next;
};

struct Clock {
    enum ClockKind kind;
    int64_t epoch_ns;
    uint64_t offset;      /* realtime: host time at which the clock read 0 */
    uint64_t stopped_at;  /* clock value while paused, or CLOCK_NEVER */
    uint64_t now;         /* virtual */
    uint64_t next;        /* earliest deadline, read without the lock */
    pthread_mutex_t lock; /* guards the list and what follows */
    pthread_cond_t idle;
    Timer *timers; /* sorted by deadline */
    Timer *running;
    pthread_t runner;
    void (*notify)(void *opaque);
    void *notify_opaque;
};

static uint64_t host_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_SECOND + (uint64_t)t.tv_nsec;
}

Clock *clock_new(enum ClockKind kind)
{
    Clock *clock = calloc(1, sizeof *clock);
    if (!clock)
        return NULL;
    clock->kind = kind;
    clock->offset = host_ns(CLOCK_MONOTONIC);
    clock->stopped_at = CLOCK_NEVER;
    clock->next = CLOCK_NEVER;
    clock->epoch_ns = kind == CLOCK_KIND_REALTIME ? (int64_t)host_ns(CLOCK_REALTIME) : 0;
    pthread_mutex_init(&clock->lock, NULL);
    pthread_cond_init(&clock->idle, NULL);
    return clock;
}

void clock_free(Clock *clock)
{
    if (!clock)
        return;
    pthread_mutex_destroy(&clock->lock);
    pthread_cond_destroy(&clock->idle);
    free(clock);
}

enum ClockKind clock_kind(const Clock *clock) { return clock->kind; }

uint64_t clock_now(Clock *clock)
{
    if (clock->kind == CLOCK_KIND_VIRTUAL)
        return __atomic_load_n(&clock->now, __ATOMIC_RELAXED);
    uint64_t stopped_at = __atomic_load_n(&clock->stopped_at, __ATOMIC_ACQUIRE);
    if (unlikely(stopped_at != CLOCK_NEVER))
        return stopped_at;
    return host_ns(CLOCK_MONOTONIC) - __atomic_load_n(&clock->offset, __ATOMIC_RELAXED);
}

int64_t clock_epoch_ns(const Clock *clock) { return clock->epoch_ns; }

void clock_set_epoch_ns(Clock *clock, int64_t epoch_ns) { clock->epoch_ns = epoch_ns; }

static void notify(Clock *clock)
{
    if (clock->notify)
        clock->notify(clock->notify_opaque);
}

bool clock_is_paused(const Clock *clock)
{
    return __atomic_load_n(&clock->stopped_at, __ATOMIC_ACQUIRE) != CLOCK_NEVER;
}

void clock_pause(Clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (clock->stopped_at == CLOCK_NEVER)
        __atomic_store_n(&clock->stopped_at, clock_now(clock), __ATOMIC_RELEASE);
    pthread_mutex_unlock(&clock->lock);
}

void clock_resume(Clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (clock->stopped_at != CLOCK_NEVER) {
        __atomic_store_n(&clock->offset, host_ns(CLOCK_MONOTONIC) - clock->stopped_at, __ATOMIC_RELAXED);
        __atomic_store_n(&clock->stopped_at, CLOCK_NEVER, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&clock->lock);
    notify(clock);
}

void clock_set(Clock *clock, uint64_t now_ns)
{
    pthread_mutex_lock(&clock->lock);
    if (clock->kind == CLOCK_KIND_VIRTUAL)
        __atomic_store_n(&clock->now, now_ns, __ATOMIC_RELAXED);
    else if (clock->stopped_at != CLOCK_NEVER)
        __atomic_store_n(&clock->stopped_at, now_ns, __ATOMIC_RELEASE);
    else
        __atomic_store_n(&clock->offset, host_ns(CLOCK_MONOTONIC) - now_ns, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&clock->lock);
    notify(clock);
}

uint64_t clock_ns_to_ticks(uint64_t ns, uint64_t hz)
{
    return (uint64_t)((unsigned __int128)ns * hz / NS_PER_SECOND);
}

uint64_t clock_ticks_to_ns(uint64_t ticks, uint64_t hz)
{
    return (uint64_t)(((unsigned __int128)ticks * NS_PER_SECOND + hz - 1) / hz);
}

Timer *timer_new(Clock *clock, TimerCallback callback, void *opaque)
{
    Timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return NULL;
    *timer = (Timer){.clock = clock, .callback = callback, .opaque = opaque, .deadline = CLOCK_NEVER};
    return timer;
}

static void unlink_timer(Clock *clock, Timer *timer)
{
    for (Timer **link = &clock->timers; *link; link = &(*link)->next) {
        if (*link != timer)
            continue;
        *link = timer->next;
        break;
    }
    __atomic_store_n(&timer->deadline, CLOCK_NEVER, __ATOMIC_RELAXED); /* timer_deadline() takes no lock */
}

static void publish_next(Clock *clock)
{
    __atomic_store_n(&clock->next, clock->timers ? clock->timers->deadline : CLOCK_NEVER, __ATOMIC_RELEASE);
}

void timer_free(Timer *timer)
{
    if (!timer)
        return;
    Clock *clock = timer->clock;
    pthread_mutex_lock(&clock->lock);
    unlink_timer(clock, timer);
    while (clock->running == timer && !pthread_equal(clock->runner, pthread_self())) {
        pthread_cond_wait(&clock->idle, &clock->lock);
        unlink_timer(clock, timer); /* the callback may have armed it again */
    }
    publish_next(clock);
    pthread_mutex_unlock(&clock->lock);
    free(timer);
}

void timer_arm(Timer *timer, uint64_t deadline_ns)
{
    Clock *clock = timer->clock;
    pthread_mutex_lock(&clock->lock);
    if (timer->deadline != CLOCK_NEVER)
        unlink_timer(clock, timer);
    if (deadline_ns != CLOCK_NEVER) {
        __atomic_store_n(&timer->deadline, deadline_ns, __ATOMIC_RELAXED);
        Timer **link = &clock->timers;
        while (*link && (*link)->deadline <= deadline_ns)
            link = &(*link)->next;
        timer->next = *link;
        *link = timer;
    }
    uint64_t before = clock->next;
    publish_next(clock);
    bool earlier = clock->next < before;
    pthread_mutex_unlock(&clock->lock);
    if (earlier)
        notify(clock);
}

void timer_disarm(Timer *timer)
{
    if (timer_deadline(timer) != CLOCK_NEVER)
        timer_arm(timer, CLOCK_NEVER);
}

uint64_t timer_deadline(const Timer *timer) { return __atomic_load_n(&timer->deadline, __ATOMIC_RELAXED); }

uint64_t clock_next_deadline(Clock *clock) { return __atomic_load_n(&clock->next, __ATOMIC_ACQUIRE); }

uint64_t clock_host_deadline(Clock *clock, uint64_t ns)
{
    if (ns == CLOCK_NEVER || clock_is_paused(clock))
        return CLOCK_NEVER;
    uint64_t host = host_ns(CLOCK_MONOTONIC), now = host - __atomic_load_n(&clock->offset, __ATOMIC_RELAXED);
    return ns > now ? host + MIN(ns - now, (uint64_t)1 << 60) : host;
}

void clock_run_timers(Clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    uint64_t now = clock_now(clock);
    while (clock->timers && clock->timers->deadline <= now) {
        Timer *timer = clock->timers;
        unlink_timer(clock, timer);
        publish_next(clock);
        clock->running = timer;
        clock->runner = pthread_self();
        pthread_mutex_unlock(&clock->lock);
        timer->callback(timer->opaque);
        pthread_mutex_lock(&clock->lock);
        clock->running = NULL;
        pthread_cond_broadcast(&clock->idle);
    }
    pthread_mutex_unlock(&clock->lock);
}

void clock_advance(Clock *clock, uint64_t ns) { __atomic_fetch_add(&clock->now, ns, __ATOMIC_RELAXED); }

void clock_set_notify(Clock *clock, void (*callback)(void *opaque), void *opaque)
{
    clock->notify_opaque = opaque;
    clock->notify = callback;
}
