/*
 * PCI by configuration mechanism 1: address to port CF8h, data at CFCh (PCI Local Bus 3.0 §3.2.2.3.2, §6.1,
 * §6.2.5). The scan starts at bus 0 and follows bridges that firmware has numbered. Addresses and IRQs are
 * firmware's too.
 * Left out: hot plug, expansion ROMs, assigning addresses, extended configuration space.
 */
#include "kernel.h"
#include "x86.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc
#define PCI_MAX        64

#define REG_ID        0x00
#define REG_COMMAND   0x04
#define REG_CLASS     0x08
#define REG_HEADER    0x0e
#define REG_BAR0      0x10
#define REG_SECONDARY 0x19 /* of a bridge: the bus behind it */
#define REG_INTERRUPT 0x3c

#define COMMAND_IO     1u
#define COMMAND_MEMORY 2u
#define COMMAND_MASTER 4u

static PciDevice devices[PCI_MAX];
static size_t device_count;

static void config_select(const PciDevice *dev, unsigned offset)
{
    outl(CONFIG_ADDRESS, 0x80000000u | (uint32_t)dev->bus << 16 | (uint32_t)dev->device << 11 |
                             (uint32_t)dev->function << 8 | (offset & 0xfc));
}

uint32_t pci_read32(const PciDevice *dev, unsigned offset)
{
    config_select(dev, offset);
    return inl(CONFIG_DATA);
}

uint16_t pci_read16(const PciDevice *dev, unsigned offset)
{
    config_select(dev, offset);
    return inw((uint16_t)(CONFIG_DATA + (offset & 2)));
}

uint8_t pci_read8(const PciDevice *dev, unsigned offset)
{
    config_select(dev, offset);
    return inb((uint16_t)(CONFIG_DATA + (offset & 3)));
}

static void pci_write32(const PciDevice *dev, unsigned offset, uint32_t value)
{
    config_select(dev, offset);
    outl(CONFIG_DATA, value);
}

void pci_write16(const PciDevice *dev, unsigned offset, uint16_t value)
{
    config_select(dev, offset);
    outw((uint16_t)(CONFIG_DATA + (offset & 2)), value);
}

static void scan_bus(uint8_t bus, unsigned depth)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        unsigned functions = 1;
        for (unsigned function = 0; function < functions; function++) {
            PciDevice dev = {.bus = bus, .device = (uint8_t)slot, .function = (uint8_t)function};
            uint32_t id = pci_read32(&dev, REG_ID);
            if ((id & 0xffff) == 0xffff || device_count == PCI_MAX)
                continue;
            uint32_t interrupt = pci_read32(&dev, REG_INTERRUPT);
            dev.vendor_id = (uint16_t)id;
            dev.device_id = (uint16_t)(id >> 16);
            dev.class_code = pci_read32(&dev, REG_CLASS) >> 8;
            dev.header = pci_read8(&dev, REG_HEADER);
            dev.irq_line = (uint8_t)interrupt;
            dev.irq_pin = (uint8_t)(interrupt >> 8);
            if (function == 0 && dev.header & 0x80) /* multi-function */
                functions = 8;
            devices[device_count++] = dev;
            uint8_t behind = (dev.header & 0x7f) == 1 ? pci_read8(&dev, REG_SECONDARY) : 0;
            if (behind > bus && depth < 8)
                scan_bus(behind, depth + 1);
        }
    }
}

void pci_init(void)
{
    PciDevice host = {0};
    outl(CONFIG_ADDRESS, 0x80000000u);
    if (inl(CONFIG_ADDRESS) == 0x80000000u && pci_read32(&host, REG_ID) != 0xffffffffu)
        scan_bus(0, 0);
}

size_t pci_devices(const PciDevice **out)
{
    *out = devices;
    return device_count;
}

static unsigned bar_count(const PciDevice *dev)
{
    return (dev->header & 0x7f) == 0 ? 6 : (dev->header & 0x7f) == 1 ? 2 : 0;
}

