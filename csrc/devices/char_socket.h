/*
 * The host's end of a guest's character port as a listening Unix socket: one client at a time, both ways.
 *
 * Nothing is kept here: what the client does not take is refused, and what the guest does not take stays in the
 * socket. The next client is accepted when the one before has gone. It works on the board's I/O thread, so not on a
 * virtual clock. Source: unix(7). Left out: TCP, several clients, passing descriptors.
 */
#ifndef PYVMM_DEVICES_CHAR_SOCKET_H
#define PYVMM_DEVICES_CHAR_SOCKET_H

#include "io/board.h"

typedef struct CharSocket CharSocket;

/* What a device is told, on the I/O thread, no lock held. */
typedef struct CharSocketOps {
    size_t (*receive)(void *opaque, const uint8_t *data, size_t size); /* how many were taken; fewer: see _resume */
    size_t (*room)(void *opaque);                                      /* how many it would take */
    void (*writable)(void *opaque);                                    /* there is room after a refusal */
    void (*connected)(void *opaque, bool on);
} CharSocketOps;

/* Listen at `path`, where a socket that nobody listens at is replaced. -EADDRINUSE and the like in `error`. */
CharSocket *char_socket_new(Board *board, const char *path, Error *error);
void char_socket_free(CharSocket *socket); /* removes the path; NULL is fine */

/* NULL: ends it and waits for a call in progress. */
void char_socket_attach(CharSocket *socket, const CharSocketOps *ops, void *opaque);
bool char_socket_is_connected(CharSocket *socket);
/* From any thread; how many were taken. Without a client all are: nobody is there to miss them. */
size_t char_socket_write(CharSocket *socket, const void *data, size_t size);
/* The device has room again. From any thread. */
void char_socket_resume(CharSocket *socket);

#endif
