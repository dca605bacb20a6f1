/*
 * A guest that attacks virtio devices (virtio 1.2): a freestanding 64-bit program that finds them on PCI bus 0,
 * sets each one up as a driver does, in every form of ring that it offers, and then feeds it chains that no driver
 * makes. A device that looks at such a chain has to set DEVICE_NEEDS_RESET (§2.1.2). The guest resets it and goes
 * on; at the end it makes one good request. Left out: interrupts, and the legacy interface.
 */
#include "attack.h"

#define REPORT   ((volatile AttackReport *)ATTACK_REPORT)
#define RINGS    0x200000u /* 32 KiB each: descriptors, driver area, device area, an indirect table */
#define RING     0x8000u
#define DATA     0x400000u
#define DATA_END (ATTACK_RAM - 0x10000u)
#define QUEUES   8u
#define SIZE     32u /* of each ring */

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4 };
enum { STATUS_NEEDS_RESET = 64, PACKED_AVAIL = 1 << 7, PACKED_USED = 1 << 15 };
#define FEATURE(bit) (1ull << (bit))
#define RING_FEATURES                                                                                              \
    (FEATURE(28) | FEATURE(29) | FEATURE(34) | FEATURE(35) | FEATURE(40)) /* as virtio.h names them */

typedef struct Desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags_or_id, next_or_flags; /* split ring: flags, next; packed ring: ID, flags */
} Desc;

typedef struct Dev {
    uint32_t slot, id, queues;
    volatile uint8_t *common, *notify;
    uint32_t multiplier;
    uint64_t features;
    uint16_t sizes[QUEUES];
} Dev;

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint32_t below(uint32_t limit) { return (uint32_t)((random64() >> 16) % limit); }

/* ---- Ports and registers ------------------------------------------------------------------------------------ */

