/*
 * What the TLB of the translator does, counted where it is slow anyway: entries made, pages dropped (INVLPG), all
 * of it dropped (MOV to CR3, changes of CR0 and CR4, and some of the engine's own). A hit is three instructions of
 * translated code, and is not counted. One flush by the guest may be several here: the library keeps a TLB for each
 * of user, kernel and kernel with SMAP, but drops them in one call.
 */
#include "translator/vm.h"

/* One writer: the vCPU's thread. */
static void count(uint64_t *counter) { __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED); }

void translator_count_fill(TranslatorVcpu *vcpu, int mmu_index)
{
    if (likely(vcpu))
        count(mmu_index == MMU_USER ? &vcpu->tlb.fills_user : &vcpu->tlb.fills_kernel);
}

void tlb_flush_by_mmuidx_x86_64(void *cpu, uint16_t indices)
{
    TranslatorVcpu *vcpu = translator_current();
    if (vcpu) {
        count(&vcpu->tlb.flushes);
        jump_targets_tlb_flushed(vcpu);
    }
    original_tlb_flush_by_mmuidx_x86_64(cpu, indices);
}

void tlb_flush_page_by_mmuidx_x86_64(void *cpu, uint64_t vaddr, uint16_t indices)
{
    TranslatorVcpu *vcpu = translator_current();
    if (vcpu) {
        count(&vcpu->tlb.page_flushes);
        jump_targets_tlb_flushed(vcpu);
    }
    original_tlb_flush_page_by_mmuidx_x86_64(cpu, vaddr, indices);
}

int translator_statistics(Vcpu *base, EngineStatistic *statistics, uint32_t capacity)
{
    const TranslatorVcpu *vcpu = container_of(base, TranslatorVcpu, base);
    const EngineStatistic all[] = {
        {"tlb_fill_user", __atomic_load_n(&vcpu->tlb.fills_user, __ATOMIC_RELAXED)},
        {"tlb_fill_kernel", __atomic_load_n(&vcpu->tlb.fills_kernel, __ATOMIC_RELAXED)},
        {"tlb_flush", __atomic_load_n(&vcpu->tlb.flushes, __ATOMIC_RELAXED)},
        {"tlb_flush_page", __atomic_load_n(&vcpu->tlb.page_flushes, __ATOMIC_RELAXED)},
    };
    memcpy(statistics, all, MIN(capacity, ARRAY_SIZE(all)) * sizeof all[0]);
    return ARRAY_SIZE(all);
}

/* Whether an address of a TLB entry is one: not all ones, and not marked invalid. */
static bool is_held(uint64_t address) { return address != UINT64_MAX && !(address & TLB_INVALID); }

/* Left out: the victim TLB, eight entries that others pushed out and that are looked at before a walk. */
int translator_tlb(Vcpu *base, TlbTranslation *translations, uint32_t capacity)
{
    const TranslatorVcpu *vcpu = container_of(base, TranslatorVcpu, base);
    uint32_t found = 0;
    for (int index = 0; index < MMU_INDICES; index++) {
        const TlbTable *table = (const TlbTable *)env_field(vcpu->env, ENV_TLB) + index;
        for (uint64_t i = 0; i <= table->mask / sizeof(TlbEntry); i++) {
            const TlbEntry *entry = &table->entries[i];
            bool read = is_held(entry->read), write = is_held(entry->write), execute = is_held(entry->code);
            if (!read && !write && !execute)
                continue;
            if (found < capacity)
                translations[found] = (TlbTranslation){
                    .page = (read    ? entry->read
                             : write ? entry->write
                                     : entry->code) &
                            ~(uint64_t)TLB_FLAGS,
                    .physical = entry->paddr & ~(uint64_t)TLB_FLAGS,
                    .rights =
                        (read ? TLB_MAY_READ : 0) | (write ? TLB_MAY_WRITE : 0) | (execute ? TLB_MAY_EXECUTE : 0),
                    .user = index == MMU_USER,
                };
            found++;
        }
    }
    return (int)found;
}
