/* Shadow page tables: random guests beside a model, and each promise of mmu/shadow.h by itself. */
#include <pthread.h>

#include "tests/shadow_model.h"

static void test_random(void)
{
    ShadowStatistics sum = {0};
    for (uint32_t seed = 1; seed <= 40; seed++) {
        enum { SIZE = 8000 };
        static uint8_t bytes[SIZE];
        uint64_t state = seed;
        for (size_t i = 0; i < SIZE; i++)
            bytes[i] = (uint8_t)((state = state * 6364136223846793005u + 1442695040888963407u) >> 56);
        Model *model = model_new(seed % 3 * 4);
        Input input = {bytes, SIZE};
        model_run(model, &input, 4);
        ShadowStatistics one = shadow_statistics(model->shadow);
        uint64_t *to = (uint64_t *)&sum;
        const uint64_t *from = (const uint64_t *)&one;
        for (size_t i = 0; i < offsetof(ShadowStatistics, pages) / 8; i++)
            to[i] += from[i];
        model_free(model);
    }
    CHECK(sum.fills > 3000 && sum.guest_faults > 3000 && sum.trace_faults > 500 && sum.mmio_fills > 300);
    CHECK(sum.prefetched > 200 && sum.pages_zapped > 300 && sum.flushes > 5 && sum.splintered > 50);
    CHECK(sum.large_fills > 50 && sum.unsyncs > 300 && sum.sync_drops > 1000 && sum.host_writes > 1000);
}

/* A guest with one set of tables: PML4 at 0x8000, PDPT 0x9000, PD 0xa000, PT 0xb000, by hand. */
enum { PML4 = 0x8000, PDPT = 0x9000, PD = 0xa000, PT = 0xb000, GOOD = PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D };

static Model *one_guest(void)
{
    Model *model = model_new(0);
    memset(model->ram, 0, MODEL_END);
    store_le64(model->ram + PML4, PDPT | GOOD);
    store_le64(model->ram + PDPT, PD | GOOD);
    store_le64(model->ram + PD, PT | GOOD);
    for (uint64_t i = 0; i < 512; i++)
        store_le64(model->ram + PT + 8 * i, i * GUEST_PAGE_SIZE | PTE_P | PTE_RW | PTE_US);
    for (uint32_t i = 0; i < MODEL_MODES; i++)
        model->modes[i].paging.cr3 = PML4;
    return model;
}

static enum ShadowResult fault(Model *model, uint32_t mode, gva_t address, uint32_t access, ShadowFault *out)
{
    ShadowFault unused;
    Error error = {0};
    CHECK(shadow_root(model->shadow, &model->modes[mode], NULL));
    enum ShadowResult result =
        shadow_fault(model->shadow, &model->modes[mode], address, access | PF_USER, out ? out : &unused, &error);
    CHECK((result >= SHADOW_BAD_TABLE) == (error.code != 0));
    return result;
}

/* Rights in the shadow now: enum PageRights, 0 when nothing is there. */
static uint32_t rights(Model *model, uint32_t mode, gva_t address)
{
    PageWalk walk;
    if (shadow_look(model->shadow, &model->modes[mode], address, &walk) < 0 || walk.end != WALK_PAGE)
        return 0;
    return walk.steps[walk.count - 1].rights;
}

static void put(Model *model, gpa_t gpa, uint64_t value)
{
    CHECK_EQ(shadow_write(model->shadow, gpa, &value, sizeof value), 0);
}

enum { KERNEL = 0, USER = 2, NO_WP = 3, SMAP = 5 };

