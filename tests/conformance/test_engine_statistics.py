"""What engines count by themselves: the translator's TLB exactly, KVM's by the names of its documentation."""

from __future__ import annotations

import pytest

from pyvmm.engine import ExitReason
from pyvmm.errors import EngineError
from tests.conformance.engine_rig import DATA, PORT, Rig, needs

PROGRAM = f"""
    mov rcx, 100
again:
    mov rax, cr3
    mov cr3, rax
    mov eax, [{DATA:#x}]
    invlpg [{DATA:#x}]
    mov eax, [{DATA:#x}]
    dec rcx
    jnz again
    hlt
"""


@needs("long")
def test_tlb(rig: Rig) -> None:
    """A hundred times: all dropped, the page's entry made, dropped, and made again."""
    rig.start("long", PROGRAM)
    before = rig.vcpu.tlb
    rig.run()
    did = rig.vcpu.tlb - before
    if rig.vm.name == "translator":
        assert (did.flushes, did.page_flushes) == (100, 100)
        assert did.fills["user"] == 0
        assert 300 <= did.fills["kernel"] < 320  # the page twice, the code's page once; few before that
        assert not did.mmu
    else:
        assert not did.fills
        assert did.page_flushes in (0, 100)  # with nested paging INVLPG does not exit
        assert "pf_taken" in did.mmu
        assert "vm.mmu_shadow_zapped" in did.mmu
    assert "pages by INVLPG" in str(did)
    counted = rig.vcpu.statistics
    assert all(value >= 0 for value in counted.values())
    if rig.vm.name == "kvm":
        assert counted["exits"] >= 1


@needs("long")
def test_tlb_contents(rig: Rig) -> None:
    """An entry outlives a change of the tables, not INVLPG."""
    there = f"[{DATA:#x}]", f"[{DATA + 0x1000:#x}]"
    rig.start(
        "long",
        f"mov eax, {there[0]}; mov {there[1]}, eax; out {PORT}, al; invlpg {there[0]}; invlpg {there[1]}; hlt",
    )
    rig.run(surface=[ExitReason.IO])
    if rig.vm.name != "translator":
        with pytest.raises(EngineError, match="the processor's own"):
            rig.vcpu.tlb_contents()
        return
    held = {each.page: each for each in rig.vcpu.tlb_contents().entries}
    assert (held[DATA].physical, held[DATA].rights, held[DATA].user) == (DATA, "r-x", False)
    assert held[DATA + 0x1000].rights == "rwx"
    assert not rig.vcpu.tlb_contents().stale
    rig.tables.set(DATA, DATA + 0x2000 | 3)
    rig.tables.set(DATA + 0x1000, DATA + 0x1000 | 1)
    stale = rig.vcpu.tlb_contents().stale
    assert [each.page for each in stale] == [DATA, DATA + 0x1000]
    assert f"stale: it is {DATA + 0x2000:#x} by now" in str(rig.vcpu.tlb_contents())
    assert "CR0.WP" in stale[1].stale or not rig.vcpu.state.cr0 >> 16 & 1
    rig.run()
    assert not rig.vcpu.tlb_contents().stale
