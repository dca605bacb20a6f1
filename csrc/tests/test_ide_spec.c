/*
 * IDE once more, from ATA/ATAPI-6 (T13 1410D), SFF-8020i, MMC-3 and SPC-3 by who did not write the device: what
 * IDENTIFY says, which commands are aborted, ends of the medium, the HOB bit, resets, and sense data of packet
 * commands.
 */
#include "ide_mock.h"

enum { ERR = 1, DRQ = 8, DRDY = 0x40, BSY = 0x80, ABRT = 4, IDNF = 0x10 };

static uint32_t lba28(IdeMock *mock)
{
    return reg(mock, PRIMARY, 3) | (uint32_t)reg(mock, PRIMARY, 4) << 8 | (uint32_t)reg(mock, PRIMARY, 5) << 16 |
           (reg(mock, PRIMARY, 6) & 15u) << 24;
}

/* §8.15.8, table 27. */
static void test_identify_device(void)
{
    IdeMock mock;
    uint8_t data[512];
    mock_up(&mock);
    command(&mock, PRIMARY, 0xec, 0, 0, 0);
    CHECK_EQ(status(&mock, PRIMARY) & (BSY | DRDY | DRQ | ERR), DRDY | DRQ);
    data_in(&mock, PRIMARY, data, 512);
    CHECK_EQ(status(&mock, PRIMARY) & (BSY | DRDY | DRQ | ERR), DRDY);
    uint16_t word[256];
    for (unsigned i = 0; i < 256; i++)
        word[i] = load_le16(data + 2 * i);
    CHECK(!(word[0] & 0x8000)); /* an ATA device */
    CHECK_EQ(word[47] >> 8, 0x80);
    CHECK((word[47] & 0xff) >= 1 && !((word[47] & 0xff) & ((word[47] & 0xff) - 1)));
    CHECK_EQ(word[49] & 0x300, 0x300); /* LBA and DMA */
    CHECK_EQ(word[50] & 0xc000, 0x4000);
    CHECK_EQ(word[53] & 2, 2); /* 64 to 70 are valid */
    CHECK_EQ(word[60] | (uint32_t)word[61] << 16, DISK_SECTORS);
    CHECK_EQ(word[63] & 7, 7);      /* multiword DMA 0 to 2 */
    CHECK_EQ(word[64] & 3, 3);      /* PIO 3 and 4 */
    CHECK(word[80] & 1 << 6);       /* ATA/ATAPI-6 */
    CHECK_EQ(word[82] & 1 << 4, 0); /* no PACKET */
    static const unsigned VALID[] = {83, 84, 87};
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(word[VALID[i]] & 0xc000, 0x4000);
    CHECK(word[83] & 1 << 10);             /* 48-bit addresses */
    CHECK_EQ(word[83] & 1 << 13, 1 << 13); /* and so FLUSH CACHE EXT */
    CHECK_EQ(load_le64(data + 200), DISK_SECTORS);
    /* Strings: ASCII, two to a word, the first one high, padded by blanks. */
    for (unsigned i = 10; i < 47; i++)
        if (i < 20 || i >= 23)
            CHECK((word[i] & 0x8080) == 0 && (word[i] & 0xff) >= 0x20 && word[i] >> 8 >= 0x20);
    CHECK_EQ(word[10], 'S' << 8 | 'E');
    if ((word[255] & 0xff) == 0xa5) {
        uint8_t sum = 0;
        for (unsigned i = 0; i < 512; i++)
            sum = (uint8_t)(sum + data[i]);
        CHECK_EQ(sum, 0);
    }
    mock_free(&mock);
}

/* §8, table 21: what this device does not have is aborted, and the next command is as if nothing had been. */
static void test_aborted_commands(void)
{
    IdeMock mock;
    uint8_t data[512];
    mock_up(&mock);
    static const uint8_t CODES[] = {0x00, 0x01, 0x08, 0x0b, 0x50, 0x80, 0xa0, 0xa1, 0xa2,
                                    0xb1, 0xcd, 0xd0, 0xdf, 0xee, 0xf1, 0xf9, 0xfa, 0xff};
    for (size_t i = 0; i < ARRAY_SIZE(CODES); i++) {
        unsigned edges = mock.irq[0].edges;
        command(&mock, PRIMARY, CODES[i], 0, 1, 0);
        CHECK_EQ(mock.irq[0].edges, edges + 1);
        CHECK_EQ(status(&mock, PRIMARY) & (BSY | DRDY | DRQ | ERR), DRDY | ERR);
        CHECK_EQ(reg(&mock, PRIMARY, 1), ABRT);
        command(&mock, PRIMARY, 0x20, 3, 1, 0);
        CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), DRQ);
        data_in(&mock, PRIMARY, data, 512);
        CHECK(is_pattern(data, 3 * 512, 512));
    }
    static const uint8_t FEATURES[] = {0x00, 0x0f, 0x5f, 0xfe}; /* SET FEATURES of nothing */
    for (size_t i = 0; i < ARRAY_SIZE(FEATURES); i++) {
        command(&mock, PRIMARY, 0xef, 0, 0, FEATURES[i]);
        CHECK_EQ(status(&mock, PRIMARY) & ERR, ERR);
        CHECK_EQ(reg(&mock, PRIMARY, 1), ABRT);
    }
    command(&mock, PRIMARY, 0xef, 0, 0x22, 0x03); /* multiword DMA 2 is there */
    CHECK_EQ(status(&mock, PRIMARY) & ERR, 0);
    mock_free(&mock);
}

