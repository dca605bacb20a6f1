/* vCPUs, devices' lines, messages, timers, saving and resetting at one set of APICs: for the sanitizers, and for an
 * end. */
#include <pthread.h>

#include "device_check.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"

enum { GUESTS = 3, STEPS = 20000, LAPICS = 3 };
#define IOAPIC_BASE 0xfec00000u

typedef struct Rig {
    Board *board;
    Lapic *lapics[LAPICS];
    Device *ioapic;
    IrqLine *lines[4];
    IntrPin pins[LAPICS];
    uint32_t running; /* atomic: how many guests are */
} Rig;

typedef struct Guest {
    Rig *rig;
    uint32_t seed;
} Guest;

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(*seed >> 8) * below >> 24);
}

static void step(Rig *rig, uint32_t *seed)
{
    static const uint16_t REGISTERS[] = {LAPIC_TPR,           LAPIC_EOI,           LAPIC_SVR,
                                         LAPIC_ESR,           LAPIC_ICR,           LAPIC_ICR_HIGH,
                                         LAPIC_LVT_TIMER,     LAPIC_LVT_LINT0,     LAPIC_LVT_ERROR,
                                         LAPIC_TIMER_INITIAL, LAPIC_TIMER_CURRENT, LAPIC_TIMER_DIVIDE};
    Bus *mmio = rig->board->mmio;
    Lapic *lapic = rig->lapics[draw(seed, LAPICS)];
    uint64_t value;
    uint32_t at = REGISTERS[draw(seed, ARRAY_SIZE(REGISTERS))];
    switch (draw(seed, 9)) {
    case 0:
        bus_write(mmio, LAPIC_DEFAULT_BASE + LAPIC_SVR, 4, 0x1ff);
        bus_write(mmio, LAPIC_DEFAULT_BASE + LAPIC_LVT_TIMER, 4, 0x40 | draw(seed, 3) << 17);
        bus_write(mmio, LAPIC_DEFAULT_BASE + LAPIC_TIMER_INITIAL, 4, 1 + draw(seed, 3000));
        break;
    case 1: /* no INIT: that is a reset of the machine */
        bus_write(mmio, LAPIC_DEFAULT_BASE + at, 4, draw(seed, 1 << 20) & (at == LAPIC_ICR ? ~0x700u : ~0u));
        break;
    case 2:
        device_read(lapic_device(lapic), 0, at, 4);
        break;
    case 3:
        board_msi(rig->board, LAPIC_DEFAULT_BASE | draw(seed, 4) << 12,
                  0x30 + draw(seed, 8) + (draw(seed, 2) << 15));
        break;
    case 4:
        irq_line_set(rig->lines[draw(seed, 4)], draw(seed, 2));
        break;
    case 5:
        bus_write(mmio, IOAPIC_BASE, 4, 0x10 + draw(seed, 16));
        bus_write(mmio, IOAPIC_BASE + 0x10, 4, 0x30 + draw(seed, 8) + (draw(seed, 2) << 15));
        break;
    case 6:
        lapic_write_msr(lapic, draw(seed, 2) ? MSR_IA32_TSC_DEADLINE : MSR_IA32_APIC_BASE,
                        LAPIC_DEFAULT_BASE | (draw(seed, 4) ? APIC_BASE_ENABLE : 0) | (draw(seed, 8) ? 0 : 0x400));
        lapic_read_msr(lapic, MSR_IA32_APIC_BASE, &value);
        break;
    case 7:
        lapic_acknowledge(lapic);
        break;
    default:
        lapic_set_cr8(lapic, (uint8_t)draw(seed, 4));
        lapic_set_tsc_offset(lapic, draw(seed, 1000));
    }
}

static void *guest_main(void *opaque)
{
    Guest *guest = opaque;
    for (uint32_t i = 0; i < STEPS; i++)
        step(guest->rig, &guest->seed);
    __atomic_fetch_sub(&guest->rig->running, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

int main(void)
{
    Error error = {0};
    Rig *rig = calloc(1, sizeof *rig);
    CHECK(rig);
    rig->board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(rig->board);
    for (uint32_t i = 0; i < LAPICS; i++) {
        CHECK(rig->lapics[i] = lapic_new(rig->board, i, &error));
        if (i)
            lapic_set_pin(rig->lapics[i], &rig->pins[i]);
    }
    CHECK(rig->ioapic = ioapic_new(rig->board, rig->board->irqs, 2, &error));
    CHECK_EQ(device_map(rig->ioapic, rig->board->mmio, IOAPIC_BASE, IOAPIC_REGION_SIZE, 0, &error), 0);
    for (uint32_t i = 0; i < 4; i++)
        rig->lines[i] = irq_line_new(rig->board->irqs, i);
    CHECK_EQ(io_thread_start(rig->board->io, &error), 0);
    rig->running = GUESTS;
    Guest guests[GUESTS];
    pthread_t threads[GUESTS];
    for (uint32_t i = 0; i < GUESTS; i++) {
        guests[i] = (Guest){rig, i + 1};
        CHECK_EQ(pthread_create(&threads[i], NULL, guest_main, &guests[i]), 0);
    }
    for (uint32_t i = 0; __atomic_load_n(&rig->running, __ATOMIC_SEQ_CST); i++) {
        Device *local = lapic_device(rig->lapics[i % LAPICS]);
        LapicState state;
        IoApicState io;
        device_save(local, &state); /* what a guest can bring about is a state that can be restored */
        CHECK_EQ(device_restore(local, &state), 0);
        device_save(rig->ioapic, &io);
        CHECK_EQ(device_restore(rig->ioapic, &io), 0);
        if (i % 64 == 0)
            device_reset(local);
        if (i % 64 == 32)
            device_reset(rig->ioapic);
    }
    for (uint32_t i = 0; i < GUESTS; i++)
        pthread_join(threads[i], NULL);
    board_stop_io(rig->board);
    puts("ok vCPUs, lines, messages and timers at one set of APICs");
    device_free(rig->ioapic);
    for (uint32_t i = 0; i < LAPICS; i++)
        device_free(lapic_device(rig->lapics[i]));
    board_free(rig->board);
    free(rig);
    return 0;
}
