/*
 * What stands in for the library's own: system instructions that it leaves out or hands to user hooks (SYSCALL,
 * SYSENTER, RDMSR, CPUID, IN, OUT, HLT...), and interrupt acceptance. The link binds them by name (library.h).
 *
 * A replacement of a helper is called from translated code: the guest's registers are all in `env`, and its own
 * return address tells the library which instruction to restart when it raises an exception.
 */
#include "translator/vm.h"

#define RETURN_ADDRESS ((uintptr_t)__builtin_return_address(0))

enum {
    VECTOR_UD = 6,
    VECTOR_GP = 13,
    EFER_SCE = 1,
    EFER_LME = 1 << 8,
    CR4_TSD = 1 << 2,
    CR4_PAE = 1 << 5,
    CR4_OSXSAVE = 1 << 18
};
#define CR0_PE 1u
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)
/* VME to OSXMMEXCPT, UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP: features that CPUID tells of, and old ones that do
 * nothing */
#define CR4_KNOWN  0x350fffu
#define XCR0_KNOWN 3u
enum { CODE64 = 0xaf9b00, CODE32 = 0xcf9b00, DATA32 = 0xcf9300, DPL3 = 3 << DESCRIPTOR_DPL_SHIFT };
enum { REG_AX, REG_CX, REG_DX, REG_BX, REG_SP };
enum { CS = 1, SS = 2 };

static uint64_t library_efer(TranslatorVcpu *vcpu) { return translator_library_msr(vcpu, 0xc0000080); }

static uint32_t current_cpl(const Env *env) { return env->hflags & HF_CPL; }

static void raise_gp(TranslatorVcpu *vcpu, uintptr_t return_address)
{
    raise_exception_err_ra_x86_64(vcpu->env, VECTOR_GP, 0, return_address);
}

/* ---- Ports -------------------------------------------------------------------------------------------------- */

/*
 * SDM vol. 1 §19.5: in protected mode above IOPL, and always in virtual-8086 mode, the TSS's bitmap decides. The
 * library leaves the check out. Its own check raises #GP(0), and finds the instruction in `env` after
 * restore_state.
 */
static void check_port_permission(TranslatorVcpu *vcpu, uint32_t port, uint32_t size, uintptr_t return_address)
{
    Env *env = vcpu->env;
    uint32_t iopl = (env->eflags & EFLAGS_IOPL) >> 12;
    if (likely(!(env->hflags & HF_PE) || (current_cpl(env) <= iopl && !(env->eflags & EFLAGS_VM))))
        return;
    cpu_restore_state_x86_64(vcpu->cpu, return_address, true);
    if (size == 1)
        helper_check_iob_x86_64(env, port & 0xffff);
    else if (size == 2)
        helper_check_iow_x86_64(env, port & 0xffff);
    else
        helper_check_iol_x86_64(env, port & 0xffff);
}

static uint64_t port_in(uint32_t port, uint32_t size, uintptr_t return_address)
{
    TranslatorVcpu *vcpu = translator_current();
    check_port_permission(vcpu, port, size, return_address);
    uint64_t value, begun = vcpu_exit_begun(&vcpu->base, EXIT_IO);
    bool handled = bus_read(vcpu->board->pio, port & 0xffff, size, &value);
    vcpu->base.counters.exits[EXIT_IO]++;
    if (vcpu_watches(&vcpu->base, EXIT_IO))
        translator_note(
            vcpu,
            &(VmExit){
                .reason = EXIT_IO, .size = size, .handled = handled, .address = port & 0xffff, .value = value},
            begun, return_address);
    return value;
}

static void port_out(uint32_t port, uint32_t size, uint32_t value, uintptr_t return_address)
{
    TranslatorVcpu *vcpu = translator_current();
    check_port_permission(vcpu, port, size, return_address);
    uint64_t begun = vcpu_exit_begun(&vcpu->base, EXIT_IO);
    bool handled = bus_write(vcpu->board->pio, port & 0xffff, size, value);
    vcpu->base.counters.exits[EXIT_IO]++;
    if (vcpu_watches(&vcpu->base, EXIT_IO))
        translator_note(vcpu,
                        &(VmExit){.reason = EXIT_IO,
                                  .size = size,
                                  .is_write = 1,
                                  .handled = handled,
                                  .address = port & 0xffff,
                                  .value = value},
                        begun, return_address);
}

