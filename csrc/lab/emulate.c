/*
 * Privileged instructions on the virtual CPU: what trap-and-emulate emulates (Intel SDM vol. 2, each by its name).
 *
 * `lab_emulate` takes a decoded instruction at the virtual RIP in the virtual ring: it checks the ring as the
 * processor would have, does the work and moves RIP on. Segments and far transfers are in emulate_segments.c, ports
 * in emulate_io.c.
 */
#include <string.h>

#include "lab/monitor.h"

#define CR0_PE    (1ull << 0)
#define CR0_TS    (1ull << 3)
#define CR0_PG    (1ull << 31)
#define CR0_KEPT  0xe005003full
#define CR4_PAE   (1ull << 5)
#define CR4_LA57  (1ull << 12)
#define CR4_PCIDE (1ull << 17)
#define CR4_UMIP  (1ull << 11)
#define CR4_KNOWN                                                                                                  \
    0x3007ffull /* VME to OSXMMEXCPT, SMEP, SMAP; the rest is #GP, as it is where CPUID has it not                 \
                 */
#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_PAT = 0x277,
};
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

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

static bool canonical(uint64_t value) { return (uint64_t)((int64_t)(value << 16) >> 16) == value; }

static void put_register(Monitor *monitor, uint8_t reg, uint8_t size, uint64_t value)
{
    uint64_t *gpr = &monitor->trap->gpr[reg];
    *gpr = size == 8 ? value : size == 4 ? (uint32_t)value : (*gpr & ~0xffffull) | (value & 0xffff);
}

/* ---- control registers ---- */

static bool set_cr0(Monitor *monitor, uint64_t value)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)))
        return refuse(monitor, 0);
    if (!(value & CR0_PG) || !(value & CR0_PE)) {
        lab_end(monitor, "the guest turns paging off (MOV CR0, %#llx): this monitor has 64-bit mode only",
                (unsigned long long)value);
        return true;
    }
    uint64_t changed = cpu->cr0 ^ value;
    cpu->cr0 = value & CR0_KEPT;
    if (changed & ~CR0_TS)
        lab_load_tables(monitor);
    if (changed & 0xe) { /* MP, EM and TS are the FPU's, which the guest has for real */
        monitor->frame->cr0 = (cpu->cr0 & 0xe) | 0x80010031;
        monitor->frame->action |= LAB_LOAD_CR0;
    }
    return true;
}

static bool set_cr3(Monitor *monitor, uint64_t value)
{
    if (value >> 40)
        return refuse(monitor, 0);
    monitor->cpu.cr3 = value;
    shadow_sync(monitor->shadow);
    lab_load_tables(monitor);
    return true;
}

static bool set_cr4(Monitor *monitor, uint64_t value)
{
    VirtualCpu *cpu = &monitor->cpu;
    if (!(value & CR4_PAE) || value & CR4_LA57) /* neither changes in 64-bit mode */
        return refuse(monitor, 0);
    if (value & (CR4_PCIDE | CR4_UMIP)) {
        lab_end(monitor, "the guest sets CR4 to %#llx: this monitor has neither PCIDs nor UMIP",
                (unsigned long long)value);
        return true;
    }
    if (value & ~CR4_KNOWN)
        return refuse(monitor, 0);
    cpu->cr4 = value;
    shadow_sync(monitor->shadow);
    lab_load_tables(monitor);
    return true;
}

static bool move_control(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t *gpr = &monitor->trap->gpr[in->rm];
    bool write = in->opcode == 0x22;
    if (in->reg != 0 && in->reg != 8 && (in->reg < 2 || in->reg > 4))
        return lab_undefined(monitor);
    if (cpu->cpl)
        return refuse(monitor, 0);
    count(monitor, write ? LAB_M_MOV_TO_CR : LAB_M_MOV_FROM_CR);
    uint64_t rip = monitor->trap->rip;
    switch (in->reg) {
    case 0:
        write ? (void)set_cr0(monitor, *gpr) : (void)(*gpr = cpu->cr0);
        break;
    case 2:
        write ? (cpu->cr2 = *gpr) : (*gpr = cpu->cr2);
        break;
    case 3:
        write ? (void)set_cr3(monitor, *gpr) : (void)(*gpr = cpu->cr3);
        break;
    case 4:
        write ? (void)set_cr4(monitor, *gpr) : (void)(*gpr = cpu->cr4);
        break;
    case 8:
        if (write && *gpr > 15)
            return refuse(monitor, 0);
        write ? (cpu->cr8 = *gpr) : (*gpr = cpu->cr8);
        break;
    }
    if (monitor->trap->rip == rip) /* else an exception was delivered */
        monitor->trap->rip = next;
    return true;
}

