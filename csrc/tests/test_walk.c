/* The page walk: each format's levels, large pages, reserved bits, ends, and what an access may do with it. */
#include "mmu/walk.h"
#include "tests/check.h"

enum { RAM = 0x10000, TOP = 0x1000, SECOND = 0x2000, THIRD = 0x3000, FOURTH = 0x4000, FIFTH = 0x5000 };
enum { P = 1, W = 2, U = 4, PS = 0x80 };
static const uint64_t PG = 1ull << 31, WP = 1ull << 16, PSE = 1 << 4, PAE = 1 << 5, LA57 = 1 << 12, SMEP = 1 << 20,
                      SMAP = 1 << 21, LMA = 1 << 10, NXE = 1 << 11, XD = 1ull << 63;

static GuestMemory *memory_new(void)
{
    GuestMemory *memory = guest_memory_new(NULL);
    CHECK_EQ(guest_memory_add(memory, 0, RAM, 0, NULL), 0);
    return memory;
}

static void put(GuestMemory *memory, gpa_t gpa, uint64_t value, uint64_t size)
{
    CHECK_EQ(guest_memory_load(memory, gpa, &value, size), 0);
}

static PageWalk walked(const GuestMemory *memory, const PagingMode *mode, gva_t address)
{
    PageWalk walk;
    memset(&walk, 0xa5, sizeof walk); /* all of it is written */
    page_walk(memory, mode, address, &walk);
    CHECK(walk.count <= PAGING_LEVELS && walk.end <= WALK_NOT_CANONICAL);
    for (uint32_t i = 0; i < walk.count; i++)
        CHECK_EQ(walk.steps[i].level, walk.steps[0].level - i);
    return walk;
}

static void test_none(void)
{
    GuestMemory *memory = memory_new();
    PagingMode mode = {.cr0 = 1, .cr3 = TOP, .physical_bits = 40};
    PageWalk walk = walked(memory, &mode, 0x123456789abcull);
    CHECK(walk.kind == PAGING_NONE && walk.end == WALK_PAGE && walk.count == 0 && walk.physical == 0x56789abc);
    CHECK_EQ(page_check(&walk, &mode, PF_USER | PF_WRITE, false), -1);
    guest_memory_free(memory);
}

static void test_32_bit(void)
{
    GuestMemory *memory = memory_new();
    PagingMode mode = {.cr0 = PG, .cr3 = TOP | 0x18, .cr4 = PSE, .physical_bits = 40};
    put(memory, TOP + 4 * 0x3ff, SECOND | P | W | U, 4);
    put(memory, SECOND + 4 * 0x3ff, 0xfffff000 | P | U, 4);
    PageWalk walk = walked(memory, &mode, 0xffffffff);
    CHECK(walk.kind == PAGING_32_BIT && walk.count == 2 && walk.page_bits == 12 && walk.physical == 0xffffffff);
    CHECK_EQ(walk.steps[1].address, SECOND + 4 * 0x3ff);
    CHECK_EQ(walk.steps[1].rights, PAGE_USER | PAGE_EXECUTE);
    put(memory, TOP, 0x00c00000 | 0x5au << 13 | P | W | PS, 4); /* PSE-36: bits 32 to 39 */
    walk = walked(memory, &mode, 0x123456);
    CHECK(walk.page_bits == 22 && walk.physical == (0x5aull << 32 | 0x00c00000 | 0x123456));
    mode.physical_bits = 36;
    walk = walked(memory, &mode, 0x123456);
    CHECK(walk.end == WALK_RESERVED && walk.reserved == 0x50u << 13);
    CHECK_EQ(page_check(&walk, &mode, PF_WRITE, false), PF_PRESENT | PF_WRITE | PF_RESERVED);
    mode.physical_bits = 52; /* more than PSE-36 has */
    CHECK_EQ(walked(memory, &mode, 0x123456).end, WALK_PAGE);
    put(memory, TOP, 0x00c00000 | 1u << 21 | P | PS, 4);
    CHECK_EQ(walked(memory, &mode, 0).reserved, 1u << 21);
    mode.cr4 = 0; /* without PSE it is a table */
    CHECK_EQ(walked(memory, &mode, 0).end, WALK_NO_RAM);
    guest_memory_free(memory);
}

