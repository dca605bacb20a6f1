/*
 * What the TLB of the translator does, counted where it is slow anyway: entries made, pages dropped (INVLPG), all
 * of it dropped (MOV to CR3, changes of CR0 and CR4, and some of the engine's own). A hit is three instructions of
 * translated code, and is not counted. One flush by the guest may be several here: the library keeps a TLB for each
 * of user, kernel and kernel with SMAP, but drops them in one call.
 */
#include "translator/vm.h"

enum { MMU_USER = 1 }; /* the library's MMU_USER_IDX */

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
    if (vcpu)
        count(&vcpu->tlb.flushes);
    original_tlb_flush_by_mmuidx_x86_64(cpu, indices);
}

void tlb_flush_page_by_mmuidx_x86_64(void *cpu, uint64_t vaddr, uint16_t indices)
{
    TranslatorVcpu *vcpu = translator_current();
    if (vcpu)
        count(&vcpu->tlb.page_flushes);
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
