/*
 * The part of the library's CPU structures that the engine reads and writes: the prefix of CPUX86State and a few
 * fields by offset, for the one build named in cmake/unicorn.cmake. Start-up self-tests (self_test.c) check what is
 * used here.
 */
#ifndef PYVMM_TRANSLATOR_CPU_ENV_H
#define PYVMM_TRANSLATOR_CPU_ENV_H

#include "common/common.h"

typedef struct EnvSegment {
    uint32_t selector;
    uint64_t base;
    uint32_t limit;
    uint32_t flags; /* the descriptor's high doubleword */
} EnvSegment;

typedef struct Env {
    uint64_t regs[16];
    uint64_t eip;
    uint64_t eflags; /* without the lazily computed condition codes and DF */
    uint64_t cc_dst, cc_src, cc_src2;
    uint32_t cc_op;
    int32_t df; /* +1 or -1 */
    uint32_t hflags, hflags2;
    EnvSegment segs[6];
    EnvSegment ldt, tr, gdt, idt;
    uint64_t cr[5];
    int32_t a20_mask;
} Env;

_Static_assert(offsetof(Env, eip) == 0x80 && offsetof(Env, hflags) == 0xb0 && offsetof(Env, segs) == 0xb8 &&
                   offsetof(Env, cr) == 0x1a8,
               "the prefix of CPUX86State");

enum {
    CPU_INTERRUPT_REQUEST = 0x1c, /* CPUState.interrupt_request */
    CPU_ENV_PTR = 0x128,          /* CPUState.env_ptr */
    CPU_ICOUNT_PTR = 0x130,       /* CPUState.icount_decr_ptr */
    CPU_CLUSTER_INDEX = 0x8194,   /* CPUState.cluster_index: a part of each block's flags */
    CF_CLUSTER_SHIFT = 24,
    CPU_MEM_IO_PC = 0x8178, /* CPUState.mem_io_pc: where translated code called for a device access */
    ENV_IN_CPU = 0x8a50,    /* X86CPU.env */
    ENV_TLB = -0x40,        /* CPUTLB.f, before X86CPU.env: a TlbTable for each MMU index */
    ENV_ERROR_CODE = 0x1508,
    ENV_EXCEPTION_IS_INT = 0x150c,
    ENV_OLD_EXCEPTION = 0x1578,
    CPU_INTERRUPT_HARD = 2,
    CC_OP_EFLAGS = 1,
    /* Making blocks */
    TCG_CPU_ENV = 0x98f0, /* TCGContext.cpu_env, a TCGv */
    TB_PC = 0,            /* TranslationBlock.pc and .cs_base, in units of 8 bytes */
    TB_CS_BASE = 1,
    TB_CODE = 4,         /* .tc.ptr */
    TB_SECOND_PAGE = 10, /* .page_addr[1]: all ones unless it ends in another page */
    LABEL_PRESENT = 1,   /* TCGLabel.present, in its first two bytes */
};

/* A TLB as translated code looks it up: by page number, masked. The flags are in addresses' low bits. */
typedef struct TlbEntry {
    uint64_t read, write, code; /* guest virtual address of the page; all ones: not for that access */
    uint64_t paddr;
    uint64_t addend; /* host address - guest virtual address */
    uint64_t unused[3];
} TlbEntry;

typedef struct TlbTable {
    uint64_t mask; /* (entries - 1) * sizeof(TlbEntry) */
    TlbEntry *entries;
} TlbTable;

enum { TLB_MMIO = 1 << 9, TLB_INVALID = 1 << 11, TLB_FLAGS = 0xfff };

_Static_assert(sizeof(TlbEntry) == 64, "CPU_TLB_ENTRY_BITS");

/* The bits of TF, IOPL, RF, VM and AC stay clear here: the library ORs them in from EFLAGS when it looks up a
 * block. */
enum Hflags {
    HF_CPL = 3 << 0,
    HF_INHIBIT_IRQ = 1 << 3,
    HF_CS32 = 1 << 4,
    HF_SS32 = 1 << 5,
    HF_ADDSEG = 1 << 6,
    HF_PE = 1 << 7,
    HF_MP = 1 << 9, /* MP, EM, TS follow CR0's bits 1..3 */
    HF_LMA = 1 << 14,
    HF_CS64 = 1 << 15,
    HF_OSFXSR = 1 << 22,
    HF_SMAP = 1 << 23,
    HF2_NMI = 1 << 2, /* in hflags2 */
};

enum {
    EFLAGS_CC = 0x8d5,
    EFLAGS_TF = 1 << 8,
    EFLAGS_IF = 1 << 9,
    EFLAGS_DF = 1 << 10,
    EFLAGS_IOPL = 3 << 12,
    EFLAGS_RF = 1 << 16,
    EFLAGS_VM = 1 << 17,
    EFLAGS_AC = 1 << 18
};

#define DESCRIPTOR_L         (1u << 21)
#define DESCRIPTOR_B         (1u << 22)
#define DESCRIPTOR_DPL_SHIFT 13

static inline void *env_field(void *env, ptrdiff_t offset) { return (char *)env + offset; }

/* Which of its TLBs the library looks in: its cpu_mmu_index. */
enum { MMU_KERNEL_SMAP, MMU_USER, MMU_KERNEL, MMU_INDICES };

static inline int env_mmu_index(const Env *env)
{
    if ((env->hflags & HF_CPL) == 3)
        return MMU_USER;
    return env->hflags & HF_SMAP && !(env->eflags & EFLAGS_AC) ? MMU_KERNEL_SMAP : MMU_KERNEL;
}

/* Load the lazily kept parts of EFLAGS and the rest. */
void env_set_eflags(Env *env, uint64_t eflags);
/* Recompute hflags from segments, CR0, CR4 and EFER (as loading a whole state needs). */
void env_update_hflags(Env *env, uint64_t efer);

#endif
