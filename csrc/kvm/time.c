/*
 * The guest's own clocks over a pause: TSC and paravirtual clock (kvmclock) stand still while the machine is
 * stopped, as the board's clock does, and are the same on all vCPUs that started with the same.
 *
 * The TSC of a guest is the host's, scaled, plus an offset. Where KVM lets the offset be set (KVM_VCPU_TSC_OFFSET,
 * Documentation/virt/kvm/devices/vcpu.rst §4.1, Linux 5.16) that is exact; elsewhere the TSC is written, and KVM
 * takes writes of the same value within a second for the same offset. KVM_SET_CLOCK (api.rst 4.30) is the VM's
 * clock.
 *
 * Some KVMs without VT-x and SVM let the guest read the host's TSC as it is. There it runs on, and a vCPU's state
 * has the host's value (kvm_time_init finds out).
 *
 * A machine is made with its time stopped; the first vCPU to run lets it go on, for all.
 * Left out: the local APIC's timer in the kernel runs on while the machine is stopped, and may fire early after it;
 * only a TSC deadline is set anew.
 */
#include "kvm/vm.h"

#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL   0
#define KVM_VCPU_TSC_OFFSET 0
#endif

enum { MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6e0 };

bool kvm_read_msr(KvmVcpu *vcpu, uint32_t index, uint64_t *value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } table = {.header.nmsrs = 1, .entry.index = index};
    if (kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &table) != 1)
        return false;
    *value = table.entry.data;
    return true;
}

bool kvm_write_msr(KvmVcpu *vcpu, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } table = {.header.nmsrs = 1, .entry = {.index = index, .data = value}};
    return kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &table) == 1;
}

static int offset_attribute(KvmVcpu *vcpu, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
    return kvm_ioctl(vcpu->fd, request, &attribute);
}

void kvm_time_init(KvmVcpu *first)
{
    uint64_t before, after, far = 1ull << 40;
    first->vm->tsc_fixed = !kvm_read_msr(first, MSR_TSC, &before) || !kvm_write_msr(first, MSR_TSC, before + far) ||
                           !kvm_read_msr(first, MSR_TSC, &after) || after - before < far;
}

/* The host's TSC, scaled: a guest's less its offset. False where offsets cannot be had. */
static bool read_base(KvmVm *vm, uint64_t *base)
{
    KvmVcpu *first = kvm_vcpu_of(vm->base.vcpus);
    uint64_t offset;
    if (offset_attribute(first, KVM_GET_DEVICE_ATTR, &offset) < 0 || !kvm_read_msr(first, MSR_TSC, base))
        return false;
    *base -= offset;
    return true;
}

void kvm_time_stop(KvmVm *vm)
{
    pthread_mutex_lock(&vm->time_lock);
    if (!vm->time_stopped && vm->base.vcpus) {
        uint64_t base, offset;
        bool exact = read_base(vm, &base);
        for (Vcpu *each = vm->base.vcpus; each; each = each->next) {
            KvmVcpu *vcpu = kvm_vcpu_of(each);
            if (exact && offset_attribute(vcpu, KVM_GET_DEVICE_ATTR, &offset) == 0)
                vcpu->tsc_stopped = base + offset;
            else if (!kvm_read_msr(vcpu, MSR_TSC, &vcpu->tsc_stopped))
                vcpu->tsc_stopped = 0;
            vcpu->tsc_stopped_ns = 0;
        }
        vm->clock_ns = 0;
        vm->has_clock = kvm_ioctl(vm->fd, KVM_GET_CLOCK, &vm->clock) == 0;
        __atomic_store_n(&vm->time_stopped, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&vm->time_lock);
}

/* Since a state was set that another engine gave: time was on its way, and had not stopped. */
static uint64_t elapsed_ns(const KvmVm *vm, uint64_t since)
{
    uint64_t now = clock_now(vm->base.board->clock);
    return since && now > since ? now - since : 0;
}

static void start_tsc(KvmVcpu *vcpu, bool exact, uint64_t base)
{
    const KvmVm *vm = vcpu->vm;
    vcpu->tsc_stopped += clock_ns_to_ticks(elapsed_ns(vm, vcpu->tsc_stopped_ns), vm->base.board->tsc_hz);
    vcpu->tsc_stopped_ns = 0;
    uint64_t offset = vcpu->tsc_stopped - base, deadline;
    if (vcpu->vm->tsc_fixed)
        return;
    if (!exact || offset_attribute(vcpu, KVM_SET_DEVICE_ATTR, &offset) < 0)
        kvm_write_msr(vcpu, MSR_TSC, vcpu->tsc_stopped);
    if (vcpu->vm->irqchip != IRQCHIP_USER && kvm_read_msr(vcpu, MSR_TSC_DEADLINE, &deadline) && deadline)
        kvm_write_msr(vcpu, MSR_TSC_DEADLINE, deadline);
}

void kvm_time_start(KvmVm *vm)
{
    pthread_mutex_lock(&vm->time_lock);
    if (vm->time_stopped) {
        uint64_t base = 0;
        bool exact = read_base(vm, &base);
        for (Vcpu *each = vm->base.vcpus; each; each = each->next)
            start_tsc(kvm_vcpu_of(each), exact, base);
        if (vm->has_clock) {
            struct kvm_clock_data clock = {.clock = vm->clock.clock + elapsed_ns(vm, vm->clock_ns)};
            kvm_ioctl(vm->fd, KVM_SET_CLOCK, &clock);
            for (Vcpu *each = vm->base.vcpus; each; each = each->next)
                kvm_ioctl(kvm_vcpu_of(each)->fd, KVM_KVMCLOCK_CTRL,
                          NULL); /* its watchdogs know; EINVAL: no kvmclock */
        }
        __atomic_store_n(&vm->time_stopped, 0, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&vm->time_lock);
}
