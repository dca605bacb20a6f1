/* The receiver, 8254x §3.2: filters, descriptors, checksums, VLAN tags. */
#include "devices/e1000_internal.h"
#include "net/net_offload.h"

#define MIN_FRAME     60u
#define FCS           4u
#define MAX_FRAME     1518u  /* without FCS, with a VLAN tag: longer ones need LPE */
#define MAX_LONG      16380u /* and these are never received (§13.4.22, LPE) */
#define MAC_ADDRESSES 12u
#define VLAN_TAG      4u

/* ---- §3.2.1 ------------------------------------------------------------------------------------------------- */

static bool is_tagged(const E1000 *nic, const uint8_t *frame)
{
    return load_be16(frame + MAC_ADDRESSES) == (uint16_t)nic->registers.vet;
}

static bool address_matches(const E1000 *nic, const uint8_t *to)
{
    for (uint32_t i = 0; i < ARRAY_SIZE(nic->registers.ra); i += 2) {
        uint32_t high = nic->registers.ra[i + 1];
        if (high & E1000_RAH_AV && load_le32(to) == nic->registers.ra[i] && load_le16(to + 4) == (uint16_t)high)
            return true;
    }
    return false;
}

/* §13.5.1: which twelve bits of the address choose the bit. */
static bool hash_matches(const E1000 *nic, const uint8_t *to)
{
    static const uint8_t shifts[4] = {4, 3, 2, 0};
    uint32_t hash = (uint32_t)load_le16(to + 4) >> shifts[nic->registers.rctl >> 12 & 3] & 0xfff;
    return nic->registers.mta[hash >> 5] >> (hash & 31) & 1;
}

static bool wanted(const E1000 *nic, const uint8_t *frame)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint32_t rctl = nic->registers.rctl;
    if (rctl & E1000_RCTL_VFE && is_tagged(nic, frame)) {
        uint32_t id = load_be16(frame + MAC_ADDRESSES + 2) & 0xfff;
        if (!(nic->registers.vfta[id >> 5] >> (id & 31) & 1))
            return false;
    }
    if (address_matches(nic, frame))
        return true;
    if (!memcmp(frame, broadcast, sizeof broadcast))
        return rctl & E1000_RCTL_BAM;
    if (frame[0] & 1)
        return rctl & E1000_RCTL_MPE || hash_matches(nic, frame);
    return rctl & E1000_RCTL_UPE;
}

/* ---- Descriptors -------------------------------------------------------------------------------------------- */

static uint32_t ring_count(const E1000 *nic) { return nic->registers.rdlen / E1000_DESCRIPTOR; }

static uint32_t free_descriptors(const E1000 *nic)
{
    const E1000Registers *registers = &nic->registers;
    uint32_t count = ring_count(nic);
    if (registers->rdh >= count || registers->rdt >= count)
        return 0;
    return registers->rdt >= registers->rdh ? registers->rdt - registers->rdh
                                            : count - registers->rdh + registers->rdt;
}

/* §13.4.22 */
static uint32_t buffer_size(uint32_t rctl)
{
    uint32_t size = 2048u >> (rctl >> 16 & 3);
    return rctl & E1000_RCTL_BSEX ? size * 16 : size;
}

/* What the descriptor says of the frame. */
typedef struct RxInfo {
    uint8_t status, errors;
    uint16_t special;
} RxInfo;

/* §3.2.9: a frame that the backend vouches for, and the IP header's own sum. */
static void look_at_sums(const E1000 *nic, const uint8_t *frame, size_t length, bool valid, RxInfo *info)
{
    NetLayers layers;
    uint32_t rxcsum = nic->registers.rxcsum;
    info->status |= E1000_RXD_IXSM;
    if (!(rxcsum & (E1000_RXCSUM_IPOFL | E1000_RXCSUM_TUOFL)) || !net_layers(frame, length, &layers) || !layers.l4)
        return;
    bool v4 = layers.ethertype == ETHERTYPE_IPV4;
    if (v4 && rxcsum & E1000_RXCSUM_IPOFL) {
        info->status |= E1000_RXD_IPCS;
        info->errors |=
            net_sum(frame + layers.l3, (size_t)(frame[layers.l3] & 15) * 4, 0) == 0xffff ? 0 : E1000_RXD_IPE;
    }
    if (valid && rxcsum & E1000_RXCSUM_TUOFL && !layers.fragment &&
        (layers.protocol == IP_PROTOCOL_TCP || layers.protocol == IP_PROTOCOL_UDP))
        info->status |= E1000_RXD_TCPCS;
    if (info->status & (E1000_RXD_IPCS | E1000_RXD_TCPCS))
        info->status &= (uint8_t)~E1000_RXD_IXSM;
}

