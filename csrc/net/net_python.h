/*
 * A network backend whose other end is a function: for Python (pyvmm/net/custom.py), tests and teaching. Frames are
 * plain: the core finishes and cuts what the guest left open.
 */
#ifndef PYVMM_NET_NET_PYTHON_H
#define PYVMM_NET_NET_PYTHON_H

#include "net/net.h"

/* A frame from the guest, on the I/O thread, with no lock held. */
typedef void (*NetPythonSend)(void *handle, const uint8_t *frame, uint32_t length);

/* `send` NULL: frames go nowhere (a NIC with a cable to nothing, or to a capture only). */
NetBackend *net_python_new(Board *board, IoThread *io, NetPythonSend send, void *handle, Error *error);
/* A frame for the guest, from any thread. 0, -ENOBUFS: too many wait (dropped and counted), -EINVAL: its length. */
int net_python_deliver(NetBackend *backend, const uint8_t *frame, uint32_t length);

#endif
