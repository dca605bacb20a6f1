/*
 * The hypercalls of csrc/guest/lab/hypercall.h, one function each: what the guest gives is looked at before
 * anything is done with it, and copied before it is looked at.
 */
#include <stddef.h>
#include <string.h>

#include "lab/paravirt.h"

#define PAGE        4096ull
#define INSTRUCTION 2 /* bytes of int 0x82 */
#define COM1        0x3f8
#define COM1_LSR    5
#define LSR_THRE    0x20
#define THRE_LOOKS  1000
#define EXIT_PORT   0x501
#define CASCADE     2
#define CR0_WP      (1ull << 16)
#define EFER_NXE    (1ull << 11)
#define IGNORED     (PTE_A | PTE_D | 7ull << 9) /* of an entry: what no translation depends on */

_Static_assert(sizeof(LabShared) == PAGE, "the shared page");
_Static_assert(offsetof(LabShared, queue) == 256 && LAB_QUEUE * sizeof(LabMmuUpdate) + 256 == PAGE, "the queue");

static bool canonical(uint64_t address) { return (uint64_t)((int64_t)(address << 16) >> 16) == address; }

static bool is_ram(const Monitor *monitor, gpa_t gpa, uint64_t size)
{
    return gpa < monitor->base && size <= monitor->base - gpa &&
           guest_memory_ptr(monitor->board->memory, gpa, size, true);
}

/* ---- stack and address space -------------------------------------------------------------------------------- */

static int64_t call_stack(Monitor *monitor, uint64_t rsp)
{
    if (rsp % 16 || !canonical(rsp))
        return -LAB_EINVAL;
    paravirt_of(monitor)->stack = rsp;
    return 0;
}

static int64_t call_address(Monitor *monitor, uint64_t root, uint64_t rsp)
{
    if (root % PAGE)
        return -LAB_EINVAL;
    if (!is_ram(monitor, root, PAGE))
        return -LAB_EFAULT;
    int64_t result = rsp ? call_stack(monitor, rsp) : 0;
    if (result)
        return result;
    monitor->cpu.cr3 = root;
    shadow_sync(monitor->shadow);
    lab_load_tables(monitor);
    return 0;
}

/* ---- the queue ---------------------------------------------------------------------------------------------- */

static int64_t release(Monitor *monitor, gpa_t page)
{
    if (!is_ram(monitor, page, PAGE))
        return -LAB_EFAULT;
    shadow_zap(monitor->shadow, page);
    return 0;
}

static int64_t update(Monitor *monitor, const LabMmuUpdate *update)
{
    gpa_t entry = update->entry;
    if (entry % PAGE == LAB_MMU_ADDRESS)
        return call_address(monitor, entry - LAB_MMU_ADDRESS, update->value);
    if (entry % PAGE == LAB_MMU_RELEASE)
        return update->value ? -LAB_EINVAL : release(monitor, entry - LAB_MMU_RELEASE);
    if (entry % sizeof(uint64_t))
        return -LAB_EINVAL;
    if (!is_ram(monitor, entry, sizeof(uint64_t)))
        return -LAB_EFAULT;
    uint64_t old = 0;
    guest_memory_read(monitor->board->memory, entry, &old, sizeof old);
    if (shadow_write(monitor->shadow, entry, &update->value, sizeof update->value) < 0)
        return -LAB_EFAULT;
    if (old & PTE_P && (old ^ update->value) & ~IGNORED)
        lab_load_tables(monitor); /* the TLB may have the old one: no INVLPG will follow */
    return 0;
}

static int64_t take_queue(Monitor *monitor)
{
    Paravirt *pv = paravirt_of(monitor);
    LabShared *shared = pv->shared;
    uint32_t count = shared->queued, served = shared->served;
    int64_t result = 0;
    shared->queued = 0;
    shared->served = 0;
    if (count > LAB_QUEUE)
        return -LAB_E2BIG;
    for (uint32_t i = 0; i < count && !result; i++) {
        LabMmuUpdate copy = shared->queue[i]; /* an update may be to this very page */
        result = update(monitor, &copy);
    }
    if (!(shared->pending & 1u << LAB_EVENT_TIMER))
        served |= 1u << LAB_EVENT_TIMER; /* it took that one */
    paravirt_serve_lines(monitor, served);
    return result;
}

