/* The CD-ROM drive: PACKET protocol, MMC commands, sense data. Written from ATA/ATAPI-6, SFF-8020i and MMC-3. */
#include "ide_mock.h"

typedef uint8_t Packet[12];

/* A drive that has told its first unit attention. */
static void mock_ready(IdeMock *mock)
{
    uint8_t none[2];
    mock_up(mock);
    CHECK_EQ(packet_in(mock, (Packet){0}, none, 0), -1);
    CHECK_EQ(sense(mock), 0x062900); /* power on */
}

static uint32_t refused(IdeMock *mock, const Packet bytes)
{
    uint8_t data[64];
    CHECK_EQ(packet_in(mock, bytes, data, sizeof data), -1);
    uint8_t error = reg(mock, SECONDARY, 1);
    uint32_t why = sense(mock);
    CHECK_EQ(error, (why >> 16) << 4 | 4);
    CHECK_EQ(sense(mock), 0); /* told once */
    return why;
}

static void test_identity(void)
{
    IdeMock mock;
    uint8_t data[512];
    mock_up(&mock);
    CHECK_EQ(packet_in(&mock, (Packet){0x12, 0, 0, 0, 36}, data, 36), 36); /* INQUIRY comes before the attention */
    CHECK(data[0] == 5 && data[1] == 0x80 && data[4] == 31);
    CHECK_EQ(packet_in(&mock, (Packet){0x12, 0, 0, 0, 5}, data, 6), 5); /* an odd length */
    command(&mock, SECONDARY, 0xec, 0, 0, 0); /* not an ATA disk: aborted, with the signature */
    CHECK_EQ(status(&mock, SECONDARY) & 9, 1);
    CHECK(reg(&mock, SECONDARY, 4) == 0x14 && reg(&mock, SECONDARY, 5) == 0xeb);
    command(&mock, SECONDARY, 0xa1, 0, 0, 0);
    CHECK_EQ(status(&mock, SECONDARY), 0x58);
    data_in(&mock, SECONDARY, data, 512);
    CHECK_EQ(load_le16(data), 0x85c0);
    CHECK_EQ(mock.irq[1].level, 0);
    command(&mock, SECONDARY, 0x08, 0, 0, 0); /* DEVICE RESET */
    CHECK(status(&mock, SECONDARY) == 0 && reg(&mock, SECONDARY, 4) == 0x14);
    mock_free(&mock);
}

static void test_reading(void)
{
    IdeMock mock;
    uint8_t data[6 * 2048];
    mock_ready(&mock);
    CHECK_EQ(packet_in(&mock, (Packet){0x25}, data, 8), 8);
    CHECK(load_be32(data) == DISC_SECTORS - 1 && load_be32(data + 4) == 2048);
    CHECK_EQ(packet_in(&mock, (Packet){0x28, 0, 0, 0, 0, 3, 0, 0, 6}, data, sizeof data), 6 * 2048);
    CHECK(is_pattern(data, 3 * 2048, 6 * 2048));
    CHECK_EQ(packet_in(&mock, (Packet){0xa8, 0, 0, 0, 0, 63, 0, 0, 0, 1}, data, sizeof data), 2048);
    CHECK(is_pattern(data, 63 * 2048, 2048));
    CHECK_EQ(packet_in(&mock, (Packet){0xbe, 0, 0, 0, 0, 7, 0, 0, 1, 0x10}, data, sizeof data), 2048);
    CHECK(is_pattern(data, 7 * 2048, 2048));
    CHECK_EQ(packet_in(&mock, (Packet){0x28, 0, 0, 0, 0, 3}, data, 0), 0); /* a length of 0 reads nothing */
    CHECK_EQ(refused(&mock, (Packet){0x28, 0, 0, 0, 0, 63, 0, 0, 2}), 0x052100);
    CHECK_EQ(refused(&mock, (Packet){0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), 0x052100);
    CHECK_EQ(refused(&mock, (Packet){0xbe, 4, 0, 0, 0, 7, 0, 0, 1, 0x10}), 0x056400); /* audio */
    CHECK_EQ(refused(&mock, (Packet){0xbe, 0, 0, 0, 0, 7, 0, 0, 1, 0xf8}), 0x052400); /* raw */
    CHECK_EQ(refused(&mock, (Packet){0x2a, 0, 0, 0, 0, 0, 0, 0, 1}), 0x052000);       /* WRITE(10) */
    mock_free(&mock);
}

static void test_byte_count_limit(void)
{
    IdeMock mock;
    uint8_t data[2 * 2048];
    uint32_t done = 0, blocks = 0;
    mock_ready(&mock);
    packet(&mock, (Packet){0x28, 0, 0, 0, 0, 1, 0, 0, 2}, 1001, false); /* 1000: even, but for the last */
    while (status(&mock, SECONDARY) & 8) {
        uint32_t size = reg(&mock, SECONDARY, 4) | reg(&mock, SECONDARY, 5) << 8;
        CHECK(size == (done < 4000 ? 1000 : 96));
        data_in(&mock, SECONDARY, data + done, size);
        done += size;
        CHECK_EQ(mock.irq[1].edges >= ++blocks, 1);
    }
    CHECK(done == 4096 && blocks == 5 && is_pattern(data, 2048, 4096));
    packet(&mock, (Packet){0x28, 0, 0, 0, 0, 1, 0, 0, 2}, 0, false); /* no room for data */
    CHECK_EQ(status(&mock, SECONDARY) & 9, 1);
    packet(&mock, (Packet){0}, 0, false); /* none needed */
    CHECK_EQ(status(&mock, SECONDARY), 0x50);
    mock_free(&mock);
}

static void test_dma(void)
{
    enum { TABLE = 0x8000, DATA = 0x10000, EOT = 0x80000000 };
    IdeMock mock;
    mock_ready(&mock);
    put_prd(&mock, TABLE, DATA, 2048);
    put_prd(&mock, TABLE + 8, DATA + 0x4000, EOT | 18432);
    packet(&mock, (Packet){0x28, 0, 0, 0, 0, 4, 0, 0, 10}, 0, true);
    uint32_t edges = mock.irq[1].edges;
    bm_start(&mock, SECONDARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, SECONDARY), 4);
    CHECK_EQ(mock.irq[1].edges, edges + 1);
    CHECK_EQ(status(&mock, SECONDARY), 0x50);
    CHECK_EQ(reg(&mock, SECONDARY, 2), 3);
    bm_stop(&mock, SECONDARY);
    CHECK(is_pattern(mock_ram(&mock, DATA), 4 * 2048, 2048));
    CHECK(is_pattern(mock_ram(&mock, DATA + 0x4000), 5 * 2048, 18432));
    put_prd(&mock, TABLE, DATA, EOT | 8); /* an answer of the drive itself */
    packet(&mock, (Packet){0x25}, 0, true);
    bm_start(&mock, SECONDARY, TABLE, true);
    CHECK_EQ(bm_status(&mock, SECONDARY), 4);
    CHECK_EQ(load_be32(mock_ram(&mock, DATA + 4)), 2048);
    mock_free(&mock);
}

