/*
 * The Unicorn library, linked in: an x86-64-only copy of its own, made by cmake/bind_unicorn.py, of which nothing
 * outside this shared object can be seen. A user's own `import unicorn` is another library.
 *
 * Declared here is what unicorn/unicorn.h does not: internal functions that the engine calls, and those that it
 * replaces. `cpu` is the library's CPUState, `env` its CPUX86State (cpu_env.h).
 */
#ifndef PYVMM_TRANSLATOR_LIBRARY_H
#define PYVMM_TRANSLATOR_LIBRARY_H

#include <unicorn/unicorn.h>

#include "translator/cpu_env.h"

/* Called by us */
void *qemu_get_cpu_x86_64(uc_engine *uc, int index);
void x86_cpu_do_interrupt_x86_64(void *cpu);
void do_interrupt_x86_hardirq_x86_64(Env *env, int vector, int is_hardware);
void raise_exception_err_ra_x86_64(Env *env, int vector, int error_code, uintptr_t return_address)
    __attribute__((noreturn));
void cpu_loop_exit_noexc_x86_64(void *cpu) __attribute__((noreturn));
bool cpu_restore_state_x86_64(void *cpu, uintptr_t return_address, bool will_exit);
void tlb_flush_x86_64(void *cpu);
const uint64_t *tb_htable_lookup_x86_64(void *cpu, uint64_t pc, uint64_t cs_base, uint32_t flags, uint32_t cflags);
void tb_flush_x86_64(void *cpu);
void tlb_reset_dirty_x86_64(void *cpu, uintptr_t host, uint64_t size);
void tb_invalidate_phys_range_x86_64(uc_engine *uc, uint64_t start, uint64_t end);
uint64_t qemu_ram_addr_from_host_x86_64(uc_engine *uc, void *host);
void *memory_region_from_host_x86_64(uc_engine *uc, void *host, uint64_t *offset);
void memory_region_set_readonly_x86_64(void *region, bool readonly);
void x86_cpu_set_a20_x86_64(void *cpu, int on);
uint64_t helper_read_eflags_x86_64(Env *env);
void helper_check_iob_x86_64(Env *env, uint32_t port);
void helper_check_iow_x86_64(Env *env, uint32_t port);
void helper_check_iol_x86_64(Env *env, uint32_t port);
void cpu_x86_cpuid_x86_64(Env *env, uint32_t leaf, uint32_t subleaf, uint32_t *eax, uint32_t *ebx, uint32_t *ecx,
                          uint32_t *edx);
void helper_check_exit_request_x86_64(uc_engine *uc, uint32_t delay_slot);
/* Intermediate code. Operands are addresses, but a TCGv, where a function takes or returns one, is relative to
 * `tcg`. */
void *gen_new_label_x86_64(void *tcg);
void *tcg_temp_new_internal_x86_64(void *tcg, int type, bool local);
void tcg_temp_free_internal_x86_64(void *tcg, void *temporary);
int64_t tcg_const_i32_x86_64(void *tcg, int32_t value);
int64_t tcg_const_i64_x86_64(void *tcg, int64_t value);
void tcg_gen_op1_x86_64(void *tcg, int operation, uint64_t operand);
void tcg_gen_brcondi_i32_x86_64(void *tcg, int condition, int64_t value, int32_t immediate, void *label);

/* The operand that is the CPU's structure. */
static inline uint64_t tcg_cpu_env(void *tcg) { return (uint64_t)tcg + *(uint64_t *)env_field(tcg, TCG_CPU_ENV); }

/*
 * Replaced: the library's calls of NAME, and its tables, reach ours; its own code is original_NAME. The list is
 * PYVMM_UNICORN_REPLACED in cmake/unicorn.cmake; the link fails when a name is in one place only.
 */
#define REPLACED(result, name, ...)                                                                                \
    result original_##name(__VA_ARGS__);                                                                           \
    result name(__VA_ARGS__)

