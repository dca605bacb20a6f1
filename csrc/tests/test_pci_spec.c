/*
 * PCI configuration once more, from PCI 3.0 §3.2.2.3.2 (mechanism 1) and §6, the 82441FX (290549) and PIIX3
 * (290550) datasheets by who did not write the devices: accesses of all sizes, what is read-only, PIRQ routing and
 * sharing.
 */
#include "device_check.h"
#include "devices/pci_bridges.h"
#include "devices/vga.h"

enum { HOST = PCI_DEVFN(0, 0), ISA = PCI_DEVFN(1, 0), SCREEN = PCI_DEVFN(2, 0) };

typedef struct Rig {
    Board *board;
    PciBus *bus;
    Device *ports, *host, *isa, *vga;
} Rig;

static void rig_new(Rig *rig)
{
    Error error = {0};
    rig->board = test_board();
    rig->bus = pci_bus_new(rig->board);
    rig->ports = pci_bus_device(rig->bus);
    rig->host = i440fx_new(rig->board, rig->bus, HOST, &error);
    rig->isa = piix3_isa_new(rig->board, rig->bus, ISA, &error);
    rig->vga = vga_new(rig->board, rig->bus, SCREEN, NULL, 0, &error);
    CHECK(rig->host && rig->isa && rig->vga);
}

static void rig_free(Rig *rig)
{
    device_free(rig->vga);
    device_free(rig->isa);
    device_free(rig->host);
    device_free(rig->ports);
    board_free(rig->board);
}

static void select_register(Rig *rig, uint32_t devfn, uint32_t at)
{
    device_write(rig->ports, PCI_REGION_ADDRESS, 0, 4, 0x80000000u | devfn << 8 | (at & 0xfc));
}

static uint32_t get(Rig *rig, uint32_t devfn, uint32_t at, uint32_t size)
{
    select_register(rig, devfn, at);
    return (uint32_t)device_read(rig->ports, PCI_REGION_DATA, at & 3, size);
}

static void put(Rig *rig, uint32_t devfn, uint32_t at, uint32_t size, uint32_t value)
{
    select_register(rig, devfn, at);
    device_write(rig->ports, PCI_REGION_DATA, at & 3, size, value);
}

/* The same bytes by each size; the enable bit, other buses and reserved bits of CONFADD. */
static void test_accesses(void)
{
    Rig rig;
    rig_new(&rig);
    for (uint32_t devfn = 0; devfn < 256; devfn++) {
        bool there = devfn == HOST || devfn == ISA || devfn == SCREEN;
        CHECK_EQ(get(&rig, devfn, 0, 2) != 0xffff, there);
        for (uint32_t at = 0; at < 256; at += 4) {
            uint32_t whole = get(&rig, devfn, at, 4), bytes = 0, words = 0;
            for (uint32_t i = 0; i < 4; i++)
                bytes |= get(&rig, devfn, at + i, 1) << 8 * i;
            for (uint32_t i = 0; i < 4; i += 2)
                words |= get(&rig, devfn, at + i, 2) << 8 * i;
            CHECK_EQ(bytes, whole);
            CHECK_EQ(words, whole);
            CHECK(there || whole == UINT32_MAX);
        }
    }
    device_write(rig.ports, PCI_REGION_ADDRESS, 0, 4, 0x00000000);
    CHECK_EQ(device_read(rig.ports, PCI_REGION_DATA, 0, 4), UINT32_MAX);
    device_write(rig.ports, PCI_REGION_ADDRESS, 0, 4, 0x80010000);
    CHECK_EQ(device_read(rig.ports, PCI_REGION_DATA, 0, 4), UINT32_MAX);
    device_write(rig.ports, PCI_REGION_ADDRESS, 0, 4, 0x80000003);
    CHECK_EQ(device_read(rig.ports, PCI_REGION_ADDRESS, 0, 4), 0x80000000);
    CHECK_EQ(get(&rig, HOST, 0, 4), 0x12378086);
    CHECK_EQ(get(&rig, HOST, 8, 4) >> 8, 0x060000);
    CHECK_EQ(get(&rig, ISA, 0, 4), 0x70008086);
    CHECK_EQ(get(&rig, ISA, 8, 4) >> 8, 0x060100);
    CHECK_EQ(get(&rig, SCREEN, 8, 4) >> 8, 0x030000);
    rig_free(&rig);
}

