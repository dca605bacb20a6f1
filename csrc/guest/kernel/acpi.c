/*
 * As much ACPI as switching off needs (ACPI 6.4): RSDP (§5.2.5), RSDT or XSDT (§5.2.7, §5.2.8), FADT (§5.2.9), and
 * from the DSDT the package \_S5 (§7.4.2), whose first two numbers go into the SLP_TYP fields. There is no AML
 * interpreter: \_S5 is a constant package in practice, and is found by its bytes (§20.2: NameOp, name, PackageOp,
 * lengths, numbers).
 * Left out: \_S5 in an SSDT or computed by AML, hardware-reduced ACPI.
 */
#include "kernel.h"

#define TABLE_LIMIT 0x100000u /* larger tables are taken for damage */
#define HEADER_SIZE 36u
#define NAME_OP     0x08
#define PACKAGE_OP  0x12
#define BYTE_PREFIX 0x0a
#define WORD_PREFIX 0x0b

static uint32_t get32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

static bool checksum_ok(const uint8_t *p, uint32_t size)
{
    uint8_t sum = 0;
    for (uint32_t i = 0; i < size; i++)
        sum += p[i];
    return sum == 0;
}

static bool rsdp_here(const uint8_t *p)
{
    return *(const uint64_t *)p == 0x2052545020445352ul && checksum_ok(p, 20); /* "RSD PTR " */
}

/* §5.2.5.1: in the first KiB of the EBDA, or between E0000h and FFFFFh, on a 16-byte boundary. */
static const uint8_t *rsdp_find(void)
{
    if (memory_rsdp())
        return phys_map(memory_rsdp(), 36, false);
    /* The BIOS data area, through the window: page 0 is not in the one-to-one map. */
    const uint16_t *ebda_segment = phys_map(0x40e, 2, false);
    uint64_t ebda = ebda_segment ? (uint64_t)*ebda_segment << 4 : 0;
    if (ebda >= 0x10000 && ebda < 0xa0000 - 1024)
        for (const uint8_t *p = (const uint8_t *)ebda; p < (const uint8_t *)ebda + 1024; p += 16)
            if (rsdp_here(p))
                return p;
    for (const uint8_t *p = (const uint8_t *)0xe0000; p < (const uint8_t *)0x100000; p += 16)
        if (rsdp_here(p))
            return p;
    return NULL;
}

static const uint8_t *table_map(uint64_t address, uint32_t *length)
{
    const uint8_t *table = address ? phys_map(address, HEADER_SIZE, false) : NULL;
    *length = table ? get32(table + 4) : 0;
    if (*length < HEADER_SIZE || *length > TABLE_LIMIT)
        return NULL;
    return phys_map(address, *length, false);
}

static const uint8_t *fadt_find(const uint8_t *rsdp, uint32_t *length)
{
    bool extended = rsdp[15] >= 2;
    uint64_t root = extended ? *(const uint64_t *)(rsdp + 24) : 0;
    unsigned width = root ? 8 : 4;
    const uint8_t *list = table_map(root ? root : get32(rsdp + 16), length);
    uint32_t end = *length;
    for (uint32_t at = HEADER_SIZE; list && at + width <= end; at += width) {
        uint64_t address = get32(list + at) | (width == 8 ? (uint64_t)get32(list + at + 4) << 32 : 0);
        const uint8_t *table = table_map(address, length);
        if (table && !memcmp(table, "FACP", 4) && *length >= 116)
            return table;
    }
    return NULL;
}

/* One package element: ZeroOp, OneOp, a byte or a word constant. Returns the bytes taken, 0: something else. */
static unsigned aml_number(const uint8_t *p, const uint8_t *end, uint8_t *value)
{
    if (p < end && *p <= 1) {
        *value = *p;
        return 1;
    }
    if (end - p >= 2 && *p == BYTE_PREFIX) {
        *value = p[1];
        return 2;
    }
    if (end - p >= 3 && *p == WORD_PREFIX) {
        *value = p[1];
        return 3;
    }
    return 0;
}

static bool s5_parse(const uint8_t *p, const uint8_t *end, AcpiSleep *sleep)
{
    for (; end - p > 8; p++) {
        if (*p != '_' || memcmp(p, "_S5_", 4) || (p[-1] != NAME_OP && (p[-1] != '\\' || p[-2] != NAME_OP)))
            continue;
        const uint8_t *q = p + 4;
        if (*q++ != PACKAGE_OP)
            continue;
        q += (*q >> 6) + 1; /* PkgLength: the top bits count its further bytes */
        q++;                /* NumElements */
        unsigned taken = aml_number(q, end, &sleep->type_a);
        if (!taken)
            continue;
        if (!aml_number(q + taken, end, &sleep->type_b))
            sleep->type_b = sleep->type_a;
        return true;
    }
    return false;
}

bool acpi_find_s5(AcpiSleep *sleep, const char **why)
{
    uint32_t length, dsdt_length;
    const uint8_t *rsdp = rsdp_find();
    const uint8_t *fadt = rsdp ? fadt_find(rsdp, &length) : NULL;
    if (!fadt) {
        *why = rsdp ? "no FADT in the ACPI tables" : "no ACPI tables (RSDP)";
        return false;
    }
    *sleep = (AcpiSleep){
        .smi_command = get32(fadt + 48),
        .acpi_enable = fadt[52],
        .pm1a_control = (uint16_t)get32(fadt + 64),
        .pm1b_control = (uint16_t)get32(fadt + 68),
    };
    uint64_t dsdt = length >= 148 ? get32(fadt + 140) | (uint64_t)get32(fadt + 144) << 32 : 0;
    const uint8_t *aml = table_map(dsdt ? dsdt : get32(fadt + 40), &dsdt_length);
    if (!aml || !s5_parse(aml + HEADER_SIZE, aml + dsdt_length, sleep)) {
        *why = aml ? "no package \\_S5 in the DSDT" : "no DSDT";
        return false;
    }
    *why = "the FADT has no PM1a control port";
    return sleep->pm1a_control != 0;
}
