/* The console device: ports, control messages, flow control, emergency write (virtio 1.2 §5.3). */
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "virtio/virtio_console.h"

#include "virtio_driver.h"

typedef struct Console {
    Driver driver;
    CharSink *sinks[3];
    CharSocket *socket;
} Console;

static void console_up(Console *console, enum ClockKind clock, CharSocket *(*socket)(Board *board))
{
    VirtioPlace place = driver_new(&console->driver, clock);
    console->socket = NULL;
    VirtioConsoleOptions options = {.port_count = 3, .ports = {{.is_console = true}, {.name = "org.agent"}}};
    for (int i = 0; i < 3; i++) {
        console->sinks[i] = char_sink_new_fd(console->driver.board, -1, 65536, NULL);
        options.ports[i].sink = console->sinks[i];
    }
    if (socket) {
        options.ports[1].sink = NULL;
        options.ports[1].socket = console->socket = socket(console->driver.board);
        CHECK(options.ports[1].socket);
    }
    console->driver.device = virtio_console_new(console->driver.board, &place, &options, NULL);
    CHECK(console->driver.device);
    CHECK_EQ(board_start_io(console->driver.board, NULL), 0);
}

static void console_down(Console *console)
{
    board_stop_io(console->driver.board);
    device_free(console->driver.device);
    console->driver.device = NULL;
    char_socket_free(console->socket);
    for (int i = 0; i < 3; i++)
        char_sink_free(console->sinks[i]);
}

static void expect_sink(CharSink *sink, const char *text)
{
    char got[256] = {0};
    char_sink_read(sink, got, sizeof got - 1);
    CHECK_EQ(strcmp(got, text), 0);
}

static void say(Driver *driver, uint16_t queue, const char *text)
{
    memcpy(driver_ram(driver, DRIVER_DATA), text, strlen(text));
    driver_add(driver, queue, DRIVER_DATA, (uint32_t)strlen(text), false);
    driver_kick(driver, queue);
    CHECK_EQ(driver_used(driver, queue), 0);
}

static void control(Driver *driver, uint32_t id, uint16_t event, uint16_t value)
{
    uint8_t *bytes = driver_ram(driver, DRIVER_DATA);
    store_le32(bytes, id);
    store_le16(bytes + 4, event);
    store_le16(bytes + 6, value);
    driver_add(driver, CONSOLE_QUEUE_CONTROL_TX, DRIVER_DATA, 8, false);
    driver_kick(driver, CONSOLE_QUEUE_CONTROL_TX);
    CHECK_EQ(driver_used(driver, CONSOLE_QUEUE_CONTROL_TX), 0);
}

static gpa_t control_buffer(uint32_t number) { return DRIVER_DATA + 0x10000 + 0x100 * number; }

/* The next control message must be this one. */
static const uint8_t *told(Driver *driver, uint32_t *number, uint32_t id, uint16_t event, uint16_t value)
{
    const uint8_t *bytes = driver_ram(driver, control_buffer((*number)++));
    CHECK(driver_used(driver, CONSOLE_QUEUE_CONTROL_RX) >= 8);
    CHECK_EQ(load_le32(bytes), id);
    CHECK_EQ(load_le16(bytes + 4), event);
    CHECK_EQ(load_le16(bytes + 6), value);
    return bytes + 8;
}

static void test_one_port(void)
{
    Console console;
    console_up(&console, CLOCK_KIND_VIRTUAL, NULL);
    Driver *driver = &console.driver;
    driver_write(driver, VIRTIO_PCI_DEVICE + 8, 4, '!'); /* no firmware has assigned it yet: goes nowhere */
    driver_start(driver, 0, 2);
    driver_write(driver, VIRTIO_PCI_DEVICE + 8, 4, '!');
    say(driver, 1, "hello");
    expect_sink(console.sinks[0], "!hello");
    CHECK_EQ(virtio_console_receive(driver->device, 0, (const uint8_t *)"typed", 5), 5);
    driver_add(driver, 0, DRIVER_DATA + 64, 3, true);
    driver_add(driver, 0, DRIVER_DATA + 128, 100, true);
    driver_kick(driver, 0);
    CHECK_EQ(driver_used(driver, 0), 3);
    CHECK_EQ(driver_used(driver, 0), 2);
    CHECK_EQ(memcmp(driver_ram(driver, DRIVER_DATA + 64), "typ", 3), 0);
    CHECK_EQ(memcmp(driver_ram(driver, DRIVER_DATA + 128), "ed", 2), 0);
    uint8_t much[5000] = {0};
    CHECK_EQ(virtio_console_receive(driver->device, 0, much, sizeof much), VIRTIO_CONSOLE_BACKLOG);
    CHECK_EQ(virtio_console_receive(driver->device, 0, much, 1), 0);
    CHECK_EQ(virtio_console_receive(driver->device, 3, much, 1), 0);
    check_save_restore(driver->device);
    console_down(&console);
    driver_free(driver);
}

