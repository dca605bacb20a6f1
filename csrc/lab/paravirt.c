#include "lab/paravirt.h"

#include <stdlib.h>
#include <string.h>

/* 8259A (data sheet 231468): as the PC has the pair; ELCR: PIIX 290562 §2.5.6. */
#define PIC1         0x20
#define PIC2         0xa0
#define PIC_DATA     1
#define PIC_ICW1     0x11
#define PIC_ICW4     0x01
#define PIC_EOI      0x20
#define PIC_READ_ISR 0x0b
#define PIC_READ_IRR 0x0a
#define CASCADE      2
#define ELCR         0x4d0
#define VECTOR_BASE  0x20
#define LINES        16
/* 8254 (data sheet 231164) */
#define PIT_CHANNEL0 0x40
#define PIT_COMMAND  0x43
#define PIT_HZ       1193182ull
#define PIT_ONE_SHOT 0x30 /* channel 0, both bytes, mode 0 */
#define TIMER_LINE   0

#define VECTOR_BP 3
#define VECTOR_UD 6
#define VECTOR_GP 13
#define VECTOR_PF 14

#define PAGE 4096ull

/* ---- the guest's memory ------------------------------------------------------------------------------------- */

static ShadowMode kernel_mode(const Monitor *monitor)
{
    ShadowMode mode = lab_mode(monitor);
    mode.user = false;
    return mode;
}

/* Up to the end of a page. */
static bool translate(Monitor *monitor, gva_t address, uint32_t access, gpa_t *gpa)
{
    Error error = {0};
    ShadowFault fault = {0};
    ShadowMode mode = kernel_mode(monitor);
    enum ShadowResult result = shadow_translate(monitor->shadow, &mode, address, access, &fault, &error);
    *gpa = fault.gpa;
    return (result == SHADOW_FILLED || result == SHADOW_TRACED) && fault.gpa < monitor->base;
}

bool paravirt_read(Monitor *monitor, gva_t address, void *data, uint64_t size)
{
    for (uint8_t *to = data; size;) {
        uint64_t part = PAGE - address % PAGE;
        gpa_t gpa;
        part = part < size ? part : size;
        if (!translate(monitor, address, 0, &gpa) || guest_memory_read(monitor->board->memory, gpa, to, part) < 0)
            return false;
        to += part, address += part, size -= part;
    }
    return true;
}

bool paravirt_write(Monitor *monitor, gva_t address, const void *data, uint64_t size)
{
    for (const uint8_t *from = data; size;) {
        uint64_t part = PAGE - address % PAGE;
        gpa_t gpa;
        part = part < size ? part : size;
        if (!translate(monitor, address, PF_WRITE, &gpa) ||
            shadow_write(monitor->shadow, gpa, from, (uint32_t)part) < 0)
            return false;
        from += part, address += part, size -= part;
    }
    return true;
}

/* ---- what comes to the guest -------------------------------------------------------------------------------- */

void paravirt_store_events(Monitor *monitor, bool on)
{
    Paravirt *pv = paravirt_of(monitor);
    if (pv->shared)
        pv->shared->events = on;
}

/* What hardware pushes (SDM 3A figure 6-9), with the selectors of the contract. */
typedef struct Pushed {
    uint64_t error, rip, cs, rflags, rsp, ss;
} Pushed;

void paravirt_trap(Monitor *monitor, uint32_t vector, bool has_error, uint32_t error, uint64_t rip)
{
    Paravirt *pv = paravirt_of(monitor);
    LabTrapFrame *trap = monitor->trap;
    bool user = monitor->cpu.cpl == 3, events = pv->shared && pv->shared->events;
    uint64_t stack = user ? pv->stack : trap->gpr[REG_RSP] & ~15ull;
    Pushed pushed = {
        .error = error,
        .rip = rip,
        .cs = user ? LAB_CS_USER : LAB_CS_KERNEL,
        .rflags = (trap->rflags & RFLAGS_REAL) | RFLAGS_ONE | (events ? RFLAGS_IF : 0),
        .rsp = trap->gpr[REG_RSP],
        .ss = user ? LAB_SS_USER : LAB_SS_KERNEL,
    };
    uint64_t skip = has_error ? 0 : sizeof pushed.error;
    if (!pv->traps[vector].handler) {
        lab_end(monitor, "the paravirtual guest has no handler for %s %u, from ring %u",
                vector < 256 ? "vector" : "trap", vector, monitor->cpu.cpl);
        return;
    }
    stack -= sizeof pushed - skip;
    if (!paravirt_write(monitor, stack, (const uint8_t *)&pushed + skip, sizeof pushed - skip)) {
        lab_end(monitor, "the paravirtual guest's kernel stack at %#llx is not writable memory, for vector %u",
                (unsigned long long)stack, vector);
        return;
    }
    paravirt_store_events(monitor, false);
    trap->gpr[REG_RSP] = stack;
    trap->rip = pv->traps[vector].handler;
    trap->rflags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_AC);
    lab_set_ring(monitor, 0);
}

