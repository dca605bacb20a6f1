/* Umbrella header: what the generated border module (cffi) sees of the C library. */
#ifndef PYVMM_H
#define PYVMM_H

#include <linux/kvm.h>

#include "block/block.h"
#include "common/common.h"
#include "devices/acpi_pm.h"
#include "devices/char_sink.h"
#include "devices/device.h"
#include "devices/fdc.h"
#include "devices/hpet.h"
#include "devices/i8042.h"
#include "devices/i8237.h"
#include "devices/i8254.h"
#include "devices/ide.h"
#include "devices/mc146818.h"
#include "devices/pci.h"
#include "devices/pci_bridges.h"
#include "devices/pci_python.h"
#include "devices/pflash.h"
#include "devices/piix4_pm.h"
#include "devices/ports.h"
#include "devices/uart16550.h"
#include "devices/vga.h"
#include "engine/engine.h"
#include "io/board.h"
#include "irq/i8259.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"
#include "kvm/kvm.h"
#include "translator/translator.h"
#include "virtio/virtio_9p.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_mmio.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_rng.h"
#include "virtio/virtio_vsock.h"

#endif
