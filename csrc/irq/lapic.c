/* The local APIC as a device: its page, its wires to the board, reset and saved state. */
#include <stdlib.h>

#include "irq/lapic_internal.h"

/* ---- The page, §11.4.1: registers of 32 bits on 16-byte boundaries, read and written whole ------------------ */

static uint64_t lapic_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    Lapic *lapic = opaque;
    uint32_t at = (uint32_t)offset & ~15u, byte = (uint32_t)offset & 15;
    uint64_t value = 0;
    apic_bus_lock(lapic->bus);
    if (!lapic_register_exists(at))
        lapic_error_locked(lapic, ERROR_REGISTER);
    else if (byte < 4)
        value = lapic_read_register_locked(lapic, at) >> (8 * byte);
    apic_bus_unlock(lapic->bus);
    return value;
}

/* Whatever is no whole register is undefined, and does nothing here. */
static void lapic_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Lapic *lapic = opaque;
    apic_bus_lock(lapic->bus);
    if (!lapic_register_exists((uint32_t)offset & ~15u))
        lapic_error_locked(lapic, ERROR_REGISTER);
    else if (size == 4 && offset % 16 == 0)
        lapic_write_register_locked(lapic, (uint32_t)offset, (uint32_t)value);
    apic_bus_unlock(lapic->bus);
}

/* ---- Wires -------------------------------------------------------------------------------------------------- */

static int acknowledge(void *irqchip) { return lapic_acknowledge(irqchip); }

static void extint_changed(void *sink, bool level)
{
    Lapic *lapic = sink;
    apic_bus_lock(lapic->bus);
    bool rose = level && !lapic->extint;
    lapic->extint = level;
    lapic_serve_lint0_locked(lapic, rose);
    lapic_update_pin_locked(lapic);
    apic_bus_unlock(lapic->bus);
}

/* The board's NMI source. False: LINT1 does not take it. */
static bool lint1_edge(void *sink)
{
    Lapic *lapic = sink;
    apic_bus_lock(lapic->bus);
    bool taken = lapic_enabled_locked(lapic) && !(lapic_get(lapic, LAPIC_LVT_LINT1) & LVT_MASKED);
    if (taken)
        lapic_fire_lvt_locked(lapic, LAPIC_LVT_LINT1);
    apic_bus_unlock(lapic->bus);
    return taken;
}

static int deliver_msi(void *irqchip, uint64_t address, uint32_t data)
{
    return (int)apic_bus_msi(irqchip, address, data);
}

/* Between the 8259 pair and the CPU's pin. */
static void connect_bootstrap(Lapic *lapic)
{
    Board *board = lapic->device.board;
    lapic->pin = &board->intr;
    board->intr.acknowledge = acknowledge;
    board->intr.irqchip = lapic;
    board->lint1_edge = lint1_edge;
    board->lint1 = lapic;
    board->msi = deliver_msi;
    board->msi_irqchip = lapic->bus;
    ext_int_connect(&board->extint, extint_changed, lapic);
}

static void disconnect_bootstrap(Lapic *lapic)
{
    Board *board = lapic->device.board;
    board->lint1_edge = NULL;
    board->msi = NULL;
    board->intr.acknowledge = NULL;
    board->intr.irqchip = NULL;
    ext_int_connect(&board->extint, NULL, NULL);
}

/* ---- Life --------------------------------------------------------------------------------------------------- */

static void lapic_reset(Device *device)
{
    Lapic *lapic = container_of(device, Lapic, device);
    apic_bus_lock(lapic->bus);
    uint64_t base = LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE | (lapic->id == 0 ? APIC_BASE_BSP : 0);
    __atomic_store_n(&lapic->base, base, __ATOMIC_RELEASE);
    lapic_reset_registers_locked(lapic);
    lapic_place_locked(lapic);
    apic_bus_unlock(lapic->bus);
}

static void lapic_destroy(Device *device)
{
    Lapic *lapic = container_of(device, Lapic, device);
    timer_free(lapic->timer);
    if (lapic->mapped)
        bus_remove(device->board->mmio, lapic->mapped);
    if (apic_bus_lapic(lapic->bus, lapic->id) != lapic)
        return;
    apic_bus_remove_lapic(lapic->bus, lapic->id);
    if (lapic->id == 0)
        disconnect_bootstrap(lapic);
}

static void lapic_save(Device *device, void *opaque)
{
    Lapic *lapic = container_of(device, Lapic, device);
    LapicState *state = opaque;
    apic_bus_lock(lapic->bus);
    lapic_timer_settle_locked(lapic);
    memcpy(state->regs, lapic->regs, sizeof state->regs);
    uint32_t current = lapic_timer_current_locked(lapic), ppr = lapic_ppr_locked(lapic);
    memcpy(state->regs + LAPIC_TIMER_CURRENT, &current, sizeof current);
    memcpy(state->regs + LAPIC_PPR, &ppr, sizeof ppr);
    state->apic_base = lapic->base;
    state->tsc_deadline = lapic->tsc_deadline;
    state->tsc_offset = lapic->tsc_offset;
    state->timer_deadline = lapic->deadline;
    state->errors = lapic->errors;
    state->extint = lapic->extint;
    apic_bus_unlock(lapic->bus);
}

