/*
 * The check for a stop at the start of each block, as code in the block and not as the library's call of a
 * function.
 *
 *     ld_i32  t, icount_decr             negative when translator_kick has stored all ones into its upper half
 *     brcond  t < 0, requested
 *     ...                                the block
 * requested:
 *     st_i64  RIP of the block's start
 *     exit_tb TB_EXIT_REQUESTED          back to the library's loop, which looks at x86_cpu_exec_interrupt
 *
 * Nothing of the block has run when the branch is taken. RIP is stored here because the loop does so only when no
 * stop was asked for and no instruction hook is set. The slow tier, which stops by a hook on blocks, keeps the
 * library's call.
 */
#include "translator/vm.h"

/* The intermediate code's numbers in this build of the library, as its own generators use them. */
enum { OP_SET_LABEL = 1, OP_LD_I32 = 13, OP_ST_I64 = 77, COND_LT = 2, TYPE_I32 = 0, TB_EXIT_REQUESTED = 3 };

/* The call that starts every block; all others are the library's business. */
void tcg_gen_callN_x86_64(void *tcg, void *function, void *result, int count, void **arguments)
{
    TranslatorVcpu *vcpu = translator_current();
    if (likely(function != (void *)helper_check_exit_request_x86_64) || !vcpu || vcpu->slow) {
        original_tcg_gen_callN_x86_64(tcg, function, result, count, arguments);
        return;
    }
    void *asked = tcg_temp_new_internal_x86_64(tcg, TYPE_I32, false);
    int64_t offset = (int64_t)((char *)vcpu->icount_high - 2 - (char *)vcpu->env);
    vcpu->requested_label = gen_new_label_x86_64(tcg);
    tcg_gen_op3_x86_64(tcg, OP_LD_I32, (uint64_t)asked, tcg_cpu_env(tcg), (uint64_t)offset);
    tcg_gen_brcondi_i32_x86_64(tcg, COND_LT, (char *)asked - (char *)tcg, 0, vcpu->requested_label);
    tcg_temp_free_internal_x86_64(tcg, asked);
}

/* TB_EXIT_REQUESTED is emitted once, at the end of every block. */
void tcg_gen_exit_tb_x86_64(void *tcg, const uint64_t *block, unsigned index)
{
    TranslatorVcpu *vcpu = translator_current();
    if (index == TB_EXIT_REQUESTED && vcpu && vcpu->requested_label) {
        uint16_t *label = vcpu->requested_label;
        vcpu->requested_label = NULL;
        *label |= LABEL_PRESENT;
        tcg_gen_op1_x86_64(tcg, OP_SET_LABEL, (uint64_t)label);
        char *rip = (char *)tcg + tcg_const_i64_x86_64(tcg, (int64_t)(block[TB_PC] - block[TB_CS_BASE]));
        tcg_gen_op3_x86_64(tcg, OP_ST_I64, (uint64_t)rip, tcg_cpu_env(tcg), offsetof(Env, eip));
        tcg_temp_free_internal_x86_64(tcg, rip);
    }
    original_tcg_gen_exit_tb_x86_64(tcg, block, index);
}
