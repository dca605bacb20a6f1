/*
 * virtio over PCI (virtio 1.2 §4.1). A modern device describes its registers by vendor capabilities that name a
 * BAR, an offset and a length (§4.1.4); where those are missing, a transitional device still has the legacy
 * registers behind I/O BAR 0 (§4.1.4.8). Only queue 0 is used, and INTx, not MSI-X.
 * Left out: capabilities that lie in an I/O BAR, the PCI configuration access capability, several queues.
 */
#include "kernel.h"
#include "x86.h"

#define PCI_STATUS_CAP_LIST 0x10
#define PCI_CAP_VENDOR      0x09
#define CAP_COMMON          1 /* §4.1.4: cfg_type */
#define CAP_NOTIFY          2
#define CAP_ISR             3
#define CAP_DEVICE          4

/* struct virtio_pci_common_cfg, §4.1.4.3 */
#define COMMON_DFSELECT     0x00
#define COMMON_DF           0x04
#define COMMON_GFSELECT     0x08
#define COMMON_GF           0x0c
#define COMMON_STATUS       0x14
#define COMMON_QUEUE_SELECT 0x16
#define COMMON_QUEUE_SIZE   0x18
#define COMMON_QUEUE_ENABLE 0x1c
#define COMMON_QUEUE_NOTIFY 0x1e
#define COMMON_QUEUE_DESC   0x20
#define COMMON_QUEUE_DRIVER 0x28
#define COMMON_QUEUE_DEVICE 0x30
#define COMMON_LENGTH       0x38

/* Legacy registers, §4.1.4.8 (the device's own follow at 14h while MSI-X is off) */
#define LEGACY_FEATURES     0x00
#define LEGACY_ACCEPTED     0x04
#define LEGACY_QUEUE_PFN    0x08
#define LEGACY_QUEUE_SIZE   0x0c
#define LEGACY_QUEUE_SELECT 0x0e
#define LEGACY_NOTIFY       0x10
#define LEGACY_STATUS       0x12
#define LEGACY_ISR          0x13
#define LEGACY_CONFIG       0x14

static uint8_t get8(volatile uint8_t *base, unsigned offset) { return base[offset]; }

static uint16_t get16(volatile uint8_t *base, unsigned offset) { return *(volatile uint16_t *)(base + offset); }

static uint32_t get32(volatile uint8_t *base, unsigned offset) { return *(volatile uint32_t *)(base + offset); }

static void put16(volatile uint8_t *base, unsigned offset, uint16_t value)
{
    *(volatile uint16_t *)(base + offset) = value;
}

static void put32(volatile uint8_t *base, unsigned offset, uint32_t value)
{
    *(volatile uint32_t *)(base + offset) = value;
}

static void put64(volatile uint8_t *base, unsigned offset, uint64_t value) /* §4.1.3.1: as two 32-bit writes */
{
    put32(base, offset, (uint32_t)value);
    put32(base, offset + 4, (uint32_t)(value >> 32));
}

static volatile uint8_t *map_capability(const PciDevice *pci, unsigned cap, uint32_t least)
{
    uint32_t offset = pci_read32(pci, cap + 8), length = pci_read32(pci, cap + 12);
    PciBar bar = pci_bar(pci, pci_read8(pci, cap + 4));
    if (!bar.size || bar.io || !bar.address || length < least || offset > bar.size || length > bar.size - offset)
        return NULL;
    return phys_map(bar.address + offset, length < PAGE_SIZE ? length : PAGE_SIZE, true);
}

static void find_capabilities(VirtioDevice *dev)
{
    const PciDevice *pci = dev->pci;
    if (!(pci_read16(pci, 0x06) & PCI_STATUS_CAP_LIST))
        return;
    unsigned cap = pci_read8(pci, 0x34) & 0xfc;
    for (unsigned seen = 0; cap >= 0x40 && seen < 48; seen++, cap = pci_read8(pci, cap + 1) & 0xfc) {
        if (pci_read8(pci, cap) != PCI_CAP_VENDOR)
            continue;
        switch (pci_read8(pci, cap + 3)) { /* the first usable one of each kind counts */
        case CAP_COMMON:
            if (!dev->common)
                dev->common = map_capability(pci, cap, COMMON_LENGTH);
            break;
        case CAP_NOTIFY:
            if (!dev->notify) {
                dev->notify = map_capability(pci, cap, 2);
                dev->notify_length = pci_read32(pci, cap + 12);
                dev->notify_multiplier = pci_read32(pci, cap + 16);
            }
            break;
        case CAP_ISR:
            if (!dev->isr)
                dev->isr = map_capability(pci, cap, 1);
            break;
        case CAP_DEVICE:
            if (!dev->config)
                dev->config = map_capability(pci, cap, 4);
            break;
        }
    }
}

