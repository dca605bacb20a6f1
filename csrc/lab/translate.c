/*
 * The technique: a trap from the code cache is made one of the guest's kernel, and what the monitor leaves the
 * virtual CPU with is made a place in the cache.
 *
 * The cache's own registers and half-done sequences never leave this file: trap() writes the guest's RIP and
 * registers into the frame (from the place, translate.h), everything else of the monitor works as under
 * trap-and-emulate, and resume() looks for the code of the RIP that there is then. When nothing has changed (a
 * shadow page table was filled), the processor goes on where it was.
 */
#include <stdlib.h>
#include <string.h>

#include "lab/translate.h"

#define VECTOR_UD 6
#define VECTOR_PF 14

/* ---- the virtual CPU on TranslatorPage -------------------------------------------------------------------------
 */

static void export_cpu(Translator *t)
{
    const VirtualCpu *cpu = &t->monitor->cpu;
    TranslatorPage *page = t->page;
    page->pending = lab_interrupt_waits(t->monitor);
    page->interrupts = cpu->interrupts ? RFLAGS_IF >> 8 : 0;
    page->iopl = (uint64_t)cpu->iopl << 4;
    page->zero = 0;
    page->cr[0] = cpu->cr0, page->cr[2] = cpu->cr2, page->cr[3] = cpu->cr3;
    page->cr[4] = cpu->cr4, page->cr[8] = cpu->cr8;
    for (unsigned i = 0; i < 6; i++)
        page->selector[i] = cpu->selector[i];
    page->tr = cpu->tr.selector;
    page->ldtr = cpu->ldtr.selector;
}

static void import_cpu(Translator *t)
{
    VirtualCpu *cpu = &t->monitor->cpu;
    cpu->interrupts = t->page->interrupts & RFLAGS_IF >> 8 ? 1 : 0;
    cpu->iopl = t->page->iopl >> 4 & 3;
    cpu->cr8 = t->page->cr[8] & 15;
}

/* ---- a trap ----------------------------------------------------------------------------------------------------
 */

static void restore(const Translator *t, const Place *place, LabTrapFrame *trap)
{
    uint64_t *gpr = trap->gpr;
    trap->rip = place->from == RIP_IN_TARGET ? t->page->target
                : place->from == RIP_IN_RCX  ? gpr[REG_RCX]
                                             : place->rip;
    if (place->saved & SAVED_RAX)
        gpr[REG_RAX] = t->page->rax;
    if (place->saved & SAVED_RCX)
        gpr[REG_RCX] = t->page->rcx;
    if (place->saved & SAVED_RDX)
        gpr[REG_RDX] = t->page->rdx;
    if (place->scratch != REG_NONE)
        gpr[place->scratch] = t->page->scratch;
    gpr[REG_RSP] -= (uint64_t)place->popped;
}

static void callout(Monitor *monitor)
{
    Translator *t = monitor->technique_state;
    Instruction in;
    uint8_t bytes[INSTRUCTION_MAX];
    size_t got = lab_fetch(monitor, bytes);
    int length = instruction_decode(&in, bytes, got);
    if (length == -ENODATA && got < INSTRUCTION_MAX) { /* what was translated cannot be read now: nor fetched */
        cache_flush(t);
        monitor->counters.flushes++;
        return;
    }
    if (length == -E2BIG)
        lab_inject_gp(monitor, 0);
    else if (length < 0 || in.lock)
        lab_inject(monitor, VECTOR_UD, false, 0);
    else if (in.map == 1 && in.opcode == 0x05)
        lab_syscall(monitor, monitor->trap->rip + (uint64_t)length);
    else if (!lab_emulate(monitor, &in))
        lab_inject(monitor, VECTOR_UD, false, 0);
}

