"""How vCPUs are arranged in packages, cores and threads, and the APIC IDs that follow.

Sources: Intel SDM 3A §9.9.3 and AMD64 APM vol. 3 appendix E.5 for the IDs (csrc/engine/topology.h computes the same);
QEMU 7.2's manual, ``-smp``, for the option's words and what is left to be worked out. Left out: dies, clusters and
NUMA nodes (one of each), and vCPUs that are plugged in later.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.record import record

MAX_CPUS = 255
_LEVELS = ("sockets", "cores", "threads")
_SINGLE = ("dies", "clusters")


@record(frozen=True)
class Topology:
    """Packages, cores in each, threads in each core; all at least 1.

    >>> Topology(2, 3, 2).apic_ids()
    [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]
    """

    sockets: int = 1
    cores: int = 1
    threads: int = 1

    @property
    def count(self) -> int:
        """vCPUs in all."""
        return self.sockets * self.cores * self.threads

    def apic_ids(self) -> list[int]:
        """Each vCPU's initial APIC ID: a bit field each for thread, core and package, each as wide as it must be."""
        core = (self.threads - 1).bit_length()
        package = core + (self.cores - 1).bit_length()
        return [
            socket << package | number << core | thread
            for socket in range(self.sockets)
            for number in range(self.cores)
            for thread in range(self.threads)
        ]

    def __str__(self) -> str:
        parts = zip((self.sockets, self.cores, self.threads), ("socket", "core", "thread"), strict=True)
        return " x ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in parts)


def parse_smp(text: str, *, option: str = "--smp", prefer_sockets: bool = False) -> Topology:
    """``"4,sockets=2,cores=2,threads=1"``: the number of vCPUs and their arrangement.

    What is not said is worked out: threads are 1, then what is wanting is cores (of one package), or packages where
    `prefer_sockets`.

    Parameters
    ----------
    option
        Its name, for messages.
    prefer_sockets
        As QEMU's machines before 6.2 have it.

    Raises
    ------
    ConfigError
        A word that is not known, a number below 1, or a product that is not the number of vCPUs.
    """
    given: dict[str, int] = {}
    for place, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        if not equals and place == 0:
            name, value = "cpus", part
        if name not in ("cpus", "maxcpus", *_LEVELS, *_SINGLE):
            raise ConfigError(
                f"{option} {text}: {name!r} is not known; write cpus=, sockets=, cores=, threads= or maxcpus="
            )
        if name in given:
            raise ConfigError(f"{option} {text}: {name} is given twice; write it once")
        if not (value.isascii() and value.isdigit() and len(value) < 7 and int(value) >= 1):
            raise ConfigError(f"{option} {text}: {name} is not a number from 1 on; write for example 4")
        given[name] = int(value)
    for name in _SINGLE:
        if given.pop(name, 1) != 1:
            raise ConfigError(f"{option} {text}: a package here has one of {name}; write {name}=1 or nothing")
    return _work_out(given, f"{option} {text}", prefer_sockets)


def _work_out(given: dict[str, int], what: str, prefer_sockets: bool) -> Topology:
    cpus, most = given.get("cpus", 0), given.get("maxcpus", 0)
    sockets, cores, threads = (given.get(name, 0) for name in _LEVELS)
    if cpus or most:
        most = most or cpus
        first, second = (cores, sockets) if prefer_sockets else (sockets, cores)
        if not second:  # what is worked out
            first, threads = first or 1, threads or 1
            second = most // (first * threads)
        elif not first:
            threads = threads or 1
            first = most // (second * threads)
        cores, sockets = (first, second) if prefer_sockets else (second, first)
        threads = threads or (most // (sockets * cores) if sockets * cores else 0)
    topology = Topology(*((sockets, cores, threads) if most else (sockets or 1, cores or 1, threads or 1)))
    most = most or topology.count
    cpus = cpus or most
    if topology.count != most:
        raise ConfigError(
            f"{what}: {topology} is {topology.count}, not {most};"
            " sockets x cores x threads must be the number of vCPUs"
        )
    if cpus != most:
        raise ConfigError(
            f"{what}: maxcpus={most} with {cpus} vCPUs needs vCPUs that are plugged in later, which there are not;"
            f" write maxcpus={cpus} or nothing"
        )
    if cpus > MAX_CPUS or topology.apic_ids()[-1] >= MAX_CPUS:
        raise ConfigError(f"{what}: an xAPIC numbers processors 0 to {MAX_CPUS - 1}; write fewer vCPUs")
    return topology
