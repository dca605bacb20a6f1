#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/memory.h"

#define MAX_SLOTS     32
#define MAX_LISTENERS 4

struct GuestMemory {
    uint32_t references; /* atomic */
    int fd;
    uint64_t file_size;
    size_t count;
    Memslot slots[MAX_SLOTS]; /* sorted by gpa */
    size_t listener_count;    /* atomic */
    struct {
        GuestMemoryWritten written;
        void *opaque;
    } listeners[MAX_LISTENERS];
};

static size_t dirty_words(const Memslot *slot) { return ((slot->size >> GUEST_PAGE_BITS) + 63) / 64; }

GuestMemory *guest_memory_new(Error *error)
{
    GuestMemory *memory = calloc(1, sizeof *memory);
    if (!memory) {
        error_set(error, ENOMEM, "no host memory for the machine");
        return NULL;
    }
    memory->references = 1;
    memory->fd = memfd_create("pyvmm-ram", MFD_CLOEXEC);
    if (memory->fd < 0) {
        error_set(error, errno, "memfd_create for guest RAM: %s", strerror(errno));
        free(memory);
        return NULL;
    }
    return memory;
}

void guest_memory_ref(GuestMemory *memory) { __atomic_fetch_add(&memory->references, 1, __ATOMIC_RELAXED); }

void guest_memory_free(GuestMemory *memory)
{
    if (!memory || __atomic_sub_fetch(&memory->references, 1, __ATOMIC_ACQ_REL))
        return;
    for (size_t i = 0; i < memory->count; i++) {
        munmap(memory->slots[i].hva, memory->slots[i].size);
        free(memory->slots[i].dirty);
    }
    close(memory->fd);
    free(memory);
}

/* Map the memfd at `ram_offset` as a new slot; the list stays sorted. */
static int add_slot(GuestMemory *memory, gpa_t gpa, uint64_t size, uint64_t ram_offset, uint32_t flags,
                    Error *error)
{
    if (size == 0 || (gpa | size) % GUEST_PAGE_SIZE || gpa + size < gpa)
        return error_set(error, EINVAL, "memslot %#llx + %#llx: start and size must be multiples of %u",
                         (unsigned long long)gpa, (unsigned long long)size, GUEST_PAGE_SIZE);
    if (memory->listener_count)
        return error_set(error, EBUSY, "memslot %#llx: memory is added before the machine has a vCPU",
                         (unsigned long long)gpa);
    if (memory->count == MAX_SLOTS)
        return error_set(error, ENOSPC, "more than %d memslots", MAX_SLOTS);
    size_t at = 0;
    for (; at < memory->count; at++) {
        const Memslot *other = &memory->slots[at];
        if (gpa < other->gpa + other->size && other->gpa < gpa + size)
            return error_set(error, EEXIST, "memslot %#llx-%#llx overlaps memslot %#llx-%#llx",
                             (unsigned long long)gpa, (unsigned long long)(gpa + size - 1),
                             (unsigned long long)other->gpa, (unsigned long long)(other->gpa + other->size - 1));
        if (other->gpa > gpa)
            break;
    }
    Memslot slot = {.gpa = gpa, .size = size, .ram_offset = ram_offset, .flags = flags};
    slot.dirty = calloc(dirty_words(&slot), sizeof(uint64_t));
    void *hva = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory->fd, (off_t)ram_offset);
    if (!slot.dirty || hva == MAP_FAILED) {
        free(slot.dirty);
        return error_set(error, ENOMEM, "cannot map %llu MiB of guest RAM: give the machine less memory",
                         (unsigned long long)(size >> 20));
    }
    madvise(hva, size, MADV_DONTFORK);
    slot.hva = hva;
    memmove(&memory->slots[at + 1], &memory->slots[at], (memory->count - at) * sizeof slot);
    memory->slots[at] = slot;
    memory->count++;
    return 0;
}

