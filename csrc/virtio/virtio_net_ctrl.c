/* The control queue, virtio 1.2 §5.1.6.5, and the filter for received frames that it sets. */
#include "virtio/virtio_net_internal.h"

#define ETHERTYPE_VLAN 0x8100
#define VLAN_ID_MASK   0x0fff

/* ---- The filter --------------------------------------------------------------------------------------------- */

/* Until the driver says otherwise all frames pass; VLANs only where it cannot say (§5.1.6.5.3). */
void virtio_net_default_filter(VirtioNet *net)
{
    VirtioNetState *state = &net->state;
    state->modes = 1 << VIRTIO_NET_CTRL_RX_PROMISC;
    state->all_unicast = state->all_multicast = 0;
    state->unicast = state->multicast = 0;
    memset(state->table, 0, sizeof state->table);
    memset(state->vlans, virtio_has(&net->virtio, VIRTIO_NET_F_CTRL_VLAN) ? 0 : 0xff, sizeof state->vlans);
}

static bool has_mode(const VirtioNetState *state, enum VirtioNetCtrlRx mode) { return state->modes >> mode & 1; }

static bool in_table(const VirtioNetState *state, uint32_t first, uint32_t count, const uint8_t *mac)
{
    for (uint32_t i = first; i < first + count; i++)
        if (!memcmp(state->table[i], mac, MAC_BYTES))
            return true;
    return false;
}

static bool vlan_passes(const VirtioNetState *state, const uint8_t *start, size_t length)
{
    if (length < 16 || load_be16(start + 12) != ETHERTYPE_VLAN)
        return true;
    uint32_t id = load_be16(start + 14) & VLAN_ID_MASK;
    return state->vlans[id / 8] >> (id % 8) & 1;
}

