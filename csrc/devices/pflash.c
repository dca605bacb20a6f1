#include <stdlib.h>
#include <sys/mman.h>

#include "devices/pflash.h"

/* Commands, 290606 table 4; a few have two numbers. */
enum {
    READ_ARRAY = 0xff,
    READ_ID = 0x90,
    READ_QUERY = 0x98,
    READ_STATUS = 0x70,
    CLEAR_STATUS = 0x50,
    PROGRAM = 0x40,
    PROGRAM_TOO = 0x10,
    ERASE_BLOCK = 0x20,
    WRITE_BUFFER = 0xe8,
    SET_LOCK = 0x60,
    CONFIRM = 0xd0,
    /* Not commands: later cycles of WRITE_BUFFER */
    BUFFER_DATA = 0x01,
    BUFFER_CONFIRM = 0x02,
};
enum { STATUS_READY = 0x80, STATUS_ERASE_ERROR = 0x20, STATUS_PROGRAM_ERROR = 0x10 };
enum { MANUFACTURER_INTEL = 0x89, DEVICE_ID = 0x18, MAX_SIZE = 64 << 20, QUERY_SIZE = 0x40 };

typedef struct Pflash {
    Device device;
    uint8_t *data;
    uint64_t size;
    PflashState state;
    uint8_t query[QUERY_SIZE];
} Pflash;

/* JESD68.01 §2: identification, supply, time-outs and geometry, from query address 0x10 on. */
static void make_query(Pflash *flash)
{
    uint8_t *q = flash->query;
    uint32_t blocks = (uint32_t)(flash->size / PFLASH_BLOCK_SIZE) - 1, log2_size = 0;
    while (1ull << log2_size < flash->size)
        log2_size++;
    memcpy(q + 0x10, "QRY", 3);
    q[0x13] = 0x01; /* Intel's extended command set; no extended table */
    q[0x1b] = 0x45, q[0x1c] = 0x55;
    q[0x1f] = 7, q[0x20] = 7, q[0x21] = 10;
    q[0x23] = 4, q[0x24] = 4, q[0x25] = 4;
    q[0x27] = (uint8_t)log2_size;
    q[0x2a] = 6; /* 64-byte write buffer */
    q[0x2c] = 1; /* one region of equal blocks */
    store_le16(q + 0x2d, (uint16_t)blocks);
    store_le16(q + 0x2f, PFLASH_BLOCK_SIZE / 256);
}

static void program(Pflash *flash, uint64_t offset, uint8_t value) { flash->data[offset] &= value; }

/* The cycle after a command that wants one. */
static void second_cycle(Pflash *flash, uint64_t offset, uint8_t value)
{
    PflashState *s = &flash->state;
    uint8_t command = s->pending;
    s->pending = 0;
    s->mode = READ_STATUS;
    s->status |= STATUS_READY;
    switch (command) {
    case PROGRAM:
        program(flash, offset, value);
        break;
    case ERASE_BLOCK:
        if (value == CONFIRM)
            memset(flash->data + offset / PFLASH_BLOCK_SIZE * PFLASH_BLOCK_SIZE, 0xff, PFLASH_BLOCK_SIZE);
        else
            s->status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR; /* command sequence error */
        break;
    case WRITE_BUFFER:
        s->buffer_size = (uint8_t)(value < PFLASH_BUFFER_SIZE ? value + 1 : PFLASH_BUFFER_SIZE);
        s->buffer_left = s->buffer_size;
        s->buffer_start = (uint32_t)(offset & ~(uint64_t)(PFLASH_BUFFER_SIZE - 1));
        memset(s->written, 0, sizeof s->written);
        s->pending = BUFFER_DATA;
        break;
    case BUFFER_DATA:
        s->buffer[offset % PFLASH_BUFFER_SIZE] = value;
        s->written[offset % PFLASH_BUFFER_SIZE] = 1;
        if (s->buffer_left == s->buffer_size)
            s->buffer_start = (uint32_t)(offset & ~(uint64_t)(PFLASH_BUFFER_SIZE - 1));
        s->pending = --s->buffer_left ? BUFFER_DATA : BUFFER_CONFIRM;
        break;
    case BUFFER_CONFIRM:
        if (value != CONFIRM)
            s->status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR;
        for (uint32_t i = 0; i < PFLASH_BUFFER_SIZE && value == CONFIRM; i++)
            if (s->written[i])
                program(flash, s->buffer_start + i, s->buffer[i]);
        break;
    }
}