uint64_t helper_inb_x86_64(Env *env, uint32_t port) { return port_in(port, 1, RETURN_ADDRESS); }
uint64_t helper_inw_x86_64(Env *env, uint32_t port) { return port_in(port, 2, RETURN_ADDRESS); }
uint64_t helper_inl_x86_64(Env *env, uint32_t port) { return port_in(port, 4, RETURN_ADDRESS); }
void helper_outb_x86_64(Env *env, uint32_t port, uint32_t value)
{
    port_out(port, 1, value & 0xff, RETURN_ADDRESS);
}
void helper_outw_x86_64(Env *env, uint32_t port, uint32_t value)
{
    port_out(port, 2, value & 0xffff, RETURN_ADDRESS);
}
void helper_outl_x86_64(Env *env, uint32_t port, uint32_t value) { port_out(port, 4, value, RETURN_ADDRESS); }

/* ---- Registers beside the general ones ---------------------------------------------------------------------- */

static void note_msr(TranslatorVcpu *vcpu, uint32_t index, uint64_t value, bool is_write, bool handled,
                     uint64_t begun)
{
    vcpu->base.counters.exits[EXIT_MSR]++;
    if (vcpu_watches(&vcpu->base, EXIT_MSR))
        translator_note(vcpu,
                        &(VmExit){.reason = EXIT_MSR,
                                  .size = 8,
                                  .is_write = is_write,
                                  .handled = handled,
                                  .address = index,
                                  .value = value},
                        begun, 0);
}

void helper_rdmsr_x86_64(Env *env)
{
    TranslatorVcpu *vcpu = translator_current();
    uint32_t index = (uint32_t)env->regs[REG_CX];
    uint64_t value = 0, begun = vcpu_exit_begun(&vcpu->base, EXIT_MSR);
    bool known = translator_read_msr(vcpu, index, &value);
    note_msr(vcpu, index, value, false, known, begun);
    if (!known)
        raise_gp(vcpu, RETURN_ADDRESS);
    env->regs[REG_AX] = (uint32_t)value;
    env->regs[REG_DX] = value >> 32;
}

void helper_wrmsr_x86_64(Env *env)
{
    TranslatorVcpu *vcpu = translator_current();
    uint32_t index = (uint32_t)env->regs[REG_CX];
    uint64_t value = (uint32_t)env->regs[REG_AX] | env->regs[REG_DX] << 32;
    uint64_t begun = vcpu_exit_begun(&vcpu->base, EXIT_MSR);
    bool known = translator_write_msr(vcpu, index, value);
    note_msr(vcpu, index, value, true, known, begun);
    if (!known)
        raise_gp(vcpu, RETURN_ADDRESS);
}

uint64_t helper_read_crN_x86_64(Env *env, int number)
{
    TranslatorVcpu *vcpu = translator_current();
    if (number != 8)
        return original_helper_read_crN_x86_64(env, number);
    Lapic *lapic = translator_lapic(vcpu);
    return lapic ? lapic_cr8(lapic) : vcpu->cr8;
}

/* SDM vol. 2B, MOV to control registers: what is #GP(0) and not only left out. */
static bool control_value_is_valid(TranslatorVcpu *vcpu, int number, uint64_t value)
{
    const Env *env = vcpu->env;
    bool long_mode = env->hflags & HF_LMA, paging = env->cr[0] & CR0_PG;
    switch (number) {
    case 0:
        if (value >> 32 || (value & CR0_PG && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD)))
            return false;
        if (value & CR0_PG)
            return paging || !(library_efer(vcpu) & EFER_LME) ||
                   (env->cr[4] & CR4_PAE && !(env->segs[CS].flags & DESCRIPTOR_L));
        return !(env->hflags & HF_CS64);
    case 3:
        return !long_mode || value >> GUEST_ADDRESS_BITS == 0;
    case 4:
        return (value & ~(uint64_t)CR4_KNOWN) == 0 && !(long_mode && !(value & CR4_PAE));
    case 8:
        return value <= 15;
    default:
        return true;
    }
}

