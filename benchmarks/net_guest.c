/* A program for a guest: it connects to a port of the host again and again, and does what it is told there: 's' and
 * a count of bytes: send so many; 'r': receive so many, then answer one byte; 'q': end. Usage: net ADDRESS PORT. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[256 << 10];

static int all(ssize_t (*part)(int, void *, size_t), int fd, uint64_t bytes)
{
    while (bytes) {
        ssize_t n = part(fd, buffer, bytes < sizeof buffer ? bytes : sizeof buffer);
        if (n <= 0)
            return -1;
        bytes -= (uint64_t)n;
    }
    return 0;
}

static ssize_t write_part(int fd, void *data, size_t size) { return write(fd, data, size); }

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(argc > 2 ? atoi(argv[2]) : 0))};
    if (argc != 3 || !inet_aton(argv[1], &to.sin_addr))
        return 2;
    for (;;) {
        struct {
            char what;
            char digits[15]; /* of the count, in decimal, ended by zeros */
        } order;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
            close(fd);
            usleep(100000);
            continue;
        }
        if (recv(fd, &order, sizeof order, MSG_WAITALL) != sizeof order || order.what == 'q')
            return 0;
        uint64_t bytes = strtoull(order.digits, NULL, 10);
        if (order.what == 's')
            all(write_part, fd, bytes);
        else if (all(read, fd, bytes) == 0 && write(fd, "!", 1) != 1)
            return 1;
        shutdown(fd, SHUT_WR);
        close(fd);
    }
}
