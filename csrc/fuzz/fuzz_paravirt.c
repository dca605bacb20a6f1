/*
 * The paravirtual interface under a guest of the input's making (tests/paravirt_model.h): hypercalls with any
 * arguments, a shared page full of junk, tables that lead to the monitor, traps and interrupts in any order.
 */
#include "tests/paravirt_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static PvModel *model; /* its RAM is dear */
    Input input = {data, MIN(size, PV_INPUT)};
    if (!model)
        model = pv_new();
    else
        pv_start(model);
    pv_run(model, &input);
    return 0;
}
