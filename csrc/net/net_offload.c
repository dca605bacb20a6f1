#include "net/net_offload.h"

#define VLAN_TAG        4u
#define IPV6_HEADER     40u
#define FRAGMENT_HEADER 8u
#define TCP_CWR         0x80
#define TCP_FIN_PSH     0x09
#define MORE_FRAGMENTS  0x2000

enum { IPV6_HOP_BY_HOP = 0, IPV6_ROUTING = 43, IPV6_FRAGMENT = 44, IPV6_DESTINATION = 60 };

/* ---- Sums --------------------------------------------------------------------------------------------------- */

static uint32_t fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint32_t)((sum & 0xffff) + (sum >> 16));
}

static uint64_t add_carry(uint64_t sum, uint64_t word)
{
    sum += word;
    return sum + (sum < word);
}

uint32_t net_sum(const void *data, size_t length, uint32_t initial)
{
    const uint8_t *at = data;
    uint64_t a = initial, b = 0, c = 0, d = 0; /* apart, so that no addition waits for another */
    for (; length >= 32; at += 32, length -= 32) {
        a = add_carry(a, load_le64(at));
        b = add_carry(b, load_le64(at + 8));
        c = add_carry(c, load_le64(at + 16));
        d = add_carry(d, load_le64(at + 24));
    }
    a = add_carry(add_carry(a, b), add_carry(c, d));
    for (; length >= 8; at += 8, length -= 8)
        a = add_carry(a, load_le64(at));
    uint64_t last = 0;
    memcpy(&last, at, length);
    return fold(add_carry(a, last));
}

/* A sum in memory's order, as the 16 bits to store. */
static uint16_t complement(uint32_t sum) { return (uint16_t)~fold(sum); }

uint32_t net_pseudo_sum(const uint8_t *frame, const NetLayers *layers, uint32_t length)
{
    uint8_t tail[8] = {0};
    store_be32(tail, length);
    tail[7] = layers->protocol;
    bool v4 = layers->ethertype == ETHERTYPE_IPV4;
    const uint8_t *addresses = frame + layers->l3 + (v4 ? 12 : 8);
    return net_sum(addresses, v4 ? 8 : 32, net_sum(tail, sizeof tail, 0));
}

/* ---- Headers ------------------------------------------------------------------------------------------------ */

static void ipv4_layers(const uint8_t *frame, size_t length, NetLayers *layers)
{
    const uint8_t *ip = frame + layers->l3;
    if (length < layers->l3 + 20u || ip[0] >> 4 != 4)
        return;
    uint32_t header = (ip[0] & 15) * 4u, total = load_be16(ip + 2);
    if (header < 20 || total < header || layers->l3 + total > length)
        return;
    uint16_t offset = load_be16(ip + 6);
    layers->fragment = offset & 0x3fff;
    layers->end = layers->l3 + total;
    if (offset & 0x1fff)
        return;
    layers->protocol = ip[9];
    layers->l4 = layers->l3 + header;
}

/* RFC 8200 §4: the headers before the upper layer's. */
static void ipv6_layers(const uint8_t *frame, size_t length, NetLayers *layers)
{
    const uint8_t *ip = frame + layers->l3;
    if (length < layers->l3 + IPV6_HEADER || ip[0] >> 4 != 6)
        return;
    uint32_t at = layers->l3 + IPV6_HEADER, end = at + load_be16(ip + 4);
    uint8_t next = ip[6];
    if (end > length)
        return;
    layers->end = end;
    while (next == IPV6_HOP_BY_HOP || next == IPV6_ROUTING || next == IPV6_DESTINATION || next == IPV6_FRAGMENT) {
        if (end - at < 8)
            return;
        if (next == IPV6_FRAGMENT) {
            layers->fragment = load_be16(frame + at + 2) & 0xfff9;
            if (load_be16(frame + at + 2) & 0xfff8)
                return;
        }
        uint32_t size = next == IPV6_FRAGMENT ? FRAGMENT_HEADER : (frame[at + 1] + 1u) * 8u;
        if (end - at < size)
            return;
        next = frame[at];
        at += size;
    }
    layers->protocol = next;
    layers->l4 = at;
}

bool net_layers(const uint8_t *frame, size_t length, NetLayers *layers)
{
    *layers = (NetLayers){.l3 = NET_ETHERNET};
    if (length < NET_ETHERNET)
        return false;
    layers->ethertype = load_be16(frame + 12);
    for (int tags = 0; tags < 2 && (layers->ethertype == 0x8100 || layers->ethertype == 0x88a8); tags++) {
        if (length < layers->l3 + VLAN_TAG)
            break;
        layers->ethertype = load_be16(frame + layers->l3 + 2);
        layers->l3 += VLAN_TAG;
    }
    if (layers->ethertype == ETHERTYPE_IPV4)
        ipv4_layers(frame, length, layers);
    else if (layers->ethertype == ETHERTYPE_IPV6)
        ipv6_layers(frame, length, layers);
    return true;
}

