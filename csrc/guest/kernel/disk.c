/*
 * The `disk` command. Writing is only allowed inside partition 1, whose place is read from the MBR each time: the
 * boot sector and the kernel lie in front of it (UEFI 2.10 §5.2.1 describes the MBR's partition records).
 */
#include "kernel.h"

#define CHUNK 8

static uint8_t sectors[CHUNK * SECTOR_SIZE] __attribute__((aligned(16)));

static bool disk_ok(int result, const char *what, uint64_t lba)
{
    static const char *const reasons[] = {"", "I/O error", "not supported by the device"};
    if (result == 0)
        return true;
    const char *reason = result == 1 || result == 2 ? reasons[result] : "no answer";
    print("disk: %s of LBA %lu failed: %s\n", what, lba, reason);
    return false;
}

static bool parse_range(const char *text, uint64_t *lba)
{
    if (!parse_number(text, lba)) {
        print("disk: not a number: %s\n", text);
        return false;
    }
    if (*lba >= disk_sectors()) {
        print("disk: LBA %lu is beyond the end (%lu sectors)\n", *lba, disk_sectors());
        return false;
    }
    return true;
}

static void hex_dump(const uint8_t *bytes, size_t size)
{
    bool skipping = false;
    for (size_t at = 0; at < size; at += 16) {
        /* A run of equal lines is shown as one star, as od does. */
        if (at && at + 16 < size && !memcmp(bytes + at, bytes + at - 16, 16)) {
            if (!skipping)
                print("  *\n");
            skipping = true;
            continue;
        }
        skipping = false;
        print("  %03lx ", at);
        for (size_t i = 0; i < 16; i++)
            print(" %02x", bytes[at + i]);
        print("  ");
        for (size_t i = 0; i < 16; i++)
            print("%c", bytes[at + i] >= ' ' && bytes[at + i] < 0x7f ? bytes[at + i] : '.');
        print("\n");
    }
}

static void disk_read(uint64_t lba)
{
    if (!disk_ok(disk_request(DISK_READ, lba, sectors, 1), "read", lba))
        return;
    print("LBA %lu:\n", lba);
    hex_dump(sectors, SECTOR_SIZE);
}

static bool partition_find(uint64_t *start, uint64_t *size)
{
    if (!disk_ok(disk_request(DISK_READ, 0, sectors, 1), "read", 0))
        return false;
    const uint8_t *record = sectors + 0x1be;
    uint32_t first, count;
    memcpy(&first, record + 8, 4);
    memcpy(&count, record + 12, 4);
    if (sectors[510] != 0x55 || sectors[511] != 0xaa || !record[4] || !first) {
        print("disk: no partition 1 to write to\n");
        return false;
    }
    *start = first;
    *size = count;
    return true;
}

static void disk_write(uint64_t lba, int argc, char **argv)
{
    uint64_t start, size;
    size_t used = 0;
    if (disk_read_only()) {
        print("disk: the device is read-only\n");
        return;
    }
    if (!partition_find(&start, &size))
        return;
    if (lba < start || lba - start >= size) {
        print("disk: LBA %lu is outside partition 1 (%lu to %lu)\n", lba, start, start + size - 1);
        return;
    }
    memset(sectors, 0, SECTOR_SIZE);
    for (int i = 0; i < argc; i++) {
        size_t length = strlen(argv[i]);
        if (used + length + 1 > SECTOR_SIZE)
            break;
        if (i)
            sectors[used++] = ' ';
        memcpy(sectors + used, argv[i], length);
        used += length;
    }
    if (!disk_ok(disk_request(DISK_WRITE, lba, sectors, 1), "write", lba))
        return;
    if (!disk_ok(disk_request(DISK_FLUSH, 0, NULL, 0), "flush", lba))
        return;
    print("LBA %lu: %lu bytes of text written and flushed\n", lba, used);
}

static void disk_sum(uint64_t lba, uint64_t count)
{
    uint32_t crc = 0;
    if (!count || count > disk_sectors() - lba) {
        print("disk: LBA %lu + %lu is beyond the end (%lu sectors)\n", lba, count, disk_sectors());
        return;
    }
    for (uint64_t done = 0; done < count;) {
        size_t now = count - done < CHUNK ? count - done : CHUNK;
        if (!disk_ok(disk_request(DISK_READ, lba + done, sectors, now), "read", lba + done))
            return;
        crc = crc32(crc, sectors, now * SECTOR_SIZE);
        done += now;
    }
    print("CRC-32 of %lu sectors from LBA %lu: %08x\n", count, lba, crc);
}

void command_disk(int argc, char **argv)
{
    uint64_t lba, count = 1;
    if (!disk_present()) {
        print("disk: %s\n", disk_why_absent());
    } else if (argc == 1) {
        disk_print_info();
    } else if (!strcmp(argv[1], "read") && argc == 3) {
        if (parse_range(argv[2], &lba))
            disk_read(lba);
    } else if (!strcmp(argv[1], "write") && argc >= 4) {
        if (parse_range(argv[2], &lba))
            disk_write(lba, argc - 3, argv + 3);
    } else if (!strcmp(argv[1], "sum") && (argc == 3 || argc == 4)) {
        if (argc == 4 && !parse_number(argv[3], &count))
            print("disk: not a number: %s\n", argv[3]);
        else if (parse_range(argv[2], &lba))
            disk_sum(lba, count);
    } else {
        print("usage: disk | disk read LBA | disk write LBA TEXT | disk sum LBA [SECTORS]\n");
    }
}
