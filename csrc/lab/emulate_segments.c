/*
 * Segments of 64-bit mode on the virtual CPU: descriptor table registers, selectors and their descriptors, far
 * transfers and IRET (Intel SDM 3A §3.4, §3.5, §5.8; vol. 2 by name). Bases and limits of CS, DS, ES and SS mean
 * nothing in this mode; what counts is who may load what, and what the guest reads back.
 *
 * Left out: the accessed bit of descriptors, call gates, compatibility mode (an explained end).
 */
#include <string.h>

#include "lab/monitor.h"

#define ACCESS_DPL(descriptor)     ((uint8_t)((descriptor) >> 45 & 3))
#define ACCESS_PRESENT(descriptor) ((descriptor) >> 47 & 1)
#define ACCESS_S(descriptor)       ((descriptor) >> 44 & 1)
#define ACCESS_TYPE(descriptor)    ((uint8_t)((descriptor) >> 40 & 15))
#define TYPE_CODE                  8
#define TYPE_CONFORMING            4
#define TYPE_RIGHT                 2 /* code: readable; data: writable */
#define TYPE_LDT                   2
#define TYPE_TSS                   9 /* not busy */
#define TYPE_CALL_GATE             12
#define TYPE_BUSY                  (2ull << 40)
#define CODE_LONG                  (1ull << 53)

#define VECTOR_NP 11
#define VECTOR_SS 12

static bool count(Monitor *monitor, enum LabMnemonic mnemonic)
{
    monitor->counters.emulated[mnemonic]++;
    return true;
}

static gva_t operand(const Monitor *monitor, const Instruction *in)
{
    return instruction_address(in, monitor->trap->gpr, monitor->trap->rip, monitor->cpu.fs_base,
                               monitor->cpu.gs_base);
}

static void refuse(Monitor *monitor, uint16_t selector) { lab_inject_gp(monitor, selector & 0xfffcu); }

/* The 16-bit r/m operand. False: an exception was delivered. */
static bool read_word(Monitor *monitor, const Instruction *in, uint16_t *value)
{
    if (in->mod == 3) {
        *value = (uint16_t)monitor->trap->gpr[in->rm];
        return true;
    }
    return lab_read(monitor, operand(monitor, in), value, 2, lab_operand_by(in));
}

/* To a register by operand size (zero-extended), to memory 16 bits. */
static bool write_word(Monitor *monitor, const Instruction *in, uint16_t value)
{
    if (in->mod != 3)
        return lab_write(monitor, operand(monitor, in), &value, 2, lab_operand_by(in));
    uint64_t *gpr = &monitor->trap->gpr[in->rm];
    *gpr = in->operand_size == 2 ? (*gpr & ~0xffffull) | value : value;
    return true;
}

enum Found { FOUND, FOUND_NOT, FOUND_FAULT };

/* The descriptor's first 8 bytes; `upper` too when it is a system one of 16. FOUND_NOT: null or beyond the limit.
 */
static enum Found descriptor_of(Monitor *monitor, uint16_t selector, uint64_t *descriptor, uint64_t *upper)
{
    const VirtualCpu *cpu = &monitor->cpu;
    bool local = selector & 4;
    uint64_t base = local ? cpu->ldtr.base : cpu->gdtr.base;
    uint32_t limit = local ? (cpu->ldtr.selector & ~3 ? cpu->ldtr.limit : 0) : cpu->gdtr.limit;
    if (!(selector & ~3) || (selector | 7u) + (upper ? 8 : 0) > limit)
        return FOUND_NOT;
    if (!lab_read(monitor, base + (selector & ~7u), descriptor, 8, LAB_BY_SYSTEM))
        return FOUND_FAULT;
    if (upper && !lab_read(monitor, base + (selector & ~7u) + 8, upper, 8, LAB_BY_SYSTEM))
        return FOUND_FAULT;
    return FOUND;
}

/* ---- tables ---- */

