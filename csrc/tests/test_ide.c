/* ATA disks: registers, resets, PIO. Written from ATA/ATAPI-6 and the PIIX3's datasheet. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "ide_mock.h"

static void test_decoding(void)
{
    IdeMock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, 0);
    CHECK_EQ(pci_bus_config_read(mock.bus, IDE_DEVFN, 0, 4), 0x70108086);
    CHECK_EQ(pci_bus_config_read(mock.bus, IDE_DEVFN, 8, 4) >> 8, 0x010180);
    CHECK_EQ(pci_bus_config_read(mock.bus, IDE_DEVFN, PCI_INTERRUPT_PIN, 1), 0);
    CHECK_EQ(status(&mock, PRIMARY), 0xff); /* not decoded after reset */
    pci_bus_config_write(mock.bus, IDE_DEVFN, PCI_COMMAND, 2, PCI_COMMAND_IO);
    CHECK_EQ(status(&mock, PRIMARY), 0xff);
    pci_bus_config_write(mock.bus, IDE_DEVFN, IDE_CONFIG_IDETIM, 2, 0x8000);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    CHECK_EQ(status(&mock, SECONDARY), 0xff);
    mock_assign(&mock);
    CHECK_EQ(status(&mock, SECONDARY), 0x00); /* a packet device is not ready until asked */
    CHECK_EQ(pci_bus_config_read(mock.bus, IDE_DEVFN, PCI_BAR0 + 16, 4), BUS_MASTER | 1);
    pci_bus_config_write(mock.bus, IDE_DEVFN, PCI_BAR0 + 16, 4, 0xffffffff);
    CHECK_EQ(pci_bus_config_read(mock.bus, IDE_DEVFN, PCI_BAR0 + 16, 4), 0xfffffff1);
    mock_free(&mock);
}

static void test_signatures_and_selection(void)
{
    IdeMock mock;
    mock_up(&mock);
    CHECK(reg(&mock, PRIMARY, 1) == 1 && reg(&mock, PRIMARY, 2) == 1 && reg(&mock, PRIMARY, 3) == 1);
    CHECK(reg(&mock, PRIMARY, 4) == 0 && reg(&mock, PRIMARY, 5) == 0);
    CHECK(reg(&mock, SECONDARY, 4) == 0x14 && reg(&mock, SECONDARY, 5) == 0xeb);
    port_out(&mock, PRIMARY + 6, 1, 0xb0); /* device 1 is absent: device 0 answers with status 0 */
    CHECK_EQ(status(&mock, PRIMARY), 0);
    CHECK_EQ(reg(&mock, PRIMARY, CONTROL), 0);
    port_out(&mock, PRIMARY + 2, 1, 0x55);
    CHECK_EQ(reg(&mock, PRIMARY, 2), 0x55);
    port_out(&mock, PRIMARY + 7, 1, 0xec); /* and its commands are nobody's */
    CHECK_EQ(status(&mock, PRIMARY), 0);
    CHECK_EQ(mock.irq[0].edges, 0);
    port_out(&mock, PRIMARY + 7, 1, 0x90); /* but the diagnostic is everybody's */
    CHECK_EQ(mock.irq[0].edges, 1);
    CHECK_EQ(reg(&mock, PRIMARY, 6) & 0x10, 0);
    CHECK_EQ(reg(&mock, PRIMARY, 1), 1);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    mock_free(&mock);
}

static void test_software_reset(void)
{
    IdeMock mock;
    mock_up(&mock);
    command(&mock, PRIMARY, 0x20, 0, 2, 0);
    CHECK_EQ(reg(&mock, PRIMARY, CONTROL), 0x58);
    port_out(&mock, PRIMARY + CONTROL, 1, 0x04);
    CHECK_EQ(reg(&mock, PRIMARY, CONTROL), 0x80);
    CHECK(!mock.irq[0].level);
    port_out(&mock, PRIMARY + 7, 1, 0xec); /* ignored */
    port_out(&mock, PRIMARY + CONTROL, 1, 0x00);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    CHECK(reg(&mock, PRIMARY, 1) == 1 && reg(&mock, PRIMARY, 2) == 1 && reg(&mock, PRIMARY, 6) == 0xa0);
    CHECK_EQ(port_in(&mock, PRIMARY, 2), 0); /* the data of before is gone */
    mock_free(&mock);
}