/* §6.1, §6.2: identity is read-only; a BAR shows its size; the interrupt line is scratch; reset puts all back. */
static void test_headers(void)
{
    Rig rig;
    rig_new(&rig);
    static const uint32_t FUNCTIONS[] = {HOST, ISA, SCREEN};
    for (size_t f = 0; f < ARRAY_SIZE(FUNCTIONS); f++) {
        uint32_t devfn = FUNCTIONS[f], before[64];
        for (uint32_t i = 0; i < 64; i++)
            before[i] = get(&rig, devfn, 4 * i, 4);
        for (uint32_t i = 0; i < 64; i++)
            put(&rig, devfn, 4 * i, 4, UINT32_MAX);
        static const uint32_t READ_ONLY[] = {0, 8, 0x2c};
        for (size_t i = 0; i < ARRAY_SIZE(READ_ONLY); i++)
            CHECK_EQ(get(&rig, devfn, READ_ONLY[i], 4), before[READ_ONLY[i] / 4]);
        CHECK_EQ(get(&rig, devfn, 0x0e, 1), before[3] >> 16 & 0xff);
        CHECK_EQ(get(&rig, devfn, PCI_STATUS, 2) & ~(before[1] >> 16), 0); /* 1 sets nothing in status */
        for (uint32_t bar = 0x10; bar < 0x28; bar += 4) {
            uint32_t mask = get(&rig, devfn, bar, 4) & ~15u;
            CHECK(!mask || !(mask & (~mask + 1) & (mask - (mask & (~mask + 1)))));
            CHECK((~mask & (~mask + 1)) == 0 || !mask); /* ones from the size's bit up */
        }
        device_reset(devfn == HOST ? rig.host : devfn == ISA ? rig.isa : rig.vga);
        for (uint32_t i = 0; i < 64; i++)
            CHECK_EQ(get(&rig, devfn, 4 * i, 4), before[i]);
    }
    CHECK_EQ(get(&rig, HOST, PCI_COMMAND, 2), 0x0006);
    CHECK_EQ(get(&rig, ISA, PCI_COMMAND, 2) & 7, 7);
    for (uint32_t value = 0; value < 256; value++) {
        put(&rig, SCREEN, PCI_INTERRUPT_LINE, 1, value);
        put(&rig, HOST, I440FX_PAM0 + value % 7, 1, value & 0x33);
        CHECK_EQ(get(&rig, HOST, I440FX_PAM0 + value % 7, 1), value & 0x33);
    }
    CHECK_EQ(get(&rig, SCREEN, PCI_EXPANSION_ROM, 4), 0); /* it has none */
    check_save_restore(rig.host);
    check_save_restore(rig.isa);
    rig_free(&rig);
}

/* PIIX3 PIRQRC[A:D]: bit 7 disables, bits 3:0 route; power on is disabled. */
static void test_routing(void)
{
    Rig rig;
    rig_new(&rig);
    for (uint32_t link = 0; link < 4; link++) {
        CHECK_EQ(get(&rig, ISA, PIIX3_PIRQRC + link, 1), 0x80);
        CHECK_EQ(pci_bus_link_route(rig.bus, link), -1);
        static const uint8_t IRQS[] = {3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15};
        for (size_t i = 0; i < ARRAY_SIZE(IRQS); i++) {
            put(&rig, ISA, PIIX3_PIRQRC + link, 1, IRQS[i]);
            CHECK_EQ(get(&rig, ISA, PIIX3_PIRQRC + link, 1) & 0x8f, IRQS[i]);
            CHECK_EQ(pci_bus_link_route(rig.bus, link), IRQS[i]);
            put(&rig, ISA, PIIX3_PIRQRC + link, 1, 0x80 | IRQS[i]);
            CHECK_EQ(pci_bus_link_route(rig.bus, link), -1);
        }
        static const uint8_t RESERVED[] = {0, 1, 2, 8, 13};
        for (size_t i = 0; i < ARRAY_SIZE(RESERVED); i++) {
            put(&rig, ISA, PIIX3_PIRQRC + link, 1, RESERVED[i]);
            CHECK_EQ(pci_bus_link_route(rig.bus, link), -1);
        }
        put(&rig, ISA, PIIX3_PIRQRC + link, 1, 10); /* all may share one */
    }
    for (uint32_t link = 0; link < 4; link++)
        CHECK_EQ(pci_bus_link_route(rig.bus, link), 10);
    put(&rig, ISA, PIIX3_PIRQRC, 4, 0x0b0a8580); /* all four by one access */
    CHECK_EQ(pci_bus_link_route(rig.bus, 0), -1);
    CHECK_EQ(pci_bus_link_route(rig.bus, 1), -1);
    CHECK_EQ(pci_bus_link_route(rig.bus, 2), 10);
    CHECK_EQ(pci_bus_link_route(rig.bus, 3), 11);
    device_reset(rig.isa);
    CHECK_EQ(pci_bus_link_route(rig.bus, 3), -1);
    rig_free(&rig);
}

int main(void)
{
    RUN(test_accesses);
    RUN(test_headers);
    RUN(test_routing);
    return 0;
}