static void test_pae(void)
{
    GuestMemory *memory = memory_new();
    PagingMode mode = {
        .cr0 = PG | WP, .cr3 = TOP | 0x60 | 0xf00000000ull, .cr4 = PAE, .efer = NXE, .physical_bits = 40};
    put(memory, TOP + 0x60 + 8 * 3, SECOND | P, 8); /* the four pointers: 32 bytes, aligned to that */
    put(memory, SECOND + 8 * 0x1ff, THIRD | P | W | U, 8);
    put(memory, THIRD + 8 * 0x1ff, 0xabcdef000ull | P | W | U | XD, 8);
    PageWalk walk = walked(memory, &mode, 0xffffffff);
    CHECK(walk.kind == PAGING_PAE && walk.count == 3 && walk.physical == 0xabcdeffffull);
    CHECK_EQ(walk.steps[0].rights, PAGE_WRITE | PAGE_USER | PAGE_EXECUTE); /* a PDPTE has none to take */
    CHECK_EQ(walk.steps[2].rights, PAGE_WRITE | PAGE_USER);
    CHECK_EQ(page_check(&walk, &mode, PF_USER | PF_FETCH, false), PF_PRESENT | PF_USER | PF_FETCH);
    mode.efer = 0;
    CHECK_EQ(walked(memory, &mode, 0xffffffff).reserved, XD);
    put(memory, SECOND + 8, 0x200000 | P | PS | 1ull << 52, 8);
    CHECK_EQ(walked(memory, &mode, 0xc0200000).reserved, 1ull << 52);
    put(memory, SECOND + 8, 0x200000 | P | PS | 1ull << 20, 8);
    CHECK_EQ(walked(memory, &mode, 0xc0200000).reserved, 1ull << 20);
    put(memory, SECOND + 8, 0x200000 | P | PS | 1ull << 12, 8); /* PAT */
    CHECK_EQ(walked(memory, &mode, 0xc0212345).physical, 0x212345);
    put(memory, TOP + 0x60 + 8 * 3, SECOND | P | W | PS | XD, 8);
    mode.efer = NXE;
    CHECK_EQ(walked(memory, &mode, 0xc0200000).reserved, W | PS | XD);
    guest_memory_free(memory);
}

