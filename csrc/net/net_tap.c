#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/net_backend.h"
#include "net/net_tap.h"

#define FRAMES_PER_LOOK 64

typedef struct NetTap {
    NetBackend base;
    int fd;
    bool header;  /* goes with each frame */
    bool gone;    /* lock held */
    bool watched; /* I/O thread only */
    char ifname[IFNAMSIZ];
    uint8_t frame[NET_FRAME_MAX];
} NetTap;

static NetTap *tap_of(NetBackend *backend) { return container_of(backend, NetTap, base); }

static bool is_gone(int error) { return error == EBADFD || error == ENODEV || error == EBADF; }

static void lose_locked(NetTap *tap)
{
    tap->gone = true;
    net_peer_locked(&tap->base, false);
}

static int tap_send(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    NetTap *tap = tap_of(backend);
    struct iovec all[NET_MAX_SEGMENTS + 1] = {{(void *)(uintptr_t)header, sizeof *header}};
    memcpy(all + 1, iov, count * sizeof *iov);
    ssize_t written = writev(tap->fd, tap->header ? all : all + 1, (int)(count + tap->header));
    if (written >= 0)
        return 0;
    if (errno == EAGAIN) {
        io_watch_modify(backend->io, tap->fd, EPOLLIN | EPOLLOUT);
        return -EAGAIN;
    }
    int result = -errno;
    if (is_gone(errno))
        lose_locked(tap);
    return result;
}

static void stop_watching(NetTap *tap)
{
    if (tap->watched)
        io_watch_remove(tap->base.io, tap->fd);
    tap->watched = false;
}

/* false: nothing more for now. */
static bool read_frame(NetTap *tap, bool *go_on)
{
    NetHeader header = {0};
    struct iovec iov[2] = {{&header, sizeof header}, {tap->frame, sizeof tap->frame}};
    ssize_t length = readv(tap->fd, tap->header ? iov : iov + 1, 1 + tap->header);
    if (length < 0) {
        if (is_gone(errno)) {
            pthread_mutex_lock(&tap->base.lock);
            lose_locked(tap);
            pthread_mutex_unlock(&tap->base.lock);
        }
        return false;
    }
    size_t head = tap->header ? sizeof header : 0;
    if ((size_t)length < head)
        return false;
    iov[1].iov_len = (size_t)length - head;
    *go_on = net_deliver(&tap->base, &iov[1], 1, &header);
    return *go_on;
}

static void tap_look(NetTap *tap)
{
    bool go_on = true;
    int frames = 0;
    while (frames < FRAMES_PER_LOOK && read_frame(tap, &go_on))
        frames++;
    if (frames)
        net_delivered(&tap->base);
    if (!go_on)
        io_watch_modify(tap->base.io, tap->fd, 0);
}

static void on_tap(void *opaque, uint32_t events)
{
    NetTap *tap = opaque;
    if (events & EPOLLOUT) {
        io_watch_modify(tap->base.io, tap->fd, EPOLLIN);
        pthread_mutex_lock(&tap->base.lock);
        net_room_locked(&tap->base);
        pthread_mutex_unlock(&tap->base.lock);
    }
    if (events & ~(uint32_t)EPOLLOUT)
        tap_look(tap);
    if (events & (EPOLLERR | EPOLLHUP)) { /* it was taken away, whoever reads */
        stop_watching(tap);
        pthread_mutex_lock(&tap->base.lock);
        lose_locked(tap);
        pthread_mutex_unlock(&tap->base.lock);
    }
}

static void tap_work(NetBackend *backend)
{
    NetTap *tap = tap_of(backend);
    pthread_mutex_lock(&backend->lock);
    bool gone = tap->gone;
    pthread_mutex_unlock(&backend->lock);
    if (gone)
        stop_watching(tap);
}

static void tap_resume(NetBackend *backend)
{
    NetTap *tap = tap_of(backend);
    if (tap->watched)
        io_watch_modify(backend->io, tap->fd, EPOLLIN);
}

static void tap_poll(NetBackend *backend) { tap_look(tap_of(backend)); }