static void test_table_of_contents(void)
{
    IdeMock mock;
    uint8_t data[64];
    mock_ready(&mock);
    CHECK_EQ(packet_in(&mock, (Packet){0x43, 0, 0, 0, 0, 0, 0, 0, 64}, data, 64), 20);
    CHECK(load_be16(data) == 18 && data[2] == 1 && data[3] == 1);
    CHECK(data[5] == 0x14 && data[6] == 1 && load_be32(data + 8) == 0);
    CHECK(data[14] == 0xaa && load_be32(data + 16) == DISC_SECTORS);
    CHECK_EQ(packet_in(&mock, (Packet){0x43, 2, 0, 0, 0, 0xaa, 0, 0, 64}, data, 64), 20); /* by time */
    CHECK(data[9] == 0 && data[10] == 2 && data[11] == 0);
    CHECK(data[17] == 0 && data[18] == 2 && data[19] == 64);
    CHECK_EQ(packet_in(&mock, (Packet){0x43, 0, 0, 0, 0, 0, 0xaa, 0, 64}, data, 64), 12);
    CHECK_EQ(packet_in(&mock, (Packet){0x43, 0, 1, 0, 0, 0, 0, 0, 64}, data, 64), 12);
    CHECK_EQ(packet_in(&mock, (Packet){0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0x40}, data, 64), 12); /* SFF-8020i's place */
    CHECK_EQ(packet_in(&mock, (Packet){0x43, 2, 2, 0, 0, 0, 0, 0, 64}, data, 64), 48);
    CHECK(data[7] == 0xa0 && data[18] == 0xa1 && data[29] == 0xa2 && data[40] == 1);
    CHECK_EQ(packet_in(&mock, (Packet){0x43, 0, 0, 0, 0, 0, 0, 0, 4}, data, 4), 4); /* cut to the room there is */
    CHECK_EQ(refused(&mock, (Packet){0x43, 0, 0, 0, 0, 0, 2, 0, 64}), 0x052400);
    CHECK_EQ(refused(&mock, (Packet){0x43, 0, 5, 0, 0, 0, 0, 0, 64}), 0x052400);
    mock_free(&mock);
}

