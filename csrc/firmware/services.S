/*
 * The way out to Python. A stub saves every register on the caller's stack, so that a service sees and changes them there
 * (pyvmm/firmware/frame.py), and never needs to touch the vCPU itself:
 *
 *      SS:SP -> action ES DS EDI ESI EBP ESP EBX EDX ECX EAX | IP CS FLAGS
 *                                                            ^ pushed by INT
 * The service writes `action`: ACTION_RETURN leaves by IRET; ACTION_WAIT sleeps until the next interrupt and asks again (a key
 * is awaited); ACTION_POLL lets interrupts in and asks again (a short delay).
 */
        .macro SERVICE number
service_\number:
        pushal
        pushw   %ds
        pushw   %es
        movw    $\number, %bx
        jmp     service_call
        .endm

        SERVICE 0x00
        SERVICE 0x06
        SERVICE 0x09
        SERVICE 0x10
        SERVICE 0x11
        SERVICE 0x12
        SERVICE 0x13
        SERVICE 0x14
        SERVICE 0x15
        SERVICE 0x16
        SERVICE 0x17
        SERVICE 0x18
        SERVICE 0x19
        SERVICE 0x1a
        SERVICE SERVICE_POST

service_call:
        pushw   $ACTION_RETURN
        movw    $FIRMWARE_SERVICE, %dx
        movw    %bx, %ax
        outw    %ax, %dx
        jmp     1f                      /* the vCPU stops between these two */
1:      popw    %ax
        cmpw    $ACTION_WAIT, %ax
        je      2f
        cmpw    $ACTION_POLL, %ax
        je      3f
        popw    %es
        popw    %ds
        popal
        iretw
2:      sti                             /* its shadow covers HLT: no wake-up is lost in between */
        hlt
        cli
        jmp     service_call
3:      sti
        nop
        cli
        jmp     service_call

        /* Calls a service from within the ROM: makes the frame that INT would. */
        .macro CALL_SERVICE number
        pushfw
        pushw   %cs
        call    service_\number
        .endm
