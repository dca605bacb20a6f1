"""Which Debian mirror this host uses: read from apt's own configuration (sources.list(5), both formats).

One-line sources (`deb [options] URI SUITE COMPONENT...`) and deb822 sources (`Types:`, `URIs:`, `Suites:`,
`Components:`, `Enabled:`) are understood; `mirror+file:` and `cdrom:` sources are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyvmm.guests.tools import GuestBuildError

APT_FOLDER = Path("/etc/apt")
_USABLE = re.compile(r"(https?|file|copy|ftp):/")


@dataclass(frozen=True)
class AptSource:
    """One archive of packages: `uri`, `suite` and `components` as apt knows them."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None = None


def parse_one_line(text: str) -> Iterator[AptSource]:
    """Yield the binary archives of a ``sources.list`` file (sources.list(5), ONE-LINE-STYLE FORMAT)."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            options = dict(word.split("=", 1) for word in (match[1] or "").split() if "=" in word)
            yield AptSource(match[2], match[3], tuple(match[4].split()), options.get("signed-by"))


def parse_deb822(text: str) -> Iterator[AptSource]:
    """Yield the binary archives of a ``.sources`` file (sources.list(5), DEB822-STYLE FORMAT)."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield AptSource(
                    uri, suite, tuple(fields.get("components", "").split()), fields.get("signed-by")
                )


def apt_sources(folder: Path = APT_FOLDER) -> list[AptSource]:
    """Return all enabled binary archives of this host, in apt's order."""
    found: list[AptSource] = []
    parts = sorted((folder / "sources.list.d").glob("*")) if (folder / "sources.list.d").is_dir() else []
    for path in [folder / "sources.list", *parts]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            found += parse_one_line(text)
        elif path.suffix == ".sources":
            found += parse_deb822(text)
    return found


def debian_mirror(suite: str, folder: Path = APT_FOLDER) -> AptSource:
    """Return the archive this host would install `suite` from.

    The archive of the very suite is taken when there is one; else an archive that carries another suite of Debian
    with the `main` component, for a Debian mirror carries all of them.

    Raises
    ------
    GuestBuildError
        When apt's configuration names no usable archive.
    """
    usable = [
        source for source in apt_sources(folder) if _USABLE.match(source.uri) and "main" in source.components
    ]
    for source in usable:
        if source.suite == suite:
            return source
    for source in usable:
        if "security" not in source.uri and source.uri.rstrip("/").endswith("/debian"):
            return source
    raise GuestBuildError(f"no Debian mirror for {suite} in {folder}: name one by --mirror URL")
