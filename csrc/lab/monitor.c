#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab/paravirt.h"
#include "lab/translate.h"

extern const uint8_t lab_stub_start[], lab_stub_resume[], lab_stub_end[];

#define CR0_PE   (1ull << 0)
#define CR0_MP   (1ull << 1)
#define CR0_EM   (1ull << 2)
#define CR0_TS   (1ull << 3)
#define CR0_ET   (1ull << 4)
#define CR0_NE   (1ull << 5)
#define CR0_WP   (1ull << 16)
#define CR0_AM   (1ull << 18)
#define CR0_PG   (1ull << 31)
#define CR4_PAE  (1ull << 5)
#define CR4_OSFX (3ull << 9) /* OSFXSR, OSXMMEXCPT */
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define DR6_BS    (1ull << 14)
#define VECTOR_DB 1
#define VECTOR_UD 6
#define VECTOR_DF 8
#define VECTOR_NP 11
#define VECTOR_SS 12
#define VECTOR_GP 13
#define VECTOR_PF 14

static uint64_t cycles_now(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

const char *lab_reason_name(uint32_t reason)
{
#define X(name, text) text,
    static const char *const names[] = {LAB_REASONS(X)};
#undef X
    return reason < ARRAY_SIZE(names) ? names[reason] : NULL;
}

/* ---- the monitor's memory ---- */

static void *own(Monitor *monitor, uint32_t offset) { return monitor->memory + offset; }

static void put64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }

/* 16 bytes: offset in three pieces, selector, IST, type 0xe, DPL, P (SDM 3A figure 6-8). */
static void put_gate(uint8_t *gate, uint64_t handler, uint8_t dpl)
{
    put64(gate, (handler & 0xffff) | (uint64_t)LAB_CS << 16 | 1ull << 32 | (0x8eull | (uint64_t)dpl << 5) << 40 |
                    (handler >> 16 & 0xffff) << 48);
    put64(gate + 8, handler >> 32);
}

static void build_tables(Monitor *monitor)
{
    static const uint16_t user_pages[][2] = {{LAB_LANDING >> 12, 1}};
    uint8_t *gdt = own(monitor, LAB_GDT), *tss = own(monitor, LAB_TSS), *landing = own(monitor, LAB_LANDING);
    memcpy(own(monitor, LAB_STUB), lab_stub_start, (size_t)(lab_stub_end - lab_stub_start));
    for (unsigned vector = 0; vector < 256; vector++)
        put_gate((uint8_t *)own(monitor, LAB_IDT) + 16 * vector, LAB_BASE + LAB_STUB + 16 * vector, 0);
    put64(gdt + LAB_CS, 0x00af9b000000ffff);
    put64(gdt + LAB_SS, 0x00cf93000000ffff);
    put64(gdt + (LAB_GUEST_SS & ~7), 0x00cff3000000ffff);
    put64(gdt + (LAB_GUEST_CS & ~7), 0x00affb000000ffff);
    uint64_t base = LAB_BASE + LAB_TSS;
    put64(gdt + LAB_TR, 0x67 | (base & 0xffffff) << 16 | 0x8bull << 40 | (base >> 24 & 0xff) << 56);
    put64(gdt + LAB_TR + 8, base >> 32);
    put64(tss + 36, LAB_BASE + LAB_FRAME + sizeof(LabFrame)); /* IST 1 */
    tss[102] = 0x68;                                          /* no I/O permission bit map */
    memcpy(landing, "\x0f\x0b", 2);                           /* UD2 */

    /* PDPT, PD and PTs, at 0, 0x1000 and 0x2000 of LAB_TABLES: rights are in the last level alone. */
    uint8_t *tables = own(monitor, LAB_TABLES);
    gpa_t at = monitor->base + LAB_TABLES;
    put64(tables, (at + 0x1000) | PTE_P | PTE_RW | PTE_US | PTE_A);
    for (unsigned i = 0; i < LAB_SIZE >> 21; i++)
        put64(tables + 0x1000 + 8 * i, (at + 0x2000 + 0x1000 * i) | PTE_P | PTE_RW | PTE_US | PTE_A);
    for (unsigned page = 0; page < LAB_SIZE >> 12; page++) {
        uint64_t offset = (uint64_t)page << 12, bits = PTE_P | PTE_A | PTE_D;
        if (offset >= LAB_DATA && offset < LAB_DATA + LAB_DATA_SIZE)
            bits |= PTE_US | PTE_RW | PTE_XD;
        else if (offset >= LAB_CODE && offset < LAB_CODE + LAB_CODE_SIZE)
            bits |= PTE_US;
        else if (page == user_pages[0][0])
            bits |= PTE_US;
        else if (offset >= LAB_IDT)
            bits |= PTE_RW | PTE_XD;
        put64(tables + 0x2000 + 8 * page, (monitor->base + offset) | bits);
    }
    guest_memory_written(monitor->board->memory, monitor->base, LAB_SHADOW);
}

