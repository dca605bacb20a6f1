/* The hub of stream sockets: packets of a guest that is played here, and programs that are real sockets (virtio 1.2
 * §5.10.6). */
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "vsock/vsock_hub.h"

enum { CID = 7, BUFFER = 64 << 10, GUEST_PORT = 1000, PORT = 5 };

typedef struct Guest {
    VsockHub *hub;
    char folder[64], path[80];
    uint32_t buf_alloc, fwd_cnt; /* what it says of itself */
    uint64_t hub_cid;            /* whom it talks to */
    VsockHeader got;
    uint8_t data[70000];
} Guest;

static void up(Guest *guest)
{
    Error error = {0};
    memset(guest, 0, sizeof *guest);
    strcpy(guest->folder, "/tmp/pyvmm-vsock-XXXXXX");
    CHECK(mkdtemp(guest->folder));
    snprintf(guest->path, sizeof guest->path, "%s/v", guest->folder);
    guest->hub = vsock_hub_new(guest->path, CID, &error);
    CHECK(guest->hub);
    guest->buf_alloc = BUFFER;
    guest->hub_cid = VSOCK_HOST_CID;
}

static void down(Guest *guest)
{
    char command[100];
    vsock_hub_free(guest->hub);
    CHECK(access(guest->path, F_OK) < 0);
    snprintf(command, sizeof command, "rm -r %s", guest->folder);
    CHECK_EQ(system(command), 0);
}

static VsockCounters counters_of(Guest *guest)
{
    VsockCounters counters;
    vsock_hub_counters(guest->hub, &counters);
    return counters;
}

static void say(Guest *guest, uint16_t op, uint32_t guest_port, uint32_t host_port, uint32_t flags, uint32_t bytes)
{
    VsockHeader header = {.src_cid = CID,
                          .dst_cid = guest->hub_cid,
                          .src_port = guest_port,
                          .dst_port = host_port,
                          .len = bytes,
                          .type = VSOCK_TYPE_STREAM,
                          .op = op,
                          .flags = flags,
                          .buf_alloc = guest->buf_alloc,
                          .fwd_cnt = guest->fwd_cnt};
    struct iovec data[2] = {{guest->data, bytes / 3}, {guest->data + bytes / 3, bytes - bytes / 3}};
    vsock_hub_receive(guest->hub, &header, data, 2);
}

/* The next packet for the guest, with room for `room` bytes; 0: there is none. */
static uint16_t hear(Guest *guest, uint32_t room)
{
    struct iovec data[2] = {{guest->data, MIN(room, 5)}, {guest->data + MIN(room, 5), room - MIN(room, 5)}};
    vsock_hub_poll(guest->hub, true);
    if (!vsock_hub_send(guest->hub, &guest->got, data, 2))
        return 0;
    CHECK(guest->got.dst_cid == CID && guest->got.len <= room);
    return guest->got.op;
}

static int program_listens(Guest *guest, uint32_t port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s_%u", guest->path, port);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 5) == 0);
    return fd;
}

static int program_connects(Guest *guest, const char *line)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", guest->path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(write(fd, line, strlen(line)), strlen(line));
    return fd;
}

/* A connection that the guest asks for: the program's end. */
static int connected(Guest *guest)
{
    int listener = program_listens(guest, PORT);
    say(guest, VSOCK_OP_REQUEST, GUEST_PORT, PORT, 0, 0);
    CHECK_EQ(hear(guest, 0), VSOCK_OP_RESPONSE);
    CHECK(guest->got.src_port == PORT && guest->got.dst_port == GUEST_PORT && guest->got.src_cid == VSOCK_HOST_CID);
    CHECK_EQ(guest->got.buf_alloc, VSOCK_BUFFER);
    int program = accept(listener, NULL, NULL);
    CHECK(program >= 0);
    CHECK_EQ(fcntl(program, F_SETFL, O_NONBLOCK), 0);
    close(listener);
    return program;
}

