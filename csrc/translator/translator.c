/* The engine's vtable: making a vCPU in the library, running it, stepping it. See vm.h for the structures. */
#include <stdio.h>
#include <stdlib.h>

#include "translator/vm.h"

#define ADDRESS_SPACE_END        (1ull << 52)
#define TRANSLATION_BUFFER_BYTES (256u << 20)
#define SURFACE_QUEUE            1024 /* more than one block can hold instructions */
#define VIRTUAL_BYTES_PER_NS     4    /* virtual clock: one average instruction a nanosecond */

static const EngineOps OPS;
__thread TranslatorVcpu *translator_running;

TranslatorVcpu *translator_enter(TranslatorVcpu *vcpu)
{
    TranslatorVcpu *before = translator_running;
    translator_running = vcpu;
    return before;
}

static TranslatorVcpu *vcpu_of(Vcpu *base) { return container_of(base, TranslatorVcpu, base); }

uint64_t translator_rip(const TranslatorVcpu *vcpu) { return vcpu->env->eip + vcpu->env->segs[SEG_CS].base; }

uint64_t translator_rip_at(TranslatorVcpu *vcpu, uintptr_t return_address)
{
    cpu_restore_state_x86_64(vcpu->cpu, return_address, false);
    return translator_rip(vcpu);
}

void translator_leave(TranslatorVcpu *vcpu)
{
    vcpu->leave = true;
    uc_emu_stop(vcpu->uc);
}

void translator_surface(TranslatorVcpu *vcpu, const VmExit *exit)
{
    if (vcpu->queue && vcpu->queue_count < SURFACE_QUEUE)
        vcpu->queue[(vcpu->queue_head + vcpu->queue_count++) % SURFACE_QUEUE] = *exit;
    vcpu->leave = true;
    translator_kick(vcpu);
}

void translator_note(TranslatorVcpu *vcpu, const VmExit *exit, uint64_t begun, uintptr_t return_address)
{
    uint64_t answered = exit_trace_cycles();
    VmExit seen = *exit;
    seen.rip = return_address ? translator_rip_at(vcpu, return_address) : translator_rip(vcpu);
    if (vcpu_note_exit(&vcpu->base, &seen, begun, answered))
        translator_surface(vcpu, &seen);
}

static uint32_t privilege(Vcpu *base)
{
    const TranslatorVcpu *vcpu = vcpu_of(base);
    uint32_t hflags = vcpu->env->hflags;
    return exit_trace_privilege(hflags & HF_PE, vcpu->env->eflags & EFLAGS_VM, hflags & HF_LMA, hflags & HF_CS64,
                                hflags & HF_CS32, hflags & HF_CPL);
}

/* ---- Hooks: what the library calls back --------------------------------------------------------------------- */

/*
 * SDM vol. 3A §6.13: in an error code about the IDT (bit 1) the index is the vector, which the library doubles in
 * long mode; EXT (bit 0) tells that the delivery of an event faulted, not of INT n.
 */
static void mend_error_code(TranslatorVcpu *vcpu, uint32_t vector, bool in_delivery)
{
    uint32_t *error = env_field(vcpu->env, ENV_ERROR_CODE);
    if (vector < 10 || vector > 13)
        return;
    if (*error & 2 && vcpu->env->hflags & HF_LMA)
        *error = (*error >> 1 & ~7u) | 2;
    if (in_delivery)
        *error |= 1;
}

/* SDM vol. 3A table 6-1: which vectors push an error code. */
static bool pushes_error_code(uint32_t vector) { return vector < 32 && (1u << vector) & 0x60227d00u; }

static void note_fault(TranslatorVcpu *vcpu, uint32_t vector, bool in_delivery)
{
    if (!in_delivery)
        vcpu->fault_count = 0;
    if (vcpu->fault_count == TRANSLATOR_FAULTS)
        return;
    bool has_error = pushes_error_code(vector);
    vcpu->faults[vcpu->fault_count++] = (TranslatorFault){
        .rip = translator_rip(vcpu),
        .cr2 = vcpu->env->cr[2],
        .vector = vector,
        .error = has_error ? *(uint32_t *)env_field(vcpu->env, ENV_ERROR_CODE) : 0,
        .has_error = has_error,
        .in_delivery = in_delivery,
    };
}

