/* Frames and headers from a hostile guest, and the socket wire format from a hostile peer: nothing outside the
 * frame is touched, every piece is a frame, and the pieces carry what the frame did. */
#include <stdlib.h>

#include "fuzz/input.h"
#include "net/net_offload.h"
#include "net/net_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Sum {
    uint32_t pieces;
    size_t bytes;
} Sum;

static int on_piece(void *opaque, const struct iovec *iov, uint32_t count)
{
    Sum *sum = opaque;
    size_t length = 0;
    uint8_t seen = 0;
    for (uint32_t i = 0; i < count; length += iov[i++].iov_len)
        for (size_t b = 0; b < iov[i].iov_len; b++)
            seen ^= ((uint8_t *)iov[i].iov_base)[b];
    __asm__ volatile("" : : "r"(seen)); /* every byte was read */
    if (length < NET_ETHERNET || length > NET_FRAME_MAX || ++sum->pieces > NET_MAX_PIECES)
        abort();
    sum->bytes += length;
    return 0;
}

static void fuzz_frame(Input *input)
{
    NetHeader header = {0};
    uint32_t mtu = (uint32_t)take(input, 2);
    for (size_t i = 0; i < sizeof header; i++)
        ((uint8_t *)&header)[i] = (uint8_t)take(input, 1);
    size_t length = input->left;
    if (length > NET_FRAME_MAX)
        return;
    uint8_t *frame = malloc(length + !length); /* ends where the sanitizer sees it */
    memcpy(frame, input->data, length);
    NetLayers layers;
    Sum sum = {0};
    if (net_layers(frame, length, &layers) && layers.l4 && (layers.l4 > layers.end || layers.end > length))
        abort();
    net_fragment(frame, length, mtu, on_piece, &sum);
    memcpy(frame, input->data, length);
    if (net_header_check(&header, length) == 0) {
        sum = (Sum){0};
        if (header.gso_type && net_segment(frame, length, &header, on_piece, &sum) == 0 && !sum.pieces)
            abort();
        if (header.flags & NET_NEEDS_CSUM)
            net_finish_checksum(frame, length, &header);
    }
    free(frame);
}

static void fuzz_stream(Input *input)
{
    uint8_t buffer[4096], *packet;
    NetStream stream = {buffer, sizeof buffer, 0, 0};
    while (input->left) {
        uint32_t room = net_stream_room(&stream);
        size_t wanted = 1 + take(input, 1);
        uint32_t piece = (uint32_t)MIN(MIN(wanted, room), input->left);
        if (!room)
            return; /* a frame above the buffer's size: the backend's is larger than the largest */
        memcpy(buffer + stream.end, input->data, piece);
        input->data += piece, input->left -= piece;
        stream.end += piece;
        int length;
        while ((length = net_stream_take(&stream, 1, 2048, &packet)) > 0)
            if (packet < buffer + 4 || packet + length > buffer + stream.end)
                abort();
        if (length < 0)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input input = {data, size};
    if (take(&input, 1) & 1)
        fuzz_stream(&input);
    else
        fuzz_frame(&input);
    return 0;
}
