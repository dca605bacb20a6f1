/*
 * A paravirtual guest of a stream of bytes, and a model of the processor below its monitor: test_paravirt.c feeds
 * random bytes, fuzz_paravirt.c what libFuzzer finds. There is no engine: the model does to the monitor's device
 * what the stub would, with a trap frame, and does what the frame then asks. It has a TLB, and loads and stores
 * through the tables that the monitor made. What has to hold after each trap:
 *
 *  - the guest goes on in ring 3 at a canonical address, with the real IF set, or sleeps, or ended with a reason;
 *  - nothing of the monitor's memory can be reached through the tables, but what its slot shows;
 *  - an access is answered after a few traps (mapped, refused, or emulated): no trap for ever;
 *  - no TLB entry says what the guest's tables do not, as long as the guest changes them by hypercalls alone: the
 *    monitor's promise that no INVLPG has to follow (csrc/guest/lab/hypercall.h);
 *  - a sleep that a timer is to end, ends; and interrupts do not come for ever while nothing happens.
 */
#ifndef PYVMM_TESTS_PARAVIRT_MODEL_H
#define PYVMM_TESTS_PARAVIRT_MODEL_H

#include <string.h>

#include "devices/i8254.h"
#include "fuzz/input.h"
#include "irq/i8259.h"
#include "lab/paravirt.h"
#include "tests/check.h"

enum {
    PV_END = 2 << 20, /* of the guest's RAM */
    PV_PAGES = PV_END / GUEST_PAGE_SIZE,
    PV_TABLES = 0x8000, /* PML4, PDPT, PD, PT, and the same of a second space */
    PV_TABLE_COUNT = 8,
    PV_CODE = 0x10000,
    PV_SHARED = 0x12000,
    PV_LISTS = 0x13000, /* structures that hypercalls point to */
    PV_STACK = 0x18000,
    PV_TLB = 64,
    PV_TRIES = 12,   /* traps for one access */
    PV_STORM = 64,   /* interrupts at one moment */
    PV_INPUT = 4096, /* bytes */
};

/* The code that the guest stands on when it traps: offsets in PV_CODE, one for 16 bytes. */
static const uint8_t pv_code[][16] = {
    {0xcd, LAB_HYPERCALL_VECTOR}, /* int 0x82 */
    {0x48, 0x89, 0x37},           /* mov [rdi], rsi */
    {0x0f, 0x05},                 /* syscall */
    {0xcd, 0x85},                 /* int 0x85 */
    {0xcc},                       /* int3 */
    {0xf4},                       /* hlt */
    {0x0f, 0x22, 0xdf},           /* mov cr3, rdi */
    {0xfb},                       /* sti */
    {0x48, 0xcf},                 /* iretq */
    {0xee},                       /* out dx, al */
    {0x48, 0xf7, 0x37},           /* div qword [rdi]: a store that is none */
    {0x0f, 0x30},                 /* wrmsr */
    {0x0f, 0x01, 0x3f},           /* invlpg [rdi] */
    {0x0f, 0x0b},                 /* ud2 */
};

typedef struct PvTlb {
    gva_t page;
    gpa_t physical;
    bool valid, write;
} PvTlb;

typedef struct PvModel {
    Board *board;
    EngineVm vm;
    Vcpu vcpu;
    CpuState stub;
    Device *pic, *pit;
    IrqLine *timer, *edge, *level;
    Monitor *monitor;
    uint8_t *ram;
    LabTrapFrame cpu; /* the guest's registers */
    gpa_t cr3;        /* the real one */
    PvTlb tlb[PV_TLB];
    uint8_t (*before)[GUEST_PAGE_SIZE]; /* the traced pages, before a trap */
    bool traced[PV_PAGES];
    bool loose; /* the guest wrote its tables by itself: the TLB may have old entries, as on hardware */
    bool asleep, ended;
} PvModel;

