/*
 * What comes by wires, written from the 82093AA datasheet (§3) and PCI 3.0 §6.8 by who did not write the devices:
 * the I/O APIC's inputs, remote IRR over several sources, its EOI register, and MSI-X between masks and pending
 * bits.
 */
#include "apic_check.h"
#include "devices/pci_msi.h"

typedef struct Bench {
    Board *board;
    Lapic *lapic;
    Device *ioapic;
    IrqLine *line[IOAPIC_PINS];
} Bench;

static void bench_make(Bench *bench)
{
    Error error = {0};
    *bench = (Bench){.board = test_board()};
    bench->lapic = make_lapic(bench->board, 0);
    bench->ioapic = ioapic_new(bench->board, bench->board->irqs, 2, &error);
    CHECK(bench->ioapic);
    for (uint32_t gsi = 0; gsi < IOAPIC_PINS; gsi++)
        bench->line[gsi] = irq_line_new(bench->board->irqs, gsi);
}

static void bench_drop(Bench *bench)
{
    device_free(bench->ioapic);
    drop_lapic(bench->lapic);
    board_free(bench->board);
}

static uint32_t rd(Bench *bench, uint32_t index)
{
    device_write(bench->ioapic, 0, IOAPIC_REGSEL, 4, index);
    return (uint32_t)device_read(bench->ioapic, 0, IOAPIC_WINDOW, 4);
}

static void wr(Bench *bench, uint32_t index, uint32_t value)
{
    device_write(bench->ioapic, 0, IOAPIC_REGSEL, 4, index);
    device_write(bench->ioapic, 0, IOAPIC_WINDOW, 4, value);
}

static void route(Bench *bench, uint32_t pin, uint32_t low) { wr(bench, IOAPIC_INDEX_TABLE + 2 * pin, low); }

static uint32_t low_of(Bench *bench, uint32_t pin) { return rd(bench, IOAPIC_INDEX_TABLE + 2 * pin); }

static int take(Bench *bench) { return intr_pin_acknowledge(&bench->board->intr); }

static void eoi(Bench *bench) { set_reg(bench->lapic, LAPIC_EOI, 0); }

/* §3.2: every input with its entry; GSI 0 at input 2, and nothing at input 0. */
static void test_inputs(void)
{
    Bench bench;
    bench_make(&bench);
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        route(&bench, pin, 0x40 + pin);
    for (uint32_t gsi = 0; gsi < IOAPIC_PINS; gsi++) {
        irq_line_pulse(bench.line[gsi]);
        int vector = take(&bench);
        CHECK_EQ(vector, gsi == 0 ? 0x42 : gsi == 2 ? -1 : 0x40 + (int)gsi);
        if (vector >= 0)
            eoi(&bench);
    }
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        for (uint32_t half = 0; half < 2; half++) { /* each half is its own register */
            uint32_t index = IOAPIC_INDEX_TABLE + 2 * pin + half;
            wr(&bench, index, half ? 0xa5000000 | pin : RTE_MASK | pin);
            CHECK_EQ(rd(&bench, index), half ? 0xa5000000 : RTE_MASK | pin);
        }
    for (uint32_t index = 0; index < 256; index++) /* beyond the table */
        if (index > 2 && (index < 0x10 || index >= 0x40)) {
            wr(&bench, index, UINT32_MAX);
            CHECK_EQ(rd(&bench, index), 0);
        }
    check_save_restore(bench.ioapic);
    bench_drop(&bench);
}

/* §3.2.4 bit 16: edges on a masked input are neither delivered nor held; a level is looked at when it is unmasked.
 */
static void test_masks(void)
{
    Bench bench;
    bench_make(&bench);
    route(&bench, 5, RTE_MASK | 0x55);
    irq_line_set(bench.line[5], true);
    route(&bench, 5, 0x55);
    CHECK_EQ(take(&bench), -1);
    irq_line_set(bench.line[5], false);
    irq_line_set(bench.line[5], true);
    CHECK_EQ(take(&bench), 0x55);
    eoi(&bench);
    /* Accepted before the mask came: the local APIC keeps it, and its EOI finds the masked entry. */
    route(&bench, 6, RTE_LEVEL | 0x66);
    irq_line_set(bench.line[6], true);
    route(&bench, 6, RTE_MASK | RTE_LEVEL | 0x66);
    CHECK(low_of(&bench, 6) & RTE_IRR);
    CHECK_EQ(take(&bench), 0x66);
    eoi(&bench);
    CHECK(!(low_of(&bench, 6) & RTE_IRR));
    CHECK_EQ(take(&bench), -1);
    route(&bench, 6, RTE_LEVEL | 0x66);
    CHECK_EQ(take(&bench), 0x66);
    irq_line_set(bench.line[6], false); /* gone before its EOI: once is enough */
    eoi(&bench);
    CHECK_EQ(take(&bench), -1);
    /* Low-active is how the wire is driven, and the lines here say "asserted". */
    route(&bench, 7, 1 << 13 | 0x77);
    irq_line_set(bench.line[7], true);
    CHECK_EQ(take(&bench), 0x77);
    eoi(&bench);
    irq_line_set(bench.line[7], false);
    CHECK_EQ(take(&bench), -1);
    bench_drop(&bench);
}

