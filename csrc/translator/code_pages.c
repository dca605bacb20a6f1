/*
 * Which guest pages hold translated code, so that stores to them, and only to them, take the slow path.
 *
 * The library as built never gives a page that is executable the fast store path back, and forgets a second mapping
 * of a code page altogether. Here is what a translator must keep: a bit per page, set when a block of it is
 * translated (all TLB entries of that page then become "not dirty"), cleared when its last block is gone; a store
 * to a marked page invalidates blocks, a store to any other is direct. Writes by the host (DMA) go through a queue
 * that the vCPU's thread drains between blocks: the kick is stored before a device publishes its completion, so
 * code cannot run stale.
 *
 * Functions with the library's names stand in for its own (library.h). In the slow tier they hand on to it.
 */
#include <stdlib.h>

#include "translator/vm.h"

#define PAGE_WRITE_PROT 2 /* the library's PAGE_WRITE */

int code_pages_init(TranslatorVcpu *vcpu, Error *error)
{
    GuestMemory *memory = vcpu->board->memory;
    pthread_mutex_init(&vcpu->invalidation_lock, NULL);
    vcpu->slot_count = guest_memory_slot_count(memory);
    if (vcpu->slot_count > MAX_REGIONS)
        return error_set(error, ENOSPC, "the translator takes at most %d memslots", MAX_REGIONS);
    for (size_t i = 0; i < vcpu->slot_count; i++) {
        CodeSlot *code = &vcpu->slots[i];
        code->slot = guest_memory_slot(memory, i);
        code->ram_addr = qemu_ram_addr_from_host_x86_64(vcpu->uc, code->slot->hva);
        code->has_code = calloc((code->slot->size >> GUEST_PAGE_BITS) / 64 + 1, sizeof(uint64_t));
        if (!code->has_code || code->ram_addr == UINT64_MAX)
            return error_set(error, ENOMEM, "no host memory for the translator's page map");
    }
    return 0;
}

void code_pages_free(TranslatorVcpu *vcpu)
{
    for (size_t i = 0; i < vcpu->slot_count; i++)
        free(vcpu->slots[i].has_code);
    pthread_mutex_destroy(&vcpu->invalidation_lock);
}

static CodeSlot *slot_of_ram_addr(TranslatorVcpu *vcpu, uint64_t ram_addr, uint64_t *page)
{
    for (size_t i = 0; i < vcpu->slot_count; i++) {
        CodeSlot *code = &vcpu->slots[i];
        if (ram_addr - code->ram_addr < code->slot->size) {
            *page = (ram_addr - code->ram_addr) >> GUEST_PAGE_BITS;
            return code;
        }
    }
    return NULL;
}

static CodeSlot *slot_of_gpa(TranslatorVcpu *vcpu, gpa_t gpa, uint64_t *page)
{
    for (size_t i = 0; i < vcpu->slot_count; i++) {
        CodeSlot *code = &vcpu->slots[i];
        if (gpa - code->slot->gpa < code->slot->size) {
            *page = (gpa - code->slot->gpa) >> GUEST_PAGE_BITS;
            return code;
        }
    }
    return NULL;
}