static void test_abilities(void)
{
    IdeMock mock;
    uint8_t data[256];
    mock_ready(&mock);
    int length = packet_in(&mock, (Packet){0x46, 0, 0, 0, 0, 0, 0, 1, 0}, data, 256);
    CHECK_EQ(length, load_be32(data) + 4);
    CHECK_EQ(load_be16(data + 6), 8); /* the profile: CD-ROM */
    uint32_t features = 0;
    for (int at = 8; at < length; at += 4 + data[at + 3])
        features++;
    CHECK_EQ(features, 7);
    CHECK_EQ(packet_in(&mock, (Packet){0x46, 2, 0, 0x1e, 0, 0, 0, 1, 0}, data, 256), 12);
    CHECK_EQ(load_be16(data + 8), 0x1e);
    CHECK_EQ(packet_in(&mock, (Packet){0x46, 2, 0x77, 0, 0, 0, 0, 1, 0}, data, 256), 8); /* no such feature */
    CHECK_EQ(packet_in(&mock, (Packet){0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255}, data, 256), 30);
    CHECK(load_be16(data) == 28 && data[8] == 0x2a && data[9] == 20);
    CHECK_EQ(packet_in(&mock, (Packet){0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255}, data, 256), 38);
    CHECK_EQ(refused(&mock, (Packet){0x5a, 0, 0x08, 0, 0, 0, 0, 0, 255}), 0x052400);
    CHECK_EQ(refused(&mock, (Packet){0x5a, 0, 0xea, 0, 0, 0, 0, 0, 255}), 0x053900);
    CHECK_EQ(packet_in(&mock, (Packet){0x51, 0, 0, 0, 0, 0, 0, 0, 34}, data, 256), 34);
    CHECK(load_be16(data) == 32 && data[2] == 0x0e);
    CHECK_EQ(packet_in(&mock, (Packet){0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8}, data, 256), 8);
    CHECK_EQ(packet_in(&mock, (Packet){0xbb, 0, 0xff, 0xff}, data, 0), 0); /* SET CD SPEED */
    mock_free(&mock);
}

static void test_tray(void)
{
    IdeMock mock;
    uint8_t data[16];
    static const Packet eject = {0x1b, 0, 0, 0, 2}, load = {0x1b, 0, 0, 0, 3}, ready = {0};
    static const Packet event = {0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8};
    mock_ready(&mock);
    CHECK_EQ(packet_in(&mock, event, data, 16), 8);
    CHECK(data[2] == 4 && data[3] == 0x10 && data[4] == 0 && data[5] == 2);
    CHECK_EQ(packet_in(&mock, (Packet){0x1e, 0, 0, 0, 1}, data, 0), 0); /* locked */
    CHECK_EQ(refused(&mock, eject), 0x055302);
    CHECK_EQ(packet_in(&mock, (Packet){0x1e}, data, 0), 0);
    CHECK_EQ(packet_in(&mock, eject, data, 0), 0);
    CHECK_EQ(refused(&mock, ready), 0x023a02);
    CHECK_EQ(refused(&mock, (Packet){0x28, 0, 0, 0, 0, 0, 0, 0, 1}), 0x023a02);
    CHECK_EQ(packet_in(&mock, event, data, 16), 8);
    CHECK(data[4] == 3 && data[5] == 1); /* removal; the tray is open */
    CHECK_EQ(packet_in(&mock, load, data, 0), 0);
    CHECK_EQ(refused(&mock, ready), 0x062800); /* another medium, perhaps */
    CHECK_EQ(packet_in(&mock, ready, data, 0), 0);
    CHECK_EQ(packet_in(&mock, event, data, 16), 8);
    CHECK(data[4] == 2 && data[5] == 2);
    CHECK_EQ(refused(&mock, (Packet){0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8}), 0x052400); /* not polled */
    CHECK_EQ(packet_in(&mock, (Packet){0x4a, 1, 0, 0, 0x02, 0, 0, 0, 8}, data, 16), 4);
    CHECK_EQ(data[2], 0x80); /* no such class */
    mock_free(&mock);
}

static void test_another_disc(void)
{
    IdeMock mock;
    uint8_t data[2048];
    mock_ready(&mock);
    packet(&mock, (Packet){0x28, 0, 0, 0, 0, 0, 0, 0, 8}, 2048, false);
    CHECK_EQ(ide_change_medium(mock.ide, 1, 0, NULL), 0); /* in the middle of a read */
    CHECK_EQ(status(&mock, SECONDARY) & 9, 1);
    CHECK_EQ(sense(&mock), 0x023a00);
    CHECK_EQ(refused(&mock, (Packet){0}), 0x023a01);
    CHECK_EQ(packet_in(&mock, (Packet){0x46, 0, 0, 0, 0, 0, 0, 0, 8}, data, 8), 8);
    CHECK_EQ(load_be16(data + 6), 0); /* no profile */
    CHECK_EQ(ide_change_medium(mock.ide, 1, 0, mock.disc), 0);
    CHECK_EQ(refused(&mock, (Packet){0}), 0x062800);
    CHECK_EQ(packet_in(&mock, (Packet){0x28, 0, 0, 0, 0, 0, 0, 0, 1}, data, 2048), 2048);
    CHECK_EQ(ide_change_medium(mock.ide, 0, 0, mock.disc), -EINVAL); /* a hard disk */
    check_save_restore(mock.ide);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_identity);
    RUN(test_reading);
    RUN(test_byte_count_limit);
    RUN(test_dma);
    RUN(test_table_of_contents);
    RUN(test_abilities);
    RUN(test_tray);
    RUN(test_another_disc);
    return 0;
}