static void test_interrupts(void)
{
    IdeMock mock;
    mock_up(&mock);
    command(&mock, PRIMARY, 0xe5, 0, 0, 0);
    CHECK(mock.irq[0].level && reg(&mock, PRIMARY, 2) == 0xff);
    CHECK_EQ(reg(&mock, PRIMARY, CONTROL), 0x50); /* alternate status leaves it */
    CHECK(mock.irq[0].level);
    port_out(&mock, PRIMARY + CONTROL, 1, 2); /* nIEN takes it from the bus, not from the device */
    CHECK(!mock.irq[0].level);
    port_out(&mock, PRIMARY + CONTROL, 1, 0);
    CHECK(mock.irq[0].level);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    CHECK(!mock.irq[0].level);
    CHECK_EQ(bm_status(&mock, PRIMARY) & 4, 4); /* latched */
    port_out(&mock, bm(PRIMARY) + 2, 1, 4);
    CHECK_EQ(bm_status(&mock, PRIMARY) & 4, 0);
    mock_free(&mock);
}

static void swap_text(const uint8_t *words, char *text, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        text[i] = (char)words[i ^ 1];
    text[length] = 0;
}

static void test_identify(void)
{
    IdeMock mock;
    uint8_t data[512], sum = 0;
    char text[41];
    mock_up(&mock);
    command(&mock, PRIMARY, 0xec, 0, 0, 0);
    CHECK_EQ(mock.irq[0].edges, 1);
    CHECK_EQ(status(&mock, PRIMARY), 0x58);
    data_in(&mock, PRIMARY, data, 512);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    CHECK_EQ(mock.irq[0].edges, 1);
    for (uint32_t i = 0; i < 512; i++)
        sum = (uint8_t)(sum + data[i]);
    CHECK(data[510] == 0xa5 && sum == 0);
    CHECK_EQ(load_le16(data), 0x0040);
    CHECK_EQ(load_le32(data + 120), DISK_SECTORS);
    CHECK_EQ(load_le64(data + 200), DISK_SECTORS);
    CHECK(load_le16(data + 2) == 2 && load_le16(data + 6) == 16 && load_le16(data + 12) == 63);
    CHECK_EQ(load_le16(data + 94) & 0xff, 16);
    CHECK_EQ(load_le16(data + 166) & 0x4400, 0x4400); /* 48-bit addresses */
    CHECK_EQ(load_le16(data + 126), 7);
    swap_text(data + 20, text, 20);
    CHECK(!strcmp(text, "SERIAL-1            "));
    command(&mock, PRIMARY, 0xef, 0, 0x22, 0x03); /* multiword DMA 2 */
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    command(&mock, PRIMARY, 0xec, 0, 0, 0);
    data_in(&mock, PRIMARY, data, 512);
    CHECK_EQ(load_le16(data + 126), 0x0407);
    command(&mock, PRIMARY, 0xef, 0, 0x33, 0x03);
    CHECK_EQ(status(&mock, PRIMARY) & 1, 1);
    CHECK_EQ(reg(&mock, PRIMARY, 1), 4);
    command(&mock, PRIMARY, 0xa1, 0, 0, 0); /* that is for packet devices */
    CHECK_EQ(status(&mock, PRIMARY) & 9, 1);
    mock_free(&mock);
}

