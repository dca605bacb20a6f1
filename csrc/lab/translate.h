/*
 * Binary translation: the guest's kernel code is never run, only what is made of it (Adams and Agesen 2006 §3).
 *
 * Blocks of guest code are copied into a cache in the monitor's memory, which ring 3 can execute. Instructions that
 * mean the same in ring 3 are copied as they are; the sensitive ones become code that works on TranslatorPage, or a
 * UD2 that asks the monitor (a callout). Programs (virtual ring 3) run directly.
 *
 *    translate.c        the technique: what a trap from the cache means, where the guest goes on
 *    translate_block.c  guest code -> block: which instruction becomes what
 *    translate_emit.c   the machine code for it
 *    translate_cache.c  blocks, exits, the table of jump targets, code that is written, flushes
 *
 * Every emitted instruction has a *place*: what the guest's RIP and registers are when a fault or an interrupt
 * finds the processor there. So all exceptions and interrupts are exact; nothing has to be polled for.
 *
 * Left out: virtual rings 1 and 2, the trap flag in kernel code, 16-bit operands of near branches (the prefix is
 * ignored, as Intel's processors do), #GP of a near branch to a non-canonical address at the branch (it comes at
 * the target), kernels that look at their own code through a second mapping while it changes under the same address
 * without INVLPG.
 */
#ifndef PYVMM_LAB_TRANSLATE_H
#define PYVMM_LAB_TRANSLATE_H

#include "lab/monitor.h"

/* In LAB_CODE: jump targets, then the cache. */
#define TARGETS      65536u /* entries, by the low 16 bits of the guest's RIP */
#define CACHE_START  (LAB_CODE + TARGETS * 16u)
#define CACHE_END    (LAB_CODE + LAB_CODE_SIZE)
#define BLOCK_ROOM   8192u /* bytes that any block fits in */
#define BLOCK_LENGTH 32u   /* guest instructions in a block */
#define PLACES_MAX   1000000u
#define NONE         UINT32_MAX

/* At LAB_DATA: the part of the virtual CPU that translated code reads and writes itself, and its registers' refuge.
 * The guest's kernel can write it, so the monitor believes no more of it than an interrupt flag, an IOPL and a CR8.
 */
typedef struct TranslatorPage {
    uint64_t rax, rcx, rdx, rsp, scratch; /* the guest's, while emitted code uses the register */
    uint64_t target, jump;                /* of an indirect jump: guest's RIP, and where its code is */
    uint64_t value, zero;
    uint64_t pending;          /* an interrupt waits for the virtual IF */
    uint64_t interrupts, iopl; /* as in bits 8 to 15 of RFLAGS */
    uint64_t cr[9];
    uint64_t selector[6], tr, ldtr;
} TranslatorPage;

typedef struct JumpTarget {
    uint64_t minus_rip; /* so that an addition, which is LEA, compares */
    uint64_t code;      /* 0: none */
} JumpTarget;

enum PlaceKind { PLACE_CODE, PLACE_CALLOUT, PLACE_EXIT, PLACE_MISS, PLACE_CHECK }; /* all but the first are UD2 */
enum PlaceRip { RIP_KNOWN, RIP_IN_RCX, RIP_IN_TARGET };
enum PlaceHold {
    HOLD_NOT,
    HOLD_SHADOW, /* after STI: no interrupt before the next instruction is done */
    HOLD_ROLL,   /* between two states: run on; a check for interrupts comes */
};
#define SAVED_RAX 1u
#define SAVED_RCX 2u
#define SAVED_RDX 4u

typedef struct Place {
    uint64_t rip;
    uint32_t offset; /* in the monitor's memory */
    uint32_t exit;   /* PLACE_EXIT: which, or NONE */
    uint8_t kind, from, hold;
    uint8_t saved;   /* guest registers that are in TranslatorPage */
    uint8_t scratch; /* register whose guest's value is in TranslatorPage.scratch, or REG_NONE */
    int8_t popped;   /* what to take from RSP to be in front of the instruction again */
} Place;

/* A jump from block to block: JMP through a literal, which leads to a UD2 until the target has code. */
typedef struct Exit {
    uint64_t target;
    uint32_t literal; /* offset */
    uint32_t to;      /* block, or NONE */
} Exit;

typedef struct Block {
    uint64_t rip;
    uint32_t size; /* of the guest's code, bytes */
    uint32_t code, code_size;
    uint32_t next; /* with the same hash */
    gpa_t page[2]; /* it was made from; NO_PAGE */
    bool dead;
} Block;
#define NO_PAGE UINT64_MAX

typedef struct CodePage {
    gva_t address;
    gpa_t page;
} CodePage;

