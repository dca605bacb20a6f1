"""Answers for 07_a_virtio_request.ipynb: one that its check must take, and some that it must refuse."""

# %% exercise 1: solution
import struct


def decode(memory, chain) -> tuple[str, int, int]:
    """Header first, status last, data between (virtio 1.2 §5.2.6)."""
    header, *data, _status = chain
    kind, _, sector = struct.unpack("<IIQ", memory.read(header.address, 16))
    return {0: "read", 1: "write", 4: "flush"}[kind], sector, sum(each.length for each in data)


# %% exercise 1: wrong, it takes the second buffer for data, which of a flush is the status
import struct


def decode(memory, chain) -> tuple[str, int, int]:
    """As if there were always three buffers."""
    kind, _, sector = struct.unpack("<IIQ", memory.read(chain[0].address, 16))
    return {0: "read", 1: "write", 4: "flush"}[kind], sector, chain[1].length


# %% exercise 1: wrong, it guesses the direction from the flags and forgets what else there is
import struct


def decode(memory, chain) -> tuple[str, int, int]:
    """Without looking at the type."""
    (sector,) = struct.unpack("<Q", memory.read(chain[0].address + 8, 8))
    return (
        "read" if "WRITE" in chain[1].flag_names else "write",
        sector,
        sum(each.length for each in chain[1:-1]),
    )
