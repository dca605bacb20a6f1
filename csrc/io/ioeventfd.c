#include <pthread.h>
#include <stdlib.h>

#include "io/ioeventfd.h"

typedef struct Entry {
    IoEventFd what;
    bool active; /* the engine has it */
    struct Entry *next;
} Entry;

struct IoEventFds {
    pthread_mutex_t lock;
    Entry *entries;
    IoEventFdSet set;
    void *engine;
    bool served;
    bool surfaced; /* atomic: read without the lock */
    uint64_t refused;
};

IoEventFds *ioeventfds_new(void)
{
    IoEventFds *list = calloc(1, sizeof *list);
    if (list)
        pthread_mutex_init(&list->lock, NULL);
    return list;
}

void ioeventfds_free(IoEventFds *list)
{
    if (!list)
        return;
    while (list->entries) {
        Entry *entry = list->entries;
        list->entries = entry->next;
        free(entry);
    }
    pthread_mutex_destroy(&list->lock);
    free(list);
}

static void activate(IoEventFds *list, Entry *entry, bool active)
{
    if (entry->active == active)
        return;
    int result = list->set(list->engine, &entry->what, active);
    entry->active = active && result == 0;
    list->refused += active && result < 0;
}

/* Make the engine agree with what should be. */
static void update(IoEventFds *list)
{
    bool active = list->set && list->served && !list->surfaced;
    for (Entry *entry = list->entries; entry; entry = entry->next)
        activate(list, entry, active);
}

/* Would one access be for both? */
static bool overlap(const IoEventFd *a, const IoEventFd *b)
{
    return a->space == b->space && a->address == b->address && (!a->size || !b->size || a->size == b->size) &&
           (!a->match || !b->match || a->value == b->value);
}

static bool is_valid(const IoEventFd *entry)
{
    uint32_t size = entry->size;
    if (size > 8 || size & (size - 1) || (entry->space == BUS_PIO && size > 4) || entry->fd < 0)
        return false;
    if (entry->match && (size == 0 || (size < 8 && entry->value >> (8 * size))))
        return false;
    uint64_t last = entry->space == BUS_PIO ? 0xffff : UINT64_MAX;
    return entry->address <= last && MAX(size, 1u) - 1 <= last - entry->address;
}

int ioeventfd_add(IoEventFds *list, const IoEventFd *what)
{
    if (!is_valid(what))
        return -EINVAL;
    Entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        return -ENOMEM;
    entry->what = *what;
    int result = 0;
    pthread_mutex_lock(&list->lock);
    for (const Entry *other = list->entries; other; other = other->next)
        if (overlap(&other->what, what))
            result = -EEXIST;
    if (result == 0) {
        entry->next = list->entries;
        list->entries = entry;
        update(list);
    }
    pthread_mutex_unlock(&list->lock);
    if (result < 0)
        free(entry);
    return result;
}

int ioeventfd_remove(IoEventFds *list, const IoEventFd *what)
{
    int result = -ENOENT;
    pthread_mutex_lock(&list->lock);
    for (Entry **link = &list->entries; *link;) {
        Entry *entry = *link;
        if (entry->what.fd != what->fd || !overlap(&entry->what, what)) {
            link = &entry->next;
            continue;
        }
        activate(list, entry, false);
        *link = entry->next;
        free(entry);
        result = 0;
    }
    pthread_mutex_unlock(&list->lock);
    return result;
}

void ioeventfds_attach(IoEventFds *list, IoEventFdSet set, void *engine)
{
    pthread_mutex_lock(&list->lock);
    for (Entry *entry = list->entries; entry; entry = entry->next)
        activate(list, entry, false);
    list->set = set;
    list->engine = engine;
    update(list);
    pthread_mutex_unlock(&list->lock);
}

void ioeventfds_serve(IoEventFds *list, bool served)
{
    pthread_mutex_lock(&list->lock);
    list->served = served;
    update(list);
    pthread_mutex_unlock(&list->lock);
}

void ioeventfds_surface(IoEventFds *list, bool surfaced)
{
    if (likely(__atomic_load_n(&list->surfaced, __ATOMIC_ACQUIRE) == surfaced))
        return;
    pthread_mutex_lock(&list->lock);
    __atomic_store_n(&list->surfaced, surfaced, __ATOMIC_RELEASE);
    update(list);
    pthread_mutex_unlock(&list->lock);
}

void ioeventfds_counts(IoEventFds *list, IoEventFdCounts *counts)
{
    *counts = (IoEventFdCounts){0};
    pthread_mutex_lock(&list->lock);
    counts->refused = list->refused;
    for (const Entry *entry = list->entries; entry; entry = entry->next) {
        counts->entries++;
        counts->active += entry->active;
    }
    pthread_mutex_unlock(&list->lock);
}
