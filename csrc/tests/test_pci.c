/* The PCI bus: mechanism 1, sizing, mapping and moving of BARs, interrupt links, reset and saved state. */
#include "devices/pci_python.h"
#include "devices/piix4_pm.h"
#include "virtio_mock.h"

static const uint32_t devfn = PCI_DEVFN(MOCK_SLOT, 0);

static void test_mechanism_1(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_out(&mock, 0xcf8, 4, 0xffffffff);
    CHECK_EQ(mock_in(&mock, 0xcf8, 4), 0x80fffffc);
    CHECK_EQ(mock_in(&mock, 0xcfc, 4), 0xffffffff); /* bus 255 */
    mock_out(&mock, 0xcf8, 4, 0x80000000);
    CHECK_EQ(mock_in(&mock, 0xcf8, 1), 0xff); /* a byte access is not the register's */
    mock_out(&mock, 0xcf8, 1, 0x55);
    CHECK_EQ(mock_in(&mock, 0xcf8, 4), 0x80000000);
    CHECK_EQ(mock_in(&mock, 0xcfc, 4), 0x12378086);
    CHECK_EQ(mock_in(&mock, 0xcfe, 2), 0x1237);
    CHECK_EQ(mock_in(&mock, 0xcfd, 1), 0x80);
    CHECK_EQ(mock_in(&mock, 0xcfd, 2), 0x3780);
    CHECK_EQ(mock_in(&mock, 0xcff, 2), 0xff12); /* runs out of the window */
    mock_out(&mock, 0xcf8, 4, 0);
    CHECK_EQ(mock_in(&mock, 0xcfc, 4), 0xffffffff); /* not enabled */
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(31, 7), 0, 4), 0xffffffff);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(1, 0), 0, 4), 0x70008086);
    CHECK_EQ(mock_config_read(&mock, devfn, 0, 4), 0x10011af4);
    CHECK_EQ(mock_config_read(&mock, devfn, 0x2c, 4), 0x00021af4);
    CHECK_EQ(mock_config_read(&mock, devfn, 8, 4), 0x01000000);
    mock_config_write(&mock, devfn, 0, 4, 0); /* identity is read-only */
    CHECK_EQ(mock_config_read(&mock, devfn, 0, 4), 0x10011af4);
    mock_config_write(&mock, PCI_DEVFN(31, 7), 4, 4, 7); /* nobody: nothing */
    mock_free(&mock);
}

static void test_bars(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    for (uint32_t bar = 0; bar < 6; bar++)
        mock_config_write(&mock, devfn, PCI_BAR0 + 4 * bar, 4, 0xffffffff);
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_BAR0, 4), 0xffffff81);
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_BAR0 + 4, 4), 0xfffff000);
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_BAR0 + 8, 4), 0);
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_BAR0 + 16, 4), 0xffffc004);
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_BAR0 + 20, 4), 0xffffffff);
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, 3); /* decoding while they hold ones: nothing to map */
    PciBarInfo info;
    CHECK_EQ(pci_bus_bar(mock.bus, devfn, 0, &info), 0);
    CHECK(!info.mapped && !info.wanted);
    mock_assign(&mock, 11);
    CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_QUEUE_SIZE, 2), 256);
    CHECK_EQ(mock_modern_read(&mock, COMMON_NUM_QUEUES, 2), 1);
    CHECK_EQ(pci_bus_bar(mock.bus, devfn, 4, &info), 0);
    CHECK(info.mapped && info.base == MOCK_MMIO && info.size == 0x4000 && info.flags == PCI_BAR_MEMORY64);
    CHECK_EQ(pci_bus_bar(mock.bus, devfn, 2, &info), -ENOENT);
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_QUEUE_SIZE, 2), 0xffff);
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_IO);
    CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_QUEUE_SIZE, 2), 256);
    CHECK_EQ(mock_modern_read(&mock, COMMON_NUM_QUEUES, 2), 0xffff);
    mock_config_write(&mock, devfn, PCI_BAR0 + 20, 4, 0x40); /* above 4 GiB */
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    uint64_t value;
    CHECK(bus_read(mock.board->mmio, 0x40e0000000 + COMMON_NUM_QUEUES, 2, &value) && value == 1);
    device_reset(mock.blk);
    CHECK(!bus_read(mock.board->mmio, 0x40e0000000 + COMMON_NUM_QUEUES, 2, &value));
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_COMMAND, 2), 0);
    mock_free(&mock);
}