static void out32(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static uint32_t pci_read(uint32_t slot, uint32_t offset)
{
    out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
    return in32(0xcfc) >> (8 * (offset & 3));
}

static void pci_write(uint32_t slot, uint32_t offset, uint32_t value)
{
    out32(0xcf8, 0x80000000u | slot << 11 | offset);
    out32(0xcfc, value);
}

/* struct virtio_pci_common_cfg, §4.1.4.3 */
enum {
    DEVICE_FEATURE_SELECT = 0,
    DEVICE_FEATURE = 4,
    DRIVER_FEATURE_SELECT = 8,
    DRIVER_FEATURE = 12,
    NUM_QUEUES = 18,
    STATUS = 20,
    QUEUE_SELECT = 22,
    QUEUE_SIZE = 24,
    QUEUE_ENABLE = 28,
    QUEUE_DESC = 32,
    QUEUE_DRIVER = 40,
    QUEUE_DEVICE = 48,
    QUEUE_RESET = 58,
};

static uint8_t status(const Dev *dev) { return dev->common[STATUS]; }
static void put8(const Dev *dev, uint32_t at, uint8_t value) { dev->common[at] = value; }
static void put16(const Dev *dev, uint32_t at, uint16_t value) { *(volatile uint16_t *)(dev->common + at) = value; }
static void put32(const Dev *dev, uint32_t at, uint32_t value) { *(volatile uint32_t *)(dev->common + at) = value; }

static void put64(const Dev *dev, uint32_t at, uint64_t value)
{
    put32(dev, at, (uint32_t)value);
    put32(dev, at + 4, (uint32_t)(value >> 32));
}

static void kick(const Dev *dev, uint32_t queue)
{
    __asm__ volatile("mfence" : : : "memory");
    *(volatile uint16_t *)(dev->notify + queue * dev->multiplier) = (uint16_t)queue;
}

/* ---- Finding and starting ----------------------------------------------------------------------------------- */

static int find(Dev *dev, uint32_t slot)
{
    uint32_t id = pci_read(slot, 0), base = ATTACK_MMIO + slot * 0x10000u;
    if ((id & 0xffff) != 0x1af4)
        return 0;
    *dev = (Dev){.slot = slot, .id = id >> 16 >= 0x1040 ? (id >> 16) - 0x1040 : pci_read(slot, 0x2e) & 0xffff};
    pci_write(slot, 0x10, ATTACK_IO + slot * 0x100);
    pci_write(slot, 0x14, base + 0x8000);
    pci_write(slot, 0x20, base);
    pci_write(slot, 0x24, 0);
    pci_write(slot, 0x04, 7);
    for (uint32_t at = pci_read(slot, 0x34) & 0xff; at; at = pci_read(slot, at + 1) & 0xff) {
        uint32_t kind = pci_read(slot, at);
        volatile uint8_t *place = (volatile uint8_t *)(uintptr_t)(base + pci_read(slot, at + 8));
        if ((kind & 0xff) != 9)
            continue;
        if (kind >> 24 == 1)
            dev->common = place;
        if (kind >> 24 == 2) {
            dev->notify = place;
            dev->multiplier = pci_read(slot, at + 16);
        }
    }
    return dev->common && dev->notify;
}

static volatile Desc *desc_of(uint32_t queue) { return (volatile Desc *)(uintptr_t)(RINGS + RING * queue); }
static volatile uint16_t *avail_of(uint32_t queue)
{
    return (volatile uint16_t *)(uintptr_t)(RINGS + RING * queue + 0x2000);
}
static volatile uint16_t *used_of(uint32_t queue)
{
    return (volatile uint16_t *)(uintptr_t)(RINGS + RING * queue + 0x4000);
}
static volatile Desc *table_of(uint32_t queue)
{
    return (volatile Desc *)(uintptr_t)(RINGS + RING * queue + 0x6000);
}

static int is_packed(const Dev *dev) { return dev->features >> 34 & 1; }

static void clear(uint32_t from, uint32_t bytes)
{
    void *at = (void *)(uintptr_t)from;
    uint64_t count = bytes / 8;
    __asm__ volatile("rep stosq" : "+D"(at), "+c"(count) : "a"(0ull) : "memory");
}

static void write_features(Dev *dev, uint64_t wanted)
{
    uint64_t offered = 0;
    for (uint32_t word = 0; word < 2; word++) {
        put32(dev, DEVICE_FEATURE_SELECT, word);
        offered |= (uint64_t)(*(volatile uint32_t *)(dev->common + DEVICE_FEATURE)) << (32 * word);
    }
    dev->features = (offered & wanted) | FEATURE(32);
    for (uint32_t word = 0; word < 2; word++) {
        put32(dev, DRIVER_FEATURE_SELECT, word);
        put32(dev, DRIVER_FEATURE, (uint32_t)(dev->features >> (32 * word)));
    }
}

static void enable(const Dev *dev, uint32_t queue, uint16_t size, uint64_t desc, uint64_t driver, uint64_t device)
{
    put16(dev, QUEUE_SELECT, (uint16_t)queue);
    put16(dev, QUEUE_SIZE, size);
    put64(dev, QUEUE_DESC, desc);
    put64(dev, QUEUE_DRIVER, driver);
    put64(dev, QUEUE_DEVICE, device);
    put16(dev, QUEUE_ENABLE, 1);
}

static void enable_well(const Dev *dev, uint32_t queue)
{
    clear(RINGS + RING * queue, RING);
    if (is_packed(dev))
        avail_of(queue)[1] = 0; /* interrupts: wanted */
    enable(dev, queue, SIZE, (uintptr_t)desc_of(queue), (uintptr_t)avail_of(queue), (uintptr_t)used_of(queue));
}

/* §3.1.1 up to the queues. */
static void begin(Dev *dev, uint64_t wanted)
{
    put8(dev, STATUS, 0);
    put8(dev, STATUS, 3);
    write_features(dev, wanted);
    put8(dev, STATUS, 11);
    uint32_t count = *(volatile uint16_t *)(dev->common + NUM_QUEUES);
    dev->queues = count < QUEUES ? count : QUEUES;
}

static void start(Dev *dev, uint64_t wanted)
{
    begin(dev, wanted);
    for (uint32_t queue = 0; queue < dev->queues; queue++)
        enable_well(dev, queue);
    put8(dev, STATUS, 15);
}

/* ---- Chains ------------------------------------------------------------------------------------------------- */

/* One descriptor, in either format; the packed ones are available in the first lap, their ID is their place. */
static void put_desc(const Dev *dev, volatile Desc *table, uint16_t at, uint64_t addr, uint32_t len, uint16_t flags,
                     uint16_t next)
{
    table[at].addr = addr;
    table[at].len = len;
    table[at].flags_or_id = is_packed(dev) ? at : flags;
    table[at].next_or_flags = is_packed(dev) ? (uint16_t)(flags | PACKED_AVAIL) : next;
}

/* Make `count` chains available that begin at descriptors 0, 1 and so on. */
static void offer(const Dev *dev, uint32_t queue, uint16_t count)
{
    __asm__ volatile("" : : : "memory");
    if (is_packed(dev))
        return; /* they are */
    for (uint16_t i = 0; i < count; i++)
        avail_of(queue)[2 + i] = i;
    __asm__ volatile("" : : : "memory");
    avail_of(queue)[1] = count;
}

static uint64_t somewhere(void) { return DATA + (below(DATA_END - DATA) & ~7u); }

enum Kind { /* up to MUST: the device must need a reset once it has looked at the queue */
            LOOP,
            WILD_ADDRESS,
            BEYOND_RAM,
            WRONG_DIRECTION,
            HUGE_LENGTH,
            ZERO_LENGTH,
            INTO_ROM,
            INTO_REGISTERS,
            NESTED_INDIRECT,
            BAD_INDIRECT,
            INDIRECT_AND_NEXT,
            TOO_LONG,
            BAD_HEAD,
            BAD_NEXT,
            INDEX_JUMP,
            BAD_RING,
            BAD_SIZE,
            MUST,
            GARBAGE = MUST,
            CHANGING,
            RESET_IN_FLIGHT,
            OVERLAP,
            REGISTERS,
            KINDS,
};

/* A table that refers to another one, or is no table. */
static void put_indirect(const Dev *dev, uint32_t queue, enum Kind kind)
{
    uint64_t table = (uintptr_t)table_of(queue);
    uint32_t len = 32;
    uint16_t flags = F_INDIRECT;
    put_desc(dev, table_of(queue), 0, somewhere(), 16, F_NEXT, 1);
    put_desc(dev, table_of(queue), 1, table, 32, kind == NESTED_INDIRECT ? F_INDIRECT : 0, 0);
    if (kind == INDIRECT_AND_NEXT)
        flags |= F_NEXT;
    if (kind == BAD_INDIRECT) {
        static const uint32_t lengths[] = {0, 8, 17, 0xfffffff0};
        uint32_t which = below(5);
        if (which < 4)
            len = lengths[which];
        else
            table = random64() | 1ull << 40;
    }
    put_desc(dev, desc_of(queue), 0, table, len, flags, 1);
    put_desc(dev, desc_of(queue), 1, DATA, 16, 0, 0);
}

static void put_garbage(const Dev *dev, uint32_t queue)
{
    for (uint16_t i = 0; i < SIZE; i++) {
        uint64_t bits = random64();
        uint32_t len = bits & 1 ? (uint32_t)(bits >> 32) : 1 + (bits >> 32 & 0x3ff);
        put_desc(dev, desc_of(queue), i, bits & 6 ? somewhere() : random64(), len, (uint16_t)(bits >> 8 & 7),
                 (uint16_t)(bits >> 16 & (SIZE - 1)));
    }
    uint64_t *at = (uint64_t *)somewhere();
    for (uint32_t i = 0; i < 64; i++)
        at[i] = random64();
    offer(dev, queue, (uint16_t)(1 + below(SIZE)));
}

/* A ring whose feet are no RAM, or whose size is none. */
static void put_ring(Dev *dev, uint32_t queue, enum Kind kind)
{
    static const uint64_t places[] = {ATTACK_ROM, ATTACK_MMIO, ATTACK_RAM - 32, 1ull << 52, ~0ull << 12};
    static const uint16_t sizes[] = {0, 2048, 0xffff, 0x8000};
    uint64_t at[3] = {(uintptr_t)desc_of(queue), (uintptr_t)avail_of(queue), (uintptr_t)used_of(queue)};
    uint16_t size = SIZE;
    begin(dev, random64());
    if (kind == BAD_RING) /* the one that the device must write; the packed one is 4 bytes */
        at[2] = is_packed(dev) ? ATTACK_RAM + (below(0x1000) & ~3u) : places[below(5)];
    else
        size = sizes[below(4)];
    enable(dev, queue, size, at[0], at[1], at[2]);
    put8(dev, STATUS, 15);
}

static void put_chain(Dev *dev, uint32_t queue, enum Kind kind)
{
    volatile Desc *desc = desc_of(queue);
    uint64_t addr = somewhere();
    uint32_t len = 16;
    uint16_t flags = below(2) ? F_WRITE : 0, next = 1;
    switch (kind) {
    case LOOP:
        for (uint16_t i = 0; i < SIZE; i++)
            put_desc(dev, desc, i, DATA + 16 * i, 16, F_NEXT, (uint16_t)((i + 1) % SIZE));
        offer(dev, queue, 1);
        return;
    case NESTED_INDIRECT:
    case BAD_INDIRECT:
    case INDIRECT_AND_NEXT:
        put_indirect(dev, queue, kind);
        offer(dev, queue, 1);
        return;
    case WRONG_DIRECTION:
        put_desc(dev, desc, 0, addr, len, F_NEXT | F_WRITE, 1);
        put_desc(dev, desc, 1, addr, len, 0, 0);
        offer(dev, queue, 1);
        return;
    case TOO_LONG: /* an indirect table of more than any queue has */
        for (uint16_t i = 0; i < 0x200; i++)
            put_desc(dev, table_of(queue), i, DATA, 1, F_NEXT, (uint16_t)(i + 1));
        put_desc(dev, desc, 0, (uintptr_t)table_of(queue), 0x2000, F_INDIRECT, 0);
        if (!is_packed(dev)) /* which ends in itself */
            table_of(queue)[0x1ff].next_or_flags = 0;
        offer(dev, queue, 1);
        return;
    case WILD_ADDRESS:
        addr = random64() | 1ull << 40;
        break;
    case BEYOND_RAM:
        addr = ATTACK_RAM - 8;
        break;
    case HUGE_LENGTH:
        len = 0xffffffff;
        break;
    case ZERO_LENGTH:
        len = 0;
        break;
    case INTO_ROM:
        addr = ATTACK_ROM + (below(0x8000) & ~7u);
        flags = F_WRITE;
        break;
    case INTO_REGISTERS:
        addr = ATTACK_MMIO + dev->slot * 0x10000u;
        break;
    case BAD_NEXT: /* a packed ring has none: its list has no end */
        flags |= F_NEXT;
        next = (uint16_t)(SIZE + below(0x8000));
        for (uint16_t i = 1; is_packed(dev) && i < SIZE; i++)
            put_desc(dev, desc, i, addr, len, flags, 0);
        break;
    default:
        break;
    }
    if (is_packed(dev) && (kind == BAD_HEAD || kind == INDEX_JUMP)) /* it has neither: no length instead */
        len = 0;
    put_desc(dev, desc, 0, addr, len, flags, next);
    if (is_packed(dev) || (kind != BAD_HEAD && kind != INDEX_JUMP)) {
        offer(dev, queue, 1);
        return;
    }
    avail_of(queue)[2] = kind == BAD_HEAD ? (uint16_t)(SIZE + below(0x8000)) : 0;
    avail_of(queue)[1] = kind == BAD_HEAD ? 1 : (uint16_t)(SIZE + 1 + below(0x8000));
}

/* Rings and buffers on top of each other: what the device writes is what it reads next. */
static void put_overlap(Dev *dev, uint32_t queue)
{
    begin(dev, random64());
    clear(RINGS + RING * queue, RING);
    put_garbage(dev, queue);
    for (uint16_t i = 0; i < SIZE; i++)
        desc_of(queue)[i].addr = RINGS + RING * queue + (below(0x6000) & ~7u);
    enable(dev, queue, SIZE, (uintptr_t)desc_of(queue), (uintptr_t)avail_of(queue),
           RINGS + RING * queue + (below(0x3000) & ~15u));
    put8(dev, STATUS, 15);
}

static void write_registers(Dev *dev)
{
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t size = below(3), at = below(60) & ~((1u << size) - 1);
        if (size == 0)
            put8(dev, at, (uint8_t)random64());
        else if (size == 1)
            put16(dev, at, (uint16_t)random64());
        else
            put32(dev, at, (uint32_t)random64());
        kick(dev, below(dev->queues));
    }
}