/* §8.27 and others: the last sector, one beyond it, a command that runs out of the medium. */
static void test_end_of_the_medium(void)
{
    IdeMock mock;
    uint8_t data[512];
    mock_up(&mock);
    static const uint8_t READS[] = {0x20, 0x21};
    for (size_t i = 0; i < ARRAY_SIZE(READS); i++) {
        command(&mock, PRIMARY, READS[i], DISK_SECTORS - 1, 1, 0);
        CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), DRQ);
        data_in(&mock, PRIMARY, data, 512);
        CHECK(is_pattern(data, (DISK_SECTORS - 1) * 512, 512));
        CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), 0);
        command(&mock, PRIMARY, READS[i], DISK_SECTORS, 1, 0);
        CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), ERR);
        CHECK_EQ(reg(&mock, PRIMARY, 1) & IDNF, IDNF);
        CHECK_EQ(lba28(&mock), DISK_SECTORS);
    }
    command(&mock, PRIMARY, 0x40, DISK_SECTORS - 2, 2, 0); /* READ VERIFY: no data */
    CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), 0);
    command(&mock, PRIMARY, 0x40, DISK_SECTORS - 2, 3, 0);
    CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), ERR);
    CHECK_EQ(reg(&mock, PRIMARY, 1) & IDNF, IDNF);
    CHECK_EQ(lba28(&mock), DISK_SECTORS - 2); /* refused as a whole, as ide.h says */
    /* A count of 0 is 256, of the 48-bit commands 65536. */
    command(&mock, PRIMARY, 0x20, 0, 0, 0);
    for (unsigned i = 0; i < 256; i++) {
        CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), DRQ);
        data_in(&mock, PRIMARY, data, 512);
        CHECK(is_pattern(data, i * 512, 512));
    }
    CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), 0);
    command_ext(&mock, PRIMARY, 0x42, 0, 0); /* READ VERIFY EXT of 65536: too many */
    CHECK_EQ(status(&mock, PRIMARY) & ERR, ERR);
    CHECK_EQ(reg(&mock, PRIMARY, 1) & IDNF, IDNF);
    command_ext(&mock, PRIMARY, 0x42, 0, DISK_SECTORS);
    CHECK_EQ(status(&mock, PRIMARY) & ERR, 0);
    command_ext(&mock, PRIMARY, 0x24, 1ull << 40, 1); /* far beyond, and not taken modulo something */
    CHECK_EQ(status(&mock, PRIMARY) & (DRQ | ERR), ERR);
    mock_free(&mock);
}

/* §6.20: what was written before is read with HOB set; a write of any register clears HOB. */
static void test_high_order_byte(void)
{
    IdeMock mock;
    mock_up(&mock);
    for (uint32_t i = 2; i < 6; i++) {
        port_out(&mock, PRIMARY + i, 1, 0x10 + i);
        port_out(&mock, PRIMARY + i, 1, 0x20 + i);
    }
    for (uint32_t i = 2; i < 6; i++)
        CHECK_EQ(reg(&mock, PRIMARY, i), 0x20 + i);
    port_out(&mock, PRIMARY + CONTROL, 1, 0x80);
    for (uint32_t i = 2; i < 6; i++)
        CHECK_EQ(reg(&mock, PRIMARY, i), 0x10 + i);
    port_out(&mock, PRIMARY + 2, 1, 0x55);
    CHECK_EQ(reg(&mock, PRIMARY, 2), 0x55);
    CHECK_EQ(reg(&mock, PRIMARY, 3), 0x23);
    mock_free(&mock);
}

/* §9.2, §9.12: the signatures after each reset; DEVICE RESET is of packet devices only (above: aborted by disks).
 */
