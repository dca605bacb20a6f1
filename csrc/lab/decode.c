#include <string.h>

#include "lab/decode.h"

/*
 * What follows each opcode. '.': nothing; m: ModRM; b, w, z: immediate of 1, 2, or operand-size-but-at-most-4
 * bytes; M, Z: ModRM and immediate b, z; d: 4 bytes whatever the size; q: operand size, 8 too; a: address size; e:
 * ENTER's 3; g, G: ModRM, and for TEST an immediate b, z; p: prefix, r: REX, v: VEX, E: EVEX, o: the next map; x:
 * no instruction in 64-bit mode.
 */
static const char ONE_BYTE[257] = "mmmmbzxx"
                                  "mmmmbzxo"
                                  "mmmmbzxx"
                                  "mmmmbzxx" /* 00 */
                                  "mmmmbzpx"
                                  "mmmmbzpx"
                                  "mmmmbzpx"
                                  "mmmmbzpx" /* 20 */
                                  "rrrrrrrr"
                                  "rrrrrrrr"
                                  "........"
                                  "........" /* 40 */
                                  "xxEmpppp"
                                  "zZbM...."
                                  "bbbbbbbb"
                                  "bbbbbbbb" /* 60 */
                                  "MZxMmmmm"
                                  "mmmmmmmm"
                                  "........"
                                  "..x....." /* 80 */
                                  "aaaa...."
                                  "bz......"
                                  "bbbbbbbb"
                                  "qqqqqqqq" /* a0 */
                                  "MMw.vvMZ"
                                  "e.w..bx."
                                  "mmmmxxx."
                                  "mmmmmmmm" /* c0 */
                                  "bbbbbbbb"
                                  "ddxb...."
                                  "p.pp..gG"
                                  "......mm"; /* e0 */

static const char TWO_BYTES[257] = "mmmmx..."
                                   "..x.xm.M"
                                   "mmmmmmmm"
                                   "mmmmmmmm" /* 00 */
                                   "mmmmxxxx"
                                   "mmmmmmmm"
                                   "......x."
                                   "oxoxxxxx" /* 20 */
                                   "mmmmmmmm"
                                   "mmmmmmmm"
                                   "mmmmmmmm"
                                   "mmmmmmmm" /* 40 */
                                   "mmmmmmmm"
                                   "mmmmmmmm"
                                   "MMMMmmm."
                                   "mmxxmmmm" /* 60 */
                                   "dddddddd"
                                   "dddddddd"
                                   "mmmmmmmm"
                                   "mmmmmmmm" /* 80 */
                                   "...mMmxx"
                                   "...mMmmm"
                                   "mmmmmmmm"
                                   "mmMmmmmm" /* a0 */
                                   "mmMmMMMm"
                                   "........"
                                   "mmmmmmmm"
                                   "mmmmmmmm" /* c0 */
                                   "mmmmmmmm"
                                   "mmmmmmmm"
                                   "mmmmmmmm"
                                   "mmmmmmmm"; /* e0 */

typedef struct Reader {
    const uint8_t *bytes;
    size_t size, at;
    int error;
} Reader;

static uint8_t next_byte(Reader *reader)
{
    if (reader->at >= INSTRUCTION_MAX)
        reader->error = reader->error ? reader->error : -E2BIG;
    else if (reader->at >= reader->size && !reader->error)
        reader->error = -ENODATA;
    return reader->error ? 0 : reader->bytes[reader->at++];
}

static int64_t next_number(Reader *reader, uint8_t size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)next_byte(reader) << 8 * i;
    unsigned above = size && size < 8 ? 64 - 8 * size : 0;
    return (int64_t)(value << above) >> above;
}

/* Legacy prefixes in any order, then REX, which counts only in front of the opcode (2A §2.2.1). Returns the opcode.
 */
static uint8_t read_prefixes(Instruction *out, Reader *reader, bool *operand16)
{
    for (;;) {
        uint8_t byte = next_byte(reader);
        if (reader->error)
            return 0;
        if (ONE_BYTE[byte] == 'r') {
            out->rex = byte;
            continue;
        }
        if (ONE_BYTE[byte] != 'p')
            return byte;
        out->rex = 0;
        if (byte == 0x66)
            *operand16 = true;
        else if (byte == 0x67)
            out->address_size = 4;
        else if (byte == 0xf0)
            out->lock = true;
        else if (byte == 0xf2 || byte == 0xf3)
            out->repeat = byte;
        else if (byte == 0x64 || byte == 0x65)
            out->segment = byte;
    }
}

static void read_memory_operand(Instruction *out, Reader *reader)
{
    uint8_t b = (uint8_t)(out->rex << 3 & 8), low = out->rm & 7;
    out->index = REG_NONE;
    out->base = low | b;
    out->disp_size = out->mod == 1 ? 1 : out->mod == 2 ? 4 : 0;
    if (low == 4) {
        uint8_t sib = next_byte(reader), index = (uint8_t)((sib >> 3 & 7) | (out->rex << 2 & 8));
        out->scale = sib >> 6;
        out->index = index == 4 ? REG_NONE : index;
        out->base = (sib & 7) | b;
        if ((sib & 7) == 5 && out->mod == 0) {
            out->base = REG_NONE;
            out->disp_size = 4;
        }
    } else if (low == 5 && out->mod == 0) {
        out->base = REG_NONE;
        out->rip_relative = true;
        out->disp_size = 4;
    }
    out->disp_offset = out->disp_size ? (uint8_t)reader->at : 0;
    out->disp = next_number(reader, out->disp_size);
}

