/*
 * CpuState in and out of a KVM vCPU (api.rst 4.11-4.14 registers, 4.18 MSRs, 4.31 events, 4.33 debug registers,
 * 4.42 XSAVE, 4.44 XCRs).
 */
#include <stdlib.h>

#include "kvm/vm.h"

enum {
    APIC_ENABLE = 0x800,
    SEGMENT_UNUSABLE = 1 << 16,
    XSAVE_HEADER = 512,
};

/* Which MSR holds which field. `essential`: a guest cannot go on without it. */
static const struct {
    uint32_t index;
    uint16_t offset;
    bool essential;
} MSRS[] = {
    {0x10, offsetof(CpuState, tsc), false}, /* first: see set_msrs */
    {0x174, offsetof(CpuState, sysenter_cs), true},
    {0x175, offsetof(CpuState, sysenter_esp), true},
    {0x176, offsetof(CpuState, sysenter_eip), true},
    {0x1a0, offsetof(CpuState, misc_enable), false},
    {0x277, offsetof(CpuState, pat), true},
    {0xc0000081, offsetof(CpuState, star), true},
    {0xc0000082, offsetof(CpuState, lstar), true},
    {0xc0000083, offsetof(CpuState, cstar), true},
    {0xc0000084, offsetof(CpuState, fmask), true},
    {0xc0000102, offsetof(CpuState, kernel_gs_base), true},
    {0xc0000103, offsetof(CpuState, tsc_aux), false},
    {0x4b564d00, offsetof(CpuState, kvm_wall_clock), false},
    {0x4b564d01, offsetof(CpuState, kvm_system_time), false},
};
enum { MSR_COUNT = ARRAY_SIZE(MSRS) };

typedef struct MsrTable {
    struct kvm_msrs header;
    struct kvm_msr_entry entries[MSR_COUNT];
} MsrTable;

static void segment_out(Segment *to, const struct kvm_segment *from)
{
    *to = (Segment){.selector = from->selector, .base = from->base, .limit = from->limit};
    to->attributes = from->type | (uint32_t)from->s << 4 | (uint32_t)from->dpl << 5 | (uint32_t)from->present << 7 |
                     (uint32_t)from->avl << 12 | (uint32_t)from->l << 13 | (uint32_t)from->db << 14 |
                     (uint32_t)from->g << 15 | (from->unusable ? SEGMENT_UNUSABLE : 0);
}

static void segment_in(struct kvm_segment *to, const Segment *from)
{
    uint32_t a = from->attributes;
    *to = (struct kvm_segment){
        .base = from->base,
        .limit = from->limit,
        .selector = from->selector,
        .type = a & 15,
        .s = a >> 4 & 1,
        .dpl = a >> 5 & 3,
        .present = a >> 7 & 1,
        .avl = a >> 12 & 1,
        .l = a >> 13 & 1,
        .db = a >> 14 & 1,
        .g = a >> 15 & 1,
        /* A segment that is not present cannot be loaded by the guest: for the processor it is "unusable". */
        .unusable = a & SEGMENT_UNUSABLE || !(a >> 7 & 1),
    };
}

static void regs_out(CpuState *state, const struct kvm_regs *regs)
{
    const uint64_t gpr[16] = {regs->rax, regs->rcx, regs->rdx, regs->rbx, regs->rsp, regs->rbp,
                              regs->rsi, regs->rdi, regs->r8,  regs->r9,  regs->r10, regs->r11,
                              regs->r12, regs->r13, regs->r14, regs->r15};
    memcpy(state->gpr, gpr, sizeof gpr);
    state->rip = regs->rip;
    state->rflags = regs->rflags;
}