static void test_read_write_pio(void)
{
    IdeMock mock;
    uint8_t data[5 * 512];
    mock_up(&mock);
    command(&mock, PRIMARY, 0x20, 7, 3, 0);
    for (uint32_t i = 0; i < 3; i++) { /* an interrupt for each block, none at the end */
        CHECK_EQ(mock.irq[0].edges, i + 1);
        CHECK_EQ(status(&mock, PRIMARY), 0x58);
        data_in(&mock, PRIMARY, data + 512 * i, 512);
    }
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    CHECK_EQ(mock.irq[0].edges, 3);
    CHECK(is_pattern(data, 7 * 512, 3 * 512));

    memset(data, 0x5a, sizeof data);
    command(&mock, PRIMARY, 0x30, 100, 2, 0);
    CHECK_EQ(mock.irq[0].edges, 3); /* the first block is asked for without one */
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(status(&mock, PRIMARY), 0x58);
        for (uint32_t n = 0; n < 512; n += 4)
            port_out(&mock, PRIMARY, 4, load_le32(data + n));
        CHECK_EQ(mock.irq[0].edges, 4 + i);
    }
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    uint8_t back[4 * 512];
    CHECK_EQ(block_pread(mock.disk, back, sizeof back, 99 * 512), 0);
    CHECK(is_pattern(back, 99 * 512, 512) && !memcmp(back + 512, data, 1024) &&
          is_pattern(back + 1536, 102 * 512, 512));
    mock_free(&mock);
}

static void test_multiple(void)
{
    IdeMock mock;
    uint8_t data[11 * 512];
    mock_up(&mock);
    command(&mock, PRIMARY, 0xc6, 0, 3, 0); /* no power of two */
    CHECK_EQ(status(&mock, PRIMARY) & 1, 1);
    command(&mock, PRIMARY, 0xc6, 0, 0, 0); /* off */
    command(&mock, PRIMARY, 0xc4, 0, 1, 0);
    CHECK_EQ(status(&mock, PRIMARY) & 9, 1);
    command(&mock, PRIMARY, 0xc6, 0, 4, 0);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    uint32_t edges = mock.irq[0].edges;
    command_ext(&mock, PRIMARY, 0x29, 1, 11); /* READ MULTIPLE EXT: 4 + 4 + 3 */
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(mock.irq[0].edges, ++edges);
        CHECK_EQ(status(&mock, PRIMARY), 0x58);
        data_in(&mock, PRIMARY, data + 2048 * i, i < 2 ? 2048 : 1536);
    }
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    CHECK(is_pattern(data, 512, sizeof data));
    command_ext(&mock, PRIMARY, 0x39, 40, 5); /* WRITE MULTIPLE EXT */
    data_out(&mock, PRIMARY, data, 2048);
    CHECK_EQ(status(&mock, PRIMARY), 0x58);
    data_out(&mock, PRIMARY, data + 2048, 512);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    uint8_t back[5 * 512];
    CHECK_EQ(block_pread(mock.disk, back, sizeof back, 40 * 512), 0);
    CHECK(!memcmp(back, data, sizeof back));
    mock_free(&mock);
}

static void read_chs(IdeMock *mock, uint32_t cylinder, uint8_t head, uint8_t sector)
{
    port_out(mock, PRIMARY + 6, 1, 0xa0 | head);
    port_out(mock, PRIMARY + 2, 1, 1);
    port_out(mock, PRIMARY + 3, 1, sector);
    port_out(mock, PRIMARY + 4, 1, cylinder & 0xff);
    port_out(mock, PRIMARY + 5, 1, cylinder >> 8);
    port_out(mock, PRIMARY + 7, 1, 0x20);
}

