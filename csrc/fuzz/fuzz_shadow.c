/*
 * Shadow page tables under a guest of the input's making (tests/shadow_model.h): tables that loop, point at
 * themselves, at devices, at the monitor; stores, DMA, INVLPG and accesses in any order. A first byte chooses the
 * write limit.
 */
#include "tests/shadow_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input input = {data, MIN(size, 4096)};
    Model *model = model_new((uint32_t)take(&input, 1) % 8);
    model_run(model, &input, 3);
    model_free(model);
    return 0;
}