static int pv_set_state(Vcpu *vcpu, const CpuState *state)
{
    PvModel *model = (PvModel *)((uint8_t *)vcpu - offsetof(PvModel, vcpu));
    model->stub = *state;
    return 0;
}

static int pv_get_state(Vcpu *vcpu, CpuState *state)
{
    cpu_state_reset(state);
    return 0;
}

static const EngineOps PV_ENGINE = {
    .name = "model", .vcpu_set_state = pv_set_state, .vcpu_get_state = pv_get_state};

static void pv_exit(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    board_request(device, SYSTEM_EXIT, (uint32_t)value);
}

static const DeviceOps PV_EXIT = {.write = pv_exit};

/* ---- the processor ------------------------------------------------------------------------------------------ */

/* What of the monitor's memory its slot shows to ring 3: nothing to write but LAB_DATA. */
static bool pv_slot_allows(gpa_t offset, uint32_t rights)
{
    if (offset >= LAB_DATA && offset < LAB_DATA + LAB_DATA_SIZE)
        return true;
    return !(rights & PAGE_WRITE) &&
           ((offset & ~0xfffull) == LAB_LANDING || (offset >= LAB_CODE && offset < LAB_CODE + LAB_CODE_SIZE));
}

/* The real tables: present pages that ring 3 may use. False: a #PF with that code. */
static bool pv_real_walk(const PvModel *model, gva_t address, uint32_t access, gpa_t *physical, uint32_t *code,
                         bool *write)
{
    const PagingMode real = {
        .cr0 = 0x80010033, .cr3 = model->cr3, .cr4 = 0x220, .efer = 0xd00, .physical_bits = 40};
    PageWalk walk;
    page_walk(model->board->memory, &real, address, &walk);
    int fault = page_check(&walk, &real, access | PF_USER, false);
    CHECK(walk.end == WALK_PAGE || walk.end == WALK_NOT_PRESENT); /* what the monitor makes is never malformed */
    *code = fault < 0 ? 0 : (uint32_t)fault;
    *physical = walk.physical;
    if (fault >= 0)
        return false;
    uint32_t rights = walk.steps[walk.count - 1].rights;
    *write = rights & PAGE_WRITE;
    if (walk.physical >= model->monitor->base && walk.physical - model->monitor->base < LAB_SIZE) {
        CHECK_EQ(address >> 39 & 511, LAB_SLOT);
        CHECK(pv_slot_allows(walk.physical - model->monitor->base, rights));
    }
    return true;
}

/* Every page of a level of the real tables. */
static void pv_check_table(const PvModel *model, gpa_t table, unsigned level, uint32_t rights)
{
    const uint64_t *entries = guest_memory_ptr(model->board->memory, table, GUEST_PAGE_SIZE, false);
    gpa_t base = model->monitor->base;
    CHECK(entries && table >= base + LAB_SHADOW && table < base + LAB_SIZE);
    for (unsigned i = 0; i < 512; i++) {
        uint64_t entry = entries[i];
        gpa_t gpa = entry & 0xffffffffff000ull;
        uint32_t left = rights & ((entry & PTE_RW ? PAGE_WRITE : 0) | (entry & PTE_US ? PAGE_USER : 0));
        if (!(entry & PTE_P) || !(left & PAGE_USER) || (level == 4 && i == LAB_SLOT))
            continue;
        if (level > 1 && !(entry & PTE_PS)) {
            pv_check_table(model, gpa, level - 1, left);
            continue;
        }
        gpa_t size = 1ull << (3 + 9 * level);
        gpa &= ~(size - 1);
        CHECK(gpa + size <= base || gpa >= base + LAB_SIZE);
        for (gpa_t page = gpa; left & PAGE_WRITE && page < gpa + size && page < base; page += GUEST_PAGE_SIZE)
            CHECK(!shadow_is_traced(model->monitor->shadow, page));
    }
}

