/*
 * Running a vCPU: events in, KVM_RUN, exits out; kicks; single step and breakpoints.
 *
 * No kick is lost. The one who kicks sets its flag and then looks at `in_guest`; the vCPU sets `in_guest` and then
 * looks at the flags: one of the two sees the other. Who sees `in_guest` sets immediate_exit and sends the signal,
 * so that KVM_RUN returns whether it had begun or not (api.rst 5, immediate_exit). A late one costs an empty
 * KVM_RUN.
 */
#include "kvm/vm.h"

enum { RFLAGS_IF_BIT = 9, OPCODE_HLT = 0xf4 };

void kvm_vcpu_notify(Vcpu *base)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    if (!__atomic_load_n(&vcpu->in_guest, __ATOMIC_SEQ_CST))
        return;
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    kvm_kick_thread(__atomic_load_n(&vcpu->thread_id, __ATOMIC_RELAXED));
}

/* The calling thread runs the vCPU from now on. */
static void adopt_thread(KvmVcpu *vcpu)
{
    __atomic_store_n(&vcpu->thread_id, kvm_kick_accept(vcpu->thread_id), __ATOMIC_RELAXED);
}

/* An interrupt that is to go in by KVM_INTERRUPT. */
static bool external_interrupt(const KvmVcpu *vcpu)
{
    switch (vcpu->vm->irqchip) {
    case IRQCHIP_USER:
        return intr_pin_level(&vcpu->board->intr);
    case IRQCHIP_SPLIT: /* the 8259 pair is wired to the first local APIC */
        return vcpu->base.index == 0 && __atomic_load_n(&vcpu->vm->extint, __ATOMIC_SEQ_CST);
    default:
        return false;
    }
}

static int acknowledge(KvmVcpu *vcpu)
{
    return vcpu->vm->irqchip == IRQCHIP_SPLIT ? ext_int_acknowledge(&vcpu->board->extint)
                                              : intr_pin_acknowledge(&vcpu->board->intr);
}

static bool asked_to_look(const KvmVcpu *vcpu)
{
    const Board *board = vcpu->board;
    return __atomic_load_n(&vcpu->base.kicked, __ATOMIC_SEQ_CST) ||
           (vcpu->base.index == 0 && (__atomic_load_n(&board->system_request, __ATOMIC_SEQ_CST) ||
                                      __atomic_load_n(&board->nmi_pending, __ATOMIC_SEQ_CST))) ||
           (external_interrupt(vcpu) && !vcpu->run->request_interrupt_window);
}

static int run_kvm(KvmVcpu *vcpu)
{
    kvm_board_apic_enter(vcpu);
    int result = kvm_run(vcpu->fd);
    kvm_board_apic_leave(vcpu);
    return result;
}

/* One KVM_RUN. -EINTR: the flags want a look; whatever was pending in KVM is as it was. */
static int enter_guest(KvmVcpu *vcpu)
{
    __atomic_store_n(&vcpu->in_guest, 1, __ATOMIC_SEQ_CST);
    int result = -EINTR;
    if (likely(!asked_to_look(vcpu))) {
        result = run_kvm(vcpu);
        vcpu->incomplete = false; /* the answer is taken before signals are looked at */
    }
    __atomic_store_n(&vcpu->in_guest, 0, __ATOMIC_RELEASE); /* who sees 1 a moment longer kicks for nothing */
    if (result == -EINTR)
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    return result;
}

/* What waits outside: an NMI, or the irqchip's interrupt if the guest can take it now; else ask to be told when.
 * Returns true with `exit` filled when a delivery is to be seen; -errno in *result when KVM refuses. */
static bool deliver_events(KvmVcpu *vcpu, VmExit *exit, int *result)
{
    Board *board = vcpu->board;
    struct kvm_run *run = vcpu->run;
    uint32_t edges = 0;
    if (vcpu->base.index == 0 && __atomic_load_n(&board->nmi_pending, __ATOMIC_RELAXED))
        edges = __atomic_exchange_n(&board->nmi_pending, 0, __ATOMIC_ACQ_REL);
    if (edges && kvm_lint1_takes_nmi(vcpu))
        for (uint32_t i = 0; i < MIN(edges, 2u) && *result == 0;
             i++) /* one to deliver, one that waits for its IRET */
            *result = kvm_ioctl(vcpu->fd, KVM_NMI, NULL);
    if (vcpu->vm->irqchip == IRQCHIP_KERNEL)
        return false;
    run->request_interrupt_window = 0;
    if (likely(!external_interrupt(vcpu)) || *result < 0)
        return false;
    /* KVM said so before the load was done, which may be that of SS or RFLAGS: ask again after it. */
    if (unlikely(vcpu->incomplete && run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write)) {
        *result = kvm_vcpu_complete(vcpu);
        if (*result < 0 || vcpu->unhandled)
            return false;
    }
    if (!run->ready_for_interrupt_injection) {
        run->request_interrupt_window = 1;
        return false;
    }
    int vector = acknowledge(vcpu);
    if (vector < 0)
        return false;
    struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};
    *result = kvm_ioctl(vcpu->fd, KVM_INTERRUPT, &interrupt);
    run->ready_for_interrupt_injection = 0;
    run->request_interrupt_window = external_interrupt(vcpu);
    vcpu->base.counters.exits[EXIT_INTERRUPT]++;
    if (!vcpu_watches(&vcpu->base, EXIT_INTERRUPT))
        return false;
    VmExit seen = {.reason = EXIT_INTERRUPT, .handled = 1, .vector = (uint32_t)vector, .rip = kvm_vcpu_rip(vcpu)};
    if (!vcpu_note_exit(&vcpu->base, &seen, 0, exit_trace_cycles()) || *result < 0)
        return false;
    *exit = seen;
    return true;
}

