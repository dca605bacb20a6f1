/*
 * Machine code for the cache (Intel SDM vol. 2). Status flags belong to the guest: what is emitted between its own
 * instructions moves with MOV and LEA and decides with JRCXZ, which leave them alone.
 *
 * `now` is what is known of the guest at the next emitted instruction; emit_mark() writes it down.
 */
#include <string.h>

#include "lab/translate.h"

#define FIELD(name) offsetof(TranslatorPage, name)

void emit_mark(Emitter *e)
{
    e->now.offset = e->at;
    cache_add_place(e->translator, &e->now);
}

static void bytes_out(Emitter *e, const void *bytes, size_t size)
{
    memcpy(e->memory + e->at, bytes, size);
    e->at += (uint32_t)size;
}

static void byte_out(Emitter *e, uint8_t byte) { e->memory[e->at++] = byte; }

static void number_out(Emitter *e, uint32_t number) { bytes_out(e, &number, 4); }

/* ModRM and displacement of a field of TranslatorPage, as a RIP-relative operand; `after`: bytes that follow it. */
static void field_out(Emitter *e, uint8_t reg, size_t field, unsigned after)
{
    byte_out(e, (uint8_t)((reg & 7) << 3 | 5));
    number_out(e, LAB_DATA + (uint32_t)field - (e->at + 4 + after));
}

static void save(Emitter *e, uint8_t reg, size_t field) /* MOV [field], reg */
{
    emit_mark(e);
    byte_out(e, 0x48 | (reg & 8) >> 1);
    byte_out(e, 0x89);
    field_out(e, reg, field, 0);
}

static void load(Emitter *e, uint8_t reg, size_t field) /* MOV reg, [field] */
{
    emit_mark(e);
    byte_out(e, 0x48 | (reg & 8) >> 1);
    byte_out(e, 0x8b);
    field_out(e, reg, field, 0);
}

static void load_byte(Emitter *e, uint8_t reg, size_t field) /* MOVZX, of RAX to RDI */
{
    emit_mark(e);
    bytes_out(e, "\x0f\xb6", 2);
    field_out(e, reg, field, 0);
}

static void code_out(Emitter *e, const char *code, size_t size)
{
    emit_mark(e);
    bytes_out(e, code, size);
}

#define CODE(e, text) code_out(e, text, sizeof(text) - 1)

static void save_rcx(Emitter *e)
{
    save(e, REG_RCX, FIELD(rcx));
    e->now.saved |= SAVED_RCX;
}

static void restore_rcx(Emitter *e)
{
    load(e, REG_RCX, FIELD(rcx));
    e->now.saved &= (uint8_t)~SAVED_RCX;
}

static void ud2(Emitter *e, enum PlaceKind kind)
{
    e->now.kind = kind;
    emit_mark(e);
    bytes_out(e, "\x0f\x0b", 2);
    e->now.kind = PLACE_CODE;
}

static void jump_to(Emitter *e, uint32_t offset)
{
    emit_mark(e);
    byte_out(e, 0xe9);
    number_out(e, offset - (e->at + 4));
}

static uint32_t forward(Emitter *e, uint8_t opcode) /* JRCXZ or JMP rel8 to what land() is called at */
{
    emit_mark(e);
    byte_out(e, opcode);
    byte_out(e, 0);
    return e->at;
}

static void land(Emitter *e, uint32_t from) { e->memory[from - 1] = (uint8_t)(e->at - from); }

#define JRCXZ 0xe3
#define JMP8  0xeb

/* ---- copies ----------------------------------------------------------------------------------------------------
 */

static bool fits32(uint64_t value) { return (uint64_t)(int64_t)(int32_t)value == value; }

static uint64_t rip_operand(const Instruction *in, uint64_t rip)
{
    uint64_t address = rip + in->length + (uint64_t)in->disp;
    return in->address_size == 4 ? (uint32_t)address : address;
}

