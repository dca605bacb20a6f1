"""pyvmm.cli.runner and prompt, over a machine of cardboard: which exit code, and requests from other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.cli import exit_codes
from pyvmm.cli.notice import Notice
from pyvmm.cli.prompt import Prompt
from pyvmm.cli.runner import Runner


class CardboardMachine:
    """Gives the results of a list, then runs until `stop()`."""

    def __init__(self, *results: tuple[str, int]) -> None:
        self.results = list(results)
        self.resets = 0
        self._stopped = threading.Event()
        segment = SimpleNamespace(selector=0xF000, base=0xF0000, limit=0xFFFF, attributes=0x9B)
        registers = dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "efer", "rflags", "rbx", "rip"), 0)
        for name in ("rax", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16))):
            registers[name] = 0x1234
        segments = dict.fromkeys(("cs", "ds", "es", "ss", "fs", "gs"), segment)
        self.vcpu = SimpleNamespace(state=SimpleNamespace(**registers, **segments))
        self.vcpus = [self.vcpu]
        self.memory = SimpleNamespace(read=lambda gpa, size: (b"\xf4" + b"HELLO" * 9999)[:size])

    def report(self, vcpu: object) -> None:
        """Nothing more is known."""

    def run(self, timeout: float | None = None, meanwhile: Callable[[], object] | None = None) -> Any:
        if meanwhile is not None:
            meanwhile()
        if self.results:
            reason, code = self.results.pop(0)
            return SimpleNamespace(
                reason=reason, code=code, exit=SimpleNamespace(text="", rip=0x7C00, vcpu=0)
            )
        reason = "stopped" if self._stopped.wait(timeout) else "timeout"
        self._stopped.clear()
        return SimpleNamespace(reason=reason, code=0, exit=None)

    def stop(self) -> None:
        self._stopped.set()

    def reset(self) -> None:
        self.resets += 1


def run(machine: CardboardMachine, **keywords: Any) -> int:
    return Runner(machine, Notice(quiet=True), **keywords).run()  # type: ignore[arg-type]


def test_power_off_may_wait_for_being_switched_on() -> None:
    """-no-shutdown: paused, reset by `resume`; -S: paused before the first instruction, with somebody to say so."""
    machine = CardboardMachine(("poweroff", 0))
    runner = Runner(machine, Notice(quiet=True), shutdown=False, paused=True)  # type: ignore[arg-type]
    seen: list[object] = []

    def user() -> None:
        seen.append((runner.paused, len(machine.results)))
        runner.resume()
        while not runner.paused:
            pass
        seen.append(machine.resets)
        runner.resume()
        seen.append(machine.resets)
        runner.quit(130)

    thread = threading.Thread(target=user)
    assert runner.run(meanwhile=thread.start) == 130
    thread.join()
    assert seen == [(True, 1), 0, 1]


@pytest.mark.parametrize(
    ("results", "code", "resets"),
    [
        ([("poweroff", 0)], exit_codes.OK, 0),
        ([("exit", 33)], 33, 0),
        ([("exit", 0x1FF)], 0xFF, 0),
        ([("reset", 0), ("shutdown", 0), ("poweroff", 0)], exit_codes.OK, 2),
        ([("stopped", 0), ("poweroff", 0)], exit_codes.OK, 0),
        ([("halted", 0)], exit_codes.GUEST_STOPPED, 0),
        ([("failed", 0)], exit_codes.ENGINE, 0),
    ],
)
def test_exit_codes(results: list[tuple[str, int]], code: int, resets: int) -> None:
    machine = CardboardMachine(*results)
    assert run(machine) == code
    assert machine.resets == resets


@pytest.mark.parametrize("reason", ["reset", "shutdown"])
def test_no_reboot(reason: str) -> None:
    machine = CardboardMachine((reason, 0))
    assert run(machine, reboot=False) == exit_codes.GUEST_STOPPED
    assert machine.resets == 0


def test_meanwhile_is_called_once() -> None:
    calls: list[int] = []
    machine = CardboardMachine(("reset", 0), ("poweroff", 0))
    runner = Runner(machine, Notice(quiet=True))  # type: ignore[arg-type]
    assert runner.run(meanwhile=lambda: calls.append(machine.resets)) == exit_codes.OK
    assert calls == [0]


def test_timeout() -> None:
    assert run(CardboardMachine(), timeout=0.05) == exit_codes.TIMEOUT


def while_running(body: Callable[[Runner, Prompt], None]) -> tuple[int, CardboardMachine]:
    """Run `body` on another thread beside a running machine, then quit with 130."""
    machine = CardboardMachine()
    runner = Runner(machine, Notice(quiet=True), timeout=30)  # type: ignore[arg-type]
    errors: list[BaseException] = []

    def beside() -> None:
        try:
            body(runner, Prompt(runner))
        except BaseException as error:
            errors.append(error)
        runner.quit(exit_codes.INTERRUPTED)

    thread = threading.Thread(target=beside)
    thread.start()
    code = runner.run()
    thread.join()
    if errors:
        raise errors[0]
    return code, machine


def test_quit_from_another_thread() -> None:
    code, _ = while_running(lambda runner, prompt: None)
    assert code == exit_codes.INTERRUPTED


def test_requests_run_on_the_machines_thread() -> None:
    threads: list[str] = []
    while_running(lambda runner, prompt: runner.call(lambda: threads.append(threading.current_thread().name)))
    assert threads == [threading.current_thread().name]


def test_an_error_in_a_request_is_the_callers() -> None:
    def body(runner: Runner, prompt: Prompt) -> None:
        with pytest.raises(ZeroDivisionError):
            runner.call(lambda: 1 // 0)

    while_running(body)


def test_a_request_after_the_end_is_refused() -> None:
    runner = Runner(CardboardMachine(("poweroff", 0)), Notice(quiet=True))  # type: ignore[arg-type]
    runner.run()
    with pytest.raises(TimeoutError, match="has ended"):
        runner.call(lambda: None)


def test_pause_resume_reset_from_the_prompt() -> None:
    def body(runner: Runner, prompt: Prompt) -> None:
        assert "running" in prompt.execute("status")
        assert "paused" in prompt.execute("pause")
        assert prompt.execute("status").startswith("paused")
        assert prompt.execute("reset") == "reset\n"
        assert prompt.execute("resume") == "running\n"
        assert prompt.execute("st").startswith("running")

    _, machine = while_running(body)
    assert machine.resets == 1


def test_prompt_commands() -> None:
    def body(runner: Runner, prompt: Prompt) -> None:
        registers = prompt.execute("regs")
        assert "rax 0000000000001234" in registers
        assert "cs f000" in registers
        memory = prompt.execute("mem 0x7c00 16")
        assert memory.startswith("0x0000007c00  f4 48 45 4c 4c 4f")
        assert ".HELLO" in memory
        assert len(prompt.execute("mem 0 999999").splitlines()) == 4096 // 16
        assert "hlt" in prompt.execute("dis")
        assert len(prompt.execute("dis 0x1000 3").splitlines()) == 3

    while_running(body)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("fly", "no such command"),
        ("re", "could be"),
        ("mem", "which guest-physical address"),
        ("mem here", "'here' is not a number"),
        ("mem -1", "not between"),
        ("help", "guest-physical memory"),
    ],
)
def test_prompt_mistakes_are_answered(line: str, answer: str) -> None:
    answers: list[str] = []
    while_running(lambda runner, prompt: answers.append(prompt.execute(line)))
    assert answer in answers[0]
