#include "virtio/virtio_pci.h"

Device *virtio_place(Board *board, VirtioDevice *virtio, const VirtioPlace *place, Error *error)
{
    return virtio_pci_new(board, virtio, place, error);
}
