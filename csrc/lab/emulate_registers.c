/*
 * Control, debug and model-specific registers of the virtual CPU (Intel SDM 3A §2.5, 3B §17.2, vol. 4 §2.1; vol. 2
 * MOV, RDMSR, WRMSR). What a processor refuses is #GP here, too; what it would do and this monitor cannot, ends the
 * guest.
 */
#include "lab/monitor.h"

#define CR0_PE   (1ull << 0)
#define CR0_TS   (1ull << 3)
#define CR0_ET   (1ull << 4)
#define CR0_NW   (1ull << 29)
#define CR0_CD   (1ull << 30)
#define CR0_PG   (1ull << 31)
#define CR0_KEPT 0xe005003full
#define CR4_PAE  (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define CR4_DE   (1ull << 3)
/* VME to OSXMMEXCPT, SMEP, SMAP; the rest is #GP, as it is where CPUID has it not. */
#define CR4_KNOWN 0x3007ffull
/* UMIP, FSGSBASE, PCIDE, OSXSAVE, PKE: an engine may have them. */
#define CR4_LEFT_OUT (1ull << 11 | 1ull << 16 | 1ull << 17 | 1ull << 18 | 1ull << 22)

#define DR6_BD   (1ull << 13)
#define DR7_GD   (1ull << 13)
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
#define VECTOR_DB      1
#define DR6_WRITABLE   0xe00full
#define DR6_ONES       0xffff0ff0ull
#define DR7_ONES       0x400ull
#define APIC_BASE_BITS 0xfffffffd00ull /* physical address, EN, EXTD, BSP */

#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

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

/* ---- control registers ---- */

bool lab_set_cr0(Monitor *monitor, uint64_t value)
{
    VirtualCpu *cpu = &monitor->cpu;
    /* Paging cannot be turned off in 64-bit mode (SDM 3A §9.8.5.4). */
    if (value >> 32 || !(value & CR0_PE) || !(value & CR0_PG) || ((value & CR0_NW) && !(value & CR0_CD)))
        return refuse(monitor, 0);
    uint64_t changed = cpu->cr0 ^ value;
    cpu->cr0 = (value & CR0_KEPT) | CR0_ET;
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
    if ((value & ~0xfffull) >= monitor->base) { /* said here, where RIP is the instruction's */
        lab_end(monitor, "CR3 is set to %#llx: there is no RAM of the guest's", (unsigned long long)value);
        return true;
    }
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
    if (value & CR4_LEFT_OUT) {
        lab_end(monitor,
                "the guest sets CR4 to %#llx: this monitor has no UMIP, FSGSBASE, PCIDs, XSAVE or protection keys",
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

bool lab_move_control(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t *gpr = &monitor->trap->gpr[in->rm];
    bool write = in->opcode == 0x22;
    if (in->reg != 0 && in->reg != 8 && (in->reg < 2 || in->reg > 4))
        return !cpu->cpl && lab_undefined(monitor);
    if (cpu->cpl)
        return refuse(monitor, 0);
    count(monitor, write ? LAB_M_MOV_TO_CR : LAB_M_MOV_FROM_CR);
    uint64_t rip = monitor->trap->rip;
    switch (in->reg) {
    case 0:
        write ? (void)lab_set_cr0(monitor, *gpr) : (void)(*gpr = cpu->cr0);
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

bool lab_move_debug(Monitor *monitor, const Instruction *in, uint64_t next)
{
    VirtualCpu *cpu = &monitor->cpu;
    uint64_t *gpr = &monitor->trap->gpr[in->rm];
    bool alias = in->reg == 4 || in->reg == 5; /* while CR4.DE is clear */
    uint8_t reg = alias ? in->reg + 2 : in->reg;
    if (in->reg > 7 || (alias && (cpu->cr4 & CR4_DE)))
        return !cpu->cpl && lab_undefined(monitor);
    if (cpu->cpl)
        return refuse(monitor, 0);
    if (cpu->dr[7] & DR7_GD) { /* SDM 3B §17.2.4 */
        cpu->dr[6] |= DR6_BD;
        cpu->dr[7] &= ~DR7_GD;
        lab_inject(monitor, VECTOR_DB, false, 0);
        return true;
    }
    if (in->opcode == 0x23) {
        if (reg >= 6 && *gpr >> 32)
            return refuse(monitor, 0);
        count(monitor, LAB_M_MOV_TO_DR);
        cpu->dr[reg] = reg == 6 ? (*gpr & DR6_WRITABLE) | DR6_ONES : reg == 7 ? *gpr | DR7_ONES : *gpr;
    } else {
        count(monitor, LAB_M_MOV_FROM_DR);
        *gpr = cpu->dr[reg];
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

/* Addresses are canonical, reserved bits clear, memory types known (SDM vol. 4 §2.1; 3A §11.12.4). */
static bool msr_value_allowed(uint32_t index, uint64_t value)
{
    switch (index) {
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_FS_BASE:
    case MSR_GS_BASE:
    case MSR_KERNEL_GS_BASE:
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
        return lab_canonical(value);
    case MSR_TSC_AUX:
        return !(value >> 32);
    case MSR_APIC_BASE:
        return !(value & ~APIC_BASE_BITS);
    case MSR_PAT:
        for (; value; value >>= 8)
            if ((value & 0xff) > 7 || (value & 0xff) == 2 || (value & 0xff) == 3)
                return false;
        return true;
    default:
        return true;
    }
}

static void load_bases(Monitor *monitor)
{
    monitor->frame->fs_base = monitor->cpu.fs_base;
    monitor->frame->gs_base = monitor->cpu.gs_base;
    monitor->frame->action |= LAB_LOAD_FS | LAB_LOAD_GS;
}

bool lab_emulate_msr(Monitor *monitor, bool write, uint64_t next)
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
    } else if (index == MSR_TSC) {
        lab_end(monitor, "the guest sets its time stamp counter: under this monitor it is the engine's");
        return true;
    } else if (index == MSR_APIC_BASE && value != cpu->apic_base && !(value & ~APIC_BASE_BITS)) {
        lab_end(monitor, "the guest sets IA32_APIC_BASE to %#llx: this monitor leaves the local APIC as it is",
                (unsigned long long)value);
        return true;
    } else if (index == MSR_EFER) {
        if ((value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)) || !(value & EFER_LME)) /* with paging on */
            return refuse(monitor, 0);
        cpu->efer = value | EFER_LMA;
        lab_load_tables(monitor);
    } else {
        if (!msr_value_allowed(index, value))
            return refuse(monitor, 0);
        *held = value;
        if (index == MSR_FS_BASE || index == MSR_GS_BASE)
            load_bases(monitor);
    }
    monitor->trap->rip = next;
    return true;
}