void helper_write_crN_x86_64(Env *env, int number, uint64_t value)
{
    TranslatorVcpu *vcpu = translator_current();
    if (!control_value_is_valid(vcpu, number, value))
        raise_gp(vcpu, RETURN_ADDRESS);
    Lapic *lapic = translator_lapic(vcpu);
    if (number != 8)
        original_helper_write_crN_x86_64(env, number, value);
    else if (lapic)
        lapic_set_cr8(lapic, (uint8_t)value);
    else
        vcpu->cr8 = value;
}

/* SDM vol. 2C XSETBV: of the components that CPUID leaf 0xd tells of; without x87 never. */
void helper_xsetbv_x86_64(Env *env, uint32_t index, uint64_t value)
{
    if (index != 0 || value & ~(uint64_t)XCR0_KNOWN || !(value & 1))
        raise_gp(translator_current(), RETURN_ADDRESS);
    original_helper_xsetbv_x86_64(env, index, value);
    translator_current()->xcr0 = value;
}

/* The library's XSETBV wants CR4.OSXSAVE, and may be left by an exception otherwise. */
void translator_set_xcr0(TranslatorVcpu *vcpu, uint64_t value)
{
    uint64_t cr4 = vcpu->env->cr[4];
    vcpu->xcr0 = (value & XCR0_KNOWN) | 1;
    vcpu->env->cr[4] |= CR4_OSXSAVE;
    original_helper_xsetbv_x86_64(vcpu->env, 0, vcpu->xcr0);
    vcpu->env->cr[4] = cr4;
}

bool translator_can_hold(const CpuState *state)
{
    return !(state->xcr0 & ~(uint64_t)XCR0_KNOWN) && !(state->cr4 & ~(uint64_t)CR4_KNOWN) &&
           !(state->efer & ~(uint64_t)EFER_KNOWN);
}

static uint64_t checked_tsc(TranslatorVcpu *vcpu, uintptr_t return_address)
{
    if (vcpu->env->cr[4] & CR4_TSD && current_cpl(vcpu->env) != 0)
        raise_gp(vcpu, return_address);
    return translator_tsc(vcpu);
}

void helper_rdtsc_x86_64(Env *env)
{
    uint64_t tsc = checked_tsc(translator_current(), RETURN_ADDRESS);
    env->regs[REG_AX] = (uint32_t)tsc;
    env->regs[REG_DX] = tsc >> 32;
}

void helper_rdtscp_x86_64(Env *env)
{
    TranslatorVcpu *vcpu = translator_current();
    uint64_t tsc = checked_tsc(vcpu, RETURN_ADDRESS);
    env->regs[REG_AX] = (uint32_t)tsc;
    env->regs[REG_DX] = tsc >> 32;
    env->regs[REG_CX] = (uint32_t)vcpu->tsc_aux;
}

/* SDM vol. 2B RDPMC: there is no counter, so that every number of one is #GP(0), in ring 0 too. */
void helper_rdpmc_x86_64(Env *env)
{
    (void)env;
    raise_gp(translator_current(), RETURN_ADDRESS);
}

void helper_cpuid_x86_64(Env *env)
{
    TranslatorVcpu *vcpu = translator_current();
    uint32_t leaf = (uint32_t)env->regs[REG_AX], subleaf = (uint32_t)env->regs[REG_CX], r[4];
    uint64_t begun = vcpu_exit_begun(&vcpu->base, EXIT_CPUID);
    translator_cpuid(vcpu, leaf, subleaf, r);
    env->regs[REG_AX] = r[0];
    env->regs[REG_BX] = r[1];
    env->regs[REG_CX] = r[2];
    env->regs[REG_DX] = r[3];
    vcpu->base.counters.exits[EXIT_CPUID]++;
    if (vcpu_watches(&vcpu->base, EXIT_CPUID))
        translator_note(vcpu, &(VmExit){.reason = EXIT_CPUID, .handled = 1, .address = leaf, .value = subleaf},
                        begun, 0);
}

/* ---- Fast system calls -------------------------------------------------------------------------------------- */

static void set_flat_segment(Env *env, int which, uint32_t selector, uint32_t flags)
{
    env->segs[which] = (EnvSegment){.selector = selector & 0xffff, .limit = 0xffffffff, .flags = flags};
}

