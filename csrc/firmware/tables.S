/*
 * Tables and entry points at addresses fixed since the PC/AT.
 */
        .org 0xe6f5, 0
/* INT 15h/AH=C0h: bytes that follow, model, submodel, revision, features. Feature 1: second 8259, RTC, INT 15h/AH=4Fh called,
 * extended BIOS data area. Feature 2: INT 16h/AH=09h is not there, nothing else either. */
system_configuration:
        .word   8
        .byte   0xfc, 0x01, 0x00
        .byte   0x74, 0x00, 0x00, 0x00, 0x00

        .org 0xefc7, 0
/* INT 1Eh: 1.44 MB, 18 sectors of 512 bytes on a track. */
diskette_parameters:
        .byte   0xdf, 0x02, 0x25, 0x02, 18, 0x1b, 0xff, 0x6c, 0xf6, 0x0f, 0x08

        .org 0xff53, 0
        iretw

        .org 0xfff0, 0
        ljmp    $0xf000, $post
        .org 0xfff5, 0
        .ascii  "11/22/26"
        .org 0xfffe, 0
        .byte   0xfc                    /* PC/AT */
        .byte   0
