/*
 * The lab kernel's two contracts with whoever starts it: LabBoot, what it is given, and LabReport, what it leaves
 * in memory (symbol lab_report). Read by C on both sides and, field by field, by pyvmm/lab/boot.py.
 *
 * The boot protocol: an ELF64 file entered at e_entry in 64-bit mode, CPL 0, IF 0, flat segments, paging on with a
 * 4-level identity map of the first 1 GiB (tables below 0x80000), RDI = physical address of a LabBoot below 1 GiB.
 * The file has a PVH note as well: by that entry the kernel makes a LabBoot itself.
 */
#ifndef GUEST_LAB_H
#define GUEST_LAB_H

#include <stdint.h>

#define LAB_BOOT_MAGIC   0x544f4f4242414cul /* "LABBOOT" */
#define LAB_REPORT_MAGIC 0x54504552424cul   /* "LBREPT" */
#define LAB_VERSION      1
#define LAB_EXIT_PORT    0x501 /* writing N ends a pyvmm machine, or one of QEMU's with isa-debug-exit there */

typedef struct LabBoot {
    uint64_t magic;
    uint32_t version, reserved;
    uint64_t ram_end;      /* RAM is [0, ram_end) but for the PC's hole from 640 KiB to 1 MiB */
    uint64_t command_line; /* physical address of a text that ends with NUL; 0: none */
} LabBoot;

/* A workload that ran: `workload=` names it. */
typedef struct LabResult {
    char name[16];
    uint64_t operations; /* that were done: less than asked for when status says why */
    uint64_t cycles;     /* TSC, from the first operation to the last */
    uint64_t value;      /* what it computed: a checksum, or what is said at the workload */
    uint64_t status;     /* LabStatus */
} LabResult;

enum LabStatus {
    LAB_OK,
    LAB_ABSENT /* no such device */,
    LAB_STUCK /* a bounded wait ended */,
    LAB_FAULT,
    LAB_NO_MEMORY
};

/* One sensitive instruction, used as a kernel uses it. */
typedef struct LabCheck {
    char name[24];
    uint64_t expected, seen; /* seen: LAB_CHECK_FAULT | vector when the instruction raised an exception */
} LabCheck;

#define LAB_CHECK_FAULT 0xfa17000000000000ul
#define LAB_RESULTS     24
#define LAB_CHECKS      40

enum LabState { LAB_RUNNING = 1, LAB_DONE, LAB_FAILED /* fault_* say where */ };

typedef struct LabReport {
    uint64_t magic;
    uint32_t version, state;
    uint32_t paravirt; /* 1: built with LAB_PARAVIRT */
    uint32_t doors;    /* that lead from ring 3 to the kernel: bits of layout.h */
    uint32_t door;     /* that the programs used */
    uint32_t bounced;  /* 1: SYSCALL stays in ring 3 and comes in by INT3 */
    uint32_t result_count, check_count;
    uint64_t fault_vector, fault_rip, fault_address, fault_error;
    uint64_t interrupts; /* that arrived in the kernel, of all lines */
    LabResult results[LAB_RESULTS];
    LabCheck checks[LAB_CHECKS];
} LabReport;

#endif
