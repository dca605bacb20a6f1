/* Frames for tests of the network: built and checked a byte at a time, by nothing that is under test. */
#ifndef PYVMM_TESTS_NET_FRAMES_H
#define PYVMM_TESTS_NET_FRAMES_H

#include "net/net.h"
#include "tests/check.h"

typedef struct FrameSpec {
    bool v6, udp, vlan;
    uint32_t payload;
    uint8_t tcp_flags;
} FrameSpec;

static inline uint32_t frame_l3(const FrameSpec *spec) { return spec->vlan ? 18 : 14; }
static inline uint32_t frame_l4(const FrameSpec *spec) { return frame_l3(spec) + (spec->v6 ? 40 : 20); }
static inline uint32_t frame_data(const FrameSpec *spec) { return frame_l4(spec) + (spec->udp ? 8 : 32); }
static inline uint8_t payload_byte(uint32_t i) { return (uint8_t)(i * 7 + i / 251); }

/* RFC 1071, as it is written there: big-endian words, one after the other. */
static inline uint16_t slow_sum(const uint8_t *data, uint32_t length, uint32_t sum)
{
    for (uint32_t i = 0; i < length; i++)
        sum += i & 1 ? data[i] : data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static inline uint16_t slow_pseudo(const FrameSpec *spec, const uint8_t *frame, uint32_t length)
{
    const uint8_t *addresses = frame + frame_l3(spec) + (spec->v6 ? 8 : 12);
    return slow_sum(addresses, spec->v6 ? 32 : 8, length + (spec->udp ? 17 : 6));
}

/* An unfinished frame: its checksum field holds the pseudo-header's sum (virtio 1.2 §5.1.6.2). Returns its length.
 */
static inline uint32_t frame_build(uint8_t *frame, const FrameSpec *spec, NetHeader *header)
{
    uint32_t l3 = frame_l3(spec), l4 = frame_l4(spec), data = frame_data(spec), total = data + spec->payload;
    memset(frame, 0, data);
    for (int i = 0; i < 12; i++)
        frame[i] = (uint8_t)(0x50 + i);
    if (spec->vlan)
        store_be16(frame + 12, 0x8100), store_be16(frame + 14, 5);
    store_be16(frame + l3 - 2, spec->v6 ? 0x86dd : 0x0800);
    uint8_t *ip = frame + l3;
    if (spec->v6) {
        ip[0] = 0x60;
        store_be16(ip + 4, (uint16_t)(total - l4));
        ip[6] = spec->udp ? 17 : 6;
        ip[7] = 64;
        for (int i = 8; i < 40; i++)
            ip[i] = (uint8_t)(0xf0 + i);
    } else {
        ip[0] = 0x45;
        store_be16(ip + 2, (uint16_t)(total - l3));
        store_be16(ip + 4, 0xfffe); /* the ID wraps */
        ip[8] = 64;
        ip[9] = spec->udp ? 17 : 6;
        for (int i = 12; i < 20; i++)
            ip[i] = (uint8_t)(0xc0 + i);
        store_be16(ip + 10, (uint16_t)~slow_sum(ip, 20, 0));
    }
    uint8_t *transport = frame + l4;
    store_be16(transport, 1234);
    store_be16(transport + 2, 80);
    if (spec->udp) {
        store_be16(transport + 4, (uint16_t)(total - l4));
    } else {
        store_be32(transport + 4, 0xfffffff0); /* the sequence number wraps */
        transport[12] = 8 << 4;
        transport[13] = spec->tcp_flags;
    }
    for (uint32_t i = 0; i < spec->payload; i++)
        frame[data + i] = payload_byte(i);
    uint32_t field = spec->udp ? 6 : 16;
    store_be16(transport + field, slow_pseudo(spec, frame, total - l4));
    *header = (NetHeader){.flags = NET_NEEDS_CSUM, .csum_start = (uint16_t)l4, .csum_offset = (uint16_t)field};
    return total;
}

/* The whole of a frame of this kind, as a receiver checks it. */
static inline void frame_verify(const uint8_t *frame, uint32_t length, const FrameSpec *spec)
{
    uint32_t l3 = frame_l3(spec), l4 = frame_l4(spec);
    CHECK(length >= frame_data(spec));
    if (!spec->v6) {
        CHECK_EQ(slow_sum(frame + l3, 20, 0), 0xffff);
        CHECK_EQ(load_be16(frame + l3 + 2), length - l3);
    } else {
        CHECK_EQ(load_be16(frame + l3 + 4), length - l4);
    }
    CHECK_EQ(slow_sum(frame + l4, length - l4, slow_pseudo(spec, frame, length - l4)), 0xffff);
    if (spec->udp)
        CHECK(load_be16(frame + l4 + 6) != 0);
}

#endif
