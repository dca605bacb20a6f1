/* qcow2 against an array in memory: random operations on every cluster size and refcount width, checked and
 * reopened. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/block.h"
#include "check.h"

enum { OPERATIONS = 400 };

typedef struct Disk {
    char path[128];
    BlockImage *image;
    uint8_t *model;
    uint64_t size, state; /* xorshift */
} Disk;

static uint64_t next_random(Disk *d)
{
    d->state ^= d->state << 13;
    d->state ^= d->state >> 7;
    return d->state ^= d->state << 17;
}

static BlockImage *open_or_die(const char *path, const char *format, int cache, uint32_t flags)
{
    Error error = {0};
    BlockImage *image = block_open(path, format, cache, flags, &error);
    if (!image)
        fprintf(stderr, "%s\n", error.text);
    CHECK(image);
    return image;
}

static void temporary(char *path, size_t room, const char *name)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, room, "%s/pyvmm-%s-%d", folder ? folder : "/tmp", name, getpid());
}

static void compare_all(Disk *d)
{
    uint8_t *data = malloc(d->size);
    CHECK_EQ(block_pread(d->image, data, d->size, 0), 0);
    uint64_t i = 0;
    while (i < d->size && data[i] == d->model[i])
        i++;
    CHECK_EQ(i, d->size); /* else the first offset that differs */
    free(data);
}

static void check_clean(BlockImage *image, bool leaks_too)
{
    BlockCheck check;
    Error error = {0};
    CHECK_EQ(block_check(image, BLOCK_REPAIR_NONE, &check, &error), 0);
    if (check.corruptions || (leaks_too && check.leaks))
        fprintf(stderr, "%s\n", check.first);
    CHECK_EQ(check.corruptions, 0);
    if (leaks_too)
        CHECK_EQ(check.leaks, 0);
}

static void operate(Disk *d, uint64_t cluster)
{
    uint64_t most = MIN(d->size, cluster * 5), offset = next_random(d) % d->size;
    uint64_t length = 1 + next_random(d) % MIN(most, d->size - offset);
    unsigned kind = next_random(d) % 10;
    if (next_random(d) % 2) { /* aligned to clusters half of the time, so that whole clusters change */
        offset &= ~(cluster - 1);
        length = MIN((length + cluster - 1) & ~(cluster - 1), d->size - offset);
    }
    if (kind < 5) {
        struct iovec iov[3];
        uint8_t *data = malloc(length);
        uint8_t value = (uint8_t)next_random(d);
        for (uint64_t i = 0; i < length; i++)
            data[i] = (uint8_t)(value + i * 7);
        size_t a = length / 3, b = length / 2;
        iov[0] = (struct iovec){data, a};
        iov[1] = (struct iovec){data + a, b - a};
        iov[2] = (struct iovec){data + b, length - b};
        CHECK_EQ(block_pwritev(d->image, iov, 3, offset), 0);
        memcpy(d->model + offset, data, length);
        free(data);
    } else if (kind < 7) {
        CHECK_EQ(block_write_zeroes(d->image, offset, length, kind == 6), 0);
        memset(d->model + offset, 0, length);
    } else if (kind == 7) {
        CHECK_EQ(block_discard(d->image, offset, length), 0);
        CHECK_EQ(block_pread(d->image, d->model + offset, length, offset), 0); /* zeros or what was there */
    } else if (kind == 8) {
        uint8_t *data = malloc(length);
        CHECK_EQ(block_pread(d->image, data, length, offset), 0);
        CHECK(!memcmp(data, d->model + offset, length));
        free(data);
    } else {
        CHECK_EQ(block_flush(d->image), 0);
    }
}

static void run_disk(uint32_t version, uint32_t cluster, uint32_t refcount_bits, int cache, const char *backing)
{
    Disk d = {.size = MIN((uint64_t)cluster * 70 + 1536, 12u << 20),
              .state = 88172645463325252ull + cluster + refcount_bits};
    BlockCreate options = {.size = d.size,
                           .cluster_size = cluster,
                           .version = version,
                           .refcount_bits = refcount_bits,
                           .backing_file = backing,
                           .backing_format = backing ? "raw" : NULL};
    Error error = {0};
    temporary(d.path, sizeof d.path, "qcow2");
    unlink(d.path);
    CHECK_EQ(block_create(d.path, "qcow2", &options, &error), 0);
    d.image = open_or_die(d.path, "qcow2", cache, 0);
    CHECK_EQ(block_size(d.image), d.size);
    d.model = calloc(1, d.size);
    CHECK_EQ(block_pread(d.image, d.model, d.size, 0), 0);
    for (int i = 0; i < OPERATIONS; i++) {
        operate(&d, cluster);
        if (i % 100 == 99) {
            compare_all(&d);
            check_clean(d.image, false);
        }
    }
    block_close(d.image);
    d.image = open_or_die(d.path, NULL, BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY);
    CHECK(!block_fault(d.image));
    CHECK(!strcmp(block_format(d.image), "qcow2"));
    compare_all(&d);
    check_clean(d.image, true);
    block_close(d.image);
    unlink(d.path);
    free(d.model);
}

