/*
 * Crashes at every kind of moment: the calls that change the file are recorded, and files that a kill or a power
 * cut could leave are rebuilt from the record and checked. A kill keeps every call up to some moment; a power cut
 * keeps what was there at the last fdatasync and any of the later calls. No corruption may be in them, and all that
 * was flushed must.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/block.h"
#include "check.h"

enum { DISK = 3 << 20, FILE_MAX = 16 << 20, LOG_MAX = 4096, ROUNDS = 250 };
enum Kind { WRITE, TRUNCATE, PUNCH };

typedef struct Change {
    int kind;
    uint64_t offset, length;
    uint8_t *data;
} Change;

typedef struct Recorder {
    int on;
    uint8_t *stable; /* the file at the last fdatasync */
    uint64_t stable_size;
    Change log[LOG_MAX];
    int count;
    uint64_t random, crashes;
    uint8_t *flushed, *touched; /* the disk at the last flush; bytes that were changed after it */
    char path[128];
} Recorder;

static Recorder rec; /* the calls below have no other way to find it */

/* The library's calls arrive here, since a program's own definitions go before libc's. */
ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset);
int ftruncate(int fd, off_t size);
int fallocate(int fd, int mode, off_t offset, off_t length);
int fdatasync(int fd);

static uint64_t next_random(void)
{
    rec.random ^= rec.random << 13;
    rec.random ^= rec.random >> 7;
    return rec.random ^= rec.random << 17;
}

static uint64_t apply(uint8_t *file, uint64_t size, const Change *change)
{
    uint64_t end = change->offset + change->length;
    CHECK(end <= FILE_MAX);
    if (change->kind == TRUNCATE) {
        if (end < size)
            memset(file + end, 0, size - end);
        return end;
    }
    if (change->kind == WRITE)
        memcpy(file + change->offset, change->data, change->length);
    else
        memset(file + change->offset, 0, change->length);
    return change->kind == WRITE ? MAX(size, end) : size;
}

/* A file as a crash could leave it: `lossy` drops each call since the last fdatasync with an even chance. */
static void crash(bool lossy)
{
    static uint8_t file[FILE_MAX], disk[DISK];
    rec.on = 0;
    memcpy(file, rec.stable, FILE_MAX);
    uint64_t size = rec.stable_size;
    for (int i = 0; i < rec.count; i++)
        if (!lossy || next_random() % 2)
            size = apply(file, size, &rec.log[i]);
    char path[160];
    snprintf(path, sizeof path, "%s.crash", rec.path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, file, size), (long long)size);
    close(fd);
    Error error = {0};
    BlockCheck check = {0};
    BlockImage *image = block_open(path, "qcow2", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY, &error);
    if (!image)
        fprintf(stderr, "crash %llu: %s\n", (unsigned long long)rec.crashes, error.text);
    CHECK(image);
    CHECK_EQ(block_check(image, BLOCK_REPAIR_NONE, &check, &error), 0);
    if (check.corruptions)
        fprintf(stderr, "crash %llu: %s\n", (unsigned long long)rec.crashes, check.first);
    CHECK_EQ(check.corruptions, 0);
    CHECK_EQ(block_pread(image, disk, DISK, 0), 0);
    for (uint64_t i = 0; i < DISK; i++)
        if (!rec.touched[i] && disk[i] != rec.flushed[i])
            CHECK_EQ(i, -1); /* the offset of a flushed byte that is not there */
    block_close(image);
    unlink(path);
    rec.crashes++;
    rec.on = 1;
}

static void record(int kind, uint64_t offset, uint64_t length, const void *data)
{
    CHECK(rec.count < LOG_MAX);
    Change *change = &rec.log[rec.count++];
    *change = (Change){.kind = kind, .offset = offset, .length = length};
    if (kind == WRITE) {
        change->data = malloc(length);
        memcpy(change->data, data, length);
    }
    if (next_random() % 10 == 0)
        crash(next_random() % 4 != 0);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    ssize_t done = syscall(SYS_pwritev, fd, iov, count, offset, 0);
    if (!rec.on || done < 0)
        return done;
    uint8_t *all = malloc((size_t)done);
    size_t at = 0;
    for (int i = 0; i < count; at += iov[i++].iov_len)
        memcpy(all + at, iov[i].iov_base, iov[i].iov_len);
    /* a power cut may tear a call between sectors: two pieces */
    size_t half = (size_t)done / 2 & ~(size_t)511;
    if (half)
        record(WRITE, (uint64_t)offset, half, all);
    record(WRITE, (uint64_t)offset + half, (size_t)done - half, all + half);
    free(all);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)data, length};
    return pwritev(fd, &iov, 1, offset);
}