/* RDI, RSI or RBX: no instruction with a RIP-relative operand uses all of them (2A §2.2.1.6). */
static uint8_t choose_scratch(const Instruction *in, const uint8_t *bytes)
{
    const uint8_t *opcode = bytes + in->prefixes;
    uint8_t vvvv = in->vex ? ~(*opcode == 0xc5 ? opcode[1] : opcode[2]) >> 3 & 15 : REG_NONE;
    static const uint8_t candidates[] = {REG_RDI, REG_RSI, REG_RBX};
    for (size_t i = 0; i < ARRAY_SIZE(candidates); i++)
        if (candidates[i] != in->reg && candidates[i] != vvvv)
            return candidates[i];
    return REG_RBX;
}

/* X and B mean nothing with a RIP-relative operand, but they would with another one. */
static void clear_extensions(const Instruction *in, uint8_t *bytes)
{
    uint8_t *opcode = bytes + in->prefixes;
    if (in->vex)
        opcode[1] |= *opcode == 0xc5 ? 0 : 0x60;
    else if (in->rex)
        opcode[-1] &= (uint8_t)~3;
}

static void copy_absolute(Emitter *e, const Instruction *in, const uint8_t *bytes, uint64_t address)
{
    uint8_t modrm = in->modrm_offset, after = (uint8_t)(modrm + 5);
    emit_mark(e);
    bytes_out(e, bytes, modrm);
    byte_out(e, (bytes[modrm] & 0x38) | 4);
    byte_out(e, 0x25); /* SIB: no base, no index */
    number_out(e, (uint32_t)address);
    bytes_out(e, bytes + after, in->length - after);
}

static void move_address(Emitter *e, uint8_t reg, uint64_t address) /* MOV reg, imm64 */
{
    emit_mark(e);
    byte_out(e, 0x48 | (reg & 8) >> 3);
    byte_out(e, 0xb8 | (reg & 7));
    bytes_out(e, &address, 8);
}

void emit_copy(Emitter *e, const Instruction *in, const uint8_t *original, uint64_t rip)
{
    uint8_t bytes[INSTRUCTION_MAX];
    memcpy(bytes, original, in->length);
    if (!in->rip_relative) {
        emit_mark(e);
        bytes_out(e, bytes, in->length);
        return;
    }
    uint64_t address = rip_operand(in, rip);
    clear_extensions(in, bytes);
    if (in->length < INSTRUCTION_MAX && (in->address_size == 4 || fits32(address))) {
        copy_absolute(e, in, bytes, address);
        return;
    }
    uint8_t scratch = choose_scratch(in, original), modrm = in->modrm_offset, after = (uint8_t)(modrm + 5);
    save(e, scratch, FIELD(scratch));
    e->now.scratch = scratch;
    move_address(e, scratch, address);
    emit_mark(e);
    bytes_out(e, bytes, modrm);
    byte_out(e, (bytes[modrm] & 0x38) | scratch);
    bytes_out(e, bytes + after, in->length - after);
    e->now.rip = rip + in->length; /* it is done, but for the register */
    load(e, scratch, FIELD(scratch));
    e->now.scratch = REG_NONE;
}

/* ---- ways out --------------------------------------------------------------------------------------------------
 */

void emit_callout(Emitter *e) { ud2(e, PLACE_CALLOUT); }

#define EXIT_SIZE 16u

/* JMP [literal]; UD2; literal. The literal is data: to link a block changes no code. */
void emit_exit(Emitter *e, uint64_t target)
{
    e->now.rip = target;
    e->now.from = RIP_KNOWN;
    CODE(e, "\xff\x25\x02\x00\x00\x00");
    uint32_t stub = e->at;
    e->now.exit = e->solo ? NONE : cache_add_exit(e->translator, target, stub + 2);
    ud2(e, PLACE_EXIT);
    e->now.exit = NONE;
    uint64_t address = LAB_BASE + stub;
    bytes_out(e, &address, 8);
}

