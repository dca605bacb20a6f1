/*
 * Ticks: channel 0 of the 8254 (data sheet: mode 2) on IRQ 0, or the monitor's virtual timer. They come only while
 * a workload wants them, so that the others' counters are their own. And the wait that ends even when no tick
 * comes.
 */
#include "lab_kernel.h"

#define PIT_CHANNEL0 0x40
#define PIT_COMMAND  0x43
#define PIT_HZ       1193182
#define PIT_MODE2    0x34 /* channel 0, low then high byte, rate generator, binary */
#define PIC1_COMMAND 0x20
#define PIC1_DATA    0x21

/* 8259A data sheet, operation command word 3: what the next read of the command port gives. */
#define OCW3_READ_IRR 0x0a
#define OCW3_READ_ISR 0x0b

static volatile uint64_t ticks;
static void (*on_tick)(void);

static void timer_interrupt(void)
{
    ticks++;
    if (on_tick)
        on_tick();
}

uint64_t timer_ticks(void) { return ticks; }

void timer_on_tick(void (*f)(void)) { on_tick = f; }

#ifdef LAB_PARAVIRT

void timer_init(void) { trap_set_irq(LAB_EVENT_TIMER, timer_interrupt); }

void timer_start(uint64_t hz) { hypercall(LAB_HC_TIMER, 1000000000 / hz, 1, 0); }

void timer_stop(void) { hypercall(LAB_HC_TIMER, 0, 0, 0); }

#else

void timer_init(void) {}

void timer_start(uint64_t hz)
{
    uint16_t divisor = (uint16_t)((PIT_HZ + hz / 2) / hz);
    outb(PIT_COMMAND, PIT_MODE2);
    outb(PIT_CHANNEL0, (uint8_t)divisor);
    outb(PIT_CHANNEL0, (uint8_t)(divisor >> 8));
    trap_set_irq(0, timer_interrupt);
}

void timer_stop(void) { outb(PIC1_DATA, inb(PIC1_DATA) | 1); }

#endif

/*
 * A busy wait with a bound that needs no clock: an interrupt that is requested, look after look, and not let in
 * does not come. Time would not do for a bound: an emulator's thread for timers waits for a busy host, while the
 * guest runs on.
 */
#define WAITING_LOOKS 50u
#define WAIT_LOOKS    100000u
#define LOOK_TURNS    2000u

#ifdef LAB_PARAVIRT

static bool tick_waits(void) { return lab_shared.pending >> LAB_EVENT_TIMER & 1; }

#else

static uint8_t read_pic(uint8_t command)
{
    outb(PIC1_COMMAND, command);
    return inb(PIC1_COMMAND);
}

/* In service also is waiting: a monitor may have taken it for a virtual processor whose flag is off. */
static bool tick_waits(void) { return (read_pic(OCW3_READ_IRR) | read_pic(OCW3_READ_ISR)) & 1; }

#endif

bool timer_bounded_wait(uint64_t count)
{
    uint64_t start = ticks, last = ticks;
    unsigned waiting = 0;
    for (unsigned looks = 0; looks < WAIT_LOOKS && waiting < WAITING_LOOKS; looks++) {
        waiting = tick_waits() && ticks == last ? waiting + 1 : 0;
        last = ticks;
        for (volatile unsigned turns = 0; turns < LOOK_TURNS; turns++)
            if (ticks - start >= count)
                return true;
    }
    return ticks - start >= count;
}
