/*
 * A guest with few tables, a processor with a TLB, and an engine that keeps copies of the shadow's entries, all
 * driven by a stream of bytes: test_shadow.c feeds random ones, fuzz_shadow.c what libFuzzer finds. After each
 * step:
 *
 *  - what the shadow maps for any mode is what a walk of the guest's tables allows there (not more; and no less
 *    for the access that was just made);
 *  - no TLB entry lets the guest write a page that is traced;
 *  - no copy of an entry says more than the entry, once the touched ranges are stored again;
 *  - the statistics' pages and traced pages are those there are.
 */
#ifndef PYVMM_TESTS_SHADOW_MODEL_H
#define PYVMM_TESTS_SHADOW_MODEL_H

#include <stdlib.h>

#include "fuzz/input.h"
#include "mmu/shadow.h"
#include "tests/check.h"

enum {
    MODEL_END = 0x600000, /* of the guest's RAM, three times 2 MiB */
    MODEL_ROM = 0x40000000,
    MODEL_POOL_PAGES = 40,
    MODEL_TABLE = 0x8000, /* the first of the tables */
    MODEL_TABLES = 8,
    MODEL_SLOT = 3,
    MODEL_MODES = 6,
    MODEL_TLB = 64,
    MODEL_BITS = 40, /* MAXPHYADDR */
};

typedef struct TlbEntry {
    gva_t page;
    gpa_t physical;
    bool valid, write;
} TlbEntry;

typedef struct Model {
    GuestMemory *memory;
    uint8_t *ram;
    Shadow *shadow;
    ShadowMode modes[MODEL_MODES];
    uint32_t now; /* the mode */
    gpa_t cr3;    /* the real one */
    TlbEntry tlb[MODEL_TLB];
    uint64_t copy[MODEL_POOL_PAGES * 512];
    bool code[MODEL_END / GUEST_PAGE_SIZE];
    bool loose; /* tables are out of step, as a TLB may be */
} Model;

static const uint32_t model_index[] = {0, 1, 2, 511};

/* One of 256 addresses, and a few in the monitor's slot. */
static gva_t model_address(uint32_t number)
{
    gva_t address = 0;
    for (int level = 0; level < 4; level++, number >>= 2)
        address |= (gva_t)model_index[number & 3] << (12 + 9 * level);
    return (gva_t)((int64_t)(address << 16) >> 16);
}

static void model_free(Model *model)
{
    shadow_free(model->shadow);
    guest_memory_free(model->memory);
    free(model);
}

/* An entry: mostly of a kind that leads somewhere. */
static uint64_t model_entry(Input *input)
{
    uint64_t choice = take(input, 4), value = (choice & 0x1f) | (choice >> 5 & 1 ? PTE_A | PTE_D : 0) | PTE_P;
    value &= ~(choice >> 6 & 7 ? 0 : PTE_P);
    value |= choice >> 8 & 3 ? PTE_RW | PTE_US : 0;
    value |= choice >> 9 & 7 ? 0 : PTE_XD;
    uint32_t which = choice >> 16 & 0xff;
    switch (choice >> 12 & 15) {
    case 0:
        return value | PTE_PS | (which & 3) << 21; /* 2 MiB; with 3: past the guest's RAM */
    case 1:
        return value | PTE_PS | (which & 3) << 30;
    case 2:
        return value | which << 12; /* any of the first pages */
    case 3:
        return value |
               (which & 1 ? MODEL_END + (which & 0xf0) * 0x100 : which << 28); /* the monitor's, ROM, nothing */
    case 4:
        return value | 1ull << (which & 63); /* junk */
    default:
        return value | (MODEL_TABLE + which % MODEL_TABLES * GUEST_PAGE_SIZE);
    }
}

static gpa_t model_table(uint64_t choice) { return MODEL_TABLE + choice % MODEL_TABLES * GUEST_PAGE_SIZE; }

/* Make one table good again: 0 and 1 are PML4s, 2 and 3 lead to 4 and 5, and so on; 6 and 7 map pages, tables among
 * them. */
