#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "translator/overrides.h"
#include "translator/unicorn_library.h"

/* The one build whose internal layout (translator/cpu_env.h) was measured: unicorn 2.1.4, manylinux x86-64 wheel. */
static const uint8_t KNOWN_BUILD_ID[20] = {0x44, 0x28, 0x5d, 0x3e, 0x80, 0x52, 0x71, 0x22, 0xe9, 0xe3,
                                           0x61, 0x92, 0x81, 0x89, 0x38, 0x59, 0x06, 0xec, 0x81, 0x3e};

struct UnicornLibrary {
    void *handle;
    bool slow;
    UnicornApi api;
};

/* Copy the file to a memfd and open that: a second, independent instance of the library in this process. */
static void *open_private_copy(const char *path, Error *error)
{
    int in = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (in < 0 || fstat(in, &status) < 0) {
        error_set(error, errno, "%s: %s; install the translator with: pip install unicorn==2.1.4", path,
                  strerror(errno));
        if (in >= 0)
            close(in);
        return NULL;
    }
    int copy = memfd_create("libunicorn", MFD_CLOEXEC);
    off_t offset = 0;
    while (copy >= 0 && offset < status.st_size && sendfile(copy, in, &offset, (size_t)(status.st_size - offset)) > 0)
        continue;
    close(in);
    void *handle = NULL;
    if (copy >= 0 && offset == status.st_size) {
        char name[40];
        snprintf(name, sizeof name, "/proc/self/fd/%d", copy);
        handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (!handle)
        error_set(error, ENOEXEC, "%s: cannot be loaded: %s", path, copy < 0 ? strerror(errno) : dlerror());
    if (copy >= 0)
        close(copy);
    return handle;
}

static bool build_id_is_known(const struct link_map *map)
{
    const ElfW(Ehdr) *header = (const void *)map->l_addr;
    const ElfW(Phdr) *segment = (const void *)(map->l_addr + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++, segment++) {
        if (segment->p_type != PT_NOTE)
            continue;
        const char *at = (const char *)(map->l_addr + segment->p_vaddr), *end = at + segment->p_memsz;
        while (at + sizeof(ElfW(Nhdr)) <= end) {
            const ElfW(Nhdr) *note = (const void *)at;
            const char *description = at + sizeof *note + ((note->n_namesz + 3) & ~3u);
            if (note->n_type == NT_GNU_BUILD_ID)
                return note->n_descsz == sizeof KNOWN_BUILD_ID &&
                       memcmp(description, KNOWN_BUILD_ID, sizeof KNOWN_BUILD_ID) == 0;
            at = description + ((note->n_descsz + 3) & ~3u);
        }
    }
    return false;
}

/* The dynamic section's tables that name every relocated slot. */
typedef struct Relocations {
    const ElfW(Sym) *symbols;
    const char *strings;
    const ElfW(Rela) *tables[2];
    size_t counts[2];
} Relocations;

static Relocations relocations_of(const struct link_map *map)
{
    Relocations found = {0};
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        switch (entry->d_tag) {
        case DT_SYMTAB:
            found.symbols = (const void *)entry->d_un.d_ptr;
            break;
        case DT_STRTAB:
            found.strings = (const void *)entry->d_un.d_ptr;
            break;
        case DT_RELA:
            found.tables[0] = (const void *)entry->d_un.d_ptr;
            break;
        case DT_RELASZ:
            found.counts[0] = entry->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_JMPREL:
            found.tables[1] = (const void *)entry->d_un.d_ptr;
            break;
        case DT_PLTRELSZ:
            found.counts[1] = entry->d_un.d_val / sizeof(ElfW(Rela));
            break;
        }
    }
    return found;
}

/* RELRO pages were made read-only by the loader: open the page for the one store. */
static bool store_slot(void **slot, void *value)
{
    uintptr_t page = (uintptr_t)slot & ~(uintptr_t)4095;
    if (mprotect((void *)page, 8192, PROT_READ | PROT_WRITE) < 0 && mprotect((void *)page, 4096, PROT_READ | PROT_WRITE) < 0)
        return false;
    *slot = value;
    return true;
}

/* One pass over all relocations for all replacements; `found` counts slots by replacement. */
static bool replace_functions(const struct link_map *map, const Replacement *replacements, size_t count,
                              uint32_t *found)
{
    Relocations relocations = relocations_of(map);
    for (int table = 0; table < 2; table++) {
        for (size_t i = 0; i < relocations.counts[table]; i++) {
            const ElfW(Rela) *rela = &relocations.tables[table][i];
            uint32_t type = ELF64_R_TYPE(rela->r_info), symbol = ELF64_R_SYM(rela->r_info);
            if (!symbol || rela->r_addend ||
                (type != R_X86_64_GLOB_DAT && type != R_X86_64_JUMP_SLOT && type != R_X86_64_64))
                continue;
            const char *name = relocations.strings + relocations.symbols[symbol].st_name;
            for (size_t r = 0; r < count; r++) {
                if (replacements[r].symbol[0] != name[0] || strcmp(replacements[r].symbol, name) != 0)
                    continue;
                if (!store_slot((void **)(map->l_addr + rela->r_offset), replacements[r].function))
                    return false;
                found[r]++;
            }
        }
    }
    return true;
}