static void pv_check_tlb(const PvModel *model)
{
    ShadowMode mode = lab_mode(model->monitor);
    mode.paging.physical_bits = 40;
    for (unsigned i = 0; i < PV_TLB; i++) {
        const PvTlb *entry = &model->tlb[i];
        if (!entry->valid)
            continue;
        CHECK(!(entry->write && shadow_is_traced(model->monitor->shadow, entry->physical)));
        if (model->loose || (entry->page >> 39 & 511) == LAB_SLOT)
            continue;
        PageWalk walk;
        page_walk(model->board->memory, &mode.paging, entry->page, &walk);
        CHECK_EQ(walk.end, WALK_PAGE);
        CHECK_EQ(walk.physical, entry->physical);
        uint32_t access = (mode.user ? PF_USER : 0) | (entry->write ? PF_WRITE : 0);
        CHECK_EQ(page_check(&walk, &mode.paging, access, mode.ac), -1);
    }
}

/* Pages that are tables, so that the monitor's stores into them (a trap's frame, say) do not go unseen. */
static void pv_remember(PvModel *model)
{
    for (unsigned i = 0; i < PV_PAGES; i++) {
        model->traced[i] = shadow_is_traced(model->monitor->shadow, (gpa_t)i * GUEST_PAGE_SIZE);
        if (model->traced[i])
            memcpy(model->before[i], model->ram + (size_t)i * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE);
    }
}

static bool pv_tables_changed(const PvModel *model)
{
    for (unsigned i = 0; i < PV_PAGES; i++) {
        const uint64_t *now = (const void *)(model->ram + (size_t)i * GUEST_PAGE_SIZE),
                       *then = (const void *)model->before[i];
        for (unsigned j = 0; model->traced[i] && j < 512; j++)
            if ((now[j] ^ then[j]) & ~(uint64_t)(PTE_A | PTE_D))
                return true;
    }
    return false;
}

static void pv_apply(PvModel *model)
{
    Monitor *monitor = model->monitor;
    const LabFrame *frame = monitor->frame;
    uint32_t code;
    bool leaves = board_take_request(model->board, &code) != SYSTEM_NONE; /* an end's, or hypercall EXIT's */
    if (frame->action & LAB_STOP)
        CHECK(monitor->end.ended && monitor->end.text[0]);
    if (frame->action & LAB_STOP || leaves) {
        model->ended = true;
        return;
    }
    CHECK(!monitor->end.ended);
    if (frame->action & LAB_LOAD_CR3) {
        memset(model->tlb, 0, sizeof model->tlb);
        model->cr3 = frame->cr3;
    }
    if (frame->action & LAB_INVLPG)
        model->tlb[frame->page >> 12 & (PV_TLB - 1)].valid = false;
    CHECK_EQ(model->cr3, frame->cr3);
    model->asleep = frame->action & LAB_WAIT;
    if (model->asleep)
        return;
    model->cpu = *monitor->trap;
    CHECK_EQ(model->cpu.cs, LAB_GUEST_CS);
    CHECK_EQ(model->cpu.ss, LAB_GUEST_SS);
    CHECK_EQ(model->cpu.rflags & ~(uint64_t)RFLAGS_REAL, RFLAGS_ONE | RFLAGS_IF);
    CHECK_EQ((uint64_t)((int64_t)(model->cpu.rip << 16) >> 16), model->cpu.rip);
}

/* As the stub does it. */
static void pv_trap(PvModel *model, uint8_t vector, uint64_t error, gva_t cr2)
{
    Monitor *monitor = model->monitor;
    uint64_t injected = monitor->counters.injected_interrupts;
    pv_remember(model);
    *monitor->trap = model->cpu;
    monitor->trap->vector = vector;
    monitor->trap->error = error;
    monitor->trap->cr2 = cr2;
    monitor->trap->cs = model->asleep ? LAB_CS : LAB_GUEST_CS;
    monitor->trap->ss = model->asleep ? LAB_SS : LAB_GUEST_SS;
    monitor->trap->rsp = model->cpu.gpr[REG_RSP];
    CHECK(bus_write(model->board->pio, LAB_PORT, 4, 0));
    pv_apply(model);
    if (model->ended)
        return;
    const Paravirt *pv = paravirt_of(monitor);
    bool asked = monitor->reason == LAB_HYPERCALL && monitor->counters.injected_interrupts == injected;
    if (!asked && pv_tables_changed(model))
        model->loose = true;
    if (pv->shared && shadow_is_traced(monitor->shadow, pv->shared_gpa))
        model->loose = true; /* both write to it, and neither asks */
    pv_check_tlb(model);
}

