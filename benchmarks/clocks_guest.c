/*
 * A multiboot kernel that reads all clocks of a PC at once: for each byte that comes on COM1 it sends a line with
 * its counts. The byte 'b' makes it busy from then on, 'i' idle; 'r' only asks. kvmclock's count is 0 where CPUID
 * does not tell of it.
 *
 * IRQ 0 is the PIT at 100 Hz (the HPET's legacy replacement stays off), IRQ 8 the RTC's update
 * interrupt, IRQ 4 the byte. The PM timer wraps every 4.7 s, so each PIT tick reads it. Sources: 8254, MC146818A,
 * 8259A datasheets; IA-PC HPET 1.0a; ACPI 6.4 §4.8.3.3; Linux's Documentation/virt/kvm/x86/msr.rst.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

asm(".section .multiboot, \"ax\"\n"
    "  .long 0x1BADB002, 0, -0x1BADB002\n"
    ".globl start\n"
    "start:\n"
    "  mov $stack + 16384, %esp\n"
    "  lgdt gdt_pointer\n"
    "  ljmp $8, $1f\n"
    "1: mov $16, %eax\n"
    "  mov %eax, %ds\n"
    "  mov %eax, %es\n"
    "  mov %eax, %ss\n"
    "  call main\n"
    ".align 8\n"
    "gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff\n"
    "gdt_pointer: .word 23\n .long gdt\n"
    ".text\n"
    "tick_entry: pusha; call on_tick; popa; iret\n"
    "rtc_entry: pusha; call on_rtc; popa; iret\n"
    "uart_entry: pusha; call on_uart; popa; iret\n"
    "other_entry: pusha; movb $0x20, %al; outb %al, $0xa0; outb %al, $0x20; popa; iret\n");

enum { PM_TIMER_PYVMM = 0x608, PIT_DIVISOR = 11932 };

__attribute__((used)) static u8 stack[16384];
static u64 idt[256];
static volatile u32 ticks, updates, asked, busy;
static u32 pm_last;
static u64 pm_total;
static u16 pm_port;

static void outb(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static u8 inb(u16 port)
{
    u8 value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static u32 inl(u16 port)
{
    u32 value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void outl(u16 port, u32 value) { asm volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void read_pm(void)
{
    u32 now = inl(pm_port) & 0xffffff;
    pm_total += (now - pm_last) & 0xffffff;
    pm_last = now;
}

static u8 cmos(u8 index)
{
    outb(0x70, index);
    return inb(0x71);
}

__attribute__((used)) static void on_tick(void)
{
    ticks++;
    read_pm();
    outb(0x20, 0x20);
}

__attribute__((used)) static void on_rtc(void)
{
    if (cmos(0x0c) & 0x10)
        updates++;
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

__attribute__((used)) static void on_uart(void)
{
    while (inb(0x3fd) & 1) {
        u8 byte = inb(0x3f8);
        if (byte == 'b' || byte == 'i')
            busy = byte == 'b';
        asked++;
    }
    inb(0x3fa);
    outb(0x20, 0x20);
}

static void put(char c)
{
    while (!(inb(0x3fd) & 0x20)) {
    }
    outb(0x3f8, (u8)c);
}

static void number(char name, u64 value)
{
    put(name);
    for (int shift = 60; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

static u64 hpet_counter(void)
{
    volatile u32 *hpet = (u32 *)0xfed000f0;
    for (;;) {
        u32 high = hpet[1], low = hpet[0];
        if (hpet[1] == high)
            return (u64)high << 32 | low;
    }
}

/* The page that the hypervisor fills (msr.rst, MSR_KVM_SYSTEM_TIME_NEW). */
static volatile struct {
    u32 version, pad;
    u64 tsc_timestamp, system_time;
    u32 tsc_to_system_mul;
    signed char tsc_shift;
    u8 flags, pad2[2];
} kvmclock __attribute__((aligned(64)));
static u32 has_kvmclock;

enum { KVM_FEATURE_CLOCKSOURCE2 = 1 << 3, MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01 };

static void find_kvmclock(void)
{
    for (u32 leaf = 0x40000000; leaf < 0x40001000; leaf += 0x100) {
        u32 a, b, c, d;
        asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf));
        if (b != 0x4b4d564b || c != 0x564b4d56 || d != 0x4d) /* "KVMKVMKVM" */
            continue;
        asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf + 1));
        has_kvmclock = a & KVM_FEATURE_CLOCKSOURCE2;
    }
    if (has_kvmclock)
        asm volatile("wrmsr" : : "c"(MSR_KVM_SYSTEM_TIME_NEW), "a"((u32)&kvmclock | 1), "d"(0) : "memory");
}

