/*
 * CpuState in and out of the library's CPU. Segments, tables and flags are written to the structure itself (the
 * library's public call stores only selectors in 64-bit mode); the FPU goes through its public register calls.
 */
#include "translator/vm.h"

enum { MSR_EFER = 0xc0000080, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK, MSR_KERNEL_GS_BASE = 0xc0000102 };
enum {
    TSS_BUSY = 2
}; /* a type bit of TR's descriptor: set in the register (SDM vol. 3A §8.2.2), kept clear by the library */
enum { FXSAVE_ST = 32, FXSAVE_XMM = 160, FXSAVE_ENTRY = 16, XSAVE_HEADER = 512, XSTATE_X87_SSE = 3 };

static void segment_out(Segment *to, const EnvSegment *from)
{
    *to = (Segment){.selector = (uint16_t)from->selector,
                    .attributes = from->flags >> 8 & 0xf0ff,
                    .limit = from->limit,
                    .base = from->base};
}

static void segment_in(EnvSegment *to, const Segment *from)
{
    *to = (EnvSegment){.selector = from->selector,
                       .flags = (from->attributes & 0xf0ff) << 8,
                       .limit = from->limit,
                       .base = from->base};
}

/* SDM vol. 1 §10.5.1: the saved tag byte has a bit a register (valid), the tag word two (3 = empty). */
static uint16_t tag_word(uint8_t valid)
{
    uint16_t tags = 0;
    for (int i = 0; i < 8; i++)
        tags |= (uint16_t)((valid >> i & 1 ? 0 : 3) << (2 * i));
    return tags;
}

static uint8_t tag_byte(uint16_t tags)
{
    uint8_t valid = 0;
    for (int i = 0; i < 8; i++)
        valid |= (uint8_t)(((tags >> (2 * i) & 3) != 3) << i);
    return valid;
}

static void fpu_out(TranslatorVcpu *vcpu, uint8_t *xsave)
{
    uint16_t control = 0, status = 0, tags = 0;
    uint32_t mxcsr = 0;
    memset(xsave, 0, CPU_XSAVE_SIZE);
    uc_reg_read(vcpu->uc, UC_X86_REG_FPCW, &control);
    uc_reg_read(vcpu->uc, UC_X86_REG_FPSW, &status);
    uc_reg_read(vcpu->uc, UC_X86_REG_FPTAG, &tags);
    uc_reg_read(vcpu->uc, UC_X86_REG_MXCSR, &mxcsr);
    store_le16(xsave, control);
    store_le16(xsave + 2, status);
    xsave[4] = tag_byte(tags);
    store_le32(xsave + 24, mxcsr);
    store_le32(xsave + 28, 0xffff);
    for (int i = 0; i < 8; i++)
        uc_reg_read(vcpu->uc, UC_X86_REG_ST0 + i, xsave + FXSAVE_ST + i * FXSAVE_ENTRY);
    for (int i = 0; i < 16; i++)
        uc_reg_read(vcpu->uc, UC_X86_REG_XMM0 + i, xsave + FXSAVE_XMM + i * FXSAVE_ENTRY);
    store_le64(xsave + XSAVE_HEADER, XSTATE_X87_SSE);
}

static void fpu_in(TranslatorVcpu *vcpu, const uint8_t *xsave)
{
    static const uint8_t INIT[512] = {0x7f, 0x03, [24] = 0x80, 0x1f};
    /* A component whose XSTATE_BV bit is clear is in its initial configuration (SDM vol. 1 §13.6). */
    uint64_t present = load_le64(xsave + XSAVE_HEADER);
    const uint8_t *x87 = present & 1 ? xsave : INIT, *sse = present & 2 ? xsave : INIT;
    uint16_t control = load_le16(x87), status = load_le16(x87 + 2), tags = tag_word(x87[4]);
    uint32_t mxcsr = load_le32(sse + 24);
    uc_reg_write(vcpu->uc, UC_X86_REG_FPCW, &control);
    uc_reg_write(vcpu->uc, UC_X86_REG_FPSW, &status);
    uc_reg_write(vcpu->uc, UC_X86_REG_FPTAG, &tags);
    uc_reg_write(vcpu->uc, UC_X86_REG_MXCSR, &mxcsr);
    for (int i = 0; i < 8; i++)
        uc_reg_write(vcpu->uc, UC_X86_REG_ST0 + i, x87 + FXSAVE_ST + i * FXSAVE_ENTRY);
    for (int i = 0; i < 16; i++)
        uc_reg_write(vcpu->uc, UC_X86_REG_XMM0 + i, sse + FXSAVE_XMM + i * FXSAVE_ENTRY);
}

