#include <stdlib.h>

#include "virtio/virtio_net_internal.h"

#define DEFAULT_QUEUE_SIZE 256u
#define CTRL_QUEUE_SIZE    64u
#define MIN_MTU            68u /* RFC 791 §3.2, as §5.1.4 asks */

_Static_assert(sizeof(NetHeader) == VIRTIO_NET_HDR_LEGACY, "the header is the wire's");
_Static_assert(sizeof(VirtioNetState) <= VIRTIO_OWN_STATE_MAX, "it is saved in VirtioState.own");

void virtio_net_update_config(VirtioNet *net)
{
    uint8_t *config = net->virtio.config;
    bool up = net_backend_link(net->backend);
    memcpy(config + NET_CONFIG_MAC, net->state.mac, MAC_BYTES);
    store_le16(config + NET_CONFIG_STATUS,
               (uint16_t)((up ? VIRTIO_NET_S_LINK_UP : 0) | (net->state.announce ? VIRTIO_NET_S_ANNOUNCE : 0)));
}

static void net_run(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioNet *net = virtio_net_of(device);
    if (queue->index == VIRTIO_NET_RX)
        virtio_net_run_rx(net, queue);
    else if (queue->index == VIRTIO_NET_TX)
        virtio_net_run_tx(net, queue);
    else
        virtio_net_run_ctrl(net, queue);
}

/* §5.1.4.2: the MAC address may be written by legacy drivers, and those without CTRL_MAC_ADDR. */
static bool net_config_write(VirtioDevice *device, uint32_t offset, uint8_t value)
{
    VirtioNet *net = virtio_net_of(device);
    if (offset >= NET_CONFIG_MAC + MAC_BYTES || virtio_has(device, VIRTIO_F_VERSION_1 | VIRTIO_NET_F_CTRL_MAC_ADDR))
        return false;
    net->state.mac[offset - NET_CONFIG_MAC] = value;
    return true;
}

static void net_features_changed(VirtioDevice *device)
{
    VirtioNet *net = virtio_net_of(device);
    virtio_net_default_filter(net);
    virtio_net_set_guest_offloads(net, virtio_net_offload_features(net));
}

static void net_reset(VirtioDevice *device)
{
    VirtioNet *net = virtio_net_of(device);
    memset(&net->state, 0, sizeof net->state);
    memcpy(net->state.mac, net->mac, MAC_BYTES);
    net->tx_blocked = false;
    net->rx_unpublished = 0;
    net_features_changed(device);
    virtio_net_update_config(net);
    net_backend_resume(net->backend); /* what waited for buffers: nobody wants it now */
}

/* By itself, §2.6.1: frames of the batch that is under way went with the ring. */
static void net_queue_reset(VirtioDevice *device, VirtioQueue *queue)
{
    if (queue->index == VIRTIO_NET_RX)
        virtio_net_of(device)->rx_unpublished = 0;
}

static void net_save(VirtioDevice *device, void *state)
{
    VirtioNet *net = virtio_net_of(device);
    if (virtio_queue_is_live(&device->queues[VIRTIO_NET_RX]) && net->rx_unpublished)
        virtio_publish(device, &device->queues[VIRTIO_NET_RX]);
    net->rx_unpublished = 0;
    memcpy(state, &net->state, sizeof net->state);
}

static int net_restore(VirtioDevice *device, const void *opaque)
{
    VirtioNet *net = virtio_net_of(device);
    VirtioNetState state;
    memcpy(&state, opaque, sizeof state);
    if (state.guest_offloads & ~virtio_net_offload_features(net) || state.unicast > VIRTIO_NET_MAC_TABLE ||
        state.multicast > VIRTIO_NET_MAC_TABLE - state.unicast || state.modes >> VIRTIO_NET_RX_MODES ||
        state.all_unicast > 1 || state.all_multicast > 1 || state.announce > 1)
        return -EINVAL;
    net->state = state;
    net->tx_blocked = false;
    net->rx_unpublished = 0;
    virtio_net_set_guest_offloads(net, state.guest_offloads);
    virtio_net_update_config(net);
    return 0;
}

static void net_destroy(VirtioDevice *device)
{
    VirtioNet *net = virtio_net_of(device);
    if (net->connected)
        net_disconnect(net->backend);
}

