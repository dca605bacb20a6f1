/*
 * From reset to the boot sector: a stack, the power-on service (Python sets up vectors, BIOS data area, PIC, PIT, PCI), INT 19h.
 */
post:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $BOOT_STACK, %sp
        CALL_SERVICE SERVICE_POST
        sti
        int     $0x19

/* INT 19h, boot: the service loads a boot sector and makes the IRET go there. It starts with a fresh stack. */
int19_boot:
        movw    $0x19, %bx
        jmp     1f
/* INT 18h, no boot: INT 19h has failed, or a boot sector gave up; the next device is tried. */
int18_no_boot:
        movw    $0x18, %bx
1:      cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ss
        movw    $BOOT_STACK, %sp
        pushfw
        pushw   %cs
        pushw   $halt
        pushal
        pushw   %ds
        pushw   %es
        jmp     service_call

halt:
        sti
        hlt
        jmp     halt