uint32_t translator_faults(const Vcpu *base, TranslatorFault faults[TRANSLATOR_FAULTS])
{
    if (base->vm->ops != &OPS)
        return 0;
    const TranslatorVcpu *vcpu = container_of(base, TranslatorVcpu, base);
    memcpy(faults, vcpu->faults, sizeof vcpu->faults);
    return vcpu->fault_count;
}

static void exception(TranslatorVcpu *vcpu, uint32_t vector)
{
    mend_error_code(vcpu, vector, vcpu->delivering);
    note_fault(vcpu, vector, vcpu->delivering);
    vcpu->delivering = false;
    if (*(int32_t *)env_field(vcpu->env, ENV_EXCEPTION_IS_INT)) { /* INT n, INT3, INTO */
        /* The library has moved RIP on; a fault in the delivery of INT n is the fault of INT n itself. */
        vcpu->env->eip -= vcpu->software_length;
        vcpu->software_length = 0;
        translator_count_interrupt(vcpu, vector, true);
        x86_cpu_do_interrupt_x86_64(vcpu->cpu);
        return;
    }
    vcpu->base.counters.exits[EXIT_EXCEPTION]++;
    if (vcpu_watches(&vcpu->base, EXIT_EXCEPTION)) {
        bool has_error = pushes_error_code(vector);
        translator_note(vcpu,
                        &(VmExit){.reason = EXIT_EXCEPTION,
                                  .handled = 1,
                                  .vector = vector,
                                  .has_error = has_error,
                                  .value = has_error ? *(uint32_t *)env_field(vcpu->env, ENV_ERROR_CODE) : 0,
                                  .address = vector == 14 ? vcpu->env->cr[2] : 0},
                        0, 0);
    }
    /* May fault in turn, and then does not return here: hold nothing. */
    vcpu->delivering = true;
    x86_cpu_do_interrupt_x86_64(vcpu->cpu);
    vcpu->delivering = false;
}

static void on_exception(uc_engine *uc, uint32_t vector, void *opaque) { exception(opaque, vector); }

static bool on_invalid_instruction(uc_engine *uc, void *opaque)
{
    exception(opaque, 6);
    return true;
}

/* A store to a read-only slot: the library then discards it, as ROM does. */
static bool on_rom_write(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *opaque)
{
    return true;
}

static uintptr_t mmio_return_address(TranslatorVcpu *vcpu)
{
    return *(uintptr_t *)env_field(vcpu->cpu, CPU_MEM_IO_PC);
}

static uint64_t on_mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *opaque)
{
    MmioRegion *region = opaque;
    TranslatorVcpu *vcpu = region->vcpu;
    uint64_t value, gpa = region->base + offset, begun = vcpu_exit_begun(&vcpu->base, EXIT_MMIO);
    bool handled = bus_read(vcpu->board->mmio, gpa, size, &value);
    vcpu->base.counters.exits[EXIT_MMIO]++;
    if (vcpu_watches(&vcpu->base, EXIT_MMIO))
        translator_note(
            vcpu, &(VmExit){.reason = EXIT_MMIO, .size = size, .handled = handled, .address = gpa, .value = value},
            begun, mmio_return_address(vcpu));
    return value;
}

static void on_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *opaque)
{
    MmioRegion *region = opaque;
    TranslatorVcpu *vcpu = region->vcpu;
    uint64_t gpa = region->base + offset, begun = vcpu_exit_begun(&vcpu->base, EXIT_MMIO);
    bool handled = bus_write(vcpu->board->mmio, gpa, size, value);
    vcpu->base.counters.exits[EXIT_MMIO]++;
    if (vcpu_watches(&vcpu->base, EXIT_MMIO))
        translator_note(vcpu,
                        &(VmExit){.reason = EXIT_MMIO,
                                  .size = size,
                                  .is_write = 1,
                                  .handled = handled,
                                  .address = gpa,
                                  .value = value},
                        begun, mmio_return_address(vcpu));
}

