/*
 * The bytes of a taken chain, whatever pieces the driver made of them (virtio 1.2 §2.7.4.1): for devices that copy.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_CHAIN_H
#define PYVMM_VIRTIO_VIRTIO_CHAIN_H

#include "virtio/virtqueue.h"

/* Copy up to `size` of the chain's readable bytes from `offset` on; returns how many there were. */
size_t virtio_chain_read(const VirtqSegment *segments, const VirtqChain *chain, uint64_t offset, void *data,
                         size_t size);
/* Copy to its writable bytes from `offset` on, and tell memory's listeners; returns how many had room. */
size_t virtio_chain_write(GuestMemory *memory, const VirtqSegment *segments, const VirtqChain *chain,
                          uint64_t offset, const void *data, size_t size);

#endif
