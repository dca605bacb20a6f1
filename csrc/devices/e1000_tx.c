/* The transmitter, 8254x §3.3 to §3.5: descriptors, checksum and segmentation contexts, VLAN tags. */
#include "devices/e1000_internal.h"
#include "net/net_offload.h"

#define FRAMES_PER_TURN 64u
#define MIN_FRAME       60u
#define VLAN_TAG        4u
#define MAC_ADDRESSES   12u

typedef struct TxDescriptor {
    uint64_t address;
    uint32_t lower, upper;
} TxDescriptor;

static uint8_t command_of(const TxDescriptor *desc) { return (uint8_t)(desc->lower >> 24); }
static bool is_extended(const TxDescriptor *desc) { return command_of(desc) & E1000_TXD_DEXT; }
static bool is_context(const TxDescriptor *desc) { return is_extended(desc) && (desc->lower >> 20 & 0xf) == 0; }

static uint32_t ring_count(const E1000 *nic) { return nic->registers.tdlen / E1000_DESCRIPTOR; }

static gpa_t descriptor_at(const E1000 *nic, uint32_t index)
{
    return ((uint64_t)nic->registers.tdbah << 32 | nic->registers.tdbal) + (uint64_t)index * E1000_DESCRIPTOR;
}

static bool fetch(E1000 *nic, uint32_t index, TxDescriptor *desc)
{
    uint8_t bytes[E1000_DESCRIPTOR];
    if (guest_memory_read(nic->device.board->memory, descriptor_at(nic, index), bytes, sizeof bytes) < 0) {
        nic->counters.faults++;
        return false;
    }
    *desc = (TxDescriptor){load_le64(bytes), load_le32(bytes + 8), load_le32(bytes + 12)};
    return true;
}

/* §3.3.3.2: descriptor done, where the driver asked for it. True: it did. */
static bool write_back(E1000 *nic, uint32_t index)
{
    GuestMemory *memory = nic->device.board->memory;
    gpa_t at = descriptor_at(nic, index);
    uint8_t bytes[8];
    if (guest_memory_read(memory, at + 8, bytes, sizeof bytes) < 0 || !(bytes[3] & E1000_TXD_RS))
        return false;
    bytes[4] |= E1000_TXD_DD;
    guest_memory_write(memory, at + 12, bytes + 4, 1);
    return true;
}

/* §3.3.6 */
static void take_context(E1000 *nic, const TxDescriptor *desc)
{
    E1000Context context = {
        .ipcss = (uint8_t)desc->address,
        .ipcso = (uint8_t)(desc->address >> 8),
        .ipcse = (uint16_t)(desc->address >> 16),
        .tucss = (uint8_t)(desc->address >> 32),
        .tucso = (uint8_t)(desc->address >> 40),
        .tucse = (uint16_t)(desc->address >> 48),
        .paylen = desc->lower & 0xfffff,
        .tucmd = command_of(desc),
        .hdrlen = (uint8_t)(desc->upper >> 8),
        .mss = (uint16_t)(desc->upper >> 16),
    };
    if (context.tucmd & E1000_TUCMD_TSE)
        nic->segmentation = context;
    else
        nic->checksum = context;
}

/* A frame as it is gathered. The first descriptor says how it is to be treated, the last one more (§3.3.7). */
typedef struct TxFrame {
    uint32_t count; /* of nic->iov, from [1] on: the device's own copy of the headers becomes [0] */
    uint64_t length;
    uint8_t command;  /* of the last descriptor */
    uint8_t options;  /* POPTS of the first data descriptor */
    uint8_t css, cso; /* legacy */
    uint16_t special; /* VLAN tag, of the last one */
    bool extended, segmented, broken;
} TxFrame;

/* A piece of guest memory, cut where memslots meet. */
static void add_piece(E1000 *nic, TxFrame *frame, gpa_t gpa, uint32_t length)
{
    const GuestMemory *memory = nic->device.board->memory;
    frame->length += length;
    while (length && !frame->broken) {
        const Memslot *slot = guest_memory_find(memory, gpa);
        if (!slot || frame->count == NET_MAX_SEGMENTS) {
            nic->counters.faults++;
            frame->broken = true;
            return;
        }
        uint64_t offset = gpa - slot->gpa, n = MIN(length, slot->size - offset);
        nic->iov[1 + frame->count++] = (struct iovec){slot->hva + offset, n};
        gpa += n;
        length -= (uint32_t)n;
    }
}