/* §3.2.4 bit 14, SDM 3A §11.8.5: several level sources, on one vector and one input, and who ends them. */
static void test_remote_irr(void)
{
    Bench bench;
    bench_make(&bench);
    IrqLine *shared = irq_line_new(bench.board->irqs, 16);
    for (uint32_t pin = 16; pin < 20; pin++)
        route(&bench, pin, RTE_LEVEL | (pin == 19 ? 0x62u : 0x61u));
    for (uint32_t gsi = 16; gsi < 20; gsi++)
        irq_line_set(bench.line[gsi], true);
    for (uint32_t pin = 16; pin < 20; pin++)
        CHECK(low_of(&bench, pin) & RTE_IRR);
    CHECK_EQ(take(&bench), 0x62);
    irq_line_set(bench.line[19], false);
    eoi(&bench); /* ends 0x62 alone */
    CHECK(!(low_of(&bench, 19) & RTE_IRR) && low_of(&bench, 16) & RTE_IRR);
    CHECK_EQ(take(&bench), 0x61);
    irq_line_set(shared, true);
    irq_line_set(bench.line[16], false); /* the other holds the input */
    irq_line_set(bench.line[17], false);
    eoi(&bench);
    CHECK(low_of(&bench, 16) & RTE_IRR && !(low_of(&bench, 17) & RTE_IRR) && low_of(&bench, 18) & RTE_IRR);
    CHECK_EQ(take(&bench), 0x61);
    /* In the middle of it all the machine is saved and put back. */
    LapicState lapic;
    IoApicState ioapic;
    device_save(lapic_device(bench.lapic), &lapic);
    device_save(bench.ioapic, &ioapic);
    device_reset(bench.ioapic);
    device_reset(lapic_device(bench.lapic));
    CHECK_EQ(device_restore(bench.ioapic, &ioapic), 0);
    CHECK_EQ(device_restore(lapic_device(bench.lapic), &lapic), 0);
    irq_line_set(bench.line[18], false);
    irq_line_set(shared, false);
    eoi(&bench);
    CHECK_EQ(take(&bench), -1);
    for (uint32_t pin = 16; pin < 20; pin++)
        CHECK(!(low_of(&bench, pin) & RTE_IRR));
    /* An edge has no remote IRR, and its EOI is told to nobody. */
    route(&bench, 20, 0x63);
    irq_line_set(bench.line[20], true);
    CHECK(!(low_of(&bench, 20) & RTE_IRR) && !has_bit(bench.lapic, LAPIC_TMR, 0x63));
    CHECK_EQ(take(&bench), 0x63);
    eoi(&bench);
    /* The EOI register takes a vector, in its lowest byte, and needs no local APIC's. */
    set_reg(bench.lapic, LAPIC_SVR, 0x1000 | SVR_ON);
    irq_line_set(bench.line[19], true);
    CHECK_EQ(take(&bench), 0x62);
    eoi(&bench);
    CHECK(low_of(&bench, 19) & RTE_IRR);
    device_write(bench.ioapic, 0, IOAPIC_EOI, 4, 0xffffff62);
    CHECK_EQ(take(&bench), 0x62); /* the line is still up */
    irq_line_set(bench.line[19], false);
    device_write(bench.ioapic, 0, IOAPIC_EOI, 4, 0x62);
    CHECK(!(low_of(&bench, 19) & RTE_IRR));
    bench_drop(&bench);
}