static void first_cycle(PflashState *s, uint8_t command)
{
    switch (command) {
    case READ_ARRAY:
    case READ_STATUS:
    case READ_ID:
    case READ_QUERY:
        s->mode = command;
        break;
    case CLEAR_STATUS:
        /* Quirk: OVMF takes a status of 0 after this, and no other, for flash (tests/boot/test_ovmf.py); hardware
         * stays ready. */
        s->status = 0;
        break;
    case PROGRAM_TOO:
    case PROGRAM:
    case ERASE_BLOCK:
    case WRITE_BUFFER: /* drivers wait for the buffer to be free, also after the quirk above */
    case SET_LOCK:
        s->pending = command == PROGRAM_TOO ? PROGRAM : command;
        s->mode = READ_STATUS;
        s->status |= STATUS_READY;
        break;
    default: /* reads give the array again, as after a command that there is not */
        s->mode = READ_ARRAY;
    }
}

static uint8_t identify(uint64_t offset)
{
    switch (offset & 0xff) {
    case 0:
        return MANUFACTURER_INTEL;
    case 1:
        return DEVICE_ID;
    default:
        return 0;
    }
}

static uint64_t pflash_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    Pflash *flash = opaque;
    uint64_t value = 0;
    size = (uint32_t)MIN((uint64_t)size, flash->size - offset);
    if (flash->state.mode == READ_ARRAY) {
        memcpy(&value, flash->data + offset, size);
        return value;
    }
    for (uint32_t i = 0; i < size; i++) {
        uint8_t byte = flash->state.status;
        if (flash->state.mode == READ_ID)
            byte = identify(offset + i);
        else if (flash->state.mode == READ_QUERY)
            byte = flash->query[(offset + i) % QUERY_SIZE];
        value |= (uint64_t)byte << 8 * i;
    }
    return value;
}

static void pflash_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Pflash *flash = opaque;
    for (uint32_t i = 0; i < size && offset + i < flash->size; i++) {
        uint8_t byte = (uint8_t)(value >> 8 * i);
        if (flash->state.pending)
            second_cycle(flash, offset + i, byte);
        else
            first_cycle(&flash->state, byte);
    }
}

static void pflash_reset(Device *device)
{
    container_of(device, Pflash, device)->state = (PflashState){.mode = READ_ARRAY, .status = STATUS_READY};
}

static void pflash_destroy(Device *device)
{
    Pflash *flash = container_of(device, Pflash, device);
    if (flash->data)
        munmap(flash->data, flash->size);
}

static void pflash_save(Device *device, void *state)
{
    *(PflashState *)state = container_of(device, Pflash, device)->state;
}

static bool is_pending(uint8_t command)
{
    return command == 0 || command == PROGRAM || command == ERASE_BLOCK || command == WRITE_BUFFER ||
           command == SET_LOCK || command == BUFFER_DATA || command == BUFFER_CONFIRM;
}

static int pflash_restore(Device *device, const void *state)
{
    Pflash *flash = container_of(device, Pflash, device);
    const PflashState *s = state;
    bool reads = s->mode == READ_ARRAY || s->mode == READ_STATUS || s->mode == READ_ID || s->mode == READ_QUERY;
    bool buffer = s->buffer_size <= PFLASH_BUFFER_SIZE && s->buffer_left <= s->buffer_size &&
                  s->buffer_start % PFLASH_BUFFER_SIZE == 0 && s->buffer_start < flash->size &&
                  (s->pending != BUFFER_DATA || s->buffer_left);
    if (!reads || !buffer || !is_pending(s->pending))
        return -EINVAL;
    flash->state = *s;
    return 0;
}

static const DeviceClass pflash_class = {
    .name = "pflash",
    .ops = {pflash_read, pflash_write},
    .reset = pflash_reset,
    .destroy = pflash_destroy,
    .state_size = sizeof(PflashState),
    .state_version = PFLASH_STATE_VERSION,
    .save = pflash_save,
    .restore = pflash_restore,
};

Device *pflash_new(Board *board, int fd, uint64_t size, Error *error)
{
    if (!size || size % PFLASH_BLOCK_SIZE || size > MAX_SIZE) {
        error_set(error, EINVAL, "%llu bytes; flash is a multiple of 4 KiB, up to 64 MiB",
                  (unsigned long long)size);
        return NULL;
    }
    Pflash *flash = calloc(1, sizeof *flash);
    if (!flash) {
        error_set(error, ENOMEM, "no host memory for the flash");
        return NULL;
    }
    device_init(&flash->device, &pflash_class, board);
    flash->size = size;
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        error_set(error, errno, "cannot be mapped: %s", strerror(errno));
        device_free(&flash->device);
        return NULL;
    }
    flash->data = data;
    if (fd < 0)
        memset(data, 0xff, size);
    make_query(flash);
    pflash_reset(&flash->device);
    return &flash->device;
}

uint8_t *pflash_data(Device *device) { return container_of(device, Pflash, device)->data; }

int pflash_flush(Device *device)
{
    Pflash *flash = container_of(device, Pflash, device);
    return msync(flash->data, flash->size, MS_SYNC) < 0 ? -errno : 0;
}
