#include "mmu/walk.h"

#define CR0_WP   (1ull << 16)
#define CR0_PG   (1ull << 31)
#define CR4_PSE  (1ull << 4)
#define CR4_PAE  (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define BITS(low, high) ((1ull << (high)) - (1ull << (low))) /* from `low` up to and without `high` */

/* What a format looks like. */
typedef struct Format {
    uint32_t kind, levels, top_bits; /* of the linear address that the topmost table takes */
    uint32_t entry_size;
} Format;

static Format format_of(const PagingMode *mode)
{
    if (!(mode->cr0 & CR0_PG))
        return (Format){.kind = PAGING_NONE};
    if (mode->efer & EFER_LMA)
        return mode->cr4 & CR4_LA57 ? (Format){PAGING_5_LEVEL, 5, 9, 8} : (Format){PAGING_4_LEVEL, 4, 9, 8};
    return mode->cr4 & CR4_PAE ? (Format){PAGING_PAE, 3, 2, 8} : (Format){PAGING_32_BIT, 2, 10, 4};
}

static uint32_t shift_of(const Format *format, uint32_t level)
{
    return 12 + (level - 1) * (format->entry_size == 8 ? 9 : 10);
}

static bool is_large(const Format *format, const PagingMode *mode, uint64_t value, uint32_t level)
{
    if (!(value & PTE_PS) || (level != 2 && level != 3))
        return false;
    if (format->kind == PAGING_32_BIT)
        return mode->cr4 & CR4_PSE;
    return level == 2 || format->kind != PAGING_PAE;
}

/* Bits of a present entry that must be clear (SDM 3A tables 4-4 to 4-20). */
static uint64_t reserved_of(const Format *format, const PagingMode *mode, uint64_t value, uint32_t level)
{
    bool large = is_large(format, mode, value, level);
    if (format->kind == PAGING_32_BIT) {
        uint32_t beyond = MIN(mode->physical_bits, 40u) - 32; /* PSE-36 */
        return large ? value & (BITS(13 + beyond, 21) | 1ull << 21) : 0;
    }
    uint64_t mask = BITS(mode->physical_bits, 52);
    if (!(mode->efer & EFER_NXE))
        mask |= PTE_XD;
    if (format->kind == PAGING_PAE)
        mask |= BITS(52, 63) | (level == 3 ? PTE_XD | 0x1e6 : 0);
    else if (level >= 4)
        mask |= PTE_PS;
    if (large)
        mask |= BITS(13, shift_of(format, level));
    return value & mask;
}

static gpa_t page_base(const Format *format, const PagingMode *mode, uint64_t value, uint32_t bits)
{
    if (format->entry_size == 8)
        return value & BITS(bits, mode->physical_bits);
    gpa_t base = value & BITS(bits, 32);
    return bits == 22 ? base | (value >> 13 & 0xff) << 32 : base;
}

static uint32_t rights_of(uint64_t value, const PagingMode *mode)
{
    return (value & PTE_RW ? PAGE_WRITE : 0) | (value & PTE_US ? PAGE_USER : 0) |
           (value & PTE_XD && mode->efer & EFER_NXE ? 0 : PAGE_EXECUTE);
}

void page_walk(const GuestMemory *memory, const PagingMode *mode, gva_t address, PageWalk *walk)
{
    Format format = format_of(mode);
    *walk = (PageWalk){.kind = format.kind, .end = WALK_PAGE, .physical = address};
    if (!(mode->efer & EFER_LMA))
        walk->physical = address = (uint32_t)address;
    if (format.kind == PAGING_NONE)
        return;
    uint32_t width = shift_of(&format, format.levels) + format.top_bits;
    if (width > 32 && ((int64_t)(address << (64 - width)) >> (64 - width)) != (int64_t)address) {
        walk->end = WALK_NOT_CANONICAL;
        return;
    }
    bool wide = format.entry_size == 8;
    uint32_t rights = PAGE_WRITE | PAGE_USER | PAGE_EXECUTE;
    gpa_t table = mode->cr3 & (format.kind == PAGING_PAE ? BITS(5, 32) : BITS(12, wide ? mode->physical_bits : 32));
    for (uint32_t level = format.levels;; level--) {
        uint32_t shift = shift_of(&format, level), bits = level == format.levels ? format.top_bits : wide ? 9 : 10;
        PageStep *step = &walk->steps[walk->count];
        *step = (PageStep){.level = level, .index = (uint32_t)(address >> shift) & ((1u << bits) - 1)};
        step->address = table + step->index * format.entry_size;
        uint32_t narrow = 0;
        if (guest_memory_read(memory, step->address, wide ? (void *)&step->value : &narrow, format.entry_size) <
            0) {
            walk->end = WALK_NO_RAM;
            walk->physical = step->address;
            return;
        }
        walk->count++;
        step->value |= narrow;
        if (!(format.kind == PAGING_PAE && level == 3)) /* a PAE PDPTE has no rights */
            rights &= rights_of(step->value, mode);
        step->rights = rights;
        walk->end = WALK_NOT_PRESENT;
        if (!(step->value & PTE_P))
            return;
        walk->reserved = reserved_of(&format, mode, step->value, level);
        walk->end = WALK_RESERVED;
        if (walk->reserved)
            return;
        walk->end = WALK_PAGE;
        if (level == 1 || is_large(&format, mode, step->value, level)) {
            walk->page_bits = shift;
            walk->physical = page_base(&format, mode, step->value, shift) | (address & BITS(0, shift));
            return;
        }
        table = page_base(&format, mode, step->value, 12);
    }
}

int page_check(const PageWalk *walk, const PagingMode *mode, uint32_t access, bool ac)
{
    bool nx = mode->efer & EFER_NXE && mode->cr4 & CR4_PAE;
    bool write = access & PF_WRITE, user = access & PF_USER, fetch = access & PF_FETCH;
    int code = (int)(access & (PF_WRITE | PF_USER)) | (fetch && (nx || mode->cr4 & CR4_SMEP) ? PF_FETCH : 0);
    if (walk->end == WALK_RESERVED)
        return code | PF_PRESENT | PF_RESERVED;
    if (walk->end != WALK_PAGE)
        return code;
    if (walk->kind == PAGING_NONE)
        return -1;
    uint32_t rights = walk->steps[walk->count - 1].rights;
    bool allowed;
    if (user)
        allowed = rights & PAGE_USER && (!write || rights & PAGE_WRITE);
    else if (fetch)
        allowed = !(rights & PAGE_USER && mode->cr4 & CR4_SMEP);
    else
        allowed = (!write || rights & PAGE_WRITE || !(mode->cr0 & CR0_WP)) &&
                  !(rights & PAGE_USER && mode->cr4 & CR4_SMAP && !ac);
    if (fetch && !(rights & PAGE_EXECUTE))
        allowed = false;
    return allowed ? -1 : code | PF_PRESENT;
}
