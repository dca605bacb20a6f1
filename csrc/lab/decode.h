/*
 * One instruction of 64-bit mode taken apart: its length, and where its pieces are (Intel SDM 2A §2, appendix A).
 *
 * It knows every length, of VEX and EVEX instructions too, and leaves meaning to who asks: most of what comes by is
 * only to be copied or stepped over. Left out: other modes, 3DNow!'s and XOP's maps, the extra immediates of AMD's
 * SSE4a, and whether an opcode that is defined in a map exists on some processor.
 */
#ifndef PYVMM_LAB_DECODE_H
#define PYVMM_LAB_DECODE_H

#include "engine/cpu_state.h"

#define INSTRUCTION_MAX 15 /* bytes */
#define REG_NONE        0xff

typedef struct Instruction {
    uint8_t length;
    uint8_t map; /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A, 5, 6: EVEX's */
    uint8_t opcode;
    uint8_t rex;          /* the prefix, or 0 */
    uint8_t operand_size; /* 2, 4 or 8, as prefixes say; not for opcodes whose size is their own */
    uint8_t address_size; /* 4 or 8 */
    uint8_t segment;      /* override 0x64 or 0x65, or 0: the others mean nothing here */
    uint8_t repeat;       /* 0xf2, 0xf3 or 0 */
    bool lock, has_modrm, rip_relative, vex;
    uint8_t prefixes;           /* bytes before the opcode's first (0F or VEX included in the opcode) */
    uint8_t mod, reg, rm;       /* REX applied to reg and, in mod 3, to rm */
    uint8_t modrm_offset;       /* of the ModRM byte */
    uint8_t scale, index, base; /* memory operand: registers, or REG_NONE */
    uint8_t disp_offset, disp_size, imm_offset, imm_size;
    int64_t disp, imm; /* sign-extended; ENTER's second one, and far offsets, are in it as read */
} Instruction;

/* Returns the length; -EILSEQ: no instruction of 64-bit mode (#UD); -E2BIG: more than 15 bytes (#GP, 3A table
 * 6-15); -ENODATA: `size` bytes are not all of it. */
int instruction_decode(Instruction *instruction, const uint8_t *bytes, size_t size);

/* The linear address of the memory operand (mod != 3). `rip`: of the instruction itself. */
gva_t instruction_address(const Instruction *instruction, const uint64_t gpr[16], uint64_t rip, uint64_t fs_base,
                          uint64_t gs_base);

#endif
