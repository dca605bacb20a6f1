/*
 * Shadow page tables: what a monitor without nested paging gives the processor instead of the guest's own tables
 * (Adams and Agesen 2006 §2.3, §3.4; Intel SDM 3A §4.5, §4.6, §4.7, §4.10).
 *
 * For a monitor that runs a guest wholly at CPL 3, its kernel too. A *shadow page* says what one guest table means,
 * for one *role*: the guest's ring and the control bits that rights depend on (CR0.WP, CR4.SMEP, CR4.SMAP with
 * EFLAGS.AC, EFER.NXE). It is filled by faults. Guest-physical addresses are the machine's, one to one: a leaf of
 * the shadow holds the guest's address and never more rights than the guest's tables give that role.
 *
 *  - Guest tables with a shadow are *traced*: not writable in any shadow. A store into one comes as SHADOW_TRACED;
 *    the monitor emulates it and calls shadow_write(), or calls shadow_unsync() and lets it run.
 *  - Accessed and dirty bits are set in the guest's entries when the access that the fault was for is allowed; an
 *    entry whose A is clear is not in the shadow, a page whose D is clear is not writable there.
 *  - Large guest pages stay 2 MiB where nothing in them is traced and all of it is RAM (or none of it); else, and
 *    those of 1 GiB always, they are splintered into shadow pages of their own.
 *  - Addresses outside RAM (devices) are mapped one to one. RAM from `guest_end` on is the monitor's: a guest
 *    that maps it gets SHADOW_MONITOR.
 *
 * What the monitor does, on the vCPU's thread (shadow_statistics from any: figures a moment apart):
 *
 *  - #PF: shadow_fault(). FILLED: go back. GUEST_FAULT: inject #PF(error_code) with CR2. TRACED: see above. All
 *    others: an explained end, with `error`.
 *  - The guest's ring, CR3, CR0.WP, CR4.SMEP, CR4.SMAP, EFLAGS.AC or EFER.NXE changes: shadow_root(), and load what
 *    it returns into the real CR3.
 *  - The guest's INVLPG: shadow_invlpg(), and INVLPG for real.
 *  - The guest loads CR3 or toggles CR4.PGE: shadow_sync(), and load CR3 for real.
 *  - Before every IRETQ to the guest: shadow_flush_due() says whether to load CR3 again; with `touch`,
 *    shadow_touches() has what to store again.
 *
 * `touch`: a KVM without nested paging keeps shadows of *our* tables, and sees stores into them only when the
 * guest's processor makes them. What the host changes or removes there is listed; ring 0 code of the monitor has to
 * store each of these ranges again (RSI = RDI, REP MOVSQ) before the guest runs. Entries that become present, or
 * gain rights, need nothing.
 *
 * The root that shadow_root() returned last stays loadable until its next call, whatever else is thrown away.
 *
 * Left out: 32-bit, PAE and 5-level guests (refused with a reason), protection keys, PCID (flushes are whole), the
 * PAT bit and MTRRs (PWT and PCD are copied), global pages (nothing is global), a second vCPU, RAM that is seen
 * writable at two addresses. DMA into a traced page is noticed at the monitor's next call here, as late as a TLB
 * might.
 */
#ifndef PYVMM_MMU_SHADOW_H
#define PYVMM_MMU_SHADOW_H

#include "mmu/walk.h"

typedef struct Shadow Shadow;

typedef struct ShadowConfig {
    gpa_t guest_end;        /* RAM from here to the end of its memslot, and all above, is not the guest's */
    gpa_t pool;             /* where shadow pages are: RAM at or above guest_end, page aligned */
    uint64_t pool_size;     /* bytes; at least 32 pages */
    uint64_t monitor_pml4e; /* what every root holds in `monitor_slot` */
    uint32_t monitor_slot;  /* 0 to 511 */
    uint32_t physical_bits; /* the real processor's MAXPHYADDR, which is the guest's */
    uint32_t write_limit;   /* stores in a row into a table that nothing was filled from after which it is no longer
                             * traced (until it is used again); 0: no limit */
    bool touch;             /* keep the list for shadow_touches() */
} ShadowConfig;

/* The virtual CPU's, as far as rights depend on it. `paging.physical_bits` is not looked at. */
typedef struct ShadowMode {
    PagingMode paging;
    bool user; /* virtual CPL 3 */
    bool ac;   /* virtual EFLAGS.AC */
} ShadowMode;

enum ShadowResult {
    SHADOW_FILLED,      /* the access may be tried again (shadow_translate: may be made, at `gpa`) */
    SHADOW_GUEST_FAULT, /* #PF(error_code) for the guest */
    SHADOW_TRACED,      /* an allowed store, to `gpa`, in a page that is traced */
    SHADOW_BAD_TABLE,   /* a table outside RAM: `error` */
    SHADOW_MONITOR,     /* the guest maps the monitor's slot or memory: `error` */
    SHADOW_UNSUPPORTED, /* paging off, or not of 4 levels, protection keys; an execute-only page (SMAP without
                         * SMEP); an engine that goes on faulting where nothing is missing: `error` */
};

