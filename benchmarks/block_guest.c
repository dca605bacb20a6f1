/*
 * The guest's job of benchmarks/block.py: one disk, one pattern, a number of requests, so many of them at once.
 *
 * block_guest DEVICE read|write seq|rand BYTES DEPTH COUNT. O_DIRECT, by Linux's asynchronous I/O (io_submit(2)) at
 * every depth. It says READY, waits for a line, does the requests, and says DONE. Random places are the same in
 * every run (a linear congruential generator, so that a slow guest draws no others than a quick one).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLKGETSIZE64_REQUEST _IOR(0x12, 114, size_t)
#define MAX_DEPTH            64

static void fail(const char *what)
{
    printf("FAILED %s\n", what);
    fflush(stdout);
    for (;;)
        pause();
}

static uint64_t next_offset(uint64_t *state, uint64_t index, uint64_t blocks, uint64_t bytes, int random)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (random ? (*state >> 33) % blocks : index % blocks) * bytes;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        fail("usage");
    int write_it = !strcmp(argv[2], "write"), random = !strcmp(argv[3], "rand");
    uint64_t bytes = strtoull(argv[4], 0, 10), depth = strtoull(argv[5], 0, 10), count = strtoull(argv[6], 0, 10);
    int fd = open(argv[1], O_RDWR | O_DIRECT);
    uint64_t size;
    if (fd < 0 || ioctl(fd, BLKGETSIZE64_REQUEST, &size) < 0 || depth > MAX_DEPTH || size < bytes)
        fail("open");
    char *data = mmap(0, bytes * depth, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    aio_context_t context = 0;
    if (data == MAP_FAILED || syscall(SYS_io_setup, (unsigned)depth, &context) < 0)
        fail("setup");
    memset(data, 0x5a, bytes * depth);

    struct iocb blocks[MAX_DEPTH] = {0}, *list[MAX_DEPTH];
    struct io_event events[MAX_DEPTH];
    uint64_t state = 1, given = 0, done = 0;
    for (uint64_t i = 0; i < depth; i++)
        list[i] = &blocks[i];
    printf("READY\n");
    fflush(stdout);
    if (getchar() == EOF)
        fail("input");
    long free_slots = (long)depth;
    while (done < count) {
        long ready = 0;
        for (; ready < free_slots && given < count; ready++, given++) {
            struct iocb *block = list[ready];
            *block = (struct iocb){.aio_fildes = (uint32_t)fd,
                                   .aio_lio_opcode = write_it ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                                   .aio_buf = (uint64_t)(uintptr_t)(data + (uint64_t)(block - blocks) * bytes),
                                   .aio_nbytes = bytes,
                                   .aio_offset = (int64_t)next_offset(&state, given, size / bytes, bytes, random)};
        }
        if (ready && syscall(SYS_io_submit, context, ready, list) != ready)
            fail("submit");
        long got = syscall(SYS_io_getevents, context, 1L, (long)depth, events, NULL);
        if (got < 1)
            fail("getevents");
        for (long i = 0; i < got; i++) {
            if (events[i].res != (int64_t)bytes)
                fail("request");
            list[i] = (struct iocb *)(uintptr_t)events[i].obj;
        }
        free_slots = got;
        done += (uint64_t)got;
    }
    printf("DONE\n");
    fflush(stdout);
    return 0;
}
