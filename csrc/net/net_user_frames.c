#include "net/net_offload.h"
#include "net/net_user_internal.h"

#define TCP_SYN        0x02
#define TCP_HEADER     20u
#define TCP_OPTION_MSS 2 /* RFC 9293 §3.2 */
#define TCP_OPTION_NOP 1
#define TCP_CHECKSUM   16
#define UDP_CHECKSUM   6

/* What a driver with an MTU of 1500 says in its SYN. */
static uint16_t usual_mss(const NetLayers *layers)
{
    return (uint16_t)(NET_MTU - TCP_HEADER - (layers->ethertype == ETHERTYPE_IPV4 ? 20 : 40));
}

static bool guest_takes_big(const NetUser *user, const NetLayers *layers)
{
    uint32_t offload = layers->ethertype == ETHERTYPE_IPV4 ? NET_OFFLOAD_TSO4 : NET_OFFLOAD_TSO6;
    return user->base.nic_offloads & offload && !user->plain;
}

/* ---- From the guest ----------------------------------------------------------------------------------------- */

/* The MSS option's value in a TCP header of `size` bytes, or NULL. */
static uint8_t *find_mss(uint8_t *tcp, uint32_t size)
{
    for (uint32_t at = TCP_HEADER; at < size && tcp[at];) {
        if (tcp[at] == TCP_OPTION_NOP) {
            at++;
            continue;
        }
        if (at + 2 > size || tcp[at + 1] < 2 || at + tcp[at + 1] > size)
            return NULL;
        if (tcp[at] == TCP_OPTION_MSS)
            return tcp[at + 1] == 4 ? tcp + at + 2 : NULL;
        at += tcp[at + 1];
    }
    return NULL;
}

/* A SYN with a finished and right checksum: let libslirp make big segments for this connection. */
static void raise_mss(NetUser *user, uint8_t *frame, const NetLayers *layers)
{
    uint32_t length = layers->end - layers->l4;
    uint8_t *tcp = frame + layers->l4;
    if (layers->protocol != IP_PROTOCOL_TCP || layers->fragment || length < TCP_HEADER || !(tcp[13] & TCP_SYN))
        return;
    uint32_t size = (tcp[12] >> 4) * 4u;
    uint8_t *mss = size <= length && guest_takes_big(user, layers) ? find_mss(tcp, size) : NULL;
    uint32_t pseudo = net_pseudo_sum(frame, layers, length);
    if (!mss || load_be16(mss) < usual_mss(layers) || net_sum(tcp, length, pseudo) != 0xffff)
        return;
    store_be16(mss, (uint16_t)(USER_BIG_SEGMENTS * usual_mss(layers)));
    store_le16(tcp + TCP_CHECKSUM, 0);
    store_le16(tcp + TCP_CHECKSUM, (uint16_t)~net_sum(tcp, length, pseudo));
}

int net_user_to_slirp(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    NetUser *user = container_of(backend, NetUser, base);
    NetLayers layers;
    uint32_t length = 0;
    for (uint32_t i = 0; i < count; length += (uint32_t)iov[i++].iov_len)
        memcpy(user->frame + length, iov[i].iov_base, iov[i].iov_len);
    if (header->flags & NET_NEEDS_CSUM)
        net_finish_checksum(user->frame, length, header);
    if (net_layers(user->frame, length, &layers) && layers.l4)
        raise_mss(user, user->frame, &layers);
    user->slirp->input(user->stack, user->frame, (int)length);
    if (!user->dirty) {
        user->dirty = true;
        net_wake(backend);
    }
    return 0;
}

/* ---- For the guest ------------------------------------------------------------------------------------------ */

static int queue_piece(void *opaque, const struct iovec *iov, uint32_t count)
{
    static const NetHeader none = {0};
    NetUser *user = opaque;
    net_queue_locked(&user->base, iov, count, &none);
    return 0;
}

/* A TCP frame above the wire's size, as a GSO frame: the sum of its pseudo-header in place of its checksum (virtio
 * 1.2 §5.1.6.4). */
static void queue_big(NetUser *user, const uint8_t *frame, const NetLayers *layers)
{
    uint8_t sum[2];
    uint32_t tcp_end = layers->l4 + (frame[layers->l4 + 12] >> 4) * 4u, field = layers->l4 + TCP_CHECKSUM;
    store_le16(sum, (uint16_t)net_pseudo_sum(frame, layers, layers->end - layers->l4));
    NetHeader header = {.flags = NET_NEEDS_CSUM,
                        .gso_type = layers->ethertype == ETHERTYPE_IPV4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
                        .hdr_len = (uint16_t)tcp_end,
                        .gso_size = usual_mss(layers),
                        .csum_start = (uint16_t)layers->l4,
                        .csum_offset = TCP_CHECKSUM};
    uint8_t *bytes = (uint8_t *)(uintptr_t)frame;
    struct iovec iov[3] = {{bytes, field}, {sum, 2}, {bytes + field + 2, layers->end - field - 2}};
    net_queue_locked(&user->base, iov, 3, &header);
}

ssize_t net_user_from_slirp(const void *data, size_t length, void *opaque)
{
    static const NetHeader none = {0}, right = {.flags = NET_DATA_VALID};
    NetUser *user = opaque;
    NetLayers layers;
    struct iovec whole = {(void *)(uintptr_t)data, length};
    if (length > NET_FRAME_MAX || !net_layers(data, length, &layers))
        return (ssize_t)length;
    bool tcp = layers.l4 && !layers.fragment && layers.protocol == IP_PROTOCOL_TCP;
    bool udp = layers.l4 && !layers.fragment && layers.protocol == IP_PROTOCOL_UDP;
    if (length - NET_ETHERNET <= NET_MTU) {
        net_queue_locked(&user->base, &whole, 1, tcp || udp ? &right : &none); /* it has just made the checksum */
    } else if (tcp && layers.end - layers.l4 >= TCP_HEADER) {
        queue_big(user, data, &layers);
    } else {
        memcpy(user->whole, data, length); /* cutting changes headers */
        if (net_fragment(user->whole, length, NET_MTU, queue_piece, user) < 0)
            user->base.counters.rx_drops++;
    }
    return (ssize_t)length;
}
