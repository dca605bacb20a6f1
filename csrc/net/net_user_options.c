#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "net/net_user_options.h"

#define IPV4(a, b, c, d) ((uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d))

static int parse_ipv4(const char *option, const char *text, uint32_t *address, Error *error)
{
    struct in_addr parsed;
    if (inet_pton(AF_INET, text, &parsed) != 1)
        return error_set(error, EINVAL, "%s=%s is not an IPv4 address such as 10.0.2.2", option, text);
    *address = ntohl(parsed.s_addr);
    return 0;
}

/* The part before '/', and what stands behind it ("" when there is none). */
static const char *split_prefix(const char *text, char *address, size_t size)
{
    const char *slash = strchr(text, '/');
    size_t length = slash ? (size_t)(slash - text) : strlen(text);
    snprintf(address, size, "%.*s", (int)MIN(length, size - 1), text);
    return slash ? slash + 1 : "";
}

static bool parse_number(const char *text, long most, long *value)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *value = strtol(text, &end, 10);
    return !*end && !errno && *value <= most;
}

/* "10.0.2.0/24" and "10.0.2.0/255.255.255.0"; without a mask, that of its class, as QEMU has it. */
static int parse_network(const char *text, uint32_t *network, uint32_t *mask, Error *error)
{
    char address[32];
    long bits;
    const char *prefix = split_prefix(text, address, sizeof address);
    if (parse_ipv4("net", address, network, error) < 0)
        return -EINVAL;
    if (!*prefix)
        *mask = *network < IPV4(128, 0, 0, 0)   ? 0xff000000
                : *network < IPV4(192, 0, 0, 0) ? 0xffff0000
                                                : 0xffffff00;
    else if (parse_number(prefix, 32, &bits))
        *mask = bits ? ~0u << (32 - bits) : 0;
    else if (parse_ipv4("net", prefix, mask, error) < 0)
        return -EINVAL;
    if ((~*mask & (~*mask + 1)) || ~*mask < 7)
        return error_set(error, EINVAL, "net=%s: the mask must leave 8 addresses or more, such as /24", text);
    *network &= *mask;
    return 0;
}

static int config_ipv4(const NetUserOptions *options, SlirpConfig *config, Error *error)
{
    uint32_t network = IPV4(10, 0, 2, 0), mask = 0xffffff00;
    if (options->net && parse_network(options->net, &network, &mask, error) < 0)
        return -EINVAL;
    struct {
        const char *option, *text;
        uint32_t address;
    } hosts[] = {{"host", options->host, network | (2 & ~mask)},
                 {"dhcpstart", options->dhcpstart, network | (15 & ~mask)},
                 {"dns", options->dns, network | (3 & ~mask)}};
    if (!options->dhcpstart && hosts[1].address == (network | ~mask))
        hosts[1].address--; /* a /28: .15 is its broadcast address; a /29 has .6 */
    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        if (hosts[i].text && parse_ipv4(hosts[i].option, hosts[i].text, &hosts[i].address, error) < 0)
            return -EINVAL;
        char text[INET_ADDRSTRLEN];
        struct in_addr address = {htonl(hosts[i].address)};
        inet_ntop(AF_INET, &address, text, sizeof text);
        if ((hosts[i].address & mask) != network || !(hosts[i].address & ~mask) || !(~hosts[i].address & ~mask))
            return error_set(error, EINVAL, "%s=%s is not an address of the network %s", hosts[i].option, text,
                             options->net ? options->net : "10.0.2.0/24");
        for (size_t j = 0; j < i; j++)
            if (hosts[i].address == hosts[j].address)
                return error_set(error, EINVAL, "%s and %s are both %s: give each an address", hosts[j].option,
                                 hosts[i].option, text);
    }
    config->vnetwork.s_addr = htonl(network);
    config->vnetmask.s_addr = htonl(mask);
    config->vhost.s_addr = htonl(hosts[0].address);
    config->vdhcp_start.s_addr = htonl(hosts[1].address);
    config->vnameserver.s_addr = htonl(hosts[2].address);
    return 0;
}

static int parse_ipv6(const char *option, const char *text, struct in6_addr *address, Error *error)
{
    if (inet_pton(AF_INET6, text, address) == 1)
        return 0;
    return error_set(error, EINVAL, "%s=%s is not an IPv6 address such as fec0::2", option, text);
}

