/*
 * Interrupt controllers in the kernel: KVM_CREATE_IRQCHIP (api.rst 4.24) makes the 8259 pair, an I/O APIC, and a
 * local APIC in each vCPU. The board's lines reach them by KVM_IRQ_LINE (4.25), and messages by KVM_SIGNAL_MSI
 * (4.71) or an irqfd (routes.c).
 *
 * Meanwhile the board's own 8259 pair interrupts nobody, and shows KVM's registers (EngineIrqchip in irq/irq.h).
 * KVM's has no single and no level mode (ICW1 bits 1 and 3) and no ICW3 to read; what it does not keep is set as
 * the PC's wiring has it.
 *
 * Left out: the kernel's PIT (KVM_CREATE_PIT2): it counts by the host's clock, pause or not, and the board's own is
 * as good for a device that interrupts a hundred times a second.
 */
#include "devices/device.h"
#include "irq/i8259.h"
#include "irq/ioapic.h"
#include "kvm/vm.h"

enum {
    CASCADE = 2,
    IOAPIC_MASKED = 1 << 16,
    ICW1 = 0x10,
    ICW1_IC4 = 0x01,
    ICW4_8086 = 0x01,
    ICW4_AEOI = 0x02,
    ICW4_SFNM = 0x10,
    ELCR_MASTER = 0xf8,
    ELCR_SLAVE = 0xde,
    LAPIC_SVR = 0xf0,
    LAPIC_LVT_LINT1 = 0x360,
    SVR_ENABLED = 1 << 8,
    LVT_MASKED = 1 << 16,
    LVT_MODE = 7 << 8,
    LVT_MODE_NMI = 4 << 8,
};

static KvmVm *vm_of(EngineVm *base) { return container_of(base, KvmVm, base); }

/* ---- The 8259 pair ------------------------------------------------------------------------------------------ */

static void chip_out(I8259ChipState *to, const struct kvm_pic_state *from)
{
    uint8_t lines = to->lines;
    *to = (I8259ChipState){
        .irr = from->irr,
        .imr = from->imr,
        .isr = from->isr,
        .lines = lines,
        .elcr = from->elcr,
        .icw1 = ICW1 | (from->init4 ? ICW1_IC4 : 0),
        .icw2 = from->irq_base & 0xf8,
        .icw4 = ICW4_8086 | (from->auto_eoi ? ICW4_AEOI : 0) | (from->special_fully_nested_mode ? ICW4_SFNM : 0),
        .next_icw = from->init_state ? from->init_state + 1 : 0,
        .lowest = (from->priority_add + 7) & 7,
        .read_isr = from->read_reg_select,
        .poll = from->poll,
        .special_mask = from->special_mask,
        .rotate_aeoi = from->rotate_on_auto_eoi,
    };
}

static void chip_in(struct kvm_pic_state *to, const I8259ChipState *from, uint8_t elcr_mask)
{
    *to = (struct kvm_pic_state){
        .last_irr = from->lines,
        .irr = from->irr,
        .imr = from->imr,
        .isr = from->isr,
        .priority_add = (from->lowest + 1) & 7,
        .irq_base = from->icw2,
        .read_reg_select = from->read_isr,
        .poll = from->poll,
        .special_mask = from->special_mask,
        .init_state = from->next_icw ? from->next_icw - 1 : 0,
        .auto_eoi = (from->icw4 & ICW4_AEOI) != 0,
        .rotate_on_auto_eoi = from->rotate_aeoi,
        .special_fully_nested_mode = (from->icw4 & ICW4_SFNM) != 0,
        .init4 = (from->icw1 & ICW1_IC4) != 0,
        .elcr = from->elcr & elcr_mask,
        .elcr_mask = elcr_mask,
    };
}