static bool deliver(Monitor *monitor, uint8_t vector, bool has_error, uint32_t error, bool software,
                    uint64_t next_rip)
{
    Paravirt *pv = paravirt_of(monitor);
    if (software && monitor->cpu.cpl == 3 && !pv->traps[vector].user) {
        paravirt_trap(monitor, VECTOR_GP, true, vector * 8u + 2, monitor->trap->rip);
        return true;
    }
    if (vector == VECTOR_PF && pv->shared)
        pv->shared->cr2 = monitor->cpu.cr2;
    paravirt_trap(monitor, vector, has_error, error, software ? next_rip : monitor->trap->rip);
    return true;
}

/* ---- lines and timer ---------------------------------------------------------------------------------------- */

static void out(Monitor *monitor, uint16_t port, uint8_t value) { bus_write(monitor->board->pio, port, 1, value); }

static uint8_t in(Monitor *monitor, uint16_t port)
{
    uint64_t value = 0xff;
    bus_read(monitor->board->pio, port, 1, &value);
    return (uint8_t)value;
}

void paravirt_update_lines(Monitor *monitor)
{
    Paravirt *pv = paravirt_of(monitor);
    uint16_t open = (uint16_t)((pv->lines | (pv->timer ? 1u << TIMER_LINE : 0)) & ~pv->closed);
    if (open & 0xff00)
        open |= 1u << CASCADE;
    out(monitor, PIC1 + PIC_DATA, (uint8_t)~open);
    out(monitor, PIC2 + PIC_DATA, (uint8_t)(~open >> 8));
}

void paravirt_reset_lines(Monitor *monitor)
{
    Paravirt *pv = paravirt_of(monitor);
    pv->lines = pv->closed = 0;
    pv->timer = false;
    pv->period = 0;
    out(monitor, PIC1, PIC_ICW1);
    out(monitor, PIC2, PIC_ICW1);
    out(monitor, PIC1 + PIC_DATA, VECTOR_BASE);
    out(monitor, PIC2 + PIC_DATA, VECTOR_BASE + 8);
    out(monitor, PIC1 + PIC_DATA, 1 << CASCADE);
    out(monitor, PIC2 + PIC_DATA, CASCADE);
    out(monitor, PIC1 + PIC_DATA, PIC_ICW4);
    out(monitor, PIC2 + PIC_DATA, PIC_ICW4);
    paravirt_update_lines(monitor);
}

void paravirt_set_level(Monitor *monitor, uint32_t line, bool level)
{
    uint16_t port = (uint16_t)(ELCR + line / 8);
    uint8_t bit = (uint8_t)(1u << line % 8), now = in(monitor, port);
    out(monitor, port, level ? now | bit : now & (uint8_t)~bit);
}

/* Mode 0's output is low until the count is over: what the 8259A had latched of the last one is gone with it. */
static void arm_timer(Monitor *monitor, uint64_t ns)
{
    uint64_t count = (ns * PIT_HZ + 999999999) / 1000000000;
    out(monitor, PIT_COMMAND, PIT_ONE_SHOT);
    out(monitor, PIT_CHANNEL0, (uint8_t)count);
    out(monitor, PIT_CHANNEL0, (uint8_t)(count >> 8));
}

/* A period begins when the tick before it is taken: a guest that is slower than its timer gets on, too. */
void paravirt_serve_lines(Monitor *monitor, uint32_t served)
{
    Paravirt *pv = paravirt_of(monitor);
    if (!(pv->closed & served))
        return;
    if (pv->closed & served & 1u << TIMER_LINE && pv->timer && pv->period)
        arm_timer(monitor, pv->period);
    pv->closed &= (uint16_t)~served;
    paravirt_update_lines(monitor);
}