static void regs_in(struct kvm_regs *regs, const CpuState *state)
{
    const uint64_t *g = state->gpr;
    *regs = (struct kvm_regs){
        .rax = g[0],
        .rcx = g[1],
        .rdx = g[2],
        .rbx = g[3],
        .rsp = g[4],
        .rbp = g[5],
        .rsi = g[6],
        .rdi = g[7],
        .r8 = g[8],
        .r9 = g[9],
        .r10 = g[10],
        .r11 = g[11],
        .r12 = g[12],
        .r13 = g[13],
        .r14 = g[14],
        .r15 = g[15],
        .rip = state->rip,
        .rflags = state->rflags | 2,
    };
}

static void sregs_out(CpuState *state, const struct kvm_sregs *s)
{
    segment_out(&state->segment[SEG_ES], &s->es);
    segment_out(&state->segment[SEG_CS], &s->cs);
    segment_out(&state->segment[SEG_SS], &s->ss);
    segment_out(&state->segment[SEG_DS], &s->ds);
    segment_out(&state->segment[SEG_FS], &s->fs);
    segment_out(&state->segment[SEG_GS], &s->gs);
    segment_out(&state->ldtr, &s->ldt);
    segment_out(&state->tr, &s->tr);
    state->gdtr = (DescriptorTable){.base = s->gdt.base, .limit = s->gdt.limit};
    state->idtr = (DescriptorTable){.base = s->idt.base, .limit = s->idt.limit};
    state->cr0 = s->cr0, state->cr2 = s->cr2, state->cr3 = s->cr3, state->cr4 = s->cr4, state->cr8 = s->cr8;
    state->efer = s->efer;
    state->apic_base = s->apic_base;
}

static void sregs_in(struct kvm_sregs *s, const CpuState *state, bool has_lapic)
{
    memset(s, 0, sizeof *s);
    segment_in(&s->es, &state->segment[SEG_ES]);
    segment_in(&s->cs, &state->segment[SEG_CS]);
    segment_in(&s->ss, &state->segment[SEG_SS]);
    segment_in(&s->ds, &state->segment[SEG_DS]);
    segment_in(&s->fs, &state->segment[SEG_FS]);
    segment_in(&s->gs, &state->segment[SEG_GS]);
    segment_in(&s->ldt, &state->ldtr);
    segment_in(&s->tr, &state->tr);
    /* VM entry demands a busy TSS in TR (SDM 3C §27.3.1.2); 16-bit 3, 32-bit and 64-bit 11. */
    if (s->tr.type == 1 || s->tr.type == 9)
        s->tr.type |= 2;
    s->gdt.base = state->gdtr.base, s->gdt.limit = state->gdtr.limit;
    s->idt.base = state->idtr.base, s->idt.limit = state->idtr.limit;
    s->cr0 = state->cr0, s->cr2 = state->cr2, s->cr3 = state->cr3, s->cr4 = state->cr4, s->cr8 = state->cr8 & 15;
    s->efer = state->efer;
    s->apic_base = has_lapic ? state->apic_base : state->apic_base & ~(uint64_t)APIC_ENABLE;
}

static void events_out(CpuState *state, const struct kvm_vcpu_events *events)
{
    state->pending_exception = -1;
    if (events->exception.injected || events->exception.pending) {
        state->pending_exception = events->exception.nr;
        state->pending_has_error = events->exception.has_error_code;
        state->pending_error = events->exception.error_code;
    } else if (events->interrupt.injected) {
        state->pending_exception = PENDING_INTERRUPT + events->interrupt.nr;
    }
    state->interrupt_shadow = events->interrupt.shadow != 0;
    state->nmi_blocked = events->nmi.masked != 0;
}

static void events_in(struct kvm_vcpu_events *events, const CpuState *state)
{
    memset(events, 0, sizeof *events);
    if (state->pending_exception >= PENDING_INTERRUPT) {
        events->interrupt.injected = 1;
        events->interrupt.nr = (uint8_t)state->pending_exception;
    } else if (state->pending_exception >= 0) {
        events->exception.injected = 1;
        events->exception.nr = (uint8_t)state->pending_exception;
        events->exception.has_error_code = state->pending_has_error;
        events->exception.error_code = state->pending_error;
    }
    events->interrupt.shadow = state->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
    events->nmi.masked = state->nmi_blocked;
    events->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
}