/* AMD64 APM vol. 3, SYSCALL; Intel SDM vol. 2B, SYSCALL (which has no legacy-mode form). */
void helper_syscall_x86_64(Env *env, int length)
{
    TranslatorVcpu *vcpu = translator_current();
    uint64_t efer = library_efer(vcpu);
    if (!(efer & EFER_SCE))
        raise_exception_err_ra_x86_64(env, VECTOR_UD, 0, RETURN_ADDRESS);
    uint64_t star = translator_library_msr(vcpu, 0xc0000081);
    uint32_t selector = (uint32_t)(star >> 32) & 0xffff;
    uint64_t eflags = helper_read_eflags_x86_64(env) | (env->eflags & (EFLAGS_RF | EFLAGS_VM));
    uint64_t next = env->eip + (uint32_t)length;
    if (env->hflags & HF_LMA) {
        bool from_64bit = env->hflags & HF_CS64;
        env->regs[REG_CX] = next;
        env->regs[11] = eflags & ~(uint64_t)EFLAGS_RF;
        env_set_eflags(env, eflags & ~(translator_library_msr(vcpu, 0xc0000084) | EFLAGS_RF));
        set_flat_segment(env, CS, selector & 0xfffc, CODE64);
        set_flat_segment(env, SS, (selector + 8) & 0xfffc, DATA32);
        env->eip = translator_library_msr(vcpu, from_64bit ? 0xc0000082 : 0xc0000083);
    } else {
        env->regs[REG_CX] = (uint32_t)next;
        env_set_eflags(env, eflags & ~(uint64_t)(EFLAGS_IF | EFLAGS_RF | EFLAGS_VM));
        set_flat_segment(env, CS, selector & 0xfffc, CODE32);
        set_flat_segment(env, SS, (selector + 8) & 0xfffc, DATA32);
        env->eip = (uint32_t)star;
    }
    env_update_hflags(env, efer);
}

/* Intel SDM vol. 2B, SYSENTER. */
void helper_sysenter_x86_64(Env *env, int length)
{
    TranslatorVcpu *vcpu = translator_current();
    uint32_t selector = (uint32_t)translator_library_msr(vcpu, 0x174) & 0xffff;
    if ((selector & 0xfffc) == 0)
        raise_gp(vcpu, RETURN_ADDRESS);
    bool long_mode = env->hflags & HF_LMA;
    uint64_t eflags = helper_read_eflags_x86_64(env) | (env->eflags & EFLAGS_RF);
    env_set_eflags(env, eflags & ~(uint64_t)(EFLAGS_VM | EFLAGS_IF | EFLAGS_RF));
    set_flat_segment(env, CS, selector & 0xfffc, long_mode ? CODE64 : CODE32);
    set_flat_segment(env, SS, (selector + 8) & 0xfffc, DATA32);
    uint64_t mask = long_mode ? UINT64_MAX : UINT32_MAX;
    env->regs[REG_SP] = translator_library_msr(vcpu, 0x175) & mask;
    env->eip = translator_library_msr(vcpu, 0x176) & mask;
    env_update_hflags(env, library_efer(vcpu));
}

/* ---- Stopping ----------------------------------------------------------------------------------------------- */

void helper_hlt_x86_64(Env *env, int length)
{
    TranslatorVcpu *vcpu = translator_current();
    vcpu->hlt_pending = true;
    original_helper_hlt_x86_64(env, length);
}

/* INT n, INT3 and INTO: their length is remembered for a fault in their delivery. */
void helper_raise_interrupt_x86_64(Env *env, int vector, int length)
{
    TranslatorVcpu *vcpu = translator_current();
    vcpu->software_length = (uint32_t)length;
    original_helper_raise_interrupt_x86_64(env, vector, length);
}

void helper_into_x86_64(Env *env, int length)
{
    TranslatorVcpu *vcpu = translator_current();
    vcpu->software_length = (uint32_t)length;
    original_helper_into_x86_64(env, length);
    vcpu->software_length = 0;
}

/* The library asks for a board reset only on a triple fault. */
void qemu_system_reset_request(uc_engine *uc) { translator_current()->triple_fault = true; }