/* One chain of the whole memory, `times` over. */
static void say_much(Driver *driver, uint32_t times)
{
    DriverQueue *queue = &driver->queues[1];
    for (uint16_t i = 0; i < times; i++)
        queue->desc[i] = (VirtqDesc){.len = DRIVER_RAM, .flags = i + 1u < times, .next = (uint16_t)(i + 1)};
    queue->avail->ring[0] = 0;
    __atomic_store_n(&queue->avail->idx, ++queue->made, __ATOMIC_SEQ_CST);
    driver_kick(driver, 1);
}

/* A guest cannot keep the host's thread for longer than it takes to look at 64 MiB, nor its lock. */
static void test_endless_output(void)
{
    Console console;
    VirtioConsolePortStatus status;
    console_up(&console, CLOCK_KIND_VIRTUAL, NULL);
    driver_start(&console.driver, 0, 2);
    virtio_console_set_open(console.driver.device, 0, false); /* nobody reads it */
    say_much(&console.driver, DRIVER_SIZE);
    CHECK(driver_status(&console.driver) & VIRTIO_STATUS_NEEDS_RESET);
    console_down(&console);
    driver_free(&console.driver);

    console_up(&console, CLOCK_KIND_REALTIME, NULL);
    driver_start(&console.driver, 0, 2);
    virtio_console_set_open(console.driver.device, 0, false);
    say_much(&console.driver, 16);
    while (driver_used(&console.driver, 1) < 0)
        usleep(100);
    virtio_console_port_status(console.driver.device, 0, &status);
    CHECK_EQ(status.from_guest, 16 * DRIVER_RAM);
    CHECK_EQ(driver_status(&console.driver), 15);
    console_down(&console);
    driver_free(&console.driver);
}

static void test_unwritable_input(void)
{
    Console console;
    console_up(&console, CLOCK_KIND_VIRTUAL, NULL);
    driver_start(&console.driver, 0, 2);
    CHECK_EQ(virtio_console_receive(console.driver.device, 0, (const uint8_t *)"typed", 5), 5);
    driver_add(&console.driver, 0, DRIVER_DATA, 16, false);
    driver_kick(&console.driver, 0);
    CHECK(driver_status(&console.driver) & VIRTIO_STATUS_NEEDS_RESET);
    console_down(&console);
    driver_free(&console.driver);
}

