/*
 * The board's local APIC under KVM without an irqchip in the kernel. Its page is on the MMIO bus; its timer, its
 * messages and its output are the board's. Two of its registers are the processor's too, and pass through kvm_run
 * (api.rst 5, struct kvm_run): CR8, which KVM_RUN takes in and gives back, and IA32_APIC_BASE, which it gives back.
 *
 * Left out: x2APIC and the TSC deadline, whose MSRs KVM keeps to itself: CPUID does not show them, and KVM answers
 * #GP to who tries x2APIC.
 */
#include "irq/lapic.h"
#include "kvm/vm.h"

static Lapic *find(const KvmVcpu *vcpu)
{
    return vcpu->vm->irqchip == IRQCHIP_USER ? apic_bus_lapic(vcpu->board->apics, vcpu->base.index) : NULL;
}

bool kvm_has_board_apic(const KvmVcpu *vcpu) { return find(vcpu) != NULL; }

void kvm_board_apic_enter(KvmVcpu *vcpu)
{
    const Lapic *lapic = find(vcpu);
    if (lapic)
        vcpu->run->cr8 = lapic_cr8(lapic);
}

/* What differs from the board's is what the guest wrote since: nobody else does while a vCPU runs. */
void kvm_board_apic_leave(KvmVcpu *vcpu)
{
    Lapic *lapic = find(vcpu);
    if (!lapic)
        return;
    if (unlikely((vcpu->run->cr8 & 15) != lapic_cr8(lapic)))
        lapic_set_cr8(lapic, (uint8_t)vcpu->run->cr8 & 15);
    if (unlikely(vcpu->run->apic_base != vcpu->apic_base)) {
        vcpu->apic_base = vcpu->run->apic_base;
        lapic_set_base(lapic, vcpu->apic_base);
    }
}

void kvm_board_apic_get(const KvmVcpu *vcpu, CpuState *state)
{
    const Lapic *lapic = find(vcpu);
    if (!lapic)
        return;
    state->cr8 = lapic_cr8(lapic);
    state->apic_base = lapic_base(lapic);
}

void kvm_board_apic_set(KvmVcpu *vcpu, const CpuState *state)
{
    Lapic *lapic = find(vcpu);
    if (!lapic)
        return;
    lapic_set_base(lapic, state->apic_base);
    if (lapic_cr8(lapic) != (state->cr8 & 15))
        lapic_set_cr8(lapic, state->cr8 & 15);
}
