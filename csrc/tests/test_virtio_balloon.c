/* The balloon: pages given back, reported and taken again, statistics, poison (virtio 1.2 §5.5). */
#include <sys/stat.h>

#include "virtio/virtio_balloon.h"

#include "virtio_driver.h"

static uint64_t host_bytes(Driver *driver)
{
    struct stat st;
    CHECK_EQ(fstat(guest_memory_fd(driver->board->memory), &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void balloon_up(Driver *driver, VirtioBalloonOptions options, uint64_t features)
{
    VirtioPlace place = driver_new(driver, CLOCK_KIND_VIRTUAL);
    driver->device = virtio_balloon_new(driver->board, &place, &options, NULL);
    CHECK(driver->device);
    memset(driver_ram(driver, DRIVER_DATA), 0xaa, 0x200000);
    driver_start(driver, features, 5);
}

static void inflate(Driver *driver, const uint32_t *pages, uint32_t count)
{
    memcpy(driver_ram(driver, 0x2000), pages, 4 * count);
    driver_add(driver, 0, 0x2000, 4 * count, false);
    driver_kick(driver, 0);
    CHECK_EQ(driver_used(driver, 0), 0);
}

typedef struct Written {
    gpa_t gpa;
    uint64_t size;
} Written;

static void note_written(void *opaque, gpa_t gpa, uint64_t size)
{
    Written *last = opaque;
    if (gpa >= DRIVER_DATA)
        *last = (Written){gpa, size};
}

static void test_inflate(void)
{
    Driver driver;
    Written written = {0};
    balloon_up(&driver, (VirtioBalloonOptions){0}, 0);
    CHECK_EQ(guest_memory_add_listener(driver.board->memory, note_written, &written), 0);
    memset(driver_ram(&driver, 0x2000), 0, 4096);
    uint64_t before = host_bytes(&driver);
    uint32_t pages[256], base = DRIVER_DATA >> 12;
    for (uint32_t i = 0; i < 256; i++) /* Linux counts down */
        pages[i] = base + 255 - i;
    inflate(&driver, pages, 256);
    CHECK_EQ(host_bytes(&driver), before - (1 << 20));
    CHECK(written.gpa == DRIVER_DATA && written.size == 1 << 20);
    CHECK_EQ(*driver_ram(&driver, DRIVER_DATA + 0x5000), 0);
    CHECK_EQ(*driver_ram(&driver, DRIVER_DATA + 0x100000), 0xaa);
    /* What is no RAM, or not the guest's to write, is left alone. */
    uint32_t odd[] = {0xf00, 0xfee00, UINT32_MAX, 0x800, base + 256};
    inflate(&driver, odd, 5);
    VirtioBalloonStatus status;
    virtio_balloon_status(driver.device, &status);
    CHECK_EQ(status.inflated, (1 << 20) + 4096);
    memset(driver_ram(&driver, DRIVER_DATA), 1, 4096); /* deflated by touching */
    driver_add(&driver, 1, 0x2000, 4, false);
    driver_kick(&driver, 1);
    CHECK_EQ(driver_used(&driver, 1), 0);
    guest_memory_remove_listener(driver.board->memory, &written);
    driver_free(&driver);
}

static void test_target(void)
{
    Driver driver;
    balloon_up(&driver, (VirtioBalloonOptions){0}, 0);
    uint8_t generation = (uint8_t)driver_read(&driver, COMMON_CONFIG_GENERATION, 1);
    virtio_balloon_set_target(driver.device, 1000);
    CHECK(driver_read(&driver, COMMON_CONFIG_GENERATION, 1) != generation);
    CHECK_EQ(driver_read(&driver, VIRTIO_PCI_DEVICE + BALLOON_CONFIG_NUM_PAGES, 4), 1000);
    driver_write(&driver, VIRTIO_PCI_DEVICE + BALLOON_CONFIG_ACTUAL, 4, 500);
    driver_write(&driver, VIRTIO_PCI_DEVICE + BALLOON_CONFIG_NUM_PAGES, 4, 7); /* not the driver's */
    VirtioBalloonStatus status;
    virtio_balloon_status(driver.device, &status);
    CHECK(status.target_pages == 1000 && status.actual_pages == 500);
    check_save_restore(driver.device);
    virtio_balloon_status(driver.device, &status);
    CHECK(status.target_pages == 1000 && status.actual_pages == 500);
    driver_free(&driver);
}

static void report(Driver *driver, uint16_t queue)
{
    driver_add(driver, queue, DRIVER_DATA + 0x1000, 0x10000, true);
    driver_kick(driver, queue);
    CHECK_EQ(driver_used(driver, queue), 0);
}

static void test_reporting(void)
{
    for (uint16_t queue = 3; queue < 5; queue++) { /* both places where drivers have it */
        Driver driver;
        balloon_up(&driver, (VirtioBalloonOptions){0},
                   VIRTIO_BALLOON_F_STATS_VQ | VIRTIO_BALLOON_F_PAGE_REPORTING | VIRTIO_BALLOON_F_PAGE_POISON);
        uint64_t before = host_bytes(&driver);
        driver_write(&driver, VIRTIO_PCI_DEVICE + BALLOON_CONFIG_POISON_VAL, 4, 0xaaaaaaaa);
        report(&driver, queue); /* free pages must keep their poison */
        CHECK_EQ(host_bytes(&driver), before);
        driver_write(&driver, VIRTIO_PCI_DEVICE + BALLOON_CONFIG_POISON_VAL, 4, 0);
        report(&driver, queue);
        CHECK_EQ(host_bytes(&driver), before - 0x10000);
        VirtioBalloonStatus status;
        virtio_balloon_status(driver.device, &status);
        CHECK_EQ(status.reported, 0x10000);
        driver_free(&driver);
    }
}

static void put_stat(Driver *driver, uint32_t index, uint16_t tag, uint64_t value)
{
    store_le16(driver_ram(driver, 0x3000 + 10 * index), tag);
    store_le64(driver_ram(driver, 0x3000 + 10 * index + 2), value);
}

static void test_stats(void)
{
    Driver driver;
    VirtioBalloonStatus status;
    balloon_up(&driver, (VirtioBalloonOptions){.stats_interval_ns = 1000000000}, VIRTIO_BALLOON_F_STATS_VQ);
    put_stat(&driver, 0, 4, 1 << 20);
    put_stat(&driver, 1, 5, 2 << 20);
    put_stat(&driver, 2, 99, 1);
    driver_add(&driver, 2, 0x3000, 30, false);
    driver_kick(&driver, 2);
    CHECK_EQ(driver_used(&driver, 2), -1); /* the device keeps it */
    virtio_balloon_status(driver.device, &status);
    CHECK(status.stats_count == 1 && status.stats_known == 0x30 && status.stats[5] == 2 << 20);
    check_save_restore(driver.device);
    virtio_balloon_poll(driver.device);
    CHECK_EQ(driver_used(&driver, 2), 0);
    put_stat(&driver, 0, 4, 3 << 20);
    driver_add(&driver, 2, 0x3000, 10, false);
    driver_kick(&driver, 2);
    virtio_balloon_status(driver.device, &status);
    CHECK(status.stats_count >= 2 && status.stats_known == 0x10 && status.stats[4] == 3 << 20);
    pass(driver.board, 1500000000); /* and by itself */
    CHECK_EQ(driver_used(&driver, 2), 0);
    CHECK_EQ(driver_status(&driver), 15);
    driver_free(&driver);
}

int main(void)
{
    RUN(test_inflate);
    RUN(test_target);
    RUN(test_reporting);
    RUN(test_stats);
    return 0;
}
