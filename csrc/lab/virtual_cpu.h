/*
 * The processor that the guest believes in, and the trap frame that carries its registers.
 *
 * General registers, RIP, RSP and the status flags are in the frame while the monitor works. What the guest may not
 * have for real is here: control registers, descriptor tables, rings, the interrupt flag. Names as the Intel SDM's.
 */
#ifndef PYVMM_LAB_VIRTUAL_CPU_H
#define PYVMM_LAB_VIRTUAL_CPU_H

#include "engine/cpu_state.h"
#include "lab/layout.h"

/* As stub.S leaves it on IST 1. */
typedef struct LabTrapFrame {
    uint64_t cr2;
    uint64_t gpr[16]; /* in the order of their encoding; [REG_RSP] is kept equal to rsp while the monitor works */
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss; /* Intel SDM 3A figure 6-9 */
} LabTrapFrame;

typedef struct LabFrame {
    uint64_t action; /* LAB_LOAD_CR3... */
    uint64_t cr3, fs_base, gs_base, cr0;
    uint64_t touch_count;
    struct {
        uint64_t address, count;
    } touch[LAB_TOUCHES];
    uint64_t page; /* for INVLPG */
    uint8_t unused[LAB_FRAME_TRAP - LAB_FRAME_PAGE - 8];
    LabTrapFrame trap; /* the stack's top is its end */
} LabFrame;

#define RFLAGS_CF   (1u << 0)
#define RFLAGS_ONE  (1u << 1)
#define RFLAGS_TF   (1u << 8)
#define RFLAGS_IF   (1u << 9)
#define RFLAGS_DF   (1u << 10)
#define RFLAGS_IOPL (3u << 12)
#define RFLAGS_NT   (1u << 14)
#define RFLAGS_RF   (1u << 16)
#define RFLAGS_AC   (1u << 18)
/* What ring 3 can change by itself, and so what the real RFLAGS hold for the guest (SDM vol. 1 §3.4.3). */
#define RFLAGS_REAL 0x254dd5u

typedef struct VirtualSegment {
    uint16_t selector;
    uint64_t base;
    uint32_t limit;
} VirtualSegment;

typedef struct VirtualCpu {
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t efer, star, lstar, cstar, fmask, kernel_gs_base, fs_base, gs_base;
    uint64_t apic_base, pat, misc_enable, tsc_aux, sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t dr[8]; /* kept; no breakpoint is armed */
    DescriptorTable gdtr, idtr;
    VirtualSegment ldtr, tr;
    uint16_t selector[6]; /* SEG_ES... */
    uint8_t dpl[6];       /* of what they were loaded with; 3 for conforming code, which any ring may use */
    uint8_t cpl;
    uint8_t iopl;
    uint8_t interrupts; /* RFLAGS.IF */
    uint8_t shadow;     /* no interrupt before the instruction at shadow_rip: after STI, MOV SS (SDM 3A §6.8.3) */
    uint8_t halted;
    uint64_t shadow_rip;
} VirtualCpu;

#endif