static void add_descriptor(E1000 *nic, TxFrame *frame, const TxDescriptor *desc, bool first)
{
    uint32_t length = desc->lower & (is_extended(desc) ? 0xfffff : 0xffff);
    if (first) {
        frame->extended = is_extended(desc);
        frame->options = (uint8_t)(desc->upper >> 8);
        frame->css = (uint8_t)(desc->upper >> 8);
        frame->cso = (uint8_t)(desc->lower >> 16);
        frame->segmented = frame->extended && command_of(desc) & E1000_TUCMD_TSE;
    }
    frame->command = command_of(desc);
    frame->special = (uint16_t)(desc->upper >> 16);
    if (frame->length + length > NET_FRAME_MAX)
        frame->broken = true;
    else
        add_piece(nic, frame, desc->address, length);
}

/* Take the frame that begins at `index`: how many descriptors it has, 0 when they are not all there. */
static uint32_t gather(E1000 *nic, uint32_t index, TxFrame *frame)
{
    const E1000Registers *registers = &nic->registers;
    *frame = (TxFrame){0};
    for (uint32_t taken = 1; index != registers->tdt; taken++) {
        TxDescriptor desc;
        if (!fetch(nic, index, &desc) || taken > ring_count(nic))
            return 0;
        if (!is_context(&desc)) /* amid a frame: not for this one */
            add_descriptor(nic, frame, &desc, taken == 1);
        if (command_of(&desc) & E1000_TXD_EOP && !is_context(&desc))
            return taken;
        index = index + 1 >= ring_count(nic) ? 0 : index + 1;
    }
    return 0;
}

/* Move the first bytes into nic->headers, so that they can be changed: nic->iov[0] has them then. */
static uint32_t copy_headers(E1000 *nic, TxFrame *frame)
{
    uint32_t have = 0;
    for (uint32_t i = 1; i <= frame->count && have < E1000_HEADERS; i++) {
        struct iovec *iov = &nic->iov[i];
        uint32_t n = (uint32_t)MIN(iov->iov_len, E1000_HEADERS - have);
        memcpy(nic->headers + have, iov->iov_base, n);
        *iov = (struct iovec){(uint8_t *)iov->iov_base + n, iov->iov_len - n};
        have += n;
    }
    return have;
}

/* RFC 1071 over [start, end) of the headers, stored at `offset`. */
static void insert_sum(E1000 *nic, uint32_t start, uint32_t end, uint32_t offset, uint32_t have)
{
    if (start >= end || end > have || offset + 2 > have)
        return;
    uint16_t zero = 0, sum;
    memcpy(nic->headers + offset, &zero, 2);
    sum = (uint16_t)~net_sum(nic->headers + start, end - start, 0);
    memcpy(nic->headers + offset, &sum, 2);
}

static void insert_ip_sum(E1000 *nic, const E1000Context *context, uint32_t have)
{
    uint32_t end = context->ipcse ? context->ipcse + 1u : have;
    insert_sum(nic, context->ipcss, end, context->ipcso, have);
}

/* §3.5: the driver leaves out of headers and pseudo-header what differs from segment to segment: lengths. A GSO
 * frame has those of the whole (virtio 1.2 §5.1.6.2). */