/* Writing ones shows which bits are wired: the size (§6.2.5.1). Decoding is off meanwhile. */
PciBar pci_bar(const PciDevice *dev, unsigned index)
{
    PciBar bar = {0};
    unsigned offset = REG_BAR0 + 4 * index;
    if (index >= bar_count(dev))
        return bar;
    uint32_t low = pci_read32(dev, offset), high = 0;
    bar.io = low & 1;
    bar.is_64 = !bar.io && (low & 6) == 4 && index + 1 < bar_count(dev);
    bar.prefetchable = !bar.io && low & 8;
    uint16_t command = pci_read16(dev, REG_COMMAND);
    pci_write16(dev, REG_COMMAND, command & (uint16_t) ~(COMMAND_IO | COMMAND_MEMORY));
    pci_write32(dev, offset, 0xffffffffu);
    uint64_t wired = pci_read32(dev, offset) & (bar.io ? 0xfffffffcu : 0xfffffff0u);
    pci_write32(dev, offset, low);
    if (bar.io) {
        wired |= wired ? 0xffffffffffff0000u : 0; /* upper half may be hard-wired to zero */
    } else if (bar.is_64) {
        high = pci_read32(dev, offset + 4);
        pci_write32(dev, offset + 4, 0xffffffffu);
        wired |= (uint64_t)pci_read32(dev, offset + 4) << 32;
        pci_write32(dev, offset + 4, high);
    } else if (wired) {
        wired |= 0xffffffff00000000u;
    }
    pci_write16(dev, REG_COMMAND, command);
    bar.size = wired ? ~wired + 1 : 0;
    bar.address = (uint64_t)high << 32 | (low & (bar.io ? 0xfffffffcu : 0xfffffff0u));
    return bar;
}

void pci_enable(const PciDevice *dev)
{
    pci_write16(dev, REG_COMMAND, pci_read16(dev, REG_COMMAND) | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER);
}

static const char *class_name(uint32_t class_code)
{
    static const struct {
        uint16_t class;
        const char *name;
    } names[] = {
        {0x0100, "SCSI controller"},
        {0x0101, "IDE controller"},
        {0x0106, "SATA controller"},
        {0x0108, "NVMe controller"},
        {0x0180, "storage controller"},
        {0x0200, "Ethernet controller"},
        {0x0280, "network controller"},
        {0x0300, "VGA display"},
        {0x0380, "display controller"},
        {0x0403, "audio device"},
        {0x0500, "RAM"},
        {0x0600, "host bridge"},
        {0x0601, "ISA bridge"},
        {0x0604, "PCI bridge"},
        {0x0680, "bridge"},
        {0x0780, "communication controller"},
        {0x0880, "system peripheral"},
        {0x0c03, "USB controller"},
        {0x0c05, "SMBus"},
        {0x00ff, "unclassified"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].class == class_code >> 8)
            return names[i].name;
    return "device";
}

void command_pci(int argc, char **argv)
{
    (void)argc, (void)argv;
    print("%lu PCI functions (configuration mechanism 1):\n", device_count);
    for (size_t i = 0; i < device_count; i++) {
        const PciDevice *dev = &devices[i];
        print("%02x:%02x.%u  %04x:%04x  class %06x %s", dev->bus, dev->device, dev->function, dev->vendor_id,
              dev->device_id, dev->class_code, class_name(dev->class_code));
        if (dev->irq_pin >= 1 && dev->irq_pin <= 4)
            print(", INT%c on IRQ %u", 'A' + dev->irq_pin - 1, dev->irq_line);
        print("\n");
        for (unsigned b = 0; b < bar_count(dev); b++) {
            PciBar bar = pci_bar(dev, b);
            if (!bar.size)
                continue;
            print("         BAR %u: %s %08lx, %lu bytes%s%s\n", b, bar.io ? "I/O port" : "memory  ", bar.address,
                  bar.size, bar.is_64 ? ", 64-bit" : "", bar.prefetchable ? ", prefetchable" : "");
            b += bar.is_64;
        }
    }
}
