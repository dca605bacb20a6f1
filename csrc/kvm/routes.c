/*
 * KVM's routing table (KVM_SET_GSI_ROUTING, api.rst 4.52): what each GSI is for KVM_IRQ_LINE and irqfds.
 *
 * The board's GSI 0 to 15 are the ISA bus's IRQs: each goes to the 8259 pair and to the I/O APIC's input of its
 * number; but IRQ 0 to input 2, where firmware tables say so (ACPI's MADT, interrupt source override 0 -> 2), and
 * GSI 2, which is the cascade of the 8259s, nowhere. 16 to 23 go to the I/O APIC.
 *
 * With a split irqchip nobody pulls GSI 0 to 23: there a level-triggered input of the board's I/O APIC has its
 * message, which tells KVM of which vectors it must report the end (split.c).
 *
 * GSIs from 24 on are messages of devices' vectors, each with an eventfd (KVM_IRQFD, 4.75). The table is replaced
 * as a whole, which waits for every vCPU that reads the old one; so an entry stays in it when its irqfd goes, and
 * serves again if the same message comes back.
 *
 * Lock: routes_lock, the last of all.
 */
#include "kvm/vm.h"

enum { CASCADE = 2, IOAPIC_IRQ0_PIN = 2 };

typedef struct Table {
    struct kvm_irq_routing header;
    struct kvm_irq_routing_entry entries[2 * IRQ_GSI_COUNT + KVM_MSI_ROUTES];
} Table;

static void add_pin(Table *table, uint32_t gsi, uint32_t irqchip, uint32_t pin)
{
    table->entries[table->header.nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = irqchip, .pin = pin}};
}

static void add_pins(Table *table)
{
    for (uint32_t gsi = 0; gsi < IRQ_GSI_COUNT; gsi++) {
        if (gsi == CASCADE)
            continue;
        if (gsi < 16)
            add_pin(table, gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi & 7);
        add_pin(table, gsi, KVM_IRQCHIP_IOAPIC, gsi ? gsi : IOAPIC_IRQ0_PIN);
    }
}

static void add_message(Table *table, uint32_t gsi, const MsiMessage *message)
{
    table->entries[table->header.nr++] =
        (struct kvm_irq_routing_entry){.gsi = gsi,
                                       .type = KVM_IRQ_ROUTING_MSI,
                                       .u.msi = {.address_lo = (uint32_t)message->address,
                                                 .address_hi = (uint32_t)(message->address >> 32),
                                                 .data = message->data}};
}

/* routes_lock held, or the VM is being made. */
int kvm_set_routing(KvmVm *vm)
{
    Table table = {0};
    if (vm->irqchip == IRQCHIP_KERNEL)
        add_pins(&table);
    for (uint32_t pin = 0; pin < IRQ_GSI_COUNT; pin++)
        if (vm->pin_routes[pin].known)
            add_message(&table, pin, &vm->pin_routes[pin].message);
    for (uint32_t route = 0; route < KVM_MSI_ROUTES; route++)
        if (vm->msi_routes[route].known)
            add_message(&table, IRQ_GSI_COUNT + route, &vm->msi_routes[route].message);
    return kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table);
}

/* ---- Messages by eventfd ------------------------------------------------------------------------------------ */

static bool same(const MsiMessage *a, const MsiMessage *b)
{
    return a->address == b->address && a->data == b->data;
}

/* NULL: none. */
static int set_message(KvmVm *vm, KvmMsiRoute *route, const MsiMessage *message)
{
    int result = 0;
    pthread_mutex_lock(&vm->routes_lock);
    if (message ? !route->known || !same(&route->message, message) : route->known) {
        KvmMsiRoute before = *route;
        if (message)
            route->message = *message;
        route->known = message != NULL;
        result = kvm_set_routing(vm);
        if (result < 0)
            *route = before;
    }
    pthread_mutex_unlock(&vm->routes_lock);
    return result;
}

void kvm_set_pin_route(KvmVm *vm, uint32_t pin, const MsiMessage *message)
{
    set_message(vm, &vm->pin_routes[pin], message);
}

static int set_irqfd(KvmVm *vm, int route, int fd, uint32_t flags)
{
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = IRQ_GSI_COUNT + (uint32_t)route, .flags = flags};
    return kvm_ioctl(vm->fd, KVM_IRQFD, &irqfd);
}

/* A free one: best with this message, then without any, then any. */
static int find_free(const KvmVm *vm, const MsiMessage *message)
{
    int best = -ENOSPC;
    for (int i = 0; i < KVM_MSI_ROUTES; i++) {
        const KvmMsiRoute *route = &vm->msi_routes[i];
        if (route->used)
            continue;
        if (route->known && same(&route->message, message))
            return i;
        if (best < 0 || (vm->msi_routes[best].known && !route->known))
            best = i;
    }
    return best;
}

static int add_irqfd(void *engine, int fd, const MsiMessage *message)
{
    KvmVm *vm = engine;
    int route = find_free(vm, message);
    if (route < 0)
        return route;
    int result = set_message(vm, &vm->msi_routes[route], message);
    if (result == 0)
        result = set_irqfd(vm, route, fd, 0);
    if (result < 0)
        return result;
    vm->msi_routes[route].used = true;
    return route;
}

static int change_irqfd(void *engine, int route, const MsiMessage *message)
{
    KvmVm *vm = engine;
    return set_message(vm, &vm->msi_routes[route], message);
}

static void remove_irqfd(void *engine, int route, int fd)
{
    KvmVm *vm = engine;
    set_irqfd(vm, route, fd, KVM_IRQFD_FLAG_DEASSIGN);
    vm->msi_routes[route].used = false;
}

const IrqFdOps KVM_IRQFDS = {.add = add_irqfd, .change = change_irqfd, .remove = remove_irqfd};
