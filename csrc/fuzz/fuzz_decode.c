/* The lab's instruction decoder on any bytes: what it says lies within the instruction, and a shorter view of it is
 * never taken for another one. */
#include <stdlib.h>

#include "lab/decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool right)
{
    if (!right)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Instruction whole, part;
    int length = instruction_decode(&whole, data, size);
    if (length < 0) {
        check(length == -EILSEQ || length == -E2BIG || (length == -ENODATA && size < INSTRUCTION_MAX));
        return 0;
    }
    check(length == whole.length && length <= INSTRUCTION_MAX && (size_t)length <= size);
    check(whole.disp_offset + whole.disp_size <= length && whole.imm_offset + whole.imm_size <= length);
    check(whole.modrm_offset < length && whole.prefixes < length && whole.rm < 16 && whole.reg < 16);
    for (int shorter = 0; shorter < length; shorter++)
        check(instruction_decode(&part, data, (size_t)shorter) == -ENODATA);
    uint64_t gpr[16] = {0};
    instruction_address(&whole, gpr, 0, 0, 0);
    return 0;
}