static void test_guest_connects(void)
{
    Guest guest;
    char text[32];
    up(&guest);
    int program = connected(&guest);
    memcpy(guest.data, "from the guest", 14);
    say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 14);
    CHECK_EQ(read(program, text, sizeof text), 14);
    CHECK_EQ(memcmp(text, "from the guest", 14), 0);
    CHECK_EQ(write(program, "from the host", 13), 13);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_RW);
    CHECK_EQ(guest.got.len, 13);
    CHECK_EQ(guest.got.fwd_cnt, 14);
    CHECK_EQ(memcmp(guest.data, "from the host", 13), 0);
    CHECK_EQ(hear(&guest, 100), 0);
    /* The guest closes: what it is told is that this is over, and the program reads the end. */
    say(&guest, VSOCK_OP_SHUTDOWN, GUEST_PORT, PORT, VSOCK_SHUTDOWN_BOTH, 0);
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_RST);
    CHECK_EQ(read(program, text, sizeof text), 0);
    close(program);
    VsockCounters counters = counters_of(&guest);
    CHECK(counters.by_guest == 1 && counters.resets == 0 && counters.connections == 0);
    CHECK(counters.bytes_from_guest == 14 && counters.bytes_to_guest == 13);
    down(&guest);
}

static void test_program_connects(void)
{
    Guest guest;
    char text[32] = {0}, expected[32];
    up(&guest);
    int program = program_connects(&guest, "CONNECT 10");
    CHECK_EQ(hear(&guest, 0), 0);
    CHECK_EQ(write(program, "24\nat once", 10), 10);
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_REQUEST);
    CHECK_EQ(guest.got.dst_port, 1024);
    uint32_t port = guest.got.src_port;
    CHECK_EQ(hear(&guest, 100), 0); /* the guest has not answered */
    say(&guest, VSOCK_OP_RESPONSE, 1024, port, 0, 0);
    snprintf(expected, sizeof expected, "OK %u\n", port);
    CHECK_EQ(read(program, text, sizeof text), strlen(expected));
    CHECK_EQ(strcmp(text, expected), 0);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_RW);
    CHECK_EQ(guest.got.len, 7);
    CHECK_EQ(memcmp(guest.data, "at once", 7), 0);
    close(program);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_SHUTDOWN);
    CHECK_EQ(guest.got.flags, VSOCK_SHUTDOWN_BOTH);
    say(&guest, VSOCK_OP_RST, 1024, port, 0, 0);
    CHECK_EQ(hear(&guest, 0), 0);
    CHECK(counters_of(&guest).connections == 0 && counters_of(&guest).resets == 0);
    down(&guest);
}

static void test_refusals(void)
{
    static const char *const lines[] = {"CONNECT \n",
                                        "CONNECT x\n",
                                        "CONNECT 4294967296\n",
                                        "connect 5\n",
                                        "\n",
                                        "CONNECT 5 \n",
                                        "CONNECT 00000000000000000000000000005\n"};
    Guest guest;
    char text[32];
    up(&guest);
    say(&guest, VSOCK_OP_REQUEST, GUEST_PORT, 99, 0, 0); /* nobody listens */
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_RST);
    CHECK(guest.got.src_port == 99 && guest.got.dst_port == GUEST_PORT);
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        int program = program_connects(&guest, lines[i]);
        CHECK_EQ(hear(&guest, 0), 0);
        CHECK_EQ(hear(&guest, 0), 0);
        CHECK(read(program, text, sizeof text) <= 0);
        close(program);
    }
    int program = program_connects(&guest, "CONNECT 1024\n");
    CHECK_EQ(hear(&guest, 0), 0);
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_REQUEST);
    say(&guest, VSOCK_OP_RST, 1024, guest.got.src_port, 0, 0); /* the guest does not listen there */
    CHECK_EQ(read(program, text, sizeof text), 0);
    close(program);
    program = program_connects(&guest, "CONNECT 1024\n");
    vsock_hub_poll(guest.hub, false); /* no driver */
    CHECK(read(program, text, sizeof text) <= 0);
    close(program);
    CHECK_EQ(counters_of(&guest).refused, 3 + ARRAY_SIZE(lines));
    CHECK_EQ(counters_of(&guest).connections, 0);
    down(&guest);
}

