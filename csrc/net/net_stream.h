/* Frames in a stream of bytes: each after its length, 4 bytes, big-endian (QEMU docs, -netdev stream). */
#ifndef PYVMM_NET_NET_STREAM_H
#define PYVMM_NET_NET_STREAM_H

#include "net/net.h"

#define NET_STREAM_HEAD 4u

typedef struct NetStream {
    uint8_t *bytes; /* of `size` */
    uint32_t size, start, end;
} NetStream;

/* Room for reading or appending behind what is there. */
static inline uint32_t net_stream_room(NetStream *stream)
{
    if (stream->start == stream->end)
        stream->start = stream->end = 0;
    if (stream->start > stream->size / 2) {
        memmove(stream->bytes, stream->bytes + stream->start, stream->end - stream->start);
        stream->end -= stream->start;
        stream->start = 0;
    }
    return stream->size - stream->end;
}

/* Take the next packet: its length, with *packet on it, valid until the stream is filled again; 0: not all of it is
 * there; -EPROTO: its length is not one of `least` to `most`, and where the next one begins nobody knows. */
static inline int net_stream_take(NetStream *stream, uint32_t least, uint32_t most, uint8_t **packet)
{
    uint32_t there = stream->end - stream->start;
    if (there < NET_STREAM_HEAD)
        return 0;
    uint32_t length = load_be32(stream->bytes + stream->start);
    if (length < least || length > most)
        return -EPROTO;
    if (there - NET_STREAM_HEAD < length)
        return 0;
    *packet = stream->bytes + stream->start + NET_STREAM_HEAD;
    stream->start += NET_STREAM_HEAD + length;
    return (int)length;
}

#endif