int translator_get_state(Vcpu *base, CpuState *state)
{
    TranslatorVcpu *vcpu = container_of(base, TranslatorVcpu, base), *before = translator_enter(vcpu);
    Env *env = vcpu->env;
    memset(state, 0, sizeof *state);
    memcpy(state->gpr, env->regs, sizeof state->gpr);
    state->rip = env->eip;
    state->rflags = helper_read_eflags_x86_64(env) | (env->eflags & (EFLAGS_RF | EFLAGS_VM)) | 2;
    for (int i = 0; i < 6; i++)
        segment_out(&state->segment[i], &env->segs[i]);
    segment_out(&state->ldtr, &env->ldt);
    segment_out(&state->tr, &env->tr);
    state->tr.attributes |= TSS_BUSY;
    state->gdtr = (DescriptorTable){.base = env->gdt.base, .limit = (uint16_t)env->gdt.limit};
    state->idtr = (DescriptorTable){.base = env->idt.base, .limit = (uint16_t)env->idt.limit};
    state->cr0 = env->cr[0], state->cr2 = env->cr[2], state->cr3 = env->cr[3], state->cr4 = env->cr[4];
    const Lapic *lapic = translator_lapic(vcpu);
    state->cr8 = lapic ? lapic_cr8(lapic) : vcpu->cr8;
    for (int i = 0; i < 8; i++)
        if (i != 4 && i != 5)
            uc_reg_read(vcpu->uc, UC_X86_REG_DR0 + i, &state->dr[i]);
    state->xcr0 = vcpu->xcr0;
    state->efer = translator_library_msr(vcpu, MSR_EFER);
    state->apic_base = lapic ? lapic_base(lapic) : vcpu->apic_base;
    state->pat = translator_library_msr(vcpu, 0x277);
    state->star = translator_library_msr(vcpu, MSR_STAR);
    state->lstar = translator_library_msr(vcpu, MSR_LSTAR);
    state->cstar = translator_library_msr(vcpu, MSR_CSTAR);
    state->fmask = translator_library_msr(vcpu, MSR_FMASK);
    state->kernel_gs_base = translator_library_msr(vcpu, MSR_KERNEL_GS_BASE);
    state->sysenter_cs = translator_library_msr(vcpu, 0x174);
    state->sysenter_esp = translator_library_msr(vcpu, 0x175);
    state->sysenter_eip = translator_library_msr(vcpu, 0x176);
    state->tsc = translator_tsc(vcpu);
    state->clock_ns = clock_now(vcpu->board->clock);
    if (vcpu->kvm_system_time & 1)
        state->kvm_clock = state->clock_ns + vcpu->kvm_clock_offset;
    state->tsc_aux = vcpu->tsc_aux;
    state->misc_enable = vcpu->misc_enable;
    state->mtrr = vcpu->mtrr;
    state->kvm_system_time = vcpu->kvm_system_time;
    state->kvm_wall_clock = vcpu->kvm_wall_clock;
    state->interrupt_shadow = (env->hflags & HF_INHIBIT_IRQ) != 0;
    state->nmi_blocked = (env->hflags2 & HF2_NMI) != 0;
    state->halted = vcpu->hlt_pending;
    state->pending_exception = (int16_t)vcpu->pending_event;
    state->pending_error = vcpu->pending_error;
    state->pending_has_error = vcpu->pending_has_error;
    fpu_out(vcpu, state->xsave);
    translator_enter(before);
    return 0;
}