static void test_cluster_sizes(void)
{
    for (uint32_t cluster = 512; cluster <= 2u << 20; cluster *= 2)
        run_disk(3, cluster, 16, BLOCK_CACHE_UNSAFE, NULL);
}

static void test_refcount_widths(void)
{
    for (uint32_t bits = 1; bits <= 64; bits *= 2) {
        run_disk(3, 512, bits, BLOCK_CACHE_UNSAFE, NULL);
        run_disk(3, 4096, bits, BLOCK_CACHE_UNSAFE, NULL);
    }
}

static void test_version_2(void)
{
    run_disk(2, 512, 16, BLOCK_CACHE_UNSAFE, NULL);
    run_disk(2, 65536, 16, BLOCK_CACHE_WRITEBACK, NULL);
}

static void make_raw(const char *path, uint64_t size)
{
    FILE *file = fopen(path, "w");
    CHECK(file);
    for (uint64_t i = 0; i < size; i++)
        fputc((int)(i * 31 >> 3) & 255, file);
    fclose(file);
}

static void test_backing(void)
{
    char raw[128];
    temporary(raw, sizeof raw, "backing");
    for (uint32_t version = 2; version <= 3; version++) {
        make_raw(raw, 150001); /* shorter than the overlay, and not whole sectors */
        run_disk(version, 4096, 16, BLOCK_CACHE_WRITEBACK, raw);
        run_disk(version, 512, 16, BLOCK_CACHE_UNSAFE, raw);
    }
    unlink(raw);
}

static void test_cache_modes(void)
{
    run_disk(3, 4096, 16, BLOCK_CACHE_WRITETHROUGH, NULL);
    char path[128];
    Error error = {0};
    temporary(path, sizeof path, "direct");
    make_raw(path, 8192);
    BlockImage *image = block_open(path, "raw", BLOCK_CACHE_NONE, 0, &error);
    if (!image) {
        CHECK(strstr(error.text, "O_DIRECT")); /* tmpfs on older kernels */
        printf("skip cache=none: %s\n", error.text);
        unlink(path);
        return;
    }
    block_close(image);
    unlink(path);
    run_disk(3, 512, 16, BLOCK_CACHE_NONE, NULL);
    run_disk(3, 65536, 16, BLOCK_CACHE_NONE, NULL);
}

static void test_raw_direct_tail(void)
{
    char path[128], data[300], back[300];
    temporary(path, sizeof path, "tail");
    make_raw(path, 5000); /* its last block is not whole: the length must stay */
    Error error = {0};
    BlockImage *image = block_open(path, "raw", BLOCK_CACHE_NONE, 0, &error);
    if (image) {
        memset(data, 0x5a, sizeof data);
        CHECK_EQ(block_pwrite(image, data, sizeof data, 4700), 0);
        CHECK_EQ(block_pread(image, back, sizeof back, 4700), 0);
        CHECK(!memcmp(data, back, sizeof data));
        CHECK_EQ(block_pwrite(image, data, sizeof data, 4701), -EINVAL);
        block_close(image);
        image = open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY);
        CHECK_EQ(block_size(image), 5000);
        block_close(image);
    }
    unlink(path);
}

static void test_snapshot_mode(void)
{
    char path[128], data[4096], back[4096];
    temporary(path, sizeof path, "snapshot");
    make_raw(path, 100000);
    BlockImage *image = open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, BLOCK_SNAPSHOT);
    CHECK_EQ(block_size(image), 100000);
    memset(data, 0x77, sizeof data);
    CHECK_EQ(block_pwrite(image, data, sizeof data, 95904), 0);
    CHECK_EQ(block_pread(image, back, sizeof back, 95904), 0);
    CHECK(!memcmp(data, back, sizeof data));
    block_close(image);
    image = open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY);
    CHECK_EQ(block_pread(image, back, sizeof back, 95904), 0);
    CHECK(memcmp(data, back, sizeof data));
    block_close(image);
    unlink(path);
}

static void test_locks_and_read_only(void)
{
    char path[128], byte = 1;
    Error error = {0};
    temporary(path, sizeof path, "locks");
    make_raw(path, 4096);
    BlockImage *writer = open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, 0);
    CHECK(!block_open(path, "raw", BLOCK_CACHE_WRITEBACK, 0, &error));
    CHECK(strstr(error.text, "is in use"));
    CHECK(!block_open(path, "raw", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY, &error));
    block_close(open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY | BLOCK_NO_LOCK));
    block_close(writer);
    BlockImage *one = open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY);
    BlockImage *two = open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY);
    CHECK_EQ(block_pwrite(one, &byte, 1, 0), -EROFS);
    CHECK(!block_open(path, "raw", BLOCK_CACHE_WRITEBACK, 0, &error));
    block_close(one);
    block_close(two);
    unlink(path);
}

