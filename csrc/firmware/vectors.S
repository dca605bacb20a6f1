/*
 * What Python reads first: a signature, the service port that this ROM was built for, and (vector, offset) pairs for the IVT.
 * Vectors that are not listed point to the lone IRET at FF53.
 */
        .macro VECTOR number, handler
        .word \number, \handler
        .endm

        .ascii ROM_SIGNATURE
        .word FIRMWARE_SERVICE
        .word (vectors_end - vectors) / 4
vectors:
        VECTOR 0x00, service_0x00       /* #DE */
        VECTOR 0x06, service_0x06       /* #UD */
        VECTOR 0x08, int08_timer
        VECTOR 0x09, int09_keyboard
        VECTOR 0x0a, irq_master
        VECTOR 0x0b, irq_master
        VECTOR 0x0c, irq_master
        VECTOR 0x0d, irq_master
        VECTOR 0x0e, irq_master
        VECTOR 0x0f, irq_master
        VECTOR 0x10, service_0x10
        VECTOR 0x11, service_0x11
        VECTOR 0x12, service_0x12
        VECTOR 0x13, service_0x13
        VECTOR 0x14, service_0x14
        VECTOR 0x15, service_0x15
        VECTOR 0x16, service_0x16
        VECTOR 0x17, service_0x17
        VECTOR 0x18, int18_no_boot
        VECTOR 0x19, int19_boot
        VECTOR 0x1a, service_0x1a
        VECTOR 0x1e, diskette_parameters
        VECTOR 0x70, int70_rtc
        VECTOR 0x71, irq_slave
        VECTOR 0x72, irq_slave
        VECTOR 0x73, irq_slave
        VECTOR 0x74, irq_slave
        VECTOR 0x75, irq_slave
        VECTOR 0x76, irq_slave
        VECTOR 0x77, irq_slave
vectors_end:
