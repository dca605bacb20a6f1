"""``pyvmm image``: create, info, check, convert, resize, map and compare, with qemu-img's words and exit codes.

Exit codes: 0; 1 on an error; `check`: 2 corruptions, 3 leaks only, 63 for a format that has nothing to check;
`compare`: 0 identical, 1 different, 2 on an error. Left out: snapshots, rebase, commit, bitmaps, `--image-opts`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pyvmm.errors import ConfigError, ImageError
from pyvmm.units import format_size, parse_size

if TYPE_CHECKING:
    from pyvmm.block import CheckResult, ImageInfo

CORRUPT: Final = 2
LEAKS: Final = 3
NOT_CHECKABLE: Final = 63

CREATE_OPTIONS: Final = (
    "backing_file",
    "backing_fmt",
    "cluster_size",
    "compat",
    "compression_type",
    "lazy_refcounts",
    "preallocation",
    "refcount_bits",
    "size",
)


def add_parser(subparsers: Any) -> None:
    """Add `image` and its subcommands."""
    parser = subparsers.add_parser("image", help="create, inspect, convert and check disk images", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="image_command", metavar="COMMAND", required=True)
    _add_create(commands.add_parser("create", help="make an empty image, or an overlay of another"))
    _add_convert(commands.add_parser("convert", help="copy an image into another format"))
    for name, text in (
        ("info", "what an image is"),
        ("check", "is its metadata consistent"),
        ("map", "where its data is"),
    ):
        command = commands.add_parser(name, help=text)
        _format(command)
        command.add_argument("--output", choices=("human", "json"), default="human")
        command.add_argument("-U", "--force-share", action="store_true", help="look even while it is in use")
        command.add_argument("file")
        if name == "info":
            command.add_argument("--backing-chain", action="store_true", help="go down the backing files too")
        if name == "check":
            command.add_argument(
                "-r", "--repair", choices=("leaks", "all"), help="free leaks, or count all anew"
            )
            command.add_argument("-q", "--quiet", action="store_true", help="only the exit code")
    resize = commands.add_parser("resize", help="change the virtual size", prefix_chars="-")
    _format(resize)
    resize.add_argument("--shrink", action="store_true", help="allow a smaller size, which drops data")
    resize.add_argument("-q", "--quiet", action="store_true")
    resize.add_argument("file")
    resize.add_argument("size", help="a size, or +SIZE or -SIZE (after --) for a change")
    compare = commands.add_parser("compare", help="do two images hold the same disk")
    compare.add_argument("-f", dest="format", metavar="FMT", help="format of the first image")
    compare.add_argument("-F", dest="second_format", metavar="FMT", help="format of the second")
    compare.add_argument("-s", "--strict", action="store_true", help="sizes must be equal too")
    compare.add_argument("-p", "--progress", action="store_true")
    compare.add_argument("-q", "--quiet", action="store_true")
    compare.add_argument("file")
    compare.add_argument("second")


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", metavar="FMT", help="raw or qcow2; probed when left out")


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", metavar="FMT", default="raw", help="raw (default) or qcow2")
    parser.add_argument("-b", "--backing", metavar="FILE", help="make an overlay of this image")
    parser.add_argument("-F", "--backing-format", metavar="FMT", help="its format; must be said for raw")
    parser.add_argument("-o", "--options", action="append", default=[], metavar="NAME=VALUE,...",
                        help=", ".join(CREATE_OPTIONS))  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("file")
    parser.add_argument("size", nargs="?", help="such as 20G; an overlay takes its backing file's")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", metavar="FMT", help="format of the source; probed when left out")
    parser.add_argument("-O", "--target-format", metavar="FMT", default="raw", help="raw (default) or qcow2")
    parser.add_argument("-o", "--options", action="append", default=[], metavar="NAME=VALUE,...",
                        help=", ".join(CREATE_OPTIONS))  # fmt: skip
    parser.add_argument("-c", "--compress", action="store_true", help="write compressed clusters (qcow2)")
    parser.add_argument("-n", "--no-create", action="store_true", help="write into an image that exists")
    parser.add_argument("-t", "--cache", default="unsafe", help="cache mode of the target (default: unsafe)")
    parser.add_argument("-p", "--progress", action="store_true", help="draw a progress bar")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("file")
    parser.add_argument("target")


# ---- options ----


def split_options(words: list[str]) -> dict[str, str]:
    """``["a=1,b=2", "c=x,,y"]`` as a dictionary; a comma within a value is doubled.

    Raises
    ------
    ConfigError
        A name that is not one of `CREATE_OPTIONS`, or no value.
    """
    options = {}
    for word in words:
        for part in word.replace(",,", "\0").split(","):
            name, equals, value = part.replace("\0", ",").partition("=")
            if name not in CREATE_OPTIONS:
                raise ConfigError(f"-o {name}: unknown option: use one of {', '.join(CREATE_OPTIONS)}")
            if not equals and name != "lazy_refcounts":
                raise ConfigError(f"-o {name}: needs a value")
            options[name] = value if equals else "on"
    return options


def _number(name: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _switch(name: str, text: str) -> bool:
    if text not in ("on", "off", "true", "false", "yes", "no"):
        raise ConfigError(f"-o {name}={text}: use on or off")
    return text in ("on", "true", "yes")


def create_arguments(options: dict[str, str], format: str) -> dict[str, Any]:
    """The keyword arguments of `pyvmm.block.create_image` for ``-o``."""
    qcow2_only = [name for name in options if name not in ("size", "preallocation")]
    if format == "raw" and qcow2_only:
        raise ConfigError(f"-o {qcow2_only[0]}: a raw image has no such option")
    kinds: dict[str, tuple[str, Callable[[str, str], Any]]] = {
        "cluster_size": ("cluster_size", _number),
        "refcount_bits": ("refcount_bits", _number),
        "lazy_refcounts": ("lazy_refcounts", _switch),
        "compat": ("compat", lambda _, text: text),
        "compression_type": ("compression", lambda _, text: text),
        "preallocation": ("preallocation", lambda _, text: text),
    }
    return {
        kinds[name][0]: kinds[name][1](f"-o {name}", text) for name, text in options.items() if name in kinds
    }


# ---- commands ----


def run_create(options: argparse.Namespace) -> int:
    """``image create``."""
    from pyvmm.block import create_image

    extra = split_options(options.options)
    size = options.size if options.size is not None else extra.get("size")
    backing = options.backing or extra.get("backing_file")
    create_image(
        options.file,
        options.format,
        None if size is None else _number("size", size),
        backing_file=backing,
        backing_format=options.backing_format or extra.get("backing_fmt"),
        **create_arguments(extra, options.format),
    )
    if not options.quiet:
        from pyvmm.block.image import NO_BACKING, READ_ONLY, open_handle

        with open_handle(options.file, options.format, "writeback", READ_ONLY | NO_BACKING) as image:
            made = image.info()
        details = f", cluster_size={made.cluster_size}, backing_file={backing}" if backing else ""
        print(f"Formatting '{options.file}', fmt={options.format} size={made.virtual_size}{details}")
    return 0


def _peek(path: str, format: str | None, share: bool) -> ImageInfo:
    from pyvmm.block.image import FIX, NO_BACKING, NO_LOCK, READ_ONLY, open_handle

    flags = READ_ONLY | NO_BACKING | FIX | (NO_LOCK if share else 0)
    with open_handle(path, format, "writeback", flags) as image:
        return image.info()


def info_json(info: ImageInfo) -> dict[str, Any]:
    """What ``qemu-img info --output json`` prints for the same image."""
    answer: dict[str, Any] = {
        "virtual-size": info.virtual_size,
        "filename": info.path,
        "format": info.format,
        "actual-size": info.disk_usage,
        "dirty-flag": info.dirty,
    }
    if info.format == "qcow2":
        answer["cluster-size"] = info.cluster_size
        data: dict[str, Any] = {"compat": info.compat, "compression-type": info.compression}
        if info.version >= 3:
            data |= {"lazy-refcounts": info.lazy_refcounts, "corrupt": info.corrupt, "extended-l2": False}
        data["refcount-bits"] = info.refcount_bits
        answer["format-specific"] = {"type": "qcow2", "data": data}
    if info.backing_file is not None:
        answer["backing-filename"] = info.backing_file
        answer["full-backing-filename"] = info.full_backing_file
    if info.backing_format is not None:
        answer["backing-filename-format"] = info.backing_format
    return answer


def info_lines(info: ImageInfo) -> Iterator[str]:
    """The same for people."""
    yield f"image: {info.path}"
    yield f"file format: {info.format}"
    yield f"virtual size: {format_size(info.virtual_size)} ({info.virtual_size} bytes)"
    yield f"disk size: {format_size(info.disk_usage)}"
    if info.format != "qcow2":
        return
    if info.dirty:
        yield "cleanly shut down: no"
    yield f"cluster_size: {info.cluster_size}"
    if info.backing_file is not None:
        actual = f" (actual path: {info.full_backing_file})"
        yield f"backing file: {info.backing_file}{actual if info.full_backing_file != info.backing_file else ''}"
    if info.backing_format is not None:
        yield f"backing file format: {info.backing_format}"
    if info.snapshots:
        yield f"internal snapshots: {info.snapshots}"
    yield "Format specific information:"
    yield f"    compat: {info.compat}"
    yield f"    compression type: {info.compression}"
    if info.version >= 3:
        yield f"    lazy refcounts: {str(info.lazy_refcounts).lower()}"
    yield f"    refcount bits: {info.refcount_bits}"
    if info.version >= 3:
        yield f"    corrupt: {str(info.corrupt).lower()}"
        yield "    extended l2: false"


def run_info(options: argparse.Namespace) -> int:
    """``image info``."""
    found = [_peek(options.file, options.format, options.force_share)]
    seen = {os.path.realpath(options.file)}
    while options.backing_chain and found[-1].full_backing_file is not None:
        path = found[-1].full_backing_file
        if os.path.realpath(path) in seen:
            raise ImageError(f"{path}: is a backing file of itself (backing file loop): rebase the overlay")
        seen.add(os.path.realpath(path))
        found.append(_peek(path, found[-1].backing_format, options.force_share))
    if options.output == "json":
        answers = [info_json(info) for info in found]
        print(json.dumps(answers if options.backing_chain else answers[0], indent=4))
    else:
        print("\n\n".join("\n".join(info_lines(info)) for info in found))
    return 0


def check_json(path: str, result: CheckResult) -> dict[str, Any]:
    """What ``qemu-img check --output json`` prints for the same image."""
    answer: dict[str, Any] = {
        "image-end-offset": result.image_end_offset,
        "total-clusters": result.total_clusters,
        "check-errors": result.errors,
        "filename": path,
        "format": "qcow2",
    }
    names = ("allocated-clusters", "fragmented-clusters", "compressed-clusters", "corruptions", "leaks")
    for name in (*names, "corruptions-fixed", "leaks-fixed"):
        value = getattr(result, name.replace("-", "_"))
        if value:
            answer[name] = value
    return answer


def check_lines(result: CheckResult) -> Iterator[str]:
    """The same for people."""
    if result.leaks_fixed or result.corruptions_fixed:
        yield f"The following inconsistencies were found and repaired:\n\n    {result.leaks_fixed} leaked clusters"
        yield f"    {result.corruptions_fixed} corruptions\n\nDouble checking the fixed image now..."
    if result.first and not result.clean:
        yield result.first
    if result.clean:
        yield "No errors were found on the image."
    if result.corruptions:
        yield f"\n{result.corruptions} errors were found on the image."
        yield "Data may be corrupted, or further writes to the image may corrupt it."
    if result.leaks:
        yield f"\n{result.leaks} leaked clusters were found on the image."
        yield "This means waste of disk space, but no harm to data."
    if result.total_clusters:
        allocated = result.allocated_clusters
        shares = (
            f"{allocated}/{result.total_clusters} = {allocated * 100 / result.total_clusters:.2f}% allocated",
            f"{result.fragmented_clusters * 100 / max(allocated, 1):.2f}% fragmented",
            f"{result.compressed_clusters * 100 / max(allocated, 1):.2f}% compressed clusters",
        )
        yield ", ".join(shares)
    yield f"Image end offset: {result.image_end_offset}"


def run_check(options: argparse.Namespace) -> int:
    """``image check``."""
    from pyvmm.block import check_image

    if _peek(options.file, options.format, True).format == "raw":
        print(f"pyvmm: {options.file}: a raw image has nothing to check", file=sys.stderr)
        return NOT_CHECKABLE
    result = check_image(options.file, options.format, repair=options.repair)
    if options.output == "json":
        print(json.dumps(check_json(options.file, result), indent=4))
    elif not options.quiet:
        print("\n".join(check_lines(result)))
    if result.errors:
        return 1
    return CORRUPT if result.corruptions else LEAKS if result.leaks else 0


@contextmanager
def progress_bar(wanted: bool, text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A rich progress bar on standard error, as a function of bytes done and bytes in all."""
    if not wanted:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run_convert(options: argparse.Namespace) -> int:
    """``image convert``."""
    from pyvmm.block import convert_image

    extra = split_options(options.options)
    if "backing_file" in extra or "size" in extra:
        raise ConfigError(
            "-o backing_file, -o size: a converted image has its own data and the source's size"
        )
    arguments = create_arguments(extra, options.target_format)
    with progress_bar(options.progress and not options.quiet, os.path.basename(options.target)) as progress:
        convert_image(
            options.file,
            options.target,
            options.target_format,
            source_format=options.format,
            compress=options.compress,
            create=not options.no_create,
            cache=options.cache,
            progress=progress,
            **arguments,
        )
    return 0


