#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/engine.h"

void engine_vm_free(EngineVm *vm)
{
    if (vm)
        vm->ops->vm_free(vm);
}

Vcpu *vcpu_new(EngineVm *vm, uint32_t index, Error *error) { return vm->ops->vcpu_new(vm, index, error); }

void vcpu_free(Vcpu *vcpu)
{
    if (vcpu)
        vcpu->vm->ops->vcpu_free(vcpu);
}

int engine_vm_reset(EngineVm *vm)
{
    int result = vm->ops->vm_reset ? vm->ops->vm_reset(vm) : 0;
    __atomic_store_n(&vm->board->system, SYSTEM_NONE, __ATOMIC_SEQ_CST);
    for (Vcpu *vcpu = vm->vcpus; vcpu && result == 0; vcpu = vcpu->next)
        result = vcpu_reset(vcpu);
    return result;
}

void engine_vm_pause(EngineVm *vm)
{
    if (vm->ops->vm_pause)
        vm->ops->vm_pause(vm);
}

bool engine_vm_request(EngineVm *vm, enum SystemRequest request, uint32_t code)
{
    Vcpu *vcpu = vm->vcpus;
    while (vcpu && __atomic_load_n(&vcpu->runner, __ATOMIC_RELAXED) != (uintptr_t)pthread_self())
        vcpu = vcpu->next;
    if (!vcpu)
        return false;
    if (!(__atomic_load_n(&vcpu->kicked, __ATOMIC_RELAXED) &
          KICK_REQUEST)) { /* the first of one instruction wins */
        vcpu->request = request;
        vcpu->request_code = code;
        __atomic_fetch_or(&vcpu->kicked, KICK_REQUEST, __ATOMIC_SEQ_CST);
        vcpu->vm->ops->vcpu_notify(vcpu);
    }
    return true;
}

void vcpu_init(Vcpu *vcpu, EngineVm *vm, uint32_t index)
{
    Vcpu **last = &vm->vcpus;
    while (*last)
        last = &(*last)->next;
    *last = vcpu;
    vcpu->vm = vm;
    vcpu->index = index;
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->wake, NULL);
}

void vcpu_fini(Vcpu *vcpu)
{
    for (Vcpu **link = &vcpu->vm->vcpus; *link; link = &(*link)->next)
        if (*link == vcpu) {
            *link = vcpu->next;
            break;
        }
    pthread_mutex_destroy(&vcpu->lock);
    pthread_cond_destroy(&vcpu->wake);
    free(vcpu->hand_over);
}

void vcpu_notify(Vcpu *vcpu)
{
    vcpu->vm->ops->vcpu_notify(vcpu);
    pthread_mutex_lock(&vcpu->lock); /* it has seen why, or it waits */
    pthread_mutex_unlock(&vcpu->lock);
    pthread_cond_signal(&vcpu->wake); /* with the lock free, or it would wake only to wait for that */
}

void vcpu_kick(Vcpu *vcpu)
{
    __atomic_fetch_or(&vcpu->kicked, KICK_ONCE, __ATOMIC_SEQ_CST);
    vcpu_notify(vcpu);
}

void engine_vm_call_in(EngineVm *vm)
{
    for (Vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        __atomic_fetch_or(&vcpu->kicked, KICK_CALLED_IN, __ATOMIC_SEQ_CST);
        vcpu_notify(vcpu);
    }
}

void engine_vm_let_go(EngineVm *vm)
{
    for (Vcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next)
        __atomic_fetch_and(&vcpu->kicked, ~(uint32_t)KICK_CALLED_IN, __ATOMIC_SEQ_CST);
}

