/* The list of device RAM by itself, and a VGA's frame buffer in it as its base address register goes. */
#include "devices/vga.h"
#include "memory/device_ram.h"
#include "tests/device_check.h"

typedef struct Engine {
    DeviceRam has[DEVICE_RAM_MAX];
    bool refuses;
} Engine;

static int set(void *opaque, uint32_t number, const DeviceRam *ram, bool add)
{
    Engine *engine = opaque;
    CHECK(number < DEVICE_RAM_MAX);
    if (engine->refuses)
        return -EINVAL;
    CHECK_EQ(engine->has[number].size, add ? 0 : ram->size);
    engine->has[number] = add ? *ram : (DeviceRam){0};
    return 0;
}

static uint64_t held(const Engine *engine)
{
    uint64_t size = 0;
    for (int i = 0; i < DEVICE_RAM_MAX; i++)
        size += engine->has[i].size;
    return size;
}

static void test_list(void)
{
    static _Alignas(GUEST_PAGE_SIZE) uint8_t bytes[2 * GUEST_PAGE_SIZE];
    Board *board = test_board();
    DeviceRams *list = board->device_rams;
    CHECK_EQ(guest_memory_add(board->memory, 0, 0x10000, 0, NULL), 0);
    Engine engine = {0}, other = {.refuses = true};
    DeviceRam ram = {.gpa = 0x20000, .size = sizeof bytes, .hva = bytes};
    CHECK_EQ(device_ram_add(list, board->memory, &ram), 0);
    device_rams_attach(list, set, &engine);
    CHECK_EQ(held(&engine), sizeof bytes);
    CHECK(device_ram_find(list, 0x21fff) == bytes + 0x1fff);
    CHECK(!device_ram_find(list, 0x22000) && !device_ram_find(list, 0x1ffff));
    CHECK_EQ(device_ram_add(list, board->memory, &ram), -EEXIST);
    CHECK_EQ(device_ram_add(list, board->memory, &(DeviceRam){0x21000, 0x1000, bytes}), -EEXIST);
    CHECK_EQ(device_ram_add(list, board->memory, &(DeviceRam){0xf000, 0x2000, bytes}), -EEXIST);
    CHECK_EQ(device_ram_add(list, board->memory, &(DeviceRam){0x30010, 0x1000, bytes}), -EINVAL);
    CHECK_EQ(device_ram_add(list, board->memory, &(DeviceRam){0x30000, 0, bytes}), -EINVAL);
    CHECK_EQ(device_ram_add(list, board->memory, &(DeviceRam){UINT64_MAX - 0xfff, 0x2000, bytes}), -EINVAL);
    for (gpa_t i = 1; i < DEVICE_RAM_MAX; i++)
        CHECK_EQ(device_ram_add(list, board->memory, &(DeviceRam){i << 20, 0x1000, bytes}), 0);
    CHECK_EQ(device_ram_add(list, board->memory, &(DeviceRam){0x40000, 0x1000, bytes}), -ENOSPC);
    device_rams_attach(list, set, &other); /* takes nothing, and is asked for nothing back */
    CHECK_EQ(held(&engine), 0);
    device_rams_attach(list, set, &engine);
    CHECK_EQ(held(&engine), sizeof bytes + (DEVICE_RAM_MAX - 1) * 0x1000);
    for (gpa_t i = 1; i < DEVICE_RAM_MAX; i++)
        CHECK_EQ(device_ram_remove(list, i << 20), 0);
    CHECK_EQ(device_ram_remove(list, 0x21000), -ENOENT);
    device_rams_attach(list, NULL, NULL);
    CHECK_EQ(held(&engine), 0);
    CHECK_EQ(device_ram_remove(list, 0x20000), 0);
    CHECK(!device_ram_find(list, 0x20000));
    board_free(board);
}

enum { VGA_DEVFN = PCI_DEVFN(2, 0) };

static bool shown_at(Board *board, Device *vga, gpa_t gpa)
{
    return device_ram_find(board->device_rams, gpa) == vga_memory(vga) &&
           device_ram_find(board->device_rams, gpa + VGA_MEMORY_SIZE - 1) == vga_memory(vga) + VGA_MEMORY_SIZE - 1;
}

static void test_frame_buffer(void)
{
    Board *board = test_board();
    CHECK_EQ(guest_memory_add(board->memory, 0, 32 << 20, 0, NULL), 0);
    PciBus *bus = pci_bus_new(board);
    Device *vga = vga_new(board, bus, VGA_DEVFN, NULL, 0, NULL);
    Engine engine = {0};
    PciBarInfo info;
    VGAState state;
    uint64_t value;
    device_rams_attach(board->device_rams, set, &engine);
    CHECK_EQ(held(&engine), 0);
    pci_bus_config_write(bus, VGA_DEVFN, PCI_BAR0, 4, 0xe0000000);
    CHECK_EQ(held(&engine), 0); /* memory decoding is off */
    pci_bus_config_write(bus, VGA_DEVFN, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    CHECK_EQ(held(&engine), VGA_MEMORY_SIZE);
    CHECK(shown_at(board, vga, 0xe0000000));
    CHECK_EQ(pci_bus_bar(bus, VGA_DEVFN, 0, &info), 0);
    CHECK(info.mapped && info.is_ram);
    vga_memory(vga)[5] = 0x77; /* the bus has the same bytes */
    CHECK(bus_read(board->mmio, 0xe0000005, 1, &value) && value == 0x77);
    pci_bus_config_write(bus, VGA_DEVFN, PCI_BAR0, 4, 0xe1000000); /* moved */
    CHECK(shown_at(board, vga, 0xe1000000) && !device_ram_find(board->device_rams, 0xe0000000));
    device_save(vga, &state);
    pci_bus_config_write(bus, VGA_DEVFN, PCI_BAR0, 4, 0xffffffff); /* sized with decoding on: 16 MiB below 4 GiB */
    CHECK(shown_at(board, vga, 0xff000000) && held(&engine) == VGA_MEMORY_SIZE);
    pci_bus_config_write(bus, VGA_DEVFN, PCI_COMMAND, 2, 0);
    CHECK_EQ(held(&engine), 0);
    pci_bus_config_write(bus, VGA_DEVFN, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_bus_config_write(bus, VGA_DEVFN, PCI_BAR0, 4, 0x01000000); /* where RAM is, which wins */
    CHECK_EQ(pci_bus_bar(bus, VGA_DEVFN, 0, &info), 0);
    CHECK(info.mapped && !info.is_ram);
    CHECK_EQ(held(&engine), 0);
    device_reset(vga);
    CHECK_EQ(held(&engine), 0);
    CHECK_EQ(device_restore(vga, &state), 0);
    CHECK(shown_at(board, vga, 0xe1000000) && held(&engine) == VGA_MEMORY_SIZE);
    device_reset(vga);
    CHECK_EQ(held(&engine), 0);
    CHECK_EQ(device_restore(vga, &state), 0);
    device_free(vga); /* the device goes: nobody may hold its bytes */
    CHECK_EQ(held(&engine), 0);
    CHECK(!device_ram_find(board->device_rams, 0xe1000000));
    device_free(pci_bus_device(bus));
    board_free(board);
}

int main(void)
{
    RUN(test_list);
    RUN(test_frame_buffer);
    return 0;
}
