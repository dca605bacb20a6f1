#include "translator/cpu_env.h"

void env_set_eflags(Env *env, uint64_t eflags)
{
    env->cc_src = eflags & EFLAGS_CC;
    env->cc_op = CC_OP_EFLAGS;
    env->df = eflags & EFLAGS_DF ? -1 : 1;
    env->eflags = (eflags & ~(uint64_t)(EFLAGS_CC | EFLAGS_DF)) | 2;
}

void env_update_hflags(Env *env, uint64_t efer)
{
    enum { CS = 1, SS = 2, DS = 3, ES = 0 };
    uint32_t h = env->hflags & HF_INHIBIT_IRQ;
    bool protected_mode = env->cr[0] & 1, virtual_8086 = env->eflags & EFLAGS_VM, long_mode = efer & (1 << 10);
    if (protected_mode)
        h |= HF_PE | (virtual_8086 ? 3 : env->segs[SS].flags >> DESCRIPTOR_DPL_SHIFT & 3);
    h |= (uint32_t)(env->cr[0] << 8) & (7u << 9); /* MP, EM, TS */
    if (env->cr[4] & (1 << 9))
        h |= HF_OSFXSR;
    if (env->cr[4] & (1 << 21))
        h |= HF_SMAP;
    if (long_mode)
        h |= HF_LMA;
    if (long_mode && env->segs[CS].flags & DESCRIPTOR_L) {
        h |= HF_CS32 | HF_SS32 | HF_CS64;
    } else {
        h |= env->segs[CS].flags & DESCRIPTOR_B ? HF_CS32 : 0;
        h |= env->segs[SS].flags & DESCRIPTOR_B ? HF_SS32 : 0;
        if (!protected_mode || virtual_8086 || !(h & HF_CS32) ||
            (env->segs[DS].base | env->segs[ES].base | env->segs[SS].base))
            h |= HF_ADDSEG;
    }
    env->hflags = h;
}
