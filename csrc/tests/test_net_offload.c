/* Checksums, segmentation and fragments in software, against the slow way of tests/net_frames.h. */
#include "net/net_offload.h"
#include "tests/net_frames.h"

typedef struct Pieces {
    const FrameSpec *spec;
    uint32_t count, payload, largest, stop_after;
    uint8_t first_flags, last_flags;
    uint16_t first_id;
} Pieces;

static uint32_t join(uint8_t *to, const struct iovec *iov, uint32_t count)
{
    uint32_t length = 0;
    for (uint32_t i = 0; i < count; length += (uint32_t)iov[i++].iov_len)
        memcpy(to + length, iov[i].iov_base, iov[i].iov_len);
    return length;
}

static int on_segment(void *opaque, const struct iovec *iov, uint32_t count)
{
    static uint8_t frame[NET_FRAME_MAX];
    Pieces *pieces = opaque;
    const FrameSpec *spec = pieces->spec;
    uint32_t length = join(frame, iov, count), data = frame_data(spec), l4 = frame_l4(spec);
    frame_verify(frame, length, spec);
    for (uint32_t i = data; i < length; i++)
        CHECK_EQ(frame[i], payload_byte(pieces->payload + i - data));
    if (!spec->udp)
        CHECK_EQ(load_be32(frame + l4 + 4), (uint32_t)(0xfffffff0 + pieces->payload));
    if (!spec->v6)
        CHECK_EQ(load_be16(frame + frame_l3(spec) + 4), (uint16_t)(0xfffe + pieces->count));
    if (!pieces->count)
        pieces->first_flags = frame[l4 + 13];
    pieces->last_flags = frame[l4 + 13];
    pieces->payload += length - data;
    pieces->largest = MAX(pieces->largest, length - data);
    return ++pieces->count == pieces->stop_after ? -EPIPE : 0;
}

static void check_segments(FrameSpec spec, uint8_t type, uint16_t size)
{
    static uint8_t frame[NET_FRAME_MAX];
    NetHeader header;
    uint32_t length = frame_build(frame, &spec, &header);
    header.gso_type = type;
    header.gso_size = size;
    CHECK_EQ(net_header_check(&header, length), 0);
    Pieces pieces = {.spec = &spec};
    CHECK_EQ(net_segment(frame, length, &header, on_segment, &pieces), 0);
    CHECK_EQ(pieces.payload, spec.payload);
    CHECK_EQ(pieces.count, spec.payload ? (spec.payload + size - 1) / size : 1);
    CHECK(pieces.largest <= size);
    if (spec.udp)
        return;
    bool one = pieces.count == 1;
    CHECK_EQ(pieces.first_flags, spec.tcp_flags & (one ? 0xff : ~0x09)); /* FIN and PSH: the last */
    CHECK_EQ(pieces.last_flags, spec.tcp_flags & (one ? 0xff : ~0x80));  /* CWR: the first */
}

static void test_segments(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        for (int vlan = 0; vlan < 2; vlan++) {
            uint8_t tcp = v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4;
            uint32_t sizes[] = {0, 1, 1447, 1448, 1449, 10001, 65000};
            for (uint32_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                check_segments((FrameSpec){v6, false, vlan, sizes[i], 0x99}, tcp, 1448);
                check_segments((FrameSpec){v6, false, vlan, sizes[i], 0x18}, tcp | NET_GSO_ECN, 1001);
                check_segments((FrameSpec){v6, true, vlan, sizes[i], 0}, NET_GSO_UDP_L4, 1472);
            }
        }
    }
    check_segments((FrameSpec){.payload = 3000}, NET_GSO_TCPV4, 1);
}

static void test_emit_ends(void)
{
    static uint8_t frame[NET_FRAME_MAX];
    FrameSpec spec = {.payload = 9000};
    NetHeader header;
    uint32_t length = frame_build(frame, &spec, &header);
    header.gso_type = NET_GSO_TCPV4;
    header.gso_size = 1000;
    Pieces pieces = {.spec = &spec, .stop_after = 3};
    CHECK_EQ(net_segment(frame, length, &header, on_segment, &pieces), -EPIPE);
    CHECK_EQ(pieces.count, 3);
}

