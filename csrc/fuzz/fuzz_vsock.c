/*
 * A guest that sends any packets to the hub of stream sockets, and programs of the host that connect, write, read
 * and go, in any order. The hub must neither crash, nor hang, nor keep more than it may, and works after a reset.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz/input.h"
#include "vsock/vsock_hub.h"

enum { CID = 3, PROGRAMS = 6, LISTENERS = 2 };

typedef struct Host {
    VsockHub *hub;
    char folder[32], path[48];
    int listeners[LISTENERS]; /* at PATH_0, PATH_1 */
    int programs[PROGRAMS];
    uint8_t data[VSOCK_BUFFER];
} Host;

static int unix_socket(Host *host, int port, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (port < 0)
        snprintf(address->sun_path, sizeof address->sun_path, "%s", host->path);
    else
        snprintf(address->sun_path, sizeof address->sun_path, "%s_%d", host->path, port);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
}

static void host_new(Host *host)
{
    struct sockaddr_un address;
    strcpy(host->folder, "/tmp/pyvmm-fuzz-XXXXXX");
    if (!mkdtemp(host->folder))
        abort();
    snprintf(host->path, sizeof host->path, "%s/v", host->folder);
    host->hub = vsock_hub_new(host->path, CID, NULL);
    if (!host->hub)
        abort();
    for (int i = 0; i < LISTENERS; i++) {
        host->listeners[i] = unix_socket(host, i, &address);
        if (bind(host->listeners[i], (struct sockaddr *)&address, sizeof address) < 0 ||
            listen(host->listeners[i], 4) < 0)
            abort();
    }
    for (int i = 0; i < PROGRAMS; i++)
        host->programs[i] = -1;
}

static void host_free(Host *host)
{
    struct sockaddr_un address;
    vsock_hub_free(host->hub);
    for (int i = 0; i < LISTENERS; i++) {
        close(host->listeners[i]);
        close(unix_socket(host, i, &address));
        unlink(address.sun_path);
    }
    for (int i = 0; i < PROGRAMS; i++)
        if (host->programs[i] >= 0)
            close(host->programs[i]);
    if (rmdir(host->folder) < 0)
        abort();
}

static void guest_says(Host *host, Input *input)
{
    uint8_t how = (uint8_t)take(input, 1);
    VsockHeader header = {.src_cid = how & 1 && how & 2 ? take(input, 1) : CID,
                          .dst_cid = how & 4 && how & 8 ? take(input, 1) : VSOCK_HOST_CID,
                          .src_port = (uint32_t)take(input, 1) % 4,
                          .dst_port = (uint32_t)take(input, 1) % 4,
                          .type = how & 16 && how & 2 ? (uint16_t)take(input, 1) : VSOCK_TYPE_STREAM,
                          .op = (uint16_t)take(input, 1) % 9,
                          .flags = (uint32_t)take(input, 1) & 3,
                          .buf_alloc = how & 32 ? (uint32_t)take(input, 4) : 4096,
                          .fwd_cnt = how & 64 ? (uint32_t)take(input, 4) : 0};
    if (how & 128)
        header.dst_port += (1u << 30);
    if (header.op == VSOCK_OP_RW)
        header.len = (uint32_t)take(input, 1) * (how & 2 ? 512 : 1);
    struct iovec iov[2] = {{host->data, header.len / 2},
                           {host->data + header.len / 2, header.len - header.len / 2}};
    vsock_hub_receive(host->hub, &header, iov, 2);
}

static void guest_hears(Host *host, Input *input)
{
    VsockHeader header;
    uint32_t room = (uint32_t)take(input, 1) * 64;
    struct iovec iov = {host->data, room};
    if (!vsock_hub_send(host->hub, &header, &iov, 1))
        return;
    if (header.len > room || header.dst_cid != CID || header.op < 1 || header.op > 7)
        abort();
}

static void program_acts(Host *host, Input *input)
{
    static const char *const lines[] = {"CONNECT 1\n", "CONNECT 2\nand more", "CONNECT", " 3\n", "\n", "x"};
    struct sockaddr_un address;
    int *program = &host->programs[take(input, 1) % PROGRAMS];
    uint8_t what = (uint8_t)take(input, 1);
    const char *line = lines[(what >> 4) % ARRAY_SIZE(lines)];
    switch (what & 7) {
    case 0:
    case 1:
        if (*program >= 0)
            close(*program);
        *program = what & 1 ? accept4(host->listeners[what >> 7], NULL, NULL, SOCK_NONBLOCK)
                            : unix_socket(host, -1, &address);
        if (!(what & 1) && connect(*program, (struct sockaddr *)&address, sizeof address) < 0) {
            close(*program);
            *program = -1;
        }
        break;
    case 2:
        if (*program >= 0 && send(*program, line, strlen(line), MSG_NOSIGNAL) < 0)
            break;
        break;
    case 3:
        if (*program >= 0 && send(*program, host->data, (size_t)(what >> 3) * 512, MSG_NOSIGNAL) < 0)
            break;
        break;
    case 4:
        if (*program >= 0 && recv(*program, host->data, sizeof host->data, 0) < 0)
            break;
        break;
    case 5:
        if (*program >= 0)
            shutdown(*program, what >> 6);
        break;
    case 6:
        if (*program >= 0)
            close(*program);
        *program = -1;
        break;
    case 7:
        vsock_hub_poll(host->hub, what >> 3);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Host host;
    Input input = {data, size};
    host_new(&host);
    for (uint32_t steps = 0; input.left && steps < 2000; steps++) {
        switch (take(&input, 1) % 8) {
        case 0:
        case 1:
        case 2:
            guest_says(&host, &input);
            break;
        case 3:
        case 4:
            guest_hears(&host, &input);
            break;
        case 5:
        case 6:
            program_acts(&host, &input);
            break;
        case 7:
            if (take(&input, 1) < 8)
                vsock_hub_reset(host.hub);
            else
                vsock_hub_poll(host.hub, true);
            break;
        }
    }
    /* All that is left to be said is said in finitely many packets: nobody writes any more. */
    VsockHeader header;
    struct iovec iov = {host.data, 4096};
    for (uint32_t packets = 0; vsock_hub_send(host.hub, &header, &iov, 1); packets++)
        if (packets > 100000)
            abort();
    vsock_hub_reset(host.hub);
    VsockCounters counters;
    vsock_hub_counters(host.hub, &counters);
    if (counters.connections || vsock_hub_has_packet(host.hub))
        abort();
    host_free(&host);
    return 0;
}