void emit_branch(Emitter *e, const Instruction *in, const uint8_t *bytes, uint64_t rip)
{
    uint64_t next = rip + in->length;
    emit_mark(e);
    if (in->address_size == 4)
        byte_out(e, 0x67); /* counts in ECX */
    byte_out(e, in->map ? in->opcode - 0x10 : in->opcode);
    byte_out(e, EXIT_SIZE);
    (void)bytes;
    emit_exit(e, next);
    emit_exit(e, next + (uint64_t)in->imm);
}

/* With the target in TranslatorPage.target and RCX saved. */
static void look_up(Emitter *e)
{
    e->now.from = RIP_IN_TARGET;
    if (e->solo)
        ud2(e, PLACE_MISS);
    else
        jump_to(e, e->translator->lookup);
    e->now.saved = 0;
    e->now.from = RIP_KNOWN;
}

static void literal_push(Emitter *e, uint64_t value) /* PUSH [literal] where a 32-bit immediate will not do */
{
    emit_mark(e);
    if (fits32(value)) {
        byte_out(e, 0x68);
        number_out(e, (uint32_t)value);
        return;
    }
    bytes_out(e, "\xff\x35\x02\x00\x00\x00\xeb\x08", 8);
    bytes_out(e, &value, 8);
}

void emit_call(Emitter *e, uint64_t target, uint64_t next)
{
    uint32_t start = e->at;
    literal_push(e, next);
    e->now.rip = target;
    if (e->at - start == 16) { /* its JMP over the literal */
        uint32_t at = e->at;
        e->at = start + 6;
        emit_mark(e);
        e->at = at;
    }
    emit_exit(e, target);
}

/* MOV RCX, operand: the same ModRM, with the register 1. */
static void load_operand(Emitter *e, const Instruction *in, const uint8_t *bytes, uint64_t rip)
{
    if (in->rip_relative) {
        uint64_t address = rip_operand(in, rip);
        move_address(e, REG_RCX, address);
        emit_mark(e);
        if (in->segment)
            byte_out(e, in->segment);
        bytes_out(e, "\x48\x8b\x09", 3);
        return;
    }
    emit_mark(e);
    if (in->segment)
        byte_out(e, in->segment);
    if (in->address_size == 4)
        byte_out(e, 0x67);
    byte_out(e, 0x48 | (in->rex & 3));
    byte_out(e, 0x8b);
    byte_out(e, (bytes[in->modrm_offset] & 0xc7) | REG_RCX << 3);
    bytes_out(e, bytes + in->modrm_offset + 1, in->length - in->modrm_offset - 1u);
}

void emit_jump_indirect(Emitter *e, const Instruction *in, const uint8_t *bytes, uint64_t rip, bool call)
{
    save_rcx(e);
    load_operand(e, in, bytes, rip);
    save(e, REG_RCX, FIELD(target));
    if (call) {
        uint32_t start = e->at;
        literal_push(e, rip + in->length);
        e->now.from = RIP_IN_TARGET;
        if (e->at - start == 16) {
            uint32_t at = e->at;
            e->at = start + 6;
            emit_mark(e);
            e->at = at;
        }
    }
    look_up(e);
}

void emit_return(Emitter *e, uint16_t drop)
{
    save_rcx(e);
    CODE(e, "\x59"); /* POP RCX */
    e->now.popped = 8;
    save(e, REG_RCX, FIELD(target));
    if (drop) {
        emit_mark(e);
        bytes_out(e, "\x48\x8d\xa4\x24", 4); /* LEA RSP, [RSP + drop] */
        number_out(e, drop);
    }
    e->now.popped = 0;
    look_up(e);
}

/* ---- sensitive instructions ------------------------------------------------------------------------------------
 */

static void set_interrupts(Emitter *e, uint8_t value) /* MOV BYTE [interrupts], value */
{
    emit_mark(e);
    byte_out(e, 0xc6);
    field_out(e, 0, FIELD(interrupts), 1);
    byte_out(e, value);
}

