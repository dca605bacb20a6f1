/*
 * The state of I/O APIC and local APICs between the board's devices and KVM's (api.rst 4.57, 4.58
 * KVM_GET_LAPIC; 4.26, 4.27 KVM_GET_IRQCHIP), when the machine comes to KVM or leaves it.
 *
 * Registers that the guest cannot write stay each side's own. The two timers count the same nanoseconds. While KVM
 * has them, the board's local APICs do not follow: reading one of KVM's would wait for its vCPU to leave the guest.
 */
#include "devices/device.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"
#include "kvm/vm.h"

/* The I/O APIC ------------------------------------------------------------------------------------------------- */

enum { ID_SHIFT = 24, RTE_DELIVERY_STATUS = 1 << 12 };
/* KVM keeps reserved bits as the guest writes them (82093AA §3.2.4); the board's device has none. */
#define RTE_DEFINED (0xff0000000001ffffull & ~(uint64_t)RTE_DELIVERY_STATUS)

int kvm_ioapic_get(void *engine, void *opaque)
{
    const KvmVm *vm = engine;
    IoApicState *state = opaque;
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    int result = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);
    if (result < 0)
        return result;
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        state->redirection[pin] = chip.chip.ioapic.redirtbl[pin].bits & RTE_DEFINED;
    state->id = (chip.chip.ioapic.id & 15) << ID_SHIFT;
    state->select = (uint8_t)chip.chip.ioapic.ioregsel;
    return 0;
}

int kvm_ioapic_set(void *engine, const void *opaque)
{
    const KvmVm *vm = engine;
    const IoApicState *state = opaque;
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    int result = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);
    if (result < 0)
        return result;
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        chip.chip.ioapic.redirtbl[pin].bits = state->redirection[pin];
    chip.chip.ioapic.id = state->id >> ID_SHIFT;
    chip.chip.ioapic.ioregsel = state->select;
    return kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
}

/* Local APICs ---------------------------------------------------------------------------------------------------
 */

static const struct {
    uint16_t first, last;
} MOVED[] = {
    {LAPIC_TPR, LAPIC_TPR},
    {LAPIC_LDR, LAPIC_SVR},
    {LAPIC_ISR, LAPIC_ESR},
    {LAPIC_ICR, LAPIC_TIMER_CURRENT},
    {LAPIC_TIMER_DIVIDE, LAPIC_TIMER_DIVIDE},
};

static void move_registers(uint8_t *to, const uint8_t *from)
{
    for (size_t i = 0; i < ARRAY_SIZE(MOVED); i++)
        for (uint32_t offset = MOVED[i].first; offset <= MOVED[i].last; offset += 16)
            memcpy(to + offset, from + offset, 4);
}

static uint32_t divider(const uint8_t *regs) /* SDM 3A figure 11-10 */
{
    uint32_t divide = load_le32(regs + LAPIC_TIMER_DIVIDE);
    return 1u << ((((divide & 3) | (divide >> 1 & 4)) + 1) & 7);
}

static Lapic *device_of(const Vcpu *vcpu, const CpuTopology *topology)
{
    return apic_bus_lapic(vcpu->vm->board->apics, cpu_topology_apic_id(topology, vcpu->index));
}

static int set_base(KvmVcpu *vcpu, uint64_t base)
{
    struct kvm_sregs sregs;
    int result = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
    if (result < 0 || sregs.apic_base == base)
        return result;
    sregs.apic_base = base;
    return kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
}

static int load_lapic(KvmVcpu *vcpu, Lapic *lapic)
{
    LapicState state;
    struct kvm_lapic_state kernel;
    device_save(lapic_device(lapic), &state);
    int result = set_base(vcpu, state.apic_base);
    if (result == 0)
        result = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &kernel);
    if (result < 0)
        return result;
    move_registers((uint8_t *)kernel.regs, state.regs);
    result = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &kernel);
    if (result == 0 && state.tsc_deadline)
        kvm_write_msr(vcpu, MSR_IA32_TSC_DEADLINE, state.tsc_deadline); /* anew when time goes on (time.c) */
    return result;
}

/* What KVM lets a guest leave in its registers, and the board's device does not have. */
static void drop_reserved(uint8_t *regs)
{
    for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
        store_le32(regs + lvt, load_le32(regs + lvt) & ~(uint32_t)RTE_DELIVERY_STATUS);
    store_le32(regs + LAPIC_IRR, load_le32(regs + LAPIC_IRR) & 0xffff0000); /* vectors 0 to 15: SDM 3A §11.5.2 */
    store_le32(regs + LAPIC_ISR, load_le32(regs + LAPIC_ISR) & 0xffff0000);
    store_le32(regs + LAPIC_TIMER_DIVIDE, load_le32(regs + LAPIC_TIMER_DIVIDE) & 0xb);
}

/* The board's timer stands still while KVM's counts. */
static int stop_timer(KvmVcpu *vcpu, Lapic *lapic)
{
    LapicState state;
    device_save(lapic_device(lapic), &state);
    state.timer_deadline = CLOCK_NEVER;
    state.tsc_deadline = 0;
    return device_restore(lapic_device(lapic), &state);
}

static int store_lapic(KvmVcpu *vcpu, Lapic *lapic)
{
    LapicState state;
    struct kvm_lapic_state kernel;
    struct kvm_sregs sregs;
    device_save(lapic_device(lapic), &state);
    int result = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &kernel);
    if (result == 0)
        result = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
    if (result < 0)
        return result;
    move_registers(state.regs, (const uint8_t *)kernel.regs);
    drop_reserved(state.regs);
    state.apic_base = sregs.apic_base;
    uint64_t left = load_le32(state.regs + LAPIC_TIMER_CURRENT);
    state.timer_deadline = left ? clock_now(vcpu->board->clock) + left * divider(state.regs) : CLOCK_NEVER;
    if (!kvm_read_msr(vcpu, MSR_IA32_TSC_DEADLINE, &state.tsc_deadline))
        state.tsc_deadline = 0;
    return device_restore(lapic_device(lapic), &state);
}

static int each_lapic(KvmVm *vm, int (*move)(KvmVcpu *vcpu, Lapic *lapic))
{
    int result = 0;
    for (Vcpu *vcpu = vm->base.vcpus; vcpu && result == 0; vcpu = vcpu->next) {
        Lapic *lapic = device_of(vcpu, &vm->topology);
        if (lapic)
            result = move(kvm_vcpu_of(vcpu), lapic);
    }
    return result;
}

int kvm_lapics_load(KvmVm *vm)
{
    int result = each_lapic(vm, load_lapic);
    return result == 0 ? each_lapic(vm, stop_timer) : result;
}

int kvm_lapics_store(KvmVm *vm)
{
    int result = each_lapic(vm, store_lapic);
    if (result < 0)
        each_lapic(vm, stop_timer);
    return result;
}