int guest_memory_add(GuestMemory *memory, gpa_t gpa, uint64_t size, uint32_t flags, Error *error)
{
    uint64_t offset = memory->file_size;
    if (size > (uint64_t)INT64_MAX - offset || ftruncate(memory->fd, (off_t)(offset + size)) < 0)
        return error_set(error, ENOMEM, "cannot reserve %llu MiB of guest RAM: give the machine less memory",
                         (unsigned long long)(size >> 20));
    int result = add_slot(memory, gpa, size, offset, flags, error);
    if (result == 0)
        memory->file_size += size;
    return result;
}

int guest_memory_alias(GuestMemory *memory, gpa_t gpa, gpa_t source, uint64_t size, uint32_t flags, Error *error)
{
    const Memslot *slot = guest_memory_find(memory, source);
    if (!slot || size > slot->size - (source - slot->gpa))
        return error_set(error, EFAULT, "alias of %#llx: no memslot holds it whole", (unsigned long long)source);
    return add_slot(memory, gpa, size, slot->ram_offset + (source - slot->gpa), flags, error);
}

int guest_memory_fd(const GuestMemory *memory) { return memory->fd; }

size_t guest_memory_slot_count(const GuestMemory *memory) { return memory->count; }

const Memslot *guest_memory_slot(const GuestMemory *memory, size_t index)
{
    return index < memory->count ? &memory->slots[index] : NULL;
}

const Memslot *guest_memory_find(const GuestMemory *memory, gpa_t gpa)
{
    size_t low = 0, high = memory->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const Memslot *slot = &memory->slots[middle];
        if (gpa < slot->gpa)
            high = middle;
        else if (gpa - slot->gpa >= slot->size)
            low = middle + 1;
        else
            return slot;
    }
    return NULL;
}

void *guest_memory_ptr(const GuestMemory *memory, gpa_t gpa, uint64_t size, bool for_write)
{
    const Memslot *slot = guest_memory_find(memory, gpa);
    if (!slot || size > slot->size - (gpa - slot->gpa) || (for_write && slot->flags & MEMSLOT_READ_ONLY))
        return NULL;
    return slot->hva + (gpa - slot->gpa);
}

enum transfer { TRANSFER_READ, TRANSFER_WRITE, TRANSFER_LOAD };

/* Check the whole range, then copy slot by slot: nothing is written when -EFAULT is returned. */
static int transfer(const GuestMemory *memory, gpa_t gpa, void *data, uint64_t size, enum transfer kind)
{
    for (int copy = 0; copy < 2; copy++) {
        gpa_t at = gpa;
        uint64_t left = size;
        char *bytes = data;
        while (left) {
            const Memslot *slot = guest_memory_find(memory, at);
            if (!slot || (kind == TRANSFER_WRITE && slot->flags & MEMSLOT_READ_ONLY))
                return -EFAULT;
            uint64_t n = MIN(left, slot->size - (at - slot->gpa));
            uint8_t *hva = slot->hva + (at - slot->gpa);
            if (copy && kind == TRANSFER_READ)
                memcpy(bytes, hva, n);
            else if (copy)
                memcpy(hva, bytes, n);
            at += n;
            bytes += n;
            left -= n;
        }
    }
    return 0;
}

int guest_memory_read(const GuestMemory *memory, gpa_t gpa, void *data, uint64_t size)
{
    return transfer(memory, gpa, data, size, TRANSFER_READ);
}

int guest_memory_write(GuestMemory *memory, gpa_t gpa, const void *data, uint64_t size)
{
    int result = transfer(memory, gpa, (void *)(uintptr_t)data, size, TRANSFER_WRITE);
    if (result == 0)
        guest_memory_written(memory, gpa, size);
    return result;
}

int guest_memory_load(GuestMemory *memory, gpa_t gpa, const void *data, uint64_t size)
{
    int result = transfer(memory, gpa, (void *)(uintptr_t)data, size, TRANSFER_LOAD);
    if (result == 0)
        guest_memory_written(memory, gpa, size);
    return result;
}