static int config_ipv6(const NetUserOptions *options, SlirpConfig *config, Error *error)
{
    long bits = 64;
    char prefix[64];
    const char *length = split_prefix(options->ipv6_net ? options->ipv6_net : "fec0::/64", prefix, sizeof prefix);
    if (parse_ipv6("ipv6-net", prefix, &config->vprefix_addr6, error) < 0)
        return -EINVAL;
    if (*length && (!parse_number(length, 126, &bits) || bits < 1))
        return error_set(error, EINVAL, "ipv6-net=%s: the prefix length is one of 1 to 126", options->ipv6_net);
    config->vprefix_len = (uint8_t)bits;
    config->vhost6 = config->vnameserver6 = config->vprefix_addr6;
    config->vhost6.s6_addr[15] |= 2;
    config->vnameserver6.s6_addr[15] |= 3;
    if (options->ipv6_host && parse_ipv6("ipv6-host", options->ipv6_host, &config->vhost6, error) < 0)
        return -EINVAL;
    if (options->ipv6_dns && parse_ipv6("ipv6-dns", options->ipv6_dns, &config->vnameserver6, error) < 0)
        return -EINVAL;
    return 0;
}

int net_user_config(const NetUserOptions *options, SlirpConfig *config, Error *error)
{
    /* DHCP's options have one byte for their length (RFC 2132 §2). */
    struct {
        const char *option, *text;
        size_t most;
    } names[] = {{"hostname", options->hostname, 32},
                 {"domainname", options->domainname, 255},
                 {"tftp-server-name", options->tftp_server_name, 255},
                 {"bootfile", options->bootfile, 127}};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].text && strlen(names[i].text) > names[i].most)
            return error_set(error, EINVAL, "%s has %zu characters: at most %zu fit into DHCP", names[i].option,
                             strlen(names[i].text), names[i].most);
    *config = (SlirpConfig){.version = SLIRP_CONFIG_VERSION,
                            .restricted = options->restricted,
                            .in_enabled = !options->no_ipv4,
                            .in6_enabled = !options->no_ipv6,
                            .vhostname = options->hostname,
                            .tftp_server_name = options->tftp_server_name,
                            .tftp_path = options->tftp,
                            .bootfile = options->bootfile,
                            .vdnssearch = (const char **)(uintptr_t)options->dnssearch,
                            .vdomainname = options->domainname,
                            .if_mtu = options->plain ? NET_MTU : SLIRP_MTU_MAX,
                            .if_mru = options->plain ? NET_MTU : SLIRP_MTU_MAX};
    if (options->no_ipv4 && options->no_ipv6)
        return error_set(error, EINVAL, "ipv4=off and ipv6=off together leave no user network");
    int result = config_ipv4(options, config, error);
    return result < 0 ? result : config_ipv6(options, config, error);
}

/* Up to `end`, which is passed; NULL when it is not there. */
static const char *take_word(const char *at, char end, char *word, size_t size)
{
    const char *stop = end ? strchr(at, end) : at + strlen(at);
    if (!stop || (size_t)(stop - at) >= size)
        return NULL;
    memcpy(word, at, (size_t)(stop - at));
    word[stop - at] = 0;
    return end ? stop + 1 : stop;
}

static int bad_rule(const char *rule, bool remove, const char *what, Error *error)
{
    return error_set(error, EINVAL, "hostfwd=%s: %s; write %s, such as tcp::2222%s", rule, what,
                     remove ? "tcp:[ADDRESS]:PORT" : "tcp:[ADDRESS]:PORT-[GUEST]:PORT", remove ? "" : "-:22");
}

static bool parse_endpoint(const char *address, const char *port, struct in_addr *host, uint16_t *number)
{
    long value;
    if (*address && inet_pton(AF_INET, address, host) != 1)
        return false;
    if (!parse_number(port, 65535, &value))
        return false;
    *number = (uint16_t)value;
    return true;
}

int net_user_parse_forward(const char *rule, bool remove, HostForward *forward, Error *error)
{
    char protocol[8], address[INET_ADDRSTRLEN], port[8];
    *forward = (HostForward){0};
    const char *at = take_word(rule, ':', protocol, sizeof protocol);
    if (!at || (*protocol && strcmp(protocol, "tcp") && strcmp(protocol, "udp")))
        return bad_rule(rule, remove, "it does not begin with tcp: or udp:", error);
    forward->udp = *protocol == 'u';
    at = take_word(at, ':', address, sizeof address);
    if (at)
        at = take_word(at, remove ? 0 : '-', port, sizeof port);
    if (!at || !parse_endpoint(address, port, &forward->host, &forward->host_port))
        return bad_rule(rule, remove, "the host's address or port is wrong", error);
    if (remove)
        return 0;
    at = take_word(at, ':', address, sizeof address);
    if (!at || !parse_endpoint(address, at, &forward->guest, &forward->guest_port) || !forward->guest_port)
        return bad_rule(rule, remove, "the guest's address or port is wrong", error);
    return 0;
}
