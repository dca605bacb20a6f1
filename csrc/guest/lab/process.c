/*
 * Processes: one address space and one kernel stack each, taken in turn. Number 0 is the kernel's own thread, which
 * runs when no other can. A process gives the CPU up by itself, or at a tick (syscall.c) on its way back to ring 3;
 * never inside the kernel.
 */
#include "lab_kernel.h"

static Process processes[PROCESS_MAX];
static uint64_t switches;
unsigned process_current;
volatile bool process_resched;

uint64_t process_root(void) { return process_current ? processes[process_current].root : paging_root(); }

uint64_t process_root_of(unsigned process) { return processes[process].root; }

uint64_t process_switches(void) { return switches; }

int64_t process_result(unsigned process) { return processes[process].result; }

static void switch_to(unsigned next)
{
    unsigned last = process_current;
    if (next == last)
        return;
    Process *to = &processes[next];
    process_current = next;
    switches++;
    if (next)
        address_space_load(to->root, to->stack + PROCESS_STACK);
    else
        address_space_load(paging_root(), (uint64_t)kernel_stack_top);
    switch_stacks(&processes[last].rsp, to->rsp);
}

static unsigned next_ready(void)
{
    for (unsigned i = 1; i <= PROCESS_MAX; i++) {
        unsigned candidate = (process_current + i) % PROCESS_MAX;
        if (candidate && processes[candidate].state == PROCESS_READY)
            return candidate;
    }
    return 0;
}

void process_yield(void)
{
    process_resched = false;
    switch_to(next_ready());
}

/* A slot whose stack holds a frame to leave by, and under it what switch_stacks takes. */
static unsigned slot_new(const TrapFrame *frame, uint64_t root)
{
    unsigned n = 1;
    while (n < PROCESS_MAX && processes[n].state != PROCESS_FREE)
        n++;
    if (n == PROCESS_MAX)
        return 0;
    Process *process = &processes[n];
    if (!process->stack)
        process->stack = (uint64_t)pages_alloc(PROCESS_STACK / PAGE_SIZE);
    if (!process->stack)
        return 0;
    TrapFrame *top = (TrapFrame *)(process->stack + PROCESS_STACK) - 1;
    *top = *frame;
    uint64_t *below = (uint64_t *)top - 7; /* R15 R14 R13 R12 RBP RBX, and where to return to */
    memset(below, 0, 6 * sizeof(*below));
    below[6] = (uint64_t)trap_return;
    process->rsp = (uint64_t)below;
    process->root = root;
    process->parent = process_current;
    process->result = 0;
    process->state = PROCESS_READY;
    return n;
}

unsigned process_new(uint64_t rip, uint64_t arg0, uint64_t arg1, uint64_t arg2)
{
    TrapFrame frame = {
        .rdi = arg0,
        .rsi = arg1,
        .rdx = arg2,
        .rip = rip,
        .cs = SEL_USER_CODE,
        .rflags = RFLAGS_IF | 2,
        .rsp = USER_STACK_TOP - 16,
        .ss = SEL_USER_DATA,
    };
    uint64_t root = space_new();
    unsigned n = root ? slot_new(&frame, root) : 0;
    if (root && !n)
        space_free(root);
    return n;
}

unsigned process_fork(const TrapFrame *frame)
{
    uint64_t root = space_copy(processes[process_current].root);
    unsigned n = root ? slot_new(frame, root) : 0;
    if (root && !n)
        space_free(root);
    if (n)
        ((TrapFrame *)(processes[n].stack + PROCESS_STACK) - 1)->rax = 0;
    return n;
}

static void reap(unsigned n)
{
    space_free(processes[n].root);
    processes[n].state = PROCESS_FREE;
}

void process_exit(int64_t result)
{
    Process *process = &processes[process_current];
    process->result = result;
    process->state = PROCESS_DONE;
    if (process->parent && processes[process->parent].state == PROCESS_WAITING)
        processes[process->parent].state = PROCESS_READY;
    for (;;) /* nobody makes it ready again */
        process_yield();
}

/* Ends all, without a word to them: their stacks and spaces are not in use while the kernel's thread runs. */
void process_end_all(int64_t result)
{
    for (unsigned i = 1; i < PROCESS_MAX; i++) {
        if (processes[i].state != PROCESS_FREE && processes[i].state != PROCESS_DONE) {
            processes[i].state = PROCESS_DONE;
            processes[i].result = result;
        }
    }
}

int64_t process_wait(unsigned child)
{
    if (!child || child >= PROCESS_MAX || processes[child].parent != process_current ||
        processes[child].state == PROCESS_FREE)
        return -10; /* ECHILD */
    while (processes[child].state != PROCESS_DONE) {
        processes[process_current].state = PROCESS_WAITING;
        process_yield();
    }
    int64_t result = processes[child].result;
    reap(child);
    return result;
}

void process_run(void)
{
    unsigned next;
    while ((next = next_ready()))
        switch_to(next);
    for (unsigned i = 1; i < PROCESS_MAX; i++)
        if (processes[i].state != PROCESS_FREE)
            reap(i); /* done, or waiting for what cannot come */
}
