#include <pthread.h>
#include <stdlib.h>

#include "memory/device_ram.h"

typedef struct Entry {
    DeviceRam ram; /* size 0: free */
    bool active;   /* the engine has it */
} Entry;

struct DeviceRams {
    pthread_mutex_t lock;
    uint32_t count; /* atomic: read without the lock */
    Entry entries[DEVICE_RAM_MAX];
    DeviceRamSet set;
    void *engine;
};

DeviceRams *device_rams_new(void)
{
    DeviceRams *list = calloc(1, sizeof *list);
    if (list)
        pthread_mutex_init(&list->lock, NULL);
    return list;
}

void device_rams_free(DeviceRams *list)
{
    if (!list)
        return;
    pthread_mutex_destroy(&list->lock);
    free(list);
}

static void activate(DeviceRams *list, Entry *entry, bool active)
{
    if (!entry->ram.size || entry->active == active || !list->set)
        return;
    int result = list->set(list->engine, (uint32_t)(entry - list->entries), &entry->ram, active);
    entry->active = active && result == 0;
}

static bool overlap(gpa_t a, uint64_t a_size, gpa_t b, uint64_t b_size) { return a < b + b_size && b < a + a_size; }

static bool memslot_is_there(const GuestMemory *memory, const DeviceRam *ram)
{
    for (size_t i = 0; i < guest_memory_slot_count(memory); i++) {
        const Memslot *slot = guest_memory_slot(memory, i);
        if (overlap(ram->gpa, ram->size, slot->gpa, slot->size))
            return true;
    }
    return false;
}

/* A free entry, or NULL with the reason. Lock held. */
static Entry *find_room(DeviceRams *list, const DeviceRam *ram, int *result)
{
    Entry *room = NULL;
    *result = -ENOSPC;
    for (Entry *entry = list->entries; entry < list->entries + DEVICE_RAM_MAX; entry++) {
        if (entry->ram.size && overlap(ram->gpa, ram->size, entry->ram.gpa, entry->ram.size)) {
            *result = -EEXIST;
            return NULL;
        }
        if (!entry->ram.size && !room)
            room = entry;
    }
    return room;
}

int device_ram_add(DeviceRams *list, const GuestMemory *memory, const DeviceRam *ram)
{
    if (!ram->size || (ram->gpa | ram->size | (uintptr_t)ram->hva) % GUEST_PAGE_SIZE ||
        ram->gpa + ram->size < ram->gpa)
        return -EINVAL;
    if (memslot_is_there(memory, ram))
        return -EEXIST;
    int result;
    pthread_mutex_lock(&list->lock);
    Entry *entry = find_room(list, ram, &result);
    if (entry) {
        *entry = (Entry){.ram = *ram};
        __atomic_fetch_add(&list->count, 1, __ATOMIC_SEQ_CST);
        activate(list, entry, true);
        result = 0;
    }
    pthread_mutex_unlock(&list->lock);
    return result;
}

int device_ram_remove(DeviceRams *list, gpa_t gpa)
{
    int result = -ENOENT;
    pthread_mutex_lock(&list->lock);
    for (Entry *entry = list->entries; entry < list->entries + DEVICE_RAM_MAX; entry++) {
        if (!entry->ram.size || entry->ram.gpa != gpa)
            continue;
        Entry gone = *entry;
        entry->ram.size = 0; /* nobody finds it any more when the engine forgets what it knew */
        __atomic_fetch_sub(&list->count, 1, __ATOMIC_SEQ_CST);
        if (gone.active)
            list->set(list->engine, (uint32_t)(entry - list->entries), &gone.ram, false);
        entry->active = false;
        result = 0;
    }
    pthread_mutex_unlock(&list->lock);
    return result;
}

uint8_t *device_ram_find(DeviceRams *list, gpa_t gpa)
{
    uint8_t *found = NULL;
    if (likely(!__atomic_load_n(&list->count, __ATOMIC_ACQUIRE)))
        return NULL;
    pthread_mutex_lock(&list->lock);
    for (const Entry *entry = list->entries; entry < list->entries + DEVICE_RAM_MAX && !found; entry++)
        if (gpa - entry->ram.gpa < entry->ram.size)
            found = entry->ram.hva + (gpa - entry->ram.gpa);
    pthread_mutex_unlock(&list->lock);
    return found;
}

void device_rams_attach(DeviceRams *list, DeviceRamSet set, void *engine)
{
    pthread_mutex_lock(&list->lock);
    for (Entry *entry = list->entries; entry < list->entries + DEVICE_RAM_MAX; entry++)
        activate(list, entry, false);
    list->set = set;
    list->engine = engine;
    for (Entry *entry = list->entries; entry < list->entries + DEVICE_RAM_MAX; entry++) {
        entry->active = false;
        activate(list, entry, true);
    }
    pthread_mutex_unlock(&list->lock);
}
