/* The bus master: descriptors of every kind, and the status bits of "Programming Interface for Bus Master IDE" §3.
 */
#include <time.h>

#include "ide_mock.h"

enum { TABLE = 0x8000, DATA = 0x10000, EOT = 0x80000000 };

static void test_read_and_write(void)
{
    IdeMock mock;
    mock_up(&mock);
    put_prd(&mock, TABLE, DATA, 512);
    put_prd(&mock, TABLE + 8, RAM_SEAM - 100, 1024); /* over the seam of two memslots */
    put_prd(&mock, TABLE + 16, DATA + 0x2000, EOT | 2560);
    command(&mock, PRIMARY, 0xc8, 20, 8, 0);
    CHECK_EQ(reg(&mock, PRIMARY, CONTROL), 0x58);
    CHECK_EQ(mock.irq[0].edges, 0);
    bm_start(&mock, PRIMARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, PRIMARY), 4); /* interrupt, not active: the sizes are equal */
    CHECK_EQ(mock.irq[0].edges, 1);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    bm_stop(&mock, PRIMARY);
    CHECK(is_pattern(mock_ram(&mock, DATA), 20 * 512, 512));
    CHECK(is_pattern(mock_ram(&mock, RAM_SEAM - 100), 21 * 512, 100));
    CHECK(is_pattern(mock_ram(&mock, RAM_SEAM), 21 * 512 + 100, 924));
    CHECK(is_pattern(mock_ram(&mock, DATA + 0x2000), 23 * 512, 2560));

    bm_start(&mock, PRIMARY, TABLE, false); /* the bus master may be started first */
    CHECK_EQ(bm_status(&mock, PRIMARY), 1);
    command_ext(&mock, PRIMARY, 0x35, 200, 8);
    CHECK_EQ(bm_status(&mock, PRIMARY), 4);
    bm_stop(&mock, PRIMARY);
    uint8_t back[8 * 512];
    CHECK_EQ(block_pread(mock.disk, back, sizeof back, 200 * 512), 0);
    CHECK(is_pattern(back, 20 * 512, sizeof back));
    IdeCounters counters;
    ide_counters(mock.ide, 0, &counters);
    CHECK(counters.dma_transfers == 2 && counters.bytes_read == 4096 && counters.bytes_written == 4096);
    mock_free(&mock);
}

static void test_sizes_that_differ(void)
{
    IdeMock mock;
    mock_up(&mock);
    put_prd(&mock, TABLE, DATA, EOT | 4096); /* more than the transfer: interrupt and active */
    command(&mock, PRIMARY, 0xc8, 1, 2, 0);
    bm_start(&mock, PRIMARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, PRIMARY), 5);
    bm_stop(&mock, PRIMARY);
    CHECK_EQ(bm_status(&mock, PRIMARY), 4);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);

    put_prd(&mock, TABLE, DATA, EOT | 512); /* less: neither, and the drive waits */
    command(&mock, PRIMARY, 0xc8, 1, 2, 0);
    bm_start(&mock, PRIMARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, PRIMARY), 0);
    CHECK_EQ(status(&mock, PRIMARY), 0x58);
    bm_stop(&mock, PRIMARY);
    bm_start(&mock, PRIMARY, TABLE, true); /* another table gets the rest */
    CHECK_EQ(bm_status(&mock, PRIMARY), 4);
    CHECK(is_pattern(mock_ram(&mock, DATA), 2 * 512, 512));
    bm_stop(&mock, PRIMARY);

    put_prd(&mock, TABLE, DATA, EOT | 700); /* a table that ends in a sector leaves that sector alone */
    memset(mock_ram(&mock, DATA), 0xee, 1024);
    command(&mock, PRIMARY, 0xca, 50, 2, 0);
    bm_start(&mock, PRIMARY, TABLE, false);
    CHECK_EQ(bm_status(&mock, PRIMARY), 0);
    uint8_t back[1024];
    CHECK_EQ(block_pread(mock.disk, back, 1024, 50 * 512), 0);
    CHECK(back[511] == 0xee && is_pattern(back + 512, 51 * 512, 512));
    mock_free(&mock);
}

