/*
 * Time: channel 0 of the 8254 timer at 100 Hz on IRQ 0 (Intel 8254 data sheet, mode 2), and what the TSC's
 * frequency is told to be (CPUID 15h: Intel SDM 2A; CPUID 40000010h: the hypervisors' convention; kvmclock: Linux
 * Documentation/virt/kvm/x86/msr.rst) and measured to be. The kernel itself counts only ticks.
 */
#include "kernel.h"
#include "x86.h"

#define PIT_CHANNEL0            0x40
#define PIT_COMMAND             0x43
#define PIT_HZ                  1193182
#define PIT_MODE2               0x34 /* channel 0, low then high byte, rate generator, binary */
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

static volatile uint64_t ticks;

static void timer_interrupt(void) { ticks++; }

void timer_init(void)
{
    uint16_t divisor = (PIT_HZ + TIMER_HZ / 2) / TIMER_HZ;
    outb(PIT_COMMAND, PIT_MODE2);
    outb(PIT_CHANNEL0, (uint8_t)divisor);
    outb(PIT_CHANNEL0, (uint8_t)(divisor >> 8));
    trap_set_irq(0, timer_interrupt);
}

uint64_t timer_ticks(void) { return ticks; }

void timer_wait(uint64_t count)
{
    uint64_t start = ticks;
    while (ticks - start < count)
        sti_hlt();
}

static uint64_t tsc_hz_cpuid15(void)
{
    if (cpuid(0, 0).eax < 0x15)
        return 0;
    Cpuid r = cpuid(0x15, 0); /* TSC = crystal (ECX) * EBX / EAX */
    return r.eax && r.ebx ? (uint64_t)r.ecx * r.ebx / r.eax : 0;
}

static uint32_t hypervisor_leaf(const char *signature)
{
    if (!(cpuid(1, 0).ecx >> 31))
        return 0;
    for (uint32_t leaf = 0x40000000; leaf < 0x40000400; leaf += 0x100) {
        Cpuid r = cpuid(leaf, 0);
        uint32_t text[3] = {r.ebx, r.ecx, r.edx};
        if (!memcmp(text, signature, 12))
            return leaf;
    }
    return 0;
}

static uint64_t tsc_hz_hypervisor(void)
{
    if (!(cpuid(1, 0).ecx >> 31))
        return 0;
    uint32_t last = cpuid(0x40000000, 0).eax;
    return last >= 0x40000010 && last < 0x40010000 ? cpuid(0x40000010, 0).eax * 1000ul : 0;
}

typedef struct KvmClock { /* pvclock_vcpu_time_info */
    uint32_t version, pad;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad2[2];
} KvmClock;

/* nanoseconds = (tsc << shift) * mul >> 32, so one second is (10^9 << 32) / mul >> shift cycles. */
static uint64_t tsc_hz_kvmclock(void)
{
    static KvmClock clock __attribute__((aligned(64)));
    uint32_t leaf = hypervisor_leaf("KVMKVMKVM\0\0\0");
    if (!leaf || !(cpuid(leaf + 1, 0).eax & 1u << 3))
        return 0;
    if (!wrmsr_safe(MSR_KVM_SYSTEM_TIME_NEW, (uint64_t)&clock | 1))
        return 0;
    uint32_t mul = *(volatile uint32_t *)&clock.tsc_to_system_mul;
    int shift = *(volatile int8_t *)&clock.tsc_shift;
    wrmsr_safe(MSR_KVM_SYSTEM_TIME_NEW, 0);
    if (!mul)
        return 0;
    uint64_t hz = (1000000000ul << 32) / mul;
    return shift < 0 ? hz << -shift : hz >> shift;
}

static uint64_t tsc_hz_measured(uint64_t count)
{
    timer_wait(1); /* begin at a tick's edge */
    uint64_t tsc = rdtsc(), start = ticks;
    timer_wait(count);
    tsc = rdtsc() - tsc;
    return tsc / (ticks - start) * TIMER_HZ;
}

static void print_hz(const char *source, uint64_t hz)
{
    if (hz)
        print("  %-28s %lu.%03lu MHz\n", source, hz / 1000000, hz / 1000 % 1000);
    else
        print("  %-28s not told\n", source);
}

void command_ticks(int argc, char **argv)
{
    (void)argc, (void)argv;
    print("timer: %lu ticks at %d Hz since start, TSC %lu\n", ticks, TIMER_HZ, rdtsc());
    print("interrupts by IRQ:");
    for (unsigned irq = 0; irq < 16; irq++)
        if (trap_irq_count(irq))
            print("  %u: %lu", irq, trap_irq_count(irq));
    print("\nTSC frequency:\n");
    print_hz("CPUID 0x15", tsc_hz_cpuid15());
    print_hz("CPUID 0x40000010", tsc_hz_hypervisor());
    print_hz("kvmclock", tsc_hz_kvmclock());
    print_hz("measured over 20 ticks", tsc_hz_measured(20));
}

void command_uptime(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t seconds = ticks / TIMER_HZ;
    print("up %lu:%02lu:%02lu.%02lu\n", seconds / 3600, seconds / 60 % 60, seconds % 60, ticks % TIMER_HZ);
}
