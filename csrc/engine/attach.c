/*
 * Which engine has the board, and handing a machine from one engine to the other (engine.h, engine_vm_attach).
 *
 * Left out: engines with different numbers of vCPUs; exits that an engine had surfaced and nobody had taken yet.
 */
#include <stdlib.h>

#include "engine/engine.h"

static void on_kick(void *opaque)
{
    EngineVm *vm = opaque;
    if (vm)
        vm->ops->vm_notify(vm);
}

static bool on_vcpu_request(void *opaque, enum SystemRequest request, uint32_t code)
{
    EngineVm *vm = opaque;
    return vm && engine_vm_request(vm, request, code);
}

static void on_a20(void *opaque, bool on)
{
    EngineVm *vm = opaque;
    if (vm)
        vm->ops->vm_a20(vm, on);
}

static int on_ioeventfd(void *opaque, const IoEventFd *entry, bool add)
{
    EngineVm *vm = opaque;
    return vm->ops->vm_ioeventfd(vm, entry, add);
}

static int on_device_ram(void *opaque, uint32_t number, const DeviceRam *ram, bool add)
{
    EngineVm *vm = opaque;
    return vm->ops->vm_device_ram(vm, number, ram, add);
}

/*
 * Who kicks has set its flag or level and then reads the pointer; an engine looks at flags and levels after the
 * pointer was stored. So a kick that still finds the old VM was given before the new one's first look: none is
 * lost.
 */
static void set_hooks(Board *board, EngineVm *vm)
{
    board->kick = on_kick;
    board->vcpu_request = on_vcpu_request;
    board->a20_changed = on_a20;
    board->intr.changed = on_kick;
    __atomic_store_n(&board->engine, vm, __ATOMIC_SEQ_CST);
    __atomic_store_n(&board->intr.engine, vm, __ATOMIC_SEQ_CST);
    ioeventfds_attach(board->ioeventfds, vm && vm->ops->vm_ioeventfd ? on_ioeventfd : NULL, vm);
    device_rams_attach(board->device_rams, vm && vm->ops->vm_device_ram ? on_device_ram : NULL, vm);
}

bool engine_vm_is_attached(const EngineVm *vm)
{
    return __atomic_load_n(&vm->board->engine, __ATOMIC_RELAXED) == vm;
}

int engine_vm_attach(EngineVm *vm, Error *error)
{
    const EngineVm *attached = __atomic_load_n(&vm->board->engine, __ATOMIC_SEQ_CST);
    if (attached == vm)
        return 0;
    if (attached)
        return error_set(error, EBUSY, "the %s engine has the machine: detach it first", attached->ops->name);
    int result = vm->ops->vm_attach(vm, error);
    if (result < 0)
        return result;
    set_hooks(vm->board, vm);
    return 0;
}

int engine_vm_detach(EngineVm *vm, Error *error)
{
    if (!engine_vm_is_attached(vm))
        return 0;
    int result = vm->ops->vm_detach(vm, error);
    if (result < 0)
        return result;
    set_hooks(vm->board, NULL);
    return 0;
}

int engine_vm_adopt(EngineVm *vm, Error *error) { return vm->board->engine ? 0 : engine_vm_attach(vm, error); }

void engine_vm_disown(EngineVm *vm)
{
    if (engine_vm_is_attached(vm))
        set_hooks(vm->board, NULL);
}

/* Everything of one vCPU that is not the processor's: what was counted, and kicks on their way. */
static void carry_over(Vcpu *from, Vcpu *to)
{
    to->counters = from->counters;
    to->trace = from->trace;
    from->trace = NULL;
    vcpu_set_breakpoints(from, NULL, 0);
    to->instructions = vcpu_instructions(from);
    vcpu_carry_hand_over(from, to);
    to->request = from->request;
    to->request_code = from->request_code;
    __atomic_fetch_or(&to->kicked, __atomic_exchange_n(&from->kicked, 0, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
}

static int load_states(Vcpu *const *vcpus, const CpuState *states, size_t count, Error *error)
{
    for (size_t i = 0; i < count; i++) {
        int result = vcpu_set_state(vcpus[i], &states[i]);
        if (result < 0)
            return error_set(error, -result,
                             "the %s engine cannot hold the state of vCPU %u (CR0 %#llx, CR4 %#llx, EFER %#llx,"
                             " XCR0 %#llx): %s",
                             vcpus[i]->vm->ops->name, vcpus[i]->index, (unsigned long long)states[i].cr0,
                             (unsigned long long)states[i].cr4, (unsigned long long)states[i].efer,
                             (unsigned long long)states[i].xcr0, strerror(-result));
    }
    return 0;
}

int engine_vm_switch(Vcpu *const *from, Vcpu *const *to, size_t count, Error *error)
{
    EngineVm *old = from[0]->vm, *new = to[0]->vm;
    CpuState *states = calloc(count, sizeof *states);
    if (!states)
        return error_set(error, ENOMEM, "no host memory to change engines");
    int result = 0;
    for (size_t i = 0; i < count && result == 0; i++) {
        result = vcpu_get_state(from[i], &states[i]);
        if (result < 0)
            error_set(error, -result, "reading the state of vCPU %zu: %s", i, strerror(-result));
    }
    if (result == 0)
        result = engine_vm_detach(old, error);
    if (result == 0) {
        result = engine_vm_attach(new, error);
        if (result == 0)
            result = load_states(to, states, count, error);
        if (result < 0) { /* the old one still has all that it had */
            engine_vm_detach(new, NULL);
            engine_vm_attach(old, NULL);
        }
    }
    for (size_t i = 0; i < count && result == 0; i++)
        carry_over(from[i], to[i]);
    free(states);
    return result;
}
