/*
 * A record of frames that Wireshark and tcpdump read: a libpcap file with nanoseconds (magic a1b23c4d), link type
 * Ethernet, in the host's byte order (draft-ietf-opsawg-pcap §4, §5). GSO frames stand in it as they are,
 * unfinished checksums too: the way a capture on a Linux host shows its own frames.
 */
#ifndef PYVMM_NET_NET_CAPTURE_H
#define PYVMM_NET_NET_CAPTURE_H

#include <sys/uio.h>

#include "common/common.h"

#define NET_SNAPLEN_DEFAULT 262144u

typedef struct NetCapture NetCapture;

/* snaplen: bytes of each frame that are kept, 14 to 262144; 0: all. */
NetCapture *net_capture_open(const char *path, uint32_t snaplen, Error *error);
void net_capture_frame(NetCapture *capture, const struct iovec *iov, uint32_t count);
/* Flush and close; says what went wrong since it was opened (the host's disk is full). NULL: 0. */
int net_capture_close(NetCapture *capture, Error *error);
/* So far. A frame after a failed write is not recorded. */
uint64_t net_capture_frames(const NetCapture *capture);

#endif