static bool store_piece(E1000 *nic, const uint8_t *data, uint32_t length, const RxInfo *info, bool last)
{
    E1000Registers *registers = &nic->registers;
    GuestMemory *memory = nic->device.board->memory;
    gpa_t at = ((uint64_t)registers->rdbah << 32 | registers->rdbal) + (uint64_t)registers->rdh * E1000_DESCRIPTOR;
    uint8_t desc[E1000_DESCRIPTOR];
    if (guest_memory_read(memory, at, desc, sizeof desc) < 0)
        return false;
    gpa_t buffer = load_le64(desc);
    bool stored =
        !buffer || guest_memory_write(memory, buffer, data, length) == 0; /* §3.2.3: a null one is skipped */
    store_le16(desc + 8, (uint16_t)length);
    store_le16(desc + 10, 0);
    desc[12] = (uint8_t)(E1000_RXD_DD | (last ? E1000_RXD_EOP | info->status : 0));
    desc[13] = last ? info->errors : 0;
    store_le16(desc + 14, last ? info->special : 0);
    guest_memory_write(memory, at + 8, desc + 8, 4);
    guest_memory_write(memory, at + 13, desc + 13, 3);
    __atomic_thread_fence(__ATOMIC_RELEASE); /* DD comes last */
    guest_memory_write(memory, at + 12, desc + 12, 1);
    registers->rdh = registers->rdh + 1 >= ring_count(nic) ? 0 : registers->rdh + 1;
    return stored;
}

static void store_frame(E1000 *nic, const uint8_t *frame, uint32_t length, const RxInfo *info)
{
    uint32_t size = buffer_size(nic->registers.rctl);
    bool stored = true;
    for (uint32_t done = 0; done < length; done += size) {
        uint32_t n = MIN(size, length - done);
        stored &= store_piece(nic, frame + done, n, info, done + n == length);
    }
    nic->counters.faults += !stored;
    nic->rx_causes |= E1000_ICR_RXT0;
    uint32_t threshold = ring_count(nic) >> (1 + (nic->registers.rctl >> 8 & 3)); /* RDMTS */
    if (free_descriptors(nic) <= threshold)
        nic->rx_causes |= E1000_ICR_RXDMT0;
}

/* ---- The frame ---------------------------------------------------------------------------------------------- */

/* In one piece, as the wire would bring it: at least 60 bytes. 0: it is not for us. */
static uint32_t take_frame(E1000 *nic, const struct iovec *iov, uint32_t count)
{
    uint32_t length = 0, most = nic->registers.rctl & E1000_RCTL_LPE ? MAX_LONG : MAX_FRAME;
    for (uint32_t i = 0; i < count; i++) {
        if (iov[i].iov_len > most - length) {
            nic->registers.statistics[E1000_ROC]++;
            nic->counters.rx_drops++;
            return 0;
        }
        memcpy(nic->frame + length, iov[i].iov_base, iov[i].iov_len);
        length += (uint32_t)iov[i].iov_len;
    }
    if (length < MIN_FRAME) {
        memset(nic->frame + length, 0, MIN_FRAME - length);
        length = MIN_FRAME;
    }
    if (wanted(nic, nic->frame))
        return length;
    nic->counters.rx_filtered++;
    return 0;
}

static uint32_t strip_tag(E1000 *nic, uint32_t length, RxInfo *info)
{
    if (!(nic->registers.ctrl & E1000_CTRL_VME) || !is_tagged(nic, nic->frame))
        return length;
    info->status |= E1000_RXD_VP;
    info->special = load_be16(nic->frame + MAC_ADDRESSES + 2);
    memmove(nic->frame + MAC_ADDRESSES, nic->frame + MAC_ADDRESSES + VLAN_TAG, length - MAC_ADDRESSES - VLAN_TAG);
    return length - VLAN_TAG;
}

static int receive_locked(E1000 *nic, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    if (!(nic->registers.rctl & E1000_RCTL_EN) || !ring_count(nic) || !e1000_may_dma(nic)) {
        nic->counters.rx_drops++;
        return 0;
    }
    uint32_t length = take_frame(nic, iov, count);
    if (!length)
        return 0;
    uint32_t fcs = nic->registers.rctl & E1000_RCTL_SECRC ? 0 : FCS, size = buffer_size(nic->registers.rctl);
    if ((length + fcs + size - 1) / size > free_descriptors(nic)) {
        if ((length + fcs + size - 1) / size >= ring_count(nic)) { /* never */
            nic->counters.rx_drops++;
            return 0;
        }
        nic->registers.statistics[E1000_RNBC]++;
        nic->counters.rx_waits++;
        return -EAGAIN;
    }
    if (header->flags & NET_NEEDS_CSUM) /* within one machine: the guest finds it whole */
        net_finish_checksum(nic->frame, length, header);
    RxInfo info = {0};
    look_at_sums(nic, nic->frame, length, header->flags != 0, &info);
    e1000_count_frame(nic, false, nic->frame, length);
    nic->counters.rx_frames++;
    nic->counters.rx_bytes += length;
    length = strip_tag(nic, length, &info);
    memset(nic->frame + length, 0, fcs);
    store_frame(nic, nic->frame, length + fcs, &info);
    return 0;
}

int e1000_receive(void *opaque, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    E1000 *nic = opaque;
    pthread_mutex_lock(&nic->device.lock);
    int result = receive_locked(nic, iov, count, header);
    if (result == -EAGAIN) { /* what came before is to be looked at, or there are never buffers */
        e1000_raise(nic, nic->rx_causes | E1000_ICR_RXDMT0);
        nic->rx_causes = 0;
    }
    pthread_mutex_unlock(&nic->device.lock);
    return result;
}

void e1000_received(void *opaque)
{
    E1000 *nic = opaque;
    pthread_mutex_lock(&nic->device.lock);
    e1000_raise(nic, nic->rx_causes);
    nic->rx_causes = 0;
    pthread_mutex_unlock(&nic->device.lock);
}
