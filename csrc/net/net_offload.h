/*
 * What a NIC does for its driver, in software: finishing a checksum, cutting a GSO frame into what fits the wire,
 * and IP fragments.
 *
 * Sources: virtio 1.2 §5.1.6 (the header), RFC 1071 (the checksum), RFC 791 §3.2 and RFC 8200 §4.5 (fragments), RFC
 * 9293 §3.1, RFC 3168 §6.1.2 (CWR), RFC 768. Frames may have up to two VLAN tags (IEEE 802.1Q). Left out:
 * tunnels (GSO inside GRE or VXLAN), SCTP's CRC.
 *
 * Frames and headers come from guests and peers: nothing here believes a length in them. hdr_len is never used.
 */
#ifndef PYVMM_NET_NET_OFFLOAD_H
#define PYVMM_NET_NET_OFFLOAD_H

#include "net/net.h"

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd

enum IpProtocol { IP_PROTOCOL_TCP = 6, IP_PROTOCOL_UDP = 17, IP_PROTOCOL_ICMPV6 = 58 };

/* Where the headers of a frame are; offsets from its first byte. */
typedef struct NetLayers {
    uint16_t ethertype; /* after VLAN tags */
    uint32_t l3;        /* offset of what follows the Ethernet header */
    uint32_t l4;        /* 0: not IP, or a fragment other than the first, or its headers are damaged */
    uint32_t end;       /* of the IP packet: behind it may be padding */
    uint8_t protocol;   /* of IP, when l4 */
    bool fragment;      /* of an IP packet: its checksum is over more than this */
} NetLayers;

/* false: too short for an Ethernet header. */
bool net_layers(const uint8_t *frame, size_t length, NetLayers *layers);

/* RFC 1071's sum of 16-bit words as they are in memory, folded and not complemented; `sum` is what came before, of
 * an even number of bytes. */
uint32_t net_sum(const void *data, size_t length, uint32_t sum);
/* Of the pseudo-header of TCP or UDP over `length` bytes from l4 on (RFC 9293 §3.1, RFC 8200 §8.1). */
uint32_t net_pseudo_sum(const uint8_t *frame, const NetLayers *layers, uint32_t length);

/* NetOffload that a header asks for. */
uint32_t net_header_needs(const NetHeader *header);
/* 0, or -EINVAL: flags or types that do not exist, places outside the frame, GSO without its checksum or size. */
int net_header_check(const NetHeader *header, size_t length);

/* NEEDS_CSUM, for a header that net_header_check() took: a frame without GSO. */
void net_finish_checksum(uint8_t *frame, size_t length, const NetHeader *header);

/* One frame of a series; its bytes are valid during the call. Not 0 ends the series, and is its result. */
typedef int (*NetEmit)(void *opaque, const struct iovec *iov, uint32_t count);
/*
 * Cut a GSO frame, for a header that net_header_check() took. The frame's headers are changed meanwhile. -EINVAL:
 * the headers are not those of its GSO type, or it would be more than NET_MAX_PIECES frames.
 */
#define NET_MAX_PIECES 8192u
int net_segment(uint8_t *frame, size_t length, const NetHeader *header, NetEmit emit, void *opaque);
/* Cut an IP packet into fragments of at most `mtu` bytes with their IP header. -EINVAL: not IP, damaged, already a
 * fragment, or an MTU below 68 (IPv4) or 1280 (IPv6). Don't Fragment is for routers: this is the sender's side. */
int net_fragment(uint8_t *frame, size_t length, uint32_t mtu, NetEmit emit, void *opaque);

#endif
