/* Several vCPUs, the I/O thread, saving, resetting and medium changes at one IDE function: for the sanitizers, and
 * for an end. */
#include <pthread.h>

#include "ide_mock.h"

enum { GUESTS = 3, STEPS = 6000, TABLE = 0x4000 };

typedef struct Guest {
    IdeMock *mock;
    uint32_t seed;
    uint32_t *running; /* atomic: how many are */
} Guest;

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(*seed >> 8) * below >> 24);
}

static void begin_packet(IdeMock *mock, uint32_t base, uint32_t *seed)
{
    port_out(mock, base + 1, 1, draw(seed, 2));
    port_out(mock, base + 5, 1, 8);
    port_out(mock, base + 7, 1, 0xa0);
    const uint8_t read_10[12] = {0x28, 0, 0, 0, 0, (uint8_t)draw(seed, DISC_SECTORS), 0, 0, 2};
    for (uint32_t i = 0; i < sizeof read_10; i += 2)
        port_out(mock, base, 2, load_le16(read_10 + i));
}

static void step(IdeMock *mock, uint32_t *seed)
{
    static const uint8_t COMMANDS[] = {0x20, 0xc8, 0xca, 0x30, 0x40, 0xe7, 0xec, 0xc4, 0xc5, 0x08, 0x90, 0x25};
    bool second = draw(seed, 2);
    uint32_t base = second ? SECONDARY : PRIMARY, master = BUS_MASTER + 8 * second;
    switch (draw(seed, 12)) {
    case 0:
        port_out(mock, base + 2, 1, draw(seed, 9));
        port_out(mock, base + 3, 1, draw(seed, 256));
        break;
    case 1:
        port_out(mock, base + 6, 1, 0xe0 | (draw(seed, 8) == 0 ? 0x10 : 0));
        break;
    case 2:
    case 3:
        port_out(mock, base + 7, 1, COMMANDS[draw(seed, sizeof COMMANDS)]);
        break;
    case 4:
        if (second)
            begin_packet(mock, base, seed);
        break;
    case 5:
        port_out(mock, master + 4, 4, TABLE);
        port_out(mock, master, 1, draw(seed, 2) ? 9 : 1);
        break;
    case 6:
        port_out(mock, master, 1, 0);
        port_out(mock, master + 2, 1, 6);
        break;
    case 7:
        for (uint32_t i = 0; i < 300; i++)
            port_in(mock, base, 4);
        break;
    case 8:
        for (uint32_t i = 0; i < 300; i++)
            port_out(mock, base, 4, i);
        break;
    case 9:
        if (draw(seed, 8) == 0) {
            port_out(mock, base + CONTROL, 1, 4);
            port_out(mock, base + CONTROL, 1, 0);
        }
        break;
    default:
        port_in(mock, base + 7, 1);
        port_in(mock, master + 2, 1);
    }
}

static void *guest_main(void *opaque)
{
    Guest *guest = opaque;
    for (uint32_t i = 0; i < STEPS; i++)
        step(guest->mock, &guest->seed);
    __atomic_fetch_sub(guest->running, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

int main(void)
{
    IdeMock mock;
    mock_new(&mock, CLOCK_KIND_REALTIME, 0);
    mock_assign(&mock);
    uint8_t table[4][8];
    for (uint32_t i = 0; i < 4; i++) { /* four pieces of 1 KiB, far from the table */
        store_le32(table[i], 0x8000 + i * 0x1000);
        store_le32(table[i] + 4, 0x400 | (i == 3 ? 1u << 31 : 0));
    }
    CHECK_EQ(guest_memory_write(mock.board->memory, TABLE, table, sizeof table), 0);
    uint32_t running = GUESTS;
    Guest guests[GUESTS];
    pthread_t threads[GUESTS];
    for (uint32_t i = 0; i < GUESTS; i++) {
        guests[i] = (Guest){&mock, i + 1, &running};
        CHECK_EQ(pthread_create(&threads[i], NULL, guest_main, &guests[i]), 0);
    }
    IdeState *state = malloc(sizeof *state);
    CHECK(state);
    for (uint32_t i = 0; __atomic_load_n(&running, __ATOMIC_SEQ_CST); i++) {
        device_save(mock.ide, state);
        CHECK_EQ(device_restore(mock.ide, state), 0); /* what the guests did meanwhile is lost, and that is all */
        CHECK_EQ(ide_change_medium(mock.ide, 1, 0, i % 2 ? mock.disc : NULL), 0);
        if (i % 16 == 0) {
            device_reset(mock.ide);
            mock_assign(&mock);
        }
    }
    for (uint32_t i = 0; i < GUESTS; i++)
        pthread_join(threads[i], NULL);
    puts("ok vCPUs, the I/O thread and the machine at one IDE function");
    free(state);
    mock_free(&mock);
    return 0;
}
