/*
 * What a vCPU's exits were, kept while the guest runs: the newest ones one by one, and all of them as counts.
 *
 *   events    a ring of the newest exits: when, where, what, and the cycles that answering took
 *   sites     counts by (instruction, ring, reason, direction, address): a whole boot of Linux, millions of exits,
 * is some thousands of rows bands     counts by (reason, address) over time: 128 buckets, whose width doubles when
 * the time is over costs     a histogram of cycles by reason: bucket n is 2^n to 2^(n+1)-1 cycles
 *
 * Rows that tell nothing by themselves are merged: code of ring 3 and real mode's count by page, an interrupt from
 * outside by vector only (it comes wherever the guest is), device memory in a band by page. When a table is full,
 * further rows are merged into one for each reason with the flag EXIT_TRACE_MERGED: no exit is ever left out of the
 * counts.
 *
 * Cycles are the host's TSC from the exit's beginning in the engine to the answer: the bus and the device. The way
 * out of guest code and back is not in them. 0: nothing was answered (interrupts, exceptions, HLT, kicks).
 *
 * One writer, the vCPU's thread; readers are any threads. Costs nothing while a vCPU has none (vcpu_set_trace).
 */
#ifndef PYVMM_ENGINE_EXIT_TRACE_H
#define PYVMM_ENGINE_EXIT_TRACE_H

#include "common/common.h"
#include "io/clock.h"

#define EXIT_TRACE_REASONS 16
#define EXIT_TRACE_BUCKETS 128
#define EXIT_TRACE_COSTS   32

/* ExitEvent.flags: bits 0-1 CPL, bits 2-4 mode, and these. */
enum {
    EXIT_TRACE_MODE_SHIFT = 2,
    EXIT_TRACE_WRITE = 1 << 5,
    EXIT_TRACE_HANDLED = 1 << 6,
    EXIT_TRACE_SOFTWARE = 1 << 7, /* an interrupt by INT n */
};

/* Where code runs, beside CPL; numbers of the recorded file too. Sixteen and thirty-two: the code segment's size.
 */
enum ExitMode { MODE_REAL, MODE_V86, MODE_PROTECTED16, MODE_PROTECTED32, MODE_COMPATIBILITY, MODE_LONG };

enum { EXIT_TRACE_MERGED = 1, EXIT_TRACE_PAGE = 2 }; /* ExitSite.kind: of many sites; `rip` is a page */

/* The layouts are those of the recorded file (docs/tracing.md): little-endian, no padding. */
typedef struct ExitEvent {
    uint64_t time; /* the machine's clock in ns */
    uint64_t rip;
    uint64_t address; /* as in VmExit */
    uint64_t value;
    uint32_t cycles; /* saturates */
    uint8_t reason, flags, size, vector;
} ExitEvent;

typedef struct ExitSite {
    uint64_t rip, address;
    uint64_t count, cycles;
    uint64_t first, last; /* the machine's clock in ns */
    uint64_t value;       /* of the last one */
    uint32_t max_cycles;
    uint8_t reason, flags, size, vector;
    uint32_t kind;
    uint32_t reserved;
} ExitSite;

typedef struct ExitBand {
    uint64_t address;
    uint32_t reason;
    uint32_t kind;
    uint32_t counts[EXIT_TRACE_BUCKETS];
} ExitBand;

typedef struct ExitTraceSummary {
    uint64_t events;             /* of all times; the ring has the newest */
    uint64_t merged;             /* exits in rows of EXIT_TRACE_MERGED */
    uint64_t began, now;         /* the machine's clock in ns */
    uint64_t tsc_began, tsc_now; /* the host's TSC, and its monotonic clock in ns at the same moments */
    uint64_t host_began, host_now;
    uint64_t bucket_ns;  /* width of a band's bucket */
    uint64_t own_cycles; /* host TSC cycles that recording took, since the exits had been answered */
    uint64_t counts[EXIT_TRACE_REASONS];
    uint64_t cycles[EXIT_TRACE_REASONS];
    uint64_t costs[EXIT_TRACE_REASONS][EXIT_TRACE_COSTS];
} ExitTraceSummary;

typedef struct ExitTrace ExitTrace;
struct VmExit;

/* `events`: size of the ring, 1 to 1 << 24; `sites`: most rows, 64 to 1 << 20. NULL with `error` filled. The clock
 * must outlive it. */
ExitTrace *exit_trace_new(Clock *clock, uint32_t events, uint32_t sites, Error *error);
void exit_trace_free(ExitTrace *trace);
static inline uint64_t exit_trace_cycles(void) { return __builtin_ia32_rdtsc(); }
/* With its privilege and cycles filled. `answered`: exit_trace_cycles() when it was. */
void exit_trace_add(ExitTrace *trace, const struct VmExit *exit, uint64_t answered);

/* CPL and mode as in ExitEvent.flags, from CR0.PE, RFLAGS.VM, EFER.LMA, CS.L, CS.D, and SS.DPL, which is the CPL
 * (SDM 3A §5.5). */
static inline uint32_t exit_trace_privilege(bool pe, bool vm, bool lma, bool l, bool d, uint32_t cpl)
{
    uint32_t mode = !pe        ? MODE_REAL
                    : lma && l ? MODE_LONG
                    : lma      ? MODE_COMPATIBILITY
                    : vm       ? MODE_V86
                    : d        ? MODE_PROTECTED32
                               : MODE_PROTECTED16;
    return (pe ? vm && !lma ? 3 : cpl & 3 : 0) | mode << EXIT_TRACE_MODE_SHIFT;
}

/* Copies; each returns how many rows there are, and fills as many as `capacity`. Events: the newest, oldest first.
 */
size_t exit_trace_events(ExitTrace *trace, ExitEvent *events, size_t capacity);
size_t exit_trace_sites(ExitTrace *trace, ExitSite *sites, size_t capacity);
size_t exit_trace_bands(ExitTrace *trace, ExitBand *bands, size_t capacity);
void exit_trace_summary(ExitTrace *trace, ExitTraceSummary *summary);

#endif