def run_resize(options: argparse.Namespace) -> int:
    """``image resize``."""
    from pyvmm.block import open_image

    with open_image(options.file, options.format) as image:
        sign = options.size[:1] if options.size[:1] in "+-" else ""
        amount = _number("size", options.size.lstrip("+-"))
        size = {"": amount, "+": image.size + amount, "-": image.size - amount}[sign]
        if size < 0:
            raise ConfigError(f"size {options.size}: the image has only {image.size} bytes")
        image.resize(size, shrink=options.shrink)
    if not options.quiet:
        print("Image resized.")
    return 0


def run_map(options: argparse.Namespace) -> int:
    """``image map``."""
    from pyvmm.block.image import NO_LOCK, READ_ONLY, open_handle

    flags = READ_ONLY | (NO_LOCK if options.force_share else 0)
    with open_handle(options.file, options.format, "writeback", flags) as image:
        extents = list(image.map())
        paths = [options.file]
        info = image.info()
        while info.full_backing_file is not None:
            paths.append(info.full_backing_file)
            info = _peek(paths[-1], info.backing_format, True)
    if options.output == "json":
        rows = []
        for e in extents:
            row = {"start": e.start, "length": e.length, "depth": e.depth, "present": e.present, "zero": e.zero,
                   "data": e.data, "compressed": e.compressed}  # fmt: skip
            rows.append(row | ({} if e.offset is None else {"offset": e.offset}))
        print("[" + ",\n".join(json.dumps(row) for row in rows) + "]")
        return 0
    print(f"{'Offset':<16}{'Length':<16}{'Mapped to':<16}File")
    for e in extents:
        if e.data and not e.zero:
            where = "compressed" if e.offset is None else f"{e.offset:#x}"
            print(f"{e.start:<#16x}{e.length:<#16x}{where:<16}{paths[min(e.depth, len(paths) - 1)]}")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """``image compare``."""
    from pyvmm.block import compare_images, open_image

    try:
        with (
            open_image(options.file, options.format, read_only=True) as first,
            open_image(options.second, options.second_format, read_only=True) as second,
            progress_bar(options.progress, "compare") as progress,
        ):
            sizes = f"{first.size} and {second.size} bytes"
            if first.size != second.size and not options.quiet:
                print(f"{'Strict mode' if options.strict else 'Warning'}: Image size mismatch! ({sizes})")
            if first.size != second.size and options.strict:
                return 1
            offset = compare_images(first, second, progress)
    except ImageError as error:
        print(f"pyvmm: {error}", file=sys.stderr)
        return 2
    if not options.quiet:
        print("Images are identical." if offset is None else f"Content mismatch at offset {offset}!")
    return 0 if offset is None else 1


def run(options: argparse.Namespace) -> int:
    """Run the subcommand that was named; return the exit code."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "create": run_create,
        "info": run_info,
        "check": run_check,
        "convert": run_convert,
        "resize": run_resize,
        "map": run_map,
        "compare": run_compare,
    }
    return commands[options.image_command](options)
