/*
 * From the guest's code to a block: which instruction becomes what.
 *
 * A block ends at a jump, at a callout, at the end of its page (but not after STI, whose shadow covers the next
 * instruction), after BLOCK_LENGTH instructions. Each instruction that is not in these tables is copied: if ring 3
 * may not execute it, it traps from the copy like any other, at its own RIP.
 */
#include <string.h>

#include "lab/translate.h"

#define FIELD(name) offsetof(TranslatorPage, name)

/* '.': copy; o: callout; j: Jcc, LOOP, JRCXZ; J: JMP; C: CALL; R: RET; F: group FF; X: group C7, with XBEGIN; p:
 * PUSHF; P: POPF; i: CLI; I: STI; s: MOV from a segment register. */
static const char ONE_BYTE[257] = "................"
                                  "................" /* 00 */
                                  "................"
                                  "................" /* 20 */
                                  "................"
                                  "................" /* 40 */
                                  "............oooo"
                                  "jjjjjjjjjjjjjjjj" /* 60 */
                                  "............s.o."
                                  "............pP.." /* 80 */
                                  "................"
                                  "................" /* a0 */
                                  "..RR...X..oooo.o"
                                  "................" /* c0 */
                                  "jjjjooooCJ.Joooo"
                                  "....o.....iI...F"; /* e0 */

/* 6: group 6, SLDT, STR, VERR...; 7: group 7; c: MOV from CRn; C: MOV to CRn; f: PUSH FS, GS. */
static const char TWO_BYTES[257] = "67oo.ooooo......"
                                   "................" /* 00 */
                                   "coCo............"
                                   "o.o............." /* 20 */
                                   "................"
                                   "................" /* 40 */
                                   "................"
                                   "................" /* 60 */
                                   "jjjjjjjjjjjjjjjj"
                                   "................" /* 80 */
                                   "fo......fo......"
                                   "..o.oo.........." /* a0 */
                                   "................"
                                   "................" /* c0 */
                                   "................"
                                   "................"; /* e0 */

typedef struct Builder {
    Translator *translator;
    Emitter emitter;
    CodePage pages[2];
    unsigned page_count;
    uint64_t rip;
    uint8_t bytes[INSTRUCTION_MAX];
    Instruction in;
} Builder;

/* The page of an address of code, in the builder's list; false: `bad` says why not. */
static bool find_page(Builder *b, gva_t address, gpa_t *page)
{
    Translator *t = b->translator;
    gva_t start = address & ~(gva_t)(GUEST_PAGE_SIZE - 1);
    for (unsigned i = 0; i < b->page_count; i++)
        if (b->pages[i].address == start) {
            *page = b->pages[i].page;
            return true;
        }
    ShadowMode mode = lab_mode(t->monitor);
    ShadowFault fault = {0};
    Error error = {0};
    t->bad = (CodePage){.address = address, .page = NO_PAGE};
    enum ShadowResult result = shadow_translate(t->monitor->shadow, &mode, address, PF_FETCH, &fault, &error);
    if (result == SHADOW_GUEST_FAULT) {
        t->bad.page = fault.not_canonical ? NO_PAGE : fault.error_code;
        return false;
    }
    if (result != SHADOW_FILLED) {
        lab_end(t->monitor, "%s", error.text);
        return false;
    }
    *page = fault.gpa & ~(gpa_t)(GUEST_PAGE_SIZE - 1);
    if (b->page_count < ARRAY_SIZE(b->pages))
        b->pages[b->page_count++] = (CodePage){start, *page};
    return true;
}

/* Decode at b->rip. False: the first byte, or one that the instruction needs, cannot be fetched. An undefined
 * instruction is a callout, which finds the same. */
static bool fetch(Builder *b)
{
    size_t got = 0;
    for (;;) {
        gva_t address = b->rip + got;
        gpa_t page;
        if (!find_page(b, address, &page))
            return false;
        uint32_t offset = (uint32_t)(address & (GUEST_PAGE_SIZE - 1)), left = GUEST_PAGE_SIZE - offset;
        uint32_t now = (uint32_t)MIN((size_t)left, INSTRUCTION_MAX - got);
        if (guest_memory_read(b->translator->monitor->board->memory, page + offset, b->bytes + got, now) < 0) {
            lab_end(b->translator->monitor, "the guest executes at %#llx, where there is no RAM",
                    (unsigned long long)b->rip);
            return false;
        }
        got += now;
        int length = instruction_decode(&b->in, b->bytes, got);
        if (length != -ENODATA || got == INSTRUCTION_MAX) {
            if (length < 0)
                b->in = (Instruction){.opcode = 0xcc, .length = 1, .lock = true};
            return true;
        }
    }
}

/* Group 6 and 7, and what else depends on ModRM, of the instructions that are not always a callout. True: emitted.
 */
static bool inline_two_bytes(Builder *b, char kind)
{
    const Instruction *in = &b->in;
    Emitter *e = &b->emitter;
    switch (kind) {
    case '6':
        if (in->mod != 3 || (in->reg & 7) > 1)
            return false;
        emit_load(e, in->rm, in->operand_size, (in->reg & 7) == 1 ? FIELD(tr) : FIELD(ldtr));
        return true;
    case '7':
        if (in->mod == 3 && (in->reg & 7) == 4)
            emit_load(e, in->rm, in->operand_size, FIELD(cr));
        else if (in->mod == 3 && (in->reg & 7) != 6 && !((in->reg & 7) == 7 && (in->rm & 7) == 0))
            emit_copy(e, in, b->bytes, b->rip);
        else
            return false;
        return true;
    case 'c':
        if (in->reg == 1 || (in->reg > 4 && in->reg != 8))
            return false;
        emit_load(e, in->rm, 8, FIELD(cr) + in->reg * sizeof(uint64_t));
        return true;
    case 'C':
        if (in->reg != 8)
            return false;
        emit_set_cr8(e, in->rm);
        return true;
    case 'f':
        if (in->operand_size == 2)
            return false;
        emit_push_field(e, FIELD(selector) + (in->opcode == 0xa0 ? SEG_FS : SEG_GS) * sizeof(uint64_t));
        return true;
    default:
        return false;
    }
}

