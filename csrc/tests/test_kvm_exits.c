/*
 * What the KVM engine makes of a struct kvm_run, without a KVM: every exit number, those that nobody has documented
 * included, with garbage in its fields. An exit is answered, or becomes one that names it; nothing else happens.
 */
#include <stdlib.h>

#include "kvm/vm.h"
#include "tests/check.h"

enum { PAGES = 3, PAGE = 4096, ROUNDS = 200 };

typedef struct Fake {
    Board *board;
    KvmVm vm;
    KvmVcpu vcpu;
    struct kvm_run *run;
} Fake;

static void fake_init(Fake *fake)
{
    Error error = {0};
    memset(fake, 0, sizeof *fake);
    fake->board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(fake->board);
    CHECK_EQ(guest_memory_add(fake->board->memory, 0, 1 << 20, 0, &error), 0);
    fake->run = calloc(PAGES, PAGE);
    CHECK(fake->run);
    fake->vm = (KvmVm){.base = {.board = fake->board}, .system_fd = -1, .fd = -1, .run_size = PAGES * PAGE};
    fake->vcpu = (KvmVcpu){.base = {.vm = &fake->vm.base}, .vm = &fake->vm, .board = fake->board, .fd = -1};
    fake->vcpu.run = fake->run;
}

static void fake_fini(Fake *fake)
{
    free(fake->run);
    board_free(fake->board);
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

/* True when it is to be seen above; the text is always ended. */
static bool handle(Fake *fake, VmExit *left)
{
    memset(left, 0, sizeof *left);
    fake->vcpu.io_left = 0;
    fake->vcpu.failed = false;
    bool seen = kvm_handle_exit(&fake->vcpu, left);
    CHECK(memchr(left->text, 0, sizeof left->text));
    CHECK(left->reason <= EXIT_FAIL);
    CHECK(!seen || left->reason != EXIT_NONE);
    return seen;
}

static void test_undocumented_numbers(void)
{
    Fake fake;
    fake_init(&fake);
    static const uint32_t NUMBERS[] = {0, 1, 60, 99, 255, 4096, 0x7fffffff, 0x80000000, 0xffffffff};
    for (size_t i = 0; i < ARRAY_SIZE(NUMBERS); i++) {
        VmExit left;
        KvmFailure failure = {0};
        fake.run->exit_reason = NUMBERS[i];
        CHECK(handle(&fake, &left));
        CHECK_EQ(left.reason, EXIT_FAIL);
        char number[16];
        snprintf(number, sizeof number, "reason %u ", NUMBERS[i]);
        CHECK(strstr(left.text, number));
        failure = fake.vcpu.failure;
        CHECK(fake.vcpu.failed);
        CHECK_EQ(failure.exit_reason, NUMBERS[i]);
    }
    fake_fini(&fake);
}

static void test_garbage_in_every_exit(void)
{
    Fake fake;
    fake_init(&fake);
    uint32_t state = 2463534242u;
    for (uint32_t number = 0; number < 64; number++) {
        for (int round = 0; round < ROUNDS; round++) {
            uint32_t *words = (uint32_t *)fake.run;
            for (size_t i = 0; i < PAGES * PAGE / 4; i++)
                words[i] = next_random(&state);
            fake.run->exit_reason = number;
            fake.run->kvm_valid_regs = 0;
            if (round % 2) /* an access that is nearly right */
                fake.run->io.size = 1u << (round / 2 % 4), fake.run->io.count %= PAGE,
                fake.run->io.data_offset %= 2 * PAGE;
            VmExit left;
            fake.vcpu.base.surface = round % 3 ? 0 : ~0u;
            if (handle(&fake, &left) && left.reason == EXIT_FAIL)
                CHECK(left.text[0]);
        }
    }
    fake_fini(&fake);
}

static void test_failed_entry(void)
{
    Fake fake;
    fake_init(&fake);
    fake.run->exit_reason = KVM_EXIT_FAIL_ENTRY;
    fake.run->fail_entry.hardware_entry_failure_reason = 0x80000021;
    fake.run->fail_entry.cpu = 3;
    VmExit left;
    CHECK(handle(&fake, &left));
    CHECK_EQ(left.reason, EXIT_FAIL);
    CHECK(strstr(left.text, "0x80000021"));
    CHECK_EQ(fake.vcpu.failure.entry_failure, 0x80000021);
    CHECK_EQ(fake.vcpu.failure.cpu, 3);
    fake_fini(&fake);
}

static void test_internal_errors(void)
{
    Fake fake;
    fake_init(&fake);
    for (uint32_t suberror = 0; suberror < 8; suberror++) {
        memset(fake.run, 0xff, PAGES * PAGE);
        fake.run->kvm_valid_regs = 0;
        fake.run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
        fake.run->internal.suberror = suberror;
        VmExit left;
        CHECK(handle(&fake, &left));
        CHECK_EQ(left.reason, EXIT_FAIL);
        CHECK(left.text[0]);
        CHECK(fake.vcpu.failure.data_count <= ARRAY_SIZE(fake.vcpu.failure.data));
        CHECK(fake.vcpu.failure.instruction_size <= 15);
    }
    fake_fini(&fake);
}

int main(void)
{
    test_undocumented_numbers();
    test_garbage_in_every_exit();
    test_failed_entry();
    test_internal_errors();
    return 0;
}