static bool has_code(const CodeSlot *code, uint64_t page)
{
    return __atomic_load_n(&code->has_code[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1;
}

/* The vCPU whose code pages are kept here; NULL: leave it to the library. */
static TranslatorVcpu *fast_vcpu(void)
{
    TranslatorVcpu *vcpu = translator_current();
    return likely(vcpu && !vcpu->slow) ? vcpu : NULL;
}

/* A block of this page was translated. */
void tlb_protect_code_x86_64(uc_engine *uc, uint64_t ram_addr)
{
    TranslatorVcpu *vcpu = fast_vcpu();
    uint64_t page;
    if (!vcpu) {
        original_tlb_protect_code_x86_64(uc, ram_addr);
        return;
    }
    CodeSlot *code = slot_of_ram_addr(vcpu, ram_addr, &page);
    if (!code || has_code(code, page))
        return;
    __atomic_fetch_or(&code->has_code[page / 64], 1ull << (page % 64), __ATOMIC_SEQ_CST);
    tlb_reset_dirty_x86_64(vcpu->cpu, (uintptr_t)(code->slot->hva + (page << GUEST_PAGE_BITS)), GUEST_PAGE_SIZE);
}

/* The last block of this page is gone. */
void tlb_unprotect_code_x86_64(uc_engine *uc, uint64_t ram_addr)
{
    TranslatorVcpu *vcpu = fast_vcpu();
    uint64_t page;
    if (!vcpu) {
        original_tlb_unprotect_code_x86_64(uc, ram_addr);
        return;
    }
    CodeSlot *code = slot_of_ram_addr(vcpu, ram_addr, &page);
    if (code)
        __atomic_fetch_and(&code->has_code[page / 64], ~(1ull << (page % 64)), __ATOMIC_SEQ_CST);
}

/* The library's own, by virtual address only: would miss aliases, and tlb_protect_code did more already. */
void tlb_reset_dirty_by_vaddr_x86_64(void *cpu, uint64_t start, uint64_t length)
{
    if (!fast_vcpu())
        original_tlb_reset_dirty_by_vaddr_x86_64(cpu, start, length);
}

/*
 * Device memory that is RAM to the guest (memory/device_ram.h): the library knows it as a device, and only the TLB
 * entry is made to point to the bytes. So a change is a flush, instructions there are still fetched as from a
 * device, one by one, and no block of them can go stale.
 */
static void show_device_ram(TranslatorVcpu *vcpu, uint64_t vaddr, uint64_t paddr, int mmu_index)
{
    const uint64_t flags = TLB_FLAGS;
    const TlbTable *table = (const TlbTable *)env_field(vcpu->env, ENV_TLB) + mmu_index;
    TlbEntry *entry = &table->entries[vaddr >> GUEST_PAGE_BITS & table->mask / sizeof(TlbEntry)];
    vaddr &= ~flags;
    if (likely(!(entry->read & TLB_MMIO)) || (entry->read & ~flags) != vaddr)
        return;
    const uint8_t *host = device_ram_find(vcpu->board->device_rams, paddr & ~flags);
    if (!host)
        return;
    entry->read &= ~(uint64_t)TLB_MMIO;
    if ((entry->write & ~flags) == vaddr)
        entry->write &= ~(uint64_t)TLB_MMIO;
    entry->addend = (uintptr_t)host - vaddr;
}

/* A TLB entry was filled: stores go direct at once unless the page holds code. */
void tlb_set_page_with_attrs_x86_64(void *cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs, int prot,
                                    int mmu_index, uint64_t size)
{
    TranslatorVcpu *vcpu = fast_vcpu();
    original_tlb_set_page_with_attrs_x86_64(cpu, vaddr, paddr, attrs, prot, mmu_index, size);
    translator_count_fill(translator_current(), mmu_index);
    uint64_t page;
    CodeSlot *code = vcpu && prot & PAGE_WRITE_PROT ? slot_of_gpa(vcpu, paddr, &page) : NULL;
    if (code && !has_code(code, page))
        original_tlb_set_dirty_x86_64(cpu, vaddr);
    else if (vcpu && !code)
        show_device_ram(vcpu, vaddr, paddr, mmu_index);
}

void tb_invalidate_phys_page_fast_x86_64(uc_engine *uc, void *pages, uint64_t ram_addr, int size,
                                         uintptr_t return_address)
{
    TranslatorVcpu *vcpu = fast_vcpu();
    if (vcpu)
        vcpu->last_written_page = ram_addr;
    original_tb_invalidate_phys_page_fast_x86_64(uc, pages, ram_addr, size, return_address);
}

/* After a slow store: back to the direct path only if no code is left in the page just written. */
void tlb_set_dirty_x86_64(void *cpu, uint64_t vaddr)
{
    TranslatorVcpu *vcpu = fast_vcpu();
    uint64_t page;
    CodeSlot *code = vcpu ? slot_of_ram_addr(vcpu, vcpu->last_written_page, &page) : NULL;
    if (!code || !has_code(code, page))
        original_tlb_set_dirty_x86_64(cpu, vaddr);
}

static void queue_invalidation(TranslatorVcpu *vcpu, uint64_t start)
{
    pthread_mutex_lock(&vcpu->invalidation_lock);
    if (vcpu->invalidation_count == MAX_INVALIDATIONS) {
        vcpu->invalidate_all = true;
    } else {
        vcpu->invalidations[vcpu->invalidation_count].start = start;
        vcpu->invalidations[vcpu->invalidation_count].end = start + GUEST_PAGE_SIZE;
        vcpu->invalidation_count++;
    }
    __atomic_store_n(&vcpu->invalidations_pending, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&vcpu->invalidation_lock);
    translator_kick(vcpu);
}

/* Every slot that shows the page's bytes (the BIOS is seen at two addresses) may hold blocks of it. */
static void invalidate_aliases(TranslatorVcpu *vcpu, uint64_t ram_offset)
{
    for (size_t i = 0; i < vcpu->slot_count; i++) {
        CodeSlot *code = &vcpu->slots[i];
        uint64_t page = (ram_offset - code->slot->ram_offset) >> GUEST_PAGE_BITS;
        if (ram_offset - code->slot->ram_offset < code->slot->size && (vcpu->slow || has_code(code, page)))
            queue_invalidation(vcpu, code->ram_addr + (page << GUEST_PAGE_BITS));
    }
}

void code_pages_host_wrote(void *opaque, gpa_t gpa, uint64_t size)
{
    TranslatorVcpu *vcpu = opaque;
    uint64_t page, first = gpa >> GUEST_PAGE_BITS, last = (gpa + size - 1) >> GUEST_PAGE_BITS;
    for (uint64_t number = first; number <= last; number++) {
        CodeSlot *code = slot_of_gpa(vcpu, number << GUEST_PAGE_BITS, &page);
        if (code)
            invalidate_aliases(vcpu, code->slot->ram_offset + (page << GUEST_PAGE_BITS));
    }
}

void code_pages_run_invalidations(TranslatorVcpu *vcpu)
{
    if (likely(!__atomic_load_n(&vcpu->invalidations_pending, __ATOMIC_ACQUIRE)))
        return;
    pthread_mutex_lock(&vcpu->invalidation_lock);
    vcpu->invalidations_pending = 0;
    size_t count = vcpu->invalidate_all ? 0 : vcpu->invalidation_count;
    bool all = vcpu->invalidate_all;
    uint64_t starts[MAX_INVALIDATIONS];
    for (size_t i = 0; i < count; i++)
        starts[i] = vcpu->invalidations[i].start;
    vcpu->invalidation_count = 0;
    vcpu->invalidate_all = false;
    pthread_mutex_unlock(&vcpu->invalidation_lock);
    if (all)
        tb_flush_x86_64(vcpu->cpu);
    for (size_t i = 0; i < count; i++)
        tb_invalidate_phys_range_x86_64(vcpu->uc, starts[i], starts[i] + GUEST_PAGE_SIZE);
}
