/*
 * One instruction that an engine refuses, executed by another engine's vCPU over the same board (engine.h,
 * vcpu_set_fallback): the state goes over, the fallback takes one step, and the state comes back.
 *
 * The fallback delivers the instruction's own exceptions and software interrupts, and its port and memory accesses
 * go to the same buses; interrupts of the board are left to the engine that has it. A repeated string instruction
 * is one iteration at a time. TSC and paravirtual clock stay those of the engine that asked.
 *
 * Left out: what the fallback does not keep of the FPU (the last instruction's addresses) stays as it was.
 */
#include <stdlib.h>

#include "engine/engine.h"

enum {
    FXSAVE_LAST = 6, /* FOP, FIP, FDP: bytes 6..23 (SDM vol. 1 table 10-2) */
    FXSAVE_LAST_SIZE = 18,
    FXSAVE_MXCSR_MASK = 28,
    FXSAVE_SIZE = 512,
};

typedef struct HandOver {
    Vcpu *fallback;
    HandOverCounters counters;
    CpuState before, after;
} HandOver;

int vcpu_set_fallback(Vcpu *vcpu, Vcpu *fallback)
{
    if (__atomic_load_n(&vcpu->runner, __ATOMIC_ACQUIRE))
        return -EBUSY;
    if (fallback && (fallback == vcpu || fallback->vm->board != vcpu->vm->board))
        return -EINVAL;
    if (!vcpu->hand_over && !(vcpu->hand_over = calloc(1, sizeof *vcpu->hand_over)))
        return -ENOMEM;
    vcpu->hand_over->fallback = fallback;
    return 0;
}

bool vcpu_has_fallback(const Vcpu *vcpu) { return vcpu->hand_over && vcpu->hand_over->fallback; }

void vcpu_hand_over_counters(const Vcpu *vcpu, HandOverCounters *counters)
{
    *counters = vcpu->hand_over ? vcpu->hand_over->counters : (HandOverCounters){0};
}

void vcpu_carry_hand_over(const Vcpu *from, Vcpu *to)
{
    if (!from->hand_over || (!to->hand_over && !(to->hand_over = calloc(1, sizeof *to->hand_over))))
        return;
    to->hand_over->counters = from->hand_over->counters;
}

/*
 * What names an instruction: its mandatory prefix, opcode, and ModRM where that is part of the opcode (SDM vol. 2A
 * §2.1). Operand and address sizes, segments and REX do not matter.
 */
static uint32_t opcode_of(const uint8_t *bytes, uint32_t size, bool long_mode)
{
    uint32_t at = 0, prefix = 0;
    for (; at < size; at++) {
        uint8_t b = bytes[at];
        if (b == 0x66 || b == 0xf2 || b == 0xf3)
            prefix = b;
        else if (!(b == 0x67 || b == 0x2e || b == 0x36 || b == 0x3e || b == 0x26 || b == 0x64 || b == 0x65 ||
                   b == 0xf0 || (long_mode && b >= 0x40 && b <= 0x4f)))
            break;
    }
    uint32_t opcode = at < size ? bytes[at] : 0;
    uint32_t length = 1;
    if (opcode == 0x0f && at + 1 < size) {
        length = bytes[at + 1] == 0x38 || bytes[at + 1] == 0x3a || bytes[at + 1] == 0x01 || bytes[at + 1] == 0xae ||
                         bytes[at + 1] == 0xc7
                     ? 3
                     : 2;
    } else if (opcode >= 0xd8 && opcode <= 0xdf) {
        length = 2;
        prefix = 0;
    } else if (long_mode && (opcode == 0xc5 || opcode == 0xc4 || opcode == 0x62)) {
        length = 4;
    } else {
        prefix = 0;
    }
    for (uint32_t i = 1; i < length; i++)
        opcode = opcode << 8 | (at + i < size ? bytes[at + i] : 0);
    return length < 4 ? prefix << 24 | opcode : opcode;
}

static void count(HandOver *hand_over, const uint8_t *bytes, uint32_t size, bool long_mode)
{
    HandOverCounters *counters = &hand_over->counters;
    uint32_t opcode = opcode_of(bytes, size, long_mode);
    counters->total++;
    for (uint32_t i = 0; i < HAND_OVER_KINDS; i++) {
        HandOverKind *kind = &counters->kinds[i];
        if (!kind->count) {
            kind->opcode = opcode;
            kind->size = MIN(size, (uint32_t)sizeof kind->instruction);
            memcpy(kind->instruction, bytes, kind->size);
        }
        if (kind->opcode == opcode) {
            kind->count++;
            return;
        }
    }
}

/* What runs on by itself, and what the fallback does not keep, is the asking engine's. */
static void keep(HandOver *hand_over)
{
    CpuState *after = &hand_over->after;
    const CpuState *before = &hand_over->before;
    after->tsc = before->tsc;
    after->kvm_clock = before->kvm_clock;
    after->clock_ns = before->clock_ns;
    memcpy(after->xsave + FXSAVE_LAST, before->xsave + FXSAVE_LAST, FXSAVE_LAST_SIZE);
    memcpy(after->xsave + FXSAVE_MXCSR_MASK, before->xsave + FXSAVE_MXCSR_MASK, 4);
    if (!memcmp(after->xsave, before->xsave, FXSAVE_SIZE))
        memcpy(after->xsave, before->xsave, sizeof after->xsave);
}

static void add_counters(ExitCounters *to, const ExitCounters *from)
{
    for (size_t i = 0; i < ARRAY_SIZE(to->exits); i++)
        to->exits[i] += from->exits[i];
}

int vcpu_hand_over(Vcpu *vcpu, const uint8_t *instruction, uint32_t size, VmExit *exit)
{
    HandOver *hand_over = vcpu->hand_over;
    Vcpu *fallback = hand_over->fallback;
    const EngineOps *ours = vcpu->vm->ops, *theirs = fallback->vm->ops;
    int result = ours->vcpu_get_state(vcpu, &hand_over->before);
    if (result == 0)
        result = theirs->vcpu_set_state(fallback, &hand_over->before);
    if (result < 0)
        return result;
    memset(&fallback->counters, 0, sizeof fallback->counters);
    fallback->trace = vcpu->trace;
    vcpu_watch(fallback, vcpu->surface);
    result = theirs->vcpu_step(fallback, exit);
    fallback->trace = NULL;
    add_counters(&vcpu->counters, &fallback->counters);
    if (result < 0 || exit->reason == EXIT_FAIL || exit->reason == EXIT_SHUTDOWN)
        return result;
    result = theirs->vcpu_get_state(fallback, &hand_over->after);
    if (result < 0)
        return result;
    /* EXIT_NONE: it was asked to leave, before the instruction or after it. */
    if (exit->reason != EXIT_NONE || hand_over->after.rip != hand_over->before.rip)
        count(hand_over, instruction, size, hand_over->before.segment[SEG_CS].attributes >> 13 & 1);
    hand_over->after.halted = 0; /* EXIT_HLT says it */
    keep(hand_over);
    return ours->vcpu_update_state ? ours->vcpu_update_state(vcpu, &hand_over->before, &hand_over->after)
                                   : ours->vcpu_set_state(vcpu, &hand_over->after);
}
