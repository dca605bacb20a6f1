/* PIIX4's SMBus host controller, from the 82371AB datasheet: its place, an empty bus, KILL, the interrupt, the
 * block. */
#include "device_check.h"
#include "devices/pci_bridges.h"
#include "devices/piix4_pm.h"

enum { BASE = 0x700, DEVFN = PCI_DEVFN(1, 3), MS = 1000000 };

typedef struct Bench {
    Board *board;
    PciBus *bus;
    Device *isa, *pm;
    EdgeCounter irq9;
} Bench;

static void set_up(Bench *bench)
{
    Error error;
    *bench = (Bench){.board = test_board(), .irq9 = {.gsi = 9}};
    irq_router_add_sink(bench->board->irqs, edge_counter_sink, &bench->irq9);
    bench->bus = pci_bus_new(bench->board);
    CHECK(bench->bus);
    bench->isa = piix3_isa_new(bench->board, bench->bus, PCI_DEVFN(1, 0), &error);
    bench->pm = piix4_pm_new(bench->board, bench->bus, DEVFN, 0x600, irq_line_new(bench->board->irqs, 9), &error);
    CHECK(bench->isa && bench->pm);
}

static void tear_down(Bench *bench)
{
    irq_router_remove_sink(bench->board->irqs, edge_counter_sink, &bench->irq9);
    device_free(bench->pm);
    device_free(bench->isa);
    device_free(pci_bus_device(bench->bus));
    board_free(bench->board);
}

static uint8_t in(Bench *bench, uint32_t offset)
{
    uint64_t value = 0;
    return bus_read(bench->board->pio, BASE + offset, 1, &value) ? (uint8_t)value : 0xff;
}

static void out(Bench *bench, uint32_t offset, uint8_t value)
{
    bus_write(bench->board->pio, BASE + offset, 1, value);
}

static void switch_on(Bench *bench)
{
    pci_bus_config_write(bench->bus, DEVFN, PIIX4_SMBBA, 4, BASE);
    pci_bus_config_write(bench->bus, DEVFN, PIIX4_SMBHSTCFG, 1, 0x09);
    pci_bus_config_write(bench->bus, DEVFN, PCI_COMMAND, 2, PCI_COMMAND_IO);
}

static void test_place(void)
{
    Bench bench;
    set_up(&bench);
    CHECK_EQ(pci_bus_config_read(bench.bus, DEVFN, PIIX4_SMBBA, 4), 1);
    pci_bus_config_write(bench.bus, DEVFN, PIIX4_SMBBA, 4, 0xffffffff);
    CHECK_EQ(pci_bus_config_read(bench.bus, DEVFN, PIIX4_SMBBA, 4), 0xfff1);
    CHECK_EQ(in(&bench, SMBHSTSTS), 0xff);
    switch_on(&bench);
    CHECK_EQ(pci_bus_config_read(bench.bus, DEVFN, PIIX4_SMBBA, 4), BASE | 1);
    CHECK_EQ(in(&bench, SMBHSTSTS), 0);
    out(&bench, SMBHSTADD, 0xa1);
    pci_bus_config_write(bench.bus, DEVFN, PIIX4_SMBBA, 4, 0xb100);
    CHECK_EQ(in(&bench, SMBHSTADD), 0xff);
    uint64_t value;
    CHECK(bus_read(bench.board->pio, 0xb100 + SMBHSTADD, 1, &value) && value == 0xa1);
    pci_bus_config_write(bench.bus, DEVFN, PCI_COMMAND, 2, 0); /* IOSE */
    CHECK(!bus_read(bench.board->pio, 0xb100, 1, &value));
    switch_on(&bench);
    device_reset(bench.pm);
    CHECK_EQ(in(&bench, SMBHSTADD), 0xff);
    CHECK_EQ(pci_bus_config_read(bench.bus, DEVFN, PIIX4_SMBHSTCFG, 1), 0);
    tear_down(&bench);
}