bool virtio_open(VirtioDevice *dev, const PciDevice *pci, const char **why)
{
    *dev = (VirtioDevice){.pci = pci};
    pci_enable(pci);
    find_capabilities(dev);
    dev->modern = dev->common && dev->notify && dev->isr && dev->config;
    if (dev->modern)
        return true;
    PciBar bar = pci_bar(pci, 0);
    if (pci->device_id >= 0x1000 && pci->device_id <= 0x103f && bar.io && bar.address && bar.size > LEGACY_CONFIG) {
        dev->io = (uint16_t)bar.address;
        return true;
    }
    *why = "neither modern capabilities nor legacy I/O registers (did firmware assign the BARs?)";
    return false;
}

static uint8_t get_status(VirtioDevice *dev)
{
    return dev->modern ? get8(dev->common, COMMON_STATUS) : inb(dev->io + LEGACY_STATUS);
}

static void put_status(VirtioDevice *dev, uint8_t status)
{
    if (dev->modern)
        dev->common[COMMON_STATUS] = status;
    else
        outb(dev->io + LEGACY_STATUS, status);
}

void virtio_reset(VirtioDevice *dev)
{
    put_status(dev, 0);
    for (unsigned spins = 0; get_status(dev) && spins < 100000; spins++) /* §4.1.4.3.2: until it reads 0 */
        pause();
}

void virtio_set_status(VirtioDevice *dev, uint8_t bits) { put_status(dev, get_status(dev) | bits); }

uint64_t virtio_features(VirtioDevice *dev)
{
    if (!dev->modern)
        return inl(dev->io + LEGACY_FEATURES);
    put32(dev->common, COMMON_DFSELECT, 0);
    uint64_t low = get32(dev->common, COMMON_DF);
    put32(dev->common, COMMON_DFSELECT, 1);
    return low | (uint64_t)get32(dev->common, COMMON_DF) << 32;
}

#define STATUS_FEATURES_OK 8

bool virtio_accept(VirtioDevice *dev, uint64_t features)
{
    if (!dev->modern) {
        outl(dev->io + LEGACY_ACCEPTED, (uint32_t)features);
        return true;
    }
    put32(dev->common, COMMON_GFSELECT, 0);
    put32(dev->common, COMMON_GF, (uint32_t)features);
    put32(dev->common, COMMON_GFSELECT, 1);
    put32(dev->common, COMMON_GF, (uint32_t)(features >> 32));
    virtio_set_status(dev, STATUS_FEATURES_OK);
    return get_status(dev) & STATUS_FEATURES_OK;
}

uint32_t virtio_config32(VirtioDevice *dev, unsigned offset)
{
    return dev->modern ? get32(dev->config, offset) : inl((uint16_t)(dev->io + LEGACY_CONFIG + offset));
}

uint16_t virtio_queue_max(VirtioDevice *dev)
{
    if (!dev->modern) {
        outw(dev->io + LEGACY_QUEUE_SELECT, 0);
        return inw(dev->io + LEGACY_QUEUE_SIZE);
    }
    put16(dev->common, COMMON_QUEUE_SELECT, 0);
    return get16(dev->common, COMMON_QUEUE_SIZE);
}

bool virtio_queue_enable(VirtioDevice *dev, uint16_t size, void *desc, void *avail, void *used)
{
    if (!dev->modern) { /* one page number; the places of the rings follow from it (§2.7.2) */
        outl(dev->io + LEGACY_QUEUE_PFN, (uint32_t)((uint64_t)desc / PAGE_SIZE));
        return true;
    }
    put16(dev->common, COMMON_QUEUE_SELECT, 0);
    put16(dev->common, COMMON_QUEUE_SIZE, size);
    put64(dev->common, COMMON_QUEUE_DESC, (uint64_t)desc);
    put64(dev->common, COMMON_QUEUE_DRIVER, (uint64_t)avail);
    put64(dev->common, COMMON_QUEUE_DEVICE, (uint64_t)used);
    /* The notification address of a queue: §4.1.4.4. One page of the capability is mapped, enough for queue 0. */
    uint64_t offset = (uint64_t)get16(dev->common, COMMON_QUEUE_NOTIFY) * dev->notify_multiplier;
    if (offset > PAGE_SIZE - 2 || offset > dev->notify_length - 2)
        return false;
    dev->queue_notify = (volatile uint16_t *)(dev->notify + offset);
    put16(dev->common, COMMON_QUEUE_ENABLE, 1);
    return true;
}

void virtio_notify(VirtioDevice *dev)
{
    if (dev->modern)
        *dev->queue_notify = 0;
    else
        outw(dev->io + LEGACY_NOTIFY, 0);
}

uint8_t virtio_isr(VirtioDevice *dev) { return dev->modern ? get8(dev->isr, 0) : inb(dev->io + LEGACY_ISR); }