static void test_resets(void)
{
    IdeMock mock;
    mock_up(&mock);
    for (int way = 0; way < 2; way++) {
        for (uint32_t i = 1; i < 6; i++)
            port_out(&mock, SECONDARY + i, 1, 0x77);
        if (way) {
            port_out(&mock, SECONDARY + 7, 1, 0x08);
        } else {
            port_out(&mock, SECONDARY + CONTROL, 1, 4);
            CHECK_EQ(reg(&mock, SECONDARY, CONTROL) & BSY, BSY);
            port_out(&mock, SECONDARY + CONTROL, 1, 0);
        }
        CHECK_EQ(reg(&mock, SECONDARY, 2), 1);
        CHECK_EQ(reg(&mock, SECONDARY, 3), 1);
        CHECK_EQ(reg(&mock, SECONDARY, 4), 0x14);
        CHECK_EQ(reg(&mock, SECONDARY, 5), 0xeb);
        CHECK_EQ(status(&mock, SECONDARY) & (BSY | DRQ | ERR), 0);
    }
    /* READ SECTORS of a packet device is aborted with the signature (§8.34.4), as IDENTIFY DEVICE is. */
    static const uint8_t CODES[] = {0x20, 0xec};
    for (int i = 0; i < 2; i++) {
        port_out(&mock, SECONDARY + 4, 1, 0), port_out(&mock, SECONDARY + 5, 1, 0);
        port_out(&mock, SECONDARY + 7, 1, CODES[i]);
        CHECK_EQ(status(&mock, SECONDARY) & (BSY | DRQ | ERR), ERR);
        CHECK_EQ(reg(&mock, SECONDARY, 1) & ABRT, ABRT);
        CHECK(reg(&mock, SECONDARY, 4) == 0x14 && reg(&mock, SECONDARY, 5) == 0xeb);
    }
    mock_free(&mock);
}

static bool good(IdeMock *mock, const uint8_t packet_bytes[12], void *data, uint32_t room)
{
    return packet_in(mock, packet_bytes, data, room) >= 0;
}

/* SPC-3 §4.5, MMC-3: sense data tells once why, and a good command clears it. */
static void test_sense_data(void)
{
    IdeMock mock;
    uint8_t data[4096];
    mock_up(&mock);
    static const uint8_t READY_[12] = {0}, CAPACITY[12] = {0x25}, NOTHING[12] = {0xd7};
    static const uint8_t BEYOND[12] = {0x28, 0, 0, 0, 0, DISC_SECTORS, 0, 0, 1};
    static const uint8_t ACROSS[12] = {0x28, 0, 0, 0, 0, DISC_SECTORS - 1, 0, 0, 2};
    static const uint8_t LAST[12] = {0x28, 0, 0, 0, 0, DISC_SECTORS - 1, 0, 0, 1};
    static const uint8_t NONE[12] = {0x28, 0, 0, 0, 0, 1, 0, 0, 0};
    CHECK(!good(&mock, READY_, data, 0));       /* power on, or a new medium: unit attention */
    CHECK_EQ(reg(&mock, SECONDARY, 1) >> 4, 6); /* the sense key is in the error register too */
    CHECK_EQ(sense(&mock) >> 16, 6);
    CHECK_EQ(sense(&mock), 0); /* told once */
    while (!good(&mock, READY_, data, 0))
        CHECK_EQ(sense(&mock) >> 16, 6);
    CHECK_EQ(packet_in(&mock, CAPACITY, data, 8), 8);
    CHECK_EQ(__builtin_bswap32(load_le32(data)), DISC_SECTORS - 1);
    CHECK_EQ(__builtin_bswap32(load_le32(data + 4)), 2048);
    CHECK(!good(&mock, NOTHING, data, 0));
    CHECK_EQ(reg(&mock, SECONDARY, 1) >> 4, 5);
    CHECK_EQ(sense(&mock), 0x052000); /* invalid command operation code */
    CHECK(!good(&mock, BEYOND, data, sizeof data));
    CHECK_EQ(sense(&mock), 0x052100); /* logical block address out of range */
    CHECK(!good(&mock, ACROSS, data, sizeof data));
    CHECK_EQ(sense(&mock), 0x052100);
    CHECK_EQ(packet_in(&mock, LAST, data, 2048), 2048);
    CHECK(is_pattern(data, (DISC_SECTORS - 1) * 2048, 2048));
    CHECK_EQ(packet_in(&mock, NONE, data, sizeof data), 0); /* a length of 0 is no error */
    CHECK_EQ(sense(&mock), 0);
    /* INQUIRY is answered with an attention pending, and does not take it. */
    static const uint8_t INQUIRY[12] = {0x12, 0, 0, 0, 36};
    port_out(&mock, SECONDARY + CONTROL, 1, 4), port_out(&mock, SECONDARY + CONTROL, 1, 0);
    CHECK_EQ(packet_in(&mock, INQUIRY, data, 36), 36);
    CHECK_EQ(data[0] & 31, 5); /* a CD-ROM device */
    CHECK_EQ(data[1] & 0x80, 0x80);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_identify_device);
    RUN(test_aborted_commands);
    RUN(test_end_of_the_medium);
    RUN(test_high_order_byte);
    RUN(test_resets);
    RUN(test_sense_data);
    return 0;
}
