/*
 * A private copy of the Unicorn library with some of its internal functions replaced by ours.
 *
 * The copy is a memfd, opened with RTLD_LOCAL, so that a user's own `import unicorn` is untouched. A replacement rewrites
 * every relocated slot (GLOB_DAT, JUMP_SLOT, 64) of a symbol name; the library is not linked with -Bsymbolic, so all its
 * calls of global functions go through such slots (System V ABI, AMD64 supplement §4.4). Done before the first uc_open.
 */
#ifndef PYVMM_TRANSLATOR_UNICORN_LIBRARY_H
#define PYVMM_TRANSLATOR_UNICORN_LIBRARY_H

#include <unicorn/unicorn.h>

#include "translator/translator.h"

/* What the engine calls in the library. Opaque pointers: `cpu` is its CPUState, `env` its CPUX86State. */
typedef struct UnicornApi {
    /* public */
    uc_err (*open)(uc_arch arch, uc_mode mode, uc_engine **uc);
    uc_err (*close)(uc_engine *uc);
    unsigned (*version)(unsigned *major, unsigned *minor);
    const char *(*strerror)(uc_err code);
    uc_err (*emu_start)(uc_engine *uc, uint64_t begin, uint64_t until, uint64_t timeout, size_t count);
    uc_err (*emu_stop)(uc_engine *uc);
    uc_err (*mem_map_ptr)(uc_engine *uc, uint64_t address, size_t size, uint32_t perms, void *ptr);
    uc_err (*mmio_map)(uc_engine *uc, uint64_t address, size_t size, uc_cb_mmio_read_t read, void *read_data,
                       uc_cb_mmio_write_t write, void *write_data);
    uc_err (*hook_add)(uc_engine *uc, uc_hook *hook, int type, void *callback, void *user, uint64_t begin,
                       uint64_t end, ...);
    uc_err (*hook_del)(uc_engine *uc, uc_hook hook);
    uc_err (*ctl)(uc_engine *uc, uc_control_type control, ...);
    uc_err (*reg_read)(uc_engine *uc, int id, void *value);
    uc_err (*reg_write)(uc_engine *uc, int id, const void *value);
    /* internal */
    void *(*get_cpu)(uc_engine *uc, int index);
    void (*do_interrupt)(void *cpu);
    void (*do_hardware_interrupt)(void *env, int vector, int is_hardware);
    void (*raise_exception_err_ra)(void *env, int vector, int error_code, uintptr_t return_address)
        __attribute__((noreturn));
    void (*loop_exit_noexc)(void *cpu) __attribute__((noreturn));
    bool (*restore_state)(void *cpu, uintptr_t return_address, bool will_exit);
    void (*tlb_flush)(void *cpu);
    void (*tb_flush)(void *cpu);
    void (*tlb_reset_dirty)(void *cpu, uintptr_t host, uint64_t size);
    void (*tb_invalidate_phys_range)(uc_engine *uc, uint64_t start, uint64_t end);
    uint64_t (*ram_addr_from_host)(uc_engine *uc, void *host);
    void *(*region_from_host)(uc_engine *uc, void *host, uint64_t *offset);
    void (*region_set_readonly)(void *region, bool readonly);
    void (*set_a20)(void *cpu, int on);
    uint64_t (*read_eflags)(void *env);
    void (*cpuid)(void *env, uint32_t leaf, uint32_t subleaf, uint32_t *eax, uint32_t *ebx, uint32_t *ecx,
                  uint32_t *edx);
    /* originals of what is replaced */
    void (*rdmsr)(void *env);
    void (*wrmsr)(void *env);
    void (*check_io[3])(void *env, uint32_t port); /* 1, 2, 4 bytes */
    void (*hlt)(void *env, int length);
    void (*raise_interrupt)(void *env, int vector, int length);
    void (*into)(void *env, int length);
    uint64_t (*read_crn)(void *env, int number);
    void (*write_crn)(void *env, int number, uint64_t value);
    void (*tlb_set_dirty)(void *cpu, uint64_t vaddr);
    void (*tlb_set_page)(void *cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs, int prot, int mmu_index,
                         uint64_t size);
    void (*tb_invalidate_page_fast)(uc_engine *uc, void *pages, uint64_t ram_addr, int size, uintptr_t return_address);
} UnicornApi;

const UnicornApi *unicorn_library_api(const UnicornLibrary *library);

#endif