/* System instructions (overrides.c): called from translated code only, so always inside a run of ours. */
REPLACED(uint64_t, helper_inb_x86_64, Env *env, uint32_t port);
REPLACED(uint64_t, helper_inw_x86_64, Env *env, uint32_t port);
REPLACED(uint64_t, helper_inl_x86_64, Env *env, uint32_t port);
REPLACED(void, helper_outb_x86_64, Env *env, uint32_t port, uint32_t value);
REPLACED(void, helper_outw_x86_64, Env *env, uint32_t port, uint32_t value);
REPLACED(void, helper_outl_x86_64, Env *env, uint32_t port, uint32_t value);
REPLACED(void, helper_rdmsr_x86_64, Env *env);
REPLACED(void, helper_wrmsr_x86_64, Env *env);
REPLACED(uint64_t, helper_read_crN_x86_64, Env *env, int number);
REPLACED(void, helper_write_crN_x86_64, Env *env, int number, uint64_t value);
REPLACED(void, helper_xsetbv_x86_64, Env *env, uint32_t index, uint64_t value);
REPLACED(void, helper_rdtsc_x86_64, Env *env);
REPLACED(void, helper_rdtscp_x86_64, Env *env);
REPLACED(void, helper_rdpmc_x86_64, Env *env);
REPLACED(void, helper_cpuid_x86_64, Env *env);
REPLACED(void, helper_syscall_x86_64, Env *env, int length);
REPLACED(void, helper_sysenter_x86_64, Env *env, int length);
REPLACED(void, helper_hlt_x86_64, Env *env, int length);
REPLACED(void, helper_raise_interrupt_x86_64, Env *env, int vector, int length);
REPLACED(void, helper_into_x86_64, Env *env, int length);
/* Stopping (overrides.c) */
REPLACED(void, qemu_system_reset_request, uc_engine *uc);
REPLACED(bool, x86_cpu_exec_interrupt_x86_64, void *cpu, int request);
REPLACED(void, check_exit_request_x86_64, void *tcg_context);
/* Stopping (exit_check.c): generators of intermediate code */
REPLACED(void, tcg_gen_callN_x86_64, void *tcg, void *function, void *result, int count, void **arguments);
REPLACED(void, tcg_gen_exit_tb_x86_64, void *tcg, const uint64_t *block, unsigned index);
/* Physical addresses (physical.c) */
REPLACED(uint32_t, x86_ldl_phys_x86_64, void *cpu, uint64_t address);
REPLACED(uint64_t, x86_ldq_phys_x86_64, void *cpu, uint64_t address);
REPLACED(void *, find_memory_mapping_x86_64, uc_engine *uc, uint64_t address);
/* User-mode instruction prevention (umip.c): a generator, and a helper that the library calls only for SVM guests
 */
REPLACED(void, tcg_gen_op3_x86_64, void *tcg, int operation, uint64_t operand1, uint64_t operand2,
         uint64_t operand3);
REPLACED(void, helper_svm_check_intercept_param_x86_64, Env *env, uint32_t type, uint64_t param);
/* Code pages (code_pages.c) */
REPLACED(void, tlb_protect_code_x86_64, uc_engine *uc, uint64_t ram_addr);
REPLACED(void, tlb_unprotect_code_x86_64, uc_engine *uc, uint64_t ram_addr);
REPLACED(void, tlb_reset_dirty_by_vaddr_x86_64, void *cpu, uint64_t start, uint64_t length);
REPLACED(void, tlb_set_page_with_attrs_x86_64, void *cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs, int prot,
         int mmu_index, uint64_t size);
REPLACED(void, tlb_set_dirty_x86_64, void *cpu, uint64_t vaddr);
/* Jump targets (jump_targets.c): a helper, and the hash table of blocks */
REPLACED(const void *, helper_lookup_tb_ptr_x86_64, Env *env);
REPLACED(bool, qht_remove, void *table, const void *block, uint32_t hash);
REPLACED(bool, qht_reset_size, uc_engine *uc, void *table, size_t size);
/* Flushes of the TLB (tlb.c): all the others come down to these */
REPLACED(void, tlb_flush_by_mmuidx_x86_64, void *cpu, uint16_t indices);
REPLACED(void, tlb_flush_page_by_mmuidx_x86_64, void *cpu, uint64_t vaddr, uint16_t indices);
REPLACED(void, tb_invalidate_phys_page_fast_x86_64, uc_engine *uc, void *pages, uint64_t ram_addr, int size,
         uintptr_t return_address);

#undef REPLACED

#endif