/* ---- Attacks ------------------------------------------------------------------------------------------------ */

/* The queue that a device looks at whenever it is notified. */
static uint32_t eager_queue(uint32_t id)
{
    switch (id) {
    case 1:  /* network, transmit */
    case 3:  /* console, transmit */
    case 18: /* input, status */
    case 19: /* socket, transmit */
        return 1;
    default:
        return 0;
    }
}

/* While the device is at it. */
static void keep_changing(const Dev *dev, uint32_t queue)
{
    volatile Desc *desc = desc_of(queue);
    for (uint32_t i = 0; i < 2000; i++) {
        uint64_t bits = random64();
        volatile Desc *one = &desc[bits & (SIZE - 1)];
        switch (bits >> 8 & 3) {
        case 0:
            one->addr = bits & 1 << 10 ? somewhere() : bits;
            break;
        case 1:
            one->len = (uint32_t)(bits >> 40);
            break;
        case 2:
            one->flags_or_id = (uint16_t)(bits >> 48 & 7);
            break;
        default:
            one->next_or_flags = (uint16_t)(bits >> 48);
            if (!is_packed(dev))
                avail_of(queue)[1] = (uint16_t)(avail_of(queue)[1] + 1);
        }
        if (!(i & 127))
            kick(dev, queue);
    }
}