void guest_memory_written(GuestMemory *memory, gpa_t gpa, uint64_t size)
{
    if (size == 0)
        return;
    gpa_t last = gpa + size - 1;
    for (gpa_t page = gpa & ~(gpa_t)(GUEST_PAGE_SIZE - 1); page <= last && page >= (gpa & ~(gpa_t)0xfff);
         page += GUEST_PAGE_SIZE) {
        const Memslot *slot = guest_memory_find(memory, page);
        if (!slot)
            break;
        uint64_t index = (page - slot->gpa) >> GUEST_PAGE_BITS;
        __atomic_fetch_or(&slot->dirty[index / 64], 1ull << (index % 64), __ATOMIC_RELAXED);
    }
    size_t count = __atomic_load_n(&memory->listener_count, __ATOMIC_ACQUIRE);
    for (size_t i = 0; i < count; i++)
        memory->listeners[i].written(memory->listeners[i].opaque, gpa, size);
}

/* Does another slot show any of these bytes of the memfd? */
static bool is_aliased(const GuestMemory *memory, const Memslot *slot, uint64_t ram_offset, uint64_t size)
{
    for (size_t i = 0; i < memory->count; i++) {
        const Memslot *other = &memory->slots[i];
        if (other != slot && ram_offset < other->ram_offset + other->size && other->ram_offset < ram_offset + size)
            return true;
    }
    return false;
}

uint64_t guest_memory_discard(GuestMemory *memory, gpa_t gpa, uint64_t size)
{
    uint64_t given = 0;
    if (size > UINT64_MAX - gpa - GUEST_PAGE_SIZE)
        return 0;
    gpa_t end = (gpa + size) & ~(gpa_t)(GUEST_PAGE_SIZE - 1);
    gpa = (gpa + GUEST_PAGE_SIZE - 1) & ~(gpa_t)(GUEST_PAGE_SIZE - 1);
    while (gpa < end) {
        const Memslot *slot = guest_memory_find(memory, gpa);
        if (!slot)
            break; /* a range of RAM begins with RAM */
        uint64_t n = MIN(end - gpa, slot->size - (gpa - slot->gpa)), at = slot->ram_offset + (gpa - slot->gpa);
        if (!(slot->flags & MEMSLOT_READ_ONLY) && !is_aliased(memory, slot, at, n) &&
            fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n) == 0) {
            guest_memory_written(memory, gpa, n); /* no translation of what was there may live on */
            given += n;
        }
        gpa += n;
    }
    return given;
}

int guest_memory_add_listener(GuestMemory *memory, GuestMemoryWritten written, void *opaque)
{
    if (memory->listener_count == MAX_LISTENERS)
        return -ENOSPC;
    memory->listeners[memory->listener_count].written = written;
    memory->listeners[memory->listener_count].opaque = opaque;
    __atomic_store_n(&memory->listener_count, memory->listener_count + 1, __ATOMIC_RELEASE);
    return 0;
}

void guest_memory_remove_listener(GuestMemory *memory, void *opaque)
{
    for (size_t i = 0; i < memory->listener_count; i++) {
        if (memory->listeners[i].opaque != opaque)
            continue;
        memory->listeners[i] = memory->listeners[memory->listener_count - 1];
        __atomic_store_n(&memory->listener_count, memory->listener_count - 1, __ATOMIC_RELEASE);
        return;
    }
}

bool guest_memory_has_listener(const GuestMemory *memory)
{
    return __atomic_load_n(&memory->listener_count, __ATOMIC_ACQUIRE) != 0;
}

int64_t guest_memory_take_dirty(GuestMemory *memory, size_t slot, uint64_t *bitmap)
{
    if (slot >= memory->count)
        return -ENOENT;
    int64_t pages = 0;
    Memslot *s = &memory->slots[slot];
    for (size_t i = 0; i < dirty_words(s); i++) {
        bitmap[i] = __atomic_exchange_n(&s->dirty[i], 0, __ATOMIC_RELAXED);
        pages += __builtin_popcountll(bitmap[i]);
    }
    return pages;
}