/* A load or store of 8 bytes by the guest. */
static void pv_access(PvModel *model, gva_t address, bool write, uint64_t value)
{
    address = (gva_t)((int64_t)(address << 16) >> 16) & ~7ull; /* any other is #GP, and no page fault */
    PvTlb *entry = &model->tlb[address >> 12 & (PV_TLB - 1)];
    for (unsigned tries = 0; !model->ended && !model->asleep; tries++) {
        CHECK(tries < PV_TRIES);
        uint32_t code;
        gpa_t physical;
        bool writable;
        if (!(entry->valid && entry->page == (address & ~0xfffull) && (entry->write || !write)) &&
            pv_real_walk(model, address, write ? PF_WRITE : 0, &physical, &code, &writable))
            *entry = (PvTlb){address & ~0xfffull, physical & ~0xfffull, true, writable};
        if (entry->valid && entry->page == (address & ~0xfffull) && (entry->write || !write)) {
            physical = entry->physical | (address & 0xfff);
            CHECK(!write || physical < PV_END || physical >= model->monitor->base + LAB_SIZE ||
                  address >> 39 == LAB_BASE >> 39);
            if (write && physical < PV_END)
                memcpy(model->ram + physical, &value, sizeof value);
            return;
        }
        uint64_t rip = PV_CODE + 16; /* the store */
        model->cpu.rip = rip;
        model->cpu.gpr[7] = address, model->cpu.gpr[6] = value;
        pv_trap(model, 14, code | PF_USER, address);
        if (model->cpu.rip != rip)
            return; /* emulated, or the guest's own fault */
    }
}

static void pv_interrupts(PvModel *model)
{
    for (unsigned i = 0; !model->ended && intr_pin_level(&model->board->intr); i++) {
        CHECK(i < PV_STORM);
        int vector = intr_pin_acknowledge(&model->board->intr);
        CHECK(vector >= 0);
        pv_trap(model, (uint8_t)vector, 0, 0);
    }
}

static void pv_time(PvModel *model, uint64_t ns)
{
    clock_advance(model->board->clock, ns);
    clock_run_timers(model->board->clock);
    pv_interrupts(model);
    const Paravirt *pv = paravirt_of(model->monitor);
    if (ns > LAB_TIMER_MAX_NS)
        CHECK(model->ended || !model->asleep || !pv->timer);
}

/* ---- the guest ---------------------------------------------------------------------------------------------- */

static void pv_tables(PvModel *model)
{
    uint64_t *table = (void *)(model->ram + PV_TABLES);
    for (unsigned space = 0; space < 2; space++, table += 4 * 512) {
        gpa_t at = PV_TABLES + space * 4 * GUEST_PAGE_SIZE;
        for (unsigned level = 0; level < 3; level++)
            table[512 * level] = (at + (level + 1) * GUEST_PAGE_SIZE) | 7;
        for (unsigned i = 0; i < 64; i++)
            table[512 * 3 + i] = (gpa_t)i * GUEST_PAGE_SIZE | (i & 7 ? 7 : 3);
    }
}

