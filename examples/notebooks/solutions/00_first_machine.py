"""Answers for 00_first_machine.ipynb: one that its check must take, and some that it must refuse."""

# %% exercise 1: solution
PROGRAM = """
    mov dx, 0x3F8
    mov bl, 100
    div bl              # AL = hundreds, AH = the rest
    mov bh, ah
    add al, '0'
    out dx, al
    mov al, bh
    mov ah, 0
    mov bl, 10
    div bl
    mov bh, ah
    add al, '0'
    out dx, al
    mov al, bh
    add al, '0'
    out dx, al
    hlt
"""


# %% exercise 1: wrong, digits are not letters: 0 is sent as the byte 0
PROGRAM = """
    mov dx, 0x3F8
    mov bl, 100
    div bl
    out dx, al
    hlt
"""


# %% exercise 1: wrong, the last digit comes first
PROGRAM = """
    mov dx, 0x3F8
    mov cx, 3
again:
    mov bl, 10
    div bl
    mov bh, al
    mov al, ah
    add al, '0'
    out dx, al
    mov al, bh
    mov ah, 0
    loop again
    hlt
"""


# %% exercise 1: wrong, it never halts
PROGRAM = """
again:
    jmp again
"""
