/*
 * Privileged instructions on the virtual CPU: what trap-and-emulate emulates (Intel SDM vol. 2, each by its name).
 *
 * `lab_emulate` takes a decoded instruction at the virtual RIP in the virtual ring: it checks the ring as the
 * processor would have, does the work and moves RIP on. Control, debug and model-specific registers are in
 * emulate_registers.c, segments and far transfers in emulate_segments.c, ports in emulate_io.c.
 */
#include <string.h>

#include "lab/monitor.h"

#define CR0_PE   (1ull << 0)
#define CR0_TS   (1ull << 3)
#define EFER_SCE (1ull << 0)

const char *lab_mnemonic_name(uint32_t mnemonic)
{
#define X(name) #name,
    static const char *const names[] = {LAB_MNEMONICS(X)};
#undef X
    return mnemonic < ARRAY_SIZE(names) ? names[mnemonic] : NULL;
}

static bool count(Monitor *monitor, enum LabMnemonic mnemonic)
{
    monitor->counters.emulated[mnemonic]++;
    return true;
}

/* The guest got an exception for it. */
static bool refuse(Monitor *monitor, uint32_t error)
{
    lab_inject_gp(monitor, error);
    return true;
}

static void put_register(Monitor *monitor, uint8_t reg, uint8_t size, uint64_t value)
{
    uint64_t *gpr = &monitor->trap->gpr[reg];
    *gpr = size == 8 ? value : size == 4 ? (uint32_t)value : (*gpr & ~0xffffull) | (value & 0xffff);
}

/* ---- system calls ---- */

/* SYSCALL of a program or of the kernel (2B SYSCALL): it traps because the real EFER.SCE is clear. */
void lab_syscall(Monitor *monitor, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t flags = lab_rflags(monitor);
    if (!(cpu->efer & EFER_SCE)) {
        lab_undefined(monitor);
        return;
    }
    count(monitor, LAB_M_SYSCALL);
    if (monitor->technique->deliver && monitor->technique->deliver(monitor, 0, false, 0x100, true, next))
        return;
    monitor->trap->gpr[REG_RCX] = next;
    monitor->trap->gpr[11] = flags & ~(uint64_t)RFLAGS_RF;
    monitor->trap->rip = cpu->lstar;
    cpu->selector[SEG_CS] = cpu->star >> 32 & 0xfffc;
    cpu->selector[SEG_SS] = (uint16_t)((cpu->star >> 32 & 0xffff) + 8), cpu->dpl[SEG_SS] = 0;
    lab_set_rflags(monitor, flags & ~cpu->fmask & ~(uint64_t)RFLAGS_RF, true);
    lab_set_ring(monitor, 0);
}

static bool sysret(Monitor *monitor, const Instruction *in)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (!(cpu->efer & EFER_SCE))
        return lab_undefined(monitor);
    if (cpu->cpl || !lab_canonical(monitor->trap->gpr[REG_RCX]))
        return refuse(monitor, 0);
    count(monitor, LAB_M_SYSRET);
    if (!(in->rex & 8)) {
        lab_end(monitor, "SYSRET to compatibility mode: this monitor has 64-bit mode only");
        return true;
    }
    monitor->trap->rip = monitor->trap->gpr[REG_RCX];
    lab_set_rflags(monitor, monitor->trap->gpr[11] & ~(uint64_t)RFLAGS_RF, true);
    cpu->selector[SEG_CS] = (uint16_t)((cpu->star >> 48) + 16) | 3;
    cpu->selector[SEG_SS] = (uint16_t)((cpu->star >> 48) + 8) | 3, cpu->dpl[SEG_SS] = 3;
    lab_set_ring(monitor, 3);
    return true;
}

/* ---- flags ---- */