static bool table_register(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint8_t which = in->reg & 7, bytes[10];
    DescriptorTable *table = which & 1 ? &cpu->idtr : &cpu->gdtr;
    if (in->mod == 3) /* VMCALL, MONITOR, CLAC, XGETBV and so on: a program's exception is the real one */
        return !cpu->cpl && lab_undefined(monitor);
    if (which < 2) { /* SGDT, SIDT */
        count(monitor, which ? LAB_M_SIDT : LAB_M_SGDT);
        memcpy(bytes, &table->limit, 2);
        memcpy(bytes + 2, &table->base, 8);
        if (!lab_write(monitor, operand(monitor, in), bytes, sizeof bytes, lab_operand_by(in)))
            return true;
    } else {
        if (cpu->cpl) {
            refuse(monitor, 0);
            return true;
        }
        count(monitor, which == 3 ? LAB_M_LIDT : LAB_M_LGDT);
        if (!lab_read(monitor, operand(monitor, in), bytes, sizeof bytes, lab_operand_by(in)))
            return true;
        uint64_t base;
        memcpy(&base, bytes + 2, 8);
        if (!lab_canonical(base)) {
            refuse(monitor, 0);
            return true;
        }
        table->base = base;
        memcpy(&table->limit, bytes, 2);
    }
    monitor->trap->rip = next;
    return true;
}

static void load_system(Monitor *monitor, const Instruction *in, bool task, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint16_t selector;
    uint64_t low, high;
    if (cpu->cpl) {
        refuse(monitor, 0);
        return;
    }
    if (!read_word(monitor, in, &selector))
        return;
    count(monitor, task ? LAB_M_LTR : LAB_M_LLDT);
    if (!task && !(selector & ~3)) {
        cpu->ldtr = (VirtualSegment){selector, 0, 0};
        monitor->trap->rip = next;
        return;
    }
    enum Found found = selector & 4 ? FOUND_NOT : descriptor_of(monitor, selector, &low, &high);
    if (found == FOUND_FAULT)
        return;
    bool right = found == FOUND && !ACCESS_S(low) && ACCESS_TYPE(low) == (task ? TYPE_TSS : TYPE_LDT);
    if (!right) {
        refuse(monitor, selector);
        return;
    }
    if (!ACCESS_PRESENT(low)) {
        lab_inject(monitor, VECTOR_NP, true, selector & 0xfffcu);
        return;
    }
    uint32_t limit = (uint32_t)((low & 0xffff) | (low >> 32 & 0xf0000));
    VirtualSegment loaded = {selector, (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000) | high << 32,
                             low >> 55 & 1 ? limit << 12 | 0xfff : limit};
    if (!lab_canonical(loaded.base)) {
        refuse(monitor, selector);
        return;
    }
    low |= TYPE_BUSY;
    if (task && !lab_write(monitor, cpu->gdtr.base + (selector & ~7u), &low, 8, LAB_BY_SYSTEM))
        return;
    *(task ? &cpu->tr : &cpu->ldtr) = loaded;
    monitor->trap->rip = next;
}

/* ---- what a selector is worth (LAR, LSL, VERR, VERW) ---- */

static void set_zf(Monitor *monitor, bool on)
{
    monitor->trap->rflags = (monitor->trap->rflags & ~0x40ull) | (on ? 0x40 : 0);
}

static bool visible(const Monitor *monitor, uint16_t selector, uint64_t descriptor)
{
    uint8_t dpl = ACCESS_DPL(descriptor), type = ACCESS_TYPE(descriptor);
    if (ACCESS_S(descriptor) && (type & TYPE_CODE) && (type & TYPE_CONFORMING))
        return true;
    return dpl >= monitor->cpu.cpl && dpl >= (selector & 3);
}