/* ---- ends ---- */

void lab_end(Monitor *monitor, const char *format, ...)
{
    LabEnd *end = &monitor->end;
    if (end->ended)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(end->text, sizeof end->text, format, arguments);
    va_end(arguments);
    end->rip = monitor->trap->rip;
    end->ended = 1; /* before lab_fetch: what it meets is no second end */
    end->size = (uint8_t)lab_fetch(monitor, end->instruction);
    event_log_add(monitor->board->log, "lab: %s", end->text);
    board_request(monitor->board, SYSTEM_EXIT, 0x1ab);
}

/* ---- rings, flags, tables ---- */

const VirtualCpu *lab_cpu(const Monitor *monitor) { return &monitor->cpu; }

uint64_t lab_rflags(const Monitor *monitor)
{
    const VirtualCpu *cpu = &monitor->cpu;
    return (monitor->trap->rflags & RFLAGS_REAL) | RFLAGS_ONE | (cpu->interrupts ? RFLAGS_IF : 0) |
           (uint64_t)cpu->iopl << 12;
}

void lab_set_rflags(Monitor *monitor, uint64_t rflags, bool system)
{
    VirtualCpu *cpu = &monitor->cpu;
    monitor->trap->rflags = (rflags & RFLAGS_REAL) | RFLAGS_ONE | RFLAGS_IF;
    if (system) {
        cpu->interrupts = rflags & RFLAGS_IF ? 1 : 0;
        cpu->iopl = rflags >> 12 & 3;
    }
}

ShadowMode lab_mode(const Monitor *monitor)
{
    const VirtualCpu *cpu = &monitor->cpu;
    return (ShadowMode){.paging = {.cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .efer = cpu->efer},
                        .user = cpu->cpl == 3,
                        .ac = monitor->trap->rflags & RFLAGS_AC};
}

static void ask(Monitor *monitor, uint64_t action) { monitor->frame->action |= action; }

void lab_load_tables(Monitor *monitor) { monitor->new_tables = true; }

/*
 * Once for each trap, on the way out: the processor stands on the root that shadow_root() returned last until the
 * stub has loaded the next one, and nothing but that one root is sure to last (mmu/shadow.h).
 */
static void load_tables(Monitor *monitor)
{
    Error error = {0};
    monitor->new_tables = false;
    ShadowMode mode = lab_mode(monitor);
    gpa_t root = shadow_root(monitor->shadow, &mode, &error);
    if (!root) {
        lab_end(monitor, "%s", error.text);
        return;
    }
    monitor->frame->cr3 = root;
    ask(monitor, LAB_LOAD_CR3);
}

void lab_set_ring(Monitor *monitor, uint8_t cpl)
{
    if (monitor->cpu.cpl == cpl)
        return;
    monitor->cpu.cpl = cpl;
    lab_load_tables(monitor);
}

void lab_queue_interrupt(Monitor *monitor, uint8_t vector)
{
    if (monitor->pending_count < sizeof monitor->pending)
        monitor->pending[monitor->pending_count++] = vector;
}

bool lab_interrupt_waits(const Monitor *monitor) { return monitor->pending_count > 0; }

void lab_wait(Monitor *monitor) { monitor->cpu.halted = 1; }