static void attack(Dev *dev, enum Kind kind, uint32_t queue)
{
    volatile typeof(REPORT->slots[0]) *report = &REPORT->slots[dev->slot];
    uint64_t wanted = random64();
    if (kind >= NESTED_INDIRECT && kind <= TOO_LONG)
        wanted |= kind == BAD_INDIRECT ? 0 : FEATURE(28);
    if (kind == BAD_RING || kind == BAD_SIZE) {
        put_ring(dev, queue, kind);
    } else if (kind == OVERLAP) {
        put_overlap(dev, queue);
    } else {
        start(dev, (wanted & RING_FEATURES) | (random64() & ~RING_FEATURES));
        if (kind >= GARBAGE)
            put_garbage(dev, queue);
        else
            put_chain(dev, queue, kind);
    }
    report->chains++;
    kick(dev, queue);
    if (kind == CHANGING)
        keep_changing(dev, queue);
    if (kind == RESET_IN_FLIGHT && dev->features >> 40 & 1) {
        put16(dev, QUEUE_SELECT, (uint16_t)queue);
        put16(dev, QUEUE_RESET, 1);
        enable_well(dev, queue);
    }
    if (kind == REGISTERS)
        write_registers(dev);
    int must = kind < MUST && (queue == eager_queue(dev->id) || kind >= BAD_RING);
    while (must && REPORT->asynchronous && !(status(dev) & STATUS_NEEDS_RESET))
        __asm__ volatile("pause");
    if (status(dev) & STATUS_NEEDS_RESET) {
        report->needs_reset++;
    } else if (must) {
        report->missed++;
        report->missed_kind = kind;
    }
}

