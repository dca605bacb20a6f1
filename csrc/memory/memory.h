/*
 * Guest physical memory: memslots over one memfd (RAM) or private pages (ROM), with a dirty bitmap each.
 *
 * Slots are added before the machine runs and stay until it is freed, so look-ups take no lock. Everything that
 * writes guest memory from the host (DMA, loaders, Python) goes through guest_memory_write() or calls
 * guest_memory_written() after it wrote through a pointer: that marks pages dirty and tells the engine, which may
 * hold translations of the code that was there.
 */
#ifndef PYVMM_MEMORY_MEMORY_H
#define PYVMM_MEMORY_MEMORY_H

#include "common/common.h"

#define GUEST_PAGE_BITS 12
#define GUEST_PAGE_SIZE (1u << GUEST_PAGE_BITS)

enum MemslotFlags { MEMSLOT_READ_ONLY = 1 };

typedef struct Memslot {
    gpa_t gpa;
    uint64_t size;       /* bytes, a multiple of the page size */
    uint8_t *hva;        /* host virtual address of the first byte */
    uint64_t ram_offset; /* where the slot starts in the memfd */
    uint32_t flags;      /* enum MemslotFlags: read-only to the guest, not to the host */
    uint64_t *dirty;     /* one bit a page, set by host writes and by engines that log the guest's */
} Memslot;

typedef struct GuestMemory GuestMemory;

/* Told after the host wrote [gpa, gpa + size); called on the writer's thread. */
typedef void (*GuestMemoryWritten)(void *opaque, gpa_t gpa, uint64_t size);

GuestMemory *guest_memory_new(Error *error);
/* One reference is the machine's; one more for each view that may outlive it. The last free unmaps. */
void guest_memory_ref(GuestMemory *memory);
void guest_memory_free(GuestMemory *memory);

/* -EEXIST with both ranges named when it overlaps; -EINVAL for bad alignment; -ENOMEM; -EBUSY when an engine
 * has taken the slots over. */
int guest_memory_add(GuestMemory *memory, gpa_t gpa, uint64_t size, uint32_t flags, Error *error);
/* The same bytes of an existing slot seen at a second address (BIOS below 4 GiB and below 1 MiB). */
int guest_memory_alias(GuestMemory *memory, gpa_t gpa, gpa_t source, uint64_t size, uint32_t flags, Error *error);

int guest_memory_fd(const GuestMemory *memory);
size_t guest_memory_slot_count(const GuestMemory *memory);
const Memslot *guest_memory_slot(const GuestMemory *memory, size_t index);
const Memslot *guest_memory_find(const GuestMemory *memory, gpa_t gpa);

/* Host address of [gpa, gpa + size) when it lies in one slot, else NULL. For writing, the slot must be writable
 * by the guest (`for_write`), and the caller owes guest_memory_written(). */
void *guest_memory_ptr(const GuestMemory *memory, gpa_t gpa, uint64_t size, bool for_write);

/* Whole transfer over any number of slots, or -EFAULT and nothing written. `write` obeys read-only slots (it is
 * what a device does); `load` does not (it is what a loader does). */
int guest_memory_read(const GuestMemory *memory, gpa_t gpa, void *data, uint64_t size);
int guest_memory_write(GuestMemory *memory, gpa_t gpa, const void *data, uint64_t size);
int guest_memory_load(GuestMemory *memory, gpa_t gpa, const void *data, uint64_t size);

/* Give the host back what the whole pages of [gpa, gpa + size) take of its memory; they read as zero afterwards.
 * What is not RAM that the guest may write, or is seen at a second address, is left as it is. Returns bytes. */
uint64_t guest_memory_discard(GuestMemory *memory, gpa_t gpa, uint64_t size);

void guest_memory_written(GuestMemory *memory, gpa_t gpa, uint64_t size);
/* Listeners are added from one thread at a time, while others may write; they are removed when nobody writes. */
int guest_memory_add_listener(GuestMemory *memory, GuestMemoryWritten written, void *opaque); /* -ENOSPC */
void guest_memory_remove_listener(GuestMemory *memory, void *opaque);
bool guest_memory_has_listener(const GuestMemory *memory);

/* Copy and clear a slot's dirty bits: `bitmap` has (pages + 63) / 64 words. Returns the number of dirty pages. */
int64_t guest_memory_take_dirty(GuestMemory *memory, size_t slot, uint64_t *bitmap);

#endif