/* A guest from its start; another one may have been there before. */
static void pv_start(PvModel *model)
{
    Error error = {0};
    CpuState state;
    model->vcpu.runner = 0;
    device_reset(model->pic);
    device_reset(model->pit);
    memset(model->tlb, 0, sizeof model->tlb);
    memset(model->ram, 0, PV_END);
    model->loose = model->asleep = model->ended = false;
    if (model->monitor) { /* a new one takes long */
        shadow_flush(model->monitor->shadow);
        memset(paravirt_of(model->monitor), 0, sizeof(Paravirt));
    } else
        model->monitor = monitor_new(&model->vcpu, PV_END, lab_technique("paravirtual"), &error);
    CHECK(model->monitor);
    pv_tables(model);
    memcpy(model->ram + PV_CODE, pv_code, sizeof pv_code);
    cpu_state_reset(&state);
    state.rip = PV_CODE;
    state.gpr[REG_RSP] = PV_STACK;
    state.cr0 = 0x80010033, state.cr3 = PV_TABLES, state.cr4 = 0x20, state.efer = 0xd00;
    state.segment[SEG_CS] = (Segment){.selector = LAB_CS_KERNEL, .attributes = 0xa09b, .limit = UINT32_MAX};
    CHECK_EQ(monitor_start(model->monitor, &state, &error), 0);
    model->vcpu.runner = (uintptr_t)pthread_self(); /* from here on it is on its thread */
    model->cpu = *model->monitor->trap;
    model->cr3 = model->monitor->frame->cr3;
}

static PvModel *pv_new(void)
{
    Error error = {0};
    PvModel *model = calloc(1, sizeof *model);
    CHECK(model);
    model->before = calloc(PV_PAGES, GUEST_PAGE_SIZE);
    Board *board = model->board = board_new(CLOCK_KIND_VIRTUAL, &error);
    CHECK(model->before && board);
    CHECK_EQ(guest_memory_add(board->memory, 0, PV_END + LAB_SIZE, 0, &error), 0);
    model->ram = guest_memory_ptr(board->memory, 0, PV_END, true);
    model->timer = irq_line_new(board->irqs, 0);
    model->edge = irq_line_new(board->irqs, 5);
    model->level = irq_line_new(board->irqs, 11);
    model->pic = i8259_new(board, board->irqs);
    model->pit = i8254_new(board, model->timer);
    CHECK(model->pic && model->pit);
    CHECK_EQ(device_map(model->pic, board->pio, 0x20, 2, I8259_REGION_MASTER, &error), 0);
    CHECK_EQ(device_map(model->pic, board->pio, 0xa0, 2, I8259_REGION_SLAVE, &error), 0);
    CHECK_EQ(device_map(model->pic, board->pio, 0x4d0, 2, I8259_REGION_ELCR, &error), 0);
    CHECK_EQ(device_map(model->pit, board->pio, 0x40, 4, 0, &error), 0);
    CHECK_EQ(bus_add(board->pio, 0x501, 1, &PV_EXIT, board, 0, NULL, "exit", &error), 0);
    model->vm = (EngineVm){.ops = &PV_ENGINE, .board = board};
    vcpu_init(&model->vcpu, &model->vm, 0);
    pv_start(model);
    return model;
}

static inline void pv_free(PvModel *model)
{
    model->vcpu.runner = 0;
    monitor_free(model->monitor);
    vcpu_fini(&model->vcpu);
    device_free(model->pit);
    device_free(model->pic);
    board_free(model->board);
    free(model->before);
    free(model);
}

static int64_t pv_call(PvModel *model, uint64_t number, uint64_t a, uint64_t b)
{
    model->cpu.rip = PV_CODE;
    model->cpu.gpr[REG_RAX] = number, model->cpu.gpr[7] = a, model->cpu.gpr[6] = b;
    pv_trap(model, 13, LAB_HYPERCALL_VECTOR * 8 + 2, 0);
    if (number == LAB_HC_ADDRESS && !model->ended && model->monitor->cpu.cr3 == a)
        model->loose = false; /* all is in step again; unless the shared page is a table */
    return (int64_t)model->cpu.gpr[REG_RAX];
}

/* ---- a guest of bytes --------------------------------------------------------------------------------------- */