static void prepare_segmentation(E1000 *nic, const TxFrame *frame, uint32_t have, NetHeader *header)
{
    const E1000Context *context = &nic->segmentation;
    bool v4 = context->tucmd & E1000_TUCMD_IP, tcp = context->tucmd & E1000_TUCMD_TCP;
    uint32_t l3 = context->ipcss, l4 = context->tucss, field = context->tucso;
    if (l4 < l3 + 20 || l4 + 8 > have || field < l4 || field + 2 > have || frame->length <= l4)
        return;
    uint32_t ip_length = (uint32_t)frame->length - (v4 ? l3 : l3 + 40), l4_length = (uint32_t)frame->length - l4;
    if (ip_length > UINT16_MAX || (!v4 && l4 < l3 + 40))
        return;
    store_be16(nic->headers + l3 + (v4 ? 2 : 4), (uint16_t)ip_length);
    if (v4 && frame->options & E1000_POPTS_IXSM)
        insert_ip_sum(nic, context, have);
    uint32_t sum = load_be16(nic->headers + field) + l4_length;
    sum = (sum & 0xffff) + (sum >> 16);
    store_be16(nic->headers + field, (uint16_t)sum);
    if (!tcp)
        store_be16(nic->headers + l4 + 4, (uint16_t)l4_length);
    *header = (NetHeader){.flags = NET_NEEDS_CSUM,
                          .hdr_len = context->hdrlen,
                          .csum_start = (uint16_t)l4,
                          .csum_offset = (uint16_t)(field - l4)};
    if (context->mss && frame->length > (uint64_t)context->hdrlen + context->mss) {
        header->gso_type = (uint8_t)(!tcp ? NET_GSO_UDP_L4 : v4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6);
        header->gso_size = context->mss;
        nic->counters.tx_segmented++;
        nic->registers.statistics[E1000_TSCTC]++;
    }
}

static void prepare_checksums(E1000 *nic, const TxFrame *frame, uint32_t have, NetHeader *header)
{
    const E1000Context *context = &nic->checksum;
    uint32_t start = context->tucss, field = context->tucso;
    bool wanted = frame->options & E1000_POPTS_TXSM;
    if (!frame->extended) { /* §3.3.3.1 */
        start = frame->css;
        field = frame->cso;
        wanted = frame->command & E1000_TXD_IC;
    } else if (frame->options & E1000_POPTS_IXSM) {
        insert_ip_sum(nic, context, have);
    }
    if (!wanted || field < start || field + 2u > frame->length)
        return;
    if (frame->extended && context->tucse) { /* not to the frame's end */
        insert_sum(nic, start, context->tucse + 1u, field, have);
        return;
    }
    *header = (NetHeader){
        .flags = NET_NEEDS_CSUM, .csum_start = (uint16_t)start, .csum_offset = (uint16_t)(field - start)};
}

/* §9: a tag behind the addresses. Returns the bytes of headers. */
static uint32_t insert_tag(E1000 *nic, TxFrame *frame, uint32_t have, NetHeader *header)
{
    if (!(frame->command & E1000_TXD_VLE) || !(nic->registers.ctrl & E1000_CTRL_VME) || have < MAC_ADDRESSES)
        return have;
    memmove(nic->headers + MAC_ADDRESSES + VLAN_TAG, nic->headers + MAC_ADDRESSES, have - MAC_ADDRESSES);
    store_be16(nic->headers + MAC_ADDRESSES, (uint16_t)nic->registers.vet);
    store_be16(nic->headers + MAC_ADDRESSES + 2, frame->special);
    frame->length += VLAN_TAG;
    if (header->flags)
        header->csum_start = (uint16_t)(header->csum_start + VLAN_TAG);
    if (header->gso_type)
        header->hdr_len = (uint16_t)(header->hdr_len + VLAN_TAG);
    return have + VLAN_TAG;
}

/* Give the lock up and hand it to the backend. */
static int hand_over(E1000 *nic, uint32_t first, uint32_t count, const NetHeader *header)
{
    nic->sending = true;
    if (!nic->lock_kept)
        pthread_mutex_unlock(&nic->device.lock);
    int result = net_backend_send(nic->backend, nic->iov + first, count, header);
    if (!nic->lock_kept)
        pthread_mutex_lock(&nic->device.lock);
    nic->sending = false;
    pthread_cond_broadcast(&nic->idle);
    return result;
}

static int send_frame(E1000 *nic, TxFrame *frame)
{
    NetHeader header = {0};
    if (frame->broken || frame->length < NET_ETHERNET)
        return -EINVAL;
    uint32_t have = copy_headers(nic, frame);
    if (frame->segmented)
        prepare_segmentation(nic, frame, have, &header);
    else
        prepare_checksums(nic, frame, have, &header);
    have = insert_tag(nic, frame, have, &header);
    if (nic->registers.tctl & E1000_TCTL_PSP && frame->length < MIN_FRAME) { /* all of it is in the headers */
        memset(nic->headers + have, 0, MIN_FRAME - have);
        frame->length = have = MIN_FRAME;
    }
    nic->iov[0] = (struct iovec){nic->headers, have};
    uint32_t count = 1;
    for (uint32_t i = 1; i <= frame->count; i++)
        if (nic->iov[i].iov_len)
            nic->iov[count++] = nic->iov[i];
    if (count > NET_MAX_SEGMENTS || frame->length > NET_FRAME_MAX)
        return -EINVAL;
    int result = hand_over(nic, 0, count, &header);
    if (result == 0)
        e1000_count_frame(nic, true, nic->headers, frame->length);
    return result;
}