/* A receiver that puts fragments together again. */
typedef struct Reassembly {
    const FrameSpec *spec;
    uint8_t frame[NET_FRAME_MAX];
    uint32_t length, count, mtu;
    bool last;
    uint32_t id;
} Reassembly;

static int on_fragment(void *opaque, const struct iovec *iov, uint32_t count)
{
    static uint8_t frame[NET_FRAME_MAX];
    Reassembly *whole = opaque;
    const FrameSpec *spec = whole->spec;
    uint32_t length = join(frame, iov, count), l3 = frame_l3(spec), l4 = frame_l4(spec), offset, data = l4, id;
    CHECK(length - l3 <= whole->mtu);
    CHECK(!whole->last);
    if (spec->v6) {
        CHECK_EQ(frame[l3 + 6], 44);
        CHECK_EQ(frame[l4], 17);
        CHECK_EQ(load_be16(frame + l3 + 4), length - l4);
        offset = load_be16(frame + l4 + 2) & 0xfff8;
        whole->last = !(load_be16(frame + l4 + 2) & 1);
        id = load_be32(frame + l4 + 4);
        data += 8;
    } else {
        CHECK_EQ(slow_sum(frame + l3, 20, 0), 0xffff);
        CHECK_EQ(load_be16(frame + l3 + 2), length - l3);
        offset = (load_be16(frame + l3 + 6) & 0x1fffu) * 8;
        whole->last = !(load_be16(frame + l3 + 6) & 0x2000);
        id = load_be16(frame + l3 + 4);
    }
    if (!whole->count++)
        memcpy(whole->frame, frame, l4), whole->id = id;
    CHECK_EQ(id, whole->id);
    CHECK_EQ(offset, whole->length);
    memcpy(whole->frame + l4 + offset, frame + data, length - data);
    whole->length += length - data;
    return 0;
}

static void check_fragments(FrameSpec spec, uint32_t mtu, bool ufo)
{
    static uint8_t frame[NET_FRAME_MAX];
    static Reassembly whole;
    NetHeader header;
    uint32_t length = frame_build(frame, &spec, &header), l4 = frame_l4(&spec);
    memset(&whole, 0, sizeof whole);
    whole.spec = &spec;
    whole.mtu = mtu;
    if (ufo) {
        header.gso_type = NET_GSO_UDP;
        header.gso_size = (uint16_t)MIN(mtu - (spec.v6 ? 40 : 20), 65535);
        CHECK_EQ(net_segment(frame, length, &header, on_fragment, &whole), 0);
    } else {
        net_finish_checksum(frame, length, &header);
        CHECK_EQ(net_fragment(frame, length, mtu, on_fragment, &whole), 0);
    }
    CHECK(whole.last);
    CHECK_EQ(whole.length, length - l4);
    CHECK_EQ(slow_sum(whole.frame + l4, length - l4, slow_pseudo(&spec, whole.frame, length - l4)), 0xffff);
    for (uint32_t i = 0; i < spec.payload; i++)
        CHECK_EQ(whole.frame[frame_data(&spec) + i], payload_byte(i));
}

static void test_fragments(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        for (int ufo = 0; ufo < 2; ufo++) {
            check_fragments((FrameSpec){v6, true, false, 8000, 0}, 1500, ufo);
            check_fragments((FrameSpec){v6, true, true, 65000, 0}, 1499, ufo);
            check_fragments((FrameSpec){v6, true, false, 65000, 0}, 65575, ufo);
            check_fragments((FrameSpec){v6, true, false, 100, 0}, 1500, ufo);
        }
    }
    check_fragments((FrameSpec){false, true, false, 1000, 0}, 68, false);
}

