/*
 * What KVM_RUN returned: accesses go to the bus, the rest becomes a VmExit, and failures become a line of text
 * (api.rst 5, struct kvm_run).
 */
#include <stdio.h>

#include "kvm/vm.h"

enum { RFLAGS_IF_BIT = 9 };

/* Counts an exit that was answered; true: `exit` is filled, and to be surfaced. */
static bool note(KvmVcpu *vcpu, VmExit *exit, const VmExit *answered, uint64_t begun)
{
    uint64_t now = exit_trace_cycles();
    VmExit seen = *answered;
    seen.rip = kvm_vcpu_rip(vcpu);
    if (!vcpu_note_exit(&vcpu->base, &seen, begun, now))
        return false;
    *exit = seen;
    return true;
}

/* KVM_EXIT_IO: `count` elements of a port access, more than one for INS and OUTS. */
bool kvm_answer_io(KvmVcpu *vcpu, VmExit *exit)
{
    struct kvm_run *run = vcpu->run;
    uint32_t size = run->io.size, count = run->io.count;
    bool out = run->io.direction == KVM_EXIT_IO_OUT;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    while (vcpu->io_left) {
        uint8_t *element = data + (size_t)(count - vcpu->io_left--) * size;
        uint64_t value = 0;
        bool handled;
        uint64_t begun = vcpu_exit_begun(&vcpu->base, EXIT_IO);
        vcpu->answering = true;
        if (out) {
            memcpy(&value, element, size);
            handled = bus_write(vcpu->board->pio, run->io.port, size, value);
        } else {
            handled = bus_read(vcpu->board->pio, run->io.port, size, &value);
            memcpy(element, &value, size);
        }
        vcpu->answering = false;
        vcpu->base.counters.exits[EXIT_IO]++;
        if (vcpu_watches(&vcpu->base, EXIT_IO) && note(vcpu, exit,
                                                       &(VmExit){.reason = EXIT_IO,
                                                                 .size = size,
                                                                 .is_write = out,
                                                                 .handled = handled,
                                                                 .address = run->io.port,
                                                                 .value = value},
                                                       begun))
            return true;
    }
    return false;
}

static bool start_io(KvmVcpu *vcpu, VmExit *exit)
{
    const struct kvm_run *run = vcpu->run;
    uint32_t size = run->io.size;
    vcpu->incomplete = true;
    if ((size != 1 && size != 2 && size != 4) || run->io.data_offset > vcpu->vm->run_size ||
        (uint64_t)run->io.count * size > vcpu->vm->run_size - run->io.data_offset) {
        exit->reason = EXIT_FAIL;
        snprintf(exit->text, sizeof exit->text,
                 "KVM: port access of %u times %u bytes at offset %#llx makes no sense", run->io.count, size,
                 (unsigned long long)run->io.data_offset);
        return true;
    }
    vcpu->io_left = run->io.count;
    return kvm_answer_io(vcpu, exit);
}

/* A piece of a load or store that one bus access can carry: an aligned power of two. */
static uint32_t piece(gpa_t gpa, uint32_t left)
{
    uint32_t size = 8;
    while (size > left || (gpa & (size - 1) && size > 1 && left & (left - 1)))
        size /= 2;
    return size;
}

static bool answer_mmio(KvmVcpu *vcpu, VmExit *exit)
{
    struct kvm_run *run = vcpu->run;
    GuestMemory *memory = vcpu->board->memory;
    gpa_t gpa = run->mmio.phys_addr;
    uint32_t length = MIN(run->mmio.len, (uint32_t)sizeof run->mmio.data);
    uint64_t value = 0;
    bool handled = true;
    uint64_t begun = vcpu_exit_begun(&vcpu->base, EXIT_MMIO);
    vcpu->incomplete = true;
    vcpu->base.counters.exits[EXIT_MMIO]++;
    /* A store to ROM comes out as MMIO (api.rst 4.35, KVM_MEM_READONLY), and is dropped. */
    bool rom = run->mmio.is_write && guest_memory_find(memory, gpa);
    if (run->mmio.is_write)
        memcpy(&value, run->mmio.data, length);
    vcpu->answering = true;
    for (uint32_t done = 0, size; done < length && !rom; done += size) {
        uint64_t part = 0;
        size = piece(gpa + done, length - done);
        memcpy(&part, run->mmio.data + done, size);
        if (run->mmio.is_write) {
            handled &= bus_write(vcpu->board->mmio, gpa + done, size, part);
        } else {
            handled &= bus_read(vcpu->board->mmio, gpa + done, size, &part);
            memcpy(run->mmio.data + done, &part, size);
        }
    }
    vcpu->answering = false;
    if (!vcpu_watches(&vcpu->base, EXIT_MMIO))
        return false;
    if (!run->mmio.is_write)
        memcpy(&value, run->mmio.data, length);
    VmExit unseen, *seen = rom ? &unseen : exit;
    return note(vcpu, seen,
                &(VmExit){.reason = EXIT_MMIO,
                          .size = length,
                          .is_write = run->mmio.is_write,
                          .handled = handled,
                          .address = gpa,
                          .value = value},
                begun) &&
           !rom;
}

