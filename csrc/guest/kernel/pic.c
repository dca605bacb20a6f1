/*
 * The two 8259A interrupt controllers of a PC (Intel 8259A data sheet). IRQ 0-7 become vectors 20h-27h, IRQ 8-15
 * become 28h-2Fh: where the BIOS leaves them they would look like CPU exceptions. Everything is masked until a
 * driver asks.
 */
#include "kernel.h"
#include "x86.h"

#define PIC1          0x20
#define PIC2          0xa0
#define PIC_DATA      1
#define ICW1_INIT     0x11 /* edge triggered, cascaded, ICW4 follows */
#define ICW4_8086     0x01
#define OCW2_EOI      0x20
#define OCW3_READ_ISR 0x0b
#define CASCADE_IRQ   2
#define ELCR1         0x4d0 /* edge/level control, PIIX 82371SB §2.2.3: one bit per IRQ */

static uint16_t mask = 0xffff;

static void write_mask(void)
{
    outb(PIC1 + PIC_DATA, (uint8_t)mask);
    outb(PIC2 + PIC_DATA, (uint8_t)(mask >> 8));
}

void pic_init(void)
{
    outb(PIC1, ICW1_INIT);
    outb(PIC2, ICW1_INIT);
    outb(PIC1 + PIC_DATA, VECTOR_IRQ_BASE); /* ICW2: vector of the first line */
    outb(PIC2 + PIC_DATA, VECTOR_IRQ_BASE + 8);
    outb(PIC1 + PIC_DATA, 1 << CASCADE_IRQ); /* ICW3: the second PIC hangs on line 2 */
    outb(PIC2 + PIC_DATA, CASCADE_IRQ);
    outb(PIC1 + PIC_DATA, ICW4_8086);
    outb(PIC2 + PIC_DATA, ICW4_8086);
    mask = (uint16_t) ~(1u << CASCADE_IRQ);
    write_mask();
}

void pic_unmask(unsigned irq)
{
    mask &= (uint16_t) ~(1u << irq);
    write_mask();
}

/*
 * PCI interrupts are level triggered (PCI 3.0 §2.2.6). Firmware sets this; a kernel started without firmware does
 * it here.
 */
void pic_set_level(unsigned irq)
{
    uint16_t port = irq < 8 ? ELCR1 : ELCR1 + 1;
    outb(port, (uint8_t)(inb(port) | 1u << (irq & 7)));
}

/* A request that goes away before the CPU asks for its vector is answered as line 7, with no bit set in the ISR. */
bool pic_spurious(unsigned irq)
{
    if (irq != 7 && irq != 15)
        return false;
    uint16_t port = irq == 7 ? PIC1 : PIC2;
    outb(port, OCW3_READ_ISR);
    if (inb(port) & 0x80)
        return false;
    if (irq == 15)
        outb(PIC1, OCW2_EOI); /* the first PIC did see its cascade line */
    return true;
}

void pic_end_of_interrupt(unsigned irq)
{
    if (irq >= 8)
        outb(PIC2, OCW2_EOI);
    outb(PIC1, OCW2_EOI);
}