uint32_t net_header_needs(const NetHeader *header)
{
    uint32_t needs = header->flags & NET_NEEDS_CSUM ? NET_OFFLOAD_CSUM : 0;
    needs |= header->gso_type & NET_GSO_ECN ? NET_OFFLOAD_ECN : 0;
    switch (header->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        return needs | NET_OFFLOAD_TSO4;
    case NET_GSO_TCPV6:
        return needs | NET_OFFLOAD_TSO6;
    case NET_GSO_UDP:
        return needs | NET_OFFLOAD_UFO;
    case NET_GSO_UDP_L4:
        return needs | NET_OFFLOAD_USO;
    default:
        return needs;
    }
}

int net_header_check(const NetHeader *header, size_t length)
{
    if (length < NET_ETHERNET || length > NET_FRAME_MAX)
        return -EINVAL;
    bool needs = header->flags & NET_NEEDS_CSUM;
    if (needs && (size_t)header->csum_start + header->csum_offset + 2 > length)
        return -EINVAL;
    switch (header->gso_type) {
    case NET_GSO_NONE:
        return 0;
    case NET_GSO_TCPV4:
    case NET_GSO_TCPV6:
    case NET_GSO_TCPV4 | NET_GSO_ECN:
    case NET_GSO_TCPV6 | NET_GSO_ECN:
    case NET_GSO_UDP:
    case NET_GSO_UDP_L4:
        return needs && header->gso_size ? 0 : -EINVAL;
    default:
        return -EINVAL;
    }
}

void net_finish_checksum(uint8_t *frame, size_t length, const NetHeader *header)
{
    uint8_t *field = frame + header->csum_start + header->csum_offset;
    uint16_t value = complement(net_sum(frame + header->csum_start, length - header->csum_start, 0));
    /* RFC 768: a UDP sum of 0 is sent as its other form; TCP takes either. */
    store_le16(field, value ? value : 0xffff);
}

/* ---- Cutting ------------------------------------------------------------------------------------------------ */

/* Of an IPv4 header whose length and ID have just been set. */
static void ipv4_header_sum(uint8_t *ip)
{
    store_le16(ip + 10, 0);
    store_le16(ip + 10, complement(net_sum(ip, (ip[0] & 15) * 4u, 0)));
}

static void set_ip_length(uint8_t *frame, const NetLayers *layers, uint32_t end)
{
    uint8_t *ip = frame + layers->l3;
    if (layers->ethertype == ETHERTYPE_IPV4)
        store_be16(ip + 2, (uint16_t)(end - layers->l3));
    else
        store_be16(ip + 4, (uint16_t)(end - layers->l3 - IPV6_HEADER));
}

/* A TCP segment or UDP datagram for each gso_size bytes of payload; all but lengths, IDs, sequence numbers, flags
 * and checksums is the same in each. */
static int cut_segments(uint8_t *frame, const NetLayers *layers, uint32_t headers, uint32_t size, NetEmit emit,
                        void *opaque)
{
    bool tcp = layers->protocol == IP_PROTOCOL_TCP, v4 = layers->ethertype == ETHERTYPE_IPV4;
    uint8_t *ip = frame + layers->l3, *l4 = frame + layers->l4, *sum = l4 + (tcp ? 16 : 6);
    uint32_t payload = layers->end - headers, sequence = tcp ? load_be32(l4 + 4) : 0;
    uint16_t id = v4 ? load_be16(ip + 4) : 0;
    uint8_t flags = tcp ? l4[13] : 0;
    uint32_t done = 0;
    do {
        uint32_t piece = MIN(size, payload - done), l4_length = headers - layers->l4 + piece;
        set_ip_length(frame, layers, headers + piece);
        if (v4) {
            store_be16(ip + 4, id++);
            ipv4_header_sum(ip);
        }
        if (tcp) {
            store_be32(l4 + 4, sequence + done);
            l4[13] = (uint8_t)(flags & (done ? ~TCP_CWR : 0xff) & (done + piece < payload ? ~TCP_FIN_PSH : 0xff));
        } else {
            store_be16(l4 + 4, (uint16_t)l4_length);
        }
        store_le16(sum, 0);
        uint32_t total = net_sum(l4, headers - layers->l4, net_pseudo_sum(frame, layers, l4_length));
        uint16_t value = complement(total + net_sum(frame + headers + done, piece, 0));
        store_le16(sum, value ? value : 0xffff);
        struct iovec iov[2] = {{frame, headers}, {frame + headers + done, piece}};
        int result = emit(opaque, iov, 2);
        if (result)
            return result;
        done += piece;
    } while (done < payload);
    return 0;
}