typedef struct ShadowFault {
    gpa_t gpa;           /* of the access; not with SHADOW_GUEST_FAULT */
    uint32_t error_code; /* SHADOW_GUEST_FAULT: enum PageFault, as the guest's processor would push it */
    bool table, code;    /* SHADOW_TRACED: because of a table, because of shadow_trace() */
    bool not_canonical;  /* SHADOW_GUEST_FAULT of shadow_translate(): #GP(0), or #SS(0), instead of #PF */
} ShadowFault;

typedef struct ShadowStatistics {
    uint64_t faults;       /* calls of shadow_fault(), of which: */
    uint64_t fills;        /*   an entry was missing (or lacked a right) */
    uint64_t guest_faults; /*   the guest's own */
    uint64_t trace_faults; /*   a store into a traced page */
    uint64_t spurious;     /*   nothing was missing: the processor had an old translation */
    uint64_t mmio_fills;   /* of the fills: outside RAM */
    uint64_t table_writes; /* entries of traced tables changed by shadow_write() */
    uint64_t prefetched;   /*   and filled at once, because their A was set */
    uint64_t roots;        /* shadow_root() */
    uint64_t roots_found;  /*   of which existed */
    uint64_t pages_made;   /* shadow pages made */
    uint64_t pages_zapped; /*   thrown away one by one: not used as a table any more, or written too often */
    uint64_t flushes;      /* pool exhausted: all thrown away */
    uint64_t splintered;   /* shadow pages made for a piece of a large guest page */
    uint64_t large_fills;  /* 2 MiB entries */
    uint64_t unsyncs;      /* shadow_unsync() */
    uint64_t synced;       /* tables compared again */
    uint64_t sync_drops;   /*   entries that were no longer right */
    uint64_t invlpg;       /* shadow_invlpg() */
    uint64_t tlb_flushes;  /* shadow_flush_due() said yes */
    uint64_t touches;      /* entries listed for shadow_touches() */
    uint64_t host_writes;  /* tables written by a device or the host, and compared */
    uint32_t pages, pages_peak, pages_total; /* of the pool, in use now, at most, at all */
    uint32_t traced;                         /* guest pages that are traced now */
} ShadowStatistics;

/* Made and freed while nothing writes to the memory (no vCPU, no device). NULL with `error` when the pool is not
 * RAM above guest_end, or for want of host memory.
 */
Shadow *shadow_new(GuestMemory *memory, const ShadowConfig *config, Error *error);
void shadow_free(Shadow *shadow);

/* What to load into the real CR3 for this mode; 0 with `error` when it cannot be shadowed. */
gpa_t shadow_root(Shadow *shadow, const ShadowMode *mode, Error *error);

/* A #PF at `address`; `hardware_code` is the real one's error code, of which W, I/D and RSVD count. */
enum ShadowResult shadow_fault(Shadow *shadow, const ShadowMode *mode, gva_t address, uint32_t hardware_code,
                               ShadowFault *fault, Error *error);

/* The same question for a monitor that makes the access itself (PF_WRITE, PF_FETCH): A and D are set, the shadow
 * stays as it is. FILLED: made at `gpa` (a device's perhaps; stores by shadow_write()), for what lies in the same
 * page. */
enum ShadowResult shadow_translate(Shadow *shadow, const ShadowMode *mode, gva_t address, uint32_t access,
                                   ShadowFault *fault, Error *error);

/* A store that the monitor makes for the guest, within one page: memory, the shadows of the table, and what engines
 * know of the page. -EFAULT: not RAM that the guest may write (a device: the monitor's bus; ROM: nothing happens);
 * else 0, or 1 when shadow_trace() is on for the page. */
int shadow_write(Shadow *shadow, gpa_t gpa, const void *data, uint32_t size);

/* Let the guest write the table at `gpa` until the next shadow_sync(): for an instruction that the monitor cannot
 * emulate. Its shadow goes on as a TLB would. Pages of shadow_trace() stay traced. */
void shadow_unsync(Shadow *shadow, gpa_t gpa);
void shadow_sync(Shadow *shadow);
void shadow_invlpg(Shadow *shadow, gva_t address);

/* Stores into the page at `gpa` come as SHADOW_TRACED with `code` set while it is on (translated code). */
int shadow_trace(Shadow *shadow, gpa_t gpa, bool on); /* -EFAULT: not the guest's RAM */
/* A page of those that a device or the host wrote since the last call; false when there are no more. */
bool shadow_take_written_code(Shadow *shadow, gpa_t *page);
bool shadow_is_traced(const Shadow *shadow, gpa_t gpa);

/* Throw the shadows of the table at `gpa` away, or all; always right, they come back by faults. */
void shadow_zap(Shadow *shadow, gpa_t gpa);
void shadow_flush(Shadow *shadow);

/* Must CR3 be loaded again before the guest runs? Asking clears it. */
bool shadow_flush_due(Shadow *shadow);

typedef struct ShadowTouch {
    gpa_t gpa;      /* of an entry of a shadow page */
    uint64_t count; /* of entries */
} ShadowTouch;
/* Up to `capacity` ranges to be stored again, taken off the list; call until it returns less. */
size_t shadow_touches(Shadow *shadow, ShadowTouch *touches, size_t capacity);

/* What the shadow says of an address in that mode now: a walk of the shadow's own tables, PAGE_USER rights.
 * -ENOENT: no root. */
int shadow_look(const Shadow *shadow, const ShadowMode *mode, gva_t address, PageWalk *walk);
ShadowStatistics shadow_statistics(const Shadow *shadow);

#endif
