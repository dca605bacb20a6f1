/*
 * The guest's end of the vsock tests (vsock(7)): a static program in the initramfs.
 *
 *   vsock echo PORT         answer every connection with what it sends, until it sends no more
 *   vsock send PORT BYTES   connect to the host, send BYTES, and get the same back
 *   vsock cut PORT          connect to the host, send until it goes away
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { BLOCK = 65536 };

static unsigned char block[BLOCK];

static int fail(const char *what)
{
    printf("vsock: %s: %s\n", what, strerror(errno));
    return 1;
}

static int echo(int fd)
{
    ssize_t got;
    while ((got = read(fd, block, BLOCK)) > 0)
        for (ssize_t done = 0, n; done < got; done += n)
            if ((n = write(fd, block + done, (size_t)(got - done))) < 0)
                return 1;
    close(fd);
    return 0;
}

static int serve(struct sockaddr_vm *address)
{
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    address->svm_cid = VMADDR_CID_ANY;
    if (listener < 0 || bind(listener, (struct sockaddr *)address, sizeof *address) < 0 || listen(listener, 64) < 0)
        return fail("listen");
    signal(SIGCHLD, SIG_IGN);
    printf("vsock: listening\n");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && fork() == 0)
            _exit(echo(fd));
        close(fd);
    }
}

static unsigned char byte_at(size_t at) { return (unsigned char)(at * 2654435761u >> 13); }

static int send_all(int fd, size_t bytes)
{
    for (size_t sent = 0; sent < bytes;) {
        size_t n = bytes - sent < BLOCK ? bytes - sent : BLOCK;
        for (size_t i = 0; i < n; i++)
            block[i] = byte_at(sent + i);
        ssize_t done = write(fd, block, n);
        if (done < 0)
            return fail("write");
        sent += (size_t)done;
    }
    return shutdown(fd, SHUT_WR) < 0 ? fail("shutdown") : 0;
}

static int check_all(int fd, size_t bytes)
{
    size_t got = 0;
    ssize_t n;
    while ((n = read(fd, block, BLOCK)) > 0)
        for (ssize_t i = 0; i < n; i++)
            if (block[i] != byte_at(got++))
                return fail("other bytes came back");
    if (n < 0 || got != bytes)
        return fail("not all came back");
    printf("vsock: %zu bytes came back\n", got);
    return 0;
}

static int send_and_check(int fd, size_t bytes)
{
    pid_t child = fork();
    int status;
    if (child == 0)
        _exit(send_all(fd, bytes));
    int result = check_all(fd, bytes);
    waitpid(child, &status, 0);
    return result || status;
}

static int until_it_goes(int fd)
{
    while (write(fd, block, BLOCK) > 0)
        ;
    printf("vsock: gone: %s\n", strerror(errno));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = (unsigned)strtoul(argv[2], NULL, 0)};
    if (!strcmp(argv[1], "echo"))
        return serve(&address);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return fail("connect");
    if (!strcmp(argv[1], "send") && argc > 3)
        return send_and_check(fd, strtoul(argv[3], NULL, 0));
    return until_it_goes(fd);
}
