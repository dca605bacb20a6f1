/* What shadow.c (faults), shadow_entries.c (what entries say) and shadow_pages.c (the pool, who points where)
 * share. */
#ifndef PYVMM_MMU_SHADOW_INTERNAL_H
#define PYVMM_MMU_SHADOW_INTERNAL_H

#include <pthread.h>

#include "mmu/shadow.h"

#define ENTRIES       512u
#define FRAME_OF(gpa) ((gpa) & ((1ull << 52) - GUEST_PAGE_SIZE))
#define LARGE_BITS    21
#define LARGE_SIZE    (1ull << LARGE_BITS)
#define UNSYNC_MAX    64u

/* What rights depend on, besides the tables. */
enum ShadowRole { ROLE_USER = 1, ROLE_WP = 2, ROLE_SMEP = 4, ROLE_SMAP = 8 /* and AC clear */, ROLE_NXE = 16 };

/* What a shadow page was made for: enum PageRights of the levels above, and for a piece of a large guest page its
 * own too. */
enum ShadowRights { RIGHTS_DIRTY = 8, RIGHTS_PWT = 16, RIGHTS_PCD = 32 };

/* An entry of the pool: page * 512 + index + 1; 0 is none. */
typedef uint32_t EntryRef;

typedef struct ShadowPage {
    gpa_t gpa;                           /* of the guest's table, or the piece of a large page (`direct`) */
    uint32_t next;                       /* page + 1, in the hash's chain or the free list */
    EntryRef parents;                    /* entries that point to it */
    uint16_t present;                    /* entries, without the monitor's */
    uint16_t writes;                     /* trace faults in its guest table since something was filled through it */
    uint16_t touched_first, touched_end; /* entries to be stored again; none when equal */
    uint8_t level, role, rights;
    bool direct, used;
} ShadowPage;

/* A page of the guest's RAM. */
typedef struct Frame {
    EntryRef writable; /* 4 KiB entries that let the guest write here */
    uint16_t tables;   /* shadow pages made of it */
    bool code;         /* shadow_trace() */
    bool code_written; /* by a device or the host, not yet taken */
    bool unsync;
} Frame;

typedef struct LargeFrame {
    EntryRef writable; /* 2 MiB entries */
    uint32_t traced;   /* of its frames */
} LargeFrame;

struct Shadow {
    GuestMemory *memory;
    ShadowConfig config;
    uint8_t *pool; /* host address */
    uint32_t count, free_count;
    uint32_t free_list; /* page + 1 */
    uint32_t root;      /* page + 1: what shadow_root() returned last */
    ShadowPage *pages;
    uint32_t *hash; /* page + 1, by guest frame */
    uint32_t hash_mask;
    EntryRef *next, *previous; /* of each entry, in the list of what it points to */
    Frame *frames;
    LargeFrame *large;
    uint64_t *watched; /* atomic: one bit a frame that is a table, or code */
    uint64_t *written; /* atomic: of those, what a device or the host wrote */
    bool any_written;  /* atomic */
    pthread_t writer;  /* atomic: the thread that writes for the shadow itself */
    uint32_t unsync[UNSYNC_MAX];
    uint32_t unsync_count;
    uint32_t code_written; /* frames */
    uint32_t *touched;     /* pages with something to store again */
    uint32_t touched_count;
    bool flush;         /* the real TLB must go before the guest runs */
    bool by_guest;      /* the guest changes its tables: what the TLB has may stay until its INVLPG */
    bool stale;         /* and perhaps does: no page may be traced without a flush */
    gva_t last_address; /* of the last fill that changed nothing */
    uint32_t unchanged;
    ShadowStatistics statistics;
};

static inline uint64_t *shadow_entries(const Shadow *shadow, uint32_t page)
{
    return (uint64_t *)(void *)(shadow->pool + (uint64_t)page * GUEST_PAGE_SIZE);
}

static inline gpa_t shadow_page_gpa(const Shadow *shadow, uint32_t page)
{
    return shadow->config.pool + (uint64_t)page * GUEST_PAGE_SIZE;
}

static inline uint32_t shadow_page_at(const Shadow *shadow, uint64_t entry)
{
    return (uint32_t)((FRAME_OF(entry) - shadow->config.pool) / GUEST_PAGE_SIZE);
}

static inline bool frame_is_traced(const Frame *frame) { return (frame->tables && !frame->unsync) || frame->code; }

/* Does an entry of this level lead to a page, not to a table? */
static inline bool entry_is_leaf(uint32_t level, uint64_t entry) { return level == 1 || entry & PTE_PS; }

/* The guest's RAM at that address, or NULL: a device, nothing, or the monitor's. */
Frame *shadow_frame(const Shadow *shadow, gpa_t gpa);
bool shadow_is_monitors(const Shadow *shadow, gpa_t gpa);

/* A page for that key: one that exists, or a new one; there must be a free one. `made` may be NULL. */
uint32_t shadow_page_get(Shadow *shadow, gpa_t gpa, uint32_t level, uint32_t role, uint32_t rights, bool direct,
                         bool *made);
/* page + 1, or 0 */
uint32_t shadow_page_find(const Shadow *shadow, gpa_t gpa, uint32_t level, uint32_t role, uint32_t rights,
                          bool direct);
/* The first, then the next, shadow page (page + 1) of the guest's table at `gpa`. */
uint32_t shadow_page_of(const Shadow *shadow, gpa_t gpa, uint32_t after);
void shadow_page_free(Shadow *shadow, uint32_t page);
void shadow_page_empty(Shadow *shadow, uint32_t page);
/* What the pool held before: nothing of this shadow's. */
void shadow_page_clear(Shadow *shadow, uint32_t page);

/* Make an entry say `value` (0: nothing); lists, flush and touch follow. False when it does already. */
bool shadow_entry_set(Shadow *shadow, uint32_t page, uint32_t index, uint64_t value);

/* What an entry says that leads to a shadow page. */
uint64_t shadow_table_value(const Shadow *shadow, uint32_t page);
/* Rights (ShadowPage.rights) of a guest's last entry below those of the levels above. */
uint32_t shadow_leaf_rights(uint32_t role, uint32_t above, uint64_t entry);
/* What an entry says of a guest page of 4 KiB with these rights; 0: nothing, the role may not read it. */
uint64_t shadow_small_leaf(const Shadow *shadow, uint32_t role, uint32_t rights, gpa_t gpa);
/* The same of 2 MiB; 0 also when it has to be splintered. */
uint64_t shadow_large_leaf(const Shadow *shadow, uint32_t role, uint32_t rights, gpa_t gpa);
/* Make one entry of every shadow page of a guest table right again, after the guest's became `guest`; with `fill`,
 * a last-level entry is made without a fault. Returns how many were not right. */
uint32_t shadow_refresh(Shadow *shadow, gpa_t table, uint32_t index, uint64_t guest, bool fill);
/* All entries of the table, from memory. */
void shadow_compare(Shadow *shadow, gpa_t table);

/* After tables, code or unsync of a frame changed: `was` is frame_is_traced() before. */
void shadow_frame_changed(Shadow *shadow, gpa_t gpa, bool was);

#endif
