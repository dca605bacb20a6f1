"""pyvmm.record: what a dataclass promises, kept without it; and the standard library's questions answered."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest

from pyvmm.config import DiskConfig, MachineConfig
from pyvmm.memory import Memslot
from pyvmm.record import replace
from pyvmm.units import Gpa


def test_construction() -> None:
    assert DiskConfig("a") == DiskConfig(path="a", interface="virtio")
    assert DiskConfig("a", "cdrom").interface == "cdrom"
    assert MachineConfig().disks is not MachineConfig().disks
    assert Memslot(Gpa(0), 4096, True).end == 4096


@pytest.mark.parametrize(
    ("values", "named", "text"),
    [
        ((), {}, "missing path"),
        (("a",), {"path": "b"}, "path twice"),
        (("a",), {"colour": "red"}, "no field colour"),
        (("a",) * (len(DiskConfig.__match_args__) + 1), {}, "takes [0-9]+"),
    ],
)
def test_wrong_construction(values: tuple[object, ...], named: dict[str, object], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        DiskConfig(*values, **named)  # type: ignore[arg-type]


def test_comparison_and_repr() -> None:
    slot = Memslot(Gpa(0), 4096, False)
    assert slot == Memslot(Gpa(0), 4096, False)
    assert slot != Memslot(Gpa(0), 8192, False)
    assert slot != (0, 4096, False)
    assert hash(slot) == hash(Memslot(Gpa(0), 4096, False))
    assert repr(slot) == "Memslot(gpa=0, size=4096, read_only=False)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(DiskConfig("a"))
    match slot:
        case Memslot(gpa, size, read_only=False):
            assert (gpa, size) == (0, 4096)
        case _:
            pytest.fail("a record matches by position")


def test_fields_cannot_be_misspelt_or_changed_when_frozen() -> None:
    with pytest.raises(AttributeError):
        MachineConfig().memmory = 1  # type: ignore[attr-defined]
    slot = Memslot(Gpa(0), 4096, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        slot.size = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del slot.size  # type: ignore[misc]


@pytest.mark.parametrize(
    "record", [Memslot(Gpa(0), 4096, False), DiskConfig("a", cache="none"), MachineConfig()]
)
def test_copies(record: object) -> None:
    assert copy.copy(record) == record
    assert copy.deepcopy(record) == record
    assert pickle.loads(pickle.dumps(record)) == record


def test_replace() -> None:
    config = MachineConfig(memory=1 << 20)
    assert replace(config, cpus=2) == MachineConfig(memory=1 << 20, cpus=2)
    with pytest.raises(TypeError, match="no field ram"):
        replace(config, ram=1)  # type: ignore[call-arg]


def test_the_standard_library_sees_a_dataclass() -> None:
    disk = DiskConfig("a")
    assert dataclasses.is_dataclass(disk)
    assert [field.name for field in dataclasses.fields(disk)][:2] == ["path", "interface"]
    assert dataclasses.replace(disk, snapshot=True).snapshot
    assert dataclasses.asdict(MachineConfig(disks=[disk]))["disks"][0]["path"] == "a"
    assert "memory: 'int' = 268435456" in str(inspect.signature(MachineConfig))