/* Every block on a virtual clock: time is the code that ran. */
static void on_block_virtual(uc_engine *uc, uint64_t address, uint32_t size, void *opaque)
{
    TranslatorVcpu *vcpu = opaque;
    Clock *clock = vcpu->board->clock;
    vcpu->virtual_subticks += size;
    clock_advance(clock, vcpu->virtual_subticks / VIRTUAL_BYTES_PER_NS);
    vcpu->virtual_subticks %= VIRTUAL_BYTES_PER_NS;
    if (unlikely(clock_next_deadline(clock) <= clock_now(clock)))
        translator_kick(vcpu);
}

/* Every block of the slow tier, where the library's own stop checks are in the middle of instructions: stop here.
 */
static void on_block_slow(uc_engine *uc, uint64_t address, uint32_t size, void *opaque)
{
    TranslatorVcpu *vcpu = opaque;
    if (likely(!__atomic_load_n(&vcpu->slow_kick, __ATOMIC_ACQUIRE)))
        return;
    __atomic_store_n(&vcpu->slow_kick, 0, __ATOMIC_SEQ_CST);
    vcpu->env->eip = address - vcpu->env->segs[SEG_CS].base;
    cpu_loop_exit_noexc_x86_64(vcpu->cpu);
}

/* Never called for effect: a hook over RAM makes the library invalidate code on every store (slow tier). */
static void on_slow_write(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *opaque)
{
}

static void debug_stop(TranslatorVcpu *vcpu, uint64_t address)
{
    translator_surface(vcpu, &(VmExit){.reason = EXIT_DEBUG, .rip = address, .address = address});
    vcpu->env->eip = address - vcpu->env->segs[SEG_CS].base;
    cpu_loop_exit_noexc_x86_64(vcpu->cpu);
}

/*
 * Every instruction while exits inside a block are surfaced: the one after an exit is not executed before the exit
 * was seen, so that registers are those right after the access, and may be changed.
 */
static void on_instruction_surfaced(uc_engine *uc, uint64_t address, uint32_t size, void *opaque)
{
    TranslatorVcpu *vcpu = opaque;
    if (likely(!vcpu->queue_count))
        return;
    vcpu->env->eip = address - vcpu->env->segs[SEG_CS].base;
    cpu_loop_exit_noexc_x86_64(vcpu->cpu);
}

static void on_step(uc_engine *uc, uint64_t address, uint32_t size, void *opaque)
{
    TranslatorVcpu *vcpu = opaque;
    if (vcpu->steps_left-- == 0)
        debug_stop(vcpu, address);
}

static void on_breakpoint(uc_engine *uc, uint64_t address, uint32_t size, void *opaque)
{
    TranslatorVcpu *vcpu = opaque;
    bool skip = vcpu->resuming && vcpu->resume_address == address;
    vcpu->resuming = false;
    if (!skip)
        debug_stop(vcpu, address);
}

/* ---- Making ------------------------------------------------------------------------------------------------- */

static int library_error(TranslatorVcpu *vcpu, uc_err code, const char *what, Error *error)
{
    return error_set(error, EPROTO, "translator: %s: %s", what, uc_strerror(code));
}

static int map_hole(TranslatorVcpu *vcpu, uint64_t start, uint64_t end, Error *error)
{
    if (start >= end)
        return 0;
    if (vcpu->region_count == MAX_REGIONS)
        return error_set(error, ENOSPC, "the translator takes at most %d memslots", MAX_REGIONS);
    MmioRegion *region = &vcpu->regions[vcpu->region_count++];
    *region = (MmioRegion){.vcpu = vcpu, .base = start};
    uc_err code = uc_mmio_map(vcpu->uc, start, end - start, on_mmio_read, region, on_mmio_write, region);
    return code ? library_error(vcpu, code, "mapping device memory", error) : 0;
}