static bool translation_trap(Monitor *monitor)
{
    Translator *t = monitor->technique_state;
    LabTrapFrame *trap = monitor->trap;
    t->native = t->roll = false;
    t->exit = NONE;
    if (!t->running) /* a program, or a halted processor */
        return false;
    t->running = false;
    import_cpu(t);
    uint64_t offset = trap->rip - LAB_BASE;
    const Place *place = cache_place(t, offset);
    if (!place) {
        lab_end(monitor, "translated code went to %#llx, outside the code cache", (unsigned long long)trap->rip);
        return true;
    }
    t->raw = *trap;
    restore(t, place, trap);
    t->seen = *trap;
    t->seen_generation = t->generation;
    monitor->cpu.shadow = place->hold != HOLD_NOT;
    lab_note(monitor);
    if (trap->vector != VECTOR_UD || place->offset != offset || place->kind == PLACE_CODE) {
        t->native = true;
        t->roll = place->hold == HOLD_ROLL;
        return false;
    }
    switch (place->kind) {
    case PLACE_CALLOUT:
        monitor->reason = LAB_CALLOUT;
        monitor->cpu.shadow = 0;
        callout(monitor);
        break;
    case PLACE_CHECK:
        monitor->reason = LAB_CHECK;
        break;
    default:
        monitor->reason = LAB_MISS;
        t->exit = place->exit;
    }
    return true;
}

/* ---- back to the guest -----------------------------------------------------------------------------------------
 */

/* Events after which a guest's processor may see other pages at the same addresses. */
static uint64_t mapping_events(const Monitor *monitor)
{
    const uint64_t *count = monitor->counters.emulated;
    return 1 + count[LAB_M_MOV_TO_CR] + count[LAB_M_INVLPG] + count[LAB_M_WRMSR] + count[LAB_M_LMSW] +
           count[LAB_M_CLTS];
}

static bool unchanged(const Translator *t)
{
    const LabTrapFrame *now = t->monitor->trap, *seen = &t->seen;
    return t->native && t->seen_generation == t->generation && now->rip == seen->rip &&
           now->rflags == seen->rflags && memcmp(now->gpr, seen->gpr, sizeof now->gpr) == 0;
}

static void go_back(Translator *t)
{
    LabTrapFrame *trap = t->monitor->trap;
    memcpy(trap->gpr, t->raw.gpr, sizeof trap->gpr);
    trap->rip = t->raw.rip;
    t->running = true;
}

/* Where the RIP's code is; exceptions of its fetch are the guest's. */
static uint32_t find_code(Translator *t, bool solo)
{
    Monitor *monitor = t->monitor;
    uint64_t rip = monitor->trap->rip;
    if (solo) {
        uint32_t code = translate_block(t, rip, true);
        if (code != NONE)
            return code;
    } else {
        uint32_t at = cache_find(t, rip);
        if (at == NONE)
            at = translate_block(t, rip, false);
        if (at != NONE) {
            cache_set_target(t, at);
            if (t->exit != NONE && t->exits[t->exit].target == rip)
                cache_link(t, t->exit, at);
            return t->blocks[at].code;
        }
    }
    if (monitor->end.ended)
        return NONE;
    if (t->bad.page == NO_PAGE)
        lab_inject_gp(monitor, 0);
    else {
        monitor->cpu.cr2 = t->bad.address;
        lab_inject(monitor, VECTOR_PF, true, (uint32_t)t->bad.page);
    }
    t->page->target = monitor->trap->rip; /* it comes again, for the handler's code */
    return t->retry;
}

/* Programs have shadow tables of their own, and in those the cache and TranslatorPage are the monitor's alone. */
static void hide_cache(Monitor *monitor)
{
    if (monitor->cpu.cpl != 3)
        return;
    uint64_t *root = (uint64_t *)(monitor->memory + (monitor->frame->cr3 - monitor->base));
    uint64_t entry = (monitor->base + LAB_USER_TABLES) | PTE_P | PTE_RW | PTE_US | PTE_A;
    if (root[LAB_SLOT] != entry)
        root[LAB_SLOT] = entry;
}

