/* Lists of copied frames. */
#include <stdlib.h>

#include "net/net_backend.h"

void net_queue_init(NetQueue *queue) { *queue = (NetQueue){.last = &queue->first}; }

void net_queue_append(NetQueue *queue, NetFrame *frame)
{
    frame->next = NULL;
    *queue->last = frame;
    queue->last = &frame->next;
    queue->frames++;
    queue->bytes += frame->length;
}

NetFrame *net_queue_take(NetQueue *queue)
{
    NetFrame *frame = queue->first;
    if (!frame)
        return NULL;
    queue->first = frame->next;
    if (!queue->first)
        queue->last = &queue->first;
    queue->frames--;
    queue->bytes -= frame->length;
    return frame;
}

/* All of `from` goes behind what `to` has. */
void net_queue_move(NetQueue *to, NetQueue *from)
{
    if (!from->first)
        return;
    *to->last = from->first;
    to->last = from->last;
    to->frames += from->frames;
    to->bytes += from->bytes;
    net_queue_init(from);
}

void net_queue_clear(NetQueue *queue)
{
    for (NetFrame *frame; (frame = net_queue_take(queue));)
        free(frame);
}

bool net_queue_copy(NetQueue *queue, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    size_t length = net_length(iov, count);
    if (queue->frames >= NET_QUEUE_FRAMES || queue->bytes + length > NET_QUEUE_BYTES)
        return false;
    NetFrame *frame = malloc(sizeof *frame + length);
    if (!frame)
        return false;
    frame->header = *header;
    frame->length = (uint32_t)length;
    net_gather(frame->bytes, iov, count);
    net_queue_append(queue, frame);
    return true;
}