static void examine(Monitor *monitor, const Instruction *in, enum LabMnemonic mnemonic, uint64_t next)
{
    uint16_t selector;
    uint64_t descriptor = 0;
    if (!read_word(monitor, in, &selector))
        return;
    enum Found found = descriptor_of(monitor, selector, &descriptor, NULL);
    if (found == FOUND_FAULT)
        return;
    count(monitor, mnemonic);
    uint8_t type = ACCESS_TYPE(descriptor);
    bool segment = ACCESS_S(descriptor), ok = found == FOUND && visible(monitor, selector, descriptor);
    if (mnemonic == LAB_M_VERR)
        ok = ok && segment && (!(type & TYPE_CODE) || (type & TYPE_RIGHT));
    else if (mnemonic == LAB_M_VERW)
        ok = ok && segment && !(type & TYPE_CODE) && (type & TYPE_RIGHT);
    else /* of system descriptors: LDT, TSS, and for LAR call gates (2A LAR, table 3-51) */
        ok = ok && (segment || type == 2 || type == 9 || type == 11 || (mnemonic == LAB_M_LAR && type == 12));
    if (ok && (mnemonic == LAB_M_LAR || mnemonic == LAB_M_LSL)) {
        uint32_t limit = (uint32_t)((descriptor & 0xffff) | (descriptor >> 32 & 0xf0000));
        uint32_t value = mnemonic == LAB_M_LAR  ? (uint32_t)(descriptor >> 32) & 0xffff00
                         : descriptor >> 55 & 1 ? limit << 12 | 0xfff
                                                : limit;
        uint64_t *gpr = &monitor->trap->gpr[in->reg];
        *gpr = in->operand_size == 2 ? (*gpr & ~0xffffull) | (value & 0xffff) : value;
    }
    set_zf(monitor, ok);
    monitor->trap->rip = next;
}

/* ---- segment registers ---- */

/* MOV, POP, LSS and so on: 2B MOV, "Operation". False: an exception was delivered. */
static bool load_segment(Monitor *monitor, uint8_t segment, uint16_t selector)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t descriptor;
    uint8_t rpl = selector & 3, privilege = 3;
    if (!(selector & ~3)) {
        if (segment == SEG_SS && (cpu->cpl == 3 || rpl != cpu->cpl)) {
            refuse(monitor, 0);
            return false;
        }
    } else {
        enum Found found = descriptor_of(monitor, selector, &descriptor, NULL);
        if (found == FOUND_FAULT)
            return false;
        uint8_t type = found == FOUND ? ACCESS_TYPE(descriptor) : 0,
                dpl = found == FOUND ? ACCESS_DPL(descriptor) : 0;
        bool code = type & TYPE_CODE, ok = found == FOUND && ACCESS_S(descriptor);
        if (segment == SEG_SS)
            ok = ok && !code && (type & TYPE_RIGHT) && dpl == cpu->cpl && rpl == cpu->cpl;
        else
            ok = ok && (!code || (type & TYPE_RIGHT)) &&
                 ((code && (type & TYPE_CONFORMING)) || (dpl >= cpu->cpl && dpl >= rpl));
        if (!ok) {
            refuse(monitor, selector);
            return false;
        }
        if (!ACCESS_PRESENT(descriptor)) {
            lab_inject(monitor, segment == SEG_SS ? VECTOR_SS : VECTOR_NP, true, selector & 0xfffcu);
            return false;
        }
        privilege = code && (type & TYPE_CONFORMING) ? 3 : dpl;
        if (segment == SEG_FS || segment == SEG_GS) {
            uint64_t base = (descriptor >> 16 & 0xffffff) | (descriptor >> 32 & 0xff000000);
            *(segment == SEG_FS ? &cpu->fs_base : &cpu->gs_base) = base;
        }
    }
    if (segment == SEG_FS || segment == SEG_GS) {
        if (!(selector & ~3)) /* as Intel's processors do */
            *(segment == SEG_FS ? &cpu->fs_base : &cpu->gs_base) = 0;
        monitor->frame->fs_base = cpu->fs_base;
        monitor->frame->gs_base = cpu->gs_base;
        monitor->frame->action |= LAB_LOAD_FS | LAB_LOAD_GS;
    }
    cpu->selector[segment] = selector;
    cpu->dpl[segment] = privilege;
    return true;
}

static bool move_segment(Monitor *monitor, const Instruction *in, uint64_t next)
{
    uint16_t selector;
    if ((in->reg & 7) > SEG_GS)
        return lab_undefined(monitor);
    if (in->opcode == 0x8c) { /* translated code's */
        count(monitor, LAB_M_MOV_FROM_SEG);
        if (!write_word(monitor, in, monitor->cpu.selector[in->reg & 7]))
            return true;
    } else {
        if ((in->reg & 7) == SEG_CS)
            return lab_undefined(monitor);
        if (!read_word(monitor, in, &selector))
            return true;
        count(monitor, LAB_M_MOV_TO_SEG);
        if (!load_segment(monitor, in->reg & 7, selector))
            return true;
        if ((in->reg & 7) == SEG_SS)
            lab_shadow(monitor, next);
    }
    monitor->trap->rip = next;
    return true;
}

