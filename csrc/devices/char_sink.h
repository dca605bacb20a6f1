/*
 * Where a guest's characters go: a descriptor of the host, a buffer that Python reads, or both.
 *
 * Bytes for the descriptor wait in a bounded ring that the I/O thread empties: at once for the first, then at most
 * every 2 ms, so that a stream costs few write(2) calls. A full ring refuses bytes (the device shows its
 * transmitter as busy and is called when there is room): nothing is lost and no vCPU waits. Without a running I/O
 * thread (virtual clock) writes are synchronous. The descriptor is duplicated or, where it can be, opened again to
 * be non-blocking by itself: the caller's flags stay as they are.
 */
#ifndef PYVMM_DEVICES_CHAR_SINK_H
#define PYVMM_DEVICES_CHAR_SINK_H

#include "io/board.h"

#define CHAR_SINK_RING 65536

typedef struct CharSink CharSink;
typedef void (*CharSinkRoom)(void *opaque);

/* `fd` < 0: none. `capture`: how many of the newest bytes are kept for char_sink_read(), 0 for none; at most 1 GiB.
 */
CharSink *char_sink_new_fd(Board *board, int fd, size_t capture, Error *error);
void char_sink_free(CharSink *sink); /* what is not written yet is dropped: drain first. NULL is fine */

/* Bytes for the descriptor in front of the first byte that is taken (what takes a front end's progress line away).
 * Up to 16; before the guest runs. 0 or -EINVAL. */
int char_sink_set_preamble(CharSink *sink, const void *data, size_t size);
/* From any thread. Returns how many bytes were taken; the rest when there is room. */
size_t char_sink_write(CharSink *sink, const void *data, size_t size);
/* Told (on the I/O thread or by drain) when there is room again after a refusal; NULL ends it and waits for a call
 * in progress. */
void char_sink_set_room(CharSink *sink, CharSinkRoom room, void *opaque);

/* Take captured bytes, oldest first. Returns how many. */
size_t char_sink_read(CharSink *sink, void *data, size_t size);
size_t char_sink_captured(CharSink *sink);      /* bytes waiting for char_sink_read() */
uint64_t char_sink_total(CharSink *sink);       /* bytes ever taken */
uint64_t char_sink_overwritten(CharSink *sink); /* captured bytes that were lost because nobody read them */

/* Write out what waits. 0, or -ETIMEDOUT when bytes are still there after `timeout_ms` of the host's time. */
int char_sink_drain(CharSink *sink, int timeout_ms);

#endif
