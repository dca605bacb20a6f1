/*
 * Guest memory as the virtual CPU sees it, and exceptions and interrupts through the guest's own IDT (Intel SDM 3A
 * §6.12, §6.14, §6.15).
 */
#include <string.h>

#include "lab/monitor.h"

#define VECTOR_UD 6
#define VECTOR_DF 8
#define VECTOR_TS 10
#define VECTOR_NP 11
#define VECTOR_SS 12
#define VECTOR_GP 13
#define VECTOR_PF 14

#define ERROR_EXT 1u
#define ERROR_IDT 2u

enum Reach { REACH_DONE, REACH_FAULT /* error code in fault */, REACH_END };

/* Part of an access within one page: its host address, or NULL for a device's. */
static enum Reach reach(Monitor *monitor, gva_t address, uint32_t access, bool supervisor, gpa_t *gpa,
                        uint32_t *error_code)
{
    ShadowMode mode = lab_mode(monitor);
    ShadowFault fault = {0};
    Error error = {0};
    if (supervisor)
        mode.user = false;
    enum ShadowResult result = shadow_translate(monitor->shadow, &mode, address, access, &fault, &error);
    *gpa = fault.gpa;
    *error_code = fault.error_code;
    if (result == SHADOW_FILLED || result == SHADOW_TRACED)
        return REACH_DONE;
    if (result == SHADOW_GUEST_FAULT)
        return REACH_FAULT;
    lab_end(monitor, "%s", error.text);
    return REACH_END;
}

static uint32_t in_page(gva_t address, uint32_t size)
{
    uint32_t left = GUEST_PAGE_SIZE - (uint32_t)(address & (GUEST_PAGE_SIZE - 1));
    return size < left ? size : left;
}

/* One piece after the other; what faults leaves `*at` where. */
static enum Reach transfer(Monitor *monitor, gva_t address, uint8_t *data, uint32_t size, uint32_t access,
                           bool supervisor, gva_t *at, uint32_t *error_code)
{
    while (size) {
        uint32_t now = in_page(address, size);
        gpa_t gpa;
        *at = address;
        enum Reach reached = reach(monitor, address, access, supervisor, &gpa, error_code);
        if (reached != REACH_DONE)
            return reached;
        if (access & PF_WRITE) {
            int written = shadow_write(monitor->shadow, gpa, data, now);
            if (written == 1 && monitor->technique->code_written)
                monitor->technique->code_written(monitor, gpa);
            if (written < 0 && now <= 8) {
                uint64_t value = 0;
                memcpy(&value, data, now);
                bus_write(monitor->board->mmio, gpa, now, value);
            }
        } else if (guest_memory_read(monitor->board->memory, gpa, data, now) < 0) {
            uint64_t value = UINT64_MAX;
            if (now <= 8)
                bus_read(monitor->board->mmio, gpa, now, &value);
            memset(data, 0xff, now);
            memcpy(data, &value, now < 8 ? now : 8);
        }
        address += now, data += now, size -= now;
    }
    return REACH_DONE;
}

static bool canonical_range(gva_t address, uint32_t size)
{
    return lab_canonical(address) && lab_canonical(address + size - 1);
}

static bool access_or_inject(Monitor *monitor, gva_t address, void *data, uint32_t size, uint32_t access,
                             enum LabBy by)
{
    gva_t at;
    uint32_t error_code;
    if (!canonical_range(address, size)) {
        lab_inject(monitor, by == LAB_BY_STACK ? VECTOR_SS : VECTOR_GP, true, 0);
        return false;
    }
    enum Reach reached = transfer(monitor, address, data, size, access, by == LAB_BY_SYSTEM, &at, &error_code);
    if (reached == REACH_FAULT) {
        monitor->cpu.cr2 = at;
        lab_inject(monitor, VECTOR_PF, true, error_code);
    }
    return reached == REACH_DONE;
}

bool lab_read(Monitor *monitor, gva_t address, void *data, uint32_t size, enum LabBy by)
{
    return access_or_inject(monitor, address, data, size, 0, by);
}

bool lab_write(Monitor *monitor, gva_t address, const void *data, uint32_t size, enum LabBy by)
{
    uint8_t copy[64];
    memcpy(copy, data, size);
    return access_or_inject(monitor, address, copy, size, PF_WRITE, by);
}

bool lab_probe(Monitor *monitor, gva_t address, uint32_t size, enum LabAccess access, enum LabBy by)
{
    for (uint32_t done = 0, now; done < size; done += now) {
        gva_t at = address + done;
        gpa_t gpa;
        uint32_t error_code;
        now = in_page(at, size - done);
        if (!lab_canonical(at)) {
            lab_inject(monitor, by == LAB_BY_STACK ? VECTOR_SS : VECTOR_GP, true, 0);
            return false;
        }
        enum Reach reached = reach(monitor, at, access, by == LAB_BY_SYSTEM, &gpa, &error_code);
        if (reached == REACH_FAULT) {
            monitor->cpu.cr2 = at;
            lab_inject(monitor, VECTOR_PF, true, error_code);
        }
        if (reached != REACH_DONE)
            return false;
    }
    return true;
}

