"""A VNC server: the guest's screen, keyboard and mouse for any RFB client.

Source: RFC 6143, "The Remote Framebuffer Protocol" (versions 3.3, 3.7 and 3.8). Security types None and VNC
Authentication; the latter keeps passers-by out and no more: its DES key is 8 characters, and nothing is encrypted.
Hence the server listens on the loopback interface unless it is told otherwise. Left out: cut text (there is no agent
in the guest), bell, a client's wish to be alone (all share).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import socket
import struct
import threading
from typing import TYPE_CHECKING

import numpy as np

from pyvmm.display import keys, rfb
from pyvmm.display.keysyms import Keysyms
from pyvmm.errors import ConfigError
from pyvmm.threads import name_this_thread

if TYPE_CHECKING:
    from pyvmm.display.input import KeySink, MouseSink
    from pyvmm.display.screen import Screen

BASE_PORT = 5900
FRAME_SECONDS = 0.04
"""How often the screen is looked at for a client that waits for news."""
HANDSHAKE_SECONDS = 30.0
MAX_TEXT = 1 << 20
_SECURITY_NONE, _SECURITY_VNC = 1, 2


def parse_address(text: str) -> tuple[str, int]:
    """``":0"``, ``"0.0.0.0:1"``: host (the loopback interface when it is empty) and TCP port, 5900 + display.

    Raises
    ------
    ConfigError
        It is not HOST:DISPLAY with a display from 0 to 59635.
    """
    host, colon, display = text.rpartition(":")
    if not colon or not display.isdecimal() or int(display) > 65535 - BASE_PORT:
        raise ConfigError(f"--vnc: {text!r} is not [HOST]:DISPLAY; write for example :0")
    return host.strip("[]") or "127.0.0.1", BASE_PORT + int(display)


def _answer(password: str, challenge: bytes) -> bytes:
    """What a client answers to the challenge: DES with the password for key, each byte's bits reversed (§7.2.2)."""
    try:
        from Crypto.Cipher import DES
    except ImportError:
        raise ConfigError("--vnc with a password needs pycryptodome: pip install 'pyvmm-lab[vnc]'") from None
    raw = password.encode("latin-1", "replace")[:8].ljust(8, b"\0")
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in raw)
    return bytes(DES.new(key, DES.MODE_ECB).encrypt(challenge))


class ProtocolError(Exception):
    """The client said something that RFB does not have."""


