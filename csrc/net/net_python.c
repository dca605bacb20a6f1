#include <stdlib.h>

#include "net/net_backend.h"
#include "net/net_python.h"

typedef struct NetPython {
    NetBackend base;
    NetPythonSend send;
    void *handle;
    NetQueue sent; /* with the lock: frames that wait for `send` */
} NetPython;

static NetPython *python_of(NetBackend *backend) { return container_of(backend, NetPython, base); }

/* The function may take long, and may call back: it runs on the I/O thread, later. */
static int python_send(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    NetPython *python = python_of(backend);
    if (!python->send)
        return 0;
    if (!net_queue_copy(&python->sent, iov, count, header))
        return -ENOBUFS;
    net_wake(backend);
    return 0;
}

static void python_work(NetBackend *backend)
{
    NetPython *python = python_of(backend);
    NetQueue all;
    net_queue_init(&all);
    pthread_mutex_lock(&backend->lock);
    net_queue_move(&all, &python->sent);
    pthread_mutex_unlock(&backend->lock);
    for (NetFrame *frame; (frame = net_queue_take(&all));) {
        python->send(python->handle, frame->bytes, frame->length);
        free(frame);
    }
}

static void python_free(NetBackend *backend)
{
    net_queue_clear(&python_of(backend)->sent);
    net_base_destroy(backend);
    free(python_of(backend));
}

static const NetBackendClass python_class = {
    .name = "python",
    .send = python_send,
    .work = python_work,
    .free = python_free,
};

NetBackend *net_python_new(Board *board, IoThread *io, NetPythonSend send, void *handle, Error *error)
{
    NetPython *python = calloc(1, sizeof *python);
    if (!python || net_base_init(&python->base, &python_class, board, io, error) < 0) {
        error_set(error, ENOMEM, "no host memory for a network");
        free(python);
        return NULL;
    }
    python->send = send;
    python->handle = handle;
    net_queue_init(&python->sent);
    return &python->base;
}

int net_python_deliver(NetBackend *backend, const uint8_t *frame, uint32_t length)
{
    static const NetHeader none = {0};
    struct iovec iov = {(void *)(uintptr_t)frame, length};
    if (length < NET_ETHERNET || length > NET_FRAME_MAX)
        return -EINVAL;
    pthread_mutex_lock(&backend->lock);
    int result = net_queue_locked(backend, &iov, 1, &none) ? 0 : -ENOBUFS;
    net_wake(backend);
    pthread_mutex_unlock(&backend->lock);
    return result;
}