static uint64_t pv_value(Input *input)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     7,
                                     8,
                                     16,
                                     64,
                                     241,
                                     4096,
                                     PV_TABLES,
                                     PV_TABLES + 0x4000,
                                     PV_CODE,
                                     PV_SHARED,
                                     PV_LISTS,
                                     PV_STACK,
                                     PV_END,
                                     PV_END - 8,
                                     PV_END + LAB_SHADOW,
                                     LAB_BASE,
                                     LAB_BASE + LAB_FRAME,
                                     LAB_BASE + LAB_DATA,
                                     1ull << 40,
                                     1ull << 47,
                                     1ull << 63,
                                     UINT64_MAX,
                                     0xfee00000,
                                     LAB_TIMER_MIN_NS,
                                     LAB_TIMER_MAX_NS};
    uint64_t choice = take(input, 1);
    if (choice < 160)
        return edges[choice % ARRAY_SIZE(edges)];
    if (choice < 200)
        return take(input, 2) << 3;
    return choice < 230 ? take(input, 1) << 12 : take(input, 8);
}

static uint64_t pv_entry(Input *input)
{
    uint64_t choice = take(input, 4), value = (choice & 0x67) | (choice >> 7 & 7 ? PTE_P | PTE_US : 0);
    value |= choice >> 10 & 7 ? 0 : PTE_XD;
    switch (choice >> 13 & 7) {
    case 0:
        return value | PTE_PS | (choice >> 16 & 3) << 21;
    case 1:
        return value | (PV_END + (choice >> 16 & 0xff) * 0x10000);
    case 2:
        return value | 1ull << (choice >> 16 & 63);
    case 3:
    case 4:
        return value | (PV_TABLES + (choice >> 16) % PV_TABLE_COUNT * GUEST_PAGE_SIZE);
    default:
        return value | (choice >> 16 & 63) << 12;
    }
}

/* Where an entry is: mostly one of those in use. */
static gpa_t pv_place(Input *input)
{
    uint64_t choice = take(input, 2);
    if (choice >> 14 == 3)
        return pv_value(input);
    gpa_t number = choice % PV_TABLE_COUNT, table = PV_TABLES + number * GUEST_PAGE_SIZE;
    uint64_t index = choice >> 7 & 63;
    if (choice >> 3 & 7) /* not what the kernel itself stands on */
        index |= number % 4 == 3 ? 32 : 1;
    if (choice >> 3 & 15)
        return table + index * 8;
    return table + (choice >> 7 & 1 ? LAB_MMU_RELEASE : choice >> 8 & 1 ? LAB_MMU_ADDRESS : 511 * 8);
}

static void pv_fill_queue(PvModel *model, Input *input)
{
    LabShared *shared = paravirt_of(model->monitor)->shared;
    uint64_t count = take(input, 1);
    if (!shared)
        return;
    shared->queued = count < 240 ? (uint32_t)count & 7 : (uint32_t)pv_value(input);
    for (uint64_t i = 0; i < (count & 7); i++) {
        shared->queue[i].entry = pv_place(input);
        shared->queue[i].value = shared->queue[i].entry & 7 ? take(input, 1) & 0xf0 : pv_entry(input);
    }
}

static void pv_fill_list(PvModel *model, Input *input)
{
    uint64_t choice = take(input, 1), *list = (void *)(model->ram + PV_LISTS);
    if (choice & 1) { /* a LabIret */
        list[3] = PV_CODE, list[4] = choice & 2 ? LAB_CS_USER : choice & 4 ? LAB_CS_KERNEL : choice;
        list[5] = take(input, 4), list[6] = PV_STACK, list[7] = LAB_SS_USER;
        if (choice & 8)
            list[3] = pv_value(input);
        model->cpu.gpr[REG_RSP] = PV_LISTS;
        return;
    }
    for (unsigned i = 0; i < 4; i++) { /* LabTraps */
        list[2 * i] = (choice & 2 ? LAB_TRAP_EVENT : take(input, 2) % 0x110) | take(input, 1) << 32;
        list[2 * i + 1] = choice & 4 ? pv_value(input) : PV_CODE + 0x1000;
    }
}