static void test_ports(void)
{
    Console console;
    console_up(&console, CLOCK_KIND_VIRTUAL, NULL);
    Driver *driver = &console.driver;
    virtio_console_resize(driver->device, 132, 43);
    driver_start(driver, VIRTIO_CONSOLE_F_MULTIPORT | VIRTIO_CONSOLE_F_SIZE, 8);
    CHECK_EQ(driver_read(driver, VIRTIO_PCI_DEVICE + CONSOLE_CONFIG_MAX_PORTS, 4), 3);
    CHECK_EQ(driver_read(driver, VIRTIO_PCI_DEVICE + CONSOLE_CONFIG_COLS, 2), 132);
    uint32_t number = 0;
    control(driver, 0, CONSOLE_DEVICE_READY, 1);
    for (uint32_t i = 0; i < 20; i++) /* messages wait for buffers */
        driver_add(driver, CONSOLE_QUEUE_CONTROL_RX, control_buffer(i), 0x100, true);
    driver_kick(driver, CONSOLE_QUEUE_CONTROL_RX);
    for (uint32_t i = 0; i < 3; i++)
        told(driver, &number, i, CONSOLE_DEVICE_ADD, 1);
    control(driver, 0, CONSOLE_PORT_READY, 1);
    told(driver, &number, 0, CONSOLE_PORT, 1);
    const uint8_t *size = told(driver, &number, 0, CONSOLE_RESIZE, 0);
    CHECK(load_le16(size) == 132 && load_le16(size + 2) == 43);
    told(driver, &number, 0, CONSOLE_PORT_OPEN, 1);
    control(driver, 1, CONSOLE_PORT_READY, 1);
    CHECK_EQ(memcmp(told(driver, &number, 1, CONSOLE_PORT_NAME, 1), "org.agent", 9), 0);
    told(driver, &number, 1, CONSOLE_PORT_OPEN, 1);

    /* Nobody has the port open in the guest: what comes waits. */
    CHECK_EQ(virtio_console_receive(driver->device, 1, (const uint8_t *)"early", 5), 5);
    driver_add(driver, 4, DRIVER_DATA + 64, 100, true);
    driver_kick(driver, 4);
    CHECK_EQ(driver_used(driver, 4), -1);
    control(driver, 1, CONSOLE_PORT_OPEN, 1);
    CHECK_EQ(driver_used(driver, 4), 5);
    say(driver, 5, "from the agent");
    expect_sink(console.sinks[1], "from the agent");
    VirtioConsolePortStatus status;
    virtio_console_port_status(driver->device, 1, &status);
    CHECK(status.guest_open && status.host_open && status.from_guest == 14 && status.to_guest == 5);

    virtio_console_set_open(driver->device, 1, false);
    told(driver, &number, 1, CONSOLE_PORT_OPEN, 0);
    say(driver, 5, "nobody is there");
    expect_sink(console.sinks[1], "");
    virtio_console_resize(driver->device, 80, 25);
    told(driver, &number, 0, CONSOLE_RESIZE, 0);
    control(driver, 99, CONSOLE_PORT_READY, 1);
    control(driver, 1, 77, 1);
    CHECK_EQ(driver_used(driver, CONSOLE_QUEUE_CONTROL_RX), -1);
    check_save_restore(driver->device);
    CHECK_EQ(driver_status(driver), 15);
    console_down(&console);
    driver_free(driver);
}

static char socket_path[64];

static CharSocket *make_socket(Board *board)
{
    snprintf(socket_path, sizeof socket_path, "/tmp/pyvmm-test-%d.sock", getpid());
    return char_socket_new(board, socket_path, NULL);
}

static int64_t wait_used(Driver *driver, uint16_t queue)
{
    int64_t size;
    while ((size = driver_used(driver, queue)) < 0)
        usleep(200);
    return size;
}