bool virtio_net_wants(const VirtioNet *net, const uint8_t *start, size_t length)
{
    static const uint8_t broadcast[MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const VirtioNetState *state = &net->state;
    if (length < MAC_BYTES || !vlan_passes(state, start, length))
        return false;
    if (has_mode(state, VIRTIO_NET_CTRL_RX_PROMISC))
        return true;
    if (!memcmp(start, broadcast, MAC_BYTES))
        return !has_mode(state, VIRTIO_NET_CTRL_RX_NOBCAST);
    if (start[0] & 1) {
        if (has_mode(state, VIRTIO_NET_CTRL_RX_NOMULTI))
            return false;
        return has_mode(state, VIRTIO_NET_CTRL_RX_ALLMULTI) || state->all_multicast ||
               in_table(state, state->unicast, state->multicast, start);
    }
    if (has_mode(state, VIRTIO_NET_CTRL_RX_NOUNI))
        return false;
    return has_mode(state, VIRTIO_NET_CTRL_RX_ALLUNI) || state->all_unicast ||
           !memcmp(start, state->mac, MAC_BYTES) || in_table(state, 0, state->unicast, start);
}

/* ---- Offloads of the guest's receive side ------------------------------------------------------------------- */

uint64_t virtio_net_offload_features(const VirtioNet *net)
{
    return net->virtio.driver_features &
           (VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN);
}

void virtio_net_set_guest_offloads(VirtioNet *net, uint64_t features)
{
    uint32_t offloads = 0;
    if (features & VIRTIO_NET_F_GUEST_CSUM) { /* §5.1.3.1: the others need it */
        offloads |= NET_OFFLOAD_CSUM;
        offloads |= features & VIRTIO_NET_F_GUEST_TSO4 ? NET_OFFLOAD_TSO4 : 0;
        offloads |= features & VIRTIO_NET_F_GUEST_TSO6 ? NET_OFFLOAD_TSO6 : 0;
        offloads |= features & VIRTIO_NET_F_GUEST_ECN ? NET_OFFLOAD_ECN : 0;
    }
    net->state.guest_offloads = features;
    net_backend_set_offloads(net->backend, offloads);
}

/* ---- Commands ----------------------------------------------------------------------------------------------- */

/* What is left of a command's readable bytes. */
typedef struct Reader {
    const VirtqSegment *segments;
    uint32_t count;
    size_t offset; /* in the first one */
    uint64_t left;
} Reader;

/* The next bytes; false, and nothing taken, when there are not so many. `out` NULL skips. */
static bool read_bytes(Reader *reader, void *out, size_t bytes)
{
    uint8_t *to = out;
    if (bytes > reader->left)
        return false;
    reader->left -= bytes;
    while (bytes) {
        const struct iovec *iov = &reader->segments->iov;
        size_t n = MIN(bytes, iov->iov_len - reader->offset);
        if (to) {
            memcpy(to, (const uint8_t *)iov->iov_base + reader->offset, n);
            to += n;
        }
        bytes -= n;
        reader->offset += n;
        if (reader->offset == iov->iov_len) {
            reader->segments++;
            reader->offset = 0;
        }
    }
    return true;
}

/* §5.1.6.5.1 */
static bool set_mode(VirtioNet *net, uint8_t command, Reader *data)
{
    bool extra = command >= VIRTIO_NET_CTRL_RX_ALLUNI;
    uint8_t on;
    if (command >= VIRTIO_NET_RX_MODES ||
        !virtio_has(&net->virtio, extra ? VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX) ||
        !read_bytes(data, &on, 1) || data->left)
        return false;
    net->state.modes = (uint8_t)((net->state.modes & ~(1u << command)) | (uint32_t)(on != 0) << command);
    return true;
}

/* One of the two lists of MAC_TABLE_SET, after `first` entries: how many it took, -1 when it is damaged. */
static int read_macs(VirtioNetState *state, uint32_t first, Reader *data, uint8_t *overflow)
{
    uint8_t bytes[4];
    if (!read_bytes(data, bytes, sizeof bytes))
        return -1;
    uint32_t entries = load_le32(bytes);
    if ((uint64_t)entries * MAC_BYTES > data->left)
        return -1;
    *overflow = entries > VIRTIO_NET_MAC_TABLE - first;
    if (*overflow) {
        read_bytes(data, NULL, (size_t)entries * MAC_BYTES);
        return 0;
    }
    read_bytes(data, state->table[first], (size_t)entries * MAC_BYTES);
    return (int)entries;
}

/* §5.1.6.5.2: all or nothing. */
static bool set_mac_table(VirtioNet *net, Reader *data)
{
    VirtioNetState next = net->state;
    memset(next.table, 0, sizeof next.table);
    int unicast = read_macs(&next, 0, data, &next.all_unicast);
    if (unicast < 0)
        return false;
    int multicast = read_macs(&next, (uint32_t)unicast, data, &next.all_multicast);
    if (multicast < 0 || data->left)
        return false;
    next.unicast = (uint16_t)unicast;
    next.multicast = (uint16_t)multicast;
    net->state = next;
    return true;
}

static bool set_mac(VirtioNet *net, uint8_t command, Reader *data)
{
    if (command == VIRTIO_NET_CTRL_MAC_TABLE_SET)
        return virtio_has(&net->virtio, VIRTIO_NET_F_CTRL_RX) && set_mac_table(net, data);
    if (command != VIRTIO_NET_CTRL_MAC_ADDR_SET || !virtio_has(&net->virtio, VIRTIO_NET_F_CTRL_MAC_ADDR) ||
        data->left != MAC_BYTES)
        return false;
    read_bytes(data, net->state.mac, MAC_BYTES);
    virtio_net_update_config(net);
    return true;
}

/* §5.1.6.5.3 */
static bool set_vlan(VirtioNet *net, uint8_t command, Reader *data)
{
    uint8_t bytes[2];
    if (command > VIRTIO_NET_CTRL_VLAN_DEL || !virtio_has(&net->virtio, VIRTIO_NET_F_CTRL_VLAN) ||
        !read_bytes(data, bytes, sizeof bytes) || data->left)
        return false;
    uint32_t id = load_le16(bytes);
    if (id >= VLAN_COUNT)
        return false;
    uint8_t bit = (uint8_t)(1u << (id % 8)), *byte = &net->state.vlans[id / 8];
    *byte = (uint8_t)(command == VIRTIO_NET_CTRL_VLAN_ADD ? *byte | bit : *byte & ~bit);
    return true;
}

/* §5.1.6.5.4 */
static bool announced(VirtioNet *net, uint8_t command, const Reader *data)
{
    if (command != VIRTIO_NET_CTRL_ANNOUNCE_ACK || !virtio_has(&net->virtio, VIRTIO_NET_F_GUEST_ANNOUNCE) ||
        data->left || !net->state.announce)
        return false;
    net->state.announce = 0;
    virtio_net_update_config(net);
    return true;
}

/* §5.1.6.5.6 */
static bool set_offloads(VirtioNet *net, uint8_t command, Reader *data)
{
    uint8_t bytes[8];
    if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
        !virtio_has(&net->virtio, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || !read_bytes(data, bytes, sizeof bytes) ||
        data->left || load_le64(bytes) & ~virtio_net_offload_features(net))
        return false;
    virtio_net_set_guest_offloads(net, load_le64(bytes));
    return true;
}

static bool obey(VirtioNet *net, const uint8_t command[2], Reader *data)
{
    switch (command[0]) {
    case VIRTIO_NET_CTRL_RX:
        return set_mode(net, command[1], data);
    case VIRTIO_NET_CTRL_MAC:
        return set_mac(net, command[1], data);
    case VIRTIO_NET_CTRL_VLAN:
        return set_vlan(net, command[1], data);
    case VIRTIO_NET_CTRL_ANNOUNCE:
        return announced(net, command[1], data);
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
        return set_offloads(net, command[1], data);
    default:
        return false;
    }
}

/* One command: class, command and data, then a byte for the answer. */
static bool ctrl_batch(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioNet *net = virtio_net_of(device);
    VirtqChain chain;
    uint8_t command[2];
    int result = virtqueue_pop(&queue->ring, &chain, net->ctrl_chain, ARRAY_SIZE(net->ctrl_chain));
    if (result == 0)
        return false;
    Reader data = {.segments = net->ctrl_chain, .count = chain.readable, .left = chain.readable_bytes};
    if (result < 0 || !chain.writable || !read_bytes(&data, command, sizeof command)) {
        virtio_fail(device, queue,
                    result == -ENOSPC ? "command in too many pieces"
                    : result < 0      ? queue->ring.fault
                                      : "command without its header or room for an answer");
        return false;
    }
    bool obeyed = obey(net, command, &data);
    net->counters.commands++;
    net->counters.command_errors += !obeyed;
    const VirtqSegment *answer = &net->ctrl_chain[chain.readable];
    *(uint8_t *)answer->iov.iov_base = obeyed ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
    guest_memory_written(device->owner->board->memory, answer->gpa, 1);
    virtqueue_push(&queue->ring, chain.token, 1);
    virtio_publish(device, queue);
    return true;
}

void virtio_net_run_ctrl(VirtioNet *net, VirtioQueue *queue) { virtio_serve(&net->virtio, queue, ctrl_batch); }