static uint64_t fixed_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    return 0x50 + region * 16 + offset;
}

static void test_collision(void)
{
    Mock mock;
    Error error = {0};
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    const PciIdentity identity = {
        .vendor_id = 0x1234, .device_id = 0x5678, .class_code = 0xff0000, .interrupt_pin = 2};
    const PciPythonBar bars[] = {{.index = 0, .flags = PCI_BAR_IO, .size = 16}, {.index = 2, .size = 4096}};
    Device *other = pci_python_new(mock.board, mock.bus, PCI_DEVFN(4, 0), "toy", &identity, bars, 2, NULL,
                                   fixed_read, NULL, &error);
    CHECK(other);
    CHECK(!pci_python_new(mock.board, mock.bus, PCI_DEVFN(4, 0), "late", &identity, bars, 2, NULL, NULL, NULL,
                          &error));
    CHECK_EQ(error.code, EEXIST);
    const PciPythonBar odd = {.index = 0, .size = 100};
    CHECK(!pci_python_new(mock.board, mock.bus, PCI_DEVFN(5, 0), "odd", &identity, &odd, 1, NULL, NULL, NULL,
                          &error));
    CHECK_EQ(error.code, EINVAL);
    mock_assign(&mock, 11);
    mock_config_write(&mock, PCI_DEVFN(4, 0), PCI_BAR0, 4, MOCK_IO + 0x10);
    mock_config_write(&mock, PCI_DEVFN(4, 0), PCI_BAR0 + 8, 4, 0xe0100000);
    mock_config_write(&mock, PCI_DEVFN(4, 0), PCI_COMMAND, 2, 3);
    PciBarInfo info;
    CHECK_EQ(pci_bus_bar(mock.bus, PCI_DEVFN(4, 0), 0, &info), 0);
    CHECK(info.wanted && !info.mapped); /* virtio-blk has it */
    char text[200];
    CHECK(event_log_take(mock.board->log, text, sizeof text) && strstr(text, "overlaps virtio-blk"));
    CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_QUEUE_SIZE, 2), 256);
    uint64_t value;
    CHECK(bus_read(mock.board->mmio, 0xe0100004, 1, &value) && value == 0x74);
    mock_config_write(&mock, devfn, PCI_BAR0, 4, 0xd000); /* it moves away: the other is seen */
    CHECK_EQ(mock_in(&mock, MOCK_IO + 0x12, 1), 0x52);
    CHECK_EQ(mock_in(&mock, 0xd000 + LEGACY_QUEUE_SIZE, 2), 256);
    device_free(other);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(4, 0), 0, 4), 0xffffffff);
    CHECK(!bus_read(mock.board->mmio, 0xe0100004, 1, &value));
    mock_free(&mock);
}

