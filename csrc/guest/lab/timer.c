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
#define PIC1_DATA    0x21

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
 * A busy wait with a bound that needs neither interrupts nor the TSC's frequency: how many periods are over by the
 * PIT's own counter, or by the monitor's word that one is. The counter may be right while the interrupt is late: an
 * emulator's thread for timers waits for a busy host.
 */
#define WAIT_SPARE 20u
#define WAIT_LOOKS 20000u
#define LOOK_TURNS 2000u

#ifdef LAB_PARAVIRT

static uint64_t periods_over(void)
{
    return lab_shared.pending >> LAB_EVENT_TIMER & 1 ? UINT64_MAX : 0; /* it came, and was not let in */
}

#else

static uint16_t counter_last;
static uint64_t periods;

static uint64_t periods_over(void)
{
    outb(PIT_COMMAND, 0); /* latch channel 0 */
    uint16_t now = inb(PIT_CHANNEL0);
    now = (uint16_t)(now | inb(PIT_CHANNEL0) << 8);
    periods += now > counter_last; /* it counts down */
    counter_last = now;
    return periods;
}

#endif

bool timer_bounded_wait(uint64_t count)
{
    uint64_t start = ticks, first = periods_over();
    for (unsigned looks = 0; looks < WAIT_LOOKS && periods_over() - first < count + WAIT_SPARE; looks++)
        for (volatile unsigned turns = 0; turns < LOOK_TURNS; turns++)
            if (ticks - start >= count)
                return true;
    return ticks - start >= count;
}
