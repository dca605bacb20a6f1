/*
 * CR4.UMIP (Intel SDM vol. 3A §2.5): SGDT, SIDT, SLDT, SMSW and STR are #GP(0) above ring 0. The library does not
 * know it.
 *
 * Their intermediate code is the only one that loads GDTR, IDTR, the selectors of LDTR and TR, and CR0 from the
 * CPU's structure; everything else asks a helper. So each such load is preceded by a call of the check below:
 *
 *     call    check                      raises #GP(0), or comes back
 *     ld_i64  t, env, offsetof(gdt.base)
 *
 * A call needs one of the library's helpers, whose types and effects it knows: that of SVM's intercepts, which is
 * for guests that never run here (CPUID has no SVM).
 */
#include "translator/vm.h"

#define RETURN_ADDRESS ((uintptr_t)__builtin_return_address(0))

enum { VECTOR_GP = 13, CR4_UMIP = 1 << 11 };

static bool is_revealed(uint64_t offset)
{
    switch (offset) {
    case offsetof(Env, gdt.base):
    case offsetof(Env, gdt.limit):
    case offsetof(Env, idt.base):
    case offsetof(Env, idt.limit):
    case offsetof(Env, ldt.selector):
    case offsetof(Env, tr.selector):
    case offsetof(Env, cr):
        return true;
    default:
        return false;
    }
}

void helper_svm_check_intercept_param_x86_64(Env *env, uint32_t type, uint64_t param)
{
    (void)type, (void)param;
    if (env->cr[4] & CR4_UMIP && env->hflags & HF_CPL)
        raise_exception_err_ra_x86_64(env, VECTOR_GP, 0, RETURN_ADDRESS);
}

static void call_check(void *tcg)
{
    char *type = (char *)tcg + tcg_const_i32_x86_64(tcg, 0), *param = (char *)tcg + tcg_const_i64_x86_64(tcg, 0);
    void *arguments[] = {(void *)tcg_cpu_env(tcg), type, param};
    original_tcg_gen_callN_x86_64(tcg, (void *)helper_svm_check_intercept_param_x86_64, NULL, 3, arguments);
    tcg_temp_free_internal_x86_64(tcg, param);
    tcg_temp_free_internal_x86_64(tcg, type);
}

/* A store to the same fields is LGDT's or LIDT's, which has been found to be in ring 0: the check does nothing
 * there. */
void tcg_gen_op3_x86_64(void *tcg, int operation, uint64_t operand1, uint64_t operand2, uint64_t operand3)
{
    if (unlikely(operand3 < sizeof(Env)) && operand2 == tcg_cpu_env(tcg) && is_revealed(operand3))
        call_check(tcg);
    original_tcg_gen_op3_x86_64(tcg, operation, operand1, operand2, operand3);
}