static const VirtioClass net_class = {
    .name = "virtio-net",
    .id = 1,
    .pci_class = 0x020000, /* network controller, Ethernet */
    .transitional_id = 0x1000,
    .run = net_run,
    .config_write = net_config_write,
    .features_changed = net_features_changed,
    .reset = net_reset,
    .queue_reset = net_queue_reset,
    .state_size = sizeof(VirtioNetState),
    .save = net_save,
    .restore = net_restore,
    .destroy = net_destroy,
};

static bool is_queue_size(uint32_t size)
{
    return size >= 64 && size <= VIRTIO_NET_MAX_QUEUE_SIZE && !(size & (size - 1));
}

static int check_options(const VirtioNetOptions *options, Error *error)
{
    static const uint8_t none[MAC_BYTES];
    const uint8_t *mac = options->mac;
    if (mac[0] & 1 || !memcmp(mac, none, MAC_BYTES))
        return error_set(error, EINVAL, "virtio-net: MAC address %02x:%02x:%02x:%02x:%02x:%02x is not a station's",
                         mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    if (options->mtu && options->mtu < MIN_MTU)
        return error_set(error, EINVAL, "virtio-net: MTU %u is not 68 to 65535", options->mtu);
    if ((options->rx_size && !is_queue_size(options->rx_size)) ||
        (options->tx_size && !is_queue_size(options->tx_size)))
        return error_set(error, EINVAL, "virtio-net: a queue's size is a power of two from 64 to 1024");
    return 0;
}

static VirtioNet *make(NetBackend *backend, const VirtioNetOptions *options)
{
    VirtioNet *net = calloc(1, sizeof *net);
    if (!net)
        return NULL;
    net->backend = backend;
    memcpy(net->mac, options->mac, MAC_BYTES);
    uint64_t features =
        VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS | VIRTIO_NET_F_MAC |
        VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN | VIRTIO_NET_F_HOST_TSO4 |
        VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_STATUS |
        VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_CTRL_RX_EXTRA |
        VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_CTRL_MAC_ADDR | (options->mtu ? VIRTIO_NET_F_MTU : 0);
    VirtioSetup setup = {.features = features & ~options->withhold,
                         .config_size = NET_CONFIG_SIZE,
                         .queue_count = VIRTIO_NET_QUEUES,
                         .queue_size = DEFAULT_QUEUE_SIZE};
    virtio_init(&net->virtio, &net_class, &setup);
    uint32_t sizes[VIRTIO_NET_QUEUES] = {options->rx_size, options->tx_size, CTRL_QUEUE_SIZE};
    for (uint32_t i = 0; i < VIRTIO_NET_QUEUES; i++) {
        VirtioQueue *queue = &net->virtio.queues[i];
        if (sizes[i])
            queue->ring.max_size = queue->ring.size = (uint16_t)sizes[i];
        queue->io = net_backend_io(backend);
    }
    store_le16(net->virtio.config + NET_CONFIG_MAX_QUEUE_PAIRS, 1);
    store_le16(net->virtio.config + NET_CONFIG_MTU, options->mtu);
    return net;
}

Device *virtio_net_new(Board *board, const VirtioPlace *place, NetBackend *backend, const VirtioNetOptions *options,
                       Error *error)
{
    if (check_options(options, error) < 0)
        return NULL;
    VirtioNet *net = make(backend, options);
    if (!net) {
        error_set(error, ENOMEM, "no host memory for virtio-net");
        return NULL;
    }
    Device *device = virtio_place(board, &net->virtio, place, error);
    if (!device)
        return NULL;
    if (net_connect(backend, &virtio_net_ops, net) < 0) {
        error_set(error, EBUSY, "virtio-net: the network backend has a NIC already");
        device_free(device);
        return NULL;
    }
    net->connected = true;
    device_reset(device);
    return device;
}

void virtio_net_unplug(Device *device)
{
    VirtioNet *net = virtio_net_of(virtio_of(device));
    if (net->connected)
        net_disconnect(net->backend);
    net->connected = false;
}

void virtio_net_counters(Device *device, VirtioNetCounters *counters)
{
    VirtioNet *net = virtio_net_of(virtio_of(device));
    pthread_mutex_lock(&device->lock);
    *counters = net->counters;
    pthread_mutex_unlock(&device->lock);
}

void virtio_net_announce(Device *device)
{
    VirtioNet *net = virtio_net_of(virtio_of(device));
    pthread_mutex_lock(&device->lock);
    if (virtio_has(&net->virtio, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
        net->state.announce = 1;
        virtio_net_update_config(net);
        virtio_config_changed(&net->virtio);
    }
    pthread_mutex_unlock(&device->lock);
}
