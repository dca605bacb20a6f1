/*
 * One vCPU's whole architectural state, in a form that any engine can load and save.
 * Names and widths are the Intel SDM's (vol. 1 §3.4, vol. 3A §2); the FPU is an XSAVE image in standard format
 * (vol. 1 §13.4).
 */
#ifndef PYVMM_ENGINE_CPU_STATE_H
#define PYVMM_ENGINE_CPU_STATE_H

#include "engine/mtrr.h"

/* The hidden part of a segment register. `attributes` is the descriptor's: bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12
 * AVL, 13 L, 14 D/B, 15 G, bit 16 = unusable (the layout of VMX access rights, SDM 3C §25.4.1). `limit` is in
 * bytes. */
typedef struct Segment {
    uint16_t selector;
    uint32_t attributes;
    uint32_t limit;
    uint64_t base;
} Segment;

typedef struct DescriptorTable {
    uint64_t base;
    uint16_t limit;
} DescriptorTable;

enum { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI }; /* then R8..R15: encoding order */
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };                         /* encoding order */

#define CPU_XSAVE_SIZE 4096
/* In pending_exception: an external interrupt that was acknowledged and not yet delivered; RFLAGS.IF was set then.
 */
#define PENDING_INTERRUPT 0x100

typedef struct CpuState {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    Segment segment[6];
    Segment ldtr;
    Segment tr;
    DescriptorTable gdtr;
    DescriptorTable idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t dr[8]; /* 4 and 5 unused */
    uint64_t xcr0;
    /* MSRs */
    uint64_t efer, apic_base, pat;
    uint64_t star, lstar, cstar, fmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc, tsc_aux, misc_enable;
    uint64_t kvm_system_time, kvm_wall_clock; /* paravirtual clock MSRs, 0 = off */
    Mtrr mtrr;
    /* What runs on while a state is on its way: `tsc` and `kvm_clock` (what the paravirtual clock read, ns) are as
     * of the board's time clock_ns; 0: as of now, whenever that is. */
    uint64_t kvm_clock, clock_ns;
    /* Between instructions */
    uint8_t halted;
    uint8_t
        wait_for_sipi; /* an application processor after RESET# or INIT (SDM 3A §9.4); needs an in-kernel APIC */
    uint8_t interrupt_shadow; /* after STI or MOV SS */
    uint8_t nmi_blocked;
    uint8_t nmi_pending;
    int16_t pending_exception; /* -1, or what to deliver first: a vector, or PENDING_INTERRUPT + vector */
    uint8_t pending_has_error;
    uint32_t pending_error;
    uint8_t xsave[CPU_XSAVE_SIZE];
} CpuState;

/* How far TSC and paravirtual clock have run on when the board's clock reads `now`, in ns. */
uint64_t cpu_state_elapsed(const CpuState *state, uint64_t now);

/* The bootstrap processor after RESET# (SDM 3A table 10-1): real mode at F000:FFF0. */
void cpu_state_reset(CpuState *state);
/* Any other processor: it waits for a startup IPI. */
void cpu_state_reset_ap(CpuState *state);

#endif
