/* Eight threads on one image: writes into shared clusters, discards and flushes. Worth running under
 * ThreadSanitizer too. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/block.h"
#include "check.h"

enum { LANES = 8, PIECE = 1024, BLOCKS = 256, TURNS = 300, SCRATCH = 8 << 20, DISK = 16 << 20 };

typedef struct Lane {
    BlockImage *image;
    pthread_t thread;
    unsigned number;
} Lane;

/* Each lane owns its own PIECE of each 8 KiB block, so that clusters are shared and bytes are not. */
static void *work(void *opaque)
{
    Lane *lane = opaque;
    uint64_t random = 0x9e3779b97f4a7c15ull * (lane->number + 1);
    uint8_t now[BLOCKS] = {0}, data[PIECE];
    uint8_t *scratch = calloc(1, 50000);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        unsigned block = random >> 33 & (BLOCKS - 1);
        uint64_t anywhere = SCRATCH + (random >> 20) % (4u << 20);
        now[block] = (uint8_t)(turn % 251 + 1);
        memset(data, now[block], sizeof data);
        CHECK_EQ(block_pwrite(lane->image, data, PIECE, block * 8192ull + lane->number * PIECE), 0);
        if (turn % 7 == 0)
            CHECK_EQ(block_discard(lane->image, anywhere, 100000), 0);
        if (turn % 5 == 0)
            CHECK_EQ(block_pwrite(lane->image, scratch, 50000, anywhere), 0);
        if (turn % 40 == 0)
            CHECK_EQ(block_flush(lane->image), 0);
    }
    free(scratch);
    for (unsigned block = 0; block < BLOCKS; block++) {
        CHECK_EQ(block_pread(lane->image, data, PIECE, block * 8192ull + lane->number * PIECE), 0);
        for (unsigned i = 0; i < PIECE; i++)
            CHECK_EQ(data[i], now[block]);
    }
    return NULL;
}

static void run_cluster_size(uint32_t cluster)
{
    char path[128];
    Error error = {0};
    BlockCheck check;
    const char *folder = getenv("TMPDIR");
    BlockCreate options = {.size = DISK, .cluster_size = cluster};
    snprintf(path, sizeof path, "%s/pyvmm-threads-%d", folder ? folder : "/tmp", getpid());
    unlink(path);
    CHECK_EQ(block_create(path, "qcow2", &options, &error), 0);
    BlockImage *image = block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, 0, &error);
    CHECK(image);
    Lane lanes[LANES];
    for (unsigned i = 0; i < LANES; i++) {
        lanes[i] = (Lane){.image = image, .number = i};
        CHECK_EQ(pthread_create(&lanes[i].thread, NULL, work, &lanes[i]), 0);
    }
    for (unsigned i = 0; i < LANES; i++)
        pthread_join(lanes[i].thread, NULL);
    block_close(image);
    image = block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, BLOCK_READ_ONLY, &error);
    CHECK(image);
    CHECK_EQ(block_check(image, BLOCK_REPAIR_NONE, &check, &error), 0);
    CHECK_EQ(check.corruptions, 0);
    CHECK_EQ(check.leaks, 0);
    block_close(image);
    unlink(path);
}

static void test_threads(void)
{
    run_cluster_size(512);
    run_cluster_size(4096);
    run_cluster_size(65536);
}

int main(void)
{
    RUN(test_threads);
    return 0;
}