static void model_repair(Model *model, uint32_t number, uint32_t seed)
{
    uint64_t entries[512] = {0};
    for (uint32_t i = 0; i < ARRAY_SIZE(model_index); i++, seed = seed * 77 + 13) {
        uint64_t good = PTE_P | PTE_RW | PTE_US | (seed & 1 ? PTE_A | PTE_D : 0), leaf = seed >> 1 & 15;
        if (number < 6)
            entries[model_index[i]] = good | (MODEL_TABLE + ((number & 6) + 2 + (seed >> 5 & 1)) * GUEST_PAGE_SIZE);
        else
            entries[model_index[i]] = good | (leaf < 12 ? leaf << 12 : leaf << 21);
    }
    CHECK_EQ(guest_memory_write(model->memory, model_table(number), entries, sizeof entries), 0);
}

static Model *model_new(uint32_t write_limit)
{
    Model *model = calloc(1, sizeof *model);
    CHECK(model);
    model->memory = guest_memory_new(NULL);
    CHECK_EQ(guest_memory_add(model->memory, 0, MODEL_END + MODEL_POOL_PAGES * GUEST_PAGE_SIZE, 0, NULL), 0);
    CHECK_EQ(guest_memory_add(model->memory, MODEL_ROM, 0x10000, MEMSLOT_READ_ONLY, NULL), 0);
    model->ram = guest_memory_ptr(model->memory, 0, MODEL_END, true);
    ShadowConfig config = {.guest_end = MODEL_END,
                           .pool = MODEL_END,
                           .pool_size = MODEL_POOL_PAGES * GUEST_PAGE_SIZE,
                           .monitor_pml4e = 0x123003,
                           .monitor_slot = MODEL_SLOT,
                           .physical_bits = MODEL_BITS,
                           .write_limit = write_limit,
                           .touch = true};
    Error error;
    model->shadow = shadow_new(model->memory, &config, &error);
    CHECK(model->shadow);
    for (uint32_t i = 0; i < MODEL_MODES; i++)
        model->modes[i] = (ShadowMode){.paging = {.cr0 = 0x80010001,
                                                  .cr3 = MODEL_TABLE + (i & 1) * GUEST_PAGE_SIZE,
                                                  .cr4 = 0x20,
                                                  .efer = 0xd00,
                                                  .physical_bits = MODEL_BITS},
                                       .user = i == 1 || i == 2};
    model->modes[3].paging.cr0 = 0x80000001; /* no WP */
    model->modes[4].paging.cr4 |= 1u << 20;  /* SMEP */
    model->modes[5].paging.cr4 |= 3u << 20;  /* and SMAP */
    for (uint32_t i = 0; i < MODEL_TABLES; i++)
        model_repair(model, i, write_limit + 31 * i);
    return model;
}

static void model_apply_flush(Model *model)
{
    ShadowTouch touches[3];
    size_t count;
    if (shadow_flush_due(model->shadow))
        memset(model->tlb, 0, sizeof model->tlb);
    do {
        count = shadow_touches(model->shadow, touches, ARRAY_SIZE(touches));
        for (size_t i = 0; i < count; i++) {
            CHECK(touches[i].gpa >= MODEL_END && touches[i].count);
            uint64_t first = (touches[i].gpa - MODEL_END) / 8;
            CHECK(first + touches[i].count <= ARRAY_SIZE(model->copy));
            memset(&model->copy[first], 0, touches[i].count * 8);
        }
    } while (count == ARRAY_SIZE(touches));
}

static bool model_traced(const Model *model, gpa_t gpa) { return shadow_is_traced(model->shadow, gpa); }

