/* The PCI transport: both interfaces from reset to DRIVER_OK, capabilities, the window, interrupts, saved state. */
#include "devices/pci_msi.h"
#include "virtio_mock.h"

static const uint32_t devfn = PCI_DEVFN(MOCK_SLOT, 0);

/* What is saved comes back as it was. */
static void check_state_moves(Device *device)
{
    VirtioPciState before, after;
    device_save(device, &before);
    CHECK_EQ(device_restore(device, &before), 0);
    device_save(device, &after);
    CHECK(!memcmp(&before, &after, sizeof before));
    before.queue_vectors[0] = 2; /* there are two vectors */
    CHECK_EQ(device_restore(device, &before), -EINVAL);
}

static void test_capabilities(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    CHECK(mock_config_read(&mock, devfn, PCI_STATUS, 2) & PCI_STATUS_CAPABILITIES);
    uint32_t seen = 0, at = mock_config_read(&mock, devfn, PCI_CAPABILITIES, 1);
    for (; at; at = mock_config_read(&mock, devfn, at + 1, 1)) {
        if (mock_config_read(&mock, devfn, at, 1) == PCI_CAP_MSIX) {
            CHECK_EQ(mock_config_read(&mock, devfn, at + 2, 2), 1); /* two vectors */
            CHECK_EQ(mock_config_read(&mock, devfn, at + 4, 4), VIRTIO_PCI_MSIX_BAR);
            seen |= 1u << 31;
            continue;
        }
        CHECK_EQ(mock_config_read(&mock, devfn, at, 1), 9);
        uint32_t type = mock_config_read(&mock, devfn, at + 3, 1);
        uint32_t offset = mock_config_read(&mock, devfn, at + 8, 4),
                 length = mock_config_read(&mock, devfn, at + 12, 4);
        seen |= 1u << type;
        if (type != VIRTIO_PCI_CAP_PCI_CFG) {
            CHECK_EQ(mock_config_read(&mock, devfn, at + 4, 1), VIRTIO_PCI_MODERN_BAR);
            CHECK(length && offset + length <= VIRTIO_PCI_MODERN_SIZE);
        }
        if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
            CHECK_EQ(mock_config_read(&mock, devfn, at + 16, 4), VIRTIO_PCI_NOTIFY_MULTIPLIER);
    }
    CHECK_EQ(seen, 0x8000003e);
    mock_free(&mock);
}

static void test_modern_only(void)
{
    Mock mock;
    mock_new_placed(&mock, CLOCK_KIND_VIRTUAL, (VirtioPlace){.modern_only = true});
    mock_assign(&mock, 11);
    CHECK_EQ(mock_config_read(&mock, devfn, 0, 4), 0x10421af4);
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_REVISION_ID, 1), 1);
    CHECK_EQ(mock_config_read(&mock, devfn, PCI_BAR0, 4), 0);
    mock_start(&mock, true, 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    mock_free(&mock);
}

static uint64_t device_features(Mock *mock)
{
    mock_modern_write(mock, COMMON_DEVICE_FEATURE_SELECT, 4, 1);
    uint64_t features = mock_modern_read(mock, COMMON_DEVICE_FEATURE, 4) << 32;
    mock_modern_write(mock, COMMON_DEVICE_FEATURE_SELECT, 4, 0);
    features |= mock_modern_read(mock, COMMON_DEVICE_FEATURE, 4);
    mock_modern_write(mock, COMMON_DEVICE_FEATURE_SELECT, 4, 2);
    CHECK_EQ(mock_modern_read(mock, COMMON_DEVICE_FEATURE, 4), 0);
    return features;
}