size_t lab_fetch(Monitor *monitor, uint8_t *bytes)
{
    gva_t address = monitor->trap->rip;
    size_t got = 0;
    ShadowMode mode = lab_mode(monitor);
    while (got < INSTRUCTION_MAX) {
        uint32_t now = in_page(address + got, (uint32_t)(INSTRUCTION_MAX - got));
        ShadowFault fault = {0};
        Error error = {0};
        if (shadow_translate(monitor->shadow, &mode, address + got, PF_FETCH, &fault, &error) != SHADOW_FILLED ||
            guest_memory_read(monitor->board->memory, fault.gpa, bytes + got, now) < 0)
            break;
        got += now;
    }
    return got;
}

/* ---- delivery ---- */

typedef struct Event {
    uint8_t vector;
    bool has_error, software, external;
    uint32_t error;
    uint64_t rip; /* to push */
} Event;

/* Why an event could not be delivered: another exception. */
typedef struct Refusal {
    uint8_t vector;
    uint32_t error;
} Refusal;

static bool quiet(Monitor *monitor, gva_t address, void *data, uint32_t size, uint32_t access, Refusal *refusal)
{
    gva_t at = address;
    uint32_t error_code = 0;
    if (!canonical_range(address, size)) {
        *refusal = (Refusal){VECTOR_GP, 0};
        return false;
    }
    enum Reach reached = transfer(monitor, address, data, size, access, true, &at, &error_code);
    if (reached == REACH_FAULT) {
        *refusal = (Refusal){VECTOR_PF, error_code};
        monitor->cpu.cr2 = at;
    }
    return reached == REACH_DONE;
}

static bool stack_for(Monitor *monitor, uint8_t ist, bool inner, uint64_t *rsp, Refusal *refusal)
{
    const VirtualCpu *cpu = &monitor->cpu;
    *rsp = monitor->trap->gpr[REG_RSP];
    if (ist || inner) {
        uint32_t offset = ist ? 28 + 8u * ist : 4; /* SDM 3A figure 8-11 */
        if (offset + 7 > cpu->tr.limit) {
            *refusal = (Refusal){VECTOR_TS, cpu->tr.selector & 0xfffcu};
            return false;
        }
        if (!quiet(monitor, cpu->tr.base + offset, rsp, 8, 0, refusal))
            return false;
    }
    *rsp &= ~15ull;
    return true;
}

typedef struct Gate {
    uint8_t type, ist;
    uint8_t ring; /* that its code runs in */
    uint16_t selector;
    uint64_t offset;
} Gate;

static uint32_t external_bit(const Event *event) { return event->software ? 0 : ERROR_EXT; }

static bool read_gate(Monitor *monitor, const Event *event, Gate *gate, Refusal *refusal)
{
    const VirtualCpu *cpu = &monitor->cpu;
    uint64_t words[2];
    uint32_t error = event->vector * 8u | ERROR_IDT | external_bit(event);
    if (event->vector * 16u + 15 > cpu->idtr.limit) {
        *refusal = (Refusal){VECTOR_GP, error};
        return false;
    }
    if (!quiet(monitor, cpu->idtr.base + event->vector * 16u, words, sizeof words, 0, refusal))
        return false;
    *gate = (Gate){.type = words[0] >> 40 & 0x1f,
                   .ist = words[0] >> 32 & 7,
                   .selector = (uint16_t)(words[0] >> 16),
                   .offset = (words[0] & 0xffff) | (words[0] >> 32 & 0xffff0000) | words[1] << 32};
    if ((gate->type != 0xe && gate->type != 0xf) || (event->software && (words[0] >> 45 & 3) < cpu->cpl)) {
        *refusal = (Refusal){VECTOR_GP, error};
        return false;
    }
    if (!(words[0] >> 47 & 1)) {
        *refusal = (Refusal){VECTOR_NP, error};
        return false;
    }
    return true;
}

/* The gate's code segment: 64-bit code of this ring or an inner one. */
static bool enter_segment(Monitor *monitor, const Event *event, Gate *gate, Refusal *refusal)
{
    const VirtualCpu *cpu = &monitor->cpu;
    bool local = gate->selector & 4;
    uint64_t descriptor, base = local ? cpu->ldtr.base : cpu->gdtr.base;
    uint32_t limit = local ? (cpu->ldtr.selector & ~3 ? cpu->ldtr.limit : 0) : cpu->gdtr.limit;
    uint32_t ext = external_bit(event), error = (gate->selector & 0xfffcu) | ext;
    if (!(gate->selector & ~3) || (gate->selector | 7u) > limit) {
        *refusal = (Refusal){VECTOR_GP, error};
        return false;
    }
    if (!quiet(monitor, base + (gate->selector & ~7u), &descriptor, 8, 0, refusal))
        return false;
    uint8_t dpl = descriptor >> 45 & 3;
    bool conforming = descriptor >> 42 & 1;
    gate->ring = conforming ? cpu->cpl : dpl;
    if ((descriptor >> 43 & 3) != 3 || dpl > cpu->cpl || (descriptor >> 53 & 3) != 1) {
        *refusal = (Refusal){VECTOR_GP, error};
        return false;
    }
    if (!(descriptor >> 47 & 1)) {
        *refusal = (Refusal){VECTOR_NP, error};
        return false;
    }
    if (!lab_canonical(gate->offset)) {
        *refusal = (Refusal){VECTOR_GP, ext};
        return false;
    }
    return true;
}