static void test_interrupt_links(void)
{
    Mock mock;
    Error error = {0};
    MockIrqs irqs = {0};
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    irq_router_add_sink(mock.board->irqs, mock_irq_sink, &irqs);
    const PciIdentity identity = {.vendor_id = 0x1234, .device_id = 0x5678, .interrupt_pin = 3};
    Device *toy =
        pci_python_new(mock.board, mock.bus, PCI_DEVFN(6, 0), "toy", &identity, NULL, 0, NULL, NULL, NULL, &error);
    uint32_t link = pci_link(6, 2), isa = PCI_DEVFN(1, 0);
    CHECK_EQ(mock_config_read(&mock, isa, PIIX3_PIRQRC + link, 1), 0x80); /* reset: not routed */
    pci_python_set_intx(toy, true);
    for (uint32_t gsi = 0; gsi < IRQ_GSI_COUNT; gsi++)
        CHECK(!irqs.level[gsi]);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(6, 0), PCI_STATUS, 2), PCI_STATUS_INTERRUPT);
    mock_config_write(&mock, isa, PIIX3_PIRQRC + link, 1, 10);
    CHECK(irqs.level[10]);
    mock_config_write(&mock, isa, PIIX3_PIRQRC + link, 1, 11); /* the level moves with the link */
    CHECK(!irqs.level[10] && irqs.level[11]);
    mock_config_write(&mock, isa, PIIX3_PIRQRC + link, 1, 13); /* reserved: nowhere */
    CHECK(!irqs.level[11] && !irqs.level[13]);
    mock_config_write(&mock, isa, PIIX3_PIRQRC + link, 1, 0xff);
    CHECK_EQ(mock_config_read(&mock, isa, PIIX3_PIRQRC + link, 1), 0x8f);
    mock_config_write(&mock, isa, PIIX3_PIRQRC + ((link + 1) & 3), 1, 5);
    CHECK(!irqs.level[5]);
    mock_config_write(&mock, isa, PIIX3_PIRQRC + link, 1, 9);
    CHECK(irqs.level[9]);
    mock_config_write(&mock, PCI_DEVFN(6, 0), PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    CHECK(!irqs.level[9]);
    mock_config_write(&mock, PCI_DEVFN(6, 0), PCI_COMMAND, 2, 0);
    CHECK(irqs.level[9]);
    PciBridgeState state;
    device_save(mock.isa, &state);
    device_reset(mock.isa);
    CHECK(!irqs.level[9]);
    CHECK_EQ(device_restore(mock.isa, &state), 0);
    CHECK(irqs.level[9]);
    state.pci.config[0] ^= 1;
    CHECK_EQ(device_restore(mock.isa, &state), -EINVAL);
    pci_python_set_intx(toy, false);
    CHECK(!irqs.level[9]);
    device_free(toy);
    mock_free(&mock);
}

static void test_bridges(void)
{
    Mock mock;
    Error error = {0};
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    uint32_t pm = PCI_DEVFN(1, 3);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(1, 0), PCI_HEADER_TYPE, 1), 0);
    Device *power = piix4_pm_new(mock.board, mock.bus, pm, 0x600, irq_line_new(mock.board->irqs, 9), &error);
    CHECK(power);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(1, 0), PCI_HEADER_TYPE, 1), 0x80);
    CHECK_EQ(mock_config_read(&mock, pm, 0, 4), 0x71138086);
    mock_config_write(&mock, pm, PIIX4_PMBASE, 4, 0xb000);
    CHECK_EQ(mock_config_read(&mock, pm, PIIX4_PMBASE, 4), 0x601);
    CHECK_EQ(mock_config_read(&mock, pm, PIIX4_PMREGMISC, 1), 1);
    mock_config_write(&mock, PCI_DEVFN(0, 0), I440FX_PAM0, 1, 0x30);
    mock_config_write(&mock, PCI_DEVFN(0, 0), I440FX_PAM0 + 1, 4, 0x33333333);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(0, 0), I440FX_PAM0, 1), 0x30);
    device_reset(mock.host);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(0, 0), I440FX_PAM0, 1), 0);
    mock_config_write(&mock, PCI_DEVFN(0, 0), PCI_COMMAND, 2, 0);
    CHECK_EQ(mock_config_read(&mock, PCI_DEVFN(0, 0), PCI_COMMAND, 2), 6);
    /* no function 0 in that slot */
    CHECK(!piix4_pm_new(mock.board, mock.bus, PCI_DEVFN(9, 1), 0x600, irq_line_new(mock.board->irqs, 9), &error));
    CHECK_EQ(error.code, EINVAL);
    device_free(power);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_mechanism_1);
    RUN(test_bars);
    RUN(test_collision);
    RUN(test_interrupt_links);
    RUN(test_bridges);
    return 0;
}
