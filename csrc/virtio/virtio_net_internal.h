/* What the parts of the network device share: virtio_net.c (the device), virtio_net_data.c (frames) and
 * virtio_net_ctrl.c (the control queue and what it sets). */
#ifndef PYVMM_VIRTIO_VIRTIO_NET_INTERNAL_H
#define PYVMM_VIRTIO_VIRTIO_NET_INTERNAL_H

#include "virtio/virtio_net.h"

#define MAC_BYTES  6u
#define VLAN_COUNT 4096u

/* What may pass to the guest, as the driver set it; beside the offloads all that the class saves. */
typedef struct VirtioNetState {
    uint64_t guest_offloads;     /* feature bits */
    uint16_t unicast, multicast; /* entries of `table`: first these, then those */
    uint8_t modes;               /* bit n: VirtioNetCtrlRx */
    uint8_t all_unicast;         /* the table was too small */
    uint8_t all_multicast;
    uint8_t announce;
    uint8_t mac[MAC_BYTES];
    uint8_t table[VIRTIO_NET_MAC_TABLE][MAC_BYTES];
    uint8_t vlans[VLAN_COUNT / 8];
} VirtioNetState;

typedef struct VirtioNet {
    VirtioDevice virtio;
    NetBackend *backend;
    bool connected;
    uint8_t mac[MAC_BYTES]; /* its own; state.mac is what the driver made of it */
    VirtioNetState state;
    VirtioNetCounters counters;
    bool tx_blocked;         /* the backend has no room: until NetNicOps.writable */
    uint32_t rx_unpublished; /* frames received that the driver has not been told of */
    /* The transmit queue's, also while the lock is given up. */
    VirtqSegment tx_chain[NET_MAX_SEGMENTS];
    struct iovec tx_iov[NET_MAX_SEGMENTS];
    /* Lock held: */
    VirtqSegment rx_chain[NET_MAX_SEGMENTS];
    VirtqToken rx_tokens[VIRTIO_NET_MAX_QUEUE_SIZE]; /* buffers of one frame */
    uint32_t rx_lengths[VIRTIO_NET_MAX_QUEUE_SIZE];
    VirtqSegment ctrl_chain[NET_MAX_SEGMENTS];
} VirtioNet;

static inline VirtioNet *virtio_net_of(VirtioDevice *device) { return container_of(device, VirtioNet, virtio); }

/* virtio_net_data.c */
extern const NetNicOps virtio_net_ops;
void virtio_net_run_tx(VirtioNet *net, VirtioQueue *queue);
void virtio_net_run_rx(VirtioNet *net, VirtioQueue *queue);

/* virtio_net_ctrl.c: lock held */
void virtio_net_run_ctrl(VirtioNet *net, VirtioQueue *queue);
void virtio_net_default_filter(VirtioNet *net);                                   /* as after negotiation */
bool virtio_net_wants(const VirtioNet *net, const uint8_t *start, size_t length); /* the frame's first bytes */
void virtio_net_set_guest_offloads(VirtioNet *net, uint64_t features);
uint64_t virtio_net_offload_features(const VirtioNet *net); /* those that can be set */

/* virtio_net.c: lock held */
void virtio_net_update_config(VirtioNet *net); /* from state and link */

#endif
