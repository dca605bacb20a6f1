"""INT 10h, the screen model, and what a serial terminal shows of it."""

from __future__ import annotations

import pytest
from bios_machine import Caller


class Terminal:
    """As much of a terminal as the BIOS uses (ECMA-48): 25 lines of 80 columns, the top line scrolled off is kept."""

    def __init__(self) -> None:
        self.rows = [[" "] * 80 for _ in range(26)]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        while text:
            if text.startswith("\x1b["):
                end = next(i for i in range(2, len(text)) if text[i].isalpha())
                self.control(text[2:end], text[end])
                text = text[end + 1 :]
                continue
            character, text = text[0], text[1:]
            if character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1
                if self.row == len(self.rows):
                    self.rows = [*self.rows[1:], [" "] * 80]
                    self.row -= 1
            elif character == "\b":
                self.column -= 1
            elif character != "\a":
                self.rows[self.row][self.column] = character
                self.column += 1

    def control(self, arguments: str, final: str) -> None:
        if final == "H":
            row, column = (int(n) for n in (arguments or "1;1").split(";"))
            self.row, self.column = row - 1, column - 1
        elif final == "J":
            self.rows = [[" "] * 80 for _ in range(26)]
        elif final == "M":
            del self.rows[self.row]
            self.rows.append([" "] * 80)
        else:
            assert final == "m", (arguments, final)

    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip("\n")


def shown(guest: Caller) -> str:
    terminal = Terminal()
    terminal.feed(guest.sent)
    return terminal.text()


def test_teletype_stays_plain() -> None:
    guest = Caller()
    guest.print("Hello, world\r\nsecond line\r\n")
    assert guest.sent == "Hello, world\r\nsecond line\r\n"
    assert guest.bios.screen.text() == "Hello, world\nsecond line"
    frame = guest.service(0x10, ax=0x0300)
    assert (frame.dh, frame.dl) == (2, 0)


def test_scrolling_log_stays_plain() -> None:
    guest = Caller()
    text = "".join(f"line {i}\r\n" for i in range(60))
    guest.print(text)
    assert guest.sent == text
    assert guest.bios.screen.text().split("\n")[0] == "line 36"


def test_characters_by_cursor_and_write_stay_plain() -> None:
    """GRUB writes so: INT 10h/AH=09h, then AH=02h one cell on."""
    guest = Caller()
    for column, code in enumerate(b"Welcome"):
        guest.service(0x10, ax=0x0900 | code, bx=7, cx=1)
        guest.service(0x10, ax=0x0200, dx=column + 1)
    assert guest.sent == "Welcome"


def test_full_line_wraps_once() -> None:
    guest = Caller()
    guest.print("x" * 81)
    assert shown(guest) == guest.bios.screen.text() == "x" * 80 + "\nx"


def test_erasing_with_backspace() -> None:
    guest = Caller()
    guest.print("abc\b \b\b \bz")
    assert shown(guest) == guest.bios.screen.text() == "az"


def menu(guest: Caller, chosen: int) -> None:
    for row in range(3):
        for column, code in enumerate(b"* entry" if row == chosen else b"  entry"):
            guest.service(0x10, ax=0x0200, dx=(row + 5) << 8 | column + 10)
            guest.service(0x10, ax=0x0900 | code, bx=0x70 if row == chosen else 7, cx=1)


def test_menu_is_addressed_and_clears_back_to_plain() -> None:
    guest = Caller()
    guest.print("boot\r\n")
    menu(guest, 0)
    menu(guest, 1)
    assert shown(guest) == guest.bios.screen.text()
    assert "\x1b[0;30;47m" in guest.sent
    guest.service(0x10, ax=0x0003)
    before = len(guest.sent)
    guest.print("Loading\r\n")
    assert guest.sent[before:] == "Loading\r\n"


def test_scroll_in_addressed_mode() -> None:
    guest = Caller()
    menu(guest, 0)
    menu(guest, 1)
    guest.service(0x10, ax=0x0200, dx=24 << 8)
    guest.print("bottom\r\nnext\r\nlast")
    assert shown(guest) == guest.bios.screen.text()
    guest.service(0x10, ax=0x0701, bx=0x0700, cx=0x0000, dx=0x184F)
    assert shown(guest) == guest.bios.screen.text()
    guest.service(0x10, ax=0x0602, bx=0x0700, cx=0x0205, dx=0x0A20)
    assert shown(guest) == guest.bios.screen.text()


@pytest.mark.parametrize(("register", "value"), [(1, 0x01), (2, 0xC7), (3, 0x07), (4, 0x0B)])
def test_another_owner_of_com1_silences_the_mirror(register: int, value: int) -> None:
    guest = Caller()
    guest.print("first\r\n")
    guest.ports.uart[register] = value  # interrupts on, FIFO on (GRUB), two stop bits, OUT2
    guest.print("second\r\n")
    assert guest.sent == "first\r\n"
    guest.type(b"k")
    assert guest.service(0x16, ax=0x0100).zero
    assert "second" in guest.bios.screen.text()


def test_write_string_modes_and_queries() -> None:
    guest = Caller()
    guest.memory.write(0x5000, b"text")
    guest.service(0x10, ax=0x1301, bx=0x001E, cx=4, dx=0x0302, bp=0x5000)
    assert guest.bios.screen.line(3)[:8] == "  text  "
    assert guest.memory.read(0x450, 2) == bytes((6, 3))
    frame = guest.service(0x10, ax=0x0F00)
    assert (frame.al, frame.ah) == (3, 80)
    assert guest.service(0x10, ax=0x4F00).ax == 0x4F00
    assert guest.service(0x10, ax=0x1A00).al == 0x1A
    guest.service(0x10, ax=0x0200, dx=0x0302)
    frame = guest.service(0x10, ax=0x0800)
    assert (frame.al, frame.ah) == (ord("t"), 0x1E)
    guest.service(0x10, ax=0x0013)
    assert guest.service(0x10, ax=0x0F00).al == 3


def test_box_drawing_and_cp437() -> None:
    guest = Caller()
    guest.service(0x10, ax=0x0EC9)
    guest.service(0x10, ax=0x0A10, cx=1)
    assert guest.sent == "╔►"
