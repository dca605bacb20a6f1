/*
 * virtio network device on a NetBackend.
 *
 * Source: virtio 1.2 §5.1. Offered: MAC, STATUS, CSUM, GUEST_CSUM, HOST_TSO4/TSO6/ECN, GUEST_TSO4/TSO6/ECN,
 * CTRL_GUEST_OFFLOADS, MRG_RXBUF, CTRL_VQ, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, CTRL_MAC_ADDR, GUEST_ANNOUNCE, and
 * MTU where it was asked for. What the backend cannot do of these is done in software behind it
 * (net/net_offload.h). Left out: MQ and RSS (one thread serves the backend, so that further queues would share it),
 * UFO (no driver sends it any more), USO, HASH_REPORT, NOTF_COAL, GUEST_HDRLEN, SPEED_DUPLEX, STANDBY, RSC_EXT.
 *
 * Frames are sent straight from guest memory, and received straight into it, on the backend's I/O thread: the
 * queues run there. The lock is given up while the backend takes a frame. A frame that finds no buffers stays with
 * the backend until the driver adds some; a frame that the backend has no room for stays in the ring.
 *
 * A chain that is no frame at all (§5.1.6.2: no whole header; §5.1.6.4: no room for one) ends in
 * DEVICE_NEEDS_RESET. A frame whose header contradicts it, or that is shorter than an Ethernet header or longer
 * than NET_FRAME_MAX, is dropped and counted, as on a wire.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_NET_H
#define PYVMM_VIRTIO_VIRTIO_NET_H

#include "net/net.h"
#include "virtio/virtio_place.h"

#define VIRTIO_NET_F_CSUM                (1ull << 0)
#define VIRTIO_NET_F_GUEST_CSUM          (1ull << 1)
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS (1ull << 2)
#define VIRTIO_NET_F_MTU                 (1ull << 3)
#define VIRTIO_NET_F_MAC                 (1ull << 5)
#define VIRTIO_NET_F_GUEST_TSO4          (1ull << 7)
#define VIRTIO_NET_F_GUEST_TSO6          (1ull << 8)
#define VIRTIO_NET_F_GUEST_ECN           (1ull << 9)
#define VIRTIO_NET_F_HOST_TSO4           (1ull << 11)
#define VIRTIO_NET_F_HOST_TSO6           (1ull << 12)
#define VIRTIO_NET_F_HOST_ECN            (1ull << 13)
#define VIRTIO_NET_F_MRG_RXBUF           (1ull << 15)
#define VIRTIO_NET_F_STATUS              (1ull << 16)
#define VIRTIO_NET_F_CTRL_VQ             (1ull << 17)
#define VIRTIO_NET_F_CTRL_RX             (1ull << 18)
#define VIRTIO_NET_F_CTRL_VLAN           (1ull << 19)
#define VIRTIO_NET_F_CTRL_RX_EXTRA       (1ull << 20)
#define VIRTIO_NET_F_GUEST_ANNOUNCE      (1ull << 21)
#define VIRTIO_NET_F_CTRL_MAC_ADDR       (1ull << 23)

enum VirtioNetQueue {
    VIRTIO_NET_RX = 0,
    VIRTIO_NET_TX = 1,
    VIRTIO_NET_CTRL = 2,
    VIRTIO_NET_QUEUES = 3
}; /* §5.1.2 */

enum VirtioNetConfig { /* struct virtio_net_config, §5.1.4 */
                       NET_CONFIG_MAC = 0,
                       NET_CONFIG_STATUS = 6,
                       NET_CONFIG_MAX_QUEUE_PAIRS = 8,
                       NET_CONFIG_MTU = 10,
                       NET_CONFIG_SIZE = 12,
};

enum VirtioNetStatus { VIRTIO_NET_S_LINK_UP = 1, VIRTIO_NET_S_ANNOUNCE = 2 };

/* §5.1.6: struct virtio_net_hdr ends before num_buffers for a legacy driver without MRG_RXBUF. */
enum { VIRTIO_NET_HDR = 12, VIRTIO_NET_HDR_LEGACY = 10, VIRTIO_NET_HDR_NUM_BUFFERS = 10 };

enum VirtioNetCtrlClass { /* §5.1.6.5 */
                          VIRTIO_NET_CTRL_RX = 0,
                          VIRTIO_NET_CTRL_MAC = 1,
                          VIRTIO_NET_CTRL_VLAN = 2,
                          VIRTIO_NET_CTRL_ANNOUNCE = 3,
                          VIRTIO_NET_CTRL_GUEST_OFFLOADS = 5,
};
enum VirtioNetCtrlRx { /* each is a mode that its byte turns on or off, §5.1.6.5.1 */
                       VIRTIO_NET_CTRL_RX_PROMISC,
                       VIRTIO_NET_CTRL_RX_ALLMULTI,
                       VIRTIO_NET_CTRL_RX_ALLUNI,
                       VIRTIO_NET_CTRL_RX_NOMULTI,
                       VIRTIO_NET_CTRL_RX_NOUNI,
                       VIRTIO_NET_CTRL_RX_NOBCAST,
                       VIRTIO_NET_RX_MODES,
};
enum VirtioNetCtrlMac { VIRTIO_NET_CTRL_MAC_TABLE_SET = 0, VIRTIO_NET_CTRL_MAC_ADDR_SET = 1 };
enum VirtioNetCtrlVlan { VIRTIO_NET_CTRL_VLAN_ADD = 0, VIRTIO_NET_CTRL_VLAN_DEL = 1 };
enum VirtioNetCtrlAnnounce { VIRTIO_NET_CTRL_ANNOUNCE_ACK = 0 };
enum VirtioNetCtrlOffloads { VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0 };
enum VirtioNetAck { VIRTIO_NET_OK = 0, VIRTIO_NET_ERR = 1 };

#define VIRTIO_NET_MAX_QUEUE_SIZE 1024
#define VIRTIO_NET_MAC_TABLE      64 /* addresses; a driver with more gets all of that kind */

typedef struct VirtioNetOptions {
    uint8_t mac[6];
    uint16_t mtu;     /* told to the driver, 68 to 65535; 0: not told */
    uint32_t rx_size; /* of the queues, powers of two, 64 to 1024; 0: 256 */
    uint32_t tx_size;
    uint64_t withhold; /* features of the class that are not offered */
} VirtioNetOptions;

typedef struct VirtioNetCounters {
    uint64_t tx_frames; /* a GSO frame is one */
    uint64_t tx_bytes;
    uint64_t tx_gso;
    uint64_t tx_drops; /* no frames, or the backend refused them */
    uint64_t tx_waits; /* the backend had no room */
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t rx_gso;
    uint64_t rx_filtered;
    uint64_t rx_drops; /* longer than their buffer, or the driver was not ready */
    uint64_t rx_waits; /* there were no buffers */
    uint64_t commands;
    uint64_t command_errors;
} VirtioNetCounters;

/* The backend stays the caller's and must outlive the device. */
Device *virtio_net_new(Board *board, const VirtioPlace *place, NetBackend *backend, const VirtioNetOptions *options,
                       Error *error);
/* Before device_free() where I/O threads may be running; not with the device's lock held. May be called twice. */
void virtio_net_unplug(Device *device);
void virtio_net_counters(Device *device, VirtioNetCounters *counters);
/* Ask the driver to say on the network where it is (gratuitous ARP): after the other end has moved, §5.1.6.5.4. */
void virtio_net_announce(Device *device);

#endif