void lab_shadow(Monitor *monitor, uint64_t next_rip)
{
    monitor->cpu.shadow = 1;
    monitor->cpu.shadow_rip = next_rip;
}

/* Whether it gives the monitor its turn wherever the guest's kernel executes it. */
static bool always_traps(const Instruction *in)
{
    uint8_t opcode = in->opcode;
    if (in->map == 0)
        return opcode == 0xf4 || opcode == 0xcf || opcode == 0xfa || opcode == 0xfb || opcode == 0xcd ||
               (opcode >= 0xec && opcode <= 0xef) || (opcode >= 0xe4 && opcode <= 0xe7) ||
               (opcode >= 0x6c && opcode <= 0x6f) || (opcode == 0x8e && (in->reg & 7) == SEG_SS);
    if (in->map != 1)
        return false;
    if (opcode == 0x01) /* SWAPGS, LGDT, LIDT, LMSW, INVLPG */
        return in->mod == 3 ? (in->reg & 7) >= 6 : (in->reg & 2);
    return opcode == 0x07 || opcode == 0x30 || opcode == 0x32 || (opcode >= 0x20 && opcode <= 0x23);
}

/* The instruction after STI and MOV SS goes before an interrupt. One that traps gives the monitor its turn
 * afterwards; any other would go on for as long as it likes, so the interrupt comes one instruction early there. */
static bool shadowed(Monitor *monitor)
{
    const VirtualCpu *cpu = &monitor->cpu;
    uint8_t bytes[INSTRUCTION_MAX];
    Instruction in;
    if (!cpu->shadow || (monitor->technique->steps && cpu->cpl == 0))
        return cpu->shadow;
    if (monitor->trap->rip != cpu->shadow_rip)
        return false;
    if (instruction_decode(&in, bytes, lab_fetch(monitor, bytes)) <= 0)
        return false;
    return always_traps(&in);
}

/* ---- a trap ---- */

/* The trap flag, over an instruction that the monitor did (SDM 3B §17.3.1.4). */
static void single_step(Monitor *monitor)
{
    monitor->cpu.dr[6] |= DR6_BS;
    lab_inject(monitor, VECTOR_DB, false, 0);
}

static void trap_page_fault(Monitor *monitor)
{
    LabTrapFrame *trap = monitor->trap;
    Error error = {0};
    ShadowFault fault = {0};
    ShadowMode mode = lab_mode(monitor);
    Instruction instruction;
    uint8_t bytes[INSTRUCTION_MAX];
    switch (shadow_fault(monitor->shadow, &mode, trap->cr2, (uint32_t)trap->error, &fault, &error)) {
    case SHADOW_FILLED:
        monitor->reason = LAB_FILL;
        break;
    case SHADOW_GUEST_FAULT:
        monitor->reason = LAB_PAGE_FAULT;
        monitor->cpu.cr2 = trap->cr2;
        lab_inject(monitor, VECTOR_PF, true, fault.error_code);
        break;
    case SHADOW_TRACED:
        monitor->reason = LAB_TRACE;
        if (fault.code && monitor->technique->code_written)
            monitor->technique->code_written(monitor, fault.gpa);
        if (!fault.table)
            break;
        if (instruction_decode(&instruction, bytes, lab_fetch(monitor, bytes)) > 0 &&
            lab_emulate_store(monitor, &instruction, fault.gpa)) {
            if (trap->rflags & RFLAGS_TF)
                single_step(monitor);
        } else
            shadow_unsync(monitor->shadow, fault.gpa);
        break;
    default:
        lab_end(monitor, "%s", error.text);
    }
}

static void reflect(Monitor *monitor, uint8_t vector)
{
    if (vector == VECTOR_DB && (monitor->trap->rflags & RFLAGS_TF))
        monitor->cpu.dr[6] |= DR6_BS;
    bool has_error = vector == VECTOR_DF || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
    monitor->reason = LAB_EXCEPTION;
    lab_inject(monitor, vector, has_error, (uint32_t)monitor->trap->error);
}

/* #GP and #UD (and #NP, #SS): what the guest meant. What the monitor knows nothing of is the guest's own exception.
 */