/* ---- Good requests ------------------------------------------------------------------------------------------ */

typedef struct Good {
    uint32_t id, readable, writable, written;
    uint8_t bytes[76];
} Good;

static const Good goods[] = {
    {1,
     72,
     0,
     0,
     {[12] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x06}}, /* a broadcast */
    {2, 16, 21, 20, {8}},                                                              /* GET_ID */
    {3, 2, 0, 0, "ok"},
    {4, 0, 64, 64, {0}},
    {5, 4, 0, 0, {0x00, 0x0f}}, /* a page: inflate */
    {9, 21, 64, 21, {21, 0, 0, 0, 100, 0xff, 0xff, 0, 0x20, 0, 0, 8, 0, '9', 'P', '2', '0', '0', '0', '.', 'L'}},
    {18, 8, 0, 0, {0x11}},                                                      /* a light */
    {19, 44, 0, 0, {[0] = 3, [8] = 2, [16] = 1, [20] = 1, [28] = 1, [30] = 3}}, /* RST of nothing */
};

static uint32_t used_length(const Dev *dev, uint32_t queue, int *there)
{
    if (is_packed(dev)) {
        uint16_t flags = desc_of(queue)[0].next_or_flags;
        *there = (flags & PACKED_AVAIL) && (flags & PACKED_USED);
        return desc_of(queue)[0].len;
    }
    *there = used_of(queue)[1] == 1;
    return *(volatile uint32_t *)(used_of(queue) + 4);
}

