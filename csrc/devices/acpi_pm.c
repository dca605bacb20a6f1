#include <stdlib.h>

#include "devices/acpi_pm.h"

enum { PM1_STS = 0, PM1_EN = 2, PM1_CNT = 4, PM_TMR = 8, PM_END = 12 };
enum {
    TMR = 0x0001,
    GLOBAL_LOCK = 0x0020,
    POWER_BUTTON = 0x0100,
    SLEEP_BUTTON = 0x0200,
    RTC = 0x0400,
    EVENTS = TMR | GLOBAL_LOCK | POWER_BUTTON | SLEEP_BUTTON | RTC,
    BUS_MASTER = 0x0010,
    WAKE = 0x8000,
};
enum { SCI_EN = 0x0001, SLP_TYP_SHIFT = 10, SLP_EN = 0x2000, CNT_KEPT = 0x1c03 };

typedef struct AcpiPm {
    Device device;
    IrqLine *sci;
    Timer *timer;
    AcpiPmConfig config;
    bool logged; /* a sleep type was named in the log */
    AcpiPmState state;
} AcpiPm;

static uint64_t timer_ticks(AcpiPm *pm)
{
    return clock_ns_to_ticks(clock_now(pm->device.board->clock), ACPI_PM_TIMER_HZ);
}

/* TMR_STS is set whenever the timer's top bit changes (ACPI 6.4 §4.8.3.3). */
static void sync_timer(AcpiPm *pm)
{
    uint64_t half = timer_ticks(pm) >> (pm->config.timer_bits - 1);
    if (half != pm->state.timer_half)
        pm->state.pm1_sts |= TMR;
    pm->state.timer_half = half;
}

static void acpi_pm_update(AcpiPm *pm)
{
    AcpiPmState *s = &pm->state;
    irq_line_set(pm->sci, (s->pm1_cnt & SCI_EN) && (s->pm1_sts & s->pm1_en & EVENTS));
    if ((s->pm1_en & TMR) && !(s->pm1_sts & TMR))
        timer_arm(pm->timer,
                  clock_ticks_to_ns((s->timer_half + 1) << (pm->config.timer_bits - 1), ACPI_PM_TIMER_HZ));
    else
        timer_disarm(pm->timer);
}

static void acpi_pm_expired(void *opaque)
{
    AcpiPm *pm = opaque;
    pthread_mutex_lock(&pm->device.lock);
    sync_timer(pm);
    acpi_pm_update(pm);
    pthread_mutex_unlock(&pm->device.lock);
}

void acpi_pm_power_button(Device *device)
{
    AcpiPm *pm = container_of(device, AcpiPm, device);
    pthread_mutex_lock(&device->lock);
    pm->state.pm1_sts |= POWER_BUTTON;
    acpi_pm_update(pm);
    pthread_mutex_unlock(&device->lock);
}

static void write_control(AcpiPm *pm, uint16_t value)
{
    pm->state.pm1_cnt = value & CNT_KEPT; /* SLP_EN and GBL_RLS read as 0 */
    if (!(value & SLP_EN))
        return;
    unsigned type = (value >> SLP_TYP_SHIFT) & 7;
    if (type == pm->config.s5_type) {
        board_request(pm->device.board, SYSTEM_POWEROFF, 0);
    } else if (!pm->logged) {
        pm->logged = true;
        event_log_add(pm->device.board->log, "acpi: sleep type %u is not supported, only S5 (%u)", type,
                      pm->config.s5_type);
    }
}

static uint8_t register_byte(AcpiPm *pm, uint64_t offset)
{
    const AcpiPmState *s = &pm->state;
    uint16_t word;
    switch (offset & ~1ull) {
    case PM1_STS:
        word = s->pm1_sts;
        break;
    case PM1_EN:
        word = s->pm1_en;
        break;
    case PM1_CNT:
        word = s->pm1_cnt;
        break;
    default:
        return 0;
    }
    return (uint8_t)(offset & 1 ? word >> 8 : word);
}

static uint64_t read_registers(AcpiPm *pm, uint64_t offset, uint32_t size)
{
    if (offset >= PM_TMR) {
        uint64_t ticks = timer_ticks(pm) & ((1ull << pm->config.timer_bits) - 1);
        return offset < PM_END ? ticks >> ((offset - PM_TMR) * 8) : 0;
    }
    sync_timer(pm);
    acpi_pm_update(pm);
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++)
        value |= (uint64_t)register_byte(pm, offset + i) << (i * 8);
    return value;
}

