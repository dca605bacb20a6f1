/*
 * What is translated: blocks by the guest's RIP, the exits between them, and the table that indirect jumps look in.
 *
 * A block is right as long as its guest addresses show the same pages with the same bytes. Stores: the pages are
 * traced (shadow_trace), and a store, by the guest, the monitor or a device, drops their blocks. Mappings: after
 * each event that may make the processor forget a translation (MOV to CR3, INVLPG...), all pages of code are looked
 * up again. Places stay until everything is flushed, so that a dropped block can still be left.
 */
#include <stdlib.h>
#include <string.h>

#include "lab/translate.h"

static uint32_t hash(uint64_t rip) { return (uint32_t)((rip ^ rip >> 13) % ARRAY_SIZE(((Translator *)0)->heads)); }

static bool grow(void **array, uint32_t *room, uint32_t needed, size_t size)
{
    if (needed <= *room)
        return true;
    uint32_t wanted = MAX(needed, *room * 2);
    void *larger = realloc(*array, wanted * size);
    if (!larger)
        return false;
    *array = larger;
    *room = wanted;
    return true;
}

/* For one more block, whatever it holds. */
bool cache_room(Translator *t, uint32_t size)
{
    uint32_t places = t->place_count + BLOCK_ROOM / 2, exits = t->exit_count + BLOCK_ROOM / 16;
    return CACHE_END - t->used >= size && places <= PLACES_MAX &&
           grow((void **)&t->places, &t->place_room, places, sizeof *t->places) &&
           grow((void **)&t->exits, &t->exit_room, exits, sizeof *t->exits) &&
           grow((void **)&t->blocks, &t->block_room, t->block_count + 1, sizeof *t->blocks) &&
           grow((void **)&t->pages, &t->page_room, t->page_count + 2, sizeof *t->pages);
}

void cache_add_place(Translator *t, const Place *place) { t->places[t->place_count++] = *place; }

