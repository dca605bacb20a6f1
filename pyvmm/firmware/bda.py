"""The BIOS data area at 0040:0000: offsets and sizes.

Sources: IBM PC/AT Technical Reference (1985), section 5, "ROM BIOS data areas"; the PS/2 and PC BIOS Interface
Technical Reference (1987), section 3; Ralf Brown's Interrupt List, MEMORY.LST. Only the fields that this BIOS keeps.
"""

from __future__ import annotations

from typing import Final

SEGMENT: Final = 0x40
BASE: Final = SEGMENT << 4

COM_PORTS: Final = 0x00
"""Four words."""
LPT_PORTS: Final = 0x08
EBDA_SEGMENT: Final = 0x0E
EQUIPMENT: Final = 0x10
MEMORY_KIB: Final = 0x13
SHIFT_FLAGS: Final = 0x17
SHIFT_FLAGS_2: Final = 0x18
ALT_NUMBER: Final = 0x19
KEYBOARD_HEAD: Final = 0x1A
KEYBOARD_TAIL: Final = 0x1C
KEYBOARD_BUFFER: Final = 0x1E
KEYBOARD_BUFFER_BYTES: Final = 32
FLOPPY_STATUS: Final = 0x41
VIDEO_MODE: Final = 0x49
VIDEO_COLUMNS: Final = 0x4A
VIDEO_PAGE_SIZE: Final = 0x4C
VIDEO_PAGE_OFFSET: Final = 0x4E
CURSOR_POSITION: Final = 0x50
"""One word (row << 8 | column) for each of eight pages."""
CURSOR_SHAPE: Final = 0x60
VIDEO_PAGE: Final = 0x62
CRTC_PORT: Final = 0x63
CRT_MODE_CONTROL: Final = 0x65
CRT_PALETTE: Final = 0x66
RESUME_VECTOR: Final = 0x67
"""Far pointer that POST jumps to when CMOS byte 0Fh (shutdown status) asks for it."""
TICKS: Final = 0x6C
MIDNIGHT: Final = 0x70
BREAK_FLAG: Final = 0x71
RESET_FLAG: Final = 0x72
DISK_STATUS: Final = 0x74
DISK_COUNT: Final = 0x75
LPT_TIMEOUT: Final = 0x78
COM_TIMEOUT: Final = 0x7C
KEYBOARD_START: Final = 0x80
KEYBOARD_END: Final = 0x82
VIDEO_ROWS: Final = 0x84
"""Rows minus one."""
CHARACTER_HEIGHT: Final = 0x85
VIDEO_CONTROL: Final = 0x87
VIDEO_SWITCHES: Final = 0x88
VIDEO_FLAGS: Final = 0x89
KEYBOARD_STATUS: Final = 0x96
KEYBOARD_LEDS: Final = 0x97
SIZE: Final = 0x100