static void test_chs(void)
{
    IdeMock mock;
    uint8_t data[512];
    mock_up(&mock);
    read_chs(&mock, 1, 15, 63);
    data_in(&mock, PRIMARY, data, 512);
    CHECK(is_pattern(data, (31 * 63 + 62) * 512, 512));
    read_chs(&mock, 0, 0, 0); /* sectors count from 1 */
    CHECK_EQ(status(&mock, PRIMARY) & 9, 1);
    CHECK_EQ(reg(&mock, PRIMARY, 1), 0x10);
    port_out(&mock, PRIMARY + 6, 1, 0xa0 | 3); /* INITIALIZE DEVICE PARAMETERS: 4 heads, 17 sectors */
    port_out(&mock, PRIMARY + 2, 1, 17);
    port_out(&mock, PRIMARY + 7, 1, 0x91);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    read_chs(&mock, 5, 2, 3);
    data_in(&mock, PRIMARY, data, 512);
    CHECK(is_pattern(data, ((5 * 4 + 2) * 17 + 2) * 512, 512));
    read_chs(&mock, 0, 4, 1);
    CHECK_EQ(status(&mock, PRIMARY) & 1, 1);
    read_chs(&mock, 0xffff, 0, 1); /* beyond the disk */
    CHECK_EQ(status(&mock, PRIMARY) & 1, 1);
    mock_free(&mock);
}

static void test_addresses(void)
{
    IdeMock mock;
    mock_up(&mock);
    command(&mock, PRIMARY, 0x20, DISK_SECTORS, 1, 0);
    CHECK_EQ(status(&mock, PRIMARY) & 9, 1);
    CHECK_EQ(reg(&mock, PRIMARY, 1), 0x10);
    command(&mock, PRIMARY, 0x30, DISK_SECTORS - 1, 2, 0);
    CHECK_EQ(status(&mock, PRIMARY) & 9, 1);
    command_ext(&mock, PRIMARY, 0x24, 0xffffffffffff, 0);
    CHECK_EQ(status(&mock, PRIMARY) & 9, 1);
    command(&mock, PRIMARY, 0x40, DISK_SECTORS - 256, 0, 0); /* READ VERIFY; a count of 0 is 256 */
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    command(&mock, PRIMARY, 0x40, DISK_SECTORS - 255, 0, 0);
    CHECK_EQ(status(&mock, PRIMARY) & 1, 1);
    command(&mock, PRIMARY, 0x70, DISK_SECTORS - 1, 0, 0); /* SEEK */
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    command(&mock, PRIMARY, 0x10, 0, 0, 0); /* RECALIBRATE */
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    command(&mock, PRIMARY, 0xf8, 0, 0, 0); /* READ NATIVE MAX ADDRESS */
    CHECK(reg(&mock, PRIMARY, 3) == 0xff && reg(&mock, PRIMARY, 4) == 7 && reg(&mock, PRIMARY, 5) == 0);
    command_ext(&mock, PRIMARY, 0x24, 0x123456789abc, 1);
    port_out(&mock, PRIMARY + CONTROL, 1, 0x80); /* HOB shows the upper bytes */
    CHECK(reg(&mock, PRIMARY, 3) == 0x56 && reg(&mock, PRIMARY, 4) == 0x34 && reg(&mock, PRIMARY, 5) == 0x12);
    port_out(&mock, PRIMARY + CONTROL, 1, 0);
    CHECK_EQ(reg(&mock, PRIMARY, 3), 0xbc);
    mock_free(&mock);
}

static void test_power_and_refusals(void)
{
    static const uint8_t refused[] = {0x00, 0x08, 0x2f, 0x50, 0xa0, 0xb0, 0xf1, 0xf9, 0xff};
    IdeMock mock;
    mock_up(&mock);
    for (uint32_t i = 0; i < sizeof refused; i++) {
        command(&mock, PRIMARY, refused[i], 0, 0, 0);
        CHECK_EQ(status(&mock, PRIMARY), 0x51);
        CHECK_EQ(reg(&mock, PRIMARY, 1), 4);
    }
    command(&mock, PRIMARY, 0xe0, 0, 0, 0); /* STANDBY IMMEDIATE */
    command(&mock, PRIMARY, 0xe5, 0, 0x77, 0);
    CHECK_EQ(reg(&mock, PRIMARY, 2), 0);
    command(&mock, PRIMARY, 0xe1, 0, 0, 0); /* IDLE IMMEDIATE */
    command(&mock, PRIMARY, 0xe5, 0, 0x77, 0);
    CHECK_EQ(reg(&mock, PRIMARY, 2), 0x80);
    command(&mock, PRIMARY, 0xe7, 0, 0, 0); /* FLUSH CACHE */
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    command(&mock, PRIMARY, 0xe6, 0, 0, 0); /* SLEEP: only a reset wakes it */
    uint32_t edges = mock.irq[0].edges;
    command(&mock, PRIMARY, 0xec, 0, 0, 0);
    CHECK_EQ(status(&mock, PRIMARY) & 8, 0);
    CHECK_EQ(mock.irq[0].edges, edges);
    port_out(&mock, PRIMARY + CONTROL, 1, 4);
    port_out(&mock, PRIMARY + CONTROL, 1, 0);
    command(&mock, PRIMARY, 0xec, 0, 0, 0);
    CHECK_EQ(status(&mock, PRIMARY), 0x58);
    mock_free(&mock);
}