const Place *cache_place(const Translator *t, uint64_t offset)
{
    if (offset < CACHE_START || offset >= t->used)
        return NULL;
    uint32_t low = 0, high = t->place_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (t->places[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return &t->places[low];
}

uint32_t cache_add_exit(Translator *t, uint64_t target, uint32_t literal)
{
    t->exits[t->exit_count] = (Exit){.target = target, .literal = literal, .to = NONE};
    return t->exit_count++;
}

uint32_t cache_find(const Translator *t, uint64_t rip)
{
    uint32_t at = t->heads[hash(rip)];
    while (at != NONE && t->blocks[at].rip != rip)
        at = t->blocks[at].next;
    return at;
}

static void add_page(Translator *t, const CodePage *page)
{
    for (uint32_t i = 0; i < t->page_count; i++)
        if (t->pages[i].address == page->address && t->pages[i].page == page->page)
            return;
    t->pages[t->page_count++] = *page;
    shadow_trace(t->monitor->shadow, page->page, true);
}

uint32_t cache_add_block(Translator *t, const Block *block, const CodePage *pages, unsigned count)
{
    uint32_t at = t->block_count++, *head = &t->heads[hash(block->rip)];
    t->blocks[at] = *block;
    t->blocks[at].next = *head;
    *head = at;
    for (unsigned i = 0; i < count; i++)
        add_page(t, &pages[i]);
    t->monitor->counters.blocks++;
    return at;
}

static void set_literal(Translator *t, const Exit *exit, uint32_t offset)
{
    uint64_t address = LAB_BASE + offset;
    memcpy(t->monitor->memory + exit->literal, &address, sizeof address);
}

void cache_link(Translator *t, uint32_t exit, uint32_t block)
{
    t->exits[exit].to = block;
    set_literal(t, &t->exits[exit], t->blocks[block].code);
    t->monitor->counters.chained++;
}

void cache_set_target(Translator *t, uint32_t block)
{
    const Block *b = &t->blocks[block];
    t->targets[b->rip & (TARGETS - 1)] = (JumpTarget){-b->rip, LAB_BASE + b->code};
}

/* An entry that no RIP with these low bits matches. */
static void clear_target(Translator *t, uint32_t index)
{
    t->targets[index] = (JumpTarget){-(uint64_t)(index + 1), LAB_BASE + t->retry};
}

static void drop_block(Translator *t, uint32_t at)
{
    Block *block = &t->blocks[at];
    uint32_t *link = &t->heads[hash(block->rip)], index = (uint32_t)(block->rip & (TARGETS - 1));
    while (*link != at)
        link = &t->blocks[*link].next;
    *link = block->next;
    block->dead = true;
    if (t->targets[index].minus_rip == -block->rip)
        clear_target(t, index);
}

static bool is_on(const Block *block, gpa_t page) { return block->page[0] == page || block->page[1] == page; }

void cache_drop_page(Translator *t, gpa_t page)
{
    bool any = false;
    page &= ~(gpa_t)(GUEST_PAGE_SIZE - 1);
    for (uint32_t i = 0; i < t->page_count; i++)
        if (t->pages[i].page == page) {
            t->pages[i--] = t->pages[--t->page_count];
            any = true;
        }
    if (!any)
        return;
    for (uint32_t i = 0; i < t->block_count; i++)
        if (!t->blocks[i].dead && is_on(&t->blocks[i], page))
            drop_block(t, i);
    for (uint32_t i = 0; i < t->exit_count; i++) {
        Exit *exit = &t->exits[i];
        if (exit->to != NONE && t->blocks[exit->to].dead) {
            exit->to = NONE;
            set_literal(t, exit, exit->literal - 2);
        }
    }
    shadow_trace(t->monitor->shadow, page, false);
    t->generation++;
}

void cache_verify(Translator *t)
{
    ShadowMode mode = lab_mode(t->monitor);
    mode.user = false;
    for (uint32_t i = 0; i < t->page_count;) {
        ShadowFault fault = {0};
        Error error = {0};
        enum ShadowResult found =
            shadow_translate(t->monitor->shadow, &mode, t->pages[i].address, PF_FETCH, &fault, &error);
        if (found == SHADOW_FILLED && fault.gpa == t->pages[i].page) {
            i++;
            continue;
        }
        cache_drop_page(t, t->pages[i].page);
        i = 0;
    }
}

void cache_flush(Translator *t)
{
    Monitor *monitor = t->monitor;
    for (uint32_t i = 0; i < t->page_count; i++)
        shadow_trace(monitor->shadow, t->pages[i].page, false);
    t->page_count = t->block_count = t->exit_count = t->place_count = 0;
    memset(t->heads, 0xff, sizeof t->heads);
    memset(monitor->memory + CACHE_START, 0xcc, CACHE_END - CACHE_START);
    t->used = CACHE_START;
    if (cache_room(t, BLOCK_ROOM))
        emit_common(t);
    for (uint32_t i = 0; i < TARGETS; i++)
        clear_target(t, i);
    guest_memory_written(monitor->board->memory, monitor->base + CACHE_START, CACHE_END - CACHE_START);
    t->generation++;
    t->exit = NONE;
}

/* ---- for Python -------------------------------------------------------------------------------------------------
 */

static const Block *block_of(const Monitor *monitor, uint64_t rip)
{
    const Translator *t = monitor->technique_state;
    if (monitor->technique != &lab_translation_technique)
        return NULL;
    uint32_t at = cache_find(t, rip);
    if (at != NONE)
        return &t->blocks[at];
    for (uint32_t i = 0; i < t->block_count; i++)
        if (!t->blocks[i].dead && rip - t->blocks[i].rip < t->blocks[i].size)
            return &t->blocks[i];
    return NULL;
}

bool lab_translation(const Monitor *monitor, uint64_t rip, TranslationView *view)
{
    const Translator *t = monitor->technique_state;
    const Block *block = block_of(monitor, rip);
    if (!block)
        return false;
    *view = (TranslationView){.rip = block->rip,
                              .size = block->size,
                              .code_size = block->code_size,
                              .code = LAB_BASE + block->code,
                              .page = LAB_BASE + LAB_DATA};
    for (uint32_t i = 0; i < t->exit_count; i++)
        if (t->exits[i].literal - block->code < block->code_size) {
            view->exits++;
            view->linked += t->exits[i].to != NONE;
        }
    return true;
}

uint32_t lab_translation_places(const Monitor *monitor, uint64_t rip, uint64_t *code, uint64_t *guest,
                                uint32_t room)
{
    const Translator *t = monitor->technique_state;
    const Block *block = block_of(monitor, rip);
    uint32_t count = 0;
    if (!block)
        return 0;
    for (uint32_t i = 0; i < t->place_count && count < room; i++)
        if (t->places[i].offset - block->code < block->code_size) {
            code[count] = LAB_BASE + t->places[i].offset;
            guest[count++] = t->places[i].rip;
        }
    return count;
}

uint32_t lab_translation_code(const Monitor *monitor, uint64_t rip, uint8_t *code, uint32_t room)
{
    const Block *block = block_of(monitor, rip);
    uint32_t size = block ? MIN(block->code_size, room) : 0;
    if (size)
        memcpy(code, monitor->memory + block->code, size);
    return size;
}

TranslationStatistics lab_translation_statistics(const Monitor *monitor)
{
    const Translator *t = monitor->technique_state;
    TranslationStatistics s = {.room = CACHE_END - CACHE_START};
    if (monitor->technique != &lab_translation_technique)
        return s;
    for (uint32_t i = 0; i < t->block_count; i++)
        s.blocks += !t->blocks[i].dead;
    for (uint32_t i = 0; i < t->exit_count; i++)
        s.linked += t->exits[i].to != NONE;
    s.used = t->used - CACHE_START;
    s.places = t->place_count;
    s.exits = t->exit_count;
    s.pages = t->page_count;
    s.generation = t->generation;
    return s;
}