/* Those that KVM does not have read 0: KVM_GET_MSRS stops at the first such, so go on after it. */
static int get_msrs(KvmVcpu *vcpu, CpuState *state)
{
    MsrTable table;
    for (size_t next = 0; next < MSR_COUNT;) {
        memset(&table, 0, sizeof table);
        for (size_t i = next; i < MSR_COUNT; i++)
            table.entries[i - next].index = MSRS[i].index;
        table.header.nmsrs = (uint32_t)(MSR_COUNT - next);
        int done = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &table);
        if (done < 0)
            return done;
        for (int i = 0; i < done; i++)
            store_le64((uint8_t *)state + MSRS[next + (size_t)i].offset, table.entries[i].data);
        next += (size_t)done + 1;
    }
    kvm_get_mtrr(vcpu, &state->mtrr);
    if (kvm_tsc_is_stopped(vcpu->vm))
        state->tsc = vcpu->tsc_stopped;
    return 0;
}

/* The paravirtual clock is the VM's (KVM_SET_CLOCK, api.rst 4.30): the first vCPU speaks for all. */
static void set_kvm_clock(KvmVcpu *vcpu, const CpuState *state)
{
    KvmVm *vm = vcpu->vm;
    if (!state->kvm_clock || state->kvm_clock == vcpu->kvm_clock_read || &vcpu->base != vm->base.vcpus)
        return;
    if (__atomic_load_n(&vm->time_stopped, __ATOMIC_ACQUIRE)) {
        vm->has_clock = true;
        vm->clock.clock = state->kvm_clock;
        vm->clock_ns = state->clock_ns;
        return;
    }
    struct kvm_clock_data data = {0};
    data.clock = state->kvm_clock + cpu_state_elapsed(state, clock_now(vcpu->board->clock));
    kvm_ioctl(vm->fd, KVM_SET_CLOCK, &data);
}

static uint64_t get_kvm_clock(KvmVcpu *vcpu)
{
    KvmVm *vm = vcpu->vm;
    if (__atomic_load_n(&vm->time_stopped, __ATOMIC_ACQUIRE) && vm->has_clock)
        return vm->clock.clock;
    struct kvm_clock_data data = {0};
    return kvm_ioctl(vm->fd, KVM_GET_CLOCK, &data) == 0 ? data.clock : 0;
}

static int set_msrs(KvmVcpu *vcpu, const CpuState *state)
{
    MsrTable table;
    set_kvm_clock(vcpu, state);
    bool stopped = kvm_tsc_is_stopped(vcpu->vm);
    if (stopped) { /* from where it goes on */
        vcpu->tsc_stopped = state->tsc;
        vcpu->tsc_stopped_ns = state->clock_ns;
    }
    for (size_t next = stopped || (vcpu->tsc_read && state->tsc == vcpu->tsc_read); next < MSR_COUNT;) {
        memset(&table, 0, sizeof table);
        for (size_t i = next; i < MSR_COUNT; i++) {
            table.entries[i - next].index = MSRS[i].index;
            table.entries[i - next].data = load_le64((const uint8_t *)state + MSRS[i].offset);
        }
        table.header.nmsrs = (uint32_t)(MSR_COUNT - next);
        int done = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &table);
        if (done < 0)
            return done;
        next += (size_t)done;
        if (next < MSR_COUNT && MSRS[next].essential)
            return -EINVAL;
        next++;
    }
    return 0;
}