void emit_cli(Emitter *e) { set_interrupts(e, 0); }

/* An interrupt waits, and now it may come. RCX is saved. */
static void check(Emitter *e, bool flag_too, enum PlaceHold hold)
{
    load_byte(e, REG_RCX, FIELD(pending));
    uint32_t none = forward(e, JRCXZ), off = 0;
    if (flag_too) {
        load_byte(e, REG_RCX, FIELD(interrupts));
        off = forward(e, JRCXZ);
    }
    Place before = e->now;
    restore_rcx(e);
    e->now.hold = hold;
    ud2(e, PLACE_CHECK);
    e->now = before;
    land(e, none);
    if (off)
        land(e, off);
    restore_rcx(e);
}

void emit_sti(Emitter *e, uint64_t next)
{
    set_interrupts(e, RFLAGS_IF >> 8);
    e->now.rip = next;
    e->now.hold = HOLD_SHADOW;
    if (e->solo)
        return; /* the exit that comes says it */
    save_rcx(e);
    check(e, false, HOLD_SHADOW);
}

/* The real RFLAGS have IF set and IOPL 0; the byte with both is made right on the guest's stack. */
void emit_pushf(Emitter *e)
{
    CODE(e, "\x9c");
    e->now.popped = -8;
    save_rcx(e);
    save(e, REG_RDX, FIELD(rdx));
    e->now.saved |= SAVED_RDX;
    CODE(e, "\x0f\xb6\x4c\x24\x01"); /* MOVZX ECX, BYTE [RSP + 1] */
    load_byte(e, REG_RDX, FIELD(interrupts));
    CODE(e, "\x48\x8d\x4c\x11\xfe"); /* LEA RCX, [RCX + RDX - 2] */
    load_byte(e, REG_RDX, FIELD(iopl));
    CODE(e, "\x48\x8d\x0c\x11"); /* LEA RCX, [RCX + RDX] */
    CODE(e, "\x88\x4c\x24\x01"); /* MOV [RSP + 1], CL */
    load(e, REG_RDX, FIELD(rdx));
    e->now.saved &= (uint8_t)~SAVED_RDX;
    restore_rcx(e);
    e->now.popped = 0;
}

/* After the POP nothing can fault, and an interrupt waits for the check. The trap flag is not set for real. */
void emit_popf(Emitter *e, uint64_t next)
{
    save_rcx(e);
    CODE(e, "\x59"); /* POP RCX */
    e->now.hold = HOLD_ROLL;
    save(e, REG_RCX, FIELD(value));
    CODE(e, "\xc1\xe9\x08\x83\xe1\x02"); /* SHR ECX, 8; AND ECX, IF */
    save(e, REG_RCX, FIELD(interrupts));
    load(e, REG_RCX, FIELD(value));
    CODE(e, "\xc1\xe9\x08\x83\xe1\x30"); /* SHR ECX, 8; AND ECX, IOPL */
    save(e, REG_RCX, FIELD(iopl));
    load(e, REG_RCX, FIELD(value));
    CODE(e, "\x81\xe1\xff\xfe\xff\xff"); /* AND ECX, ~TF */
    save(e, REG_RCX, FIELD(value));
    save(e, REG_RSP, FIELD(rsp));
    emit_mark(e);
    bytes_out(e, "\x48\x8d", 2); /* LEA RSP, [value] */
    field_out(e, REG_RSP, FIELD(value), 0);
    CODE(e, "\x9d");
    load(e, REG_RSP, FIELD(rsp));
    e->now.hold = HOLD_NOT;
    e->now.rip = next;
    check(e, true, HOLD_NOT);
}

void emit_load(Emitter *e, uint8_t reg, uint8_t size, size_t field)
{
    emit_mark(e);
    if (size == 2)
        byte_out(e, 0x66);
    if (size == 8 || reg & 8)
        byte_out(e, (size == 8 ? 0x48 : 0x40) | (reg & 8) >> 1);
    byte_out(e, 0x8b);
    field_out(e, reg, field, 0);
}