void paravirt_set_timer(Monitor *monitor, uint64_t ns, bool periodic)
{
    Paravirt *pv = paravirt_of(monitor);
    pv->timer = ns != 0;
    pv->period = periodic ? ns : 0;
    if (ns)
        arm_timer(monitor, ns);
    paravirt_update_lines(monitor);
}

/* A request that went away is answered as line 7 of a chip, without its bit in service (8259A, "Default IR7"). */
static bool spurious(Monitor *monitor, uint32_t line)
{
    if (line % 8 != 7)
        return false;
    uint16_t port = line == 7 ? PIC1 : PIC2;
    out(monitor, port, PIC_READ_ISR);
    bool service = in(monitor, port) & 0x80;
    out(monitor, port, PIC_READ_IRR);
    if (!service && line == 15)
        out(monitor, PIC1, PIC_EOI);
    return !service;
}

/*
 * The chip is done with it at once; the line waits shut until the guest has looked after the device, or taken the
 * tick: a guest that is slower than its timer shall not do nothing but be interrupted.
 */
static bool interrupt(Monitor *monitor, uint8_t vector)
{
    Paravirt *pv = paravirt_of(monitor);
    uint32_t line = vector - VECTOR_BASE;
    if (vector < VECTOR_BASE || line >= LINES || spurious(monitor, line))
        return true;
    if (line == TIMER_LINE)
        pv->timer = pv->timer && pv->period;
    pv->closed |= (uint16_t)(1u << line);
    paravirt_update_lines(monitor);
    if (line >= 8)
        out(monitor, PIC2, PIC_EOI);
    out(monitor, PIC1, PIC_EOI);
    if (pv->shared)
        pv->shared->pending |= 1u << line;
    return true;
}

/* ---- the technique ------------------------------------------------------------------------------------------ */

static bool trap(Monitor *monitor)
{
    LabTrapFrame *frame = monitor->trap;
    uint8_t code[INSTRUCTION_MAX];
    bool landed = frame->rip == LAB_BASE + LAB_LANDING; /* a KVM let SYSCALL stay in ring 3: monitor.c */
    if (frame->vector != VECTOR_GP && frame->vector != VECTOR_UD)
        return false;
    if (landed) {
        frame->rflags = frame->gpr[11];
    } else {
        if (lab_fetch(monitor, code) < 2)
            return false;
        if (code[0] == 0xcd && code[1] == LAB_HYPERCALL_VECTOR) {
            paravirt_hypercall(monitor);
            return true;
        }
        if (code[0] == 0xf4 && monitor->cpu.cpl == 0) {
            lab_end(monitor, "HLT in a paravirtual kernel, which sleeps by a hypercall");
            return true;
        }
        if (code[0] != 0x0f || code[1] != 0x05 || frame->vector != VECTOR_UD)
            return false;
        frame->gpr[1] = frame->rip + 2; /* RCX and R11 as SYSCALL leaves them */
    }
    frame->gpr[11] = (frame->rflags & RFLAGS_REAL) | RFLAGS_ONE | RFLAGS_IF;
    monitor->reason = LAB_SYSCALL;
    monitor->counters.emulated[LAB_M_SYSCALL]++;
    if (monitor->cpu.cpl == 0)
        paravirt_trap(monitor, VECTOR_UD, false, 0, frame->gpr[1] - 2);
    else
        paravirt_trap(monitor, LAB_TRAP_SYSCALL, false, 0, frame->gpr[1]);
    return true;
}

/* The guest is about to run: with events on and one pending, it runs in its handler. */
static void resume(Monitor *monitor)
{
    Paravirt *pv = paravirt_of(monitor);
    if (!pv->shared || !pv->shared->events || !pv->shared->pending)
        return;
    monitor->counters.injected_interrupts++;
    paravirt_trap(monitor, LAB_TRAP_EVENT, false, 0, monitor->trap->rip);
}

static int create(Monitor *monitor, Error *error)
{
    monitor->technique_state = calloc(1, sizeof(Paravirt));
    return monitor->technique_state ? 0 : error_set(error, ENOMEM, "no memory for a paravirtual guest");
}

static void destroy(Monitor *monitor) { free(monitor->technique_state); }

const LabTechnique lab_paravirtual = {
    .name = "paravirtual",
    .create = create,
    .destroy = destroy,
    .trap = trap,
    .interrupt = interrupt,
    .deliver = deliver,
    .resume = resume,
};
