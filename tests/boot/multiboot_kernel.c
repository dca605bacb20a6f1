/*
 * A multiboot 1 kernel that reports on COM1 what it was given (Multiboot Specification 0.6.96 §3.2, §3.3), then
 * powers the machine off by PM1a_CNT at 0x604 (SLP_TYP 0). With -DFLAT its header gives load addresses and the file
 * is flat (objcopy -O binary); else it is an ELF file.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

asm(".section .multiboot, \"ax\"\n"
    ".globl start\n"
    "header:\n"
    "  .long 0x1BADB002\n"
#ifdef FLAT
    "  .long 0x10003, -(0x1BADB002 + 0x10003)\n"
    "  .long header, header, load_end, bss_end, start\n"
#else
    "  .long 0x3, -(0x1BADB002 + 0x3)\n"
#endif
    "start:\n"
    "  mov $stack + 4096, %esp\n"
    "  push %ebx\n"
    "  push %eax\n"
    "  call report\n"
    "1: hlt\n"
    "  jmp 1b\n"
    ".text\n");

__attribute__((used)) static u8 stack[4096];
static u32 zeros[1024]; /* .bss has to be clear */

static void outb(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void outw(u16 port, u16 value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }

static u8 inb(u16 port)
{
    u8 value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void put(const char *text, u32 length)
{
    for (u32 i = 0; i < length && text[i]; i++) {
        while (!(inb(0x3fd) & 0x20)) {
        }
        outb(0x3f8, (u8)text[i]);
    }
}

static void line(const char *name, const char *text)
{
    put(name, 64);
    put("=", 1);
    put(text, 4096);
    put("\r\n", 2);
}

static void number(const char *name, u32 value)
{
    char digits[9];
    for (int i = 0; i < 8; i++)
        digits[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    digits[8] = 0;
    line(name, digits);
}

void report(u32 magic, const u32 *info);

void report(u32 magic, const u32 *info)
{
    u32 cr0, flags, dirty = 0, cs, ss;
    asm volatile("mov %%cr0, %0" : "=r"(cr0));
    asm volatile("pushf; pop %0" : "=r"(flags));
    asm volatile("mov %%cs, %0" : "=r"(cs));
    asm volatile("mov %%ss, %0" : "=r"(ss));
    for (u32 i = 0; i < 1024; i++)
        dirty |= zeros[i];
    number("magic", magic);
    number("paging and protection", cr0 & 0x80000001);
    number("interrupts and vm86", flags & 0x20200);
    number("dirty bss", dirty);
    number("rpl", (cs | ss) & 3);
    number("flags", info[0] & 0x4d); /* memory, command line, modules, map */
    number("lower", info[1]);
    number("upper", info[2]);
    line("command line", (const char *)info[4]);
    number("modules", info[5]);
    const u32 *module = (const u32 *)info[6];
    number("module size", module[1] - module[0]);
    put("module=", 7);
    put((const char *)module[0], module[1] - module[0]);
    put("\r\n", 2);
    for (u32 at = info[12], end = at + info[11]; at < end; at += *(u32 *)at + 4)
        if (((u32 *)at)[5] == 1 && ((u32 *)at)[1] == 0x100000)
            number("ram at 1m", ((u32 *)at)[3]);
    line("end", "");
    outw(0x604, 0x2000);
}