static bool set_interrupts(Monitor *monitor, bool on, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (cpu->cpl > cpu->iopl)
        return refuse(monitor, 0);
    count(monitor, on ? LAB_M_STI : LAB_M_CLI);
    if (on && !cpu->interrupts)
        lab_shadow(monitor, next);
    cpu->interrupts = on;
    monitor->trap->rip = next;
    return true;
}

/* Only translated code comes here: for real they do not trap (which is the point of csrc/lab). */
static bool pushf_popf(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t *rsp = &monitor->trap->gpr[REG_RSP], value = lab_rflags(monitor) & ~(uint64_t)RFLAGS_RF;
    uint8_t size = in->operand_size == 2 ? 2 : 8;
    if (in->opcode == 0x9c) {
        count(monitor, LAB_M_PUSHF);
        if (!lab_write(monitor, *rsp - size, &value, size, LAB_BY_STACK))
            return true;
        *rsp -= size;
    } else {
        count(monitor, LAB_M_POPF);
        uint64_t popped = 0, old = lab_rflags(monitor);
        if (!lab_read(monitor, *rsp, &popped, size, LAB_BY_STACK))
            return true;
        *rsp += size;
        if (size == 2)
            popped |= old & ~0xffffull;
        uint64_t kept = cpu->cpl ? RFLAGS_IOPL : 0;
        if (cpu->cpl > cpu->iopl)
            kept |= RFLAGS_IF;
        lab_set_rflags(monitor, (popped & ~kept & ~(uint64_t)RFLAGS_RF) | (old & kept), true);
    }
    monitor->trap->rip = next;
    return true;
}

static bool hlt(Monitor *monitor, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (cpu->cpl)
        return refuse(monitor, 0);
    count(monitor, LAB_M_HLT);
    if (!cpu->interrupts) {
        lab_end(monitor, "HLT with interrupts off: nothing can wake the guest");
        return true;
    }
    monitor->trap->rip = next;
    lab_wait(monitor);
    return true;
}

static bool swapgs(Monitor *monitor, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (cpu->cpl)
        return refuse(monitor, 0);
    count(monitor, LAB_M_SWAPGS);
    uint64_t base = cpu->gs_base;
    cpu->gs_base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
    monitor->frame->gs_base = cpu->gs_base;
    monitor->frame->action |= LAB_LOAD_GS;
    monitor->trap->rip = next;
    return true;
}

/* 0F 01: by ModRM. LGDT and its like are in emulate_segments.c. */
static bool group7(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (in->mod == 3 && (in->reg & 7) == 7 && (in->rm & 7) == 0)
        return swapgs(monitor, next);
    if (in->mod == 3 && (in->reg & 7) == 1 && ((in->rm & 7) == 2 || (in->rm & 7) == 3) && !cpu->cpl) {
        uint64_t *flags = &monitor->trap->rflags; /* CLAC, STAC */
        *flags = in->rm & 1 ? *flags | RFLAGS_AC : *flags & ~(uint64_t)RFLAGS_AC;
        monitor->trap->rip = next;
        return true;
    }
    switch (in->reg & 7) {
    case 4: { /* SMSW: of translated code */
        uint64_t value = cpu->cr0;
        count(monitor, LAB_M_SMSW);
        if (in->mod == 3)
            put_register(monitor, in->rm, in->operand_size, value);
        else if (!lab_write(
                     monitor,
                     instruction_address(in, monitor->trap->gpr, monitor->trap->rip, cpu->fs_base, cpu->gs_base),
                     &value, 2, lab_operand_by(in)))
            return true;
        break;
    }
    case 6: { /* LMSW: PE can be set, not cleared */
        uint64_t value = monitor->trap->gpr[in->rm];
        if (cpu->cpl)
            return refuse(monitor, 0);
        if (in->mod != 3 &&
            !lab_read(monitor,
                      instruction_address(in, monitor->trap->gpr, monitor->trap->rip, cpu->fs_base, cpu->gs_base),
                      &value, 2, lab_operand_by(in)))
            return true;
        count(monitor, LAB_M_LMSW);
        lab_set_cr0(monitor, (cpu->cr0 & ~0xeull) | (value & 0xe) | CR0_PE);
        break;
    }
    case 7:
        if (in->mod == 3)
            return false;
        if (cpu->cpl)
            return refuse(monitor, 0);
        count(monitor, LAB_M_INVLPG);
        monitor->frame->page =
            instruction_address(in, monitor->trap->gpr, monitor->trap->rip, cpu->fs_base, cpu->gs_base);
        monitor->frame->action |= LAB_INVLPG;
        shadow_invlpg(monitor->shadow, monitor->frame->page);
        break;
    default:
        return lab_emulate_segments(monitor, in);
    }
    if (!monitor->end.ended)
        monitor->trap->rip = next;
    return true;
}