static void test_big_regions(void)
{
    IdeMock mock;
    mock_up(&mock);
    put_prd(&mock, TABLE, 0x20001, 0); /* 64 KiB; bit 0 of address and count mean nothing */
    put_prd(&mock, TABLE + 8, 0x30000, EOT | 0x8001);
    command(&mock, PRIMARY, 0xc8, 0, 192, 0);
    bm_start(&mock, PRIMARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, PRIMARY), 4);
    CHECK(is_pattern(mock_ram(&mock, 0x20000), 0, 96 * 1024));
    mock_free(&mock);
}

static void faulty(IdeMock *mock, bool write, uint32_t address, uint32_t count)
{
    put_prd(mock, TABLE, address, EOT | count);
    command(mock, PRIMARY, write ? 0xca : 0xc8, 0, 1, 0);
    uint32_t edges = mock->irq[0].edges;
    bm_start(mock, PRIMARY, TABLE, !write);
    CHECK_EQ(bm_status(mock, PRIMARY), 2);
    CHECK_EQ(mock->irq[0].edges, edges);
    bm_stop(mock, PRIMARY);
    port_out(mock, bm(PRIMARY) + 2, 1, 2);
    CHECK_EQ(bm_status(mock, PRIMARY), 0);
    port_out(mock, PRIMARY + CONTROL, 1, 4);
    port_out(mock, PRIMARY + CONTROL, 1, 0);
    CHECK_EQ(status(mock, PRIMARY), 0x50);
}

static void test_wild_tables(void)
{
    IdeMock mock;
    mock_up(&mock);
    faulty(&mock, false, 0xe0000000, 512); /* nobody there */
    faulty(&mock, true, 0xfffffffe, 512);
    faulty(&mock, false, ROM, 512); /* not writable */
    faulty(&mock, false, ROM - 100, 512);
    put_prd(&mock, TABLE, ROM, EOT | 512); /* but readable */
    command(&mock, PRIMARY, 0xca, 0, 1, 0);
    bm_start(&mock, PRIMARY, TABLE, false);
    CHECK_EQ(bm_status(&mock, PRIMARY), 4);
    bm_stop(&mock, PRIMARY);

    command(&mock, PRIMARY, 0xc8, 0, 1, 0); /* the table itself is nowhere */
    bm_start(&mock, PRIMARY, 0xd0000000, true);
    CHECK_EQ(bm_status(&mock, PRIMARY), 2);
    bm_stop(&mock, PRIMARY);

    for (uint32_t i = 0; i < 9000; i++) /* never an EOT: 8192 descriptors of two bytes, then an error */
        put_prd(&mock, 0x20000 + 8 * i, DATA, 2);
    command(&mock, PRIMARY, 0xc8, 0, 64, 0);
    bm_start(&mock, PRIMARY, 0x20000, true);
    CHECK_EQ(bm_status(&mock, PRIMARY), 2);
    CHECK_EQ(status(&mock, PRIMARY), 0x58);
    bm_stop(&mock, PRIMARY);

    for (uint32_t i = 0; i < 512; i++) /* a table inside the data it fills is read before */
        put_prd(&mock, TABLE + 8 * i, TABLE + 8 * i, i == 511 ? EOT | 8 : 8);
    command(&mock, PRIMARY, 0xc8, 3, 8, 0);
    bm_start(&mock, PRIMARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, PRIMARY) & 3, 0);
    mock_free(&mock);
}

static void test_not_a_master(void)
{
    IdeMock mock;
    mock_up(&mock);
    put_prd(&mock, TABLE, DATA, EOT | 512);
    pci_bus_config_write(mock.bus, IDE_DEVFN, PCI_COMMAND, 2, PCI_COMMAND_IO);
    command(&mock, PRIMARY, 0xc8, 9, 1, 0);
    bm_start(&mock, PRIMARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, PRIMARY), 1);
    pci_bus_config_write(mock.bus, IDE_DEVFN, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    CHECK_EQ(bm_status(&mock, PRIMARY), 4);
    CHECK(is_pattern(mock_ram(&mock, DATA), 9 * 512, 512));
    bm_stop(&mock, PRIMARY);
    command(&mock, PRIMARY, 0xc8, 9, 1, 0); /* the other direction than the drive's: nothing moves */
    bm_start(&mock, PRIMARY, TABLE, false);
    CHECK_EQ(bm_status(&mock, PRIMARY), 1);
    mock_free(&mock);
}