/* `mask` says which bits of the word are written: byte accesses touch half a register. */
static void write_word(AcpiPm *pm, uint64_t offset, uint16_t value, uint16_t mask)
{
    AcpiPmState *s = &pm->state;
    switch (offset) {
    case PM1_STS: /* write one to clear */
        s->pm1_sts &= ~(value & mask & (EVENTS | BUS_MASTER | WAKE));
        break;
    case PM1_EN:
        s->pm1_en = ((s->pm1_en & ~mask) | (value & mask)) & EVENTS;
        break;
    case PM1_CNT:
        write_control(pm, (uint16_t)((s->pm1_cnt & ~mask) | (value & mask)));
        break;
    default: /* the timer is read-only */
        break;
    }
}

static void write_registers(AcpiPm *pm, uint64_t offset, uint32_t size, uint64_t value)
{
    sync_timer(pm);
    for (uint64_t at = offset & ~1ull; at < offset + size; at += 2) {
        uint16_t word = 0, mask = 0;
        for (uint64_t byte = MAX(at, offset); byte < MIN(at + 2, offset + size); byte++) {
            word |= (uint16_t)(((value >> ((byte - offset) * 8)) & 0xff) << ((byte - at) * 8));
            mask |= (uint16_t)(0xff << ((byte - at) * 8));
        }
        write_word(pm, at, word, mask);
    }
    acpi_pm_update(pm);
}

static void write_smi(AcpiPm *pm, uint64_t offset, uint8_t value)
{
    AcpiPmState *s = &pm->state;
    if (offset == 1)
        s->smi_sts = value;
    if (offset)
        return;
    s->smi_cmd = value;
    if (value == pm->config.acpi_enable)
        s->pm1_cnt |= SCI_EN;
    else if (value == pm->config.acpi_disable)
        s->pm1_cnt &= ~SCI_EN;
    acpi_pm_update(pm);
}

static uint64_t acpi_pm_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    AcpiPm *pm = opaque;
    if (region == ACPI_PM_REGION_REGISTERS)
        return read_registers(pm, offset, size);
    uint16_t both = pm->state.smi_cmd | pm->state.smi_sts << 8;
    return offset ? both >> 8 : both;
}

static void acpi_pm_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    AcpiPm *pm = opaque;
    if (region == ACPI_PM_REGION_REGISTERS) {
        write_registers(pm, offset, MIN(size, 8u), value);
        return;
    }
    for (uint32_t i = 0; i < size && i < 2; i++)
        write_smi(pm, offset + i, (uint8_t)(value >> (i * 8)));
}

static void acpi_pm_reset(Device *device)
{
    AcpiPm *pm = container_of(device, AcpiPm, device);
    pm->state = (AcpiPmState){0};
    sync_timer(pm);
    pm->state.pm1_sts = 0;
    acpi_pm_update(pm);
}

static void acpi_pm_destroy(Device *device) { timer_free(container_of(device, AcpiPm, device)->timer); }

static void acpi_pm_save(Device *device, void *state)
{
    AcpiPm *pm = container_of(device, AcpiPm, device);
    sync_timer(pm);
    acpi_pm_update(pm);
    *(AcpiPmState *)state = pm->state;
}

static int acpi_pm_restore(Device *device, const void *state)
{
    AcpiPm *pm = container_of(device, AcpiPm, device);
    AcpiPmState saved = *(const AcpiPmState *)state;
    /* Whatever the file says, a timer is never set to a time that the arithmetic cannot hold. */
    if (saved.timer_half > timer_ticks(pm) >> (pm->config.timer_bits - 1))
        return -EINVAL;
    if ((saved.pm1_sts & ~(EVENTS | BUS_MASTER | WAKE)) || (saved.pm1_en & ~EVENTS) || (saved.pm1_cnt & ~CNT_KEPT))
        return -EINVAL;
    pm->state = saved;
    acpi_pm_update(pm);
    return 0;
}

static const DeviceClass acpi_pm_class = {
    .name = "acpi-pm",
    .ops = {acpi_pm_read, acpi_pm_write},
    .reset = acpi_pm_reset,
    .destroy = acpi_pm_destroy,
    .state_size = sizeof(AcpiPmState),
    .state_version = ACPI_PM_STATE_VERSION,
    .save = acpi_pm_save,
    .restore = acpi_pm_restore,
};

Device *acpi_pm_new(Board *board, IrqLine *sci, const AcpiPmConfig *config)
{
    if (config->s5_type > 7 || (config->timer_bits != 24 && config->timer_bits != 32) ||
        config->acpi_enable == config->acpi_disable)
        return NULL;
    AcpiPm *pm = calloc(1, sizeof *pm);
    if (!pm)
        return NULL;
    device_init(&pm->device, &acpi_pm_class, board);
    pm->sci = sci;
    pm->config = *config;
    pm->timer = timer_new(board->clock, acpi_pm_expired, pm);
    if (!pm->timer) {
        device_free(&pm->device);
        return NULL;
    }
    acpi_pm_reset(&pm->device);
    return &pm->device;
}