/* What the guest can put into its registers, and no more. */
static bool state_is_valid(const Lapic *lapic, const LapicState *state)
{
    if (!lapic_base_is_legal(lapic, state->apic_base) || state->extint > 1 || state->errors & ~0xffu)
        return false;
    if ((state->apic_base ^ lapic->base) & APIC_BASE_BSP)
        return false;
    for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
        if (load_le32(state->regs + lvt) & ~(lapic_writable_bits(lvt) | lapic_read_only_bits(lvt)))
            return false;
    /* Vectors 0 to 15 are never accepted. */
    uint32_t first = load_le32(state->regs + LAPIC_IRR) | load_le32(state->regs + LAPIC_ISR);
    return !(first & 0xffff) && load_le32(state->regs + LAPIC_TPR) <= 0xff &&
           !(load_le32(state->regs + LAPIC_TIMER_DIVIDE) & ~lapic_writable_bits(LAPIC_TIMER_DIVIDE)) &&
           load_le32(state->regs + LAPIC_VERSION) == lapic_get(lapic, LAPIC_VERSION);
}

static int lapic_restore(Device *device, const void *opaque)
{
    Lapic *lapic = container_of(device, Lapic, device);
    const LapicState *state = opaque;
    apic_bus_lock(lapic->bus);
    bool valid = state_is_valid(lapic, state);
    if (valid) {
        memcpy(lapic->regs, state->regs, sizeof lapic->regs);
        __atomic_store_n(&lapic->base, state->apic_base, __ATOMIC_RELEASE);
        lapic->tsc_deadline = state->tsc_deadline;
        lapic->tsc_offset = state->tsc_offset;
        lapic->deadline = state->timer_deadline;
        lapic->errors = state->errors;
        lapic_place_locked(lapic);
        lapic_timer_arm_locked(lapic);
        lapic_serve_lint0_locked(lapic, false);
        lapic_update_pin_locked(lapic);
    }
    apic_bus_unlock(lapic->bus);
    return valid ? 0 : -EINVAL;
}

static const DeviceClass lapic_class = {
    .name = "lapic",
    .ops = {lapic_read, lapic_write},
    .reset = lapic_reset,
    .destroy = lapic_destroy,
    .state_size = sizeof(LapicState),
    .state_version = LAPIC_STATE_VERSION,
    .save = lapic_save,
    .restore = lapic_restore,
};

Lapic *lapic_new(Board *board, uint32_t id, Error *error)
{
    Lapic *lapic = calloc(1, sizeof *lapic);
    if (!lapic) {
        error_set(error, ENOMEM, "no host memory for a local APIC");
        return NULL;
    }
    device_init(&lapic->device, &lapic_class, board);
    lapic->bus = board->apics;
    lapic->id = id;
    lapic->x2apic_allowed = true;
    int result = lapic_timer_init(lapic);
    if (result == 0)
        result = apic_bus_add_lapic(lapic->bus, lapic, id);
    if (result < 0) {
        error_set(error, -result, "local APIC %u: %s", id,
                  result == -EEXIST   ? "there is one with this ID already"
                  : result == -ERANGE ? "its ID is not one of 0 to 254"
                                      : "no host memory");
        device_free(&lapic->device);
        return NULL;
    }
    if (id == 0)
        connect_bootstrap(lapic);
    lapic_reset(&lapic->device);
    if (id == 0 && !lapic->mapped) {
        error_set(error, EEXIST, "local APIC: something else is at %#llx", LAPIC_DEFAULT_BASE);
        device_free(&lapic->device);
        return NULL;
    }
    return lapic;
}

Device *lapic_device(Lapic *lapic) { return &lapic->device; }

uint32_t lapic_id(const Lapic *lapic) { return lapic->id; }

void lapic_connect(Lapic *lapic, const LapicCpu *cpu)
{
    apic_bus_lock(lapic->bus);
    lapic->cpu = *cpu;
    apic_bus_unlock(lapic->bus);
}

void lapic_set_pin(Lapic *lapic, IntrPin *pin)
{
    apic_bus_lock(lapic->bus);
    lapic->pin = pin;
    lapic_update_pin_locked(lapic);
    apic_bus_unlock(lapic->bus);
}

void lapic_allow_x2apic(Lapic *lapic, bool allowed) { lapic->x2apic_allowed = allowed; }
