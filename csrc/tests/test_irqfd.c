/* The board's list of irqfds with an engine of the test's own: when its table changes, refusals, attach and detach.
 */
#include <unistd.h>

#include "irq/irqfd.h"
#include "tests/check.h"

typedef struct Fake {
    uint32_t adds, changes, removes;
    int fd, result;
    MsiMessage message;
} Fake;

static int fake_add(void *engine, int fd, const MsiMessage *message)
{
    Fake *fake = engine;
    fake->adds++;
    fake->fd = fd;
    fake->message = *message;
    return fake->result;
}

static int fake_change(void *engine, int route, const MsiMessage *message)
{
    Fake *fake = engine;
    CHECK_EQ(route, 7);
    fake->changes++;
    fake->message = *message;
    return fake->result < 0 ? fake->result : 0;
}

static void fake_remove(void *engine, int route, int fd)
{
    Fake *fake = engine;
    CHECK(route == 7 && fd == fake->fd);
    fake->removes++;
}

static const IrqFdOps FAKE = {.add = fake_add, .change = fake_change, .remove = fake_remove};

static uint64_t signals(int fd)
{
    uint64_t count = 0;
    return read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

static void test_follows_what_is_sent(void)
{
    Fake fake = {.result = 7};
    IrqFds *list = irqfds_new();
    IrqFd *irqfd = irqfd_new(list);
    MsiMessage a = {0xfee00000, 0x41}, b = {0xfee00000, 0x42}, c = {0xfee01000, 0x42};
    CHECK(!irqfds_usable(list) && !irqfd_send(irqfd, &a));
    irqfds_attach(list, &FAKE, &fake);
    CHECK(irqfds_usable(list));
    CHECK_EQ(fake.adds, 0); /* not before there is something to send */
    CHECK(irqfd_send(irqfd, &a) && irqfd_send(irqfd, &a));
    CHECK(fake.adds == 1 && fake.changes == 0 && signals(fake.fd) == 2);
    CHECK(irqfd_send(irqfd, &b) && irqfd_send(irqfd, &b) && irqfd_send(irqfd, &c));
    CHECK(fake.adds == 1 && fake.changes == 2 && signals(fake.fd) == 3);
    CHECK(fake.message.address == c.address && fake.message.data == c.data);
    irqfd_release(irqfd);
    irqfd_release(irqfd);
    CHECK_EQ(fake.removes, 1);
    CHECK(irqfd_send(irqfd, &c)); /* and is there again when it is needed */
    CHECK_EQ(fake.adds, 2);
    IrqFdCounts counts;
    irqfds_counts(list, &counts);
    CHECK(counts.entries == 1 && counts.active == 1 && counts.changes == 4 && counts.refused == 0);
    irqfds_attach(list, NULL, NULL);
    CHECK_EQ(fake.removes, 2);
    CHECK(!irqfd_send(irqfd, &c));
    irqfds_attach(list, &FAKE, &fake);
    CHECK(irqfd_send(irqfd, &c));
    irqfd_free(irqfd);
    CHECK_EQ(fake.removes, 3);
    irqfds_counts(list, &counts);
    CHECK(counts.entries == 0 && counts.active == 0);
    irqfds_free(list);
}

static void test_refusal(void)
{
    Fake fake = {.result = -ENOSPC};
    IrqFds *list = irqfds_new();
    IrqFd *other = irqfd_new(list), *irqfd = irqfd_new(list);
    MsiMessage a = {0xfee00000, 0x41}, b = {0xfee00000, 0x42};
    irqfds_attach(list, &FAKE, &fake);
    CHECK(!irqfd_send(irqfd, &a) && !irqfd_send(irqfd, &a));
    CHECK(fake.adds == 1 && fake.removes == 0); /* asked once */
    irqfds_attach(list, NULL, NULL);
    fake.result = 7;
    irqfds_attach(list, &FAKE, &fake);
    CHECK(irqfd_send(irqfd, &a));
    fake.result = -EINVAL;
    CHECK(!irqfd_send(irqfd, &b)); /* its old message must not come in place of it */
    CHECK_EQ(fake.removes, 1);
    CHECK_EQ(signals(fake.fd), 1);
    IrqFdCounts counts;
    irqfds_counts(list, &counts);
    CHECK(counts.entries == 2 && counts.active == 0 && counts.refused == 2);
    irqfd_free(irqfd);
    irqfd_free(other);
    irqfd_free(NULL);
    irqfds_free(list);
}

int main(void)
{
    RUN(test_follows_what_is_sent);
    RUN(test_refusal);
    return 0;
}