/* What the kernel may give: as much as the guest's driver takes, so that the kernel does the rest. */
static void tap_set_offloads(NetBackend *backend, uint32_t offloads)
{
    NetTap *tap = tap_of(backend);
    unsigned long flags = 0;
    flags |= offloads & NET_OFFLOAD_CSUM ? TUN_F_CSUM : 0u;
    flags |= offloads & NET_OFFLOAD_TSO4 ? TUN_F_TSO4 : 0u;
    flags |= offloads & NET_OFFLOAD_TSO6 ? TUN_F_TSO6 : 0u;
    if (flags & (TUN_F_TSO4 | TUN_F_TSO6))
        flags |= offloads & NET_OFFLOAD_ECN ? TUN_F_TSO_ECN : 0u;
    /* Refused: frames come as before, and are cut in software. */
    if (tap->header && ioctl(tap->fd, TUNSETOFFLOAD, flags) < 0 && is_gone(errno))
        lose_locked(tap);
}

static void tap_free(NetBackend *backend)
{
    NetTap *tap = tap_of(backend);
    stop_watching(tap);
    net_base_destroy(backend);
    close(tap->fd);
    free(tap);
}

static const NetBackendClass tap_class = {
    .name = "tap",
    .send = tap_send,
    .work = tap_work,
    .resume = tap_resume,
    .poll = tap_poll,
    .set_offloads = tap_set_offloads,
    .free = tap_free,
};

static int open_interface(NetTap *tap, const NetTapOptions *options, Error *error)
{
    const char *name = options->ifname ? options->ifname : "";
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    if (strlen(name) >= IFNAMSIZ || strpbrk(name, "/ \t\n:"))
        return error_set(error, EINVAL, "tap: ifname=%s is not a name of at most %d characters", name,
                         IFNAMSIZ - 1);
    tap->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tap->fd < 0)
        return error_set(error, errno, "/dev/net/tun: %s: load the module tun, and be root or in its group",
                         strerror(errno));
    unsigned features = 0;
    ioctl(tap->fd, TUNGETFEATURES, &features);
    tap->header = !options->no_header && features & IFF_VNET_HDR;
    request.ifr_flags |= tap->header ? IFF_VNET_HDR : 0;
    memcpy(request.ifr_name, name, strlen(name));
    if (ioctl(tap->fd, TUNSETIFF, &request) < 0)
        return error_set(error, errno, "tap: ifname=%s: %s: %s", name, strerror(errno),
                         errno == EPERM   ? "have root make it for you: pyvmm net tap NAME --user USER"
                         : errno == EBUSY ? "another program has it: take another name"
                                          : "take a name that is no other interface's");
    memcpy(tap->ifname, request.ifr_name, IFNAMSIZ - 1);
    return 0;
}

static int take_fd(NetTap *tap, int fd, Error *error)
{
    struct ifreq request = {0};
    if (ioctl(fd, TUNGETIFF, &request) < 0 || !(request.ifr_flags & IFF_TAP) || !(request.ifr_flags & IFF_NO_PI))
        return error_set(error, EINVAL, "tap: fd=%d is not a tap opened with IFF_TAP and IFF_NO_PI", fd);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return error_set(error, errno, "tap: fd=%d: %s", fd, strerror(errno));
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    tap->fd = fd;
    tap->header = request.ifr_flags & IFF_VNET_HDR;
    memcpy(tap->ifname, request.ifr_name, IFNAMSIZ - 1);
    return 0;
}

NetBackend *net_tap_new(Board *board, IoThread *io, const NetTapOptions *options, Error *error)
{
    NetTap *tap = calloc(1, sizeof *tap);
    if (!tap) {
        error_set(error, ENOMEM, "no host memory for a tap");
        return NULL;
    }
    tap->fd = -1;
    int result = options->fd > 0 ? take_fd(tap, options->fd, error) : open_interface(tap, options, error);
    int size = sizeof(NetHeader);
    if (result == 0 && tap->header && ioctl(tap->fd, TUNSETVNETHDRSZ, &size) < 0)
        result = error_set(error, errno, "tap %s: no header of %d bytes: %s", tap->ifname, size, strerror(errno));
    if (result < 0 || net_base_init(&tap->base, &tap_class, board, io, error) < 0) {
        if (tap->fd >= 0 && tap->fd != options->fd)
            close(tap->fd);
        free(tap);
        return NULL;
    }
    if (tap->header)
        tap->base.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
    tap_set_offloads(&tap->base, 0);
    result = io_watch_add(io, tap->fd, EPOLLIN, on_tap, tap);
    tap->watched = result == 0;
    if (result == 0)
        return &tap->base;
    error_set(error, -result, "tap %s: cannot watch it: %s", tap->ifname, strerror(-result));
    tap_free(&tap->base);
    return NULL;
}

const char *net_tap_ifname(NetBackend *backend) { return tap_of(backend)->ifname; }
