/* QEMU's words for a user network, as libslirp's configuration. */
#ifndef PYVMM_NET_NET_USER_OPTIONS_H
#define PYVMM_NET_NET_USER_OPTIONS_H

#include "net/net_slirp.h"
#include "net/net_user.h"

/* What is left unset stays the default; strings stay the caller's. -EINVAL, with the option and what it should be.
 */
int net_user_config(const NetUserOptions *options, SlirpConfig *config, Error *error);

typedef struct HostForward {
    bool udp;
    struct in_addr host, guest;
    uint16_t host_port, guest_port;
} HostForward;

/* `remove`: without the guest's half. */
int net_user_parse_forward(const char *rule, bool remove, HostForward *forward, Error *error);

#endif