typedef struct Translator {
    Monitor *monitor;
    TranslatorPage *page;
    JumpTarget *targets;
    uint32_t used;          /* offset: the cache's end */
    uint32_t lookup, retry; /* offsets of the two common routines */
    Place *places;
    uint32_t place_count, place_room;
    Exit *exits;
    uint32_t exit_count, exit_room;
    Block *blocks;
    uint32_t block_count, block_room;
    CodePage *pages;
    uint32_t page_count, page_room;
    uint32_t heads[8192];
    uint64_t generation; /* goes up when blocks go */
    /* Of the trap that is dealt with: */
    bool running;      /* the processor was in the cache */
    bool native, roll; /* it may, or must, go back to where it was: `raw` */
    bool solo;         /* the next instruction by itself: it stores into translated code */
    LabTrapFrame raw, seen;
    uint64_t seen_generation;
    uint32_t exit;     /* the way the cache was left, or NONE */
    uint64_t verified; /* how often mappings could have changed, when they were last looked at */
    CodePage bad;      /* why a block could not be begun */
} Translator;

/* ---- translate_emit.c ------------------------------------------------------------------------------------------
 */
typedef struct Emitter {
    Translator *translator;
    uint8_t *memory; /* the monitor's */
    uint32_t at;     /* offset */
    Place now;       /* of what is emitted next */
    bool solo;       /* every way out is a UD2 */
} Emitter;

void emit_mark(Emitter *e);
void emit_copy(Emitter *e, const Instruction *in, const uint8_t *bytes, uint64_t rip);
void emit_callout(Emitter *e);
void emit_exit(Emitter *e, uint64_t target);
void emit_branch(Emitter *e, const Instruction *in, const uint8_t *bytes, uint64_t rip); /* Jcc, LOOP, JRCXZ */
void emit_jump_indirect(Emitter *e, const Instruction *in, const uint8_t *bytes, uint64_t rip, bool call);
void emit_call(Emitter *e, uint64_t target, uint64_t next);
void emit_return(Emitter *e, uint16_t drop);
void emit_cli(Emitter *e);
void emit_sti(Emitter *e, uint64_t next);
void emit_pushf(Emitter *e);
void emit_popf(Emitter *e, uint64_t next);
void emit_load(Emitter *e, uint8_t reg, uint8_t size,
               size_t field); /* a register from TranslatorPage, zero-extended */
void emit_push_field(Emitter *e, size_t field);
void emit_set_cr8(Emitter *e, uint8_t reg);
void emit_common(Translator *t); /* lookup, retry */

/* ---- translate_block.c -----------------------------------------------------------------------------------------
 */
/* Returns the block, or its offset in the cache when `solo`; NONE: `bad` says which fetch failed, or the guest
 * ended. */
uint32_t translate_block(Translator *t, uint64_t rip, bool solo);

/* ---- translate_cache.c -----------------------------------------------------------------------------------------
 */
bool cache_room(Translator *t, uint32_t size);
uint32_t cache_find(const Translator *t, uint64_t rip);
void cache_add_place(Translator *t, const Place *place);
const Place *cache_place(const Translator *t, uint64_t offset);
uint32_t cache_add_exit(Translator *t, uint64_t target, uint32_t literal);
uint32_t cache_add_block(Translator *t, const Block *block, const CodePage *pages, unsigned count);
void cache_link(Translator *t, uint32_t exit, uint32_t block);
void cache_set_target(Translator *t, uint32_t block);
void cache_drop_page(Translator *t, gpa_t page);
void cache_verify(Translator *t); /* after a change of the guest's tables: is what was translated where it was? */
void cache_flush(Translator *t);

/* ---- for Python -------------------------------------------------------------------------------------------------
 */
typedef struct TranslationView {
    uint64_t rip;
    uint32_t size, code_size;
    uint64_t code, page; /* linear: of the block, and of TranslatorPage */
    uint32_t exits, linked;
} TranslationView;

/* The block that begins at `rip`, or else one that holds it. */
bool lab_translation(const Monitor *monitor, uint64_t rip, TranslationView *view);
/* Guest address of each emitted instruction of it: up to `room` pairs. Returns how many. */
uint32_t lab_translation_places(const Monitor *monitor, uint64_t rip, uint64_t *code, uint64_t *guest,
                                uint32_t room);
/* The emitted bytes of it, up to `room`. Returns how many. */
uint32_t lab_translation_code(const Monitor *monitor, uint64_t rip, uint8_t *code, uint32_t room);
typedef struct TranslationStatistics {
    uint32_t blocks, used, room, places, exits, linked, pages;
    uint64_t generation;
} TranslationStatistics;
TranslationStatistics lab_translation_statistics(const Monitor *monitor);

extern const LabTechnique lab_translation_technique;

#endif