static u64 kvmclock_ns(void)
{
    u32 version;
    u64 ns = 0;
    if (!has_kvmclock)
        return 0;
    do {
        version = kvmclock.version;
        u64 delta = rdtsc() - kvmclock.tsc_timestamp;
        delta = kvmclock.tsc_shift < 0 ? delta >> -kvmclock.tsc_shift : delta << kvmclock.tsc_shift;
        u64 low = (delta & 0xffffffff) * kvmclock.tsc_to_system_mul;
        u64 high = (delta >> 32) * kvmclock.tsc_to_system_mul;
        ns = kvmclock.system_time + high + (low >> 32);
    } while (version & 1 || version != kvmclock.version);
    return ns;
}

static void report(void)
{
    asm volatile("cli");
    read_pm();
    u64 hpet = hpet_counter(), tsc = rdtsc(), pm = pm_total, pit = ticks, rtc = updates;
    u64 kvm = kvmclock_ns();
    asm volatile("sti");
    number('p', pit);
    number('u', rtc);
    number('h', hpet);
    number('m', pm);
    number('t', tsc);
    number('k', kvm);
    put('\n');
}

static void gate(u32 vector, void (*entry)(void))
{
    u32 at = (u32)entry;
    idt[vector] = (u64)(at & 0xffff0000) << 32 | 0x8e00ull << 32 | 8u << 16 | (at & 0xffff);
}

void tick_entry(void), rtc_entry(void), uart_entry(void), other_entry(void);

static void set_up_interrupts(void)
{
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) pointer = {sizeof idt - 1, (u32)idt};
    for (u32 i = 32; i < 48; i++)
        gate(i, other_entry);
    gate(32, tick_entry);
    gate(36, uart_entry);
    gate(40, rtc_entry);
    asm volatile("lidt %0" : : "m"(pointer));
    static const u8 words[][2] = {{0x20, 0x11}, {0xa0, 0x11}, {0x21, 32}, {0xa1, 40},   {0x21, 4},
                                  {0xa1, 2},    {0x21, 1},    {0xa1, 1},  {0x21, 0xea}, {0xa1, 0xfe}};
    for (u32 i = 0; i < sizeof words / 2; i++)
        outb(words[i][0], words[i][1]);
}

__attribute__((used)) static void main(void)
{
    outl(0xcf8, 0x80000000 | 1 << 11 | 3 << 8); /* PIIX4's function 3: PMBASE (290562 §7.1.4) */
    pm_port = PM_TIMER_PYVMM;
    for (u32 function = 1; function < 4; function++) {
        outl(0xcf8, 0x80000000 | 1 << 11 | function << 8);
        if (inl(0xcfc) == 0x71138086) {
            outl(0xcf8, 0x80000040 | 1 << 11 | function << 8);
            u32 base = inl(0xcfc) & 0xffc0;
            if (base == 0)
                outl(0xcfc, base = 0x600);
            outl(0xcf8, 0x80000080 | 1 << 11 | function << 8);
            outl(0xcfc, inl(0xcfc) | 1); /* PMREGMISC: decode */
            pm_port = (u16)(base + 8);
        }
    }
    set_up_interrupts();
    find_kvmclock();
    *(volatile u32 *)0xfed00010 = 1; /* the HPET counts */
    outb(0x43, 0x34);
    outb(0x40, PIT_DIVISOR & 0xff);
    outb(0x40, PIT_DIVISOR >> 8);
    outb(0x70, 0x0b);
    outb(0x71, 0x12); /* 24 hours, update interrupt */
    cmos(0x0c);
    outb(0x3f9, 1);
    outb(0x3fc, 8);
    pm_last = inl(pm_port) & 0xffffff;
    asm volatile("sti");
    put('!');
    put('\n');
    for (;;) {
        if (asked) {
            asked = 0;
            report();
        }
        if (busy) {
            for (volatile u32 i = 0; i < 1000; i++) {
            }
        } else {
            asm volatile("cli");
            if (!asked)
                asm volatile("sti; hlt");
            asm volatile("sti");
        }
    }
}
