/*
 * Plain stores into traced pages: MOV, XCHG, AND, OR, XOR, ADD, SUB, INC, DEC, BTS, BTR, BTC and CMPXCHG of 4 or 8
 * bytes, the instructions that kernels change page tables with. Any other is let through (shadow_unsync).
 */
#include <string.h>

#include "lab/monitor.h"

typedef struct Store {
    uint64_t value;
    uint64_t flags; /* status flags afterwards */
    bool known;
} Store;

#define FLAGS_STATUS 0x8d5ull

/* ZF, SF and PF of a result (SDM vol. 1 §3.4.3.1), and what an addition or subtraction adds. */
static uint64_t status(uint64_t value, uint64_t carries, bool carry, bool overflow, uint8_t size)
{
    return (carry ? 0x001 : 0) | (__builtin_parity((uint8_t)value) ? 0 : 0x004) | (carries & 0x10) |
           (value ? 0 : 0x040) | (value >> (size * 8 - 1u) & 1 ? 0x080 : 0) | (overflow ? 0x800 : 0);
}

static Store alu(unsigned operation, uint64_t old, uint64_t with, uint8_t size)
{
    Store store = {.known = true};
    uint64_t mask = size == 8 ? UINT64_MAX : UINT32_MAX, sign = mask ^ mask >> 1;
    old &= mask, with &= mask;
    switch (operation) {
    case 0:
        store.value = (old + with) & mask;
        store.flags = status(store.value, old ^ with ^ store.value, store.value < old,
                             ~(old ^ with) & (old ^ store.value) & sign, size);
        break;
    case 5:
        store.value = (old - with) & mask;
        store.flags = status(store.value, old ^ with ^ store.value, old < with,
                             (old ^ with) & (old ^ store.value) & sign, size);
        break;
    case 1:
    case 4:
    case 6:
        store.value = operation == 1 ? old | with : operation == 4 ? old & with : old ^ with;
        store.flags = status(store.value, 0, false, false, size);
        break;
    default:
        store.known = false; /* ADC, SBB; CMP does not store */
    }
    return store;
}

/* BTS, BTR, BTC with a bit number within the operand; CF is the old bit. */
static Store bit(unsigned operation, uint64_t old, uint64_t number, uint8_t size, uint64_t flags)
{
    uint64_t mask = 1ull << (number & (size * 8 - 1u));
    Store store = {.known = number < size * 8u, .flags = (flags & ~(uint64_t)RFLAGS_CF) | (old & mask ? 1 : 0)};
    store.value = operation == 5 ? old | mask : operation == 6 ? old & ~mask : old ^ mask;
    if (operation < 5)
        store.known = false;
    return store;
}

static Store one_byte(Monitor *monitor, const Instruction *in, uint64_t old, uint8_t size, uint64_t flags)
{
    uint64_t *reg = &monitor->trap->gpr[in->reg];
    if ((in->opcode & 0xc7) == 0x01) /* op r/m, r */
        return alu(in->opcode >> 3 & 7, old, *reg, size);
    switch (in->opcode) {
    case 0x81:
    case 0x83:
        return alu(in->reg & 7, old, (uint64_t)in->imm, size);
    case 0x87: { /* XCHG */
        Store store = {.value = *reg, .flags = flags, .known = true};
        *reg = old;
        return store;
    }
    case 0x89:
        return (Store){.value = *reg, .flags = flags, .known = true};
    case 0xc7:
        return (Store){.value = (uint64_t)in->imm, .flags = flags, .known = (in->reg & 7) == 0};
    case 0xff: { /* INC, DEC: CF stays */
        Store store = alu((in->reg & 7) == 0 ? 0 : 5, old, 1, size);
        store.flags = (store.flags & ~(uint64_t)RFLAGS_CF) | (flags & RFLAGS_CF);
        store.known = (in->reg & 7) < 2;
        return store;
    }
    default:
        return (Store){.known = false};
    }
}

static Store two_bytes(Monitor *monitor, const Instruction *in, uint64_t old, uint8_t size, uint64_t flags)
{
    uint64_t *gpr = monitor->trap->gpr;
    switch (in->opcode) {
    case 0xab:
    case 0xb3:
    case 0xbb:
        return bit(in->opcode >> 3 & 7, old, gpr[in->reg], size, flags);
    case 0xba:
        return bit(in->reg & 7, old, (uint64_t)in->imm, size, flags);
    case 0xb1: { /* CMPXCHG */
        uint64_t expected = size == 8 ? gpr[REG_RAX] : (uint32_t)gpr[REG_RAX];
        Store store = alu(5, expected, old, size);
        store.value = expected == old ? gpr[in->reg] : old;
        if (expected != old)
            gpr[REG_RAX] = old;
        return store;
    }
    default:
        return (Store){.known = false};
    }
}

bool lab_emulate_store(Monitor *monitor, const Instruction *in, gpa_t gpa)
{
    LabTrapFrame *trap = monitor->trap;
    uint64_t old = 0, saved[16];
    uint8_t size = in->operand_size;
    if (!in->has_modrm || in->mod == 3 || in->map > 1 || in->vex || size == 2 || in->repeat || gpa & (size - 1u) ||
        (uint32_t)(gpa & 0xfff) !=
            (instruction_address(in, trap->gpr, trap->rip, monitor->cpu.fs_base, monitor->cpu.gs_base) & 0xfff))
        return false;
    if (guest_memory_read(monitor->board->memory, gpa, &old, size) < 0)
        return false;
    memcpy(saved, trap->gpr, sizeof saved);
    Store store =
        in->map ? two_bytes(monitor, in, old, size, trap->rflags) : one_byte(monitor, in, old, size, trap->rflags);
    if (!store.known || shadow_write(monitor->shadow, gpa, &store.value, size) < 0) {
        memcpy(trap->gpr, saved, sizeof saved);
        return false;
    }
    trap->rflags = (trap->rflags & ~FLAGS_STATUS) | (store.flags & FLAGS_STATUS);
    trap->rip += in->length;
    monitor->counters.emulated[LAB_M_MOV]++;
    return true;
}