/* All of guest physical memory: slots as RAM or ROM, everything else as devices, so that no access is unmapped. */
static int map_memory(TranslatorVcpu *vcpu, Error *error)
{
    GuestMemory *memory = vcpu->board->memory;
    uint64_t at = 0;
    for (size_t i = 0; i < guest_memory_slot_count(memory); i++) {
        const Memslot *slot = guest_memory_slot(memory, i);
        int result = map_hole(vcpu, at, slot->gpa, error);
        if (result < 0)
            return result;
        bool rom = slot->flags & MEMSLOT_READ_ONLY;
        uc_err code = uc_mem_map_ptr(vcpu->uc, slot->gpa, slot->size,
                                     rom ? UC_PROT_READ | UC_PROT_EXEC : UC_PROT_ALL, slot->hva);
        uc_hook hook;
        uint64_t offset;
        if (!code && rom)
            memory_region_set_readonly_x86_64(memory_region_from_host_x86_64(vcpu->uc, slot->hva, &offset), true);
        if (!code && rom)
            code = uc_hook_add(vcpu->uc, &hook, UC_HOOK_MEM_WRITE_PROT, (void *)on_rom_write, vcpu, slot->gpa,
                               slot->gpa + slot->size - 1);
        if (!code && vcpu->slow && !rom)
            code = uc_hook_add(vcpu->uc, &hook, UC_HOOK_MEM_WRITE, (void *)on_slow_write, vcpu, slot->gpa,
                               slot->gpa + slot->size - 1);
        if (code)
            return library_error(vcpu, code, "mapping RAM", error);
        at = slot->gpa + slot->size;
    }
    return map_hole(vcpu, at, ADDRESS_SPACE_END, error);
}

static int configure(TranslatorVcpu *vcpu, Error *error)
{
    uc_err code = uc_open(UC_ARCH_X86, UC_MODE_64, &vcpu->uc);
    if (code)
        return library_error(vcpu, code, "uc_open", error);
    code = uc_ctl(vcpu->uc, UC_CTL_WRITE(UC_CTL_CPU_MODEL, 1), UC_CPU_X86_EPYC);
    if (!code)
        code = uc_ctl(vcpu->uc, UC_CTL_WRITE(UC_CTL_TCG_BUFFER_SIZE, 1), TRANSLATION_BUFFER_BYTES);
    if (!code)
        code = uc_ctl(vcpu->uc, UC_CTL_WRITE(UC_CTL_UC_USE_EXITS, 1), 1);
    if (!code)
        code = uc_ctl(vcpu->uc, UC_CTL_WRITE(UC_CTL_TLB_TYPE, 1), UC_TLB_CPU);
    if (code)
        return library_error(vcpu, code, "configuring the library", error);
    vcpu->cpu = qemu_get_cpu_x86_64(vcpu->uc, -1);
    if (!vcpu->cpu)
        return error_set(error, EPROTO, "translator: the library has no CPU");
    vcpu->env = env_field(vcpu->cpu, ENV_IN_CPU);
    if (*(void **)env_field(vcpu->cpu, CPU_ENV_PTR) != vcpu->env)
        return error_set(error, EPROTO, "translator: the library's CPU is laid out differently");
    vcpu->icount_high = (uint16_t *)*(void **)env_field(vcpu->cpu, CPU_ICOUNT_PTR) + 1;
    *(uint32_t *)env_field(vcpu->cpu, CPU_INTERRUPT_REQUEST) |= CPU_INTERRUPT_HARD;
    return 0;
}

static int add_hooks(TranslatorVcpu *vcpu, Error *error)
{
    uc_hook hook;
    uc_err code = uc_hook_add(vcpu->uc, &hook, UC_HOOK_INTR, (void *)on_exception, vcpu, 1, 0);
    if (!code)
        code = uc_hook_add(vcpu->uc, &hook, UC_HOOK_INSN_INVALID, (void *)on_invalid_instruction, vcpu, 1, 0);
    if (!code && clock_kind(vcpu->board->clock) == CLOCK_KIND_VIRTUAL)
        code = uc_hook_add(vcpu->uc, &hook, UC_HOOK_BLOCK, (void *)on_block_virtual, vcpu, 1, 0);
    if (!code && vcpu->slow)
        code = uc_hook_add(vcpu->uc, &hook, UC_HOOK_BLOCK, (void *)on_block_slow, vcpu, 1, 0);
    return code ? library_error(vcpu, code, "uc_hook_add", error) : 0;
}

