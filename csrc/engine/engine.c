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

void vcpu_init(Vcpu *vcpu, EngineVm *vm, uint32_t index)
{
    vcpu->vm = vm;
    vcpu->index = index;
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->wake, NULL);
}

void vcpu_fini(Vcpu *vcpu)
{
    pthread_mutex_destroy(&vcpu->lock);
    pthread_cond_destroy(&vcpu->wake);
    free(vcpu->hand_over);
}

void vcpu_notify(Vcpu *vcpu)
{
    vcpu->vm->ops->vcpu_notify(vcpu);
    pthread_mutex_lock(&vcpu->lock);
    pthread_cond_signal(&vcpu->wake);
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_kick(Vcpu *vcpu)
{
    __atomic_store_n(&vcpu->kicked, 1, __ATOMIC_SEQ_CST);
    vcpu_notify(vcpu);
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
           __atomic_load_n(&vcpu->vm->board->system_request, __ATOMIC_ACQUIRE);
}

/* A halted vCPU: sleep on a realtime clock; on a virtual one jump to the next timer, and sleep only when there is none. */
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

/* What must leave the loop before, or instead of, running guest code. */
static bool leave_now(Vcpu *vcpu, VmExit *exit)
{
    Board *board = vcpu->vm->board;
    if (__atomic_load_n(&board->system_request, __ATOMIC_ACQUIRE)) {
        exit->reason = EXIT_SYSTEM;
        exit->request = board_take_request(board, &exit->code);
        return true;
    }
    if (__atomic_exchange_n(&vcpu->kicked, 0, __ATOMIC_ACQ_REL)) {
        exit->reason = EXIT_KICK;
        return true;
    }
    return false;
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
    vcpu->surface = surface;
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
        }
        /* Interrupts off: only an NMI or a reset from outside can wake it. The caller should know. */
        if (exit->reason == EXIT_HLT && !vcpu->halted_if && !interrupt_ready(vcpu))
            break;
        if (exit->reason != EXIT_NONE && (1u << exit->reason) & (surface | ALWAYS_SURFACED))
            break;
    }
    if ((1u << exit->reason) & ALWAYS_SURFACED)
        vcpu->counters.exits[exit->reason]++;
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
    vcpu->surface = 0;
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
    state->nmi_pending = __atomic_load_n(&vcpu->vm->board->nmi_pending, __ATOMIC_ACQUIRE) != 0;
    return result;
}

int vcpu_set_state(Vcpu *vcpu, const CpuState *state)
{
    if (runs_elsewhere(vcpu))
        return -EBUSY;
    int result = vcpu->vm->ops->vcpu_set_state(vcpu, state);
    uint32_t none = 0; /* NMIs that wait are the board's: this one may be there already */
    if (state->nmi_pending)
        __atomic_compare_exchange_n(&vcpu->vm->board->nmi_pending, &none, 1, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_RELAXED);
    vcpu->halted = state->halted;
    vcpu->halted_if = state->rflags >> 9 & 1;
    vcpu->nmi_blocked = state->nmi_blocked;
    return result;
}

int vcpu_set_breakpoints(Vcpu *vcpu, const gva_t *addresses, size_t count)
{
    if (__atomic_load_n(&vcpu->runner, __ATOMIC_ACQUIRE))
        return -EBUSY;
    return vcpu->vm->ops->vcpu_set_breakpoints(vcpu, addresses, count);
}

void vcpu_counters(const Vcpu *vcpu, ExitCounters *counters) { *counters = vcpu->counters; }

uint64_t vcpu_instructions(const Vcpu *vcpu) { return vcpu->instructions; }