static void test_64_bit(void)
{
    GuestMemory *memory = memory_new();
    PagingMode mode = {.cr0 = PG | WP, .cr3 = TOP, .cr4 = PAE | LA57, .efer = LMA | NXE, .physical_bits = 46};
    for (gpa_t table = TOP; table < FIFTH; table += 0x1000)
        put(memory, table + 8 * 0x100, (table + 0x1000) | P | W | U, 8);
    put(memory, FIFTH + 8 * 0x100, 0x3fffffff7000ull | P | W, 8);
    gva_t address = 0;
    for (int shift = 12; shift < 57; shift += 9)
        address |= 0x100ull << shift;
    PageWalk walk = walked(memory, &mode, address | 0xff00000000000000ull | 0x9ab);
    CHECK(walk.kind == PAGING_5_LEVEL && walk.count == 5 && walk.physical == 0x3fffffff79abull);
    CHECK_EQ(walk.steps[4].rights, PAGE_WRITE | PAGE_EXECUTE);
    CHECK_EQ(walked(memory, &mode, address).end, WALK_NOT_CANONICAL);
    mode.cr4 &= ~LA57;
    walk = walked(memory, &mode, 0xffff800000000000ull);
    CHECK(walk.kind == PAGING_4_LEVEL && walk.count == 2 && walk.end == WALK_NOT_PRESENT);
    CHECK_EQ(page_check(&walk, &mode, PF_FETCH, false), PF_FETCH);
    CHECK_EQ(walked(memory, &mode, 0x800000000000ull).end, WALK_NOT_CANONICAL);
    put(memory, TOP, SECOND | P | PS, 8);
    CHECK_EQ(walked(memory, &mode, 0).reserved, PS);
    put(memory, TOP, SECOND | P | W | U, 8);
    put(memory, SECOND, 0x40000000 | P | W | U | PS, 8);
    walk = walked(memory, &mode, 0x3fedcba9);
    CHECK(walk.page_bits == 30 && walk.physical == 0x7fedcba9 && walk.count == 2);
    put(memory, SECOND, 0x40002000 | P | PS, 8);
    CHECK_EQ(walked(memory, &mode, 0).reserved, 0x2000);
    put(memory, SECOND, 1ull << 46 | P, 8);
    CHECK_EQ(walked(memory, &mode, 0).reserved, 1ull << 46);
    put(memory, SECOND, (RAM - 0x1000) | P | 1ull << 62, 8); /* bits 52 to 62 are the kernel's */
    CHECK_EQ(walked(memory, &mode, 0).end, WALK_NOT_PRESENT);
    put(memory, SECOND, RAM | P, 8);
    walk = walked(memory, &mode, 0x200000);
    CHECK(walk.end == WALK_NO_RAM && walk.physical == RAM + 8 && walk.count == 2);
    mode.efer = LMA; /* whether the error code tells of a fetch */
    CHECK_EQ(page_check(&walk, &mode, PF_FETCH, false), 0);
    mode.cr4 |= SMEP;
    CHECK_EQ(page_check(&walk, &mode, PF_FETCH, false), PF_FETCH);
    mode.cr3 |= 1ull << 46;           /* no such address line */
    put(memory, TOP, TOP | P | W, 8); /* itself */
    walk = walked(memory, &mode, 0x123);
    CHECK(walk.count == 4 && walk.physical == TOP + 0x123);
    guest_memory_free(memory);
}

/* All combinations, beside the rules as SDM 3A §4.6.1 words them. */
static void test_rules(void)
{
    GuestMemory *memory = memory_new();
    for (uint32_t bits = 0; bits < 1u << 10; bits++) {
        bool writable = bits & 1, user_page = bits & 2, executable = bits & 4, user = bits & 8, wp = bits & 16,
             smep = bits & 32, smap = bits & 64, ac = bits & 128, write = bits & 256, fetch = bits & 512;
        PagingMode mode = {.cr0 = PG | (wp ? WP : 0), .cr3 = TOP, .efer = LMA | NXE, .physical_bits = 40};
        mode.cr4 = PAE | (smep ? SMEP : 0) | (smap ? SMAP : 0);
        put(memory, TOP, SECOND | P | W | U, 8);
        put(memory, SECOND, THIRD | P | W | U, 8);
        put(memory, THIRD, FOURTH | P | W | (user_page ? U : 0) | (executable ? 0 : XD), 8);
        put(memory, FOURTH, FIFTH | P | (writable ? W : 0) | U, 8);
        if (write && fetch)
            continue;
        bool allowed;
        if (user)
            allowed = user_page && (fetch ? executable : !write || writable);
        else if (user_page)
            allowed = fetch ? executable && !smep : !(smap && !ac) && (!write || writable || !wp);
        else
            allowed = fetch ? executable : !write || writable || !wp;
        PageWalk walk = walked(memory, &mode, 0);
        uint32_t access = (user ? PF_USER : 0) | (write ? PF_WRITE : 0) | (fetch ? PF_FETCH : 0);
        CHECK_EQ(page_check(&walk, &mode, access, ac), allowed ? -1 : (int)(access | PF_PRESENT));
    }
    guest_memory_free(memory);
}

int main(void)
{
    RUN(test_none);
    RUN(test_32_bit);
    RUN(test_pae);
    RUN(test_64_bit);
    RUN(test_rules);
    return 0;
}