static void trap_instruction(Monitor *monitor)
{
    LabTrapFrame *trap = monitor->trap;
    Instruction instruction;
    uint8_t bytes[INSTRUCTION_MAX], vector = (uint8_t)trap->vector;
    bool landed = trap->rip == LAB_BASE + LAB_LANDING; /* a KVM let SYSCALL stay in ring 3 */
    if (landed) {
        trap->rip = trap->gpr[1] - 2; /* RCX is the next instruction, R11 the flags */
        trap->rflags = trap->gpr[11];
    }
    int length = instruction_decode(&instruction, bytes, lab_fetch(monitor, bytes));
    if (length < 0) {
        reflect(monitor, vector);
        return;
    }
    if (instruction.lock) { /* engines differ in whether its #UD comes before the #GP of ring 3 */
        reflect(monitor, lab_lock_allowed(&instruction) ? vector : VECTOR_UD);
        return;
    }
    if (instruction.map == 1 && instruction.opcode == 0x05 && (landed || vector == VECTOR_UD)) {
        monitor->reason = LAB_SYSCALL;
        lab_syscall(monitor, trap->rip + (uint64_t)length);
        return;
    }
    if (instruction.map == 0 && (instruction.opcode == 0xcd || instruction.opcode == 0xcc)) {
        monitor->reason = LAB_SOFTWARE;
        monitor->counters.emulated[instruction.opcode == 0xcd ? LAB_M_INT : LAB_M_INT3]++;
        lab_software_interrupt(monitor, instruction.opcode == 0xcd ? (uint8_t)instruction.imm : 3,
                               trap->rip + (uint64_t)length);
        return;
    }
    /* #UD is what SYSRET gives with the real EFER.SCE clear, and on some KVMs what far transfers give. */
    uint64_t steps = trap->rflags & RFLAGS_TF, exceptions = monitor->counters.injected_exceptions;
    bool moves_ss = instruction.map == 0 && instruction.opcode == 0x8e && (instruction.reg & 7) == SEG_SS;
    monitor->reason = LAB_PRIVILEGED;
    if (!lab_emulate(monitor, &instruction))
        reflect(monitor, vector);
    else if (steps & trap->rflags && !moves_ss && exceptions == monitor->counters.injected_exceptions)
        single_step(monitor);
}

/* #NP and #SS of a segment load: a KVM that runs ring 3 on its host's own GDT may say so of the guest's selectors.
 */
static bool selector_refused(const LabTrapFrame *trap)
{
    return (trap->vector == VECTOR_NP || trap->vector == VECTOR_SS) && trap->error;
}

/* The guest was halted: the stub waited in ring 0, and an interrupt found it there. */
static void trap_while_waiting(Monitor *monitor, uint8_t vector)
{
    *monitor->trap = monitor->waiting;
    monitor->cpu.halted = 0;
    if (vector < 32)
        lab_end(monitor, "exception %u in ring 0 while the guest was halted", vector);
}

void lab_note(Monitor *monitor)
{
    const LabTrapFrame *trap = monitor->trap;
    LabExit *last = &monitor->last;
    if (!monitor->watched)
        return;
    bool landed = trap->rip == LAB_BASE + LAB_LANDING; /* trap_instruction() */
    last->number++;
    last->rip = landed ? trap->gpr[REG_RCX] - 2 : trap->rip;
    last->cr2 = trap->cr2;
    last->error = trap->error;
    last->rax = trap->gpr[REG_RAX];
    last->rdx = trap->gpr[REG_RDX];
    last->vector = (uint8_t)trap->vector;
    last->cpl = monitor->cpu.cpl;
    last->size = landed ? 0 : (uint8_t)lab_fetch(monitor, last->instruction);
    if (landed)
        memcpy(last->instruction, "\x0f\x05", last->size = 2);
}