int ftruncate(int fd, off_t size)
{
    int result = (int)syscall(SYS_ftruncate, fd, size);
    if (rec.on && !result)
        record(TRUNCATE, 0, (uint64_t)size, NULL);
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, length);
    if (rec.on && !result)
        record(PUNCH, (uint64_t)offset, (uint64_t)length, NULL);
    return result;
}

int fdatasync(int fd)
{
    if (!rec.on)
        return 0;
    for (int i = 0; i < rec.count; i++) {
        rec.stable_size = apply(rec.stable, rec.stable_size, &rec.log[i]);
        free(rec.log[i].data);
    }
    rec.count = 0;
    return 0;
}

/* ---- the guest ---- */

static void touch(uint64_t offset, uint64_t length) { memset(rec.touched + offset, 1, length); }

static void run_guest(BlockImage *image, uint8_t *model)
{
    static uint8_t data[200000];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t offset = next_random() % (DISK - sizeof data),
                 length = 1 + next_random() % (round % 3 ? 9000 : sizeof data);
        unsigned kind = next_random() % 12;
        if (next_random() % 2)
            offset &= ~4095ull, length = (length + 4095) & ~4095ull;
        length = MIN(length, DISK - offset);
        if (kind < 6) {
            length = MIN(length, sizeof data);
            touch(offset, length);
            memset(data, (int)next_random() | 1, length);
            CHECK_EQ(block_pwrite(image, data, length, offset), 0);
            memcpy(model + offset, data, length);
        } else if (kind < 8) {
            touch(offset, length);
            CHECK_EQ(block_write_zeroes(image, offset, length, kind == 7), 0);
            memset(model + offset, 0, length);
        } else if (kind < 10) {
            touch(offset, length);
            CHECK_EQ(block_discard(image, offset, length), 0);
            CHECK_EQ(block_pread(image, model + offset, length, offset), 0);
        } else {
            CHECK_EQ(block_flush(image), 0);
            memcpy(rec.flushed, model, DISK);
            memset(rec.touched, 0, DISK);
        }
    }
}

static void run_case(uint32_t cluster, uint32_t refcount_bits, uint32_t version)
{
    Error error = {0};
    const char *folder = getenv("TMPDIR");
    BlockCreate options = {
        .size = DISK, .cluster_size = cluster, .refcount_bits = refcount_bits, .version = version};
    uint8_t *model = calloc(1, DISK);
    rec.random = 0x2545f4914f6cdd1dull + cluster * 64 + refcount_bits + version;
    rec.stable = calloc(1, FILE_MAX);
    rec.flushed = calloc(1, DISK);
    rec.touched = calloc(1, DISK);
    snprintf(rec.path, sizeof rec.path, "%s/pyvmm-crash-%d", folder ? folder : "/tmp", getpid());
    unlink(rec.path);
    CHECK_EQ(block_create(rec.path, "qcow2", &options, &error), 0);
    int fd = open(rec.path, O_RDONLY);
    rec.stable_size = (uint64_t)read(fd, rec.stable, FILE_MAX);
    close(fd);
    BlockImage *image = block_open(rec.path, "qcow2", BLOCK_CACHE_WRITEBACK, 0, &error);
    CHECK(image);
    rec.on = 1;
    run_guest(image, model);
    block_close(image);
    crash(false);
    rec.on = 0;
    for (int i = 0; i < rec.count; i++)
        free(rec.log[i].data);
    rec.count = 0;
    unlink(rec.path);
    free(rec.stable);
    free(rec.flushed);
    free(rec.touched);
    free(model);
}

static void test_crashes(void)
{
    run_case(4096, 16, 3);
    run_case(65536, 16, 3);
    run_case(512, 64, 3); /* the refcount table grows */
    run_case(4096, 1, 3);
    run_case(4096, 16, 2);
    printf("%llu crashes\n", (unsigned long long)rec.crashes);
    CHECK(rec.crashes > 100);
}

int main(void)
{
    RUN(test_crashes);
    return 0;
}