static void test_negotiation(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    mock.modern = true;
    uint64_t offered = device_features(&mock);
    CHECK(offered & VIRTIO_F_VERSION_1 && offered & VIRTIO_F_EVENT_IDX && offered & VIRTIO_BLK_F_DISCARD);
    CHECK(!(offered & VIRTIO_BLK_F_RO));
    mock_set_status(&mock, 3);
    mock_write_features(&mock, VIRTIO_F_VERSION_1 | VIRTIO_BLK_F_RO); /* was not offered: refused */
    mock_set_status(&mock, 3 | VIRTIO_STATUS_FEATURES_OK);
    CHECK_EQ(mock_status(&mock), 3);
    mock_write_features(&mock, VIRTIO_F_EVENT_IDX); /* no VERSION_1 through this interface: refused */
    mock_set_status(&mock, 3 | VIRTIO_STATUS_FEATURES_OK);
    CHECK_EQ(mock_status(&mock), 3);
    mock_write_features(&mock, VIRTIO_F_VERSION_1 | VIRTIO_BLK_F_FLUSH);
    mock_set_status(&mock, 3 | VIRTIO_STATUS_FEATURES_OK);
    CHECK_EQ(mock_status(&mock), 11);
    mock_write_features(&mock, 0); /* too late */
    mock_modern_write(&mock, COMMON_DRIVER_FEATURE_SELECT, 4, 1);
    CHECK_EQ(mock_modern_read(&mock, COMMON_DRIVER_FEATURE, 4), 1);
    mock_set_status(&mock, 1); /* bits are not taken back, except all */
    CHECK_EQ(mock_status(&mock), 11);
    mock_set_status(&mock, 0);
    CHECK_EQ(mock_status(&mock), 0);
    CHECK_EQ(mock_modern_read(&mock, COMMON_CONFIG_MSIX_VECTOR, 2), 0xffff);
    mock_modern_write(&mock, COMMON_QUEUE_SELECT, 2, 1); /* no such queue */
    CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_SIZE, 2), 0);
    mock_modern_write(&mock, COMMON_QUEUE_ENABLE, 2, 1);
    mock_modern_write(&mock, VIRTIO_PCI_NOTIFY + 4, 2, 1);
    mock_out(&mock, MOCK_IO + LEGACY_QUEUE_ADDRESS, 4, 1);
    CHECK_EQ(mock_status(&mock), 0);
    mock_free(&mock);
}

static void test_ring_not_in_ram(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Mock mock;
        char text[200];
        mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
        mock_assign(&mock, 11);
        mock_start(&mock, modern, 0);
        mock_set_status(&mock, 0);
        mock.size = 128;
        if (modern)
            mock_modern_queue(&mock, 0x900000000, MOCK_RINGS, MOCK_RINGS);
        else
            mock_out(&mock, MOCK_IO + LEGACY_QUEUE_ADDRESS, 4, 0xffffffff);
        CHECK(mock_status(&mock) & VIRTIO_STATUS_NEEDS_RESET);
        CHECK(event_log_take(mock.board->log, text, sizeof text) && strstr(text, "ring is not in RAM"));
        mock_set_status(&mock, VIRTIO_STATUS_DRIVER_OK); /* §2.1.2: told as soon as the driver listens */
        CHECK_EQ(mock_isr(&mock), VIRTIO_ISR_CONFIG);
        mock_set_status(&mock, 0);
        CHECK_EQ(mock_status(&mock), 0);
        mock_start(&mock, modern, 0); /* a reset leads out */
        CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
        mock_free(&mock);
    }
}