/* PUSH and POP of FS and GS: the only ones that 64-bit mode has. */
static void stack_segment(Monitor *monitor, const Instruction *in, uint8_t segment, bool pop, uint64_t next)
{
    uint64_t *rsp = &monitor->trap->gpr[REG_RSP], value = monitor->cpu.selector[segment];
    uint8_t size = in->operand_size == 2 ? 2 : 8;
    count(monitor, pop ? LAB_M_POP_SEG : LAB_M_PUSH_SEG);
    if (pop) {
        if (!lab_read(monitor, *rsp, &value, size, LAB_BY_STACK) ||
            !load_segment(monitor, segment, (uint16_t)value))
            return;
        *rsp += size;
    } else {
        if (!lab_write(monitor, *rsp - size, &value, size, LAB_BY_STACK))
            return;
        *rsp -= size;
    }
    monitor->trap->rip = next;
}

/* LSS, LFS, LGS: offset, then selector. */
static void load_pointer(Monitor *monitor, const Instruction *in, uint8_t segment, uint64_t next)
{
    uint8_t bytes[10];
    uint64_t offset = 0;
    uint16_t selector;
    if (!lab_read(monitor, operand(monitor, in), bytes, in->operand_size + 2u, lab_operand_by(in)))
        return;
    memcpy(&offset, bytes, in->operand_size);
    memcpy(&selector, bytes + in->operand_size, 2);
    count(monitor, LAB_M_LFS);
    if (!load_segment(monitor, segment, selector))
        return;
    uint64_t *gpr = &monitor->trap->gpr[in->reg];
    *gpr = in->operand_size == 2 ? (*gpr & ~0xffffull) | offset : offset;
    monitor->trap->rip = next;
}

/* ---- far transfers ---- */

/* Whether CS may become this at ring `cpl`, for a transfer that stays in its ring or (`outward`) goes to RPL. */
static bool code_segment(Monitor *monitor, uint16_t selector, bool outward)
{
    uint64_t descriptor;
    uint8_t rpl = selector & 3, cpl = monitor->cpu.cpl;
    enum Found found = descriptor_of(monitor, selector, &descriptor, NULL);
    if (found == FOUND_FAULT)
        return false;
    bool ok = found == FOUND && ACCESS_S(descriptor) && (ACCESS_TYPE(descriptor) & TYPE_CODE);
    if (found == FOUND && !outward && !ACCESS_S(descriptor) && ACCESS_TYPE(descriptor) == TYPE_CALL_GATE) {
        lab_end(monitor, "a far transfer through the call gate %#x: this monitor has none", selector);
        return false;
    }
    if (ok) {
        bool conforming = ACCESS_TYPE(descriptor) & TYPE_CONFORMING;
        uint8_t dpl = ACCESS_DPL(descriptor);
        if (outward)
            ok = rpl >= cpl && (conforming ? dpl <= rpl : dpl == rpl);
        else
            ok = conforming ? dpl <= cpl : dpl == cpl && rpl <= cpl;
    }
    if (!ok) {
        refuse(monitor, selector);
        return false;
    }
    if (!ACCESS_PRESENT(descriptor)) {
        lab_inject(monitor, VECTOR_NP, true, selector & 0xfffcu);
        return false;
    }
    if (!(descriptor & CODE_LONG)) {
        lab_end(monitor,
                "a far transfer to selector %#x, a code segment of another mode: this monitor has 64-bit mode "
                "only",
                selector);
        return false;
    }
    return true;
}

static void set_outer_stack(Monitor *monitor, uint64_t rsp, uint16_t ss)
{
    monitor->trap->gpr[REG_RSP] = rsp;
    monitor->cpu.selector[SEG_SS] = ss;
    monitor->cpu.dpl[SEG_SS] = ss & 3;
}

