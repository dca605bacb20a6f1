/*
 * A driver that does anything to the floppy disk controller and the DMA controllers: registers, whole commands,
 * time that passes, disks that come and go, changed saved states. It must neither crash nor hang, and after a reset
 * it answers.
 */
#include <stdlib.h>
#include <unistd.h>

#include "devices/fdc.h"
#include "devices/i8237.h"
#include "fuzz/input.h"

enum { MEMORY = 0x20000, IMAGE = 40 * 9 * FDC_SECTOR };

typedef struct Rig {
    Board *board;
    Device *dma, *fdc;
    BlockImage *image;
} Rig;

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void rig_init(Rig *rig)
{
    Error error;
    char path[] = "/tmp/fuzz-fdc-XXXXXX";
    int fd = mkstemp(path);
    must(fd >= 0 && ftruncate(fd, IMAGE) == 0);
    close(fd);
    rig->board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    must(rig->board && guest_memory_add(rig->board->memory, 0, MEMORY, 0, &error) == 0);
    rig->image = block_open(path, "raw", BLOCK_CACHE_UNSAFE, 0, &error);
    unlink(path);
    rig->dma = i8237_new(rig->board);
    FdcOptions options = {.drives = {{rig->image, {40, 1, 9, 2}, 1}}};
    rig->fdc = fdc_new(rig->board, irq_line_new(rig->board->irqs, 6), rig->dma, 2, &options);
    must(rig->image && rig->dma && rig->fdc);
}

static void change_state(Device *device, void *state, size_t size, Input *input)
{
    device_save(device, state);
    ((uint8_t *)state)[take(input, 2) % size] ^= (uint8_t)take(input, 1);
    device_restore(device, state);
}

/* DMA channel 2 as drivers set it up, so that data moves. */
static void set_up_dma(Rig *rig, Input *input)
{
    device_write(rig->dma, 0, 12, 1, 0);
    for (uint32_t offset = 4; offset < 6; offset++)
        for (int half = 0; half < 2; half++)
            device_write(rig->dma, 0, offset, 1, take(input, 1));
    device_write(rig->dma, 0, 11, 1, take(input, 1));
    device_write(rig->dma, 2, 0, 1, take(input, 1) & 3);
    device_write(rig->dma, 0, 10, 1, 2);
}

static void step(Rig *rig, Input *input)
{
    static const FdcGeometry geometry = {40, 1, 9, 2};
    uint8_t what = (uint8_t)take(input, 1);
    uint32_t size = 1u << (what >> 4 & 3);
    FdcState fdc;
    I8237State dma;
    switch (what & 7) {
    case 0:
        device_read(rig->fdc, what >> 3 & 1, take(input, 1) % 8, size);
        break;
    case 1: {
        uint64_t offset = take(input, 1) % 8;
        device_write(rig->fdc, what >> 3 & 1, offset, size, take(input, size));
        break;
    }
    case 2:
        for (uint32_t i = 0; i < (uint32_t)(what >> 4) + 1; i++)
            device_write(rig->fdc, 0, FDC_FIFO, 1, take(input, 1));
        break;
    case 3:
        clock_advance(rig->board->clock, take(input, what & 0x10 ? 5 : 2));
        clock_run_timers(rig->board->clock);
        break;
    case 4:
        set_up_dma(rig, input);
        break;
    case 5: {
        uint64_t offset = take(input, 1);
        device_write(rig->dma, offset % 3, offset >> 2, size, take(input, size));
        device_read(rig->dma, offset % 3, offset >> 2, size);
        break;
    }
    case 6:
        change_state(rig->fdc, &fdc, sizeof fdc, input);
        change_state(rig->dma, &dma, sizeof dma, input);
        break;
    default:
        fdc_change_medium(rig->fdc, what >> 4 & 3, what & 8 ? rig->image : NULL, &geometry);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Rig rig;
    Input input = {data, MIN(size, 4096)};
    rig_init(&rig);
    device_write(rig.fdc, 0, FDC_DOR, 1, 0x1c);
    while (input.left)
        step(&rig, &input);
    device_reset(rig.fdc);
    device_write(rig.fdc, 0, FDC_DOR, 1, 0x1c);
    clock_advance(rig.board->clock, 1000000);
    clock_run_timers(rig.board->clock);
    must(device_read(rig.fdc, 0, FDC_MSR, 1) == MSR_RQM);
    device_write(rig.fdc, 0, FDC_FIFO, 1, 0x10);
    must(device_read(rig.fdc, 0, FDC_FIFO, 1) == 0x90);
    device_free(rig.fdc);
    device_free(rig.dma);
    block_close(rig.image);
    board_free(rig.board);
    return 0;
}
