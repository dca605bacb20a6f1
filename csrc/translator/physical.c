/*
 * The library's ways from a physical address to what is there, made short. Both of its own go through its tree of
 * memory regions, and lie on hot paths: four times in each page walk, and once in each access that its inline TLB
 * misses. Booting a kernel spent a tenth of its time there.
 */
#include "translator/vm.h"

/* Page table entries are in RAM, of which the machine has a few memslots; tables elsewhere go the library's way. */
static const void *entry_at(uint64_t address, uint64_t size)
{
    const TranslatorVcpu *vcpu = translator_current();
    return vcpu ? guest_memory_ptr(vcpu->board->memory, address, size, false) : NULL;
}

uint32_t x86_ldl_phys_x86_64(void *cpu, uint64_t address)
{
    const uint32_t *entry = entry_at(address, sizeof *entry);
    return likely(entry) ? __atomic_load_n(entry, __ATOMIC_RELAXED) : original_x86_ldl_phys_x86_64(cpu, address);
}

uint64_t x86_ldq_phys_x86_64(void *cpu, uint64_t address)
{
    const uint64_t *entry = entry_at(address, sizeof *entry);
    return likely(entry) ? __atomic_load_n(entry, __ATOMIC_RELAXED) : original_x86_ldq_phys_x86_64(cpu, address);
}

/* A memslot is one region. */
static void *region_of(TranslatorVcpu *vcpu, uint64_t address)
{
    for (size_t i = 0; i < vcpu->slot_count; i++) {
        CodeSlot *code = &vcpu->slots[i];
        if (address - code->slot->gpa >= code->slot->size)
            continue;
        if (!code->region)
            code->region = original_find_memory_mapping_x86_64(vcpu->uc, address);
        return code->region;
    }
    return original_find_memory_mapping_x86_64(vcpu->uc, address);
}

/* Which of the library's regions an address belongs to. They are made once, with the VM (translator.c), in whole
 * pages, so what was found for a page stays true. */
void *find_memory_mapping_x86_64(uc_engine *uc, uint64_t address)
{
    TranslatorVcpu *vcpu = translator_current();
    if (unlikely(!vcpu || vcpu->uc != uc))
        return original_find_memory_mapping_x86_64(uc, address);
    uint64_t page = address / GUEST_PAGE_SIZE;
    uint32_t index = page % MAPPINGS;
    if (unlikely(vcpu->mappings[index].tag != page + 1)) {
        vcpu->mappings[index].region = region_of(vcpu, address);
        vcpu->mappings[index].tag = page + 1;
    }
    return vcpu->mappings[index].region;
}