/* §5.10.6.5: packets that belong to nothing are answered with a reset, resets with nothing. */
static void test_strays(void)
{
    Guest guest;
    up(&guest);
    for (uint16_t op = VSOCK_OP_RESPONSE; op < 12; op++) {
        say(&guest, op, 1, 2, 0, 0);
        CHECK_EQ(hear(&guest, 0), op == VSOCK_OP_RST ? 0 : VSOCK_OP_RST);
    }
    guest.hub_cid = 55;
    say(&guest, VSOCK_OP_REQUEST, 1, PORT, 0, 0);
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_RST);
    CHECK_EQ(guest.got.src_cid, 55);
    VsockHeader header = {.src_cid = 8, .dst_cid = 2, .op = VSOCK_OP_REQUEST, .type = VSOCK_TYPE_STREAM};
    vsock_hub_receive(guest.hub, &header, NULL, 0); /* somebody else's CID */
    CHECK_EQ(hear(&guest, 0), 0);
    CHECK_EQ(counters_of(&guest).malformed, 1);
    header.src_cid = CID;
    header.type = VSOCK_TYPE_SEQPACKET;
    vsock_hub_receive(guest.hub, &header, NULL, 0);
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_RST);
    CHECK_EQ(guest.got.type, VSOCK_TYPE_SEQPACKET);
    for (uint32_t i = 0; i < 1000; i++) { /* they are counted, and no more are kept than there is room for */
        CHECK_EQ(vsock_hub_is_full(guest.hub), i >= 256);
        say(&guest, VSOCK_OP_RW, i, 2, 0, 0);
    }
    uint32_t resets = 0;
    while (hear(&guest, 0) == VSOCK_OP_RST)
        resets++;
    CHECK_EQ(resets, 256);
    down(&guest);
}

static void test_credit_of_the_guest(void)
{
    Guest guest;
    up(&guest);
    guest.buf_alloc = 1000;
    int program = connected(&guest);
    char block[3000] = {0};
    CHECK_EQ(write(program, block, sizeof block), sizeof block);
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_RW);
    CHECK_EQ(guest.got.len, 600);
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_RW);
    CHECK_EQ(guest.got.len, 400);
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_CREDIT_REQUEST); /* once */
    CHECK_EQ(hear(&guest, 600), 0);
    guest.fwd_cnt = 100;
    say(&guest, VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, PORT, 0, 0);
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_RW);
    CHECK_EQ(guest.got.len, 100);
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_CREDIT_REQUEST);
    guest.fwd_cnt = 5000; /* more than was sent: it only deceives itself */
    guest.buf_alloc = 10;
    say(&guest, VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, PORT, 0, 0);
    CHECK_EQ(hear(&guest, 600), 0); /* it was asked, and has answered that there is none */
    guest.buf_alloc = 1000;
    guest.fwd_cnt = 1100;
    guest.data[0] = 1;
    say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 1); /* credit comes with data too */
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_RW);
    CHECK_EQ(guest.got.len, 600);
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_RW);
    CHECK_EQ(hear(&guest, 600), VSOCK_OP_CREDIT_REQUEST);
    close(program);
    down(&guest);
}

/* The program does not read: the hub keeps as much as it said, and resets a guest that sends more. */
static void test_credit_of_the_host(void)
{
    Guest guest;
    up(&guest);
    int program = connected(&guest);
    uint32_t sent = 0, taken = 0, told = 0;
    uint8_t expected = 0;
    while (sent - told + 1000 <= VSOCK_BUFFER) { /* until the socket is full, and the buffer */
        for (uint32_t i = 0; i < 1000; i++)
            guest.data[i] = (uint8_t)(sent + i);
        say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 1000);
        sent += 1000;
        while (hear(&guest, 0) == VSOCK_OP_CREDIT_UPDATE)
            told = guest.got.fwd_cnt;
    }
    CHECK(sent > VSOCK_BUFFER);
    for (uint32_t i = 0; i < 100; i++) { /* the program takes a little, and gets everything in order */
        uint8_t text[3001];
        ssize_t got = read(program, text, sizeof text);
        if (got < 0)
            break;
        for (ssize_t at = 0; at < got; at++)
            CHECK_EQ(text[at], expected++);
        taken += (uint32_t)got;
        while (hear(&guest, 0) == VSOCK_OP_CREDIT_UPDATE)
            told = guest.got.fwd_cnt;
    }
    CHECK(told > sent - VSOCK_BUFFER);
    say(&guest, VSOCK_OP_CREDIT_REQUEST, GUEST_PORT, PORT, 0, 0);
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_CREDIT_UPDATE);
    uint32_t room = VSOCK_BUFFER - (sent - guest.got.fwd_cnt);
    while (room > 60000) {
        say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 60000);
        say(&guest, VSOCK_OP_CREDIT_REQUEST, GUEST_PORT, PORT, 0, 0);
        sent += 60000;
        CHECK_EQ(hear(&guest, 0), VSOCK_OP_CREDIT_UPDATE);
        room = VSOCK_BUFFER - (sent - guest.got.fwd_cnt);
    }
    say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, room + 1);
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_RST);
    CHECK_EQ(counters_of(&guest).resets, 1);
    close(program);
    down(&guest);
}