static void test_interrupt(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Mock mock;
        MockIrqs irqs = {0};
        mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
        irq_router_add_sink(mock.board->irqs, mock_irq_sink, &irqs);
        mock_assign(&mock, 11);
        mock_start(&mock, modern, 0);
        CHECK(!irqs.level[11]);
        mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        CHECK(irqs.level[11]);
        CHECK(mock_config_read(&mock, devfn, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
        mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        CHECK(irqs.level[11] && irqs.edges[11] == 1); /* a level: still up */
        CHECK_EQ(mock_isr(&mock), VIRTIO_ISR_QUEUE);
        CHECK(!irqs.level[11]);
        CHECK_EQ(mock_isr(&mock), 0);
        mock.avail_ring->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
        mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        CHECK(!irqs.level[11]);
        mock.avail_ring->flags = 0;
        mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        CHECK(irqs.level[11]);
        mock_set_status(&mock, 0); /* reset takes the interrupt back */
        CHECK(!irqs.level[11]);
        mock_free(&mock);
    }
}

/* What board_msi() was given. */
typedef struct Messages {
    uint32_t count;
    uint64_t address;
    uint32_t data;
} Messages;

static int take_message(void *opaque, uint64_t address, uint32_t data)
{
    Messages *messages = opaque;
    *messages = (Messages){.count = messages->count + 1, .address = address, .data = data};
    return 1;
}

enum { MSIX_MMIO = 0xe0100000, MSIX_ON = 0x8000, MSIX_MASK_ALL = 0x4000 };

static uint32_t find_capability(Mock *mock, uint32_t id)
{
    uint32_t at = mock_config_read(mock, devfn, PCI_CAPABILITIES, 1);
    while (at && mock_config_read(mock, devfn, at, 1) != id)
        at = mock_config_read(mock, devfn, at + 1, 1);
    return at;
}

static void msix_entry(Mock *mock, uint32_t vector, uint64_t address, uint32_t data, uint32_t control)
{
    uint64_t at = MSIX_MMIO + 16 * vector;
    bus_write(mock->board->mmio, at, 8, address);
    bus_write(mock->board->mmio, at + 8, 4, data);
    bus_write(mock->board->mmio, at + 12, 4, control);
}

static uint64_t msix_pending(Mock *mock)
{
    uint64_t bits;
    bus_read(mock->board->mmio, MSIX_MMIO + VIRTIO_PCI_MSIX_PENDING, 8, &bits);
    return bits;
}

/* PCI 3.0 §6.8.2, virtio 1.2 §4.1.5.1.2: masks, pending bits, no INTx#, no queue bit in the ISR status. */
static void test_msix(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Mock mock;
        MockIrqs irqs = {0};
        Messages seen = {0};
        mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
        irq_router_add_sink(mock.board->irqs, mock_irq_sink, &irqs);
        mock.board->msi = take_message, mock.board->msi_irqchip = &seen;
        mock_assign(&mock, 11);
        mock_config_write(&mock, devfn, PCI_BAR0 + 4, 4, MSIX_MMIO);
        uint32_t control = find_capability(&mock, PCI_CAP_MSIX) + 2;
        uint64_t masked;
        bus_read(mock.board->mmio, MSIX_MMIO + 12, 4, &masked);
        CHECK_EQ(masked, 1); /* §6.8.2.9: after reset */
        mock_start(&mock, modern, 0);
        mock_config_write(&mock, devfn, control, 2, MSIX_ON);
        msix_entry(&mock, 1, 0xfee00000, 0x4055, 0);
        if (modern) {
            CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_MSIX_VECTOR, 2), VIRTIO_NO_VECTOR);
            mock_modern_write(&mock, COMMON_QUEUE_MSIX_VECTOR, 2, 2); /* there is none */
            CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_MSIX_VECTOR, 2), VIRTIO_NO_VECTOR);
            mock_modern_write(&mock, COMMON_QUEUE_MSIX_VECTOR, 2, 1);
            CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_MSIX_VECTOR, 2), 1);
        } else {
            CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_CONFIG + 4, 4), MOCK_DISK / 512); /* moved by 4 */
            CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_QUEUE_VECTOR, 2), VIRTIO_NO_VECTOR);
            mock_out(&mock, MOCK_IO + LEGACY_QUEUE_VECTOR, 2, 1);
            CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_QUEUE_VECTOR, 2), 1);
        }
        mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        CHECK_EQ(seen.count, 1);
        CHECK(seen.address == 0xfee00000 && seen.data == 0x4055);
        CHECK(!irqs.level[11] && msix_pending(&mock) == 0);
        CHECK_EQ(mock_isr(&mock), 0);
        bus_write(mock.board->mmio, MSIX_MMIO + 16 + 12, 4, 1); /* the vector's mask */
        mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        CHECK(seen.count == 1 && msix_pending(&mock) == 2);
        bus_write(mock.board->mmio, MSIX_MMIO + VIRTIO_PCI_MSIX_PENDING, 8, 0); /* read-only */
        CHECK_EQ(msix_pending(&mock), 2);
        bus_write(mock.board->mmio, MSIX_MMIO + 16 + 12, 4, 0);
        CHECK(seen.count == 2 && msix_pending(&mock) == 0);
        mock_config_write(&mock, devfn, control, 2, MSIX_ON | MSIX_MASK_ALL);
        mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        CHECK(seen.count == 2 && msix_pending(&mock) == 2);
        mock_config_write(&mock, devfn, control, 2, MSIX_ON);
        CHECK_EQ(seen.count, 3);
        check_state_moves(mock.blk);
        virtio_blk_resized(mock.blk); /* no vector for configuration changes: the ISR status only */
        CHECK(seen.count == 3 && !irqs.level[11]);
        mock_config_write(&mock, devfn, control, 2, 0);
        CHECK(irqs.level[11]); /* what the ISR status holds comes by INTx# now */
        CHECK_EQ(mock_isr(&mock), VIRTIO_ISR_CONFIG);
        CHECK(!irqs.level[11]);
        mock_free(&mock);
    }
}