static void vm_notify(EngineVm *base)
{
    TranslatorVm *vm = container_of(base, TranslatorVm, base);
    if (vm->vcpu)
        vcpu_notify(&vm->vcpu->base);
}

/* Memory is listened to all the time, and whoever ran the guest meanwhile told what it wrote
 * (guest_memory_written). */
static int attach_vm(EngineVm *base, Error *error) { return 0; }

static int detach_vm(EngineVm *base, Error *error) { return 0; }

static void vm_a20(EngineVm *base, bool on)
{
    TranslatorVm *vm = container_of(base, TranslatorVm, base);
    if (!vm->vcpu)
        return;
    /* The line's level is board->a20; it takes effect in the vCPU's thread, which may be this one, or between
     * blocks. */
    if (translator_current() == vm->vcpu)
        x86_cpu_set_a20_x86_64(vm->vcpu->cpu, on);
    else
        __atomic_store_n(&vm->vcpu->a20_pending, 1, __ATOMIC_SEQ_CST);
    translator_kick(vm->vcpu);
}

/* What was looked up before is forgotten: in the vCPU's thread, which may be this one, or between blocks. A vCPU
 * that is made later has looked up nothing. */
static int vm_device_ram(EngineVm *base, uint32_t number, const DeviceRam *ram, bool add)
{
    TranslatorVm *vm = container_of(base, TranslatorVm, base);
    if (!vm->vcpu)
        return 0;
    if (translator_current() == vm->vcpu) {
        tlb_flush_x86_64(vm->vcpu->cpu);
        return 0;
    }
    __atomic_store_n(&vm->vcpu->flush_pending, 1, __ATOMIC_SEQ_CST);
    translator_kick(vm->vcpu);
    return 0;
}

static void free_vcpu(Vcpu *base)
{
    TranslatorVcpu *vcpu = vcpu_of(base);
    TranslatorVm *vm = container_of(base->vm, TranslatorVm, base);
    Board *board = vcpu->board;
    guest_memory_remove_listener(board->memory, vcpu);
    vm->vcpu = NULL;
    if (vcpu->uc) {
        TranslatorVcpu *before = translator_enter(vcpu);
        uc_close(vcpu->uc);
        translator_enter(before);
    }
    jump_targets_free(vcpu);
    code_pages_free(vcpu);
    vcpu_fini(base);
    free(vcpu->queue);
    free(vcpu->cpuid);
    free(vcpu);
}

static Vcpu *new_vcpu(EngineVm *base, uint32_t index, Error *error)
{
    TranslatorVm *vm = container_of(base, TranslatorVm, base);
    if (index > 0 || vm->vcpu) {
        error_set(error, ENOTSUP,
                  "the translator runs one vCPU; use --cpus 1, or --engine kvm on a host that has it");
        return NULL;
    }
    TranslatorVcpu *vcpu = calloc(1, sizeof *vcpu);
    if (!vcpu) {
        error_set(error, ENOMEM, "no host memory for the vCPU");
        return NULL;
    }
    vcpu_init(&vcpu->base, base, index);
    vcpu->board = base->board;
    vcpu->slow = vm->slow;
    vcpu->steps_left = -1;
    vcpu->pending_event = -1;
    vm->vcpu = vcpu;
    TranslatorVcpu *before = translator_enter(vcpu);
    int result = jump_targets_init(vcpu, error);
    if (result == 0)
        result = configure(vcpu, error);
    if (result == 0)
        result = map_memory(vcpu, error);
    if (result == 0)
        result = add_hooks(vcpu, error);
    if (result == 0)
        result = code_pages_init(vcpu, error);
    if (result == 0 && guest_memory_add_listener(base->board->memory, code_pages_host_wrote, vcpu) < 0)
        result = error_set(error, ENOSPC, "too many engines over one machine's memory");
    translator_enter(before);
    if (result < 0) {
        free_vcpu(&vcpu->base);
        return NULL;
    }
    CpuState *state = malloc(sizeof *state);
    if (!state) {
        free_vcpu(&vcpu->base);
        error_set(error, ENOMEM, "no host memory for the vCPU");
        return NULL;
    }
    cpu_state_reset(state);
    translator_set_state(&vcpu->base, state);
    free(state);
    return &vcpu->base;
}