static void read_modrm(Instruction *out, Reader *reader)
{
    out->modrm_offset = (uint8_t)reader->at;
    uint8_t modrm = next_byte(reader);
    out->has_modrm = true;
    out->mod = modrm >> 6;
    out->reg = (uint8_t)((modrm >> 3 & 7) | (out->rex << 1 & 8));
    out->rm = modrm & 7;
    if (out->map == 1 && !out->vex && out->opcode >= 0x20 && out->opcode <= 0x23)
        out->mod = 3; /* MOV to and from CRn and DRn: registers whatever mod says (2B MOV) */
    if (out->mod == 3)
        out->rm |= out->rex << 3 & 8;
    else
        read_memory_operand(out, reader);
}

/* C5, C4 and 62: what they say goes where REX and 0F would have said it (2A §2.3.5, §2.7.1). */
static void read_vex(Instruction *out, Reader *reader, uint8_t first)
{
    uint8_t second = next_byte(reader), w = 0;
    out->vex = true;
    if (first == 0xc5) {
        out->map = 1;
        out->rex = (uint8_t)(0x40 | (~second >> 5 & 4));
    } else {
        out->map = second & (first == 0xc4 ? 0x1f : 7);
        out->rex = (uint8_t)(0x40 | (~second >> 5 & 7));
        w = next_byte(reader);
        out->rex |= w >> 4 & 8;
        if (first == 0x62) {
            if (!(w & 4))
                reader->error = reader->error ? reader->error : -EILSEQ;
            next_byte(reader);
        }
    }
    out->opcode = next_byte(reader);
}

static char form_of(const Instruction *out, bool evex)
{
    if (out->map == 0)
        return ONE_BYTE[out->opcode];
    if (out->map == 1 && out->vex)
        return out->opcode == 0x77 && !evex ? '.' : TWO_BYTES[out->opcode] == 'M' ? 'M' : 'm';
    if (out->map == 1)
        return TWO_BYTES[out->opcode];
    if (out->map == 2 || (evex && (out->map == 5 || out->map == 6)))
        return 'm';
    return out->map == 3 ? 'M' : 'x';
}

static uint8_t immediate_size(const Instruction *out, char form)
{
    uint8_t z = out->operand_size == 2 ? 2 : 4;
    switch (form) {
    case 'b':
    case 'M':
        return 1;
    case 'g':
        return (out->reg & 7) < 2 ? 1 : 0;
    case 'G':
        return (out->reg & 7) < 2 ? z : 0;
    case 'w':
        return 2;
    case 'e':
        return 3;
    case 'z':
    case 'Z':
        return z;
    case 'd':
        return 4;
    case 'q':
        return out->operand_size;
    case 'a':
        return out->address_size;
    default:
        return 0;
    }
}

int instruction_decode(Instruction *out, const uint8_t *bytes, size_t size)
{
    Reader reader = {bytes, size, 0, 0};
    bool operand16 = false, evex = false;
    *out = (Instruction){.address_size = 8, .index = REG_NONE, .base = REG_NONE};
    out->opcode = read_prefixes(out, &reader, &operand16);
    out->prefixes = (uint8_t)(reader.at ? reader.at - 1 : 0);
    char form = ONE_BYTE[out->opcode];
    if (form == 'v' || form == 'E') {
        if (out->rex || out->lock || out->repeat || operand16)
            return reader.error ? reader.error : -EILSEQ; /* 2A §2.3.2 to §2.3.4 */
        evex = form == 'E';
        read_vex(out, &reader, out->opcode);
    } else if (form == 'o') {
        out->map = 1;
        out->opcode = next_byte(&reader);
        if (TWO_BYTES[out->opcode] == 'o' && !reader.error) {
            out->map = out->opcode == 0x38 ? 2 : 3;
            out->opcode = next_byte(&reader);
        }
    }
    out->operand_size = out->rex & 8 ? 8 : operand16 ? 2 : 4;
    form = form_of(out, evex);
    if (form == 'x' || form == 'p' || form == 'r')
        return reader.error ? reader.error : -EILSEQ;
    if (strchr("mMZgG", form))
        read_modrm(out, &reader);
    out->imm_size = immediate_size(out, form);
    out->imm_offset = out->imm_size ? (uint8_t)reader.at : 0;
    out->imm = next_number(&reader, out->imm_size);
    out->length = (uint8_t)reader.at;
    return reader.error ? reader.error : out->length;
}

gva_t instruction_address(const Instruction *instruction, const uint64_t gpr[16], uint64_t rip, uint64_t fs_base,
                          uint64_t gs_base)
{
    uint64_t address = (uint64_t)instruction->disp;
    if (instruction->rip_relative)
        address += rip + instruction->length;
    if (instruction->base != REG_NONE)
        address += gpr[instruction->base];
    if (instruction->index != REG_NONE)
        address += gpr[instruction->index] << instruction->scale;
    if (instruction->address_size == 4)
        address = (uint32_t)address;
    return address + (instruction->segment == 0x64 ? fs_base : instruction->segment == 0x65 ? gs_base : 0);
}