static void test_config_space(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, true, VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_FLUSH);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE, 8), MOCK_DISK / 512);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE + 4, 4), 0);
    CHECK_EQ(mock_in(&mock, MOCK_IO + LEGACY_CONFIG, 4), MOCK_DISK / 512);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_SEG_MAX, 4), 254);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_SIZE, 4), UINT32_MAX);
    mock_modern_write(&mock, VIRTIO_PCI_DEVICE, 4, 1);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE, 4), MOCK_DISK / 512);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_WRITEBACK, 1), 1);
    mock_modern_write(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_WRITEBACK, 1, 0);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_WRITEBACK, 1), 0);
    uint64_t before = mock_modern_read(&mock, COMMON_CONFIG_GENERATION, 1);
    CHECK_EQ(truncate(mock.path, MOCK_DISK), 0);
    virtio_blk_resized(mock.blk);
    CHECK_EQ(mock_modern_read(&mock, COMMON_CONFIG_GENERATION, 1), before + 1);
    CHECK_EQ(mock_isr(&mock), VIRTIO_ISR_CONFIG);
    mock_free(&mock);
}

/* §4.1.4.9: the whole of a request without any BAR mapped. */
static void test_window(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    uint32_t at = mock_config_read(&mock, devfn, PCI_CAPABILITIES, 1);
    while (mock_config_read(&mock, devfn, at + 3, 1) != VIRTIO_PCI_CAP_PCI_CFG)
        at = mock_config_read(&mock, devfn, at + 1, 1);
    mock_config_write(&mock, devfn, at + 4, 1, VIRTIO_PCI_MODERN_BAR);
    mock_config_write(&mock, devfn, at + 8, 4, VIRTIO_PCI_DEVICE);
    mock_config_write(&mock, devfn, at + 12, 4, 4);
    CHECK_EQ(mock_config_read(&mock, devfn, at + 16, 4), MOCK_DISK / 512);
    mock_config_write(&mock, devfn, at + 8, 4, COMMON_DEVICE_STATUS);
    mock_config_write(&mock, devfn, at + 12, 4, 1);
    mock_config_write(&mock, devfn, at + 16, 1, 3);
    CHECK_EQ(mock_config_read(&mock, devfn, at + 16, 1), 3);
    static const uint32_t bad[][3] = {{4, 0x4000, 1}, {4, 0x3ffe, 4}, {4, 1, 2},   {9, 0, 4},         {4, 0, 3},
                                      {4, 0, 8},      {1, 0, 4},      {0, 128, 1}, {4, 0xfffffffc, 4}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        mock_config_write(&mock, devfn, at + 4, 1, bad[i][0]);
        mock_config_write(&mock, devfn, at + 8, 4, bad[i][1]);
        mock_config_write(&mock, devfn, at + 12, 4, bad[i][2]);
        mock_config_write(&mock, devfn, at + 16, 4, 0x11223344);
        CHECK_EQ(mock_config_read(&mock, devfn, at + 16, 4), 0x11223344); /* a plain register then */
    }
    mock_config_write(&mock, devfn, at + 4, 1, 0); /* the legacy registers too */
    mock_config_write(&mock, devfn, at + 8, 4, LEGACY_DEVICE_STATUS);
    mock_config_write(&mock, devfn, at + 12, 4, 1);
    CHECK_EQ(mock_config_read(&mock, devfn, at + 16, 1), 3);
    mock_free(&mock);
}