void translator_count_interrupt(TranslatorVcpu *vcpu, uint32_t vector, bool software)
{
    vcpu->base.counters.exits[EXIT_INTERRUPT]++;
    if (vcpu_watches(&vcpu->base, EXIT_INTERRUPT))
        translator_note(vcpu, &(VmExit){.reason = EXIT_INTERRUPT, .handled = 1, .vector = vector, .code = software},
                        0, 0);
}

static void deliver(TranslatorVcpu *vcpu, int vector)
{
    translator_count_interrupt(vcpu, (uint32_t)vector, false);
    *(int32_t *)env_field(vcpu->env, ENV_OLD_EXCEPTION) = -1;
    vcpu->delivering = true;
    do_interrupt_x86_hardirq_x86_64(vcpu->env, vector, 1);
    vcpu->delivering = false;
}

/* What came with a state that was set: an interrupt that another engine had acknowledged, or an exception it had
 * begun. */
static void deliver_pending(TranslatorVcpu *vcpu)
{
    int event = vcpu->pending_event;
    vcpu->pending_event = -1;
    if (event >= PENDING_INTERRUPT) {
        deliver(vcpu, event & 0xff);
        return;
    }
    raise_exception_err_ra_x86_64(vcpu->env, event, vcpu->pending_has_error ? (int)vcpu->pending_error : 0, 0);
}

/*
 * Called by the library's loop between chains of blocks, on every turn (interrupt_request is kept set): the one
 * place where the vCPU's thread does what other threads asked of it. May be left by a longjmp when delivery faults.
 */
bool x86_cpu_exec_interrupt_x86_64(void *cpu, int request)
{
    TranslatorVcpu *vcpu = translator_current();
    Board *board = vcpu->board;
    /* The loop has just cleared icount_high, with a plain store: done before the flags are read, no kick is lost.
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    code_pages_run_invalidations(vcpu);
    if (unlikely(__atomic_load_n(&vcpu->a20_pending, __ATOMIC_RELAXED)) &&
        __atomic_exchange_n(&vcpu->a20_pending, 0, __ATOMIC_SEQ_CST))
        x86_cpu_set_a20_x86_64(vcpu->cpu, __atomic_load_n(&board->a20, __ATOMIC_ACQUIRE));
    if (unlikely(__atomic_load_n(&vcpu->flush_pending, __ATOMIC_RELAXED)) &&
        __atomic_exchange_n(&vcpu->flush_pending, 0, __ATOMIC_SEQ_CST))
        tlb_flush_x86_64(vcpu->cpu);
    if (clock_kind(board->clock) == CLOCK_KIND_VIRTUAL &&
        clock_next_deadline(board->clock) <= clock_now(board->clock))
        clock_run_timers(board->clock);
    if (vcpu->leave || __atomic_load_n(&vcpu->base.kicked, __ATOMIC_ACQUIRE) ||
        __atomic_load_n(&board->system_request, __ATOMIC_ACQUIRE)) {
        translator_leave(vcpu);
        return false;
    }
    if (unlikely(vcpu->pending_event >= 0)) {
        deliver_pending(vcpu);
        return true;
    }
    if (unlikely(!engine_vm_is_attached(vcpu->base.vm)))
        return false; /* lending a hand: interrupts are for the engine that has the machine */
    Env *env = vcpu->env;
    if (unlikely(__atomic_load_n(&board->nmi_pending, __ATOMIC_ACQUIRE)) && !(env->hflags & HF_INHIBIT_IRQ) &&
        !(env->hflags2 & HF2_NMI)) {
        __atomic_store_n(&board->nmi_pending, 0, __ATOMIC_RELEASE);
        env->hflags2 |= HF2_NMI;
        deliver(vcpu, 2);
        return true;
    }
    if (!intr_pin_level(&board->intr) || !(env->eflags & EFLAGS_IF) || env->hflags & HF_INHIBIT_IRQ)
        return false;
    int vector = intr_pin_acknowledge(&board->intr);
    if (vector < 0)
        return false;
    deliver(vcpu, vector);
    return true;
}

/*
 * Emits the library's check for a stop after every guest load and store; taking one there would run the instruction
 * twice. The slow tier keeps it, and never asks for a stop that way (on_block_slow).
 */
void check_exit_request_x86_64(void *tcg_context)
{
    TranslatorVcpu *vcpu = translator_current();
    if (!vcpu || vcpu->slow)
        original_check_exit_request_x86_64(tcg_context);
}