static bool answer_msr(KvmVcpu *vcpu, VmExit *exit)
{
    struct kvm_run *run = vcpu->run;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR, known;
    uint64_t value = run->msr.data, begun = vcpu_exit_begun(&vcpu->base, EXIT_MSR);
    if (write)
        known = kvm_write_unknown_msr(run->msr.index, value);
    else if ((known = kvm_read_unknown_msr(run->msr.index, &value)))
        run->msr.data = value;
    run->msr.error = !known;
    vcpu->incomplete = true;
    vcpu->base.counters.exits[EXIT_MSR]++;
    return vcpu_watches(&vcpu->base, EXIT_MSR) && note(vcpu, exit,
                                                       &(VmExit){.reason = EXIT_MSR,
                                                                 .size = 8,
                                                                 .is_write = write,
                                                                 .handled = known,
                                                                 .address = run->msr.index,
                                                                 .value = value},
                                                       begun);
}

/* ---- Failures ----------------------------------------------------------------------------------------------- */

static void fail(KvmVcpu *vcpu, VmExit *exit)
{
    exit->reason = EXIT_FAIL;
    exit->rip = kvm_vcpu_rip(vcpu);
    vcpu->failed = true;
    vcpu->failure = (KvmFailure){.exit_reason = vcpu->run->exit_reason};
}

