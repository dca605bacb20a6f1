"""The VNC server against a client written from RFC 6143, and against clients that people use."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyvmm.display import rfb, vnc
from pyvmm.display.picture import Picture
from pyvmm.errors import ConfigError

WIDTH, HEIGHT = 200, 130


class Display:
    """A screen that tests draw on, a keyboard and a mouse that remember."""

    def __init__(self) -> None:
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
        self.pixels = (x << 16 | y << 8 | (x * y & 0xFF)).astype(np.uint32)
        self.codes: list[bytes] = []
        self.moves: list[tuple[int, int, int, int]] = []
        self.room = 10_000

    def picture(self) -> Picture:
        height, width = self.pixels.shape
        return Picture(width, height, self.pixels.tobytes())

    def key(self, codes: bytes) -> bool:
        if self.room:
            self.room -= 1
            self.codes.append(codes)
        return bool(self.room)

    def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        self.moves.append((dx, dy, dz, buttons))


@pytest.fixture
def display() -> Display:
    return Display()


@pytest.fixture
def server(display: Display) -> Iterator[vnc.VncServer]:
    with vnc.VncServer(display, display, display, ("127.0.0.1", 0), name="guest") as made:  # type: ignore[arg-type]
        yield made


class Client:
    """RFB 3.8, or an older version, by hand."""

    def __init__(self, server: vnc.VncServer, version: bytes = b"003.008") -> None:
        self.socket = socket.create_connection(server.address, timeout=10)
        assert self.read(12) == b"RFB 003.008\n"
        self.socket.sendall(b"RFB " + version + b"\n")
        self.inflate = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError(f"{count} bytes expected, {len(data)} came")
            data += part
        return data

    def start(self) -> tuple[int, int, str]:
        assert self.read(2) == b"\x01\x01"
        self.socket.sendall(b"\x01")
        assert self.read(4) == bytes(4)
        return self.init()

    def init(self) -> tuple[int, int, str]:
        self.socket.sendall(b"\x01")
        width, height = struct.unpack(">HH", self.read(4))
        self.read(16)
        return width, height, self.read(struct.unpack(">I", self.read(4))[0]).decode()

    def set_format(self, form: rfb.PixelFormat) -> None:
        self.socket.sendall(bytes(4) + form.pack())

    def set_encodings(self, *numbers: int) -> None:
        self.socket.sendall(struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers))

    def request(self, incremental: bool) -> None:
        self.socket.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, WIDTH, HEIGHT))

    def update(self, canvas: np.ndarray, form: rfb.PixelFormat) -> list[tuple[int, int, int, int, int]]:
        """Take one FramebufferUpdate into `canvas`; what rectangles came."""
        kind, count = struct.unpack(">BxH", self.read(4))
        assert kind == 0
        found = []
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self.read(12))
            found.append((x, y, width, height, encoding))
            order = ">" if form.big_endian else "<"
            kind_of = np.dtype(f"{order}u{form.bits // 8}")
            if encoding == rfb.RAW:
                data = self.read(width * height * form.bits // 8)
                canvas[y : y + height, x : x + width] = np.frombuffer(data, kind_of).reshape(height, width)
            elif encoding == rfb.ZRLE:
                data = self.inflate.decompress(self.read(struct.unpack(">I", self.read(4))[0]))
                self.tiles(canvas[y : y + height, x : x + width], data, form)
        return found

    def tiles(self, area: np.ndarray, data: bytes, form: rfb.PixelFormat) -> None:
        size = 3 if form.bits == 32 else form.bits // 8
        at = 0

        def pixel(raw: bytes) -> int:
            return int.from_bytes(raw, "big" if form.big_endian else "little")

        for y in range(0, area.shape[0], 64):
            for x in range(0, area.shape[1], 64):
                tile = area[y : y + 64, x : x + 64]
                kind = data[at]
                at += 1
                if kind == 1:
                    tile[:] = pixel(data[at : at + size])
                    at += size
                else:
                    assert kind == 0
                    for row in tile:
                        for column in range(len(row)):
                            row[column] = pixel(data[at : at + size])
                            at += size
        assert at == len(data)


FORMATS = [
    rfb.PixelFormat(),
    rfb.PixelFormat(big_endian=True),
    rfb.PixelFormat(16, 16, False, True, 31, 63, 31, 11, 5, 0),
    rfb.PixelFormat(8, 8, False, True, 7, 7, 3, 0, 3, 6),
]


@pytest.mark.parametrize("form", FORMATS, ids=["32", "32-big", "565", "332"])
@pytest.mark.parametrize("encoding", [rfb.RAW, rfb.ZRLE], ids=["raw", "zrle"])
def test_picture_and_changes(
    server: vnc.VncServer, display: Display, form: rfb.PixelFormat, encoding: int
) -> None:
    client = Client(server)
    assert client.start() == (WIDTH, HEIGHT, "guest")
    client.set_format(form)
    client.set_encodings(99, encoding, rfb.RAW)
    canvas = np.zeros((HEIGHT, WIDTH), np.uint32)

    def expected() -> np.ndarray:
        total = np.zeros_like(canvas)
        for at, top, shift in (
            (16, form.red_max, form.red_shift),
            (8, form.green_max, form.green_shift),
            (0, form.blue_max, form.blue_shift),
        ):
            total |= ((display.pixels >> at & 255) * top + 127) // 255 << shift
        return total

    client.request(False)
    assert client.update(canvas, form) == [(0, 0, WIDTH, HEIGHT, encoding)]
    assert (canvas == expected()).all()
    client.request(True)
    changed = display.pixels.copy()
    changed[70, 3] ^= 0xFFFFFF
    changed[70, 150] ^= 0xFFFFFF
    changed[129, 199] ^= 0xFFFFFF
    display.pixels = changed
    found = client.update(canvas, form)
    assert [area[:4] for area in found] == [(0, 64, 64, 64), (128, 64, 64, 64), (192, 128, 8, 2)]
    assert (canvas == expected()).all()


def test_size_changes(server: vnc.VncServer, display: Display) -> None:
    able, unable = Client(server), Client(server)
    for client in (able, unable):
        client.start()
    able.set_encodings(rfb.RAW, rfb.DESKTOP_SIZE)
    form, canvas = rfb.PixelFormat(), np.zeros((HEIGHT, WIDTH), np.uint32)
    for client in (able, unable):
        client.request(False)
        client.update(canvas, form)
        client.request(True)
    display.pixels = np.full((HEIGHT - 30, WIDTH + 40), 0x123456, np.uint32)
    assert able.update(canvas, form) == [(0, 0, WIDTH + 40, HEIGHT - 30, rfb.DESKTOP_SIZE)]
    unable.update(canvas, form)
    assert (canvas[: HEIGHT - 30] == 0x123456).all()
    assert not canvas[HEIGHT - 30 :].any()


@pytest.mark.parametrize("version", [b"003.003", b"003.005", b"003.007"])
def test_older_versions(server: vnc.VncServer, version: bytes) -> None:
    client = Client(server, version)
    if version == b"003.007":
        assert client.read(2) == b"\x01\x01"
        client.socket.sendall(b"\x01")
    else:
        assert client.read(4) == b"\0\0\0\x01"
    assert client.init() == (WIDTH, HEIGHT, "guest")


def eventually(done) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_keys_and_pointer(server: vnc.VncServer, display: Display) -> None:
    client = Client(server)
    client.start()
    display.room = 3  # the rest waits
    for down, keysym in ((1, 0xFFE1), (1, ord("A")), (0, ord("A")), (0, 0xFFE1), (1, 0x1234), (1, 0xFFC9)):
        client.socket.sendall(struct.pack(">BB2xI", 4, down, keysym))
    for mask, x, y in ((0, 10, 10), (1, 15, 8), (4, 15, 8), (8, 15, 8), (0, 15, 8), (16, 15, 8)):
        client.socket.sendall(struct.pack(">BBHH", 5, mask, x, y))
    eventually(lambda: len(display.moves) == 6)
    assert display.moves == [
        (0, 0, 0, 0),
        (5, -2, 0, 1),
        (0, 0, 0, 2),
        (0, 0, -1, 0),
        (0, 0, 0, 0),
        (0, 0, 1, 0),
    ]
    display.room = 100
    shift, a, f12 = b"\x12", b"\x1c", b"\x07"
    wanted = [shift, a, b"\xf0" + a, b"\xf0" + shift, f12]
    eventually(
        lambda: (
            [code for i, code in enumerate(display.codes) if i == 0 or code != display.codes[i - 1]] == wanted
        )
    )
    client.socket.close()  # F12 is let go
    eventually(lambda: display.codes[-1] == b"\xf0" + f12)


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff",
        bytes(4) + rfb.PixelFormat(true_colour=False).pack(),
        bytes(4) + rfb.PixelFormat(bits=24).pack(),
        bytes(4) + rfb.PixelFormat(red_shift=40).pack(),
        struct.pack(">B3xI", 6, 1 << 31),
    ],
)
def test_nonsense_ends_that_connection_only(server: vnc.VncServer, bad: bytes) -> None:
    client = Client(server)
    client.start()
    client.socket.sendall(bad)
    with pytest.raises((EOFError, ConnectionError)):
        client.read(1)
    eventually(lambda: server.messages)
    assert Client(server).start() == (WIDTH, HEIGHT, "guest")


def test_password(display: Display) -> None:
    from Crypto.Cipher import DES

    with vnc.VncServer(display, display, display, ("127.0.0.1", 0), password="secretly") as server:  # type: ignore[arg-type]
        for password, outcome in ((b"secretly", 0), (b"wrong\0\0\0", 1)):
            client = Client(server)
            assert client.read(2) == b"\x01\x02"
            client.socket.sendall(b"\x02")
            key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password)
            client.socket.sendall(DES.new(key, DES.MODE_ECB).encrypt(client.read(16)))
            assert client.read(4) == outcome.to_bytes(4, "big")
            if outcome == 0:
                assert client.init()[:2] == (WIDTH, HEIGHT)
            else:
                assert b"wrong password" in client.read(4 + 14)


def test_vncdotool(server: vnc.VncServer, display: Display, tmp_path: Path) -> None:
    """A client made for tests by others: it types, clicks, and takes a picture."""
    path = tmp_path / "screen.png"
    command = [sys.executable, "-m", "vncdotool.command", "-s", f"127.0.0.1::{server.address[1]}"]
    words = ["type", "ls", "key", "enter", "move", "20", "30", "click", "1", "capture", str(path)]
    subprocess.run([*command, *words], check=True, timeout=60, capture_output=True)
    typed = [code for code in display.codes if code[0] != 0xF0]
    assert typed == [b"\x4b", b"\x1b", b"\x5a"]
    assert (0, 0, 0, 1) in display.moves
    from PIL import Image

    taken = np.asarray(Image.open(path).convert("RGB")).astype(np.uint32)
    assert (taken[:, :, 0] << 16 | taken[:, :, 1] << 8 | taken[:, :, 2] == display.pixels).all()


@pytest.mark.skipif(shutil.which("vncsnapshot") is None, reason="vncsnapshot is missing: package vncsnapshot")
def test_vncsnapshot(server: vnc.VncServer, tmp_path: Path) -> None:
    path = tmp_path / "screen.jpg"
    display = server.address[1] - vnc.BASE_PORT
    command = ["vncsnapshot", "-allowblank", "-quality", "100", f"127.0.0.1:{display}", str(path)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    from PIL import Image

    assert Image.open(path).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("text", ["", "0", ":", ":x", "host:", ":70000", ":-1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--vnc: "):
        vnc.parse_address(text)


def test_addresses() -> None:
    assert vnc.parse_address(":0") == ("127.0.0.1", 5900)
    assert vnc.parse_address("0.0.0.0:3") == ("0.0.0.0", 5903)
    assert vnc.parse_address("[::1]:1") == ("::1", 5901)


def test_options(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("hush\nrest")
    assert vnc.split_option(f":1,password-file={path}") == (":1", "hush")
    for bad in (":1,password=x", f":1,password-file={tmp_path}", f":1,password-file={tmp_path / 'none'}"):
        with pytest.raises(ConfigError, match="--vnc: "):
            vnc.split_option(bad)


def test_a_taken_port_is_named(server: vnc.VncServer, display: Display) -> None:
    with pytest.raises(ConfigError, match=f"port {server.address[1]}: Address already in use"):
        vnc.VncServer(display, display, display, server.address)  # type: ignore[arg-type]


def test_close_twice_with_clients(server: vnc.VncServer) -> None:
    client = Client(server)
    client.start()
    server.close()
    server.close()
    with pytest.raises((EOFError, ConnectionError)):
        client.read(1)