static void test_accessed_and_dirty(void)
{
    Model *model = one_guest();
    const uint8_t *entry = model->ram + PT + 8 * 0x40;
    store_le64(model->ram + PD, PT | PTE_P | PTE_RW | PTE_US);
    CHECK_EQ(fault(model, KERNEL, 0x40000, 0, NULL), SHADOW_FILLED);
    CHECK_EQ(rights(model, KERNEL, 0x40000), PAGE_USER | PAGE_EXECUTE);
    CHECK_EQ(load_le64(entry) & (PTE_A | PTE_D), PTE_A);
    CHECK_EQ(load_le64(model->ram + PD) & (PTE_A | PTE_D), PTE_A);
    CHECK_EQ(fault(model, KERNEL, 0x40123, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK_EQ(rights(model, KERNEL, 0x40000), PAGE_WRITE | PAGE_USER | PAGE_EXECUTE);
    CHECK_EQ(load_le64(entry) & (PTE_A | PTE_D), PTE_A | PTE_D);
    CHECK_EQ(load_le64(model->ram + PD) & (PTE_A | PTE_D), PTE_A);
    CHECK(!shadow_flush_due(model->shadow));                     /* rights came, none went */
    put(model, PT + 8 * 0x40, 0x40000 | PTE_P | PTE_RW | PTE_A); /* D cleared: the next store is seen */
    CHECK_EQ(rights(model, KERNEL, 0x40000), PAGE_USER | PAGE_EXECUTE);
    CHECK(!shadow_flush_due(model->shadow)); /* the guest has to say INVLPG */
    CHECK_EQ(shadow_trace(model->shadow, 0x77000, true), 0);
    CHECK(shadow_flush_due(model->shadow) && !shadow_flush_due(model->shadow)); /* but nothing that is traced */
    CHECK_EQ(fault(model, USER, 0x40000, 0, NULL), SHADOW_GUEST_FAULT);
    put(model, PT + 8 * 0x40, 0x40000 | PTE_P); /* A cleared: the next access is */
    CHECK_EQ(rights(model, KERNEL, 0x40000), 0);
    model_free(model);
}

static void test_stores_into_tables(void)
{
    Model *model = one_guest();
    ShadowFault seen;
    CHECK_EQ(fault(model, KERNEL, 0x41000, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK_EQ(fault(model, KERNEL, PT + 8 * 0x41, PF_WRITE, &seen), SHADOW_TRACED);
    CHECK(seen.table && !seen.code && seen.gpa == PT + 8 * 0x41);
    CHECK(shadow_is_traced(model->shadow, PT) && !shadow_is_traced(model->shadow, 0x41000));
    CHECK_EQ(fault(model, KERNEL, 0x42000, 0, NULL), SHADOW_FILLED);
    put(model, PT + 8 * 0x41 + 4, 0); /* the upper half of one entry and the lower half of the next */
    CHECK(rights(model, KERNEL, 0x41000) && !rights(model, KERNEL, 0x42000));
    uint64_t two[2] = {0x44000 | GOOD, 0x45000 | GOOD};
    CHECK_EQ(shadow_write(model->shadow, PT + 8 * 0x44, two, sizeof two), 0);
    CHECK_EQ(rights(model, KERNEL, 0x45000), PAGE_WRITE | PAGE_USER | PAGE_EXECUTE); /* without a fault */
    CHECK_EQ(shadow_statistics(model->shadow).prefetched, 2);
    /* Not RAM, ROM, the monitor's, too much. */
    CHECK_EQ(shadow_write(model->shadow, 0x80000000, two, 8), -EFAULT);
    CHECK_EQ(shadow_write(model->shadow, MODEL_ROM, two, 8), -EFAULT);
    CHECK_EQ(shadow_write(model->shadow, MODEL_END, two, 8), -EFAULT);
    CHECK_EQ(shadow_write(model->shadow, PT + 0xff9, two, 8), -EFAULT);
    CHECK_EQ(shadow_write(model->shadow, PT, two, 0), -EFAULT);
    model_free(model);
}

static void test_supervisor_rules(void)
{
    Model *model = one_guest();
    ShadowFault seen;
    store_le64(model->ram + PT + 8 * 0x50, 0x50000 | PTE_P | PTE_US | PTE_A);
    CHECK_EQ(fault(model, KERNEL, 0x50000, PF_WRITE, &seen), SHADOW_GUEST_FAULT);
    CHECK_EQ(seen.error_code, PF_PRESENT | PF_WRITE); /* not PF_USER: the guest's ring is 0 */
    CHECK_EQ(fault(model, USER, 0x50000, PF_WRITE, &seen), SHADOW_GUEST_FAULT);
    CHECK_EQ(seen.error_code, PF_PRESENT | PF_WRITE | PF_USER);
    CHECK_EQ(fault(model, NO_WP, 0x50000, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK(rights(model, NO_WP, 0x50000) & PAGE_WRITE && !(rights(model, KERNEL, 0x50000) & PAGE_WRITE));
    CHECK_EQ(fault(model, 4, 0x51000, PF_FETCH, &seen), SHADOW_GUEST_FAULT);
    CHECK_EQ(seen.error_code, PF_PRESENT | PF_FETCH);
    CHECK_EQ(fault(model, 4, 0x51000, PF_FETCH, &seen), SHADOW_GUEST_FAULT);
    CHECK_EQ(fault(model, 4, 0x51000, 0, NULL), SHADOW_FILLED);
    CHECK_EQ(rights(model, 4, 0x51000), PAGE_USER);
    CHECK_EQ(fault(model, SMAP, 0x51000, 0, &seen), SHADOW_GUEST_FAULT);
    CHECK_EQ(seen.error_code, PF_PRESENT);
    model->modes[SMAP].ac = true;
    CHECK_EQ(fault(model, SMAP, 0x51000, 0, NULL), SHADOW_FILLED);
    CHECK(rights(model, SMAP, 0x51000));
    model->modes[SMAP].ac = false;
    store_le64(model->ram + PT + 8 * 0x52, 0x52000 | PTE_P | PTE_RW | PTE_A | PTE_D);
    CHECK_EQ(fault(model, SMAP, 0x52000, 0, NULL), SHADOW_FILLED);
    CHECK_EQ(fault(model, KERNEL, 0x52000, 0, NULL), SHADOW_FILLED);
    put(model, PT + 8 * 0x51, 0x51000 | GOOD); /* filled at once for those who may, and for SMAP not */
    CHECK(rights(model, SMAP, 0x52000) && !rights(model, SMAP, 0x51000) && rights(model, KERNEL, 0x51000));
    model->modes[SMAP].paging.cr4 &= ~(1ull << 20);
    CHECK_EQ(fault(model, SMAP, 0x51000, PF_FETCH, NULL), SHADOW_UNSUPPORTED);
    model_free(model);
}

static void test_large_pages(void)
{
    Model *model = one_guest();
    PageWalk walk;
    for (uint64_t i = 1; i < 512; i++)
        store_le64(model->ram + PD + 8 * i, i << 21 | GOOD | PTE_PS);
    store_le64(model->ram + PDPT + 8, GOOD | PTE_PS | PTE_PCD); /* the first GiB again, read-only in the end */
    CHECK_EQ(fault(model, KERNEL, 0x234567, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK_EQ(shadow_look(model->shadow, &model->modes[KERNEL], 0x234567, &walk), 0);
    CHECK(walk.page_bits == 21 && walk.physical == 0x234567);
    CHECK_EQ(fault(model, KERNEL, 0x20000000, PF_WRITE, NULL), SHADOW_FILLED); /* a device */
    CHECK_EQ(shadow_statistics(model->shadow).mmio_fills, 1);
    CHECK_EQ(fault(model, KERNEL, 0x600000 | 1, 0, NULL), SHADOW_MONITOR); /* half RAM, and not the guest's */
    CHECK_EQ(fault(model, KERNEL, 0x7ff000, 0, NULL), SHADOW_FILLED);      /* and half nothing, in pieces */
    CHECK_EQ(shadow_look(model->shadow, &model->modes[KERNEL], 0x7ff000, &walk), 0);
    CHECK_EQ(walk.page_bits, 12);
    CHECK_EQ(shadow_look(model->shadow, &model->modes[KERNEL], 0x600000, &walk), 0);
    CHECK_EQ(walk.end, WALK_NOT_PRESENT);
    /* 1 GiB: one entry of the guest's, a table of 2 MiB entries of ours, and of 4 KiB where tables are. */
    CHECK_EQ(fault(model, KERNEL, 0x40400000, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK_EQ(fault(model, KERNEL, 0x40000000 + PD, PF_WRITE, NULL), SHADOW_TRACED);
    CHECK_EQ(fault(model, KERNEL, 0x40000000, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK_EQ(rights(model, KERNEL, 0x40000000 + 0x77000), PAGE_WRITE | PAGE_USER | PAGE_EXECUTE); /* came with it */
    CHECK_EQ(rights(model, KERNEL, 0x40000000 + PD), PAGE_USER | PAGE_EXECUTE);
    CHECK_EQ(shadow_look(model->shadow, &model->modes[KERNEL], 0x40400000, &walk), 0);
    CHECK(walk.page_bits == 21 && walk.steps[walk.count - 1].value & PTE_PCD);
    put(model, PDPT + 8, (GOOD & ~PTE_RW) | PTE_PS);
    CHECK_EQ(rights(model, KERNEL, 0x40400000), 0);
    CHECK_EQ(fault(model, KERNEL, 0x40400000, 0, NULL), SHADOW_FILLED);
    CHECK_EQ(rights(model, KERNEL, 0x40400000), PAGE_USER | PAGE_EXECUTE);
    /* A page of a 2 MiB entry becomes a table: the entry goes, and comes back in pieces. */
    shadow_flush_due(model->shadow);
    memcpy(model->ram + 0x300000, model->ram + PML4, GUEST_PAGE_SIZE);
    model->modes[1].paging.cr3 = 0x300000;
    CHECK(shadow_root(model->shadow, &model->modes[1], NULL));
    CHECK(shadow_flush_due(model->shadow));
    CHECK_EQ(rights(model, KERNEL, 0x234567), 0);
    CHECK_EQ(fault(model, KERNEL, 0x300008, PF_WRITE, NULL),
             SHADOW_FILLED); /* a root that is not in use: dropped */
    CHECK_EQ(fault(model, KERNEL, 0x234567, PF_WRITE, NULL), SHADOW_FILLED);
    model_free(model);
}

static void test_tables_in_themselves(void)
{
    Model *model = one_guest();
    store_le64(model->ram + PML4 + 8 * 511, PML4 | PTE_P | PTE_RW | PTE_US);
    gva_t self = ~0ull << 12; /* 511 four times: the PML4 itself */
    CHECK_EQ(fault(model, KERNEL, self, 0, NULL), SHADOW_FILLED);
    CHECK_EQ(rights(model, KERNEL, self), PAGE_USER | PAGE_EXECUTE);
    CHECK_EQ(shadow_statistics(model->shadow).pages, 4); /* one for each level */
    CHECK_EQ(fault(model, KERNEL, self, PF_WRITE, NULL), SHADOW_TRACED);
    /* An instruction that cannot be emulated writes the table that it runs through. */
    shadow_unsync(model->shadow, PML4);
    shadow_unsync(model->shadow, PML4);
    CHECK_EQ(fault(model, KERNEL, self, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK(rights(model, KERNEL, self) & PAGE_WRITE);
    CHECK_EQ(fault(model, KERNEL, 0x1000, PF_FETCH, NULL), SHADOW_FILLED);
    CHECK(rights(model, KERNEL, self) & PAGE_WRITE);
    store_le64(model->ram + PML4, 0);
    CHECK(rights(model, KERNEL, 0x1000)); /* as a TLB might have it still */
    shadow_invlpg(model->shadow, 0x1000);
    CHECK(!rights(model, KERNEL, 0x1000) && !(rights(model, KERNEL, self) & PAGE_WRITE));
    CHECK(shadow_flush_due(model->shadow));
    CHECK_EQ(fault(model, KERNEL, self, PF_WRITE, NULL), SHADOW_TRACED);
    for (gpa_t page = 0; page < 100; page++) /* more than are kept out of step, and pages that are no tables */
        shadow_unsync(model->shadow, page * GUEST_PAGE_SIZE);
    model_free(model);
}

static void test_explained_ends(void)
{
    Model *model = one_guest();
    ShadowMode mode = model->modes[KERNEL];
    ShadowFault seen;
    Error error = {0};
    mode.paging.cr3 = MODEL_END;
    CHECK_EQ(shadow_root(model->shadow, &mode, &error), 0);
    CHECK(strstr(error.text, "CR3 is 0x600000"));
    CHECK_EQ(shadow_fault(model->shadow, &mode, 0, 0, &seen, &error), SHADOW_BAD_TABLE);
    mode = model->modes[KERNEL];
    mode.paging.cr4 |= 1 << 12;
    CHECK_EQ(shadow_root(model->shadow, &mode, &error), 0);
    CHECK(strstr(error.text, "LA57"));
    mode.paging.cr4 = 0x20 | 1 << 22;
    CHECK_EQ(shadow_fault(model->shadow, &mode, 0, 0, &seen, &error), SHADOW_UNSUPPORTED);
    CHECK(strstr(error.text, "PKE"));
    mode.paging.cr0 = 1;
    CHECK_EQ(shadow_root(model->shadow, &mode, &error), 0);
    CHECK(strstr(error.text, "only 64-bit paging"));
    mode = model->modes[KERNEL];
    store_le64(model->ram + PDPT + 8,
               0x70000000 | GOOD); /* a table where nothing is, one in the monitor's memory */
    store_le64(model->ram + PDPT + 16, MODEL_END | GOOD);
    CHECK_EQ(shadow_fault(model->shadow, &mode, 1 << 30, 0, &seen, &error), SHADOW_BAD_TABLE);
    CHECK(strstr(error.text, "0x70000000"));
    CHECK_EQ(shadow_fault(model->shadow, &mode, 2u << 30, 0, &seen, &error), SHADOW_BAD_TABLE);
    gva_t slot = (gva_t)MODEL_SLOT << 39;
    CHECK_EQ(shadow_fault(model->shadow, &mode, slot, PF_WRITE, &seen, &error), SHADOW_GUEST_FAULT);
    CHECK_EQ(seen.error_code, PF_WRITE);
    store_le64(model->ram + PML4 + 8 * MODEL_SLOT, PDPT | GOOD);
    CHECK_EQ(shadow_fault(model->shadow, &mode, slot, 0, &seen, &error), SHADOW_MONITOR);
    CHECK(strstr(error.text, "slot 3"));
    store_le64(model->ram + PT, (MODEL_END + 0x1000) | GOOD);
    CHECK_EQ(shadow_fault(model->shadow, &mode, 0, 0, &seen, &error), SHADOW_MONITOR);
    CHECK(strstr(error.text, "0x601000"));
    enum ShadowResult result;
    int again = 0;
    do {
        result = shadow_fault(model->shadow, &mode, 0x55000, PF_USER, &seen, &error);
    } while (result == SHADOW_FILLED && again++ < 5000);
    CHECK(result == SHADOW_UNSUPPORTED && strstr(error.text, "goes on faulting at 0x55000"));
    CHECK_EQ(shadow_translate(model->shadow, &mode, 1ull << 47, 0, &seen, &error), SHADOW_GUEST_FAULT);
    CHECK(seen.not_canonical);
    CHECK_EQ(shadow_translate(model->shadow, &mode, 0x56789, PF_WRITE, &seen, &error), SHADOW_FILLED);
    CHECK(seen.gpa == 0x56789 && load_le64(model->ram + PT + 8 * 0x56) & PTE_D);
    model_free(model);
}

static void test_pool(void)
{
    Model *model = one_guest();
    gpa_t root = shadow_root(model->shadow, &model->modes[KERNEL], NULL);
    const uint64_t *pml4 = guest_memory_ptr(model->memory, root, GUEST_PAGE_SIZE, false);
    /* One table as all the PDPTs, at 40 places of it: more than the pool has. */
    for (uint64_t i = 4; i < 40; i++)
        store_le64(model->ram + PML4 + 8 * i, (0x100000 + i * GUEST_PAGE_SIZE) | GOOD);
    for (uint64_t i = 4; i < 40; i++) {
        store_le64(model->ram + 0x100000 + i * GUEST_PAGE_SIZE, PD | GOOD);
        Error error;
        ShadowFault seen;
        CHECK_EQ(shadow_fault(model->shadow, &model->modes[KERNEL], i << 39, 0, &seen, &error), SHADOW_FILLED);
        CHECK_EQ(pml4[MODEL_SLOT], 0x123003);
        CHECK(rights(model, KERNEL, i << 39));
        model_apply_flush(model);
    }
    ShadowStatistics statistics = shadow_statistics(model->shadow);
    CHECK(statistics.flushes >= 1 && statistics.pages <= MODEL_POOL_PAGES);
    CHECK_EQ(statistics.pages_total, MODEL_POOL_PAGES);
    CHECK_EQ(shadow_root(model->shadow, &model->modes[KERNEL], NULL), root);
    model_check(model);
    model_free(model);
}

static void test_tables_no_more(void)
{
    Model *model = one_guest();
    model->modes[1] = model->modes[KERNEL];
    model->modes[1].paging.cr3 = 0x100000; /* another process: PML4, PDPT, and the first one's PD */
    store_le64(model->ram + 0x100000, 0x101000 | GOOD);
    store_le64(model->ram + 0x101000, PD | GOOD);
    CHECK_EQ(fault(model, 1, 0x60000, 0, NULL), SHADOW_FILLED);
    CHECK_EQ(fault(model, KERNEL, 0x100000, PF_WRITE, NULL),
             SHADOW_FILLED); /* it ended; its PML4 is plain memory */
    CHECK(!shadow_is_traced(model->shadow, 0x100000) && rights(model, KERNEL, 0x100000) & PAGE_WRITE);
    CHECK_EQ(fault(model, KERNEL, 0x101000, PF_WRITE, NULL), SHADOW_FILLED); /* and nothing leads to its PDPT */
    CHECK_EQ(fault(model, KERNEL, PD, PF_WRITE, NULL), SHADOW_TRACED);
    model_free(model);
    model = model_new(4);
    model_free(model);
}

static void test_write_limit(void)
{
    Model *model = model_new(4);
    int traced = 0;
    gva_t page = 0;
    for (uint32_t i = 0; i < 12; i++)
        store_le64(model->ram + MODEL_TABLE + 6 * GUEST_PAGE_SIZE + 8 * i, i << 12 | GOOD);
    for (int level = 0; level < 3; level++)
        store_le64(model->ram + MODEL_TABLE + 2 * level * GUEST_PAGE_SIZE,
                   (MODEL_TABLE + (2 * level + 2) * GUEST_PAGE_SIZE) | GOOD);
    shadow_flush(model->shadow);
    store_le64(model->ram + MODEL_TABLE + 6 * GUEST_PAGE_SIZE + 8 * 5, (MODEL_TABLE + 6 * GUEST_PAGE_SIZE) | GOOD);
    page = 5 << 12;
    while (fault(model, KERNEL, page, PF_WRITE, NULL) == SHADOW_TRACED)
        traced++;
    CHECK_EQ(traced, 0); /* no shadow of it yet: the store goes through, and the fill makes it a table */
    while (fault(model, KERNEL, page, PF_WRITE, NULL) == SHADOW_TRACED)
        traced++;
    CHECK_EQ(traced, 4);
    model_free(model);
}

static void test_traced_code(void)
{
    Model *model = one_guest();
    ShadowFault seen;
    CHECK_EQ(fault(model, KERNEL, 0x70000, PF_WRITE, NULL), SHADOW_FILLED);
    CHECK_EQ(shadow_trace(model->shadow, 0x70123, true), 0);
    CHECK(!(rights(model, KERNEL, 0x70000) & PAGE_WRITE) && shadow_flush_due(model->shadow));
    CHECK_EQ(fault(model, KERNEL, 0x70001, PF_WRITE, &seen), SHADOW_TRACED);
    CHECK(seen.code && !seen.table);
    uint8_t byte = 0x90;
    CHECK_EQ(shadow_write(model->shadow, 0x70001, &byte, 1), 1);
    CHECK_EQ(model->ram[0x70001], 0x90);
    shadow_unsync(model->shadow, 0x70000);
    shadow_zap(model->shadow, 0x70000);
    CHECK_EQ(fault(model, KERNEL, 0x70001, PF_WRITE, &seen), SHADOW_TRACED);
    gpa_t page = 0;
    CHECK(!shadow_take_written_code(model->shadow, &page)); /* the monitor's own stores are not told */
    CHECK_EQ(guest_memory_write(model->memory, 0x6fff0, model->ram, 0x100), 0);
    CHECK(shadow_take_written_code(model->shadow, &page) && page == 0x70000);
    CHECK(!shadow_take_written_code(model->shadow, &page));
    CHECK_EQ(shadow_trace(model->shadow, 0x70000, false), 0);
    CHECK_EQ(fault(model, KERNEL, 0x70001, PF_WRITE, &seen), SHADOW_FILLED);
    CHECK_EQ(shadow_trace(model->shadow, MODEL_END, true), -EFAULT);
    CHECK_EQ(shadow_trace(model->shadow, ~0ull, true), -EFAULT);
    model_free(model);
}

typedef struct Dma {
    GuestMemory *memory;
    bool stop; /* atomic */
} Dma;

static void *dma(void *opaque)
{
    Dma *engine = opaque;
    for (uint64_t turn = 0; !__atomic_load_n(&engine->stop, __ATOMIC_RELAXED); turn++) {
        uint64_t value = (0x40 + turn % 64) * GUEST_PAGE_SIZE | (turn & 1 ? GOOD : GOOD & ~PTE_RW);
        CHECK_EQ(guest_memory_write(engine->memory, PT + 8 * (0x40 + turn % 64), &value, sizeof value), 0);
    }
    return NULL;
}

/* A device writes into a table while the guest uses it: in the end the shadow says what the table says. */
static void test_dma_meanwhile(void)
{
    Model *model = one_guest();
    Dma engine = {.memory = model->memory};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, dma, &engine), 0);
    for (uint32_t i = 0; i < 20000 || !shadow_statistics(model->shadow).host_writes; i++)
        fault(model, i & 64 ? KERNEL : USER, (0x40 + i % 64) * GUEST_PAGE_SIZE, i & 1 ? PF_WRITE : 0, NULL);
    __atomic_store_n(&engine.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    model_run(model, &(Input){0}, 1);
    CHECK(shadow_statistics(model->shadow).fills > 64);
    model_free(model);
}

static void test_configuration(void)
{
    Model *model = one_guest();
    const ShadowConfig good = {.guest_end = MODEL_END,
                               .pool = MODEL_END,
                               .pool_size = 32 * GUEST_PAGE_SIZE,
                               .monitor_slot = 1,
                               .physical_bits = 40,
                               .touch = true};
    Error error;
    ShadowConfig bad[] = {good, good, good, good, good, good};
    bad[0].pool = 0x100000;
    bad[1].pool_size = 31 * GUEST_PAGE_SIZE;
    bad[2].pool_size = 1 << 30;
    bad[3].monitor_slot = 512;
    bad[4].physical_bits = 53;
    bad[5].guest_end = MODEL_END + 1;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        CHECK(!shadow_new(model->memory, &bad[i], &error) && error.code == EINVAL);
    /* The next one's pool is empty, and what was in it is to be stored again. */
    CHECK_EQ(fault(model, KERNEL, 0x40000, 0, NULL), SHADOW_FILLED);
    shadow_free(model->shadow);
    model->shadow = shadow_new(model->memory, &good, &error);
    ShadowTouch touch;
    uint32_t touched = 0;
    while (shadow_touches(model->shadow, &touch, 1))
        touched++;
    CHECK_EQ(touched, 4);
    CHECK_EQ(rights(model, KERNEL, 0x40000), 0);
    shadow_free(NULL);
    model_free(model);
}

int main(void)
{
    RUN(test_random);
    RUN(test_accessed_and_dirty);
    RUN(test_stores_into_tables);
    RUN(test_supervisor_rules);
    RUN(test_large_pages);
    RUN(test_tables_in_themselves);
    RUN(test_explained_ends);
    RUN(test_pool);
    RUN(test_tables_no_more);
    RUN(test_write_limit);
    RUN(test_traced_code);
    RUN(test_dma_meanwhile);
    RUN(test_configuration);
    return 0;
}
