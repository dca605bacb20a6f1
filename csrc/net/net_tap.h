/*
 * A tap interface of the host: an Ethernet port that the host's network (a bridge, routes) sees.
 *
 * Source: Linux Documentation/networking/tuntap.rst and <linux/if_tun.h>. With IFF_VNET_HDR a virtio_net_hdr goes
 * with each frame, so big frames and unfinished checksums pass between the guest and the host's stack as they are.
 * Left out: several queues, vhost-net, the host's scripts (pyvmm net makes bridges and taps).
 *
 * When the interface is taken away (EBADFD, ENODEV) the guest loses its carrier, and the machine goes on. While it
 * is down at the host (EIO) frames are dropped and counted.
 */
#ifndef PYVMM_NET_NET_TAP_H
#define PYVMM_NET_NET_TAP_H

#include "net/net.h"

typedef struct NetTapOptions {
    const char *ifname; /* made if it is not there (needs CAP_NET_ADMIN); NULL or "": tap0, tap1... as is free */
    int fd;             /* an open /dev/net/tun instead, which the backend then owns; 0: none */
    bool no_header;     /* without IFF_VNET_HDR */
} NetTapOptions;

NetBackend *net_tap_new(Board *board, IoThread *io, const NetTapOptions *options, Error *error);
const char *net_tap_ifname(NetBackend *backend); /* "" when it is not known */

#endif