static void translation_resume(Monitor *monitor)
{
    Translator *t = monitor->technique_state;
    VirtualCpu *cpu = &monitor->cpu;
    gpa_t page;
    if (t->roll) {
        t->page->pending = lab_interrupt_waits(monitor);
        go_back(t);
        return;
    }
    while (shadow_take_written_code(monitor->shadow, &page))
        cache_drop_page(t, page);
    if (cpu->cpl == 3) {
        t->solo = false;
        return;
    }
    if (cpu->cpl) {
        lab_end(monitor, "the guest goes to ring %u: translation has rings 0 and 3", cpu->cpl);
        return;
    }
    if (t->verified != mapping_events(monitor)) {
        t->verified = mapping_events(monitor);
        cache_verify(t);
    }
    bool solo = t->solo || (cpu->shadow && cpu->interrupts && lab_interrupt_waits(monitor));
    t->solo = false;
    if (!solo && unchanged(t)) {
        export_cpu(t);
        go_back(t);
        return;
    }
    uint32_t code = find_code(t, solo);
    export_cpu(t);
    if (code == NONE)
        return;
    monitor->trap->rflags &= ~(uint64_t)RFLAGS_TF;
    monitor->trap->rip = LAB_BASE + code;
    t->running = true;
}

/* By the instruction at RIP, perhaps: it runs by itself, before the page is translated, and traced, again. */
static void translation_code_written(Monitor *monitor, gpa_t page)
{
    Translator *t = monitor->technique_state;
    cache_drop_page(t, page);
    t->solo = true;
}

/* ---- a translator's life ---------------------------------------------------------------------------------------
 */

/* The monitor's slot for programs: the tables of LAB_TABLES without the user bit on the cache and its data. */
static void build_user_tables(Monitor *monitor)
{
    uint64_t *from = (uint64_t *)(monitor->memory + LAB_TABLES),
             *to = (uint64_t *)(monitor->memory + LAB_USER_TABLES);
    const unsigned entries = GUEST_PAGE_SIZE / sizeof *from, tables = LAB_SIZE >> 21;
    memcpy(to, from, (2 + tables) * (size_t)GUEST_PAGE_SIZE);
    to[0] += LAB_USER_TABLES - LAB_TABLES;
    for (unsigned i = 0; i < tables; i++)
        to[entries + i] += LAB_USER_TABLES - LAB_TABLES;
    for (unsigned page = LAB_DATA >> 12; page < LAB_SIZE >> 12; page++)
        to[2 * entries + page] &= ~(uint64_t)PTE_US;
    guest_memory_written(monitor->board->memory, monitor->base + LAB_USER_TABLES, (2 + tables) * GUEST_PAGE_SIZE);
}

static int translation_create(Monitor *monitor, Error *error)
{
    Translator *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(error, ENOMEM, "no memory for a translator");
    monitor->technique_state = t;
    t->monitor = monitor;
    t->page = (TranslatorPage *)(monitor->memory + LAB_DATA);
    t->targets = (JumpTarget *)(monitor->memory + LAB_CODE);
    build_user_tables(monitor);
    cache_flush(t);
    if (cache_room(t, BLOCK_ROOM))
        return 0;
    free(t->places);
    free(t->exits);
    free(t->blocks);
    free(t->pages);
    free(t);
    return error_set(error, ENOMEM, "no memory for a translator");
}

static void translation_destroy(Monitor *monitor)
{
    Translator *t = monitor->technique_state;
    free(t->places);
    free(t->exits);
    free(t->blocks);
    free(t->pages);
    free(t);
}

const LabTechnique lab_translation_technique = {
    .name = "translation",
    .steps = true,
    .create = translation_create,
    .destroy = translation_destroy,
    .trap = translation_trap,
    .resume = translation_resume,
    .tables = hide_cache,
    .code_written = translation_code_written,
};
