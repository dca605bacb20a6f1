/*
 * IN, OUT, INS and OUTS of the virtual CPU, answered by the machine's devices (Intel SDM 2A IN, INS; 2B OUT, OUTS).
 * A string instruction is done in pieces, as a processor that takes interrupts between its elements does.
 */
#include <string.h>

#include "lab/monitor.h"

#define PIECE 1024 /* elements of a string instruction in one turn */

static uint64_t merge(uint64_t old, uint64_t value, uint8_t size)
{
    uint64_t mask = size == 1 ? 0xff : 0xffff;
    return size == 4 ? (uint32_t)value : (old & ~mask) | (value & mask);
}

static void one(Monitor *monitor, bool out, uint16_t port, uint8_t size)
{
    uint64_t *rax = &monitor->trap->gpr[REG_RAX], value = UINT64_MAX;
    if (out) {
        bus_write(monitor->board->pio, port, size, merge(0, *rax, size));
        return;
    }
    bus_read(monitor->board->pio, port, size, &value);
    *rax = merge(*rax, value, size);
}

/* Returns whether all elements are done. */
static bool string(Monitor *monitor, const Instruction *in, bool out, uint16_t port, uint8_t size)
{
    uint64_t *gpr = monitor->trap->gpr, mask = in->address_size == 4 ? UINT32_MAX : UINT64_MAX;
    uint64_t *pointer = &gpr[out ? REG_RSI : REG_RDI], left = in->repeat ? gpr[REG_RCX] & mask : 1;
    uint64_t base = !out                  ? 0
                    : in->segment == 0x64 ? monitor->cpu.fs_base
                    : in->segment == 0x65 ? monitor->cpu.gs_base
                                          : 0;
    int64_t step = monitor->trap->rflags & RFLAGS_DF ? -(int64_t)size : size;
    for (unsigned done = 0; left && done < PIECE; done++, left--) {
        uint64_t value = UINT64_MAX;
        gva_t address = base + (*pointer & mask);
        if (out) {
            value = 0;
            if (!lab_read(monitor, address, &value, size, LAB_BY_RING))
                return false;
            bus_write(monitor->board->pio, port, size, value);
        } else {
            if (!lab_probe(monitor, address, size, LAB_WRITE,
                           LAB_BY_RING)) /* before the device's register is read */
                return false;
            bus_read(monitor->board->pio, port, size, &value);
            if (!lab_write(monitor, address, &value, size, LAB_BY_RING))
                return false;
        }
        *pointer = (*pointer & ~mask) | ((*pointer + (uint64_t)step) & mask);
        if (mask == UINT32_MAX)
            *pointer &= mask;
        if (in->repeat)
            gpr[REG_RCX] = left - 1;
    }
    return left == 0;
}

/* In the TSS (SDM vol. 1 §19.5.2): 1 allowed, 0 not, -1 an exception was delivered. */
static int allowed_by_task(Monitor *monitor, uint16_t port, uint8_t size)
{
    const VirtualSegment *tr = &monitor->cpu.tr;
    uint16_t map, bits;
    if (tr->limit < 0x67)
        return 0;
    if (!lab_read(monitor, tr->base + 0x66, &map, sizeof map, LAB_BY_SYSTEM))
        return -1;
    uint32_t at = map + port / 8u;
    if (at + 1 > tr->limit)
        return 0;
    if (!lab_read(monitor, tr->base + at, &bits, sizeof bits, LAB_BY_SYSTEM))
        return -1;
    return !(bits >> port % 8 & ((1u << size) - 1));
}

bool lab_emulate_io(Monitor *monitor, const Instruction *in)
{
    uint8_t opcode = in->opcode;
    bool strings = opcode >= 0x6c && opcode <= 0x6f, immediate = opcode >= 0xe4 && opcode <= 0xe7;
    if (!strings && !immediate && !(opcode >= 0xec && opcode <= 0xef))
        return false;
    bool out = opcode & 2;
    uint8_t size = !(opcode & 1) ? 1 : in->operand_size == 2 ? 2 : 4;
    uint16_t port = immediate ? (uint8_t)in->imm : (uint16_t)monitor->trap->gpr[REG_RDX];
    if (monitor->cpu.cpl > monitor->cpu.iopl) {
        int allowed = allowed_by_task(monitor, port, size);
        if (!allowed)
            lab_inject_gp(monitor, 0);
        if (allowed <= 0)
            return true;
    }
    monitor->counters.emulated[strings ? (out ? LAB_M_OUTS : LAB_M_INS) : (out ? LAB_M_OUT : LAB_M_IN)]++;
    if (port >= LAB_PORT && port < LAB_PORT + 4) { /* the monitor's own door is not the guest's */
        if (!out)
            monitor->trap->gpr[REG_RAX] = merge(monitor->trap->gpr[REG_RAX], UINT64_MAX, size);
        monitor->trap->rip += in->length;
        return true;
    }
    if (!strings)
        one(monitor, out, port, size);
    else if (!string(monitor, in, out, port, size))
        return true; /* the rest when the guest is back here, or after its page fault */
    monitor->trap->rip += in->length;
    return true;
}