/* §3.2.4 bits 8 to 10: NMI and INIT are edges; 011b and 110b are reserved, a wire starts no processor. */
static void test_modes(void)
{
    Bench bench;
    bench_make(&bench);
    for (uint32_t mode = 0; mode < 8; mode++) {
        route(&bench, 9, mode << 8 | 0x88);
        irq_line_pulse(bench.line[9]);
        CHECK_EQ(bench.board->nmi_pending, mode >= APIC_NMI);
        CHECK_EQ(bench.board->system_request, mode >= APIC_INIT ? SYSTEM_RESET : SYSTEM_NONE);
        CHECK_EQ(take(&bench), mode <= APIC_LOWEST_PRIORITY ? 0x88 : -1);
        if (mode <= APIC_LOWEST_PRIORITY)
            eoi(&bench);
    }
    route(&bench, 9, 0x05); /* a vector that the local APIC refuses, §11.5.3 there */
    irq_line_pulse(bench.line[9]);
    CHECK_EQ(errors(bench.lapic), 0x40);
    bench_drop(&bench);
}

/* MSI-X ----------------------------------------------------------------------------------------------------------
 */

typedef struct Messages {
    uint32_t count;
    uint64_t address;
    uint32_t data;
} Messages;

static int note(void *opaque, uint64_t address, uint32_t data)
{
    Messages *messages = opaque;
    *messages = (Messages){messages->count + 1, address, data};
    return 1;
}

static const DeviceClass endpoint_class = {.name = "endpoint"};
enum { VECTORS = 5, TABLE = 0x100, PENDING = 0x800, BAR = 2 };

static void store(PciMsix *msix, uint32_t vector, uint32_t at, uint32_t size, uint64_t value)
{
    pci_msix_write(msix, TABLE + 16 * vector + at, size, value);
}

static void control(PciMsix *msix, uint16_t value)
{
    store_le16(msix->function->config + msix->capability + 2, value);
    pci_msix_config_written(msix, msix->capability + 2, 2);
}