static int pic_get(void *engine, void *state)
{
    KvmVm *vm = engine;
    I8259State *pic = state;
    for (uint32_t id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_PIC_SLAVE; id++) {
        struct kvm_irqchip chip = {.chip_id = id};
        int result = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);
        if (result < 0)
            return result;
        chip_out(id == KVM_IRQCHIP_PIC_MASTER ? &pic->master : &pic->slave, &chip.chip.pic);
    }
    pic->master.icw3 = 1 << CASCADE;
    pic->slave.icw3 = CASCADE;
    return 0;
}

static int pic_set(void *engine, const void *state)
{
    KvmVm *vm = engine;
    const I8259State *pic = state;
    struct kvm_irqchip master = {.chip_id = KVM_IRQCHIP_PIC_MASTER}, slave = {.chip_id = KVM_IRQCHIP_PIC_SLAVE};
    chip_in(&master.chip.pic, &pic->master, ELCR_MASTER);
    chip_in(&slave.chip.pic, &pic->slave, ELCR_SLAVE);
    master.chip.pic.last_irr &= (uint8_t) ~(1u << CASCADE); /* KVM pulses it */
    int result = kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &slave);
    return result < 0 ? result : kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &master);
}

static const EngineIrqchip IN_KERNEL = {
    .pic_get = pic_get, .pic_set = pic_set, .ioapic_get = kvm_ioapic_get, .ioapic_set = kvm_ioapic_set};

/* ---- Lines -------------------------------------------------------------------------------------------------- */

static void set_line(KvmVm *vm, uint32_t gsi, bool level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level};
    kvm_ioctl(vm->fd, KVM_IRQ_LINE, &line);
}

static void on_line(void *opaque, uint32_t gsi, bool level) { set_line(opaque, gsi, level); }

int kvm_irqchip_create(KvmVm *vm, Error *error)
{
    if (vm->irqchip == IRQCHIP_USER)
        return 0;
    if (vm->irqchip == IRQCHIP_SPLIT)
        return kvm_split_create(vm, error);
    int result = kvm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, NULL);
    if (result < 0)
        return error_set(error, -result, "KVM_CREATE_IRQCHIP: %s; use --irqchip user with one vCPU",
                         strerror(-result));
    result = kvm_set_routing(vm);
    return result < 0 ? error_set(error, -result, "KVM_SET_GSI_ROUTING: %s", strerror(-result)) : 0;
}

