/*
 * libslirp as this program uses it, loaded at run time: a host without it has no user network, and nothing else
 * changes.
 *
 * Source: the public interface of libslirp 4.1 (2019) and later, soname libslirp.so.0: SlirpConfig of version 1,
 * which every later library reads the same way, and the callbacks that go with it.
 */
#ifndef PYVMM_NET_NET_SLIRP_H
#define PYVMM_NET_NET_SLIRP_H

#include <netinet/in.h>
#include <sys/types.h>

#include "common/common.h"

#define SLIRP_LIBRARY        "libslirp.so.0"
#define SLIRP_CONFIG_VERSION 1u
#define SLIRP_MTU_MAX        65521u

typedef struct Slirp Slirp;

enum SlirpPoll {
    SLIRP_POLL_IN = 1,
    SLIRP_POLL_OUT = 2,
    SLIRP_POLL_PRI = 4,
    SLIRP_POLL_ERR = 8,
    SLIRP_POLL_HUP = 16,
};

typedef void (*SlirpTimerCallback)(void *timer_opaque);

typedef struct SlirpCallbacks {
    ssize_t (*send_packet)(const void *frame, size_t length, void *opaque);
    void (*guest_error)(const char *message, void *opaque);
    int64_t (*clock_get_ns)(void *opaque);
    void *(*timer_new)(SlirpTimerCallback callback, void *timer_opaque, void *opaque);
    void (*timer_free)(void *timer, void *opaque);
    void (*timer_mod)(void *timer, int64_t expire_ms, void *opaque);
    void (*register_poll_fd)(int fd, void *opaque);
    void (*unregister_poll_fd)(int fd, void *opaque);
    void (*notify)(void *opaque);
    void *later[8]; /* of configurations after version 1: never called */
} SlirpCallbacks;

typedef struct SlirpConfig {
    uint32_t version;
    int restricted;
    bool in_enabled;
    struct in_addr vnetwork;
    struct in_addr vnetmask;
    struct in_addr vhost;
    bool in6_enabled;
    struct in6_addr vprefix_addr6;
    uint8_t vprefix_len;
    struct in6_addr vhost6;
    const char *vhostname;
    const char *tftp_server_name;
    const char *tftp_path;
    const char *bootfile;
    struct in_addr vdhcp_start;
    struct in_addr vnameserver;
    struct in6_addr vnameserver6;
    const char **vdnssearch;
    const char *vdomainname;
    size_t if_mtu;
    size_t if_mru;
    bool disable_host_loopback;
    bool enable_emu;
    void *later[8];
} SlirpConfig;

typedef struct SlirpLibrary {
    void *handle;
    const char *version;
    Slirp *(*new)(const SlirpConfig *config, const SlirpCallbacks *callbacks, void *opaque);
    void (*cleanup)(Slirp *slirp);
    void (*input)(Slirp *slirp, const uint8_t *frame, int length);
    void (*pollfds_fill)(Slirp *slirp, uint32_t *timeout_ms, int (*add)(int fd, int events, void *opaque),
                         void *opaque);
    void (*pollfds_poll)(Slirp *slirp, int select_error, int (*revents)(int index, void *opaque), void *opaque);
    int (*add_hostfwd)(Slirp *slirp, int is_udp, struct in_addr host, int host_port, struct in_addr guest,
                       int guest_port);
    int (*remove_hostfwd)(Slirp *slirp, int is_udp, struct in_addr host, int host_port);
    char *(*connection_info)(Slirp *slirp);
} SlirpLibrary;

/* -ENOENT: it is not there (`error` names the package); -ENOTSUP: not a version 4. Never unloaded: GLib stays. */
int slirp_load(SlirpLibrary *library, Error *error);

#endif
