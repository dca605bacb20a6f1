/*
 * The workloads: what is done, how often, by whom. After Adams and Agesen 2006 ("A Comparison of Software and
 * Hardware Techniques for x86 Virtualization") syscall, in, cr8wr, callret, pgfault, ptemod and divzero; beside
 * them what a kernel does with processes, time and a disk. Each counts its operations and times them by the TSC.
 */
#include "lab_kernel.h"
#include "user/user.h"

#define POST_PORT 0x80
#define TICK_HZ   1000u
#define DISK_HZ   100u
#define HZ_MIN    20u /* the 8254 divides by 65536 at most */
#define HZ_MAX    20000u

/* In ring 0: the loops are assembly, so that nothing but the operation is counted. */

static void do_in(uint64_t count)
{
    uint8_t value;
    while (count--)
        __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"((uint16_t)POST_PORT) : "memory");
}

static void do_cr8wr(uint64_t count)
{
    while (count--)
        task_priority_set(0);
}

static void __attribute__((noinline)) called(void) { __asm__ volatile("" : : : "memory"); }

static void do_callret(uint64_t count)
{
    void (*volatile target)(void) = called; /* by pointer: a translator cannot know where it goes */
    while (count--)
        target();
}

static void kernel_work(LabResult *result, uint64_t count, void (*work)(uint64_t count))
{
    uint64_t start = rdtsc();
    work(count);
    result->cycles = rdtsc() - start;
    result->operations = count;
}

/* Programs report for themselves; one that ends otherwise than with 0 makes the status. */
static void user_work(LabResult *result, uint64_t program, uint64_t count)
{
    unsigned n = process_new(USER_BASE, program, count, lab_report.door);
    if (!n) {
        result->status = LAB_NO_MEMORY;
        return;
    }
    process_run();
    if (process_result(n))
        result->status = process_result(n) <= -256 ? LAB_FAULT : LAB_STUCK;
}

/* Two that give way to each other: each call is a switch. */
static void do_switch(LabResult *result, uint64_t count)
{
    uint64_t before = process_switches(), start = rdtsc();
    unsigned a = process_new(USER_BASE, PROGRAM_YIELD, (count + 1) / 2, lab_report.door);
    unsigned b = process_new(USER_BASE, PROGRAM_YIELD, count / 2, lab_report.door);
    process_run();
    result->cycles = rdtsc() - start; /* the programs' own overlap */
    result->value = process_switches() - before;
    result->status = !a || !b ? LAB_NO_MEMORY : process_result(a) || process_result(b) ? LAB_FAULT : LAB_OK;
}

static uint64_t tick_goal;

static void tick_count(void)
{
    process_resched = true;
    if (timer_ticks() >= tick_goal)
        process_end_all(0);
}

/* Two that compute, and are made to take turns; value: how often. */
static void do_timer(LabResult *result, uint64_t count)
{
    uint64_t before = process_switches(), ticks = timer_ticks();
    unsigned a = process_new(USER_BASE, PROGRAM_SPIN, count + 1, lab_report.door);
    unsigned b = process_new(USER_BASE, PROGRAM_SPIN, count + 1, lab_report.door);
    tick_goal = ticks + count;
    timer_on_tick(tick_count);
    uint64_t start = rdtsc();
    uint64_t hz = option_number("hz", TICK_HZ);
    timer_start(hz < HZ_MIN ? HZ_MIN : hz > HZ_MAX ? HZ_MAX : hz);
    process_run();
    result->cycles = rdtsc() - start;
    timer_stop();
    timer_on_tick(NULL);
    ticks = timer_ticks() - ticks;
    result->operations = ticks < count ? ticks : count; /* what came while it was switched off is not counted */
    result->value = process_switches() - before;
    result->status = !a || !b ? LAB_NO_MEMORY : ticks < count ? LAB_STUCK : LAB_OK;
}

/* One disk or the other, by the command line or as the build has it by nature. */
static bool use_virtio;

bool lab_disk_open(void)
{
    static bool looked;
    char kind[8];
    if (!option_text("disk", kind, sizeof(kind)))
        memcpy(kind, PARAVIRT ? "virtio" : "ide", PARAVIRT ? 7 : 4);
    use_virtio = !strcmp(kind, "virtio");
    if (!use_virtio)
        return ide_init();
    if (!looked) {
        looked = true;
        pci_init();
        disk_init();
    }
    return disk_present();
}

uint64_t lab_disk_sectors(void) { return use_virtio ? disk_sectors() : ide_sectors(); }

int lab_disk_read(uint64_t lba, void *buffer, size_t sectors)
{
    uint64_t total = lab_disk_sectors();
    if (total < sectors)
        return 1;
    lba %= total - sectors + 1;
    return use_virtio ? disk_request(DISK_READ, lba, buffer, sectors) : ide_read(lba, buffer, sectors);
}

/* Reads of 4 KiB from the start on; value: their CRC-32. */
static void do_disk(LabResult *result, uint64_t count)
{
    timer_start(DISK_HZ); /* so that a disk that never answers is noticed */
    if (lab_disk_open())
        user_work(result, PROGRAM_DISK, count);
    else
        result->status = LAB_ABSENT;
    timer_stop();
}

typedef struct Workload {
    const char *name;
    uint64_t count; /* when the command line has none */
    void (*kernel)(uint64_t count);
    void (*special)(LabResult *result, uint64_t count);
    uint64_t program;
} Workload;

static const Workload workloads[] = {
    {"hello", 1, NULL, NULL, PROGRAM_HELLO},
    {"syscall", 1000, NULL, NULL, PROGRAM_SYSCALL},
    {"in", 1000, do_in, NULL, 0},
    {"cr8wr", 1000, do_cr8wr, NULL, 0},
    {"callret", 100000, do_callret, NULL, 0},
    {"pgfault", 1000, NULL, NULL, PROGRAM_PGFAULT},
    {"ptemod", 1000, NULL, NULL, PROGRAM_PTEMOD},
    {"divzero", 1000, NULL, NULL, PROGRAM_DIVZERO},
    {"switch", 1000, NULL, do_switch, 0},
    {"fork", 20, NULL, NULL, PROGRAM_FORK},
    {"timer", 50, NULL, do_timer, 0},
    {"disk", 16, NULL, do_disk, 0},
    {"loop", 1000000, NULL, NULL, PROGRAM_LOOP},
};

static void run_one(const Workload *workload)
{
    LabResult *result = result_new(workload->name);
    uint64_t count = option_number("count", workload->count);
    if (!result)
        return;
    if (workload->kernel)
        kernel_work(result, count, workload->kernel);
    else if (workload->special)
        workload->special(result, count);
    else
        user_work(result, workload->program, count);
}

void workload_run(const char *name)
{
    bool all = !strcmp(name, "all"), known = all;
    if (all || !strcmp(name, "checks")) {
        known = true;
        checks_run();
    }
    for (size_t i = 0; i < ARRAY_SIZE(workloads); i++) {
        if (all || !strcmp(name, workloads[i].name)) {
            known = true;
            run_one(&workloads[i]);
        }
    }
    if (!known) {
        print("lab: no such workload: %s\n", name);
        LabResult *result = result_new(name);
        if (result)
            result->status = LAB_ABSENT;
    }
}
