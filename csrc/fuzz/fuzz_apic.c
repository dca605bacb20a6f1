/*
 * A driver that does anything to local APICs, the I/O APIC, the 8259 pair behind LINT0 and an MSI-X table: accesses
 * of any size anywhere, MSRs, messages, wires that change, acknowledges, time that passes, changed saved states. It
 * must neither crash nor hang; priorities hold; what was saved can be put back; and after a reset a vector comes
 * through.
 */
#include <stdlib.h>

#include "devices/pci_msi.h"
#include "fuzz/input.h"
#include "irq/i8259.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"

enum { LAPICS = 3, LINES = 6, MSIX_VECTORS = 9, MSIX_TABLE = 0x40, MSIX_PENDING = 0x800 };

typedef struct Rig {
    Board *board;
    Lapic *lapic[LAPICS];
    IntrPin pin[LAPICS];
    Device *ioapic, *pic;
    IrqLine *line[LINES];
    Device endpoint;
    PciFunction function;
    PciMsix msix;
    uint32_t heard;
} Rig;

static const DeviceClass endpoint_class = {.name = "endpoint"};

static void hear(void *opaque) { ++*(uint32_t *)opaque; }
static void hear_startup(void *opaque, uint8_t page) { *(uint32_t *)opaque += page; }

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void rig_make(Rig *rig)
{
    static const DeviceOps NO_OPS = {0};
    static const uint32_t GSIS[LINES] = {0, 1, 5, 10, 10, 23};
    Error error;
    memset(rig, 0, sizeof *rig);
    rig->board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    rig->board->tsc_hz = 2400000000;
    rig->pic = i8259_new(rig->board, rig->board->irqs);
    for (uint32_t id = 0; id < LAPICS; id++) {
        rig->lapic[id] = lapic_new(rig->board, id * 9, &error);
        if (id) {
            lapic_set_pin(rig->lapic[id], &rig->pin[id]);
            lapic_connect(rig->lapic[id], &(LapicCpu){hear, hear, hear_startup, &rig->heard});
        }
    }
    rig->ioapic = ioapic_new(rig->board, rig->board->irqs, 2, &error);
    for (uint32_t i = 0; i < LINES; i++)
        rig->line[i] = irq_line_new(rig->board->irqs, GSIS[i]);
    device_init(&rig->endpoint, &endpoint_class, rig->board);
    pci_function_init(&rig->function, &rig->endpoint, &(PciIdentity){.vendor_id = 1}, NULL);
    pci_function_add_bar(&rig->function, 0, 0x1000, PCI_BAR_MEMORY, &NO_OPS, NULL, 0, NULL);
    must(pci_msix_init(&rig->msix, &rig->function, MSIX_VECTORS, 0, MSIX_TABLE, MSIX_PENDING) == 0);
}

static void rig_drop(Rig *rig)
{
    device_free(rig->ioapic);
    for (uint32_t id = LAPICS; id-- > 0;)
        device_free(lapic_device(rig->lapic[id]));
    device_free(rig->pic);
    board_free(rig->board);
}

/* The vectors that the CPU takes are above what it works at, and are in service then. */
static void acknowledge(Lapic *lapic)
{
    LapicState before, after;
    device_save(lapic_device(lapic), &before);
    int vector = lapic_acknowledge(lapic);
    device_save(lapic_device(lapic), &after);
    must(vector >= -1 && vector <= 255);
    uint32_t at = vector < 0 ? 0 : (uint32_t)vector >> 5 << 4, bit = vector < 0 ? 0 : 1u << (vector & 31);
    if (vector >= 16 && load_le32(before.regs + LAPIC_IRR + at) & ~load_le32(after.regs + LAPIC_IRR + at) & bit) {
        must(load_le32(after.regs + LAPIC_ISR + at) & bit);
        must((uint32_t)vector >> 4 > load_le32(before.regs + LAPIC_PPR) >> 4);
    }
}

/* Registers that there are, more often than holes. */
static void access_lapic(Lapic *lapic, Input *input, bool write)
{
    uint8_t at = (uint8_t)take(input, 1);
    uint32_t size = at & 0x80 ? 4 : 1u << (at & 3);
    uint64_t offset = at & 0x80 ? (uint64_t)(at & 0x7f) << 4 : take(input, 2) % LAPIC_PAGE_SIZE;
    if (write)
        device_write(lapic_device(lapic), 0, offset, size, take(input, size));
    else
        device_read(lapic_device(lapic), 0, offset, size);
}

static void access_msr(Lapic *lapic, Input *input, bool write)
{
    uint8_t which = (uint8_t)take(input, 1);
    uint32_t index = which == 0xff ? MSR_IA32_APIC_BASE : which == 0xfe ? MSR_IA32_TSC_DEADLINE : 0x800u + which;
    uint64_t value;
    if (!write)
        lapic_read_msr(lapic, index, &value);
    else if (which == 0xff) /* mostly modes at the usual place */
        lapic_write_msr(lapic, index, which & 1 ? 0xfee00000 | (take(input, 1) & 15) << 8 : take(input, 8));
    else
        lapic_write_msr(lapic, index, take(input, which == 0x30 || which == 0xfe ? 8 : 4));
}