static bool two_bytes(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    switch (in->opcode) {
    case 0x01:
        return group7(monitor, in, next);
    case 0x05:
        lab_syscall(monitor, next);
        return true;
    case 0x06: /* CLTS */
        if (cpu->cpl)
            return refuse(monitor, 0);
        count(monitor, LAB_M_CLTS);
        lab_set_cr0(monitor, cpu->cr0 & ~CR0_TS);
        monitor->trap->rip = next;
        return true;
    case 0x07:
        return sysret(monitor, in);
    case 0x08:
    case 0x09: /* INVD, WBINVD: there is no cache of the guest's own */
        if (cpu->cpl)
            return refuse(monitor, 0);
        count(monitor, in->opcode == 0x08 ? LAB_M_INVD : LAB_M_WBINVD);
        monitor->trap->rip = next;
        return true;
    case 0x20:
    case 0x22:
        return lab_move_control(monitor, in, next);
    case 0x21:
    case 0x23:
        return lab_move_debug(monitor, in, next);
    case 0x30:
    case 0x32:
        return lab_emulate_msr(monitor, in->opcode == 0x30, next);
    default:
        return lab_emulate_segments(monitor, in);
    }
}

bool lab_lock_allowed(const Instruction *in)
{
    unsigned reg = in->reg & 7;
    if (!in->has_modrm || in->mod == 3)
        return false;
    if (in->map == 0)
        switch (in->opcode) {
        case 0x80:
        case 0x81:
        case 0x83:
            return reg != 7;
        case 0x86:
        case 0x87:
            return true;
        case 0xf6:
        case 0xf7:
            return reg == 2 || reg == 3;
        case 0xfe:
        case 0xff:
            return reg < 2;
        default:
            return in->opcode < 0x38 && (in->opcode & 6) == 0;
        }
    switch (in->map == 1 ? in->opcode : 0) {
    case 0xab:
    case 0xb0:
    case 0xb1:
    case 0xb3:
    case 0xbb:
    case 0xc0:
    case 0xc1:
        return true;
    case 0xba:
        return reg > 4;
    case 0xc7:
        return reg == 1;
    default:
        return false;
    }
}

bool lab_emulate(Monitor *monitor, const Instruction *in)
{
    uint64_t next = monitor->trap->rip + in->length;
    if (in->map == 1)
        return two_bytes(monitor, in, next);
    if (in->map)
        return false;
    switch (in->opcode) {
    case 0x9c:
    case 0x9d:
        return pushf_popf(monitor, in, next);
    case 0xcc:
    case 0xcd:
        count(monitor, in->opcode == 0xcc ? LAB_M_INT3 : LAB_M_INT);
        lab_software_interrupt(monitor, in->opcode == 0xcc ? 3 : (uint8_t)in->imm, next);
        return true;
    case 0xf4:
        return hlt(monitor, next);
    case 0xfa:
    case 0xfb:
        return set_interrupts(monitor, in->opcode == 0xfb, next);
    default:
        return lab_emulate_io(monitor, in) || lab_emulate_segments(monitor, in);
    }
}