/* IRET or RET to an outer ring takes away the data segments that it may not use (2A IRET, "Operation"). */
static void set_outer_ring(Monitor *monitor, uint8_t ring)
{
    VirtualCpu *cpu = &monitor->cpu;
    static const uint8_t DATA[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; ring > cpu->cpl && i < ARRAY_SIZE(DATA); i++)
        if (cpu->dpl[DATA[i]] < ring && cpu->selector[DATA[i]] & ~3)
            cpu->selector[DATA[i]] = 0, cpu->dpl[DATA[i]] = 3;
    lab_set_ring(monitor, ring);
}

static bool outer_stack_segment(Monitor *monitor, uint16_t ss, uint8_t ring)
{
    uint64_t descriptor;
    if (!(ss & ~3)) {
        if (ring == 3 || (ss & 3) != ring) {
            refuse(monitor, 0);
            return false;
        }
        return true;
    }
    enum Found found = descriptor_of(monitor, ss, &descriptor, NULL);
    if (found == FOUND_FAULT)
        return false;
    if (found == FOUND_NOT || !ACCESS_S(descriptor) || (ACCESS_TYPE(descriptor) & TYPE_CODE) ||
        !(ACCESS_TYPE(descriptor) & TYPE_RIGHT) || ACCESS_DPL(descriptor) != ring || (ss & 3) != ring) {
        refuse(monitor, ss);
        return false;
    }
    if (!ACCESS_PRESENT(descriptor)) {
        lab_inject(monitor, VECTOR_SS, true, ss & 0xfffcu);
        return false;
    }
    return true;
}

static void iret(Monitor *monitor, const Instruction *in)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t frame[5] = {0}, old = lab_rflags(monitor);
    uint8_t bytes[sizeof frame], size = in->operand_size;
    if (old & RFLAGS_NT) {
        refuse(monitor, 0);
        return;
    }
    if (!lab_read(monitor, monitor->trap->gpr[REG_RSP], bytes, 5u * size, LAB_BY_STACK))
        return;
    for (unsigned i = 0; i < 5; i++)
        memcpy(&frame[i], bytes + i * size, size);
    if (size == 2)
        frame[2] |= old & ~0xffffull;
    uint16_t cs = (uint16_t)frame[1], ss = (uint16_t)frame[4];
    count(monitor, LAB_M_IRET);
    if (!code_segment(monitor, cs, true) || !outer_stack_segment(monitor, ss, cs & 3))
        return;
    if (!lab_canonical(frame[0])) {
        refuse(monitor, 0);
        return;
    }
    uint64_t kept = cpu->cpl ? RFLAGS_IOPL : 0; /* of the old ring: 2A IRET */
    if (cpu->cpl > cpu->iopl)
        kept |= RFLAGS_IF;
    monitor->trap->rip = frame[0];
    cpu->selector[SEG_CS] = cs;
    set_outer_stack(monitor, frame[3], ss);
    lab_set_rflags(monitor, (frame[2] & ~kept) | (old & kept), true);
    set_outer_ring(monitor, cs & 3);
}

static void far_return(Monitor *monitor, const Instruction *in)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t values[4] = {0};
    uint8_t size = in->operand_size;
    uint64_t rsp = monitor->trap->gpr[REG_RSP], drop = in->opcode == 0xca ? (uint16_t)in->imm : 0;
    for (unsigned i = 0; i < 2; i++)
        if (!lab_read(monitor, rsp + i * size, &values[i], size, LAB_BY_STACK))
            return;
    uint16_t cs = (uint16_t)values[1];
    uint8_t ring = cs & 3;
    for (unsigned i = 2; ring > cpu->cpl && i < 4; i++)
        if (!lab_read(monitor, rsp + drop + i * size, &values[i], size, LAB_BY_STACK))
            return;
    count(monitor, LAB_M_RETF);
    if (!code_segment(monitor, cs, true) ||
        (ring > cpu->cpl && !outer_stack_segment(monitor, (uint16_t)values[3], ring)))
        return;
    if (!lab_canonical(values[0])) {
        refuse(monitor, 0);
        return;
    }
    monitor->trap->gpr[REG_RSP] = rsp + 2u * size + drop;
    if (ring > cpu->cpl)
        set_outer_stack(monitor, values[2] + drop, (uint16_t)values[3]);
    cpu->selector[SEG_CS] = cs;
    monitor->trap->rip = values[0];
    set_outer_ring(monitor, ring);
}