/* ---- Running ------------------------------------------------------------------------------------------------ */

static bool take_surfaced(TranslatorVcpu *vcpu, VmExit *exit)
{
    if (!vcpu->queue_count)
        return false;
    *exit = vcpu->queue[vcpu->queue_head];
    vcpu->queue_head = (vcpu->queue_head + 1) % SURFACE_QUEUE;
    vcpu->queue_count--;
    return true;
}

static void describe_failure(TranslatorVcpu *vcpu, uc_err code, VmExit *exit)
{
    exit->reason = EXIT_FAIL;
    exit->rip = translator_rip(vcpu);
    if (code == UC_ERR_FETCH_PROT || code == UC_ERR_FETCH_UNMAPPED)
        snprintf(exit->text, sizeof exit->text, "the guest jumped to %#llx, where there is no memory to execute",
                 (unsigned long long)exit->rip);
    else
        snprintf(exit->text, sizeof exit->text, "translator: %s at %#llx", uc_strerror(code),
                 (unsigned long long)exit->rip);
}

static int run_library(TranslatorVcpu *vcpu, VmExit *exit)
{
    if (take_surfaced(vcpu, exit))
        return 0;
    uc_err code = UC_ERR_OK;
    if (!vcpu->hlt_pending && !vcpu->triple_fault) {
        vcpu->leave = false;
        TranslatorVcpu *before = translator_enter(vcpu);
        code_pages_run_invalidations(vcpu);
        code = uc_emu_start(vcpu->uc, vcpu->env->eip, 0, 0, 0);
        translator_enter(before);
    }
    if (take_surfaced(vcpu, exit))
        return 0;
    if (vcpu->triple_fault) {
        vcpu->triple_fault = false;
        exit->reason = EXIT_SHUTDOWN;
        exit->rip = translator_rip(vcpu);
    } else if (vcpu->hlt_pending) {
        vcpu->hlt_pending = false;
        exit->reason = EXIT_HLT;
        exit->value = vcpu->env->eflags;
        vcpu->base.nmi_blocked = (vcpu->env->hflags2 & HF2_NMI) != 0;
        exit->rip = translator_rip(vcpu);
    } else if (code) {
        describe_failure(vcpu, code, exit);
    }
    return 0;
}

/* Exits that can happen in the middle of a block; the others end one by themselves. */
enum { INSIDE_BLOCKS = 1 << EXIT_IO | 1 << EXIT_MMIO | 1 << EXIT_MSR | 1 << EXIT_CPUID };

/* Have, or have no longer, the hook on every instruction. Blocks made without it would not call it. */
static int watch_instructions(TranslatorVcpu *vcpu, bool watch)
{
    if (vcpu->instructions_watched == watch)
        return 0;
    TranslatorVcpu *before = translator_enter(vcpu);
    uc_err code = watch ? uc_hook_add(vcpu->uc, &vcpu->surface_hook, UC_HOOK_CODE, (void *)on_instruction_surfaced,
                                      vcpu, 1, 0)
                        : uc_hook_del(vcpu->uc, vcpu->surface_hook);
    tb_flush_x86_64(vcpu->cpu);
    translator_enter(before);
    if (code)
        return -ENOMEM;
    vcpu->instructions_watched = watch;
    return 0;
}

static int run_vcpu(Vcpu *base, VmExit *exit)
{
    TranslatorVcpu *vcpu = vcpu_of(base);
    if (watch_instructions(vcpu, base->surface & INSIDE_BLOCKS) < 0)
        return -ENOMEM;
    if (!vcpu->queue && (base->surface || vcpu->breakpoint_count)) {
        vcpu->queue = calloc(SURFACE_QUEUE, sizeof *vcpu->queue);
        if (!vcpu->queue)
            return -ENOMEM;
    }
    vcpu->resuming = vcpu->breakpoint_count > 0;
    vcpu->resume_address = translator_rip(vcpu);
    return run_library(vcpu, exit);
}