/* 64-bit PUSHF and POPF, CLI, STI, MOV from a segment register to a register. True: emitted. */
static bool inline_one_byte(Builder *b, char kind)
{
    const Instruction *in = &b->in;
    Emitter *e = &b->emitter;
    uint64_t next = b->rip + in->length;
    if (kind == 's') {
        if (in->mod != 3 || (in->reg & 7) > SEG_GS)
            return false;
        emit_load(e, in->rm, in->operand_size, FIELD(selector) + (in->reg & 7) * sizeof(uint64_t));
        return true;
    }
    if ((kind == 'p' || kind == 'P') && in->operand_size == 2)
        return false;
    switch (kind) {
    case 'p':
        emit_pushf(e);
        return true;
    case 'P':
        emit_popf(e, next);
        return true;
    case 'i':
        emit_cli(e);
        return true;
    case 'I':
        emit_sti(e, next);
        return true;
    default:
        return false;
    }
}

/* True: a jump was emitted, and with it the block's end. */
static bool transfer(Builder *b, char kind)
{
    const Instruction *in = &b->in;
    Emitter *e = &b->emitter;
    uint64_t next = b->rip + in->length, target = next + (uint64_t)in->imm;
    switch (kind) {
    case 'j':
        emit_branch(e, in, b->bytes, b->rip);
        return true;
    case 'J':
        emit_exit(e, target);
        return true;
    case 'C':
        emit_call(e, target, next);
        return true;
    case 'R':
        emit_return(e, in->opcode == 0xc2 ? (uint16_t)in->imm : 0);
        return true;
    case 'F':
        if ((in->reg & 7) != 2 && (in->reg & 7) != 4)
            return false;
        emit_jump_indirect(e, in, b->bytes, b->rip, (in->reg & 7) == 2);
        return true;
    default:
        return false;
    }
}

enum Emitted { EMITTED, ENDED, STI_EMITTED };

/* Which group FF and C7 members are only copied. */
static bool is_copied(const Instruction *in, char kind)
{
    unsigned reg = in->reg & 7;
    return kind == '.' || (kind == 'X' && reg != 7) || (kind == 'F' && (reg < 2 || reg > 5));
}

static enum Emitted emit_instruction(Builder *b)
{
    const Instruction *in = &b->in;
    Emitter *e = &b->emitter;
    bool one = in->map == 0, two = in->map == 1 && !in->vex;
    char kind = in->vex ? '.' : one ? ONE_BYTE[in->opcode] : two ? TWO_BYTES[in->opcode] : '.';
    if (is_copied(in, kind)) {
        emit_copy(e, in, b->bytes, b->rip);
        return EMITTED;
    }
    if (!in->lock) {
        if ((one || kind == 'j') && transfer(b, kind))
            return ENDED;
        if (one ? inline_one_byte(b, kind) : inline_two_bytes(b, kind))
            return one && kind == 'I' ? STI_EMITTED : EMITTED;
    }
    emit_callout(e);
    return ENDED;
}

static void begin_instruction(Builder *b, bool shadow)
{
    b->emitter.now =
        (Place){.rip = b->rip, .scratch = REG_NONE, .exit = NONE, .hold = shadow ? HOLD_SHADOW : HOLD_NOT};
}

static void build(Builder *b, bool solo)
{
    gva_t first_page = b->rip & ~(gva_t)(GUEST_PAGE_SIZE - 1);
    enum Emitted last = EMITTED;
    for (unsigned count = 0;; count++) {
        begin_instruction(b, last == STI_EMITTED);
        last = emit_instruction(b);
        if (last == ENDED)
            return;
        b->rip += b->in.length;
        bool ends = solo || ((count >= BLOCK_LENGTH || (b->rip & ~(gva_t)(GUEST_PAGE_SIZE - 1)) != first_page) &&
                             last != STI_EMITTED);
        if (ends || !fetch(b)) {
            uint8_t hold = last == STI_EMITTED && solo ? HOLD_SHADOW : HOLD_NOT;
            begin_instruction(b, hold);
            emit_exit(&b->emitter, b->rip);
            return;
        }
    }
}

uint32_t translate_block(Translator *t, uint64_t rip, bool solo)
{
    Builder builder = {.translator = t, .rip = rip}, *b = &builder;
    if (!fetch(b))
        return NONE;
    if (!cache_room(t, BLOCK_ROOM)) {
        cache_flush(t);
        t->monitor->counters.flushes++;
        if (!cache_room(t, BLOCK_ROOM)) {
            lab_end(t->monitor, "no host memory for translated code");
            return NONE;
        }
    }
    uint32_t start = t->used;
    b->emitter = (Emitter){.translator = t, .memory = t->monitor->memory, .at = start, .solo = solo};
    build(b, solo);
    t->used = b->emitter.at;
    guest_memory_written(t->monitor->board->memory, t->monitor->base + start, t->used - start);
    if (solo)
        return start;
    Block block = {.rip = rip,
                   .size = (uint32_t)(b->rip - rip),
                   .code = start,
                   .code_size = t->used - start,
                   .page = {b->pages[0].page, b->page_count > 1 ? b->pages[1].page : NO_PAGE}};
    return cache_add_block(t, &block, b->pages, b->page_count);
}