static void handle(Monitor *monitor)
{
    LabTrapFrame *trap = monitor->trap;
    uint8_t vector = (uint8_t)trap->vector;
    monitor->reason = LAB_EXCEPTION;
    if (!(trap->cs & 3)) {
        if (!monitor->cpu.halted) {
            lab_end(monitor, "exception %u in the monitor's own stub at %#llx", vector,
                    (unsigned long long)trap->rip);
            return;
        }
        trap_while_waiting(monitor, vector);
        trap->vector = vector;
    }
    trap->gpr[REG_RSP] = trap->rsp;
    trap->rflags &= ~(uint64_t)RFLAGS_RF; /* the fault's; inject.c sets it where the guest's own is a fault */
    if (trap->rip != monitor->cpu.shadow_rip)
        monitor->cpu.shadow = 0;
    lab_note(monitor);
    if (monitor->technique->trap && monitor->technique->trap(monitor))
        return;
    if (vector >= 32) {
        monitor->reason = LAB_INTERRUPT;
        if (!monitor->technique->interrupt || !monitor->technique->interrupt(monitor, vector))
            lab_queue_interrupt(monitor, vector);
    } else if (vector == VECTOR_PF)
        trap_page_fault(monitor);
    else if (vector == VECTOR_GP || vector == VECTOR_UD || selector_refused(trap))
        trap_instruction(monitor);
    else
        reflect(monitor, vector);
}

static void list_touches(Monitor *monitor)
{
    ShadowTouch touches[LAB_TOUCHES];
    LabFrame *frame = monitor->frame;
    size_t count = shadow_touches(monitor->shadow, touches, LAB_TOUCHES);
    if (count == LAB_TOUCHES) { /* more than fit: all tables */
        while (shadow_touches(monitor->shadow, touches, LAB_TOUCHES) == LAB_TOUCHES)
            ;
        touches[0] = (ShadowTouch){monitor->base + LAB_SHADOW, (LAB_SIZE - LAB_SHADOW) / 8};
        count = 1;
    }
    frame->touch_count = count;
    for (size_t i = 0; i < count; i++) {
        frame->touch[i].address = LAB_BASE + (touches[i].gpa - monitor->base);
        frame->touch[i].count = touches[i].count;
    }
    if (count)
        ask(monitor, LAB_TOUCH);
}

/* Back to the guest, or to sleep. */
static void leave(Monitor *monitor)
{
    VirtualCpu *cpu = &monitor->cpu;
    LabTrapFrame *trap = monitor->trap;
    if (!monitor->end.ended && !lab_canonical(trap->rip)) /* IRETQ in the stub would not like it */
        lab_inject_gp(monitor, 0);
    if (!monitor->end.ended && cpu->halted && lab_interrupt_waits(monitor))
        cpu->halted = 0;
    if (!monitor->end.ended && cpu->interrupts && lab_interrupt_waits(monitor) && !shadowed(monitor))
        lab_deliver_interrupt(monitor);
    if (!monitor->end.ended && !cpu->halted && monitor->technique->resume)
        monitor->technique->resume(monitor);
    if (!monitor->end.ended && monitor->new_tables)
        load_tables(monitor);
    if (!monitor->end.ended && !cpu->halted && monitor->technique->tables)
        monitor->technique->tables(monitor);
    if (monitor->end.ended) {
        ask(monitor, LAB_STOP);
        return;
    }
    if (shadow_flush_due(monitor->shadow))
        ask(monitor, LAB_LOAD_CR3);
    if (monitor->touch)
        list_touches(monitor);
    trap->rsp = trap->gpr[REG_RSP];
    if (cpu->halted) {
        monitor->waiting = *trap;
        ask(monitor, LAB_WAIT);
        return;
    }
    trap->cs = LAB_GUEST_CS;
    trap->ss = LAB_GUEST_SS;
    trap->rflags = (trap->rflags & RFLAGS_REAL) | RFLAGS_ONE | RFLAGS_IF;
}

static void lab_trap(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Monitor *monitor = opaque;
    uint64_t began = cycles_now();
    if (monitor->vcpu->runner != (uintptr_t)pthread_self() || size != 4)
        return; /* not the stub's */
    monitor->frame->action = 0;
    if (!monitor->end.ended)
        handle(monitor);
    monitor->last.result = monitor->trap->gpr[REG_RAX];
    leave(monitor);
    uint64_t cycles = cycles_now() - began;
    monitor->counters.exits[monitor->reason]++;
    monitor->counters.cycles[monitor->reason] += cycles;
    monitor->last.reason = (uint8_t)monitor->reason;
    monitor->last.cycles = cycles;
}

