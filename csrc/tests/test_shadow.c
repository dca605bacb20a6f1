/* Shadow page tables: random guests beside a model, and each promise of mmu/shadow.h by itself. */
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

int main(void)
{
    RUN(test_random);
    return 0;
}