/* Its frame has RF set (SDM 3B §17.3.1.1): none of #DB, #BP, #OF, #DF, #MC. */
static bool is_fault(const Event *event)
{
    uint8_t vector = event->vector;
    return !event->software && !event->external && vector != 1 && vector != 3 && vector != 4 && vector != 8 &&
           vector != 18;
}

/* Through the gate: SDM 3A §6.14. False: `refusal` says which exception that is, or the guest has ended. */
static bool deliver(Monitor *monitor, const Event *event, Refusal *refusal)
{
    VirtualCpu *cpu = &monitor->cpu;
    Gate gate;
    uint64_t rsp, flags = lab_rflags(monitor), resume = is_fault(event) ? RFLAGS_RF : 0;
    if (!read_gate(monitor, event, &gate, refusal) || !enter_segment(monitor, event, &gate, refusal) ||
        !stack_for(monitor, gate.ist, gate.ring < cpu->cpl, &rsp, refusal))
        return false;
    uint64_t pushed[6] = {
        event->error,         event->rip, cpu->selector[SEG_CS], flags | resume, monitor->trap->gpr[REG_RSP],
        cpu->selector[SEG_SS]};
    uint32_t first = event->has_error ? 0 : 1, size = 8 * (6 - first);
    if (!canonical_range(rsp - size, size)) {
        *refusal = (Refusal){VECTOR_SS, external_bit(event)};
        return false;
    }
    if (!quiet(monitor, rsp - size, &pushed[first], size, PF_WRITE, refusal))
        return false;
    if (gate.ring < cpu->cpl)
        cpu->selector[SEG_SS] = gate.ring, cpu->dpl[SEG_SS] = gate.ring; /* null, RPL = CPL: SDM 3A §6.14.2 */
    cpu->selector[SEG_CS] = (gate.selector & ~3u) | gate.ring;
    monitor->trap->gpr[REG_RSP] = rsp - size;
    monitor->trap->rip = gate.offset;
    lab_set_rflags(
        monitor, flags & ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | (gate.type == 0xe ? RFLAGS_IF : 0)), true);
    cpu->shadow = 0;
    cpu->halted = 0;
    lab_set_ring(monitor, gate.ring);
    return true;
}

static bool contributory(uint8_t vector) { return vector == 0 || (vector >= 10 && vector <= 13); }

/* An event, and what its delivery raises, to #DF and the triple fault (SDM 3A table 6-5). */
static void deliver_or_fault(Monitor *monitor, Event event)
{
    for (;;) {
        Refusal refusal = {0};
        uint8_t before = event.external || event.software ? 0xff : event.vector;
        if (deliver(monitor, &event, &refusal) || monitor->end.ended)
            return;
        if (before == VECTOR_DF) {
            lab_end(monitor,
                    "triple fault: the guest's double fault handler cannot be reached (vector %u, error %#x)",
                    refusal.vector, refusal.error);
            return;
        }
        bool twice = (contributory(before) && contributory(refusal.vector)) ||
                     (before == VECTOR_PF && (contributory(refusal.vector) || refusal.vector == VECTOR_PF));
        event = (Event){.vector = twice ? VECTOR_DF : refusal.vector,
                        .has_error = true,
                        .error = twice ? 0 : refusal.error,
                        .rip = monitor->trap->rip};
        monitor->counters.injected_exceptions++;
    }
}

void lab_inject(Monitor *monitor, uint8_t vector, bool has_error, uint32_t error)
{
    monitor->counters.injected_exceptions++;
    if (monitor->technique->deliver &&
        monitor->technique->deliver(monitor, vector, has_error, error, false, monitor->trap->rip))
        return;
    deliver_or_fault(monitor, (Event){.vector = vector,
                                      .has_error = has_error,
                                      .error = error,
                                      .software = vector == 3 || vector == 4,
                                      .rip = monitor->trap->rip});
}

bool lab_undefined(Monitor *monitor)
{
    lab_inject(monitor, VECTOR_UD, false, 0);
    return true;
}

void lab_inject_gp(Monitor *monitor, uint32_t error) { lab_inject(monitor, VECTOR_GP, true, error); }

void lab_software_interrupt(Monitor *monitor, uint8_t vector, uint64_t next_rip)
{
    if (monitor->technique->deliver && monitor->technique->deliver(monitor, vector, false, 0, true, next_rip))
        return;
    deliver_or_fault(monitor, (Event){.vector = vector, .software = true, .rip = next_rip});
}

void lab_deliver_interrupt(Monitor *monitor)
{
    uint8_t vector = monitor->pending[--monitor->pending_count];
    monitor->counters.injected_interrupts++;
    deliver_or_fault(monitor, (Event){.vector = vector, .external = true, .rip = monitor->trap->rip});
}