/* The instruction's bytes, where KVM tells them (api.rst 7.28, KVM_CAP_EXIT_ON_EMULATION_FAILURE). */
static uint32_t refused_instruction(const KvmVcpu *vcpu, uint8_t bytes[15])
{
    const struct kvm_run *run = vcpu->run;
    if (run->emulation_failure.ndata < 3 ||
        !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        return 0;
    uint32_t size = MIN((uint32_t)run->emulation_failure.insn_size, 15u);
    memcpy(bytes, run->emulation_failure.insn_bytes, size);
    return size;
}

static void describe_emulation(KvmVcpu *vcpu, VmExit *exit)
{
    KvmFailure *failure = &vcpu->failure;
    failure->instruction_size = refused_instruction(vcpu, failure->instruction);
    char bytes[3 * sizeof failure->instruction + 1] = "";
    for (uint32_t i = 0; i < failure->instruction_size; i++)
        snprintf(bytes + 3 * i, 4, " %02x", failure->instruction[i]);
    if (failure->instruction_size)
        snprintf(exit->text, sizeof exit->text, "KVM cannot emulate the instruction at %#llx, which begins%s",
                 (unsigned long long)exit->rip, bytes);
    else
        snprintf(exit->text, sizeof exit->text, "KVM cannot fetch or emulate the instruction at %#llx",
                 (unsigned long long)exit->rip);
}

/* The fallback executes it. False: nobody can, and the refusal is to be told. */
static bool handed_over(KvmVcpu *vcpu, VmExit *exit)
{
    uint8_t bytes[15];
    if (vcpu->run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || !vcpu_has_fallback(&vcpu->base))
        return false;
    uint32_t size = refused_instruction(vcpu, bytes);
    if (vcpu_hand_over(&vcpu->base, bytes, size, exit) < 0 || exit->reason == EXIT_FAIL) {
        memset(exit, 0, sizeof *exit);
        return false;
    }
    if (exit->reason == EXIT_DEBUG && !vcpu->stepping)
        memset(exit, 0, sizeof *exit);
    if (exit->reason == EXIT_SHUTDOWN) {
        fail(vcpu, exit);
        exit->reason = EXIT_SHUTDOWN;
        vcpu->failure.exit_reason = KVM_EXIT_SHUTDOWN;
    }
    return true;
}

static void describe_internal(KvmVcpu *vcpu, VmExit *exit)
{
    const struct kvm_run *run = vcpu->run;
    fail(vcpu, exit);
    KvmFailure *failure = &vcpu->failure;
    failure->suberror = run->internal.suberror;
    failure->data_count = MIN(run->internal.ndata, (uint32_t)ARRAY_SIZE(failure->data));
    memcpy(failure->data, run->internal.data, failure->data_count * sizeof *failure->data);
    static const char *const WHAT[] = {
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "two exceptions at once that KVM cannot merge",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "an exit in the middle of delivering an event",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit that the processor should never make",
    };
    if (failure->suberror == KVM_INTERNAL_ERROR_EMULATION)
        describe_emulation(vcpu, exit);
    else
        snprintf(exit->text, sizeof exit->text, "KVM internal error %u at %#llx: %s", failure->suberror,
                 (unsigned long long)exit->rip,
                 failure->suberror < ARRAY_SIZE(WHAT) && WHAT[failure->suberror] ? WHAT[failure->suberror]
                                                                                 : "not documented");
}

static void describe_entry(KvmVcpu *vcpu, VmExit *exit)
{
    const struct kvm_run *run = vcpu->run;
    fail(vcpu, exit);
    vcpu->failure.entry_failure = run->fail_entry.hardware_entry_failure_reason;
    vcpu->failure.cpu = run->fail_entry.cpu;
    snprintf(exit->text, sizeof exit->text, "KVM: the processor refuses the state at %#llx (entry failure %#llx)",
             (unsigned long long)exit->rip, (unsigned long long)vcpu->failure.entry_failure);
}

void kvm_describe_error(KvmVcpu *vcpu, int code, VmExit *exit)
{
    fail(vcpu, exit);
    snprintf(exit->text, sizeof exit->text, "KVM_RUN at %#llx: %s", (unsigned long long)exit->rip, strerror(code));
}

/* An NMI is being handled: another does not end HLT (SDM 3A §6.7.1). */
static bool nmi_blocked(KvmVcpu *vcpu)
{
    struct kvm_vcpu_events events;
    return kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) == 0 && events.nmi.masked;
}

bool kvm_handle_exit(KvmVcpu *vcpu, VmExit *exit)
{
    struct kvm_run *run = vcpu->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        return start_io(vcpu, exit);
    case KVM_EXIT_MMIO:
        return answer_mmio(vcpu, exit);
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR:
        return false;
    case KVM_EXIT_HLT:
        exit->reason = EXIT_HLT;
        exit->value = (uint64_t)(run->if_flag != 0) << RFLAGS_IF_BIT;
        if (vcpu_watches(&vcpu->base, EXIT_HLT) || !run->if_flag)
            exit->rip = kvm_vcpu_rip(vcpu);
        vcpu->base.nmi_blocked = !run->if_flag && nmi_blocked(vcpu);
        return true;
    case KVM_EXIT_IOAPIC_EOI:
        kvm_split_eoi(vcpu);
        return false;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        return answer_msr(vcpu, exit);
    case KVM_EXIT_DEBUG:
        exit->reason = EXIT_DEBUG;
        exit->rip = exit->address = run->debug.arch.pc;
        exit->vector = run->debug.arch.exception;
        return true;
    case KVM_EXIT_SHUTDOWN:
        fail(vcpu, exit);
        exit->reason = EXIT_SHUTDOWN;
        return true;
    case KVM_EXIT_INTERNAL_ERROR:
        if (handed_over(vcpu, exit))
            return exit->reason != EXIT_NONE;
        describe_internal(vcpu, exit);
        return true;
    case KVM_EXIT_FAIL_ENTRY:
        describe_entry(vcpu, exit);
        return true;
    default:
        fail(vcpu, exit);
        snprintf(exit->text, sizeof exit->text, "KVM exit reason %u at %#llx, which this engine does not ask for",
                 run->exit_reason, (unsigned long long)exit->rip);
        return true;
    }
}
