/*
 * User networking: a TCP/IP stack in this process (libslirp) that turns the guest's connections into sockets of the
 * host. DHCP, DNS, TFTP, forwarded ports; no privileges. The guest is not reachable but by forwarded ports.
 *
 * Options have QEMU's names and defaults (-netdev user). Left out: guestfwd, smb. Several machines in one process
 * may have one each: each is used under its own lock; what libslirp shares between them is a clock and DNS
 * addresses.
 *
 * Big frames: libslirp is told of an MTU of 65521, so a TSO frame of the guest enters it whole, its checksum
 * finished. The other way, a driver that takes TSO gets TCP segments of up to 32 KiB in one GSO frame; for
 * connections from outside, where libslirp heeds the guest's MSS option, that is raised to USER_BIG_SEGMENTS
 * segments before libslirp sees it. For a driver that does not take TSO they are cut, and all else that is above
 * 1500 bytes goes to the guest in IP fragments.
 */
#ifndef PYVMM_NET_NET_USER_H
#define PYVMM_NET_NET_USER_H

#include "net/net.h"

/* NULL: the default, in brackets. */
typedef struct NetUserOptions {
    const char *net;              /* "10.0.2.0/24", "192.168.7.0/255.255.255.0" [10.0.2.0/24] */
    const char *host;             /* the gateway, which is the host [.2 of net] */
    const char *dhcpstart;        /* the guest's first address [.15 of net] */
    const char *dns;              /* [.3 of net] */
    const char *hostname;         /* of the guest, by DHCP [none] */
    const char *domainname;       /* [none] */
    const char *const *dnssearch; /* ends with NULL [none] */
    const char *tftp;             /* a folder that TFTP serves [none] */
    const char *tftp_server_name; /* by DHCP [none] */
    const char *bootfile;         /* by DHCP [none] */
    const char *ipv6_net;         /* "fec0::/64" [fec0::/64] */
    const char *ipv6_host;        /* [::2 of ipv6_net] */
    const char *ipv6_dns;         /* [::3 of ipv6_net] */
    bool restricted;              /* the guest reaches nothing but DHCP, DNS's address and forwarded ports */
    bool no_ipv4;
    bool no_ipv6;
    bool plain; /* frames of at most 1500 bytes both ways: what a NIC without offloads gets in any case */
} NetUserOptions;

NetBackend *net_user_new(Board *board, IoThread *io, const NetUserOptions *options, Error *error);
/* Is libslirp there? 0, or what net_user_new() would say. */
int net_user_available(Error *error);
const char *net_user_version(NetBackend *backend); /* of libslirp */
/*
 * Forward a port: "tcp:[HOST_ADDRESS]:HOST_PORT-[GUEST_ADDRESS]:GUEST_PORT", or udp; an empty protocol is tcp, no
 * host address is all of them, no guest address is dhcpstart. Host port 0: one that is free. Returns the host port
 * or -errno. Any thread.
 */
int net_user_hostfwd(NetBackend *backend, const char *rule, Error *error);
/* "tcp:[HOST_ADDRESS]:HOST_PORT". */
int net_user_hostfwd_remove(NetBackend *backend, const char *rule, Error *error);
/* libslirp's table of connections, a line for each. Returns its whole length, as snprintf(3). */
int net_user_connections(NetBackend *backend, char *text, size_t size);

#endif
