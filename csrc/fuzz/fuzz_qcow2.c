/*
 * libFuzzer: an image file of arbitrary bytes is opened, read, written, zeroed, flushed, checked and repaired. The
 * first byte chooses the mode, the next eight an offset; the rest is the file. Seeds:
 * tests/fuzz/make_qcow2_seeds.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"

enum { SPAN = 200000, HEADER = 9 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(BlockImage *image, uint64_t somewhere, uint8_t mode)
{
    static uint8_t buffer[SPAN];
    uint64_t disk = block_size(image), offset = disk ? somewhere % disk : 0;
    uint64_t length = MIN(disk - offset, (uint64_t)SPAN);
    uint64_t first = MIN(disk, (uint64_t)SPAN);
    BlockStatus status;
    block_pread(image, buffer, first, 0);
    block_pread(image, buffer, length, offset);
    for (uint64_t at = 0; at < disk && at < 64 * (uint64_t)SPAN; at += status.length)
        if (block_status(image, at, disk - at, &status) || !status.length)
            break;
    if (mode & 1) {
        block_pwrite(image, buffer, length, offset);
        block_pwrite(image, buffer, first, 0);
        block_write_zeroes(image, offset, length, mode & 2);
        block_discard(image, 0, first);
        block_flush(image);
        block_pwrite(image, buffer, MIN(length, 1000), offset);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEADER)
        return 0;
    uint8_t mode = data[0];
    int fd = memfd_create("image", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data + HEADER, size - HEADER) != (ssize_t)(size - HEADER))
        abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    Error error = {0};
    uint32_t flags = BLOCK_NO_BACKING | (mode & 1 ? 0 : BLOCK_READ_ONLY);
    BlockImage *image = block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, flags, &error);
    if (image) {
        BlockInfo info;
        block_info(image, &info);
        use(image, load_le64(data + 1), mode);
        block_close(image);
    } else if (!error.text[0]) {
        abort(); /* a refusal without a reason */
    }
    image = block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, BLOCK_FIX | BLOCK_NO_BACKING, &error);
    if (image) {
        BlockCheck check;
        int result = block_check(image, mode >> 2 & 1 ? BLOCK_REPAIR_ALL : BLOCK_REPAIR_LEAKS, &check, &error);
        bool clean = !result && mode >> 2 & 1 && !check.corruptions;
        block_close(image);
        image = clean ? block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, BLOCK_NO_BACKING, &error) : NULL;
        if (image && !block_check(image, BLOCK_REPAIR_NONE, &check, &error) && check.corruptions)
            abort(); /* what a repair called clean must be */
        block_close(image);
    }
    close(fd);
    return 0;
}