static void test_write_protected(void)
{
    IdeMock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, BLOCK_READ_ONLY);
    mock_assign(&mock);
    command(&mock, PRIMARY, 0x30, 0, 1, 0);
    CHECK_EQ(status(&mock, PRIMARY), 0x51);
    CHECK_EQ(reg(&mock, PRIMARY, 1), 4);
    command(&mock, PRIMARY, 0xe7, 0, 0, 0);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    mock_free(&mock);
}

/* A qcow2 whose second cluster's entry is nonsense: sectors 8 to 15 cannot be read, the rest can. */
static BlockImage *damaged_image(char path[32])
{
    Error error = {0};
    BlockCreate options = {.size = DISK_SECTORS * 512, .cluster_size = 4096};
    uint8_t data[3 * 4096], offset[8];
    for (uint32_t i = 0; i < sizeof data; i++)
        data[i] = pattern(i);
    strcpy(path, "/tmp/pyvmm-test-XXXXXX");
    close(mkstemp(path));
    unlink(path);
    CHECK_EQ(block_create(path, "qcow2", &options, &error), 0);
    BlockImage *image = block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, 0, &error);
    CHECK(image);
    CHECK_EQ(block_pwrite(image, data, sizeof data, 0), 0);
    block_close(image);
    int fd = open(path, O_RDWR);
    CHECK_EQ(pread(fd, offset, 8, 40), 8); /* qcow2.txt: l1_table_offset */
    CHECK_EQ(pread(fd, offset, 8, (off_t)load_be64(offset)), 8);
    uint64_t entry = (load_be64(offset) & 0x00fffffffffffe00) + 8;
    store_be64(offset, 1ull << 63 | 0x7ffffffff200);
    CHECK_EQ(pwrite(fd, offset, 8, (off_t)entry), 8);
    close(fd);
    image = block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, 0, &error);
    CHECK(image);
    return image;
}

static uint32_t failed_lba(IdeMock *mock)
{
    CHECK_EQ(status(mock, PRIMARY), 0x51);
    CHECK_EQ(reg(mock, PRIMARY, 1), 0x40); /* uncorrectable data */
    return reg(mock, PRIMARY, 3) | (uint32_t)reg(mock, PRIMARY, 4) << 8;
}

