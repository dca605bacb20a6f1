/*
 * Where translated code goes on after an indirect jump, a return, or a direct jump to another page: from linear
 * address and flags to host code, once for every few guest instructions.
 *
 * The library's own table has 4096 pointers to block descriptors: two cache lines for each jump, the block's being
 * mostly a miss, and a search of the hash table of all blocks after each change of CR3, which empties it. Here one
 * cache line has all that is compared, and a change of CR3 empties nothing. A target remembers in which generation
 * of the TLB it was right, and where in the host's memory the guest's instruction was. If the TLB, filled anew,
 * shows the same bytes at the same address, then the target is right again.
 *
 * A block that is no longer to be found is forgotten here at the same moment: both ways out of the library's hash
 * table pass through this file.
 */
#include <sys/mman.h>

#include "translator/vm.h"

enum { TARGET_BITS = 14, TARGETS = 1 << TARGET_BITS, CS = 1 };

#define TABLE_BYTES (TARGETS * (sizeof(JumpTarget) + sizeof(uintptr_t)))

/* What a block depends on beside HFLAGS. The library's cpu_get_tb_cpu_state has the same. */
enum { EFLAGS_IN_BLOCK = EFLAGS_TF | EFLAGS_IOPL | EFLAGS_RF | EFLAGS_VM | EFLAGS_AC };

struct JumpTarget {
    uint64_t pc, cs_base;
    uint32_t flags;
    uint32_t generation; /* 0: never right */
    const void *code;
};

/* After the targets, in the same order: where the guest's bytes are; 0: the block is in two pages, or nothing is
 * here. */
static uintptr_t *host_of(TranslatorVcpu *vcpu, const JumpTarget *target)
{
    return (uintptr_t *)(vcpu->jump_targets + TARGETS) + (target - vcpu->jump_targets);
}

int jump_targets_init(TranslatorVcpu *vcpu, Error *error)
{
    void *table = mmap(NULL, TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        return error_set(error, ENOMEM, "no host memory for the translator's jump targets");
    vcpu->jump_targets = table;
    vcpu->jump_generation = 1;
    return 0;
}

void jump_targets_free(TranslatorVcpu *vcpu)
{
    if (vcpu->jump_targets)
        munmap(vcpu->jump_targets, TABLE_BYTES);
}

static JumpTarget *target_of(TranslatorVcpu *vcpu, uint64_t pc)
{
    return &vcpu->jump_targets[pc * 0x9e3779b97f4a7c15 >> (64 - TARGET_BITS)];
}

static void forget_all(TranslatorVcpu *vcpu)
{
    madvise(vcpu->jump_targets, TABLE_BYTES, MADV_DONTNEED); /* zeroes when looked at */
    vcpu->jump_generation = 1;
}

void jump_targets_tlb_flushed(TranslatorVcpu *vcpu)
{
    if (unlikely(++vcpu->jump_generation == 0))
        forget_all(vcpu);
}

/* Where the guest's bytes at `pc` are if instructions may be fetched there and the TLB says so at once; else 0. */
static uintptr_t host_of_code(const Env *env, uint64_t pc)
{
    const TlbTable *table = (const TlbTable *)env_field((void *)env, ENV_TLB) + env_mmu_index(env);
    const TlbEntry *entry = &table->entries[pc >> GUEST_PAGE_BITS & table->mask / sizeof(TlbEntry)];
    return entry->code == (pc & ~(uint64_t)TLB_FLAGS) ? pc + entry->addend : 0;
}

static __attribute__((noinline)) const void *find(TranslatorVcpu *vcpu, JumpTarget *target, uint64_t pc,
                                                  uint64_t cs_base, uint32_t flags)
{
    Env *env = vcpu->env;
    if (unlikely(vcpu->slow))
        return original_helper_lookup_tb_ptr_x86_64(env);
    uintptr_t *host = host_of(vcpu, target);
    if (target->pc == pc && target->cs_base == cs_base && target->flags == flags && *host &&
        *host == host_of_code(env, pc)) {
        target->generation = vcpu->jump_generation;
        return target->code;
    }
    uint32_t cluster = *(uint32_t *)env_field(vcpu->cpu, CPU_CLUSTER_INDEX) << CF_CLUSTER_SHIFT;
    const uint64_t *block = tb_htable_lookup_x86_64(vcpu->cpu, pc, cs_base, flags, cluster);
    if (!block)
        return original_helper_lookup_tb_ptr_x86_64(env); /* the way out, to have it made */
    *target = (JumpTarget){
        .pc = pc,
        .cs_base = cs_base,
        .flags = flags,
        .generation = vcpu->jump_generation,
        .code = (const void *)block[TB_CODE],
    };
    *host = block[TB_SECOND_PAGE] == UINT64_MAX ? host_of_code(env, pc) : 0;
    return target->code;
}

const void *helper_lookup_tb_ptr_x86_64(Env *env)
{
    TranslatorVcpu *vcpu = translator_current();
    uint64_t cs_base = env->segs[CS].base, pc = cs_base + env->eip;
    uint32_t flags = env->hflags | ((uint32_t)env->eflags & EFLAGS_IN_BLOCK);
    JumpTarget *target = target_of(vcpu, pc);
    if (likely(target->pc == pc && target->generation == vcpu->jump_generation && target->flags == flags &&
               target->cs_base == cs_base))
        return target->code;
    return find(vcpu, target, pc, cs_base, flags);
}

/* A block is taken out: its page was written to. */
bool qht_remove(void *table, const void *block, uint32_t hash)
{
    TranslatorVcpu *vcpu = translator_current();
    const uint64_t *gone = block;
    JumpTarget *target = vcpu ? target_of(vcpu, gone[TB_PC]) : NULL;
    if (target && target->code == (const void *)gone[TB_CODE])
        *target = (JumpTarget){0};
    return original_qht_remove(table, block, hash);
}

/* All blocks are: the buffer for their code is full, or the engine wants none. */
bool qht_reset_size(uc_engine *uc, void *table, size_t size)
{
    TranslatorVcpu *vcpu = translator_current();
    if (vcpu && vcpu->jump_targets)
        forget_all(vcpu);
    return original_qht_reset_size(uc, table, size);
}