static int step_vcpu(Vcpu *base, VmExit *exit)
{
    TranslatorVcpu *vcpu = vcpu_of(base);
    if (!vcpu->queue && !(vcpu->queue = calloc(SURFACE_QUEUE, sizeof *vcpu->queue)))
        return -ENOMEM;
    TranslatorVcpu *before = translator_enter(vcpu);
    tb_flush_x86_64(vcpu->cpu); /* blocks made without the hook would not call it */
    uc_err code = uc_hook_add(vcpu->uc, &vcpu->step_hook, UC_HOOK_CODE, (void *)on_step, vcpu, 1, 0);
    translator_enter(before);
    if (code)
        return -ENOMEM;
    vcpu->steps_left = 1;
    vcpu->resuming = vcpu->breakpoint_count > 0;
    vcpu->resume_address = translator_rip(vcpu);
    int result = run_library(vcpu, exit);
    vcpu->steps_left = -1;
    before = translator_enter(vcpu);
    uc_hook_del(vcpu->uc, vcpu->step_hook);
    tb_flush_x86_64(vcpu->cpu);
    translator_enter(before);
    return result;
}

static int set_breakpoints(Vcpu *base, const gva_t *addresses, size_t count)
{
    TranslatorVcpu *vcpu = vcpu_of(base);
    if (count > ARRAY_SIZE(vcpu->breakpoint_hooks))
        return -ENOSPC;
    TranslatorVcpu *before = translator_enter(vcpu);
    for (size_t i = 0; i < vcpu->breakpoint_count; i++)
        uc_hook_del(vcpu->uc, vcpu->breakpoint_hooks[i]);
    vcpu->breakpoint_count = 0;
    int result = 0;
    for (size_t i = 0; i < count && result == 0; i++) {
        if (uc_hook_add(vcpu->uc, &vcpu->breakpoint_hooks[i], UC_HOOK_CODE, (void *)on_breakpoint, vcpu,
                        addresses[i], addresses[i]))
            result = -ENOMEM;
        else
            vcpu->breakpoint_count++;
    }
    tb_flush_x86_64(vcpu->cpu);
    translator_enter(before);
    return result;
}

static void notify(Vcpu *base) { translator_kick(vcpu_of(base)); }

static void free_vm(EngineVm *base)
{
    TranslatorVm *vm = container_of(base, TranslatorVm, base);
    if (vm->vcpu)
        free_vcpu(&vm->vcpu->base);
    engine_vm_disown(base);
    free(vm);
}

static const EngineOps OPS = {
    .name = "translator",
    .vm_attach = attach_vm,
    .vm_detach = detach_vm,
    .vm_notify = vm_notify,
    .vm_a20 = vm_a20,
    .vm_device_ram = vm_device_ram,
    .vm_free = free_vm,
    .vcpu_new = new_vcpu,
    .vcpu_free = free_vcpu,
    .vcpu_run = run_vcpu,
    .vcpu_step = step_vcpu,
    .vcpu_notify = notify,
    .vcpu_get_state = translator_get_state,
    .vcpu_set_state = translator_set_state,
    .vcpu_set_breakpoints = set_breakpoints,
    .vcpu_get_cpuid = translator_get_cpuid,
    .vcpu_set_cpuid = translator_set_cpuid,
    .vcpu_statistics = translator_statistics,
    .vcpu_tlb = translator_tlb,
    .vcpu_privilege = privilege,
};

EngineVm *translator_vm_new(Board *board, bool slow, Error *error)
{
    TranslatorVm *vm = calloc(1, sizeof *vm);
    if (!vm) {
        error_set(error, ENOMEM, "no host memory for the machine");
        return NULL;
    }
    *vm = (TranslatorVm){.base = {.ops = &OPS, .board = board}, .slow = slow};
    if (engine_vm_adopt(&vm->base, error) < 0) {
        free_vm(&vm->base);
        return NULL;
    }
    return &vm->base;
}
