/* The entropy device: bytes, the seeded stream, the limit (virtio 1.2 §5.4). */
#include "virtio/virtio_rng.h"

#include "virtio_driver.h"

static void rng_up(Driver *driver, VirtioRngOptions options)
{
    VirtioPlace place = driver_new(driver, CLOCK_KIND_VIRTUAL);
    driver->device = virtio_rng_new(driver->board, &place, &options, NULL);
    CHECK(driver->device);
    driver_start(driver, 0, 1);
}

static int64_t draw(Driver *driver, uint32_t size)
{
    memset(driver_ram(driver, DRIVER_DATA), 0, size);
    driver_add(driver, 0, DRIVER_DATA, size, true);
    driver_kick(driver, 0);
    return driver_used(driver, 0);
}

static void test_host_bytes(void)
{
    Driver driver;
    rng_up(&driver, (VirtioRngOptions){0});
    CHECK_EQ(draw(&driver, 4096), 4096);
    uint32_t counts[256] = {0}, most = 0;
    for (uint32_t i = 0; i < 4096; i++)
        most = MAX(most, ++counts[driver_ram(&driver, DRIVER_DATA)[i]]);
    CHECK(most < 64); /* 16 each on average */
    CHECK_EQ(draw(&driver, 1), 1);
    CHECK_EQ(draw(&driver, 200000), 65536); /* a part of it is an answer too */
    VirtioRngCounters counters;
    virtio_rng_counters(driver.device, &counters);
    CHECK(counters.requests == 3 && counters.bytes == 4096 + 1 + 65536 && counters.waits == 0);
    driver_free(&driver);
}

static void test_seeded_stream(void)
{
    uint8_t first[100];
    for (int i = 0; i < 2; i++) {
        Driver driver;
        rng_up(&driver, (VirtioRngOptions){.seeded = true, .seed = 7});
        CHECK_EQ(draw(&driver, 100), 100);
        if (i == 0)
            memcpy(first, driver_ram(&driver, DRIVER_DATA), 100);
        CHECK_EQ(memcmp(first, driver_ram(&driver, DRIVER_DATA), 100), 0);
        CHECK_EQ(draw(&driver, 100), 100);
        CHECK(memcmp(first, driver_ram(&driver, DRIVER_DATA), 100) != 0);
        check_save_restore(driver.device);
        driver_free(&driver);
    }
}

static void test_limit(void)
{
    Driver driver;
    rng_up(&driver, (VirtioRngOptions){.bytes_per_second = 1000});
    CHECK_EQ(draw(&driver, 200), -1); /* nothing yet: the clock stands at its beginning */
    pass(driver.board, 199 * 1000000ull);
    CHECK_EQ(driver_used(&driver, 0), -1);
    pass(driver.board, 2 * 1000000ull);
    int64_t got = driver_used(&driver, 0);
    CHECK_EQ(got, 200); /* whole, not as bytes come */
    uint64_t total = (uint64_t)got;
    for (int i = 0; i < 40; i++) {
        driver_add(&driver, 0, DRIVER_DATA, 500, true);
        driver_kick(&driver, 0);
        pass(driver.board, 50 * 1000000ull);
        while ((got = driver_used(&driver, 0)) >= 0)
            total += (uint64_t)got;
    }
    CHECK(total <= 2201 + 256); /* 1000 bytes a second for 2.2 s, and the burst */
    driver_add(&driver, 0, DRIVER_DATA, 500, true);
    driver_kick(&driver, 0);
    driver_start(&driver, 0, 1); /* reset with a request waiting */
    pass(driver.board, 1000000000ull);
    CHECK_EQ(driver_used(&driver, 0), -1);
    CHECK_EQ(draw(&driver, 500), 256);
    driver_free(&driver);
}

/* A state that was saved late, restored where the clock has just begun: the limit counts from there. */
static void test_limit_on_another_clock(void)
{
    Driver late, early;
    VirtioRngOptions options = {.bytes_per_second = 1000};
    rng_up(&late, options);
    pass(late.board, 3600 * 1000000000ull);
    CHECK_EQ(draw(&late, 200), 200);
    uint8_t *state = calloc(1, device_state_size(late.device));
    device_save(late.device, state);
    rng_up(&early, options);
    CHECK_EQ(device_restore(early.device, state), 0);
    driver_start(&early, 0, 1);
    CHECK_EQ(draw(&early, 200), -1);
    pass(early.board, 300 * 1000000ull);
    CHECK_EQ(driver_used(&early, 0), 200);
    free(state);
    driver_free(&late);
    driver_free(&early);
}

static void test_broken_driver(void)
{
    Driver driver;
    rng_up(&driver, (VirtioRngOptions){0});
    driver_add(&driver, 0, DRIVER_DATA, 64, false);
    driver_kick(&driver, 0);
    CHECK(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET);
    driver_start(&driver, 0, 1);
    CHECK_EQ(draw(&driver, 64), 64);
    driver_free(&driver);
}

int main(void)
{
    test_host_bytes();
    test_seeded_stream();
    test_limit();
    test_limit_on_another_clock();
    test_broken_driver();
    return 0;
}