static void access_ioapic(Rig *rig, Input *input)
{
    uint8_t index = (uint8_t)take(input, 1);
    if (index >= 0xc0) {
        uint64_t offset = take(input, 1);
        device_write(rig->ioapic, 0, offset, 1u << (index & 3), take(input, 4));
        device_read(rig->ioapic, 0, offset, 1u << (index >> 2 & 3));
        return;
    }
    device_write(rig->ioapic, 0, IOAPIC_REGSEL, 4, index & 0x3f);
    device_write(rig->ioapic, 0, IOAPIC_WINDOW, 4, take(input, 4));
    must(index % 0x40 > 2 || index % 0x40 == 1 ||
         !(device_read(rig->ioapic, 0, IOAPIC_WINDOW, 4) & ~0x0f000000ull));
}

static void access_msix(Rig *rig, Input *input, uint8_t what)
{
    uint8_t *config = rig->function.config;
    switch (what & 3) {
    case 0: {
        uint64_t offset = take(input, 2) % 0x1000;
        if (pci_msix_covers(&rig->msix, offset))
            pci_msix_write(&rig->msix, offset, what & 4 ? 8 : 4, take(input, 8));
        break;
    }
    case 1:
        pci_msix_notify(&rig->msix, (uint32_t)take(input, 1));
        break;
    case 2:
        store_le16(config + rig->msix.capability + 2, (uint16_t)(take(input, 1) << 14 | (MSIX_VECTORS - 1)));
        config[PCI_COMMAND] = (uint8_t)take(input, 1);
        pci_msix_config_written(&rig->msix, rig->msix.capability + 2, 2);
        break;
    case 3: {
        uint64_t offset = take(input, 2) % 0x1000;
        if (pci_msix_covers(&rig->msix, offset))
            pci_msix_read(&rig->msix, offset, 1u << (what >> 2 & 3));
        break;
    }
    }
    must(!(rig->msix.pending >> MSIX_VECTORS));
}

/* As it is: it must come back. Changed: taken or refused, and what was taken can be saved and put back again. */
static void move_state(Device *device, Input *input, void *state, void *again, size_t size, bool change)
{
    device_save(device, state);
    if (change) {
        ((uint8_t *)state)[take(input, 2) % size] ^= (uint8_t)take(input, 1);
        if (device_restore(device, state) < 0)
            return;
        device_save(device, state);
    } else {
        device_reset(device);
    }
    must(device_restore(device, state) == 0);
    device_save(device, again);
    must(!memcmp(state, again, size));
}

static void move_states(Rig *rig, Input *input, uint8_t what)
{
    LapicState lapic[2];
    IoApicState ioapic[2];
    PciMsixState msix;
    bool change = what & 4;
    switch (what & 3) {
    case 0:
        move_state(rig->ioapic, input, &ioapic[0], &ioapic[1], sizeof ioapic[0], change);
        break;
    case 1:
        pci_msix_save(&rig->msix, &msix);
        if (change)
            ((uint8_t *)&msix)[take(input, 2) % sizeof msix] ^= (uint8_t)take(input, 1);
        must(pci_msix_restore(&rig->msix, &msix) == 0 || change);
        break;
    default:
        move_state(lapic_device(rig->lapic[(what >> 4) % LAPICS]), input, &lapic[0], &lapic[1], sizeof lapic[0],
                   change);
    }
}

static void step(Rig *rig, Input *input)
{
    uint8_t what = (uint8_t)take(input, 1);
    Lapic *lapic = rig->lapic[(what >> 4) % LAPICS];
    switch (what & 15) {
    case 0:
        access_lapic(lapic, input, false);
        break;
    case 1:
    case 2:
        access_lapic(lapic, input, true);
        break;
    case 3:
        access_msr(lapic, input, false);
        break;
    case 4:
    case 5:
        access_msr(lapic, input, true);
        break;
    case 6:
    case 7:
        access_ioapic(rig, input);
        break;
    case 8: {
        uint8_t line = (uint8_t)take(input, 1);
        irq_line_set(rig->line[line % LINES], line & 0x80);
        break;
    }
    case 9:
        clock_advance(rig->board->clock, take(input, what & 0x80 ? 5 : 2));
        clock_run_timers(rig->board->clock);
        break;
    case 10:
        acknowledge(lapic);
        break;
    case 11:
        board_msi(rig->board, 0xfee00000 | take(input, 3), (uint32_t)take(input, 2));
        break;
    case 12:
        access_msix(rig, input, what >> 4);
        break;
    case 13:
        move_states(rig, input, what >> 4);
        break;
    case 14:
        device_write(rig->pic, what >> 4 & 1, what >> 5 & 1, 1, take(input, 1));
        device_read(rig->pic, what >> 4 & 1, what >> 5 & 1, 1);
        break;
    case 15:
        if (what & 0x80)
            lapic_set_tsc_offset(lapic, take(input, 8));
        else if (what & 0x40)
            board_nmi(rig->board);
        else
            lapic_set_cr8(lapic, (uint8_t)take(input, 1));
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Rig rig;
    Input input = {data, MIN(size, 4096)};
    rig_make(&rig);
    while (input.left)
        step(&rig, &input);
    for (uint32_t id = 0; id < LAPICS; id++) /* all of them: one may have taken another's ID */
        device_reset(lapic_device(rig.lapic[id]));
    for (uint32_t id = 0; id < LAPICS; id++) {
        Device *device = lapic_device(rig.lapic[id]);
        device_write(device, 0, LAPIC_SVR, 4, 0x1ff);
        device_write(device, 0, LAPIC_LVT_LINT0, 4, 0x10000);
        must(board_msi(rig.board, 0xfee00000 | id * 9 << 12, 0x51) == 1);
        must(lapic_acknowledge(rig.lapic[id]) == 0x51);
    }
    rig_drop(&rig);
    return 0;
}