static void test_bus_master(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    mock_start(&mock, true, 0);
    mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock_kick(&mock);
    CHECK_EQ(mock_used_idx(&mock), 0); /* PCI 3.0 §6.2.2: may not reach memory */
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    CHECK_EQ(mock_used_idx(&mock), 1);
    mock_free(&mock);
}

static void test_saved_state(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Mock mock;
        MockIrqs irqs = {0};
        VirtioPciState *state = calloc(1, sizeof *state), *again = calloc(1, sizeof *again);
        mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
        irq_router_add_sink(mock.board->irqs, mock_irq_sink, &irqs);
        CHECK_EQ(device_state_size(mock.blk), sizeof *state);
        mock_assign(&mock, 11);
        mock_start(&mock, modern, VIRTIO_F_EVENT_IDX | VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_CONFIG_WCE);
        for (int i = 0; i < 5; i++)
            mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        device_save(mock.blk, state);
        CHECK_EQ(state->virtio.queues[0].last_avail, 5);
        device_reset(mock.blk);
        CHECK(!irqs.level[11]);
        CHECK_EQ(device_restore(mock.blk, state), 0);
        CHECK(irqs.level[11]);
        device_save(mock.blk, again);
        CHECK_EQ(memcmp(state, again, sizeof *state), 0);
        CHECK_EQ(mock_isr(&mock), VIRTIO_ISR_QUEUE);
        CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 1, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
        for (int i = 0; i < 4; i++) {
            *again = *state;
            if (i == 0)
                again->virtio.queues[0].size = 100;
            else if (i == 1)
                again->virtio.queues[0].device = UINT64_MAX & ~15ull;
            else if (i == 2)
                again->virtio.driver_features |= 1ull << 63;
            else
                again->isr = 0x80;
            CHECK_EQ(device_restore(mock.blk, again), -EINVAL);
        }
        free(state);
        free(again);
        mock_free(&mock);
    }
}

/* §2.6.1: one queue goes and comes back while the device lives on. */
static void test_queue_reset(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, true, 0); /* not negotiated: nothing happens */
    mock_modern_write(&mock, COMMON_QUEUE_RESET, 2, 1);
    CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_ENABLE, 2), 1);
    mock_start(&mock, true, VIRTIO_F_RING_RESET);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    mock_modern_write(&mock, COMMON_QUEUE_RESET, 2, 0); /* only 1 does it */
    CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_ENABLE, 2), 1);
    mock_modern_write(&mock, COMMON_QUEUE_RESET, 2, 1);
    CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_RESET, 2), 0);
    CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_ENABLE, 2), 0);
    CHECK_EQ(mock_modern_read(&mock, COMMON_QUEUE_SIZE, 2), VIRTIO_BLK_MAX_QUEUE_SIZE);
    mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock_kick(&mock);
    CHECK_EQ(mock_used_idx(&mock), 1); /* nobody looks */
    memset(mock.desc, 0, 0x4000);
    mock.avail = mock.used = 0;
    mock_modern_queue(&mock, MOCK_RINGS, MOCK_RINGS + 16u * mock.size, mock_used_gpa(&mock));
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 1, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_status(&mock) & VIRTIO_STATUS_NEEDS_RESET, 0);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_capabilities);
    RUN(test_modern_only);
    RUN(test_queue_reset);
    RUN(test_negotiation);
    RUN(test_ring_not_in_ram);
    RUN(test_interrupt);
    RUN(test_msix);
    RUN(test_config_space);
    RUN(test_window);
    RUN(test_bus_master);
    RUN(test_saved_state);
    return 0;
}