/* A step whose instruction left by an access: some KVMs do not report it when they take the answer. */
static bool step_finished(KvmVcpu *vcpu, VmExit *exit)
{
    if (kvm_vcpu_complete(vcpu) < 0 || vcpu->unhandled)
        return false;
    uint64_t rip = kvm_vcpu_rip(vcpu);
    if (rip == vcpu->step_rip)
        return false;
    *exit = (VmExit){.reason = EXIT_DEBUG, .rip = rip, .address = rip};
    return true;
}

/* Until an exit is to be seen above, or the common loop's flags want a look (EXIT_NONE). */
static int run_until_seen(KvmVcpu *vcpu, VmExit *exit)
{
    for (;;) {
        if (unlikely(vcpu->io_left) && kvm_answer_io(vcpu, exit))
            return 0;
        int result = 0;
        if (unlikely(vcpu->unhandled)) {
            vcpu->unhandled = false;
        } else {
            if (deliver_events(vcpu, exit, &result))
                return 0;
            if (result == 0 && unlikely(vcpu->unhandled))
                continue;
            if (result == 0)
                result = enter_guest(vcpu);
        }
        if (result == -EINTR || result == -EAGAIN)
            return 0;
        if (unlikely(vcpu->vm->a20_error))
            result = vcpu->vm->a20_error;
        if (unlikely(result < 0)) {
            kvm_describe_error(vcpu, -result, exit);
            return 0;
        }
        if (kvm_handle_exit(vcpu, exit))
            return 0;
        if (unlikely(vcpu->stepping && vcpu->incomplete) && step_finished(vcpu, exit))
            return 0;
    }
}

int kvm_vcpu_complete(KvmVcpu *vcpu)
{
    uint32_t surface = vcpu->base.surface;
    vcpu->base.surface = 0;
    int result = 0;
    while (result == 0 && !vcpu->unhandled && !vcpu->answering && (vcpu->io_left || vcpu->incomplete)) {
        VmExit exit = {0};
        if (vcpu->io_left)
            kvm_answer_io(vcpu, &exit);
        vcpu->incomplete = false;
        vcpu->run->request_interrupt_window = 0;
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        result = run_kvm(vcpu);
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (result == -EINTR || result == -EAGAIN) {
            result = 0;
            break;
        }
        uint32_t reason = vcpu->run->exit_reason;
        if (result == 0 && (reason == KVM_EXIT_IO || reason == KVM_EXIT_MMIO))
            kvm_handle_exit(vcpu, &exit); /* the next part of the same instruction */
        else if (result == 0 && reason != KVM_EXIT_INTR)
            vcpu->unhandled = true;
    }
    vcpu->base.surface = surface;
    return result;
}

uint64_t kvm_vcpu_rip(KvmVcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    if (run->kvm_valid_regs)
        return run->s.regs.sregs.cs.base + run->s.regs.regs.rip;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    if (kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0 || kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
        return 0;
    return sregs.cs.base + regs.rip;
}

uint32_t kvm_vcpu_privilege(Vcpu *base)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    struct kvm_sregs sregs;
    uint64_t rflags;
    if (vcpu->run->kvm_valid_regs) {
        sregs = vcpu->run->s.regs.sregs;
        rflags = vcpu->run->s.regs.regs.rflags;
    } else {
        struct kvm_regs regs;
        if (kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0 || kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
            return 0;
        rflags = regs.rflags;
    }
    return exit_trace_privilege(sregs.cr0 & 1, rflags >> 17 & 1, sregs.efer >> 10 & 1, sregs.cs.l, sregs.cs.db,
                                sregs.ss.dpl);
}

/* Single step and breakpoints -----------------------------------------------------------------------------------
 */

/* KVM_SET_GUEST_DEBUG (api.rst 4.87): breakpoints in the debug registers, which the guest then does not have. */
static int set_guest_debug(KvmVcpu *vcpu, bool step, bool breakpoints)
{
    struct kvm_guest_debug debug = {0};
    if (step)
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    if (breakpoints && vcpu->breakpoint_count) {
        debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[7] = 0x400;
        for (size_t i = 0; i < vcpu->breakpoint_count; i++) {
            debug.arch.debugreg[i] = vcpu->breakpoints[i];
            debug.arch.debugreg[7] |= 2ull << (2 * i); /* Gi; type and length 0: execution (SDM 3B §17.2.4) */
        }
    }
    return kvm_ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug);
}