class _Client:
    """One connection, from handshake to its end."""

    def __init__(self, server: VncServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._encoder = rfb.Encoder()
        self._can_resize = False
        self._size: tuple[int, int] = (0, 0)
        self._shown: rfb.Pixels | None = None
        self._news = asyncio.Event()
        self._pressed: set[str] = set()
        self._at: tuple[int, int] | None = None
        self._buttons = 0
        self._wheel = 0

    async def serve(self) -> None:
        """Handshake, then requests until the client goes."""
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await self._handshake()
        painter = asyncio.create_task(self._paint())
        try:
            while True:
                await self._message()
        finally:
            painter.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await painter
            for name in self._pressed:  # a key that nobody holds any more
                self._server.key(keys.release(name))
            if self._buttons:
                self._server.mouse.mouse(0, 0, 0, 0)

    # Handshake (§7.1 to §7.3) -------------------------------------------------------------------------------------

    async def _handshake(self) -> None:
        self._writer.write(b"RFB 003.008\n")
        line = await self._reader.readexactly(12)
        versions = {b"RFB 003.003\n": 3, b"RFB 003.007\n": 7, b"RFB 003.008\n": 8}
        # Anything else of 3.x is to be treated as 3.3 (§7.1.1).
        version = versions.get(line, 3 if line[:7] == b"RFB 003" else 0)
        if not version:
            raise ProtocolError(f"{line!r} is not a version of RFB")
        chosen = _SECURITY_VNC if self._server.password is not None else _SECURITY_NONE
        if version == 3:
            self._writer.write(struct.pack(">I", chosen))
        else:
            self._writer.write(bytes((1, chosen)))
            if (await self._reader.readexactly(1))[0] != chosen:
                raise ProtocolError("the client chose a security type that was not offered")
        if chosen == _SECURITY_VNC:
            await self._authenticate(version)
        elif version == 8:
            self._writer.write(struct.pack(">I", 0))
        await self._reader.readexactly(1)  # ClientInit: shared or not
        height, width = self._server.frame().shape
        self._size = (width, height)
        name = self._server.name.encode()
        self._writer.write(struct.pack(">HH", *self._size) + self._encoder.format.pack())
        self._writer.write(struct.pack(">I", len(name)) + name)
        await self._writer.drain()

    async def _authenticate(self, version: int) -> None:
        challenge = secrets.token_bytes(16)
        self._writer.write(challenge)
        answer = await self._reader.readexactly(16)
        if hmac.compare_digest(answer, _answer(self._server.password or "", challenge)):
            self._writer.write(struct.pack(">I", 0))
            return
        await asyncio.sleep(1)  # guessing takes its time
        reason = b"wrong password"
        self._writer.write(struct.pack(">I", 1))
        if version == 8:
            self._writer.write(struct.pack(">I", len(reason)) + reason)
        await self._writer.drain()
        raise ProtocolError("wrong password")

    # What clients send (§7.5) -------------------------------------------------------------------------------------

    async def _message(self) -> None:
        kind = (await self._reader.readexactly(1))[0]
        match kind:
            case 0:
                data = await self._reader.readexactly(19)
                try:
                    self._encoder.format = rfb.PixelFormat.unpack(data[3:])
                except ValueError as error:
                    raise ProtocolError(f"the client wants {error}") from None
                self._shown = None
            case 2:
                count = struct.unpack(">xH", await self._reader.readexactly(3))[0]
                numbers = struct.unpack(f">{count}i", await self._reader.readexactly(4 * count))
                self._encoder.choose(list(numbers))
                self._can_resize = rfb.DESKTOP_SIZE in numbers
            case 3:
                incremental = (await self._reader.readexactly(9))[0]  # of the whole screen, whatever area
                if not incremental:
                    self._shown = None
                self._news.set()
            case 4:
                down, keysym = struct.unpack(">B2xI", await self._reader.readexactly(7))
                self._key(bool(down), keysym)
            case 5:
                self._point(*struct.unpack(">BHH", await self._reader.readexactly(5)))
            case 6:
                length = struct.unpack(">3xI", await self._reader.readexactly(7))[0]
                if length > MAX_TEXT:
                    raise ProtocolError(f"a text of {length} bytes")
                await self._reader.readexactly(length)
            case _:
                raise ProtocolError(f"message {kind}, which RFB does not have")

    def _key(self, down: bool, keysym: int) -> None:
        name = self._server.keysyms.key(keysym)
        if name is None:
            return
        self._server.key(keys.make(name) if down else keys.release(name))
        (self._pressed.add if down else self._pressed.discard)(name)

    def _point(self, mask: int, x: int, y: int) -> None:
        """The client's pointer is at a place; a mouse tells how far it moved, a tablet (`Inputs.point`) where it is."""
        dx, dy = (x - self._at[0], y - self._at[1]) if self._at is not None else (0, 0)
        self._at = (x, y)
        buttons = (mask & 1) | (mask & 4) >> 1 | (mask & 2) << 1
        turned = mask & ~self._wheel & 0x18  # buttons 4 and 5 are the wheel's steps, up and down
        self._wheel = mask & 0x18
        self._buttons = buttons
        wheel = (turned >> 4 & 1) - (turned >> 3 & 1)
        point = getattr(self._server.mouse, "point", None)
        width, height = (max(1, size - 1) for size in self._size)
        if point is None or not point(x / width, y / height, wheel, buttons):
            self._server.mouse.mouse(dx, dy, wheel, buttons)

    # What they get (§7.6) -----------------------------------------------------------------------------------------

    async def _paint(self) -> None:
        while True:
            await self._news.wait()
            update = self._update(self._server.frame())
            if update is None:
                await asyncio.sleep(FRAME_SECONDS)
                continue
            self._news.clear()
            self._writer.write(update)
            await self._writer.drain()
            await asyncio.sleep(FRAME_SECONDS)

    def _update(self, frame: rfb.Pixels) -> bytes | None:
        """A FramebufferUpdate with what is new; None for nothing."""
        size = (frame.shape[1], frame.shape[0])
        if size != self._size:
            if self._can_resize:
                self._size = size
                self._shown = None
                return struct.pack(">BxH", 0, 1) + rfb.rectangle(0, 0, *size, rfb.DESKTOP_SIZE)
            frame = _fit(frame, self._size)
        whole = [(0, 0, *self._size)]
        areas = whole if self._shown is None else rfb.changed_tiles(self._shown, frame)
        if not areas:
            return None
        self._shown = frame
        parts = [self._encoder.encode(frame[y : y + h, x : x + w], x, y) for x, y, w, h in areas]
        return struct.pack(">BxH", 0, len(parts)) + b"".join(parts)


def _fit(frame: rfb.Pixels, size: tuple[int, int]) -> rfb.Pixels:
    """Cut, or fill up with black: for a client that cannot change its size."""
    width, height = size
    fitted = np.zeros((height, width), np.uint32)
    part = frame[:height, :width]
    fitted[: part.shape[0], : part.shape[1]] = part
    return fitted


class VncServer:
    """Serves one machine's screen until `close`, on a thread of its own.

    Parameters
    ----------
    screen, keyboard, mouse
        The machine's.
    address
        Host and TCP port; port 0 for any that is free.
    password
        None: everybody who reaches the port may come in. Only 8 characters count.
    layout
        The guest's keyboard layout, one of `keys.LAYOUTS`.
    name
        What clients show as their window's title.

    Attributes
    ----------
    address
        Host and port in use.

    Raises
    ------
    ConfigError
        The address is taken or not this host's, or the password cannot be used.
    """

    def __init__(
        self,
        screen: Screen,
        keyboard: KeySink,
        mouse: MouseSink,
        address: tuple[str, int] = ("127.0.0.1", BASE_PORT),
        *,
        password: str | None = None,
        layout: str = "us",
        name: str = "pyvmm",
    ) -> None:
        if password is not None:
            if not password:
                raise ConfigError("--vnc: an empty password keeps nobody out; leave it away, or give one")
            _answer(password, bytes(16))
        self.password = password
        self.keysyms = Keysyms(layout)
        self.mouse = mouse
        self.name = name
        self.messages: list[str] = []
        self._screen = screen
        self._keyboard = keyboard
        self._typed: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            self._socket = socket.create_server(
                address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            )
        except OSError as error:
            raise ConfigError(f"--vnc: {address[0]}, port {address[1]}: {error.strerror or error}") from None
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="vnc", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        name_this_thread("vnc")
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._socket)
        typist = asyncio.create_task(self._type())
        await self._over.wait()
        server.close()
        typist.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(typist, *self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Client(self, reader, writer).serve()
        except (ProtocolError, TimeoutError) as error:
            self._note(f"vnc: {writer.get_extra_info('peername')}: {error or 'no handshake in time'}")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    def _note(self, line: str) -> None:
        if len(self.messages) < 100:
            self.messages.append(line)

    def frame(self) -> rfb.Pixels:
        """The picture now."""
        picture = self._screen.picture()
        return np.frombuffer(picture.pixels, np.uint32).reshape(picture.height, picture.width)

    def key(self, code: bytes) -> None:
        """Type a code; one that the keyboard has no room for waits its turn."""
        if self._typed or not self._keyboard.key(code):
            self._typed.append(code)
            del self._typed[: -(1 << 10)]

    async def _type(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            while self._typed and self._keyboard.key(self._typed[0]):
                self._typed.pop(0)

    def close(self) -> None:
        """Close the port and every connection. A second time does nothing."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(5)

    def __enter__(self) -> VncServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<VncServer {self.address[0]}:{self.address[1]}>"


def split_option(text: str) -> tuple[str, str | None]:
    """``[HOST]:DISPLAY[,password-file=FILE]``: what `parse_address` takes, and the password or None.

    Raises
    ------
    ConfigError
        An unknown word, or a file that cannot be read.
    """
    where, *words = text.split(",")
    password = None
    for word in words:
        name, _, path = word.partition("=")
        if name != "password-file" or not path:
            raise ConfigError(f"--vnc: {word!r} is not password-file=FILE")
        try:
            with open(path, encoding="utf-8") as file:
                password = file.readline().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--vnc: {path}: {getattr(error, 'strerror', None) or error}") from None
        if not password:
            raise ConfigError(f"--vnc: {path}: the first line, which is the password, is empty")
    return where, password


def describe(address: tuple[str, int]) -> str:
    """``127.0.0.1:0`` as clients want it: host and display."""
    return f"{address[0]}:{address[1] - BASE_PORT}"