/* A client that does not read stops the guest's port and loses nothing; one that writes more than fits is held. */
static void test_socket(void)
{
    Console console;
    console_up(&console, CLOCK_KIND_REALTIME, make_socket);
    Driver *driver = &console.driver;
    driver_start(driver, VIRTIO_CONSOLE_F_MULTIPORT, 8);
    driver_write(driver, COMMON_QUEUE_SELECT, 2, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, socket_path);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(connect(client, (struct sockaddr *)&address, sizeof address), 0);
    VirtioConsolePortStatus status;
    do {
        usleep(200);
        virtio_console_port_status(driver->device, 1, &status);
    } while (!status.host_open);
    gpa_t big = DRIVER_DATA + 0x100000;
    uint32_t size = 2 << 20;
    for (uint32_t i = 0; i < size; i++)
        *driver_ram(driver, big + i) = (uint8_t)(i * 13 + (i >> 9));
    driver_add(driver, 5, big, size, false);
    driver_kick(driver, 5);
    usleep(20000);
    CHECK_EQ(driver_used(driver, 5), -1); /* a socket's buffer holds less */
    uint8_t got[65536];
    for (uint32_t at = 0; at < size;) {
        ssize_t n = recv(client, got, sizeof got, 0);
        CHECK(n > 0);
        CHECK_EQ(memcmp(got, driver_ram(driver, big + at), (size_t)n), 0);
        at += (uint32_t)n;
    }
    CHECK_EQ(wait_used(driver, 5), 0);

    uint8_t much[20000];
    for (uint32_t i = 0; i < sizeof much; i++)
        much[i] = (uint8_t)(i * 7 + (i >> 8));
    CHECK_EQ(send(client, much, sizeof much, 0), (ssize_t)sizeof much);
    memset(driver_ram(driver, DRIVER_DATA), 0, 8);
    store_le32(driver_ram(driver, DRIVER_DATA), 1);
    store_le16(driver_ram(driver, DRIVER_DATA) + 4, CONSOLE_PORT_OPEN);
    store_le16(driver_ram(driver, DRIVER_DATA) + 6, 1);
    driver_add(driver, CONSOLE_QUEUE_CONTROL_TX, DRIVER_DATA, 8, false);
    driver_kick(driver, CONSOLE_QUEUE_CONTROL_TX);
    for (uint32_t at = 0; at < sizeof much;) {
        driver_add(driver, 4, DRIVER_DATA + 0x1000, 1000, true);
        driver_kick(driver, 4);
        uint32_t n = (uint32_t)wait_used(driver, 4);
        CHECK_EQ(memcmp(driver_ram(driver, DRIVER_DATA + 0x1000), much + at, n), 0);
        at += n;
    }
    close(client);
    do {
        usleep(200);
        virtio_console_port_status(driver->device, 1, &status);
    } while (status.host_open);
    client = socket(AF_UNIX, SOCK_STREAM, 0); /* the next one */
    CHECK_EQ(connect(client, (struct sockaddr *)&address, sizeof address), 0);
    do {
        usleep(200);
        virtio_console_port_status(driver->device, 1, &status);
    } while (!status.host_open);
    Error error = {0};
    CHECK(!char_socket_new(driver->board, socket_path, &error)); /* in use */
    close(client);
    console_down(&console);
    driver_free(driver);
    unlink(socket_path);
}

/* The driver takes a queue back (virtio 1.2 §2.6.1) of whose first buffer a part was sent: the next ring's first
 * buffer goes whole. */
static void test_queue_reset_amid_buffer(void)
{
    Console console;
    VirtioConsolePortStatus status;
    struct timeval limit = {.tv_sec = 20};
    console_up(&console, CLOCK_KIND_REALTIME, make_socket);
    Driver *driver = &console.driver;
    driver_start(driver, VIRTIO_CONSOLE_F_MULTIPORT | VIRTIO_F_RING_RESET, 8);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, socket_path);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    CHECK_EQ(connect(client, (struct sockaddr *)&address, sizeof address), 0);
    do {
        usleep(200);
        virtio_console_port_status(driver->device, 1, &status);
    } while (!status.host_open);
    driver_add(driver, 5, DRIVER_DATA, 2 << 20, false);
    driver_kick(driver, 5);
    do {
        usleep(200);
        virtio_console_port_status(driver->device, 1, &status);
    } while (!status.from_guest);
    driver_write(driver, COMMON_QUEUE_SELECT, 2, 5);
    driver_write(driver, COMMON_QUEUE_RESET, 2, 1);
    virtio_console_port_status(driver->device, 1, &status);
    CHECK(status.from_guest < 2 << 20);
    static uint8_t got[2 << 20];
    for (uint64_t at = 0; at < status.from_guest;) {
        ssize_t n = recv(client, got, MIN(sizeof got, status.from_guest - at), 0);
        CHECK(n > 0);
        at += (uint64_t)n;
    }
    driver_queue(driver, 5);
    memcpy(driver_ram(driver, DRIVER_DATA), "whole", 5);
    driver_add(driver, 5, DRIVER_DATA, 5, false);
    driver_kick(driver, 5);
    CHECK_EQ(recv(client, got, 5, MSG_WAITALL), 5);
    CHECK_EQ(memcmp(got, "whole", 5), 0);
    CHECK_EQ(wait_used(driver, 5), 0);
    close(client);
    console_down(&console);
    driver_free(driver);
    unlink(socket_path);
}

int main(void)
{
    RUN(test_one_port);
    RUN(test_endless_output);
    RUN(test_unwritable_input);
    RUN(test_ports);
    RUN(test_socket);
    RUN(test_queue_reset_amid_buffer);
    return 0;
}