/* FF /3 and /5, m16:16, :32 or :64. */
static void far_jump(Monitor *monitor, const Instruction *in, bool call, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint8_t bytes[10], size = in->operand_size;
    uint64_t offset = 0, rsp = monitor->trap->gpr[REG_RSP];
    uint16_t selector;
    if (!lab_read(monitor, operand(monitor, in), bytes, size + 2u, lab_operand_by(in)))
        return;
    memcpy(&offset, bytes, size);
    memcpy(&selector, bytes + size, 2);
    count(monitor, call ? LAB_M_CALLF : LAB_M_JMPF);
    if (!code_segment(monitor, selector, false))
        return;
    if (!lab_canonical(offset)) {
        refuse(monitor, 0);
        return;
    }
    if (call) {
        uint64_t pushed[2] = {next, cpu->selector[SEG_CS]};
        for (unsigned i = 0; i < 2; i++)
            if (!lab_write(monitor, rsp - (2 - i) * size, &pushed[i], size, LAB_BY_STACK))
                return;
        monitor->trap->gpr[REG_RSP] = rsp - 2u * size;
    }
    cpu->selector[SEG_CS] = (selector & ~3u) | cpu->cpl;
    monitor->trap->rip = offset;
}

/* ---- which ---- */

/* 0F 00: SLDT, STR, LLDT, LTR, VERR, VERW */
static bool group6(Monitor *monitor, const Instruction *in, uint64_t next)
{
    switch (in->reg & 7) {
    case 0:
    case 1:
        count(monitor, in->reg & 1 ? LAB_M_STR : LAB_M_SLDT);
        if (write_word(monitor, in, in->reg & 1 ? monitor->cpu.tr.selector : monitor->cpu.ldtr.selector))
            monitor->trap->rip = next;
        return true;
    case 2:
    case 3:
        load_system(monitor, in, in->reg & 1, next);
        return true;
    case 4:
    case 5:
        examine(monitor, in, in->reg & 1 ? LAB_M_VERW : LAB_M_VERR, next);
        return true;
    default:
        return false;
    }
}

static bool two_bytes(Monitor *monitor, const Instruction *in, uint64_t next)
{
    switch (in->opcode) {
    case 0x00:
        return group6(monitor, in, next);
    case 0x01:
        return (in->reg & 7) < 4 && table_register(monitor, in, next);
    case 0x02:
    case 0x03:
        examine(monitor, in, in->opcode == 0x02 ? LAB_M_LAR : LAB_M_LSL, next);
        return true;
    case 0xa0:
    case 0xa1:
    case 0xa8:
    case 0xa9:
        stack_segment(monitor, in, in->opcode & 8 ? SEG_GS : SEG_FS, in->opcode & 1, next);
        return true;
    case 0xb2:
    case 0xb4:
    case 0xb5:
        if (in->mod == 3)
            return false;
        load_pointer(monitor, in, in->opcode == 0xb2 ? SEG_SS : in->opcode == 0xb4 ? SEG_FS : SEG_GS, next);
        return true;
    default:
        return false;
    }
}

bool lab_emulate_segments(Monitor *monitor, const Instruction *in)
{
    uint64_t next = monitor->trap->rip + in->length;
    if (in->map == 1)
        return two_bytes(monitor, in, next);
    switch (in->map ? 0 : in->opcode) {
    case 0x8c:
    case 0x8e:
        return move_segment(monitor, in, next);
    case 0xca:
    case 0xcb:
        far_return(monitor, in);
        return true;
    case 0xcf:
        iret(monitor, in);
        return true;
    case 0xff:
        if (in->mod == 3 || ((in->reg & 7) != 3 && (in->reg & 7) != 5))
            return false;
        far_jump(monitor, in, (in->reg & 7) == 3, next);
        return true;
    default:
        return false;
    }
}