static int send_msi(void *opaque, uint64_t address, uint32_t data)
{
    KvmVm *vm = opaque;
    struct kvm_msi msi = {.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    return kvm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

/* ---- Between the board's devices and KVM -------------------------------------------------------------------- */

static void take_board(KvmVm *vm)
{
    Board *board = vm->base.board;
    vm->holds_board = true;
    if (vm->irqchip == IRQCHIP_SPLIT) {
        kvm_split_take_board(vm);
    } else {
        board->irqchip_engine = vm;
        board->irqchip = &IN_KERNEL;
    }
    vm->board_msi = board->msi, vm->board_msi_irqchip = board->msi_irqchip, vm->board_lint1 = board->lint1_edge;
    board->msi = send_msi, board->msi_irqchip = vm;
    board->lint1_edge = NULL; /* edges wait for the vCPU, which asks its APIC */
    if (vm->has_irqfd)
        irqfds_attach(board->irqfds, &KVM_IRQFDS, vm);
}

void kvm_irqchip_let_go(KvmVm *vm)
{
    Board *board = vm->base.board;
    if (!vm->holds_board)
        return;
    irqfds_attach(board->irqfds, NULL, NULL);
    board->msi = vm->board_msi, board->msi_irqchip = vm->board_msi_irqchip, board->lint1_edge = vm->board_lint1;
    vm->holds_board = false;
    if (vm->irqchip == IRQCHIP_SPLIT) {
        kvm_split_let_go(vm);
        return;
    }
    irq_router_remove_sink(board->irqs, on_line, vm);
    board->irqchip = NULL;
    board->irqchip_engine = NULL;
}

typedef struct Chips {
    I8259State pic;
    IoApicState ioapic;
} Chips;

static void save_chips(const Board *board, Chips *chips)
{
    if (board->pic)
        device_save(board->pic, &chips->pic);
    if (board->ioapic)
        device_save(board->ioapic, &chips->ioapic);
}

static int restore_chips(const Board *board, const Chips *chips)
{
    int result = board->pic ? device_restore(board->pic, &chips->pic) : 0;
    return result == 0 && board->ioapic ? device_restore(board->ioapic, &chips->ioapic) : result;
}

int kvm_irqchip_load(EngineVm *base)
{
    KvmVm *vm = vm_of(base);
    Board *board = base->board;
    if (vm->irqchip == IRQCHIP_USER || vm->holds_board)
        return 0;
    if (vm->irqchip == IRQCHIP_SPLIT) {
        take_board(vm);
        int result = kvm_lapics_load(vm);
        if (result < 0)
            kvm_irqchip_let_go(vm);
        return result;
    }
    Chips chips;
    save_chips(board, &chips);
    int result = irq_router_add_sink(board->irqs, on_line, vm);
    if (result < 0)
        return result;
    take_board(vm);
    uint32_t levels = irq_router_levels(board->irqs);
    for (uint32_t gsi = 0; gsi < IRQ_GSI_COUNT; gsi++)
        set_line(vm, gsi, levels >> gsi & 1);
    result = restore_chips(board, &chips);
    if (result == 0)
        result = kvm_lapics_load(vm);
    if (result < 0) {
        kvm_irqchip_let_go(vm);
        restore_chips(board, &chips);
    }
    return result;
}

/* The board's devices take all of it first, while it is still KVM's too: what they refuse stays there. */
int kvm_irqchip_store(EngineVm *base)
{
    KvmVm *vm = vm_of(base);
    Board *board = base->board;
    if (!vm->holds_board)
        return 0;
    Chips chips;
    irqfds_attach(board->irqfds, NULL, NULL); /* what was signalled is in the APICs then */
    bool are_kvms = vm->irqchip == IRQCHIP_KERNEL;
    if (are_kvms)
        save_chips(board, &chips);
    int result = are_kvms ? restore_chips(board, &chips) : 0;
    if (result == 0)
        result = kvm_lapics_store(vm);
    if (result < 0) {
        if (vm->has_irqfd)
            irqfds_attach(board->irqfds, &KVM_IRQFDS, vm);
        return result;
    }
    kvm_irqchip_let_go(vm);
    return are_kvms ? restore_chips(board, &chips) : 0; /* now their outputs count */
}

/* The 8259s are reset by the board's device; what has no device yet, here. */
int kvm_irqchip_reset(KvmVm *vm)
{
    if (vm->irqchip != IRQCHIP_KERNEL)
        return 0;
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    int result = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);
    if (result < 0)
        return result;
    chip.chip.ioapic.id = 0;
    chip.chip.ioapic.ioregsel = 0;
    for (size_t pin = 0; pin < ARRAY_SIZE(chip.chip.ioapic.redirtbl); pin++)
        chip.chip.ioapic.redirtbl[pin].bits = IOAPIC_MASKED;
    return kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
}

static uint32_t lapic_register(const struct kvm_lapic_state *lapic, uint32_t offset)
{
    return load_le32((const uint8_t *)lapic->regs + offset);
}

/* The board's NMI source is wired to LINT1 (api.rst 4.64). A guest that has not enabled its local APIC has it as
 * firmware leaves it, in virtual wire mode (MP specification 1.4 §3.6.2.2). */
bool kvm_lint1_takes_nmi(KvmVcpu *vcpu)
{
    struct kvm_lapic_state lapic;
    if (vcpu->vm->irqchip == IRQCHIP_USER || kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic) < 0 ||
        !(lapic_register(&lapic, LAPIC_SVR) & SVR_ENABLED))
        return true;
    uint32_t lint1 = lapic_register(&lapic, LAPIC_LVT_LINT1);
    return !(lint1 & LVT_MASKED) && (lint1 & LVT_MODE) == LVT_MODE_NMI;
}