static const DeviceOps PORT = {.write = lab_trap};

/* ---- a monitor's life ---- */

const LabTechnique lab_trap_and_emulate = {.name = "trap-and-emulate"};

const LabTechnique *lab_technique(const char *name)
{
    static const LabTechnique *const all[] = {&lab_trap_and_emulate, &lab_translation_technique, &lab_paravirtual};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

Monitor *monitor_new(Vcpu *vcpu, gpa_t guest_end, const LabTechnique *technique, Error *error)
{
    Monitor *monitor = calloc(1, sizeof *monitor);
    if (!monitor) {
        error_set(error, ENOMEM, "no memory for a monitor");
        return NULL;
    }
    monitor->vcpu = vcpu;
    monitor->board = vcpu->vm->board;
    monitor->technique = technique;
    monitor->base = guest_end;
    monitor->touch = strcmp(vcpu->vm->ops->name, "kvm") == 0;
    monitor->memory = guest_memory_ptr(monitor->board->memory, guest_end, LAB_SIZE, true);
    if (!monitor->memory || guest_end & 0x1fffff) {
        error_set(error, EINVAL, "a monitor needs %u MiB of RAM from %#llx on, a multiple of 2 MiB", LAB_SIZE >> 20,
                  (unsigned long long)guest_end);
        goto fail;
    }
    monitor->frame = own(monitor, LAB_FRAME);
    monitor->trap = &monitor->frame->trap;
    memset(monitor->memory, 0, LAB_SHADOW);
    build_tables(monitor);
    ShadowConfig config = {
        .guest_end = guest_end,
        .pool = guest_end + LAB_SHADOW,
        .pool_size = LAB_SIZE - LAB_SHADOW,
        .monitor_pml4e = (guest_end + LAB_TABLES) | PTE_P | PTE_RW | PTE_US | PTE_A,
        .monitor_slot = LAB_SLOT,
        .physical_bits = 40, /* of the model that engines show by default */
        .touch = monitor->touch,
    };
    monitor->shadow = shadow_new(monitor->board->memory, &config, error);
    if (!monitor->shadow)
        goto fail;
    if (technique->create && technique->create(monitor, error) < 0)
        goto fail;
    if (bus_add(monitor->board->pio, LAB_PORT, 4, &PORT, monitor, 0, NULL, "monitor", error) < 0) {
        if (technique->destroy)
            technique->destroy(monitor);
        goto fail;
    }
    return monitor;
fail:
    shadow_free(monitor->shadow);
    free(monitor);
    return NULL;
}

void monitor_free(Monitor *monitor)
{
    if (!monitor)
        return;
    bus_remove(monitor->board->pio, LAB_PORT);
    if (monitor->technique->destroy)
        monitor->technique->destroy(monitor);
    shadow_free(monitor->shadow);
    free(monitor);
}

static void set_segment(Segment *segment, uint16_t selector, uint32_t attributes, uint32_t limit, uint64_t base)
{
    *segment = (Segment){.selector = selector, .attributes = attributes, .limit = limit, .base = base};
}

/* The stub in ring 0, about to return to the guest. */
static void stub_state(const Monitor *monitor, CpuState *state)
{
    memset(state->gpr, 0, sizeof state->gpr);
    state->gpr[REG_RSP] = LAB_BASE + LAB_FRAME + LAB_FRAME_TRAP;
    state->rip = LAB_BASE + LAB_STUB + (uint64_t)(lab_stub_resume - lab_stub_start);
    state->rflags = RFLAGS_ONE;
    for (unsigned i = 0; i < 6; i++)
        set_segment(&state->segment[i], i == SEG_CS ? LAB_CS : LAB_SS, i == SEG_CS ? 0xa09b : 0xc093, 0xffffffff,
                    0);
    set_segment(&state->tr, LAB_TR, 0x8b, 0x67, LAB_BASE + LAB_TSS);
    set_segment(&state->ldtr, 0, 0x10000, 0, 0);
    state->gdtr = (DescriptorTable){LAB_BASE + LAB_GDT, 0xfff};
    state->idtr = (DescriptorTable){LAB_BASE + LAB_IDT, 0xfff};
    state->cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE | CR0_MP;
    state->cr3 = monitor->frame->cr3;
    state->cr4 = CR4_PAE | CR4_OSFX;
    state->cr8 = 0;
    state->efer = EFER_LME | EFER_LMA | EFER_NXE; /* SCE clear: SYSCALL is #UD */
    state->lstar = LAB_BASE + LAB_LANDING;
    state->halted = state->interrupt_shadow = 0;
    state->pending_exception = -1;
}

int monitor_start(Monitor *monitor, const CpuState *state, Error *error)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (!(state->efer & EFER_LMA) || !(state->cr0 & CR0_PG) || !(state->segment[SEG_CS].attributes & 0x2000))
        return error_set(error, EINVAL, "a monitor's guest starts in 64-bit mode with paging on");
    memset(cpu, 0, sizeof *cpu);
    cpu->cr0 = state->cr0, cpu->cr2 = state->cr2, cpu->cr3 = state->cr3, cpu->cr4 = state->cr4,
    cpu->cr8 = state->cr8;
    cpu->efer = state->efer, cpu->star = state->star, cpu->lstar = state->lstar, cpu->cstar = state->cstar;
    cpu->fmask = state->fmask, cpu->kernel_gs_base = state->kernel_gs_base;
    cpu->fs_base = state->segment[SEG_FS].base, cpu->gs_base = state->segment[SEG_GS].base;
    memcpy(cpu->dr, state->dr, sizeof cpu->dr);
    cpu->apic_base = state->apic_base, cpu->pat = state->pat, cpu->misc_enable = state->misc_enable;
    cpu->gdtr = state->gdtr, cpu->idtr = state->idtr;
    cpu->tr = (VirtualSegment){state->tr.selector, state->tr.base, state->tr.limit};
    cpu->ldtr = (VirtualSegment){state->ldtr.selector, state->ldtr.base, state->ldtr.limit};
    for (unsigned i = 0; i < 6; i++)
        cpu->selector[i] = state->segment[i].selector, cpu->dpl[i] = state->segment[i].attributes >> 5 & 3;
    cpu->cpl = state->segment[SEG_CS].selector & 3;
    memset(&monitor->counters, 0, sizeof monitor->counters);
    memset(&monitor->end, 0, sizeof monitor->end);
    monitor->pending_count = 0;
    memset(monitor->frame, 0, sizeof *monitor->frame);
    memcpy(monitor->trap->gpr, state->gpr, sizeof state->gpr);
    monitor->trap->rip = state->rip;
    monitor->trap->rsp = state->gpr[REG_RSP];
    lab_set_rflags(monitor, state->rflags, true);
    lab_load_tables(monitor);
    monitor->frame->fs_base = cpu->fs_base;
    monitor->frame->gs_base = cpu->gs_base;
    ask(monitor, LAB_LOAD_FS | LAB_LOAD_GS);
    monitor->reason = LAB_START;
    monitor->counters.exits[LAB_START]++;
    leave(monitor);
    if (monitor->end.ended)
        return error_set(error, EINVAL, "%s", monitor->end.text);
    CpuState stub = *state;
    stub_state(monitor, &stub);
    int result = vcpu_set_state(monitor->vcpu, &stub);
    return result < 0 ? error_set(error, -result, "the engine does not take the monitor's state") : 0;
}

LabCounters monitor_counters(const Monitor *monitor) { return monitor->counters; }

LabEnd monitor_end(const Monitor *monitor) { return monitor->end; }

void monitor_watch(Monitor *monitor, bool on)
{
    monitor->watched = on;
    monitor->last = (LabExit){0};
}

LabExit monitor_last_exit(const Monitor *monitor) { return monitor->last; }

VirtualCpu monitor_virtual_cpu(const Monitor *monitor) { return monitor->cpu; }

ShadowStatistics monitor_shadow_statistics(const Monitor *monitor) { return shadow_statistics(monitor->shadow); }