void emit_push_field(Emitter *e, size_t field)
{
    emit_mark(e);
    byte_out(e, 0xff);
    field_out(e, 6, field, 0);
}

/* More than 15 is #GP: the callout's. The value times 16 shows its upper bits from the second byte on, its top four
 * are looked at in the value itself. */
void emit_set_cr8(Emitter *e, uint8_t reg)
{
    save(e, reg, FIELD(jump));
    save_rcx(e);
    load(e, REG_RCX, FIELD(jump));
    CODE(e, "\x48\x8d\x0c\xcd\x00\x00\x00\x00"); /* LEA RCX, [RCX * 8] */
    CODE(e, "\x48\x8d\x0c\x09");                 /* LEA RCX, [RCX + RCX] */
    save(e, REG_RCX, FIELD(value));
    load(e, REG_RCX, FIELD(value) + 1); /* and the lowest byte of `zero` */
    uint32_t low = forward(e, JRCXZ);
    Place before = e->now;
    uint32_t refuse = e->at;
    restore_rcx(e);
    ud2(e, PLACE_CALLOUT);
    e->now = before;
    land(e, low);
    load_byte(e, REG_RCX, FIELD(jump) + 7);
    uint32_t high = forward(e, JRCXZ);
    jump_to(e, refuse);
    land(e, high);
    load(e, REG_RCX, FIELD(jump));
    save(e, REG_RCX, FIELD(cr) + 8 * sizeof(uint64_t));
    restore_rcx(e);
}

/* ---- common routines -------------------------------------------------------------------------------------------
 */

/* lookup: to the code for TranslatorPage.target, by the table; all registers but RCX as the guest left them.
 * retry: asks again for the code of that target, with all of them so. */
void emit_common(Translator *t)
{
    Emitter emitter = {.translator = t,
                       .memory = t->monitor->memory,
                       .at = t->used,
                       .now = {.from = RIP_IN_TARGET, .saved = SAVED_RCX, .scratch = REG_NONE, .exit = NONE}},
            *e = &emitter;
    t->lookup = e->at;
    load(e, REG_RCX, FIELD(target));
    save(e, REG_RDX, FIELD(rdx));
    e->now.saved |= SAVED_RDX;
    save(e, REG_RAX, FIELD(rax));
    e->now.saved |= SAVED_RAX;
    CODE(e, "\x0f\xb7\xd1"); /* MOVZX EDX, CX */
    emit_mark(e);
    bytes_out(e, "\x48\x8d\x05", 3); /* LEA RAX, [targets] */
    number_out(e, LAB_CODE - (e->at + 4));
    CODE(e, "\x48\x8d\x14\x12"); /* LEA RDX, [RDX + RDX] */
    CODE(e, "\x48\x8d\x04\xd0"); /* LEA RAX, [RAX + RDX * 8] */
    CODE(e, "\x48\x8b\x10");     /* MOV RDX, [RAX] */
    CODE(e, "\x48\x8d\x0c\x11"); /* LEA RCX, [RCX + RDX] */
    uint32_t hit = forward(e, JRCXZ);
    ud2(e, PLACE_MISS);
    land(e, hit);
    CODE(e, "\x48\x8b\x40\x08"); /* MOV RAX, [RAX + 8] */
    save(e, REG_RAX, FIELD(jump));
    load(e, REG_RAX, FIELD(rax));
    e->now.saved &= (uint8_t)~SAVED_RAX;
    load(e, REG_RDX, FIELD(rdx));
    e->now.saved &= (uint8_t)~SAVED_RDX;
    restore_rcx(e);
    emit_mark(e);
    byte_out(e, 0xff); /* JMP [jump] */
    field_out(e, 4, FIELD(jump), 0);
    t->retry = e->at;
    ud2(e, PLACE_MISS);
    t->used = e->at;
}