/* PCI 3.0 §6.8.2 and §6.8.3 */
static void test_msix(void)
{
    Board *board = test_board();
    Device device;
    PciFunction function;
    PciMsix msix;
    Messages seen = {0};
    board->msi = note, board->msi_irqchip = &seen;
    device_init(&device, &endpoint_class, board);
    static const DeviceOps NO_OPS = {0};
    pci_function_init(&function, &device, &(PciIdentity){.vendor_id = 0x1af4, .device_id = 0x1000}, NULL);
    CHECK_EQ(pci_function_add_bar(&function, BAR, 0x1000, PCI_BAR_MEMORY, &NO_OPS, NULL, 0, NULL), 0);
    CHECK_EQ(pci_msix_init(&msix, &function, VECTORS, BAR, TABLE + 4, PENDING), -EINVAL); /* not on 8 bytes */
    CHECK_EQ(pci_msix_init(&msix, &function, VECTORS, BAR, 0xfc0, PENDING), -EINVAL);     /* beyond the BAR */
    CHECK_EQ(pci_msix_init(&msix, &function, VECTORS, BAR, TABLE, TABLE + 0x40), -EINVAL);
    CHECK_EQ(pci_msix_init(&msix, &function, 0, BAR, TABLE, PENDING), -EINVAL);
    CHECK_EQ(pci_msix_init(&msix, &function, VECTORS, BAR, TABLE, PENDING), 0);
    const uint8_t *capability = function.config + msix.capability;
    CHECK_EQ(capability[0], 0x11);
    CHECK_EQ(load_le16(capability + 2) & 0x7ff, VECTORS - 1); /* N is encoded as N - 1 */
    CHECK_EQ(load_le32(capability + 4), TABLE | BAR);
    CHECK_EQ(load_le32(capability + 8), PENDING | BAR);
    store_le16(function.config + PCI_COMMAND, PCI_COMMAND_MASTER);
    for (uint32_t vector = 0; vector < VECTORS; vector++) {
        CHECK_EQ(pci_msix_read(&msix, TABLE + 16 * vector + 12, 4), 1); /* masked */
        store(&msix, vector, 0, 8, 0xfee00003ull | vector << 12);
        CHECK_EQ(pci_msix_read(&msix, TABLE + 16 * vector, 8), 0xfee00000ull | vector << 12);
        store(&msix, vector, 8, 4, 0x4000 + vector);
        store(&msix, vector, 12, 4, vector == 3 ? UINT32_MAX : UINT32_MAX - 1); /* bits 31:1 are reserved */
        CHECK_EQ(pci_msix_read(&msix, TABLE + 16 * vector + 12, 4), vector == 3);
    }
    pci_msix_notify(&msix, 0); /* not enabled: nothing, and nothing is held */
    CHECK(seen.count == 0 && msix.pending == 0);
    control(&msix, 0x8000 | 0x4000);
    for (uint32_t vector = 0; vector < VECTORS + 60; vector++)
        pci_msix_notify(&msix, vector); /* function mask; beyond the table there is nobody */
    CHECK_EQ(seen.count, 0);
    CHECK_EQ(pci_msix_read(&msix, PENDING, 8), 0x1f);
    CHECK_EQ(pci_msix_read(&msix, PENDING, 4), 0x1f);
    CHECK_EQ(pci_msix_read(&msix, PENDING + 4, 4), 0);
    pci_msix_write(&msix, PENDING, 8, 0); /* read-only */
    CHECK_EQ(pci_msix_read(&msix, PENDING, 8), 0x1f);
    PciMsixState state;
    pci_msix_save(&msix, &state);
    pci_msix_reset(&msix);
    CHECK_EQ(msix.pending, 0);
    CHECK_EQ(pci_msix_restore(&msix, &state), 0);
    control(&msix, 0x8000);
    CHECK_EQ(seen.count, VECTORS - 1); /* once each, but the one that is masked by itself */
    CHECK(seen.address == 0xfee04000 && seen.data == 0x4004);
    CHECK_EQ(pci_msix_read(&msix, PENDING, 8), 8);
    store(&msix, 3, 8, 8, 0x55); /* data and mask in one store: what goes out is the new one */
    CHECK(seen.count == VECTORS && seen.data == 0x55 && msix.pending == 0);
    store_le16(function.config + PCI_COMMAND, 0); /* no bus master: no message leaves */
    pci_msix_notify(&msix, 1);
    CHECK(seen.count == VECTORS && msix.pending == 2);
    store_le16(function.config + PCI_COMMAND, PCI_COMMAND_MASTER);
    pci_msix_config_written(&msix, PCI_COMMAND, 2);
    CHECK(seen.count == VECTORS + 1 && msix.pending == 0);
    /* §6.8.2: double words and quad words, aligned; the table's end. */
    for (uint32_t size = 1; size <= 8; size *= 2)
        for (uint32_t at = 0; at < 16 * VECTORS; at++)
            if (size < 4 || at % size)
                pci_msix_write(&msix, TABLE + at, size, UINT64_MAX);
    CHECK_EQ(pci_msix_read(&msix, TABLE, 4), 0xfee00000);
    CHECK(pci_msix_covers(&msix, TABLE) && pci_msix_covers(&msix, TABLE + 16 * VECTORS - 1));
    CHECK(!pci_msix_covers(&msix, TABLE - 1) && !pci_msix_covers(&msix, TABLE + 16 * VECTORS));
    CHECK(pci_msix_covers(&msix, PENDING + 7) && !pci_msix_covers(&msix, PENDING + 8));
    pci_msix_write(&msix, TABLE + 16 * VECTORS, 4, UINT32_MAX);
    state.pending = 1 << VECTORS;
    CHECK_EQ(pci_msix_restore(&msix, &state), -EINVAL);
    /* MSI beside it, §6.8.1: wanted, granted, and the low bits of the data. */
    int msi = pci_msi_init(&function, 4);
    CHECK(msi > 0 && pci_msi_init(&function, 3) == -EINVAL && pci_msi_init(&function, 64) == -EINVAL);
    CHECK_EQ(load_le16(function.config + msi + 2), 0x84);
    store_le64(function.config + msi + 4, 0xfee01000);
    store_le16(function.config + msi + 12, 0x4067);
    seen.count = 0;
    pci_msi_notify(&function, (uint32_t)msi, 1);
    CHECK_EQ(seen.count, 0);
    for (uint32_t granted = 0; granted < 8; granted++) {
        uint32_t count = 1u << MIN(granted, 2u); /* more than wanted, and reserved encodings, give no more */
        store_le16(function.config + msi + 2, (uint16_t)(0x85 | granted << 4));
        CHECK_EQ(pci_msi_granted(&function, (uint32_t)msi), count);
        for (uint32_t vector = 0; vector < 4; vector++) {
            pci_msi_notify(&function, (uint32_t)msi, vector);
            CHECK_EQ(seen.data, (0x4067 & ~(count - 1)) | (vector & (count - 1)));
            CHECK_EQ(seen.address, 0xfee01000);
        }
    }
    board_free(board);
}

int main(void)
{
    RUN(test_inputs);
    RUN(test_masks);
    RUN(test_remote_irr);
    RUN(test_modes);
    RUN(test_msix);
    return 0;
}
