/*
 * A page walk that remembers its way: 32-bit, PAE, 4-level and 5-level paging (Intel SDM 3A §4.3, §4.4, §4.5).
 *
 * Each level is recorded (where its entry is, what it holds, what is left of the rights), and how the walk ended. A
 * walk has as many steps as the format has levels, so tables that point at each other end it like any others.
 * Nothing is written: accessed and dirty bits are for whoever uses the answer (shadow.c).
 *
 * Left out: the PDPTE registers (PAE: the entries are read from memory, where a processor may still hold those of
 * the last MOV to CR3), protection keys, nested paging, memory types.
 */
#ifndef PYVMM_MMU_WALK_H
#define PYVMM_MMU_WALK_H

#include "memory/memory.h"

/* Bits of an entry (SDM 3A table 4-15 to 4-20). */
#define PTE_P   (1ull << 0)
#define PTE_RW  (1ull << 1)
#define PTE_US  (1ull << 2)
#define PTE_PWT (1ull << 3)
#define PTE_PCD (1ull << 4)
#define PTE_A   (1ull << 5)
#define PTE_D   (1ull << 6)
#define PTE_PS  (1ull << 7)
#define PTE_G   (1ull << 8)
#define PTE_XD  (1ull << 63)

#define PAGING_LEVELS 5 /* at most */

/* The registers that choose the format and the rules. */
typedef struct PagingMode {
    uint64_t cr0, cr3, cr4, efer;
    uint32_t physical_bits; /* MAXPHYADDR, 32 to 52 */
} PagingMode;

enum PagingKind { PAGING_NONE, PAGING_32_BIT, PAGING_PAE, PAGING_4_LEVEL, PAGING_5_LEVEL };

enum PageWalkEnd {
    WALK_PAGE,          /* there is one, whatever its rights: page_check() */
    WALK_NOT_PRESENT,   /* the last step's P is clear */
    WALK_RESERVED,      /* the last step has reserved bits set: `reserved` */
    WALK_NO_RAM,        /* `table` of the level that would come next is not in RAM */
    WALK_NOT_CANONICAL, /* #GP, not #PF */
};

/* What is left of the rights; a page can always be read by a supervisor. */
enum PageRights { PAGE_WRITE = 1, PAGE_USER = 2, PAGE_EXECUTE = 4 };

/* An access, and the error code of its #PF (SDM 3A §4.7). */
enum PageFault { PF_PRESENT = 1, PF_WRITE = 2, PF_USER = 4, PF_RESERVED = 8, PF_FETCH = 16 };

typedef struct PageStep {
    gpa_t address;   /* of the entry */
    uint64_t value;  /* of the entry: 4 bytes in 32-bit paging */
    uint32_t level;  /* 1: PTE, 2: PDE, 3: PDPTE, 4: PML4E, 5: PML5E */
    uint32_t index;  /* in its table */
    uint32_t rights; /* enum PageRights: this level's and those above */
} PageStep;

typedef struct PageWalk {
    uint32_t kind; /* enum PagingKind */
    uint32_t end;  /* enum PageWalkEnd */
    uint32_t count;
    uint32_t page_bits; /* log2 of the page's size: 12, 21, 22 or 30; 0 without a page */
    gpa_t physical;     /* of the address; WALK_NO_RAM: of the entry that is not there */
    uint64_t reserved;  /* which reserved bits */
    PageStep steps[PAGING_LEVELS];
} PageWalk;

/* Walk for a linear address (outside 64-bit modes its low 32 bits). */
void page_walk(const GuestMemory *memory, const PagingMode *mode, gva_t address, PageWalk *walk);

/* May this access (PF_WRITE, PF_FETCH, PF_USER: in ring 3) use what the walk found? `ac` is EFLAGS.AC, which lets
 * ring 0 through SMAP. Returns -1 when it may, or the error code of the #PF (WALK_NO_RAM and WALK_NOT_CANONICAL: as
 * of a page that is not present; the caller looks at `end` first when it knows better). SDM 3A §4.6.1, §4.7. */
int page_check(const PageWalk *walk, const PagingMode *mode, uint32_t access, bool ac);

#endif
