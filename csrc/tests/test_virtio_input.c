/* Input devices: what they say of themselves, events, LEDs (virtio 1.2 §5.8). */
#include "virtio/virtio_input.h"

#include "virtio_driver.h"

static uint32_t ask(Driver *driver, uint8_t select, uint8_t subsel)
{
    driver_write(driver, VIRTIO_PCI_DEVICE, 1, select);
    driver_write(driver, VIRTIO_PCI_DEVICE + 1, 1, subsel);
    return (uint32_t)driver_read(driver, VIRTIO_PCI_DEVICE + 2, 1);
}

static void input_up(Driver *driver, uint32_t kind)
{
    VirtioPlace place = driver_new(driver, CLOCK_KIND_VIRTUAL);
    driver->device = virtio_input_new(driver->board, &place, kind, NULL);
    CHECK(driver->device);
    driver_start(driver, 0, 2);
}

static void test_config(void)
{
    Driver driver;
    input_up(&driver, VIRTIO_INPUT_TABLET);
    CHECK_EQ(ask(&driver, INPUT_CFG_ID_NAME, 0), strlen("pyvmm tablet"));
    CHECK_EQ(driver_read(&driver, VIRTIO_PCI_DEVICE + INPUT_CONFIG_DATA, 1), 'p');
    CHECK_EQ(ask(&driver, INPUT_CFG_ID_NAME, 1), 0);
    CHECK_EQ(ask(&driver, INPUT_CFG_ID_DEVIDS, 0), 7);
    CHECK_EQ(ask(&driver, INPUT_CFG_EV_BITS, 3), 1);
    CHECK_EQ(ask(&driver, INPUT_CFG_ABS_INFO, 1), 20);
    CHECK_EQ(driver_read(&driver, VIRTIO_PCI_DEVICE + INPUT_CONFIG_DATA + 4, 4), VIRTIO_INPUT_ABS_MAX);
    CHECK_EQ(ask(&driver, INPUT_CFG_ABS_INFO, 2), 0);
    for (uint32_t select = 0; select < 256; select++)
        for (uint32_t subsel = 0; subsel < 256; subsel++)
            CHECK(ask(&driver, (uint8_t)select, (uint8_t)subsel) <= 128);
    driver_write(&driver, VIRTIO_PCI_DEVICE + 8, 4, 1); /* read-only */
    CHECK_EQ(driver_read(&driver, VIRTIO_PCI_DEVICE + 8, 4), 0);
    ask(&driver, INPUT_CFG_ID_NAME, 0);
    check_save_restore(driver.device);
    CHECK_EQ(driver_read(&driver, VIRTIO_PCI_DEVICE + 2, 1), strlen("pyvmm tablet"));
    driver_free(&driver);
}

static void test_events(void)
{
    Driver driver;
    VirtioInputEvent down = {1, 30, 1};
    input_up(&driver, VIRTIO_INPUT_KEYBOARD);
    CHECK_EQ(virtio_input_send(driver.device, &down, 1), 0); /* waits for buffers */
    for (uint32_t i = 0; i < 3; i++)
        driver_add(&driver, 0, DRIVER_DATA + 16 * i, 8, true);
    driver_kick(&driver, 0);
    CHECK_EQ(driver_used(&driver, 0), 8);
    CHECK_EQ(driver_used(&driver, 0), 8);
    CHECK_EQ(driver_used(&driver, 0), -1);
    CHECK_EQ(memcmp(driver_ram(&driver, DRIVER_DATA), "\1\0\36\0\1\0\0\0", 8), 0);
    CHECK_EQ(load_le64(driver_ram(&driver, DRIVER_DATA + 16)), 0);
    int sent = 0;
    while (virtio_input_send(driver.device, &down, 1) == 0)
        CHECK(++sent < 1000);
    CHECK(sent >= 120); /* whole reports, as many as there is room for */
    CHECK_EQ(driver_used(&driver, 0), 8);
    memcpy(driver_ram(&driver, DRIVER_DATA), "\21\0\1\0\1\0\0\0", 8); /* caps lock on */
    driver_add(&driver, 1, DRIVER_DATA, 8, false);
    driver_kick(&driver, 1);
    CHECK_EQ(driver_used(&driver, 1), 0);
    CHECK_EQ(virtio_input_leds(driver.device), 2);
    check_save_restore(driver.device);
    CHECK_EQ(virtio_input_leds(driver.device), 2);
    device_reset(driver.device);
    CHECK_EQ(virtio_input_send(driver.device, &down, 1), -ENOSPC); /* nobody reads */
    driver_free(&driver);
}

int main(void)
{
    RUN(test_config);
    RUN(test_events);
    return 0;
}