static void test_half_close(void)
{
    Guest guest;
    char text[32];
    up(&guest);
    int program = connected(&guest);
    memcpy(guest.data, "question", 8);
    say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 8);
    say(&guest, VSOCK_OP_SHUTDOWN, GUEST_PORT, PORT, VSOCK_SHUTDOWN_SEND, 0);
    CHECK_EQ(read(program, text, sizeof text), 8);
    CHECK_EQ(read(program, text, sizeof text), 0);
    CHECK_EQ(write(program, "answer", 6), 6);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_RW);
    CHECK_EQ(guest.got.len, 6);
    CHECK_EQ(shutdown(program, SHUT_WR), 0);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_SHUTDOWN);
    say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 1); /* after it said that it would not */
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_RST);
    close(program);
    down(&guest);
    up(&guest);
    program = connected(&guest);
    say(&guest, VSOCK_OP_SHUTDOWN, GUEST_PORT, PORT, VSOCK_SHUTDOWN_RCV, 0);
    CHECK(send(program, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 8);
    CHECK_EQ(read(program, text, sizeof text), 8);
    close(program);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_SHUTDOWN);
    CHECK_EQ(guest.got.flags, VSOCK_SHUTDOWN_BOTH);
    down(&guest);
    up(&guest);
    program = connected(&guest);
    CHECK_EQ(shutdown(program, SHUT_WR), 0);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_SHUTDOWN);
    CHECK_EQ(guest.got.flags, VSOCK_SHUTDOWN_SEND);
    say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 8);
    CHECK_EQ(read(program, text, sizeof text), 8);
    close(program);
    CHECK_EQ(hear(&guest, 100), VSOCK_OP_SHUTDOWN); /* now altogether */
    CHECK_EQ(guest.got.flags, VSOCK_SHUTDOWN_BOTH);
    down(&guest);
}

/* The program goes away in the middle: what it had sent arrives, what it is sent is thrown away. */
static void test_program_goes(void)
{
    Guest guest;
    up(&guest);
    int program = connected(&guest);
    CHECK_EQ(write(program, "last words", 10), 10);
    close(program);
    CHECK_EQ(hear(&guest, 4), VSOCK_OP_RW);
    for (uint32_t i = 0; i < 20; i++)
        say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, 60000); /* far beyond the buffer: none of it is kept */
    uint32_t bytes = 4;
    uint16_t op;
    while ((op = hear(&guest, 100)) && guest.got.flags != VSOCK_SHUTDOWN_BOTH)
        bytes += guest.got.len;
    CHECK_EQ(op, VSOCK_OP_SHUTDOWN);
    CHECK_EQ(bytes, 10);
    CHECK_EQ(counters_of(&guest).resets, 0);
    down(&guest);
}

/* The guest ends it with a reset while its program's data waits: the program gets that, and the ports are free. */
static void test_reset_by_the_guest(void)
{
    Guest guest;
    char text[4096];
    up(&guest);
    int first = connected(&guest), total = 0;
    uint32_t sent = 0;
    while (sent < 300000) {
        say(&guest, VSOCK_OP_CREDIT_REQUEST, GUEST_PORT, PORT, 0, 0);
        CHECK_EQ(hear(&guest, 0), VSOCK_OP_CREDIT_UPDATE);
        uint32_t n = MIN(VSOCK_BUFFER - (sent - guest.got.fwd_cnt), 60000);
        if (n == 0)
            break;
        say(&guest, VSOCK_OP_RW, GUEST_PORT, PORT, 0, n);
        sent += n;
    }
    say(&guest, VSOCK_OP_RST, GUEST_PORT, PORT, 0, 0);
    CHECK_EQ(counters_of(&guest).connections, 1);
    char name[100];
    snprintf(name, sizeof name, "%s_%u", guest.path, PORT);
    unlink(name);
    int second = connected(&guest);
    for (ssize_t got; (got = read(first, text, sizeof text)) != 0; total += got > 0 ? (int)got : 0)
        hear(&guest, 0);
    CHECK_EQ(total, sent);
    CHECK_EQ(counters_of(&guest).connections, 1);
    CHECK_EQ(counters_of(&guest).resets, 1);
    say(&guest, VSOCK_OP_REQUEST, GUEST_PORT, PORT, 0, 0); /* there already */
    CHECK_EQ(hear(&guest, 0), VSOCK_OP_RST);
    CHECK_EQ(read(second, text, sizeof text), 0);
    close(first);
    close(second);
    down(&guest);
}