/* What the host cannot read ends a command as a bad medium does, with the first bad sector's address. */
static void test_read_errors(void)
{
    IdeMock mock;
    uint8_t data[16 * 512];
    char path[32];
    mock_new(&mock, CLOCK_KIND_VIRTUAL, 0);
    BlockImage *whole = mock.disk;
    mock.disk = damaged_image(path);
    mock_use_disk(&mock);
    mock_assign(&mock);
    command(&mock, PRIMARY, 0x20, 6, 4, 0); /* two good blocks, then none */
    data_in(&mock, PRIMARY, data, 1024);
    CHECK(is_pattern(data, 6 * 512, 1024));
    CHECK_EQ(failed_lba(&mock), 8);
    command(&mock, PRIMARY, 0xc4, 1, 16, 0); /* one block of 16: nothing of it comes */
    CHECK_EQ(failed_lba(&mock), 8);
    command(&mock, PRIMARY, 0x40, 10, 20, 0);
    CHECK_EQ(failed_lba(&mock), 10);
    put_prd(&mock, 0x8000, 0x10000, 700); /* the bad sector is in the second region */
    put_prd(&mock, 0x8008, 0x20000, 0x80000000 | 0x4000);
    command(&mock, PRIMARY, 0xc8, 5, 32, 0);
    uint32_t edges = mock.irq[0].edges;
    bm_start(&mock, PRIMARY, 0x8000, true);
    CHECK_EQ(mock.irq[0].edges, edges + 1);
    CHECK_EQ(bm_status(&mock, PRIMARY), 5); /* the device's error; the bus master's own bit is clear */
    CHECK_EQ(failed_lba(&mock), 8);
    bm_stop(&mock, PRIMARY);
    command(&mock, PRIMARY, 0x20, 16, 1, 0);
    data_in(&mock, PRIMARY, data, 512);
    CHECK(is_pattern(data, 16 * 512, 512));
    block_close(whole);
    mock_free(&mock);
    unlink(path);
}

/* A host that takes no more data (RLIMIT_FSIZE here; a full disk elsewhere) is a device fault. */
static void test_write_errors(void)
{
    IdeMock mock;
    uint8_t data[512] = {0};
    mock_up(&mock);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 1000 * 512;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    command(&mock, PRIMARY, 0x30, 1500, 1, 0);
    data_out(&mock, PRIMARY, data, 512);
    CHECK_EQ(status(&mock, PRIMARY), 0x71); /* DF and ERR */
    CHECK_EQ(reg(&mock, PRIMARY, 1), 4);
    put_prd(&mock, 0x8000, 0x10000, 0x80000000 | 512);
    command(&mock, PRIMARY, 0xca, 1500, 1, 0);
    bm_start(&mock, PRIMARY, 0x8000, false);
    CHECK_EQ(status(&mock, PRIMARY), 0x71);
    bm_stop(&mock, PRIMARY);
    command(&mock, PRIMARY, 0x30, 5, 1, 0); /* below the limit all is well */
    data_out(&mock, PRIMARY, data, 512);
    CHECK_EQ(status(&mock, PRIMARY), 0x50);
    setrlimit(RLIMIT_FSIZE, &before);
    mock_free(&mock);
}

static void test_save_in_the_middle(void)
{
    IdeMock mock;
    uint8_t data[2 * 512];
    mock_up(&mock);
    command(&mock, PRIMARY, 0x20, 7, 2, 0);
    data_in(&mock, PRIMARY, data, 100);
    CHECK_EQ(device_state_size(mock.ide), sizeof(IdeState));
    IdeState *state = malloc(sizeof *state);
    device_save(mock.ide, state);
    device_reset(mock.ide);
    CHECK_EQ(status(&mock, PRIMARY), 0xff);
    CHECK_EQ(device_restore(mock.ide, state), 0);
    CHECK(mock.irq[0].level);
    data_in(&mock, PRIMARY, data + 100, 924);
    CHECK(is_pattern(data, 7 * 512, sizeof data));
    check_save_restore(mock.ide);
    state->channels[0].transfer.end = IDE_BUFFER_BYTES + 1;
    CHECK_EQ(device_restore(mock.ide, state), -EINVAL);
    state->channels[0].transfer.end = 512;
    state->channels[0].transfer.left = DISK_SECTORS * 512;
    CHECK_EQ(device_restore(mock.ide, state), -EINVAL);
    free(state);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_decoding);
    RUN(test_signatures_and_selection);
    RUN(test_software_reset);
    RUN(test_interrupts);
    RUN(test_identify);
    RUN(test_read_write_pio);
    RUN(test_multiple);
    RUN(test_chs);
    RUN(test_addresses);
    RUN(test_power_and_refusals);
    RUN(test_write_protected);
    RUN(test_read_errors);
    RUN(test_write_errors);
    RUN(test_save_in_the_middle);
    return 0;
}
