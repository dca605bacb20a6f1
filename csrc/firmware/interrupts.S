/*
 * Hardware interrupts: IRQ 0-7 at INT 08h-0Fh, IRQ 8-15 at INT 70h-77h (IBM PC/AT Technical Reference, section 5; 8259A data
 * sheet, "OCW2", "OCW3"). The tick is wholly here: it runs 18.2 times a second.
 */
#define EOI             0x20            /* OCW2, non-specific end of interrupt */
#define READ_ISR        0x0b            /* OCW3 */
#define TICKS_PER_DAY   0x1800b0

/* INT 08h, IRQ 0: counts ticks at 40:6C, says at 40:70 that midnight passed, calls the user's INT 1Ch. */
int08_timer:
        pushw   %ax
        pushw   %dx
        pushw   %ds
        movw    $BDA_SEGMENT, %ax
        movw    %ax, %ds
        incl    BDA_TICKS
        cmpl    $TICKS_PER_DAY, BDA_TICKS
        jb      1f
        movl    $0, BDA_TICKS
        movb    $1, BDA_MIDNIGHT
1:      int     $0x1c
        movb    $EOI, %al
        outb    %al, $PIC_MASTER
        popw    %ds
        popw    %dx
        popw    %ax
        iretw

/* INT 09h, IRQ 1: a scan code is offered to INT 15h/AH=4Fh (carry back: take it), then to the service. The service answers
 * in AL whether a key stands for another interrupt: 1Bh Ctrl-Break, 05h Print Screen. */
int09_keyboard:
        pushw   %ax
        inb     $I8042_DATA, %al
        movb    $0x4f, %ah
        stc
        int     $0x15
        jnc     1f
        movb    $0, %ah
        CALL_SERVICE 0x09
        jmp     2f
1:      movb    $0, %al
2:      pushw   %ax
        movb    $EOI, %al
        outb    %al, $PIC_MASTER
        popw    %ax
        cmpb    $0x1b, %al
        jne     3f
        int     $0x1b
3:      cmpb    $0x05, %al
        jne     4f
        int     $0x05
4:      popw    %ax
        iretw

/* IRQ 2-7 that nobody took over. ISR 0: it was spurious (or an INT instruction), and gets no EOI. */
irq_master:
        pushw   %ax
        movb    $READ_ISR, %al
        outb    %al, $PIC_MASTER
        inb     $PIC_MASTER, %al
        testb   %al, %al
        jz      1f
        movb    $EOI, %al
        outb    %al, $PIC_MASTER
1:      popw    %ax
        iretw

/* IRQ 9-15 likewise; a spurious one of the slave is still a real IRQ 2 of the master. */
irq_slave:
        pushw   %ax
        movb    $READ_ISR, %al
        outb    %al, $PIC_SLAVE
        inb     $PIC_SLAVE, %al
        testb   %al, %al
        jz      1f
        movb    $EOI, %al
        outb    %al, $PIC_SLAVE
1:      popw    %ax
        jmp     irq_master

/* INT 70h, IRQ 8: reading register C acknowledges (MC146818 data sheet); an alarm calls INT 4Ah. */
int70_rtc:
        pushw   %ax
        movb    $0x0c, %al
        outb    %al, $RTC
        inb     $(RTC + 1), %al
        testb   $0x20, %al
        jz      1f
        int     $0x4a
1:      movb    $EOI, %al
        outb    %al, $PIC_SLAVE
        outb    %al, $PIC_MASTER
        popw    %ax
        iretw