static void test_registers(void)
{
    IdeMock mock;
    mock_up(&mock);
    port_out(&mock, bm(SECONDARY) + 4, 4, 0xffffffff);
    CHECK_EQ(port_in(&mock, bm(SECONDARY) + 4, 4), 0xfffffffc);
    CHECK_EQ(port_in(&mock, bm(PRIMARY) + 4, 4), 0);
    port_out(&mock, bm(SECONDARY) + 2, 1, 0xff);
    CHECK_EQ(bm_status(&mock, SECONDARY), 0x60); /* what the drives can do is software's */
    port_out(&mock, bm(SECONDARY), 1, 0xf8);
    CHECK_EQ(port_in(&mock, bm(SECONDARY), 1), 8);
    check_save_restore(mock.ide);
    mock_free(&mock);
}

static uint8_t wait_for(IdeMock *mock, uint32_t port, uint8_t mask, uint8_t value)
{
    struct timespec pause = {.tv_nsec = 100000};
    for (uint32_t i = 0; i < 100000; i++) {
        uint8_t now = (uint8_t)port_in(mock, port, 1);
        if ((now & mask) == value)
            return now;
        nanosleep(&pause, NULL);
    }
    CHECK(!"it never came");
    return 0;
}

/* With the I/O thread: commands, resets, saves and stops that come while it works. */
static void test_on_the_io_thread(void)
{
    IdeMock mock;
    mock_new(&mock, CLOCK_KIND_REALTIME, 0);
    mock_assign(&mock);
    put_prd(&mock, TABLE, 0x20000, 0);
    put_prd(&mock, TABLE + 8, 0x30000, EOT | 0);
    for (uint32_t i = 0; i < 0x20000; i++) /* what is written is what was there */
        mock_ram(&mock, 0x20000)[i] = pattern(i);
    IdeState *state = malloc(sizeof *state);
    for (uint32_t turn = 0; turn < 300; turn++) {
        command(&mock, PRIMARY, turn % 2 ? 0xca : 0xc8, 0, 0, 0);
        bm_start(&mock, PRIMARY, TABLE, turn % 2 == 0);
        switch (turn % 5) {
        case 0:
            port_out(&mock, PRIMARY + CONTROL, 1, 4);
            port_out(&mock, PRIMARY + CONTROL, 1, 0);
            bm_stop(&mock, PRIMARY);
            CHECK_EQ(status(&mock, PRIMARY), 0x50);
            break;
        case 1:
            bm_stop(&mock, PRIMARY);
            CHECK_EQ(bm_status(&mock, PRIMARY) & 1, 0);
            break;
        case 2:
            device_save(mock.ide, state);
            CHECK_EQ(state->channels[0].drives[0].status, 0x50);
            break;
        case 3:
            device_reset(mock.ide);
            mock_assign(&mock);
            break;
        default:
            wait_for(&mock, PRIMARY + CONTROL, 0x88, 0);
            CHECK_EQ(bm_status(&mock, PRIMARY), 4);
        }
        bm_stop(&mock, PRIMARY);
        status(&mock, PRIMARY);
    }
    uint8_t data[512];
    command(&mock, PRIMARY, 0x20, 5, 1, 0);
    wait_for(&mock, PRIMARY + CONTROL, 0x88, 0x08);
    data_in(&mock, PRIMARY, data, 512);
    CHECK(is_pattern(data, 5 * 512, 512));
    free(state);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_read_and_write);
    RUN(test_sizes_that_differ);
    RUN(test_big_regions);
    RUN(test_wild_tables);
    RUN(test_not_a_master);
    RUN(test_registers);
    RUN(test_on_the_io_thread);
    return 0;
}