/* ---- the calls ---------------------------------------------------------------------------------------------- */

static int64_t call_shared(Monitor *monitor, uint64_t gpa)
{
    Paravirt *pv = paravirt_of(monitor);
    if (gpa % PAGE)
        return -LAB_EINVAL;
    if (!is_ram(monitor, gpa, PAGE))
        return -LAB_EFAULT;
    memset(pv, 0, sizeof *pv);
    pv->shared_gpa = gpa;
    pv->shared = guest_memory_ptr(monitor->board->memory, gpa, PAGE, true);
    memset(pv->shared, 0, sizeof *pv->shared);
    guest_memory_written(monitor->board->memory, gpa, PAGE);
    paravirt_reset_lines(monitor);
    monitor->cpu.cr0 |= CR0_WP;
    monitor->cpu.efer |= EFER_NXE;
    lab_load_tables(monitor);
    return 0;
}

static int64_t call_traps(Monitor *monitor, uint64_t address, uint64_t count)
{
    Paravirt *pv = paravirt_of(monitor);
    LabTrap traps[LAB_TRAPS_MAX];
    if (count > LAB_TRAPS_MAX)
        return -LAB_E2BIG;
    if (!paravirt_read(monitor, address, traps, count * sizeof traps[0]))
        return -LAB_EFAULT;
    for (uint64_t i = 0; i < count; i++)
        if (traps[i].vector >= LAB_TRAP_VECTORS || !canonical(traps[i].handler))
            return -LAB_EINVAL;
    for (uint64_t i = 0; i < count; i++)
        pv->traps[traps[i].vector] = (ParavirtTrap){.handler = traps[i].handler, .user = traps[i].user != 0};
    return 0;
}

/* 0: the guest is somewhere else now. */
static int64_t call_iret(Monitor *monitor)
{
    LabTrapFrame *trap = monitor->trap;
    LabIret iret;
    if (!paravirt_read(monitor, trap->gpr[REG_RSP], &iret, sizeof iret))
        return -LAB_EFAULT;
    if ((iret.cs != LAB_CS_KERNEL && iret.cs != LAB_CS_USER) || !canonical(iret.rip))
        return -LAB_EINVAL;
    trap->gpr[REG_RAX] = iret.rax;
    trap->gpr[REG_RSP] = iret.rsp;
    trap->rip = iret.rip;
    lab_set_rflags(monitor, iret.rflags, false);
    paravirt_store_events(monitor, iret.rflags & RFLAGS_IF);
    lab_set_ring(monitor, iret.cs & 3);
    return 0;
}

static int64_t call_block(Monitor *monitor)
{
    Paravirt *pv = paravirt_of(monitor);
    paravirt_store_events(monitor, true);
    if (pv->shared->pending)
        return 0;
    if (!pv->timer && !(pv->lines & ~pv->closed))
        lab_end(monitor, "the paravirtual guest sleeps, and neither a timer nor a line can wake it");
    else
        lab_wait(monitor);
    return 0;
}

static int64_t call_irq(Monitor *monitor, uint64_t line, uint64_t flags)
{
    Paravirt *pv = paravirt_of(monitor);
    if (!line || line > 15 || line == CASCADE || flags & ~(uint64_t)(LAB_IRQ_ON | LAB_IRQ_LEVEL))
        return -LAB_EINVAL;
    uint16_t bit = (uint16_t)(1u << line);
    pv->lines = flags & LAB_IRQ_ON ? pv->lines | bit : pv->lines & (uint16_t)~bit;
    pv->closed &= (uint16_t)~bit;
    paravirt_set_level(monitor, (uint32_t)line, flags & LAB_IRQ_LEVEL);
    paravirt_update_lines(monitor);
    return 0;
}

