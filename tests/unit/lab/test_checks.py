"""The prediction of what trap-and-emulate gets wrong, beside the table that it is made from."""

from __future__ import annotations

from pyvmm.cpu.instructions import CR4_UMIP, ROBIN_IRVINE
from pyvmm.lab import run
from pyvmm.lab.checks import CAUGHT, LUCKY, USES, deceived, rows, untrapped


def test_the_kernels_checks_are_those_of_the_prediction() -> None:
    """In ring 0 they are all right, and Robin and Irvine's list is among them, whole."""
    result = run("bare", "checks")
    assert result.ok
    assert [check.name for check in result.checks] == list(USES)
    assert result.wrong == ()
    used = {row.robin_irvine for check in USES for row in rows(check)}
    assert used - {""} == set(ROBIN_IRVINE)


def test_what_is_predicted() -> None:
    right = {name for name in USES if not deceived(name)}
    assert right == {
        "pushf_on", "call_far", "jmp_far", "ret_far", "int_n", "iret", "cr3", "cr8", "star",
    }  # fmt: skip
    assert [row.name for row in untrapped("popf_on")] == ["PUSHF", "POPF"]
    assert [row.name for row in untrapped("mov_to_ds")] == ["MOV from Sreg"]
    assert all(untrapped(name) for name in LUCKY)
    assert {row.name for name in USES for row in rows(name)} >= CAUGHT


def test_umip_mends_five() -> None:
    mended = {name for name in USES if deceived(name) and not deceived(name, cr4=CR4_UMIP)}
    assert mended == {"sgdt", "sidt", "sldt", "smsw", "str"}
    assert not untrapped("smsw", cr4=CR4_UMIP)