static void test_sums(void)
{
    uint8_t data[300];
    for (uint32_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31 + 200);
    for (uint32_t length = 0; length <= sizeof data; length++)
        for (uint32_t start = 0; start < 9 && start <= length; start++)
            CHECK_EQ(__builtin_bswap16((uint16_t)net_sum(data + start, length - start, 0)),
                     slow_sum(data + start, length - start, 0));
    memset(data, 0xff, sizeof data); /* every addition carries */
    CHECK_EQ(net_sum(data, sizeof data, 0xffff), 0xffff);
    /* UDP whose sum is 0 (RFC 768). */
    uint8_t frame[64] = {0};
    frame[40] = frame[41] = 0xff;
    NetHeader header = {.flags = NET_NEEDS_CSUM, .csum_start = 40, .csum_offset = 6};
    net_finish_checksum(frame, 48, &header);
    CHECK_EQ(load_be16(frame + 46), 0xffff);
}

static int never(void *opaque, const struct iovec *iov, uint32_t count)
{
    CHECK(!"a damaged frame was cut");
    return 0;
}

static void test_refused(void)
{
    static uint8_t frame[NET_FRAME_MAX];
    FrameSpec spec = {.payload = 9000};
    NetHeader good, header;
    uint32_t length = frame_build(frame, &spec, &good), l3 = frame_l3(&spec), l4 = frame_l4(&spec);
    good.gso_type = NET_GSO_TCPV4;
    good.gso_size = 1000;
    header = good, header.gso_size = 0;
    CHECK_EQ(net_header_check(&header, length), -EINVAL);
    header = good, header.flags = 0;
    CHECK_EQ(net_header_check(&header, length), -EINVAL);
    header = good, header.gso_type = 2;
    CHECK_EQ(net_header_check(&header, length), -EINVAL);
    header = good, header.gso_type = NET_GSO_UDP | NET_GSO_ECN;
    CHECK_EQ(net_header_check(&header, length), -EINVAL);
    header = good, header.csum_start = 0xffff, header.csum_offset = 0xffff;
    CHECK_EQ(net_header_check(&header, length), -EINVAL);
    CHECK_EQ(net_header_check(&good, 13), -EINVAL);
    CHECK_EQ(net_header_check(&good, NET_FRAME_MAX + 1), -EINVAL);

    header = good, header.gso_type = NET_GSO_TCPV6;
    CHECK_EQ(net_segment(frame, length, &header, never, NULL), -EINVAL);
    header = good, header.gso_type = NET_GSO_UDP_L4;
    CHECK_EQ(net_segment(frame, length, &header, never, NULL), -EINVAL);
    header = good, header.csum_start++;
    CHECK_EQ(net_segment(frame, length, &header, never, NULL), -EINVAL);
    header = good, header.gso_size = 1;
    CHECK_EQ(net_segment(frame, length, &header, never, NULL), -EINVAL); /* too many */
    struct {
        uint32_t at;
        uint8_t value;
    } damage[] = {{l3, 0x44},  {l3, 0x4f},   {l3, 0x65},      {l3 + 2, 0xff},  {l3 + 6, 0x20},
                  {l3 + 7, 1}, {l3 + 9, 17}, {l4 + 12, 0x40}, {l4 + 12, 0xf0}, {12, 9}};
    for (uint32_t i = 0; i < ARRAY_SIZE(damage); i++) {
        uint8_t before = frame[damage[i].at];
        frame[damage[i].at] = damage[i].value;
        if (damage[i].at != l4 + 12 || damage[i].value < 0x50)
            CHECK_EQ(net_segment(frame, length, &good, never, NULL), -EINVAL);
        frame[damage[i].at] = before;
    }
    frame[l4 + 12] = 0xf0; /* 60 bytes of TCP header, and only 52 bytes there */
    store_be16(frame + l3 + 2, 72);
    CHECK_EQ(net_segment(frame, l3 + 72, &good, never, NULL), -EINVAL);
    CHECK_EQ(net_fragment(frame, 20, 1500, never, NULL), -EINVAL);
    CHECK_EQ(net_fragment(frame, 10, 1500, never, NULL), -EINVAL);
}

int main(void)
{
    RUN(test_sums);
    RUN(test_segments);
    RUN(test_emit_ends);
    RUN(test_fragments);
    RUN(test_refused);
    return 0;
}