int translator_set_state(Vcpu *base, const CpuState *state)
{
    if (!translator_can_hold(state))
        return -ENOTSUP;
    TranslatorVcpu *vcpu = container_of(base, TranslatorVcpu, base), *before = translator_enter(vcpu);
    Env *env = vcpu->env;
    /* EFER's LMA is not writable by WRMSR: enter the mode by loading the paging bits in order (SDM vol. 3A §9.8.5).
     */
    if (translator_library_msr(vcpu, MSR_EFER) & (1 << 10))
        env->cr[0] |=
            0x80000000; /* the library opens with LMA set and paging off: only leaving paging clears LMA */
    uint64_t unpaged = state->cr0 & ~0x80000000ull;
    uc_reg_write(vcpu->uc, UC_X86_REG_CR0, &unpaged);
    uc_reg_write(vcpu->uc, UC_X86_REG_CR4, &state->cr4);
    translator_set_library_msr(vcpu, MSR_EFER, state->efer);
    uc_reg_write(vcpu->uc, UC_X86_REG_CR3, &state->cr3);
    uc_reg_write(vcpu->uc, UC_X86_REG_CR0, &state->cr0);
    memcpy(env->regs, state->gpr, sizeof env->regs);
    env->eip = state->rip;
    env->cr[2] = state->cr2;
    for (int i = 0; i < 6; i++)
        segment_in(&env->segs[i], &state->segment[i]);
    segment_in(&env->ldt, &state->ldtr);
    segment_in(&env->tr, &state->tr);
    env->tr.flags &= ~(uint32_t)TSS_BUSY << 8;
    env->gdt = (EnvSegment){.base = state->gdtr.base, .limit = state->gdtr.limit};
    env->idt = (EnvSegment){.base = state->idtr.base, .limit = state->idtr.limit};
    for (int i = 0; i < 8; i++)
        if (i != 4 && i != 5)
            uc_reg_write(vcpu->uc, UC_X86_REG_DR0 + i, &state->dr[i]);
    vcpu->cr8 = state->cr8 & 15;
    translator_set_xcr0(vcpu, state->xcr0);
    vcpu->apic_base = state->apic_base & ~(uint64_t)APIC_BASE_ENABLE;
    Lapic *lapic = translator_lapic(vcpu);
    if (lapic) {
        lapic_set_base(lapic, state->apic_base);
        if (lapic_cr8(lapic) != (state->cr8 & 15)) /* else TPR's lower half stays */
            lapic_set_cr8(lapic, state->cr8 & 15);
    }
    translator_set_library_msr(vcpu, 0x277, state->pat);
    translator_set_library_msr(vcpu, MSR_STAR, state->star);
    translator_set_library_msr(vcpu, MSR_LSTAR, state->lstar);
    translator_set_library_msr(vcpu, MSR_CSTAR, state->cstar);
    translator_set_library_msr(vcpu, MSR_FMASK, state->fmask);
    translator_set_library_msr(vcpu, MSR_KERNEL_GS_BASE, state->kernel_gs_base);
    translator_set_library_msr(vcpu, 0x174, state->sysenter_cs);
    translator_set_library_msr(vcpu, 0x175, state->sysenter_esp);
    translator_set_library_msr(vcpu, 0x176, state->sysenter_eip);
    uint64_t now = clock_now(vcpu->board->clock), elapsed = cpu_state_elapsed(state, now);
    translator_set_tsc_offset(vcpu, state->tsc - clock_ns_to_ticks(now - elapsed, vcpu->board->tsc_hz));
    if (state->kvm_clock)
        vcpu->kvm_clock_offset = state->kvm_clock - (now - elapsed);
    vcpu->tsc_aux = (uint32_t)state->tsc_aux;
    vcpu->misc_enable = state->misc_enable;
    vcpu->mtrr = state->mtrr;
    vcpu->kvm_wall_clock = state->kvm_wall_clock;
    vcpu->kvm_system_time = state->kvm_system_time;
    if (engine_vm_is_attached(base->vm))
        translator_publish_clock(vcpu);
    env->hflags = state->interrupt_shadow ? env->hflags | HF_INHIBIT_IRQ : env->hflags & ~(uint32_t)HF_INHIBIT_IRQ;
    env->hflags2 = state->nmi_blocked ? env->hflags2 | HF2_NMI : env->hflags2 & ~(uint32_t)HF2_NMI;
    env_set_eflags(env, state->rflags);
    env->eflags =
        state->rflags | 2; /* between runs the library keeps all flags here, and takes them apart on entry */
    env_update_hflags(env, translator_library_msr(vcpu, MSR_EFER));
    vcpu->pending_event = state->pending_exception;
    vcpu->pending_error = state->pending_error;
    vcpu->pending_has_error = state->pending_has_error;
    vcpu->hlt_pending = false;
    vcpu->queue_count = 0; /* execution starts anew: what was not seen of before is gone */
    vcpu->triple_fault = false;
    *(int32_t *)env_field(env, ENV_OLD_EXCEPTION) = -1;
    fpu_in(vcpu, state->xsave);
    x86_cpu_set_a20_x86_64(vcpu->cpu, __atomic_load_n(&vcpu->board->a20, __ATOMIC_ACQUIRE));
    tlb_flush_x86_64(vcpu->cpu);
    translator_enter(before);
    return 0;
}