/* Give `count` descriptors from the head on back. True: the driver wants an interrupt. */
static bool finish(E1000 *nic, uint32_t count)
{
    bool wanted = false;
    while (count--) {
        wanted |= write_back(nic, nic->registers.tdh);
        nic->registers.tdh = nic->registers.tdh + 1 >= ring_count(nic) ? 0 : nic->registers.tdh + 1;
    }
    return wanted;
}

/* One context or one frame: false when there is nothing to be done now. */
static bool transmit_one(E1000 *nic, uint32_t *causes)
{
    E1000Registers *registers = &nic->registers;
    TxDescriptor desc;
    TxFrame frame;
    if (registers->tdh == registers->tdt || registers->tdh >= ring_count(nic) || !fetch(nic, registers->tdh, &desc))
        return false;
    uint32_t count = 1;
    if (is_context(&desc)) {
        take_context(nic, &desc);
    } else {
        count = gather(nic, registers->tdh, &frame);
        if (count == 0)
            return false;
        int result = send_frame(nic, &frame);
        if (result == -EAGAIN) {
            nic->tx_blocked = true;
            nic->counters.tx_waits++;
            return false;
        }
        if (result < 0)
            nic->counters.tx_drops++;
        else
            nic->counters.tx_bytes += frame.length;
        nic->counters.tx_frames += result == 0;
    }
    if (finish(nic, count))
        *causes |= E1000_ICR_TXDW;
    if (registers->tdh == registers->tdt)
        *causes |= E1000_ICR_TXQE;
    return true;
}

static bool may_transmit(const E1000 *nic)
{
    if (nic->registers.tdh >= ring_count(nic) || nic->registers.tdt >= ring_count(nic))
        return false; /* never to meet */
    return nic->registers.tctl & E1000_TCTL_EN && !nic->tx_blocked && !nic->draining && e1000_may_dma(nic);
}

void e1000_run(void *opaque)
{
    E1000 *nic = opaque;
    bool holds_lock = __atomic_load_n(&nic->kicker, __ATOMIC_RELAXED) == (uintptr_t)pthread_self();
    uint32_t causes = 0, turns = 0;
    if (!holds_lock)
        pthread_mutex_lock(&nic->device.lock);
    if (!nic->sending) {
        nic->lock_kept = holds_lock;
        while (may_transmit(nic) && transmit_one(nic, &causes)) {
            if (++turns == FRAMES_PER_TURN && !holds_lock) { /* others on this thread have their turn */
                io_notifier_post(nic->notifier);
                break;
            }
        }
        nic->lock_kept = false;
        e1000_raise(nic, causes);
        if (turns)
            net_backend_flush(nic->backend);
    }
    if (!holds_lock)
        pthread_mutex_unlock(&nic->device.lock);
}

void e1000_kick(E1000 *nic)
{
    if (!nic->notifier || !may_transmit(nic) || nic->registers.tdh == nic->registers.tdt)
        return;
    __atomic_store_n(&nic->kicker, (uintptr_t)pthread_self(), __ATOMIC_RELAXED);
    io_notifier_kick(nic->notifier);
    __atomic_store_n(&nic->kicker, 0, __ATOMIC_RELAXED);
}

void e1000_drain(E1000 *nic)
{
    if (!nic->sending)
        return;
    nic->draining++; /* of several vCPUs that wait none starts it again for the others */
    while (nic->sending)
        pthread_cond_wait(&nic->idle, &nic->device.lock);
    if (--nic->draining == 0)
        e1000_kick(nic);
}

void e1000_writable(void *opaque)
{
    E1000 *nic = opaque;
    pthread_mutex_lock(&nic->device.lock);
    nic->tx_blocked = false;
    e1000_kick(nic);
    pthread_mutex_unlock(&nic->device.lock);
}