void vcpu_name_thread(const Vcpu *vcpu)
{
    char name[16]; /* what the kernel keeps */
    snprintf(name, sizeof name, "vcpu-%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
}

static bool interrupt_ready(const Vcpu *vcpu)
{
    const Board *board = vcpu->vm->board;
    return (!vcpu->nmi_blocked && __atomic_load_n(&board->nmi_pending, __ATOMIC_ACQUIRE)) ||
           (vcpu->halted_if && intr_pin_level(&board->intr));
}

static bool asked_to_leave(const Vcpu *vcpu)
{
    return __atomic_load_n(&vcpu->kicked, __ATOMIC_ACQUIRE) ||
           (vcpu->index == 0 && __atomic_load_n(&vcpu->vm->board->system_request, __ATOMIC_ACQUIRE));
}

/* A halted vCPU: sleep on a realtime clock; on a virtual one jump to the next timer, and sleep only when there is
 * none. */
static void wait_for_interrupt(Vcpu *vcpu)
{
    Clock *clock = vcpu->vm->board->clock;
    while (!interrupt_ready(vcpu) && !asked_to_leave(vcpu)) {
        uint64_t deadline = clock_next_deadline(clock), now = clock_now(clock);
        if (clock_kind(clock) == CLOCK_KIND_VIRTUAL && deadline != CLOCK_NEVER) {
            if (deadline > now)
                clock_advance(clock, deadline - now);
            clock_run_timers(clock);
            continue;
        }
        pthread_mutex_lock(&vcpu->lock);
        if (!interrupt_ready(vcpu) && !asked_to_leave(vcpu))
            pthread_cond_wait(&vcpu->wake, &vcpu->lock);
        pthread_mutex_unlock(&vcpu->lock);
    }
    if (interrupt_ready(vcpu))
        vcpu->halted = 0;
}

/*
 * What must leave the loop before, or instead of, running guest code. What a vCPU asks of the machine it returns
 * with itself; what others ask (a Python thread, a timer) is the first vCPU's. Its caller tells the others
 * (engine_vm_call_in).
 */
static bool leave_now(Vcpu *vcpu, VmExit *exit)
{
    Board *board = vcpu->vm->board;
    if (vcpu->index == 0 && __atomic_load_n(&board->system_request, __ATOMIC_ACQUIRE)) {
        exit->reason = EXIT_SYSTEM;
        exit->request = board_take_request(board, &exit->code);
        return true;
    }
    uint32_t kicked = __atomic_load_n(&vcpu->kicked, __ATOMIC_ACQUIRE);
    if (!kicked)
        return false;
    exit->reason = EXIT_KICK;
    if (kicked & KICK_REQUEST) {
        exit->reason = EXIT_SYSTEM;
        exit->request = vcpu->request;
        exit->code = vcpu->request_code;
        __atomic_fetch_and(&vcpu->kicked, ~(uint32_t)KICK_REQUEST, __ATOMIC_ACQ_REL);
    } else if (kicked & KICK_ONCE) {
        __atomic_fetch_and(&vcpu->kicked, ~(uint32_t)KICK_ONCE, __ATOMIC_ACQ_REL);
    }
    return true;
}

/* Whether leave_now() has a request to return. One that HLT follows is told before it: a guest that leaves by a
 * port and then halts for good has left. */
static bool has_request(const Vcpu *vcpu)
{
    return (vcpu->index == 0 && __atomic_load_n(&vcpu->vm->board->system_request, __ATOMIC_ACQUIRE)) ||
           __atomic_load_n(&vcpu->kicked, __ATOMIC_ACQUIRE) & KICK_REQUEST;
}

enum {
    ALWAYS_SURFACED = 1 << EXIT_SHUTDOWN | 1 << EXIT_SYSTEM | 1 << EXIT_KICK | 1 << EXIT_DEBUG | 1 << EXIT_FAIL,
};

static bool runner_enter(Vcpu *vcpu)
{
    uintptr_t nobody = 0;
    return __atomic_compare_exchange_n(&vcpu->runner, &nobody, (uintptr_t)pthread_self(), false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

static void runner_leave(Vcpu *vcpu) { __atomic_store_n(&vcpu->runner, 0, __ATOMIC_RELEASE); }

static bool runs_elsewhere(const Vcpu *vcpu)
{
    uintptr_t runner = __atomic_load_n(&vcpu->runner, __ATOMIC_ACQUIRE);
    return runner && runner != (uintptr_t)pthread_self();
}

static int run(Vcpu *vcpu, uint32_t surface, VmExit *exit)
{
    vcpu_watch(vcpu, surface);
    ioeventfds_surface(vcpu->vm->board->ioeventfds, surface & (1u << EXIT_IO | 1u << EXIT_MMIO));
    for (;;) {
        memset(exit, 0, sizeof *exit);
        if (leave_now(vcpu, exit))
            break;
        if (vcpu->halted) {
            wait_for_interrupt(vcpu);
            continue;
        }
        int result = vcpu->vm->ops->vcpu_run(vcpu, exit);
        if (result < 0)
            return result;
        if (exit->reason == EXIT_HLT) {
            vcpu->halted = 1;
            vcpu->halted_if = exit->value >> 9 & 1;
            vcpu->counters.exits[EXIT_HLT]++;
            if (vcpu_watches(vcpu, EXIT_HLT))
                vcpu_note_exit(vcpu, exit, 0, exit_trace_cycles());
        }
        /* Interrupts off: only an NMI or a reset from outside can wake it. The caller should know. */
        if (exit->reason == EXIT_HLT && !vcpu->halted_if && !interrupt_ready(vcpu) && !has_request(vcpu))
            break;
        if (exit->reason != EXIT_NONE && (1u << exit->reason) & (surface | ALWAYS_SURFACED))
            break;
    }
    if ((1u << exit->reason) & ALWAYS_SURFACED) {
        vcpu->counters.exits[exit->reason]++;
        if (vcpu_watches(vcpu, exit->reason))
            vcpu_note_exit(vcpu, exit, 0, exit_trace_cycles());
    }
    return 0;
}

int vcpu_run(Vcpu *vcpu, uint32_t surface, VmExit *exit)
{
    if (!engine_vm_is_attached(vcpu->vm))
        return -EXDEV;
    if (!runner_enter(vcpu))
        return -EBUSY;
    int result = run(vcpu, surface, exit);
    runner_leave(vcpu);
    return result;
}

static int step(Vcpu *vcpu, VmExit *exit)
{
    memset(exit, 0, sizeof *exit);
    if (leave_now(vcpu, exit))
        return 0;
    vcpu_watch(vcpu, 0);
    if (vcpu->halted) {
        vcpu->halted = !interrupt_ready(vcpu);
        exit->reason = EXIT_HLT;
        if (vcpu->halted)
            return 0;
    }
    int result = vcpu->vm->ops->vcpu_step(vcpu, exit);
    if (result == 0 && exit->reason == EXIT_HLT) {
        vcpu->halted = 1;
        vcpu->halted_if = exit->value >> 9 & 1;
    }
    return result;
}

int vcpu_step(Vcpu *vcpu, VmExit *exit)
{
    if (!engine_vm_is_attached(vcpu->vm))
        return -EXDEV;
    if (!runner_enter(vcpu))
        return -EBUSY;
    int result = step(vcpu, exit);
    runner_leave(vcpu);
    return result;
}

int vcpu_get_state(Vcpu *vcpu, CpuState *state)
{
    if (runs_elsewhere(vcpu))
        return -EBUSY;
    int result = vcpu->vm->ops->vcpu_get_state(vcpu, state);
    state->halted |= vcpu->halted != 0;
    if (!vcpu->vm->halts_inside)
        state->nmi_pending = __atomic_load_n(&vcpu->vm->board->nmi_pending, __ATOMIC_ACQUIRE) != 0;
    return result;
}

int vcpu_set_state(Vcpu *vcpu, const CpuState *state)
{
    if (runs_elsewhere(vcpu))
        return -EBUSY;
    int result = vcpu->vm->ops->vcpu_set_state(vcpu, state);
    uint32_t none = 0; /* NMIs that wait are the board's, or the engine's APIC's: this one may be there already */
    if (state->nmi_pending && !vcpu->vm->halts_inside)
        __atomic_compare_exchange_n(&vcpu->vm->board->nmi_pending, &none, 1, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_RELAXED);
    vcpu->halted = state->halted && !vcpu->vm->halts_inside;
    vcpu->halted_if = state->rflags >> 9 & 1;
    vcpu->nmi_blocked = state->nmi_blocked;
    return result;
}

int vcpu_reset(Vcpu *vcpu)
{
    CpuState *state = malloc(sizeof *state);
    if (!state)
        return -ENOMEM;
    if (vcpu->index == 0)
        cpu_state_reset(state);
    else
        cpu_state_reset_ap(state);
    int result = vcpu_set_state(vcpu, state);
    free(state);
    if (result == 0 && vcpu->vm->ops->vcpu_reset)
        result = vcpu->vm->ops->vcpu_reset(vcpu);
    __atomic_fetch_and(&vcpu->kicked, ~(uint32_t)KICK_REQUEST, __ATOMIC_ACQ_REL);
    return result;
}

int vcpu_set_breakpoints(Vcpu *vcpu, const gva_t *addresses, size_t count)
{
    if (__atomic_load_n(&vcpu->runner, __ATOMIC_ACQUIRE))
        return -EBUSY;
    return vcpu->vm->ops->vcpu_set_breakpoints(vcpu, addresses, count);
}

int vcpu_get_cpuid(Vcpu *vcpu, CpuidEntry *entries, uint32_t capacity)
{
    return vcpu->vm->ops->vcpu_get_cpuid(vcpu, entries, capacity);
}

int vcpu_set_cpuid(Vcpu *vcpu, const CpuidEntry *entries, uint32_t count)
{
    if (__atomic_load_n(&vcpu->runner, __ATOMIC_ACQUIRE))
        return -EBUSY;
    return count > CPUID_MAX_ENTRIES ? -ENOSPC : vcpu->vm->ops->vcpu_set_cpuid(vcpu, entries, count);
}

int vcpu_set_trace(Vcpu *vcpu, ExitTrace *trace)
{
    if (__atomic_load_n(&vcpu->runner, __ATOMIC_ACQUIRE))
        return -EBUSY;
    vcpu->trace = trace;
    return 0;
}

bool vcpu_note_exit(Vcpu *vcpu, VmExit *exit, uint64_t begun, uint64_t answered)
{
    uint64_t cycles = begun ? answered - begun : 0;
    exit->cycles = (uint32_t)MIN(cycles, (uint64_t)UINT32_MAX);
    exit->privilege = EXIT_PRIVILEGE_KNOWN | vcpu->vm->ops->vcpu_privilege(vcpu);
    if (vcpu->trace)
        exit_trace_add(vcpu->trace, exit, answered);
    return vcpu->surface & 1u << exit->reason;
}

void vcpu_counters(const Vcpu *vcpu, ExitCounters *counters) { *counters = vcpu->counters; }

int vcpu_statistics(Vcpu *vcpu, EngineStatistic *statistics, uint32_t capacity)
{
    const EngineOps *ops = vcpu->vm->ops;
    return ops->vcpu_statistics ? ops->vcpu_statistics(vcpu, statistics, capacity) : 0;
}

int vcpu_tlb(Vcpu *vcpu, TlbTranslation *translations, uint32_t capacity)
{
    const EngineOps *ops = vcpu->vm->ops;
    if (__atomic_load_n(&vcpu->runner, __ATOMIC_ACQUIRE))
        return -EBUSY;
    return ops->vcpu_tlb ? ops->vcpu_tlb(vcpu, translations, capacity) : -ENOTSUP;
}

uint64_t vcpu_instructions(const Vcpu *vcpu) { return vcpu->instructions; }
