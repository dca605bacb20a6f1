#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/net_address.h"

static int parse_unix(const char *option, const char *path, NetAddress *address, Error *error)
{
    struct sockaddr_un *unix_address = (struct sockaddr_un *)&address->address;
    if (!*path || strlen(path) >= sizeof unix_address->sun_path)
        return error_set(error, EINVAL, "%s=unix:%s: a path has 1 to %zu characters", option, path,
                         sizeof unix_address->sun_path - 1);
    unix_address->sun_family = AF_UNIX;
    memcpy(unix_address->sun_path, path, strlen(path) + 1);
    address->size = sizeof *unix_address;
    return 0;
}

int net_address_parse(const char *option, const char *text, int type, NetAddress *address, Error *error)
{
    char host[256];
    *address = (NetAddress){0};
    if (!strncmp(text, "unix:", 5))
        return parse_unix(option, text + 5, address, error);
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (!colon || length >= sizeof host || !colon[1])
        return error_set(error, EINVAL, "%s=%s: write HOST:PORT or unix:PATH", option, text);
    bool brackets = length > 2 && text[0] == '[' && text[length - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(brackets ? length - 2 : length), text + brackets);
    struct addrinfo hints = {.ai_socktype = type, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    int result = getaddrinfo(length ? host : "127.0.0.1", colon + 1, &hints, &found);
    if (result)
        return error_set(error, EINVAL, "%s=%s: %s", option, text, gai_strerror(result));
    memcpy(&address->address, found->ai_addr, found->ai_addrlen);
    address->size = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int net_address_format(const NetAddress *address, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (address->address.ss_family == AF_UNIX)
        return snprintf(text, size, "unix:%s", ((const struct sockaddr_un *)&address->address)->sun_path);
    if (address->address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->address;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        return snprintf(text, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    }
    const struct sockaddr_in *in = (const struct sockaddr_in *)&address->address;
    inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
    return snprintf(text, size, "%s:%u", host, ntohs(in->sin_port));
}

int net_address_socket(const NetAddress *address, int type)
{
    int fd = socket(address->address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        return -errno;
    if (address->address.ss_family != AF_UNIX && type == SOCK_STREAM) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    return fd;
}

/* Is it a socket's file with nobody behind it? */
static bool is_left_over(const NetAddress *address, int type)
{
    const char *path = ((const struct sockaddr_un *)&address->address)->sun_path;
    struct stat status;
    if (stat(path, &status) < 0 || !S_ISSOCK(status.st_mode))
        return false;
    int fd = net_address_socket(address, type);
    if (fd < 0)
        return false;
    int result = connect(fd, (const struct sockaddr *)&address->address, address->size);
    bool refused = result < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

int net_address_bind(int fd, const NetAddress *address, int type)
{
    const struct sockaddr *to = (const struct sockaddr *)&address->address;
    if (bind(fd, to, address->size) == 0)
        return 0;
    if (errno != EADDRINUSE || to->sa_family != AF_UNIX || !is_left_over(address, type))
        return -errno;
    unlink(((const struct sockaddr_un *)&address->address)->sun_path);
    return bind(fd, to, address->size) < 0 ? -errno : 0;
}