static int64_t call_timer(Monitor *monitor, uint64_t ns, uint64_t periodic)
{
    if (periodic > 1 || (ns && (ns < LAB_TIMER_MIN_NS || ns > LAB_TIMER_MAX_NS)))
        return -LAB_EINVAL;
    paravirt_set_timer(monitor, ns, periodic);
    return 0;
}

static void send(Bus *pio, uint8_t byte)
{
    uint64_t status = LSR_THRE;
    for (unsigned i = 0; i < THRE_LOOKS && bus_read(pio, COM1 + COM1_LSR, 1, &status) && !(status & LSR_THRE); i++)
        ;
    bus_write(pio, COM1, 1, byte);
}

static int64_t call_console(Monitor *monitor, uint64_t address, uint64_t size)
{
    uint8_t text[LAB_CONSOLE_MAX];
    if (size > sizeof text)
        return -LAB_E2BIG;
    if (!paravirt_read(monitor, address, text, size))
        return -LAB_EFAULT;
    for (uint64_t i = 0; i < size; i++) {
        if (text[i] == '\n')
            send(monitor->board->pio, '\r');
        send(monitor->board->pio, text[i]);
    }
    return (int64_t)size;
}

static int64_t call_exit(Monitor *monitor, uint64_t status)
{
    if (status > 127)
        return -LAB_EINVAL;
    if (bus_write(monitor->board->pio, EXIT_PORT, 1, status))
        lab_wait(monitor); /* the machine stops before it could wake */
    else
        lab_end(monitor, "hypercall EXIT with status %llu, on a machine without an exit port",
                (unsigned long long)status);
    return 0;
}

static int64_t dispatch(Monitor *monitor, uint64_t number, uint64_t a, uint64_t b)
{
    switch (number) {
    case LAB_HC_SHARED:
        return call_shared(monitor, a);
    case LAB_HC_TRAPS:
        return call_traps(monitor, a, b);
    case LAB_HC_STACK:
        return call_stack(monitor, a);
    case LAB_HC_FLUSH:
    case LAB_HC_EVENTS: /* resume() has a look after every hypercall */
        return 0;
    case LAB_HC_ADDRESS:
        return call_address(monitor, a, b);
    case LAB_HC_IRET:
        return call_iret(monitor);
    case LAB_HC_BLOCK:
        return call_block(monitor);
    case LAB_HC_IRQ:
        return call_irq(monitor, a, b);
    case LAB_HC_TIMER:
        return call_timer(monitor, a, b);
    case LAB_HC_CONSOLE:
        return call_console(monitor, a, b);
    case LAB_HC_EXIT:
        return call_exit(monitor, a);
    default:
        return -LAB_ENOSYS;
    }
}

void paravirt_hypercall(Monitor *monitor)
{
    Paravirt *pv = paravirt_of(monitor);
    LabTrapFrame *trap = monitor->trap;
    uint64_t number = trap->gpr[REG_RAX];
    int64_t result = 0;
    monitor->reason = LAB_HYPERCALL;
    trap->rip += INSTRUCTION;
    if (monitor->cpu.cpl) {
        trap->gpr[REG_RAX] = (uint64_t)-LAB_EPERM;
        return;
    }
    if (number < ARRAY_SIZE(monitor->counters.hypercalls))
        monitor->counters.hypercalls[number]++;
    if (!pv->shared && number != LAB_HC_SHARED)
        result = -LAB_EPERM; /* the shared page comes first */
    else if (pv->shared)
        result = take_queue(monitor);
    if (result >= 0)
        result = dispatch(monitor, number, trap->gpr[REG_RDI], trap->gpr[REG_RSI]);
    if (number != LAB_HC_IRET || result < 0)
        trap->gpr[REG_RAX] = (uint64_t)result;
    if (number == LAB_HC_IRET && result < 0)
        paravirt_store_events(monitor, false);
}
