/* Packets of the socket device: virtio 1.2 §5.10.6. Little-endian, as on the wire. */
#ifndef PYVMM_VSOCK_PACKET_H
#define PYVMM_VSOCK_PACKET_H

#include "common/common.h"

#define VSOCK_HOST_CID  2u
#define VSOCK_FIRST_CID 3u /* below it are reserved ones, §5.10.4 */
#define VSOCK_ANY_CID   UINT32_MAX

enum VsockType { VSOCK_TYPE_STREAM = 1, VSOCK_TYPE_SEQPACKET = 2 };

enum VsockOp {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE = 2,
    VSOCK_OP_RST = 3,
    VSOCK_OP_SHUTDOWN = 4,
    VSOCK_OP_RW = 5,
    VSOCK_OP_CREDIT_UPDATE = 6,
    VSOCK_OP_CREDIT_REQUEST = 7,
};

enum VsockShutdown { VSOCK_SHUTDOWN_RCV = 1, VSOCK_SHUTDOWN_SEND = 2, VSOCK_SHUTDOWN_BOTH = 3 };

#define VSOCK_HEADER_BYTES 44u

typedef struct __attribute__((packed)) VsockHeader {
    uint64_t src_cid;
    uint64_t dst_cid;
    uint32_t src_port;
    uint32_t dst_port;
    uint32_t len; /* of the data that follows */
    uint16_t type;
    uint16_t op;
    uint32_t flags;
    uint32_t
        buf_alloc; /* the sender's buffer for this connection, and how much it has taken out of it: §5.10.6.3 */
    uint32_t fwd_cnt;
} VsockHeader;
_Static_assert(sizeof(VsockHeader) == VSOCK_HEADER_BYTES, "as on the wire");

#endif