/* The shadow's right to an address beside what the guest's tables say now. */
static void model_check_address(Model *model, const ShadowMode *mode, gva_t address)
{
    PageWalk shadow, guest;
    if (shadow_look(model->shadow, mode, address, &shadow) < 0 || shadow.end == WALK_NOT_PRESENT)
        return;
    if ((address >> 39 & 511) == MODEL_SLOT)
        return;
    CHECK_EQ(shadow.end, WALK_PAGE);
    uint32_t rights = shadow.steps[shadow.count - 1].rights, user = mode->user ? PF_USER : 0;
    CHECK(rights & PAGE_USER);
    page_walk(model->memory, &mode->paging, address, &guest);
    CHECK_EQ(guest.end, WALK_PAGE);
    CHECK_EQ(shadow.physical, guest.physical);
    CHECK(guest.physical < MODEL_END || !guest_memory_find(model->memory, guest.physical) ||
          guest.physical >= MODEL_ROM);
    CHECK_EQ(page_check(&guest, &mode->paging, user, mode->ac), -1);
    for (uint32_t i = 0; i < guest.count; i++)
        CHECK(guest.steps[i].value & PTE_A || guest.steps[i].address >= MODEL_ROM);
    if (rights & PAGE_WRITE) {
        CHECK_EQ(page_check(&guest, &mode->paging, user | PF_WRITE, mode->ac), -1);
        CHECK(guest.steps[guest.count - 1].value & PTE_D || guest.steps[guest.count - 1].address >= MODEL_ROM);
        CHECK(!model_traced(model, guest.physical));
    }
    if (rights & PAGE_EXECUTE)
        CHECK_EQ(page_check(&guest, &mode->paging, user | PF_FETCH, mode->ac), -1);
}

static void model_check(Model *model)
{
    for (uint32_t i = 0; i < MODEL_TLB; i++)
        CHECK(!(model->tlb[i].valid && model->tlb[i].write && model_traced(model, model->tlb[i].physical)));
    const uint64_t *pool = guest_memory_ptr(model->memory, MODEL_END, sizeof model->copy, false);
    for (size_t i = 0; i < ARRAY_SIZE(model->copy); i++) {
        uint64_t copy = model->copy[i] ^ PTE_XD, entry = pool[i] ^ PTE_XD;
        if (model->copy[i])
            CHECK(!((copy ^ entry) & 0xffffffffff000ull & ~PTE_XD) && !(copy & ~entry));
    }
    ShadowStatistics statistics = shadow_statistics(model->shadow);
    uint32_t traced = 0;
    for (gpa_t gpa = 0; gpa < MODEL_END; gpa += GUEST_PAGE_SIZE)
        traced += model_traced(model, gpa);
    CHECK_EQ(statistics.traced, traced);
    CHECK(statistics.pages <= MODEL_POOL_PAGES && statistics.pages <= statistics.pages_peak);
    if (model->loose)
        return;
    for (uint32_t mode = 0; mode < MODEL_MODES; mode++)
        for (uint32_t i = 0; i < 256; i++)
            model_check_address(model, &model->modes[mode], model_address(i));
}

/* A store of the guest: an access first, then by itself, or by the monitor. */
static void model_store(Model *model, gpa_t gpa, const void *data, uint32_t size)
{
    if (model_traced(model, gpa))
        CHECK_EQ(shadow_write(model->shadow, gpa, data, size), model->code[gpa / GUEST_PAGE_SIZE]);
    else
        memcpy(model->ram + gpa, data, size);
}

static void model_access(Model *model, gva_t address, uint32_t access)
{
    const ShadowMode *mode = &model->modes[model->now];
    uint32_t user = mode->user ? PF_USER : 0;
    Error error = {0};
    ShadowFault fault;
    PageWalk guest, shadow;
    gpa_t root = shadow_root(model->shadow, mode, &error);
    CHECK(root);
    if (root != model->cr3)
        memset(model->tlb, 0, sizeof model->tlb);
    model->cr3 = root;
    enum ShadowResult result = SHADOW_FILLED;
    for (int tries = 0; tries < 3 && result == SHADOW_FILLED; tries++) {
        result = shadow_fault(model->shadow, mode, address, access | PF_USER, &fault, &error);
        model_apply_flush(model);
        CHECK_EQ(shadow_look(model->shadow, mode, address, &shadow), 0);
        uint32_t rights = shadow.end == WALK_PAGE ? shadow.steps[shadow.count - 1].rights : 0;
        uint32_t needs = PAGE_USER | (access & PF_WRITE ? PAGE_WRITE : 0) | (access & PF_FETCH ? PAGE_EXECUTE : 0);
        if (result == SHADOW_FILLED && (rights & needs) == needs) {
            model->tlb[address >> 12 & (MODEL_TLB - 1)] =
                (TlbEntry){address & ~0xfffull, shadow.physical, true, rights & PAGE_WRITE};
            break;
        }
        /* Filled, and not enough: only when the page became a table on the way. */
        CHECK(result != SHADOW_FILLED || model_traced(model, shadow.physical));
    }
    page_walk(model->memory, &mode->paging, address, &guest);
    int code = page_check(&guest, &mode->paging, access | user, mode->ac);
    switch (result) {
    case SHADOW_FILLED:
        CHECK_EQ(code, -1);
        break;
    case SHADOW_GUEST_FAULT:
        CHECK_EQ(fault.error_code, code);
        break;
    case SHADOW_TRACED:
        CHECK_EQ(code, -1);
        CHECK(access & PF_WRITE && fault.gpa == guest.physical && model_traced(model, fault.gpa));
        CHECK(fault.table || fault.code);
        break;
    case SHADOW_MONITOR:
        CHECK(code == -1 && error.code == EADDRINUSE);
        break;
    case SHADOW_BAD_TABLE:
        CHECK_EQ(error.code, EFAULT);
        break;
    case SHADOW_UNSUPPORTED: /* an execute-only page: SMAP without SMEP, which no mode here has */
        CHECK(false);
    }
}

