#include "virtio/virtio_mmio.h"
#include "virtio/virtio_pci.h"

Device *virtio_place(Board *board, VirtioDevice *virtio, const VirtioPlace *place, Error *error)
{
    virtio->device_features |= place->offer & VIRTIO_RING_ON_DEMAND;
    virtio->device_features &= ~(place->withhold & VIRTIO_RING_FEATURES);
    return place->bus ? virtio_pci_new(board, virtio, place, error) : virtio_mmio_new(board, virtio, place, error);
}
