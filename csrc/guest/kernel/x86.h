/* The instructions that C has no words for (Intel SDM 2A-2C), each as a function of the same name. */
#ifndef GUEST_X86_H
#define GUEST_X86_H

#include <stdint.h>

#define MSR_EFER   0xc0000080
#define MSR_STAR   0xc0000081
#define MSR_LSTAR  0xc0000082
#define MSR_SFMASK 0xc0000084
#define RFLAGS_IF  0x200

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t inw(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

#ifdef LAB_PARAVIRT
#include "../lab/paravirt_cpu.h" /* cli, sti, sti_hlt of a kernel that knows its monitor */
#else
static inline void cli(void) { __asm__ volatile("cli" : : : "memory"); }

static inline void sti(void) { __asm__ volatile("sti" : : : "memory"); }

/* STI takes effect after the next instruction, so no interrupt can slip in before HLT (Intel SDM 2B, STI). */
static inline void sti_hlt(void) { __asm__ volatile("sti; hlt" : : : "memory"); }
#endif

static inline uint64_t rflags(void)
{
    uint64_t value;
    __asm__ volatile("pushfq; popq %0" : "=r"(value) : : "memory");
    return value;
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

typedef struct Cpuid {
    uint32_t eax, ebx, ecx, edx;
} Cpuid;

static inline Cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    Cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "0"(leaf), "2"(subleaf));
    return r;
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

#define CONTROL_REGISTER(n)                                                                                        \
    static inline uint64_t read_cr##n(void)                                                                        \
    {                                                                                                              \
        uint64_t value;                                                                                            \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory");                                         \
        return value;                                                                                              \
    }                                                                                                              \
    static inline void write_cr##n(uint64_t value)                                                                 \
    {                                                                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                                             \
    }
CONTROL_REGISTER(0)
CONTROL_REGISTER(2)
CONTROL_REGISTER(3)
CONTROL_REGISTER(4)
#undef CONTROL_REGISTER

typedef struct __attribute__((packed)) TablePointer { /* the operand of LGDT and LIDT */
    uint16_t limit;
    uint64_t base;
} TablePointer;

static inline void lgdt(const TablePointer *pointer) { __asm__ volatile("lgdt %0" : : "m"(*pointer)); }

static inline void lidt(const TablePointer *pointer) { __asm__ volatile("lidt %0" : : "m"(*pointer)); }

static inline void ltr(uint16_t selector) { __asm__ volatile("ltr %0" : : "r"(selector)); }

static inline void invlpg(uint64_t virtual_address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(virtual_address) : "memory");
}

static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }

#endif