static int get_fpu(KvmVcpu *vcpu, CpuState *state)
{
    _Static_assert(sizeof(struct kvm_xsave) == CPU_XSAVE_SIZE, "KVM_GET_XSAVE's image");
    int result = kvm_ioctl(vcpu->fd, KVM_GET_XSAVE, state->xsave);
    /* Components in their initial state may come as zeros; 0 is not MXCSR's initial value, nor FCW's (SDM 1 §13.6).
     */
    uint64_t present = load_le64(state->xsave + XSAVE_HEADER);
    if (!(present & 1))
        store_le16(state->xsave, 0x37f);
    if (!(present & 6))
        store_le32(state->xsave + 24, 0x1f80);
    if (result < 0 || !vcpu->vm->has_xcrs) {
        state->xcr0 = 3;
        return result;
    }
    struct kvm_xcrs xcrs = {0};
    result = kvm_ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs);
    state->xcr0 = 1;
    for (uint32_t i = 0; i < MIN(xcrs.nr_xcrs, (uint32_t)KVM_MAX_XCRS); i++)
        if (xcrs.xcrs[i].xcr == 0)
            state->xcr0 = xcrs.xcrs[i].value;
    return result;
}

static int set_fpu(KvmVcpu *vcpu, const CpuState *state)
{
    struct kvm_xsave xsave;
    memcpy(&xsave, state->xsave, sizeof xsave);
    int result = kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, &xsave);
    if (result < 0 || !vcpu->vm->has_xcrs)
        return result;
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = state->xcr0 | 1}}};
    result = kvm_ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs);
    if (result == -EINVAL && (state->xcr0 & ~3ull) == 0)
        result = 0; /* a processor without XSAVE has x87 and SSE anyway */
    return result;
}

/* NMIs that KVM holds, because the one before is not done or because it has not yet delivered it, go back to the
 * board, where every engine finds them. One that was to be delivered does not block the others yet. */
static void take_back_nmi(KvmVcpu *vcpu, struct kvm_vcpu_events *events)
{
    uint32_t edges = (uint32_t)events->nmi.pending + events->nmi.injected;
    if (!edges || vcpu->answering)
        return;
    struct kvm_vcpu_events without = *events;
    without.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
    without.nmi.pending = 0;
    if (without.nmi.injected)
        without.nmi.injected = without.nmi.masked = 0;
    if (kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &without) < 0)
        return;
    *events = without;
    __atomic_fetch_add(&vcpu->board->nmi_pending, edges, __ATOMIC_SEQ_CST);
}

/* What a vCPU does between instructions is KVM's when the local APIC is: KVM_GET_MP_STATE (api.rst 4.38). It takes
 * INIT and startup IPIs that wait, and so comes before the registers. */
static int get_activity(KvmVcpu *vcpu, CpuState *state)
{
    struct kvm_mp_state mp = {0};
    int result = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);
    state->halted = mp.mp_state == KVM_MP_STATE_HALTED;
    state->wait_for_sipi = mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED;
    return result;
}

static int set_activity(KvmVcpu *vcpu, const CpuState *state)
{
    struct kvm_mp_state mp = {.mp_state = state->wait_for_sipi ? KVM_MP_STATE_INIT_RECEIVED
                                          : state->halted      ? KVM_MP_STATE_HALTED
                                                               : KVM_MP_STATE_RUNNABLE};
    return kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
}

int kvm_get_state(Vcpu *base, CpuState *state)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    memset(state, 0, sizeof *state);
    bool has_lapic = vcpu->vm->irqchip != IRQCHIP_USER;
    int result = kvm_vcpu_complete(vcpu);
    if (result == 0 && has_lapic)
        result = get_activity(vcpu, state);
    if (result == 0 && (result = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs)) == 0)
        regs_out(state, &regs);
    if (result == 0 && (result = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs)) == 0)
        sregs_out(state, &sregs);
    if (result == 0 && (result = kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events)) == 0) {
        if (!has_lapic)
            take_back_nmi(vcpu, &events);
        events_out(state, &events);
        if (has_lapic && events.nmi.injected) /* it waits again, and does not block itself */
            state->nmi_blocked = 0;
        state->nmi_pending = has_lapic && (events.nmi.pending || events.nmi.injected);
    }
    if (result == 0 && vcpu->vm->has_debugregs && (result = kvm_ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug)) == 0) {
        memcpy(state->dr, debug.db, sizeof debug.db);
        state->dr[6] = debug.dr6;
        state->dr[7] = debug.dr7;
    }
    if (result == 0)
        result = get_fpu(vcpu, state);
    if (result == 0)
        result = get_msrs(vcpu, state);
    kvm_board_apic_get(vcpu, state);
    state->clock_ns = clock_now(vcpu->board->clock);
    if (state->kvm_system_time & 1)
        state->kvm_clock = get_kvm_clock(vcpu);
    vcpu->tsc_read = state->tsc;
    vcpu->kvm_clock_read = state->kvm_clock;
    /* HLT that came when an access was completed, and that nobody has seen yet. */
    if (vcpu->unhandled && vcpu->run->exit_reason == KVM_EXIT_HLT)
        state->halted = 1;
    return result;
}