static bool move_debug(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t *gpr = &monitor->trap->gpr[in->rm];
    uint8_t reg = in->reg == 4 || in->reg == 5 ? in->reg + 2 : in->reg; /* aliases while CR4.DE is clear */
    if (cpu->cpl)
        return refuse(monitor, 0);
    if (in->reg > 7)
        return lab_undefined(monitor);
    if (in->opcode == 0x23) {
        count(monitor, LAB_M_MOV_TO_DR);
        cpu->dr[reg] = *gpr;
    } else {
        count(monitor, LAB_M_MOV_FROM_DR);
        *gpr = reg == 6 ? cpu->dr[6] | 0xffff0ff0 : reg == 7 ? cpu->dr[7] | 0x400 : cpu->dr[reg];
    }
    monitor->trap->rip = next;
    return true;
}

/* ---- model-specific registers ---- */

static uint64_t *msr_of(VirtualCpu *cpu, uint32_t index)
{
    switch (index) {
    case MSR_EFER:
        return &cpu->efer;
    case MSR_STAR:
        return &cpu->star;
    case MSR_LSTAR:
        return &cpu->lstar;
    case MSR_CSTAR:
        return &cpu->cstar;
    case MSR_FMASK:
        return &cpu->fmask;
    case MSR_FS_BASE:
        return &cpu->fs_base;
    case MSR_GS_BASE:
        return &cpu->gs_base;
    case MSR_KERNEL_GS_BASE:
        return &cpu->kernel_gs_base;
    case MSR_TSC_AUX:
        return &cpu->tsc_aux;
    case MSR_APIC_BASE:
        return &cpu->apic_base;
    case MSR_PAT:
        return &cpu->pat;
    case MSR_MISC_ENABLE:
        return &cpu->misc_enable;
    case MSR_SYSENTER_CS:
        return &cpu->sysenter_cs;
    case MSR_SYSENTER_ESP:
        return &cpu->sysenter_esp;
    case MSR_SYSENTER_EIP:
        return &cpu->sysenter_eip;
    default:
        return NULL;
    }
}

static void load_bases(Monitor *monitor)
{
    monitor->frame->fs_base = monitor->cpu.fs_base;
    monitor->frame->gs_base = monitor->cpu.gs_base;
    monitor->frame->action |= LAB_LOAD_FS | LAB_LOAD_GS;
}

static bool msr(Monitor *monitor, bool write, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t *gpr = monitor->trap->gpr, value = (uint32_t)gpr[REG_RAX] | gpr[REG_RDX] << 32;
    uint32_t index = (uint32_t)gpr[REG_RCX];
    uint64_t *held = msr_of(cpu, index);
    if (cpu->cpl || (!held && index != MSR_TSC))
        return refuse(monitor, 0);
    count(monitor, write ? LAB_M_WRMSR : LAB_M_RDMSR);
    if (!write) {
        uint32_t low, high;
        value = held ? *held : 0;
        if (!held) { /* the guest's RDTSC does not trap, and reads the same */
            __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
            value = (uint64_t)high << 32 | low;
        }
        gpr[REG_RAX] = (uint32_t)value;
        gpr[REG_RDX] = value >> 32;
    } else if (index == MSR_EFER) {
        if ((value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)) || !(value & EFER_LME)) /* with paging on */
            return refuse(monitor, 0);
        cpu->efer = value | EFER_LMA;
        lab_load_tables(monitor);
    } else {
        bool address = index == MSR_LSTAR || index == MSR_CSTAR ||
                       (index >= MSR_FS_BASE && index <= MSR_KERNEL_GS_BASE) || index == MSR_SYSENTER_ESP ||
                       index == MSR_SYSENTER_EIP;
        if ((address && !canonical(value)) || index == MSR_TSC)
            return refuse(monitor, 0);
        *held = value;
        if (index == MSR_FS_BASE || index == MSR_GS_BASE)
            load_bases(monitor);
    }
    monitor->trap->rip = next;
    return true;
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
    if (cpu->cpl || !canonical(monitor->trap->gpr[REG_RCX]))
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
        if (!lab_write(monitor, *rsp - size, &value, size, false))
            return true;
        *rsp -= size;
    } else {
        count(monitor, LAB_M_POPF);
        uint64_t popped = 0, old = lab_rflags(monitor);
        if (!lab_read(monitor, *rsp, &popped, size, false))
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
    switch (in->reg & 7) {
    case 4: { /* SMSW: of translated code */
        uint64_t value = cpu->cr0;
        count(monitor, LAB_M_SMSW);
        if (in->mod == 3)
            put_register(monitor, in->rm, in->operand_size, value);
        else if (!lab_write(
                     monitor,
                     instruction_address(in, monitor->trap->gpr, monitor->trap->rip, cpu->fs_base, cpu->gs_base),
                     &value, 2, false))
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
                      &value, 2, false))
            return true;
        count(monitor, LAB_M_LMSW);
        set_cr0(monitor, (cpu->cr0 & ~0xeull) | (value & 0xe) | CR0_PE);
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
        set_cr0(monitor, cpu->cr0 & ~CR0_TS);
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
        return move_control(monitor, in, next);
    case 0x21:
    case 0x23:
        return move_debug(monitor, in, next);
    case 0x30:
    case 0x32:
        return msr(monitor, in->opcode == 0x30, next);
    default:
        return lab_emulate_segments(monitor, in);
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