static void do_good(Dev *dev, uint64_t wanted)
{
    const Good *good = goods;
    while (good < goods + sizeof goods / sizeof *good && good->id != dev->id)
        good++;
    if (good == goods + sizeof goods / sizeof *good)
        return;
    uint32_t queue = eager_queue(dev->id), length = 0;
    uint16_t at = 0;
    int there = 0;
    clear(DATA, 0x1000);
    for (uint32_t i = 0; i < good->readable; i++)
        ((volatile uint8_t *)DATA)[i] = good->bytes[i];
    start(dev, wanted & ~FEATURE(5) & ~FEATURE(1)); /* no queue but for what it always has */
    if (good->readable && good->writable)
        put_desc(dev, desc_of(queue), 1, DATA + 0x800, good->writable, F_WRITE, 0);
    else if (good->writable)
        put_desc(dev, desc_of(queue), 0, DATA + 0x800, good->writable, F_WRITE, 0);
    if (good->readable)
        put_desc(dev, desc_of(queue), at, DATA, good->readable, good->writable ? F_NEXT : 0, 1);
    if (is_packed(dev) && good->readable && good->writable) /* the ID is the last one's */
        desc_of(queue)[1].flags_or_id = 0;
    offer(dev, queue, 1);
    kick(dev, queue);
    do
        length = used_length(dev, queue, &there);
    while (!there && REPORT->asynchronous && !(status(dev) & STATUS_NEEDS_RESET));
    REPORT->slots[dev->slot].good += there && length >= good->written && status(dev) == 15;
}

/* What the compiler calls by itself. */
void *memset(void *to, int value, unsigned long size);

void *memset(void *to, int value, unsigned long size)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
    return to;
}

void attack_main(void);

__attribute__((section(".text.entry"))) void attack_main(void)
{
    for (uint32_t slot = 0; slot < ATTACK_SLOTS; slot++) {
        Dev dev;
        if (!find(&dev, slot))
            continue;
        REPORT->slots[slot].device_id = dev.id;
        for (uint32_t round = 0; round < REPORT->rounds; round++) {
            begin(&dev, 0); /* so that the number of queues is known */
            uint32_t queue = round & 1 ? below(dev.queues) : eager_queue(dev.id);
            attack(&dev, (enum Kind)(round / 2 % KINDS), queue);
        }
        do_good(&dev, 0);
        do_good(&dev, FEATURE(34) | FEATURE(35));
    }
    REPORT->finished = 1;
    for (;;)
        __asm__ volatile("cli; hlt");
}