/* The headers' end of a frame that is what its GSO type says; 0 if it is not. */
static uint32_t gso_headers(const uint8_t *frame, const NetLayers *layers, const NetHeader *header)
{
    uint8_t type = header->gso_type & ~NET_GSO_ECN;
    bool tcp = type == NET_GSO_TCPV4 || type == NET_GSO_TCPV6;
    uint32_t room = layers->end - layers->l4;
    if (!layers->l4 || layers->fragment || layers->protocol != (tcp ? IP_PROTOCOL_TCP : IP_PROTOCOL_UDP))
        return 0;
    if ((type == NET_GSO_TCPV4 && layers->ethertype != ETHERTYPE_IPV4) ||
        (type == NET_GSO_TCPV6 && layers->ethertype != ETHERTYPE_IPV6))
        return 0;
    if (header->csum_start != layers->l4 || header->csum_offset != (tcp ? 16 : 6))
        return 0;
    if (!tcp)
        return room >= 8 ? layers->l4 + 8 : 0;
    uint32_t size = room >= 20 ? (frame[layers->l4 + 12] >> 4) * 4u : 0;
    return size >= 20 && size <= room ? layers->l4 + size : 0;
}

int net_segment(uint8_t *frame, size_t length, const NetHeader *header, NetEmit emit, void *opaque)
{
    NetLayers layers;
    if (!net_layers(frame, length, &layers))
        return -EINVAL;
    uint32_t headers = gso_headers(frame, &layers, header);
    if (!headers || (layers.end - headers) / header->gso_size >= NET_MAX_PIECES)
        return -EINVAL;
    if ((header->gso_type & ~NET_GSO_ECN) != NET_GSO_UDP)
        return cut_segments(frame, &layers, headers, header->gso_size, emit, opaque);
    /* UFO: one datagram, whose checksum is over all of it; gso_size is what each fragment carries of it. */
    net_finish_checksum(frame, layers.end, header);
    return net_fragment(frame, length, header->gso_size + layers.l4 - layers.l3, emit, opaque);
}

/* RFC 791 §3.2: offsets are in 8-byte units. Options are repeated in each, as a sender may. */
static int fragment_ipv4(uint8_t *frame, const NetLayers *layers, uint32_t mtu, NetEmit emit, void *opaque)
{
    uint8_t *ip = frame + layers->l3;
    uint32_t headers = layers->l4, size = (mtu - (headers - layers->l3)) & ~7u, payload = layers->end - headers;
    for (uint32_t done = 0; done < payload;) {
        uint32_t piece = MIN(size, payload - done);
        set_ip_length(frame, layers, headers + piece);
        store_be16(ip + 6, (uint16_t)(done / 8 | (done + piece < payload ? MORE_FRAGMENTS : 0)));
        ipv4_header_sum(ip);
        struct iovec iov[2] = {{frame, headers}, {frame + headers + done, piece}};
        int result = emit(opaque, iov, 2);
        if (result)
            return result;
        done += piece;
    }
    return 0;
}

/* RFC 8200 §4.5. Extension headers before it would have to be told apart: such a packet is refused. */
static int fragment_ipv6(uint8_t *frame, const NetLayers *layers, uint32_t mtu, NetEmit emit, void *opaque)
{
    uint8_t *ip = frame + layers->l3, fragment[FRAGMENT_HEADER] = {layers->protocol};
    uint32_t headers = layers->l4, size = (mtu - IPV6_HEADER - FRAGMENT_HEADER) & ~7u;
    uint32_t payload = layers->end - headers;
    if (headers != layers->l3 + IPV6_HEADER)
        return -EINVAL;
    /* An identification that differs from the last one's with these addresses: of the checksums and lengths. */
    store_le32(fragment + 4, net_sum(frame + headers, payload, 0) * 0x9e3779b1u ^ payload);
    ip[6] = IPV6_FRAGMENT;
    for (uint32_t done = 0; done < payload;) {
        uint32_t piece = MIN(size, payload - done);
        set_ip_length(frame, layers, headers + FRAGMENT_HEADER + piece);
        store_be16(fragment + 2, (uint16_t)(done | (done + piece < payload)));
        struct iovec iov[3] = {{frame, headers}, {fragment, sizeof fragment}, {frame + headers + done, piece}};
        int result = emit(opaque, iov, 3);
        if (result)
            return result;
        done += piece;
    }
    return 0;
}

int net_fragment(uint8_t *frame, size_t length, uint32_t mtu, NetEmit emit, void *opaque)
{
    NetLayers layers;
    if (!net_layers(frame, length, &layers) || !layers.l4 || layers.fragment)
        return -EINVAL;
    bool v4 = layers.ethertype == ETHERTYPE_IPV4;
    if (mtu < (v4 ? 68 : 1280))
        return -EINVAL;
    return (v4 ? fragment_ipv4 : fragment_ipv6)(frame, &layers, MIN(mtu, 65535u), emit, opaque);
}
