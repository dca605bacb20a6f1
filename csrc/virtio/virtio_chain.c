#include "virtio/virtio_chain.h"

size_t virtio_chain_read(const VirtqSegment *segments, const VirtqChain *chain, uint64_t offset, void *data,
                         size_t size)
{
    uint8_t *to = data;
    for (uint32_t i = 0; i < chain->readable && size; i++) {
        uint64_t length = segments[i].iov.iov_len, skip = MIN(offset, length), n = MIN(size, length - skip);
        memcpy(to, (const uint8_t *)segments[i].iov.iov_base + skip, n);
        offset -= skip;
        to += n;
        size -= n;
    }
    return (size_t)(to - (uint8_t *)data);
}

size_t virtio_chain_write(GuestMemory *memory, const VirtqSegment *segments, const VirtqChain *chain,
                          uint64_t offset, const void *data, size_t size)
{
    const uint8_t *from = data;
    for (uint32_t i = chain->readable; i < chain->readable + chain->writable && size; i++) {
        uint64_t length = segments[i].iov.iov_len, skip = MIN(offset, length), n = MIN(size, length - skip);
        offset -= skip;
        if (n == 0)
            continue;
        memcpy((uint8_t *)segments[i].iov.iov_base + skip, from, n);
        guest_memory_written(memory, segments[i].gpa + skip, n);
        from += n;
        size -= n;
    }
    return (size_t)(from - (const uint8_t *)data);
}