static void test_nobody_acknowledges(void)
{
    Bench bench;
    set_up(&bench);
    switch_on(&bench);
    static const uint8_t protocols[] = {0x00, 0x04, 0x08, 0x0c, 0x14};
    for (size_t i = 0; i < ARRAY_SIZE(protocols); i++) {
        out(&bench, SMBHSTADD, 0xa1);
        out(&bench, SMBHSTDAT0, 0x55);
        out(&bench, SMBHSTCNT, SMBHSTCNT_START | protocols[i]);
        CHECK_EQ(in(&bench, SMBHSTCNT), protocols[i]); /* START reads 0 */
        CHECK_EQ(in(&bench, SMBHSTSTS), SMBHSTSTS_BUSY);
        pass(bench.board, MS);
        CHECK_EQ(in(&bench, SMBHSTSTS), SMBHSTSTS_DEV_ERR);
        CHECK_EQ(in(&bench, SMBHSTDAT0), 0x55); /* no data came */
        out(&bench, SMBHSTSTS, SMBHSTSTS_INTER);
        CHECK_EQ(in(&bench, SMBHSTSTS), SMBHSTSTS_DEV_ERR); /* only ones clear */
        out(&bench, SMBHSTSTS, 0x1e);
        CHECK_EQ(in(&bench, SMBHSTSTS), 0);
    }
    out(&bench, SMBHSTCNT, SMBHSTCNT_START | 0x10); /* a reserved protocol */
    CHECK_EQ(in(&bench, SMBHSTSTS), SMBHSTSTS_DEV_ERR);
    out(&bench, SMBHSTSTS, 0x1e);
    pci_bus_config_write(bench.bus, DEVFN, PIIX4_SMBHSTCFG, 1, 0x08); /* switched off: nothing starts */
    out(&bench, SMBHSTCNT, SMBHSTCNT_START);
    CHECK_EQ(in(&bench, SMBHSTSTS), 0);
    CHECK_EQ(bench.irq9.edges, 0); /* INTEREN was off */
    tear_down(&bench);
}

static void test_interrupt_and_kill(void)
{
    Bench bench;
    set_up(&bench);
    switch_on(&bench);
    out(&bench, SMBHSTCNT, SMBHSTCNT_START | SMBHSTCNT_INTEREN);
    CHECK(!bench.irq9.level);
    pass(bench.board, MS); /* by the timer: nobody looks */
    CHECK(bench.irq9.level);
    out(&bench, SMBHSTSTS, SMBHSTSTS_DEV_ERR);
    CHECK(!bench.irq9.level);
    out(&bench, SMBHSTCNT, SMBHSTCNT_START | SMBHSTCNT_INTEREN);
    out(&bench, SMBHSTCNT, SMBHSTCNT_KILL | SMBHSTCNT_INTEREN);
    CHECK_EQ(in(&bench, SMBHSTSTS), SMBHSTSTS_FAILED);
    CHECK(bench.irq9.level);
    pass(bench.board, MS);
    CHECK_EQ(in(&bench, SMBHSTSTS), SMBHSTSTS_FAILED);                /* what was killed does not end again */
    pci_bus_config_write(bench.bus, DEVFN, PIIX4_SMBHSTCFG, 1, 0x01); /* SMI#: there is none */
    CHECK(!bench.irq9.level);
    pci_bus_config_write(bench.bus, DEVFN, PIIX4_SMBHSTCFG, 1, 0x09);
    CHECK(bench.irq9.level);
    device_reset(bench.pm);
    CHECK(!bench.irq9.level);
    tear_down(&bench);
}

static void test_block_and_slave(void)
{
    Bench bench;
    set_up(&bench);
    switch_on(&bench);
    in(&bench, SMBHSTCNT);
    for (uint32_t i = 0; i < 33; i++)
        out(&bench, SMBBLKDAT, (uint8_t)(i + 1));
    in(&bench, SMBHSTCNT); /* sends the index back */
    CHECK_EQ(in(&bench, SMBBLKDAT), 33);
    CHECK_EQ(in(&bench, SMBBLKDAT), 2);
    out(&bench, SMBSLVCNT, 0xff);
    out(&bench, SMBSLVEVT + 1, 0x80);
    out(&bench, SMBSLVDAT, 0x12);
    out(&bench, SMBSLVSTS, 0xff);
    CHECK_EQ(in(&bench, SMBSLVCNT), 0x0f);
    CHECK_EQ(in(&bench, SMBSLVEVT + 1), 0x80);
    CHECK_EQ(in(&bench, SMBSLVDAT), 0);
    CHECK_EQ(in(&bench, SMBSLVSTS), 0);
    tear_down(&bench);
}

static void test_state(void)
{
    Bench bench;
    Piix4PmState state;
    set_up(&bench);
    switch_on(&bench);
    out(&bench, SMBHSTCNT, SMBHSTCNT_START | SMBHSTCNT_INTEREN);
    check_save_restore(bench.pm);
    CHECK_EQ(in(&bench, SMBHSTSTS), SMBHSTSTS_BUSY); /* its ports are back, and it goes on */
    pass(bench.board, MS);
    CHECK(bench.irq9.level);
    device_save(bench.pm, &state);
    state.done_ns = UINT64_MAX;
    CHECK_EQ(device_restore(bench.pm, &state), -EINVAL);
    device_save(bench.pm, &state);
    state.block_index = 32;
    CHECK_EQ(device_restore(bench.pm, &state), -EINVAL);
    device_save(bench.pm, &state);
    state.pci.config[0] = 0;
    CHECK_EQ(device_restore(bench.pm, &state), -EINVAL);
    tear_down(&bench);
}

int main(void)
{
    RUN(test_place);
    RUN(test_nobody_acknowledges);
    RUN(test_interrupt_and_kill);
    RUN(test_block_and_slave);
    RUN(test_state);
    return 0;
}
