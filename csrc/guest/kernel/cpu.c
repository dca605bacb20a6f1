/* The `cpuid` command (Intel SDM 2A, CPUID; hypervisor leaves 40000000h: the convention of the hypervisors). */
#include "kernel.h"
#include "x86.h"

typedef struct FeatureName {
    uint8_t bit;
    const char *name;
} FeatureName;

static void print_text(const uint32_t *words, size_t count)
{
    const char *text = (const char *)words;
    for (size_t i = 0; i < count * 4; i++)
        if (text[i] >= ' ' && text[i] < 0x7f)
            print("%c", text[i]);
}

static void print_features(uint32_t word, const FeatureName *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (word >> names[i].bit & 1)
            print(" %s", names[i].name);
}

static void print_all_features(uint32_t last)
{
    static const FeatureName edx1[] = {{0, "fpu"},   {3, "pse"},  {4, "tsc"},  {5, "msr"},   {6, "pae"},
                                       {9, "apic"},  {11, "sep"}, {13, "pge"}, {15, "cmov"}, {23, "mmx"},
                                       {24, "fxsr"}, {25, "sse"}, {26, "sse2"}};
    static const FeatureName ecx1[] = {{0, "sse3"},    {1, "pclmul"},  {9, "ssse3"},         {12, "fma"},
                                       {13, "cx16"},   {17, "pcid"},   {19, "sse4.1"},       {20, "sse4.2"},
                                       {21, "x2apic"}, {23, "popcnt"}, {24, "tsc_deadline"}, {25, "aes"},
                                       {26, "xsave"},  {28, "avx"},    {30, "rdrand"},       {31, "hypervisor"}};
    static const FeatureName ebx7[] = {{0, "fsgsbase"}, {3, "bmi1"},     {5, "avx2"},    {7, "smep"}, {8, "bmi2"},
                                       {9, "erms"},     {16, "avx512f"}, {18, "rdseed"}, {19, "adx"}, {20, "smap"}};
    static const FeatureName edx81[] = {{11, "syscall"}, {20, "nx"}, {26, "pdpe1gb"}, {27, "rdtscp"}, {29, "lm"}};
    Cpuid one = cpuid(1, 0);
    print("features:");
    print_features(one.edx, edx1, ARRAY_SIZE(edx1));
    print_features(one.ecx, ecx1, ARRAY_SIZE(ecx1));
    if (last >= 7)
        print_features(cpuid(7, 0).ebx, ebx7, ARRAY_SIZE(ebx7));
    print_features(cpuid(0x80000001, 0).edx, edx81, ARRAY_SIZE(edx81));
    print("\n");
}

static void print_leaf(uint32_t leaf, uint32_t subleaf)
{
    Cpuid r = cpuid(leaf, subleaf);
    print("CPUID %08x.%x: eax %08x ebx %08x ecx %08x edx %08x\n", leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
}

void command_cpuid(int argc, char **argv)
{
    uint64_t leaf, subleaf = 0;
    if (argc > 1) {
        if (!parse_number(argv[1], &leaf) || (argc > 2 && !parse_number(argv[2], &subleaf)))
            print("usage: cpuid [LEAF [SUBLEAF]]\n");
        else
            print_leaf((uint32_t)leaf, (uint32_t)subleaf);
        return;
    }
    Cpuid zero = cpuid(0, 0), one = cpuid(1, 0);
    uint32_t family = one.eax >> 8 & 15, model = one.eax >> 4 & 15;
    if (family == 6 || family == 15)
        model |= one.eax >> 12 & 0xf0;
    if (family == 15)
        family += one.eax >> 20 & 0xff;
    print("vendor ");
    print_text((uint32_t[]){zero.ebx, zero.edx, zero.ecx}, 3);
    print(", family %u, model %u, stepping %u; highest leaves %x and %x\n", family, model, one.eax & 15, zero.eax,
          cpuid(0x80000000, 0).eax);
    if (cpuid(0x80000000, 0).eax >= 0x80000004) {
        print("brand  ");
        for (uint32_t l = 0x80000002; l <= 0x80000004; l++) {
            Cpuid r = cpuid(l, 0);
            print_text((uint32_t[]){r.eax, r.ebx, r.ecx, r.edx}, 4);
        }
        print("\n");
    }
    if (one.ecx >> 31) {
        Cpuid h = cpuid(0x40000000, 0);
        print("hypervisor \"");
        print_text((uint32_t[]){h.ebx, h.ecx, h.edx}, 3);
        print("\", highest leaf %x\n", h.eax);
    }
    print_all_features(zero.eax);
}
