/* Sockets by the names that users give: "unix:PATH" and "HOST:PORT". */
#ifndef PYVMM_NET_NET_ADDRESS_H
#define PYVMM_NET_NET_ADDRESS_H

#include <sys/socket.h>

#include "common/common.h"

typedef struct NetAddress {
    struct sockaddr_storage address;
    socklen_t size;
} NetAddress;

/* `option` is for the message. Looks up names, which may take seconds. */
int net_address_parse(const char *option, const char *text, int type, NetAddress *address, Error *error);
int net_address_format(const NetAddress *address, char *text, size_t size);
/* A socket of its family that does not block: -errno. */
int net_address_socket(const NetAddress *address, int type);
/* A Unix socket's file that nobody listens on any more is taken over: -EADDRINUSE when somebody does. */
int net_address_bind(int fd, const NetAddress *address, int type);

#endif