static void test_probed_raw_guard(void)
{
    char path[128], sector[512] = "QFI\xfb";
    temporary(path, sizeof path, "guard");
    make_raw(path, 4096);
    BlockImage *image = open_or_die(path, NULL, BLOCK_CACHE_WRITEBACK, 0);
    CHECK(block_probed_raw(image));
    CHECK_EQ(block_pwrite(image, sector, sizeof sector, 0), -EPERM);
    CHECK_EQ(block_pwrite(image, sector, 2, 0), 0);
    CHECK_EQ(block_pwrite(image, sector + 2, 2, 2), -EPERM); /* by parts */
    CHECK_EQ(block_pwrite(image, sector, sizeof sector, 512), 0);
    block_close(image);
    image = open_or_die(path, "raw", BLOCK_CACHE_WRITEBACK, 0);
    CHECK(!block_probed_raw(image));
    CHECK_EQ(block_pwrite(image, sector, sizeof sector, 0), 0);
    block_close(image);
    unlink(path);
}

static void test_resize(void)
{
    char path[128], data[1000], back[1000];
    Error error = {0};
    temporary(path, sizeof path, "resize");
    BlockCreate options = {.size = 100000, .cluster_size = 512};
    unlink(path);
    CHECK_EQ(block_create(path, "qcow2", &options, &error), 0);
    BlockImage *image = open_or_die(path, "qcow2", BLOCK_CACHE_WRITEBACK, 0);
    memset(data, 9, sizeof data);
    uint64_t end = block_size(image);
    CHECK_EQ(block_pwrite(image, data, sizeof data, end - sizeof data), 0);
    CHECK_EQ(block_resize(image, 30u << 20, false, &error), 0); /* a longer L1 table */
    CHECK_EQ(block_pread(image, back, sizeof back, end - sizeof data), 0);
    CHECK(!memcmp(data, back, sizeof data));
    CHECK_EQ(block_pwrite(image, data, sizeof data, (30u << 20) - sizeof data), 0);
    CHECK_EQ(block_resize(image, end - 300, false, &error), -EINVAL);
    CHECK_EQ(block_resize(image, end - 512, true, &error), 0);
    CHECK_EQ(block_resize(image, end, false, &error), 0);
    CHECK_EQ(block_pread(image, back, 512, end - 512), 0);
    for (int i = 0; i < 512; i++)
        CHECK_EQ(back[i], 0);
    block_close(image);
    image = open_or_die(path, "qcow2", BLOCK_CACHE_WRITEBACK, BLOCK_READ_ONLY);
    check_clean(image, true);
    block_close(image);
    unlink(path);
}

static void test_repair(void)
{
    char path[128];
    Error error = {0};
    BlockCheck check;
    temporary(path, sizeof path, "repair");
    BlockCreate options = {.size = 1 << 20, .cluster_size = 4096};
    unlink(path);
    CHECK_EQ(block_create(path, "qcow2", &options, &error), 0);
    BlockImage *image = open_or_die(path, "qcow2", BLOCK_CACHE_WRITEBACK, 0);
    CHECK_EQ(block_pwrite(image, "hello", 5, 500000), 0);
    block_close(image);
    FILE *file = fopen(path, "r+");
    fseek(file, 2 * 4096, SEEK_SET); /* refcounts of the first clusters: 0, and a leak far behind */
    for (int i = 0; i < 8; i++)
        fputc(0, file);
    fseek(file, 2 * 4096 + 20, SEEK_SET);
    fputc(0, file), fputc(3, file);
    fseek(file, 11 * 4096 - 1, SEEK_SET);
    fputc(0, file);
    fclose(file);
    image = open_or_die(path, "qcow2", BLOCK_CACHE_WRITEBACK, BLOCK_FIX);
    CHECK_EQ(block_check(image, BLOCK_REPAIR_NONE, &check, &error), 0);
    CHECK(check.corruptions > 0 && check.leaks == 1);
    CHECK_EQ(block_check(image, BLOCK_REPAIR_ALL, &check, &error), 0);
    CHECK_EQ(check.corruptions, 0);
    CHECK_EQ(check.leaks, 0);
    CHECK(check.corruptions_fixed > 0);
    block_close(image);
    image = open_or_die(path, "qcow2", BLOCK_CACHE_WRITEBACK, 0);
    char back[5];
    CHECK_EQ(block_pread(image, back, 5, 500000), 0);
    CHECK(!memcmp(back, "hello", 5));
    check_clean(image, true);
    block_close(image);
    unlink(path);
}

int main(void)
{
    RUN(test_cluster_sizes);
    RUN(test_refcount_widths);
    RUN(test_version_2);
    RUN(test_backing);
    RUN(test_cache_modes);
    RUN(test_raw_direct_tail);
    RUN(test_snapshot_mode);
    RUN(test_locks_and_read_only);
    RUN(test_probed_raw_guard);
    RUN(test_resize);
    RUN(test_repair);
    return 0;
}