static void model_step(Model *model, Input *input)
{
    uint64_t choice = take(input, 1), where = take(input, 2);
    gpa_t table = model_table(where), entry = table + model_index[where >> 3 & 3] * 8;
    gpa_t page = (where & 15) * GUEST_PAGE_SIZE;
    uint64_t value = choice < 35 ? model_entry(input) : take(input, 8);
    switch (choice < 30 ? 0 : choice < 35 ? 1 : choice < 120 ? 25 : choice / 10) {
    case 0:
        model_store(model, entry, &value, 8);
        break;
    case 1: /* DMA */
        CHECK_EQ(guest_memory_write(model->memory, entry, &value, 8), 0);
        break;
    case 12: /* a piece of an entry, or of two */
        model_store(model, entry + (where >> 5 & 3), &value, 1 + (where >> 8 & 3));
        break;
    case 19:
    case 20:
    case 21:
        model_repair(model, where & 7, (uint32_t)where >> 3);
        break;
    case 13:
        model->now = (uint32_t)(where % MODEL_MODES);
        model->modes[model->now].paging.cr3 = model_table(where >> 8 & 1);
        model->modes[model->now].ac = where >> 9 & 1;
        break;
    case 14:
        shadow_invlpg(model->shadow, model_address((uint32_t)where));
        model->loose = false;
        break;
    case 15:
        shadow_unsync(model->shadow, table);
        model->loose = true;
        break;
    case 16:
        if (where & 0x3000)
            shadow_zap(model->shadow, table);
        else
            shadow_flush(model->shadow);
        break;
    case 17:
        CHECK_EQ(shadow_trace(model->shadow, page, where >> 8 & 1), 0);
        model->code[page / GUEST_PAGE_SIZE] = where >> 8 & 1;
        break;
    case 18: { /* the engine looks at some entries */
        const uint64_t *pool = guest_memory_ptr(model->memory, MODEL_END, sizeof model->copy, false);
        for (size_t i = where % 7; i < ARRAY_SIZE(model->copy); i += 7)
            model->copy[i] = pool[i];
        break;
    }
    default:
        model_access(model, model_address((uint32_t)where & 255), where >> 8 & 7 ? 0 : PF_FETCH);
        model_access(model, model_address((uint32_t)where & 255), where >> 11 & 1 ? PF_WRITE : 0);
    }
    model_apply_flush(model);
}

/* All of the input; checks after every step, or every `every` steps. */
static void model_run(Model *model, Input *input, uint32_t every)
{
    for (uint32_t step = 1; input->left; step++) {
        model_step(model, input);
        if (step % every)
            continue;
        /* What devices wrote is seen at the next call: here. */
        gpa_t root = shadow_root(model->shadow, &model->modes[model->now], NULL);
        if (root != model->cr3)
            memset(model->tlb, 0, sizeof model->tlb);
        model->cr3 = root;
        model_apply_flush(model);
        model_check(model);
    }
    shadow_sync(model->shadow);
    model->loose = false;
    model_apply_flush(model);
    model_check(model);
}

#endif
