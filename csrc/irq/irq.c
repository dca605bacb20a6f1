#include <pthread.h>
#include <stdlib.h>

#include "irq/irq.h"

struct IrqLine {
    IrqRouter *router;
    uint32_t gsi;
    uint32_t level;
    IrqLine *next;
};

struct IrqRouter {
    pthread_mutex_t lock;
    uint32_t asserted[IRQ_GSI_COUNT]; /* how many lines hold each GSI up */
    struct {
        IrqSink sink;
        void *opaque;
    } sinks[IRQ_MAX_SINKS];
    uint32_t sink_count;
    IrqLine *lines;
};

IrqRouter *irq_router_new(void)
{
    IrqRouter *router = calloc(1, sizeof *router);
    if (router)
        pthread_mutex_init(&router->lock, NULL);
    return router;
}

void irq_router_free(IrqRouter *router)
{
    if (!router)
        return;
    while (router->lines) {
        IrqLine *line = router->lines;
        router->lines = line->next;
        free(line);
    }
    pthread_mutex_destroy(&router->lock);
    free(router);
}

IrqLine *irq_line_new(IrqRouter *router, uint32_t gsi)
{
    IrqLine *line = calloc(1, sizeof *line);
    if (!line)
        return NULL;
    *line = (IrqLine){.router = router, .gsi = gsi};
    pthread_mutex_lock(&router->lock);
    line->next = router->lines;
    router->lines = line;
    pthread_mutex_unlock(&router->lock);
    return line;
}

/* Router's lock held. A GSI beyond the table is "not routed": the level is kept on the line only. */
static void drive(IrqRouter *router, uint32_t gsi, bool level)
{
    if (gsi >= IRQ_GSI_COUNT)
        return;
    uint32_t before = router->asserted[gsi];
    router->asserted[gsi] += level ? 1 : -1u;
    if ((before == 0) != (router->asserted[gsi] == 0))
        for (uint32_t i = 0; i < router->sink_count; i++)
            router->sinks[i].sink(router->sinks[i].opaque, gsi, level);
}

void irq_line_set(IrqLine *line, bool level)
{
    if (__atomic_load_n(&line->level, __ATOMIC_RELAXED) == level)
        return;
    pthread_mutex_lock(&line->router->lock);
    if (line->level != level) {
        __atomic_store_n(&line->level, level, __ATOMIC_RELAXED);
        drive(line->router, line->gsi, level);
    }
    pthread_mutex_unlock(&line->router->lock);
}

void irq_line_pulse(IrqLine *line)
{
    irq_line_set(line, true);
    irq_line_set(line, false);
}

bool irq_line_level(const IrqLine *line) { return __atomic_load_n(&line->level, __ATOMIC_RELAXED); }

uint32_t irq_line_gsi(const IrqLine *line) { return line->gsi; }

void irq_line_route(IrqLine *line, uint32_t gsi)
{
    pthread_mutex_lock(&line->router->lock);
    if (line->gsi != gsi) {
        if (line->level)
            drive(line->router, line->gsi, false);
        line->gsi = gsi;
        if (line->level)
            drive(line->router, line->gsi, true);
    }
    pthread_mutex_unlock(&line->router->lock);
}

int irq_router_add_sink(IrqRouter *router, IrqSink sink, void *opaque)
{
    int result = -ENOSPC;
    pthread_mutex_lock(&router->lock);
    if (router->sink_count < IRQ_MAX_SINKS) {
        router->sinks[router->sink_count].sink = sink;
        router->sinks[router->sink_count].opaque = opaque;
        router->sink_count++;
        result = 0;
    }
    pthread_mutex_unlock(&router->lock);
    return result;
}

void irq_router_remove_sink(IrqRouter *router, IrqSink sink, void *opaque)
{
    pthread_mutex_lock(&router->lock);
    for (uint32_t i = 0; i < router->sink_count; i++) {
        if (router->sinks[i].sink != sink || router->sinks[i].opaque != opaque)
            continue;
        router->sinks[i] = router->sinks[--router->sink_count];
        break;
    }
    pthread_mutex_unlock(&router->lock);
}

uint32_t irq_router_levels(IrqRouter *router)
{
    uint32_t levels = 0;
    pthread_mutex_lock(&router->lock);
    for (uint32_t gsi = 0; gsi < IRQ_GSI_COUNT; gsi++)
        levels |= (uint32_t)(router->asserted[gsi] != 0) << gsi;
    pthread_mutex_unlock(&router->lock);
    return levels;
}

void intr_pin_set(IntrPin *pin, bool level)
{
    if (__atomic_exchange_n(&pin->level, level, __ATOMIC_SEQ_CST) != level && level && pin->changed)
        pin->changed(__atomic_load_n(&pin->engine, __ATOMIC_SEQ_CST));
}

bool intr_pin_level(const IntrPin *pin) { return __atomic_load_n(&pin->level, __ATOMIC_ACQUIRE); }

int intr_pin_acknowledge(IntrPin *pin) { return pin->acknowledge ? pin->acknowledge(pin->irqchip) : -1; }

void ext_int_set(ExtInt *wire, bool level)
{
    __atomic_store_n(&wire->level, level, __ATOMIC_RELEASE);
    if (wire->changed)
        wire->changed(wire->sink, level);
    else
        intr_pin_set(wire->pin, level);
}

int ext_int_acknowledge(ExtInt *wire) { return wire->acknowledge ? wire->acknowledge(wire->pic) : -1; }

static int acknowledge_directly(void *wire) { return ext_int_acknowledge(wire); }

void ext_int_drive(ExtInt *wire, int (*acknowledge)(void *pic), void *pic)
{
    wire->acknowledge = acknowledge;
    wire->pic = pic;
    if (!acknowledge)
        ext_int_set(wire, false);
}

void ext_int_connect(ExtInt *wire, void (*changed)(void *sink, bool level), void *sink)
{
    wire->changed = changed;
    wire->sink = sink;
    if (!changed) {
        wire->pin->acknowledge = acknowledge_directly;
        wire->pin->irqchip = wire;
    }
    ext_int_set(wire, __atomic_load_n(&wire->level, __ATOMIC_ACQUIRE));
}