/* The order matters: XCR0 wants CR4 and XSAVE's image wants nothing; events come last, because loading registers
 * clears what is pending. */
int kvm_set_state(Vcpu *base, const CpuState *state) { return kvm_update_state(base, NULL, state); }

/* SREGS holds no field that REGS, FPU, debug registers or MSRs do. */
static bool same_sregs(const CpuState *a, const CpuState *b)
{
    return !memcmp(a->segment, b->segment, offsetof(CpuState, dr) - offsetof(CpuState, segment)) &&
           a->efer == b->efer && a->apic_base == b->apic_base;
}

static bool same_msrs(const CpuState *a, const CpuState *b)
{
    return !memcmp(&a->pat, &b->pat, offsetof(CpuState, mtrr) - offsetof(CpuState, pat));
}

int kvm_update_state(Vcpu *base, const CpuState *before, const CpuState *state)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events;
    if (vcpu->answering)
        return -EBUSY; /* the access that a device is answering now would be lost */
    int result = kvm_vcpu_complete(vcpu);
    vcpu->unhandled = false;
    vcpu->failed = false;
    sregs_in(&sregs, state, vcpu->vm->irqchip != IRQCHIP_USER || kvm_has_board_apic(vcpu));
    if (result == 0 && !(before && same_sregs(before, state)))
        result = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
    regs_in(&regs, state);
    if (result == 0)
        result = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
    if (result == 0 &&
        !(before && before->xcr0 == state->xcr0 && !memcmp(before->xsave, state->xsave, sizeof state->xsave)))
        result = set_fpu(vcpu, state);
    if (result == 0 && vcpu->vm->has_debugregs && !(before && !memcmp(before->dr, state->dr, sizeof state->dr))) {
        struct kvm_debugregs debug = {.dr6 = state->dr[6], .dr7 = state->dr[7]};
        memcpy(debug.db, state->dr, sizeof debug.db);
        result = kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug);
    }
    if (result == 0 && !(before && same_msrs(before, state)))
        result = set_msrs(vcpu, state);
    if (result == 0 && !(before && !memcmp(&before->mtrr, &state->mtrr, sizeof state->mtrr)))
        kvm_set_mtrr(vcpu, &state->mtrr);
    events_in(&events, state);
    events.nmi.pending = vcpu->vm->irqchip != IRQCHIP_USER && state->nmi_pending;
    if (result == 0)
        result = kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
    if (result == 0 && vcpu->vm->irqchip != IRQCHIP_USER)
        result = set_activity(vcpu, state);
    vcpu->run->cr8 = state->cr8 & 15; /* without an in-kernel APIC, KVM_RUN loads it from here */
    vcpu->run->apic_base = vcpu->apic_base = sregs.apic_base;
    if (result == 0)
        kvm_board_apic_set(vcpu, state);
    vcpu->run->ready_for_interrupt_injection =
        state->rflags >> 9 & 1 && !state->interrupt_shadow && state->pending_exception < 0 && !state->nmi_pending;
    vcpu->run->if_flag = state->rflags >> 9 & 1;
    return result;
}