static int resolve(UnicornLibrary *library, const char *path, Error *error)
{
    UnicornApi *api = &library->api;
    const struct {
        void *slot;
        const char *symbol;
    } symbols[] = {
        {&api->open, "uc_open"},
        {&api->close, "uc_close"},
        {&api->version, "uc_version"},
        {&api->strerror, "uc_strerror"},
        {&api->emu_start, "uc_emu_start"},
        {&api->emu_stop, "uc_emu_stop"},
        {&api->mem_map_ptr, "uc_mem_map_ptr"},
        {&api->mmio_map, "uc_mmio_map"},
        {&api->hook_add, "uc_hook_add"},
        {&api->hook_del, "uc_hook_del"},
        {&api->ctl, "uc_ctl"},
        {&api->reg_read, "uc_reg_read"},
        {&api->reg_write, "uc_reg_write"},
        {&api->get_cpu, "qemu_get_cpu_x86_64"},
        {&api->do_interrupt, "x86_cpu_do_interrupt_x86_64"},
        {&api->do_hardware_interrupt, "do_interrupt_x86_hardirq_x86_64"},
        {&api->raise_exception_err_ra, "raise_exception_err_ra_x86_64"},
        {&api->loop_exit_noexc, "cpu_loop_exit_noexc_x86_64"},
        {&api->restore_state, "cpu_restore_state_x86_64"},
        {&api->tlb_flush, "tlb_flush_x86_64"},
        {&api->tb_flush, "tb_flush_x86_64"},
        {&api->tlb_reset_dirty, "tlb_reset_dirty_x86_64"},
        {&api->tb_invalidate_phys_range, "tb_invalidate_phys_range_x86_64"},
        {&api->ram_addr_from_host, "qemu_ram_addr_from_host_x86_64"},
        {&api->region_from_host, "memory_region_from_host_x86_64"},
        {&api->region_set_readonly, "memory_region_set_readonly_x86_64"},
        {&api->set_a20, "x86_cpu_set_a20_x86_64"},
        {&api->read_eflags, "helper_read_eflags_x86_64"},
        {&api->cpuid, "cpu_x86_cpuid_x86_64"},
        {&api->rdmsr, "helper_rdmsr_x86_64"},
        {&api->wrmsr, "helper_wrmsr_x86_64"},
        {&api->check_io[0], "helper_check_iob_x86_64"},
        {&api->check_io[1], "helper_check_iow_x86_64"},
        {&api->check_io[2], "helper_check_iol_x86_64"},
        {&api->hlt, "helper_hlt_x86_64"},
        {&api->raise_interrupt, "helper_raise_interrupt_x86_64"},
        {&api->into, "helper_into_x86_64"},
        {&api->read_crn, "helper_read_crN_x86_64"},
        {&api->write_crn, "helper_write_crN_x86_64"},
        {&api->tlb_set_dirty, "tlb_set_dirty_x86_64"},
        {&api->tlb_set_page, "tlb_set_page_with_attrs_x86_64"},
        {&api->tb_invalidate_page_fast, "tb_invalidate_phys_page_fast_x86_64"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(symbols); i++) {
        void *function = dlsym(library->handle, symbols[i].symbol);
        if (!function)
            return error_set(error, ENOEXEC, "%s: has no %s: this is not the build of unicorn 2.1.4 that pyvmm drives",
                             path, symbols[i].symbol);
        memcpy(symbols[i].slot, &function, sizeof function);
    }
    return 0;
}

static int prepare(UnicornLibrary *library, const char *path, Error *error)
{
    struct link_map *map;
    if (dlinfo(library->handle, RTLD_DI_LINKMAP, &map) != 0 || !build_id_is_known(map))
        return error_set(error, ENOEXEC,
                         "%s: not the build that pyvmm drives (its Build-ID differs); install: pip install "
                         "--force-reinstall --only-binary :all: unicorn==2.1.4",
                         path);
    int result = resolve(library, path, error);
    if (result < 0)
        return result;
    size_t count;
    const Replacement *replacements = overrides_list(library->slow, &count);
    uint32_t found[64] = {0};
    if (count > ARRAY_SIZE(found) || !replace_functions(map, replacements, count, found))
        return error_set(error, EACCES, "%s: its function tables cannot be rewritten: mprotect: %s", path,
                         strerror(errno));
    for (size_t i = 0; i < count; i++)
        if (!found[i])
            return error_set(error, ENOEXEC, "%s: nothing in it calls %s through a table", path,
                             replacements[i].symbol);
    return 0;
}

UnicornLibrary *unicorn_library_open(const char *path, bool slow, Error *error)
{
    UnicornLibrary *library = calloc(1, sizeof *library);
    if (!library) {
        error_set(error, ENOMEM, "no host memory for the translator");
        return NULL;
    }
    library->slow = slow;
    library->handle = open_private_copy(path, error);
    if (library->handle && prepare(library, path, error) == 0)
        return library;
    unicorn_library_close(library);
    return NULL;
}

void unicorn_library_close(UnicornLibrary *library)
{
    if (!library)
        return;
    if (library->handle)
        dlclose(library->handle);
    free(library);
}

const UnicornApi *unicorn_library_api(const UnicornLibrary *library) { return &library->api; }

bool unicorn_library_is_slow(const UnicornLibrary *library) { return library->slow; }