static uint8_t opcode_at(KvmVcpu *vcpu, uint64_t rip)
{
    struct kvm_translation translation = {.linear_address = rip};
    uint8_t opcode = 0;
    if (kvm_ioctl(vcpu->fd, KVM_TRANSLATE, &translation) == 0 && translation.valid)
        guest_memory_read(vcpu->board->memory, translation.physical_address, &opcode, 1);
    return opcode;
}

/* One instruction; EXIT_DEBUG when it was executed and nothing else came of it. */
static int step_instruction(KvmVcpu *vcpu, VmExit *exit)
{
    int result = kvm_vcpu_complete(vcpu);
    if (result < 0)
        return result;
    uint64_t rip = kvm_vcpu_rip(vcpu);
    bool halts = opcode_at(vcpu, rip) == OPCODE_HLT;
    result = set_guest_debug(vcpu, true, false);
    if (result < 0)
        return result;
    vcpu->stepping = true;
    vcpu->step_rip = rip;
    result = run_until_seen(vcpu, exit);
    vcpu->stepping = false;
    int restored = set_guest_debug(vcpu, false, true);
    /* Quirk: some KVMs report the step over HLT and go on after it; it halts all the same. */
    if (result == 0 && exit->reason == EXIT_DEBUG && halts && exit->rip == rip + 1) {
        vcpu->base.counters.exits[EXIT_HLT]++;
        *exit = (VmExit){
            .reason = EXIT_HLT, .value = (uint64_t)(vcpu->run->if_flag != 0) << RFLAGS_IF_BIT, .rip = exit->rip};
        if (vcpu_watches(&vcpu->base, EXIT_HLT))
            vcpu_note_exit(&vcpu->base, exit, 0, exit_trace_cycles());
    }
    return result < 0 ? result : restored;
}

int kvm_vcpu_step(Vcpu *base, VmExit *exit)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    if (!vcpu->vm->has_guest_debug)
        return -ENOTSUP;
    adopt_thread(vcpu);
    if (unlikely(__atomic_load_n(&vcpu->vm->time_stopped, __ATOMIC_ACQUIRE)))
        kvm_time_start(vcpu->vm);
    vcpu->run->kvm_valid_regs = 0;
    return step_instruction(vcpu, exit);
}

static bool at_breakpoint(KvmVcpu *vcpu)
{
    uint64_t rip = kvm_vcpu_rip(vcpu);
    for (size_t i = 0; i < vcpu->breakpoint_count; i++)
        if (vcpu->breakpoints[i] == rip)
            return true;
    return false;
}

int kvm_vcpu_run(Vcpu *base, VmExit *exit)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    adopt_thread(vcpu);
    if (unlikely(__atomic_load_n(&vcpu->vm->time_stopped, __ATOMIC_ACQUIRE)))
        kvm_time_start(vcpu->vm);
    if (unlikely(vcpu->breakpoint_count) && !vcpu->unhandled) {
        /* Do not stop again where we start from. */
        vcpu->run->kvm_valid_regs = 0;
        int result = kvm_vcpu_complete(vcpu);
        if (result < 0)
            return result;
        if (!vcpu->unhandled && at_breakpoint(vcpu)) {
            result = step_instruction(vcpu, exit);
            if (result < 0 || exit->reason != EXIT_DEBUG)
                return result;
            memset(exit, 0, sizeof *exit);
            if (at_breakpoint(vcpu)) {
                *exit = (VmExit){.reason = EXIT_DEBUG, .rip = kvm_vcpu_rip(vcpu)};
                exit->address = exit->rip;
                return 0;
            }
        }
    }
    /* Registers with every exit only when somebody looks at them (api.rst 5, KVM_CAP_SYNC_REGS): they cost a copy.
     */
    vcpu->run->kvm_valid_regs =
        base->watched && vcpu->vm->has_sync_regs ? KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS : 0;
    return run_until_seen(vcpu, exit);
}

int kvm_vcpu_set_breakpoints(Vcpu *base, const gva_t *addresses, size_t count)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    if (count > KVM_MAX_BREAKPOINTS)
        return -ENOSPC;
    if (count && !vcpu->vm->has_guest_debug)
        return -ENOTSUP;
    for (size_t i = 0; i < count; i++)
        vcpu->breakpoints[i] = addresses[i];
    vcpu->breakpoint_count = count;
    return vcpu->vm->has_guest_debug ? set_guest_debug(vcpu, false, true) : 0;
}