static void test_many(void)
{
    enum { EACH = 300 };
    static int programs[2 * EACH];
    Guest guest;
    char text[64];
    up(&guest);
    for (uint32_t i = 0; i < 2 * EACH; i++)
        programs[i] = program_connects(&guest, "CONNECT 77\n"), vsock_hub_poll(guest.hub, true);
    uint32_t asked = 0;
    while (hear(&guest, 0) == VSOCK_OP_REQUEST) {
        uint32_t port = guest.got.src_port;
        say(&guest, VSOCK_OP_RESPONSE, 77, port, 0, 0);
        asked++;
    }
    CHECK_EQ(asked, VSOCK_MAX_CONNECTIONS);
    CHECK_EQ(counters_of(&guest).refused, 2 * EACH - VSOCK_MAX_CONNECTIONS);
    for (uint32_t i = 0; i < VSOCK_MAX_CONNECTIONS; i++) {
        CHECK(read(programs[i], text, sizeof text) > 3);
        CHECK_EQ(write(programs[i], text, 10), 10);
    }
    uint32_t heard = 0; /* each has its turn before any has its second */
    static uint8_t turns[VSOCK_MAX_CONNECTIONS + 2];
    while (hear(&guest, 5) == VSOCK_OP_RW) {
        uint8_t *turn = &turns[guest.got.src_port % (VSOCK_MAX_CONNECTIONS + 2)];
        CHECK(++*turn <= 1 + heard / VSOCK_MAX_CONNECTIONS);
        heard++;
    }
    CHECK_EQ(heard, 2 * VSOCK_MAX_CONNECTIONS);
    vsock_hub_reset(guest.hub); /* under load */
    CHECK_EQ(counters_of(&guest).connections, 0);
    CHECK(!vsock_hub_has_packet(guest.hub));
    for (uint32_t i = 0; i < 2 * EACH; i++) {
        CHECK(read(programs[i], text, sizeof text) <= 0);
        close(programs[i]);
    }
    int program = connected(&guest);
    close(program);
    down(&guest);
}

static void test_paths(void)
{
    Guest guest;
    Error error = {0};
    char longest[200];
    up(&guest);
    CHECK(!vsock_hub_new(guest.path, CID, &error) && error.code == EADDRINUSE);
    CHECK(!vsock_hub_new("/tmp/pyvmm-no-such-folder/x", CID, &error) && error.code == ENOENT);
    CHECK(!vsock_hub_new("", CID, &error) && error.code == ENAMETOOLONG);
    memset(longest, 'x', sizeof longest);
    longest[VSOCK_MAX_PATH] = '\0';
    CHECK(!vsock_hub_new(longest, CID, &error) && error.code == ENAMETOOLONG);
    CHECK(!vsock_hub_new("/tmp/pyvmm-never", 2, &error) && error.code == EINVAL);
    CHECK(!vsock_hub_new("/tmp/pyvmm-never", VSOCK_ANY_CID, &error) && error.code == EINVAL);
    /* One that was left by somebody who is gone is taken over; a file is not. */
    char name[100];
    snprintf(name, sizeof name, "%s_%u", guest.path, PORT);
    close(program_listens(&guest, PORT));
    VsockHub *second = vsock_hub_new(name, CID, &error);
    CHECK(second);
    vsock_hub_free(second);
    FILE *file = fopen(name, "w");
    fclose(file);
    CHECK(!vsock_hub_new(name, CID, &error) && error.code == EADDRINUSE);
    CHECK_EQ(access(name, F_OK), 0);
    down(&guest);
}

int main(void)
{
    RUN(test_guest_connects);
    RUN(test_program_connects);
    RUN(test_refusals);
    RUN(test_strays);
    RUN(test_credit_of_the_guest);
    RUN(test_credit_of_the_host);
    RUN(test_half_close);
    RUN(test_program_goes);
    RUN(test_reset_by_the_guest);
    RUN(test_many);
    RUN(test_paths);
    return 0;
}
