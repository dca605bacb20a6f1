/*
 * The split irqchip (KVM_CAP_SPLIT_IRQCHIP, api.rst 7.5): local APICs are KVM's, the 8259 pair and the I/O APIC are
 * the board's devices.
 *
 * The I/O APIC's messages go to KVM by KVM_SIGNAL_MSI (api.rst 4.71). The end of a level-triggered interrupt comes
 * back as KVM_EXIT_IOAPIC_EOI; for which vectors, KVM takes from the routes of GSI 0 to 23, which hold the message
 * of each level-triggered input. The 8259 pair's output goes to the first vCPU as user-made ExtINT
 * (KVM_INTERRUPT, 4.16): KVM says that it can be taken when LINT0 of its local APIC passes it, or the local APIC is
 * off.
 *
 * Left out: a vector that the 8259 pair gave and that the first vCPU has not entered the guest with cannot be seen
 * or taken back; a reset in that moment does not end it.
 */
#include "kvm/vm.h"

/* SDM 3A figures 11-14 and 11-15. */
static MsiMessage as_msi(const ApicMessage *message)
{
    return (MsiMessage){
        .address =
            MSI_ADDRESS_BASE | (uint64_t)(message->destination & 0xff) << 12 | (uint64_t)message->logical << 2,
        .data = message->vector | (uint32_t)message->mode << 8 | 1u << 14 | (uint32_t)message->level << 15,
    };
}

static uint32_t deliver(void *opaque, const ApicMessage *message)
{
    const KvmVm *vm = opaque;
    MsiMessage msi = as_msi(message);
    struct kvm_msi request = {.address_lo = (uint32_t)msi.address, .data = msi.data};
    return kvm_ioctl(vm->fd, KVM_SIGNAL_MSI, &request) > 0;
}

static void level_pin(void *opaque, uint32_t pin, const ApicMessage *message)
{
    MsiMessage msi = message ? as_msi(message) : (MsiMessage){0};
    kvm_set_pin_route(opaque, pin, message ? &msi : NULL);
}

static const ApicBusEngine IN_KERNEL = {.deliver = deliver, .level_pin = level_pin};

/* The 8259 pair's lock is held. */
static void extint_changed(void *opaque, bool level)
{
    KvmVm *vm = opaque;
    __atomic_store_n(&vm->extint, level, __ATOMIC_SEQ_CST);
    if (level && vm->base.vcpus)
        vcpu_notify(vm->base.vcpus);
}

int kvm_split_create(KvmVm *vm, Error *error)
{
    struct kvm_enable_cap request = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IRQ_GSI_COUNT}};
    int result = kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &request);
    return result < 0 ? error_set(error, -result,
                                  "KVM_ENABLE_CAP KVM_CAP_SPLIT_IRQCHIP: %s; use --irqchip kernel, or --irqchip"
                                  " user with one vCPU",
                                  strerror(-result))
                      : 0;
}

void kvm_split_take_board(KvmVm *vm)
{
    Board *board = vm->base.board;
    vm->board_extint_changed = board->extint.changed, vm->board_extint_sink = board->extint.sink;
    apic_bus_attach(board->apics, &IN_KERNEL, vm);
    ext_int_connect(&board->extint, extint_changed, vm);
}

void kvm_split_let_go(KvmVm *vm)
{
    Board *board = vm->base.board;
    apic_bus_attach(board->apics, NULL, NULL);
    if (board->extint.sink == vm) /* else its local APIC has gone meanwhile */
        ext_int_connect(&board->extint, vm->board_extint_changed, vm->board_extint_sink);
    vm->extint = 0;
}

void kvm_split_eoi(KvmVcpu *vcpu)
{
    ApicBus *bus = vcpu->board->apics;
    apic_bus_lock(bus);
    apic_bus_eoi_locked(bus, vcpu->run->eoi.vector);
    apic_bus_unlock(bus);
}
