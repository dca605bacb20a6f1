/*
 * The machine's one clock, and the timers that hang on it. Times are nanoseconds since the machine was made.
 *
 * `realtime`: the host's CLOCK_MONOTONIC; timers fire on the I/O thread. It stops while the machine is paused.
 * `virtual`: moved by the engine as the guest executes (clock_advance), and jumped to the next timer when the guest
 * halts; timers fire on the vCPU's thread, so a run repeats bit for bit. Callbacks take their device's lock
 * themselves.
 */
#ifndef PYVMM_IO_CLOCK_H
#define PYVMM_IO_CLOCK_H

#include "common/common.h"

#define CLOCK_NEVER   UINT64_MAX
#define NS_PER_SECOND 1000000000ull

enum ClockKind { CLOCK_KIND_REALTIME, CLOCK_KIND_VIRTUAL };

typedef struct Clock Clock;
typedef struct Timer Timer;
typedef void (*TimerCallback)(void *opaque);

Clock *clock_new(enum ClockKind kind);
void clock_free(Clock *clock);
enum ClockKind clock_kind(const Clock *clock);
uint64_t clock_now(Clock *clock);
/* Seconds since the Unix epoch when the clock read 0 (the RTC's base). For a virtual clock it is what it was set
 * to. */
int64_t clock_epoch_ns(const Clock *clock);
void clock_set_epoch_ns(Clock *clock, int64_t epoch_ns);
void clock_pause(Clock *clock); /* no-op when paused */
void clock_resume(Clock *clock);
bool clock_is_paused(const Clock *clock);
void clock_set(Clock *clock, uint64_t now_ns); /* snapshot restore */

/* now * hz / 1e9 without overflow: a counter's value at a time. And back, rounded up. */
uint64_t clock_ns_to_ticks(uint64_t ns, uint64_t hz);
uint64_t clock_ticks_to_ns(uint64_t ticks, uint64_t hz);

/* A timer is one-shot. Its callback runs with no clock lock held; it may arm itself or others. */
Timer *timer_new(Clock *clock, TimerCallback callback, void *opaque);
void timer_free(Timer *timer);                      /* waits for a callback that is running on another thread */
void timer_arm(Timer *timer, uint64_t deadline_ns); /* replaces an earlier deadline */
void timer_disarm(Timer *timer);             /* a callback already begun may still run: recheck state in it */
uint64_t timer_deadline(const Timer *timer); /* CLOCK_NEVER when not armed */

/* For the I/O thread and the engines. */
uint64_t clock_next_deadline(Clock *clock); /* lock-free read */
/* What the host's CLOCK_MONOTONIC reads when this realtime clock reads `ns`: now when that is past, CLOCK_NEVER
 * while it is paused. */
uint64_t clock_host_deadline(Clock *clock, uint64_t ns);
void clock_run_timers(Clock *clock);           /* fire all that are due */
void clock_advance(Clock *clock, uint64_t ns); /* virtual only */
/* Called whenever the earliest deadline moves to an earlier time (realtime: wakes the I/O thread). */
void clock_set_notify(Clock *clock, void (*notify)(void *opaque), void *opaque);

#endif