static void pv_step(PvModel *model, Input *input)
{
    uint64_t choice = take(input, 1);
    LabShared *shared = paravirt_of(model->monitor)->shared;
    uint64_t *rsp = &model->cpu.gpr[REG_RSP];
    if (*rsp < PV_STACK && *rsp >= PV_STACK - GUEST_PAGE_SIZE)
        *rsp = PV_STACK; /* handlers that return are nothing new */
    if (model->asleep || choice < 30) {
        if (choice & 3)
            irq_line_pulse(model->edge);
        irq_line_set(model->level, choice & 4);
        pv_time(model, model->asleep ? LAB_TIMER_MAX_NS + 10000 : take(input, 3));
    } else if (choice < 110) {
        uint64_t number = choice % (LAB_HC_COUNT + 1), a = pv_value(input), b = pv_value(input);
        if (number == LAB_HC_BLOCK && choice & 0x10)
            pv_call(model, LAB_HC_TIMER, LAB_TIMER_MIN_NS, 0);
        if (!model->ended)
            pv_call(model, number, a, b);
    } else if (choice < 150) {
        pv_fill_queue(model, input);
        pv_call(model, LAB_HC_FLUSH, 0, 0);
    } else if (choice < 165) {
        pv_fill_list(model, input);
        pv_call(model, choice & 1 ? LAB_HC_IRET : LAB_HC_TRAPS, PV_LISTS, choice & 2 ? 4 : pv_value(input));
    } else if (choice < 175 && shared) {
        shared->events = (uint32_t)take(input, 1) & 3;
        shared->pending = choice & 1 ? 0 : (uint32_t)pv_value(input);
        shared->served = (uint32_t)pv_value(input);
    } else if (choice < 185) {
        pv_trap(model, (uint8_t)(choice & 1 ? 13 : choice & 2 ? 6 : take(input, 1) % 14), take(input, 2), 0);
    } else if (choice < 200) { /* one of the instructions */
        model->cpu.rip = PV_CODE + 16 * (take(input, 1) % ARRAY_SIZE(pv_code));
        model->cpu.gpr[7] = choice & 2 ? model->monitor->cpu.cr3 : pv_value(input);
        pv_trap(model, choice & 1 ? 13 : 6, 0, 0);
    } else if (choice < 210)
        *rsp = choice & 3 ? PV_STACK - 4 * choice : pv_value(input);
    else if (choice < 225) {
        gpa_t place = pv_place(input); /* one to one, as long as the guest keeps it so */
        pv_access(model, place, true, pv_entry(input));
    } else
        pv_access(model, choice & 1 ? take(input, 1) << 12 : pv_value(input), choice & 2, take(input, 1));
    pv_interrupts(model);
}

static void pv_run(PvModel *model, Input *input)
{
    if (take(input, 1) & 15) { /* mostly in order */
        LabTrap *traps = (void *)(model->ram + PV_LISTS);
        for (unsigned i = 0; i < 32; i++)
            traps[i] = (LabTrap){.vector = i, .user = i & 1, .handler = PV_CODE};
        traps[32] = (LabTrap){.vector = 0x85, .handler = PV_CODE};
        traps[33] = (LabTrap){.vector = LAB_TRAP_SYSCALL, .handler = PV_CODE};
        traps[34] = (LabTrap){.vector = LAB_TRAP_EVENT, .handler = PV_CODE};
        CHECK_EQ(pv_call(model, LAB_HC_SHARED, PV_SHARED, 0), 0);
        CHECK_EQ(pv_call(model, LAB_HC_TRAPS, PV_LISTS, 35), 0);
        CHECK_EQ(pv_call(model, LAB_HC_STACK, PV_STACK, 0), 0);
    }
    for (unsigned step = 0; input->left && !model->ended; step++) {
        pv_step(model, input);
        if (step % 8 == 0 && !model->ended)
            pv_check_table(model, model->cr3, 4, PAGE_WRITE | PAGE_USER);
    }
}

#endif
