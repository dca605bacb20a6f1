"""``pyvmm net``: bridges, taps, VLANs and VXLANs of this host, for machines with ``--net tap``.

``--explain`` prints the commands of iproute2 that do the same, and does nothing. Everything else needs root, or a
network namespace of one's own (``unshare -Urn``), and pyroute2 (the extra ``net``).
"""

from __future__ import annotations

import argparse
from typing import Any

from pyvmm.cli import exit_codes
from pyvmm.net import host

EXAMPLE = """\
example: two machines in VLAN 10 of a bridge, one in VLAN 20
  pyvmm net bridge br0 --vlan-filtering
  pyvmm net tap t1 --bridge br0 --vlan 10 --user $USER
  pyvmm net tap t2 --bridge br0 --vlan 10 --user $USER
  pyvmm net tap t3 --bridge br0 --vlan 20 --user $USER
  pyvmm run a.qcow2 --net tap,ifname=t1
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add ``pyvmm net``."""
    parser = subparsers.add_parser(
        "net",
        help="bridges, taps, VLANs and VXLANs of this host",
        description="Make and remove interfaces of this host, for machines with --net tap.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, help: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
        command.add_argument("--netns", metavar="NAME", help="in this network namespace")
        if name != "show":
            command.add_argument("--explain", action="store_true", help="print what ip and bridge would do")
        return command

    bridge = add("bridge", "a switch in the kernel")
    bridge.add_argument("name")
    bridge.add_argument(
        "--vlan-filtering", action="store_true", help="ports are in VLANs: net tap --vlan, net port"
    )
    bridge.add_argument("--address", metavar="CIDR", help="of the host on it, e.g. 192.168.7.1/24")
    tap = add("tap", "an interface that a machine has the other end of")
    tap.add_argument("name")
    tap.add_argument("--bridge", metavar="NAME", help="plug it in")
    tap.add_argument("--user", help="who may open it without being root")
    tap.add_argument("--vlan", type=int, metavar="VID", help="an access port of this VLAN (with --bridge)")
    vlan = add("vlan", "a sub-interface with the frames of one VLAN")
    vlan.add_argument("parent")
    vlan.add_argument("vid", type=int)
    vlan.add_argument("--name", help="default PARENT.VID")
    vlan.add_argument("--address", metavar="CIDR")
    port = add("port", "put an interface on a bridge, or change its VLANs")
    port.add_argument("bridge")
    port.add_argument("name", help="the interface, or the bridge's own name for the host's side")
    port.add_argument(
        "--vlan", type=int, metavar="VID", help="frames without a tag belong to it: an access port"
    )
    port.add_argument(
        "--tagged", type=int, action="append", default=[], metavar="VID", help="with its tag: a trunk"
    )
    vxlan = add("vxlan", "a tunnel for Ethernet between hosts")
    vxlan.add_argument("name")
    vxlan.add_argument("vni", type=int)
    vxlan.add_argument("--remote", metavar="IP", help="the other host, or a multicast group (with --dev)")
    vxlan.add_argument("--local", metavar="IP", help="this host's address")
    vxlan.add_argument("--dev", metavar="NAME", help="the interface that carries it")
    vxlan.add_argument("--port", type=int, default=host.VXLAN_PORT, help="UDP port (default %(default)s)")
    vxlan.add_argument("--bridge", metavar="NAME", help="plug it in")
    add("remove", "take an interface away").add_argument("name")
    namespace = add("namespace", "a network namespace, as ip netns has them")
    namespace.add_argument("name")
    namespace.add_argument("--remove", action="store_true", help="take it away instead")
    add("show", "the interfaces that there are")


def steps(options: argparse.Namespace) -> list[host.Step]:
    """What the command line asks for.

    Raises
    ------
    ConfigError
        A value that cannot be.
    """
    if options.action == "bridge":
        return host.make_bridge(options.name, vlan_filtering=options.vlan_filtering, cidr=options.address)
    if options.action == "tap":
        if options.vlan is not None and options.bridge is None:
            from pyvmm.errors import ConfigError

            raise ConfigError(
                f"--vlan {options.vlan}: only a port of a bridge is in a VLAN; add --bridge NAME"
            )
        made = host.make_tap(options.name, user=options.user, bridge=options.bridge)
        return made + (
            host.join_vlan(options.name, options.vlan, untagged=True) if options.vlan is not None else []
        )
    if options.action == "vlan":
        return host.make_vlan(options.parent, options.vid, name=options.name, cidr=options.address)
    if options.action == "port":
        return _port(options)
    if options.action == "vxlan":
        return host.make_vxlan(
            options.name,
            options.vni,
            remote=options.remote,
            local=options.local,
            device=options.dev,
            port=options.port,
            bridge=options.bridge,
        )
    if options.action == "namespace":
        return (host.remove_namespace if options.remove else host.make_namespace)(options.name)
    return host.remove(options.name)


def _port(options: argparse.Namespace) -> list[host.Step]:
    own = options.name == options.bridge
    made = [] if own else host.attach(host.check_name(options.name), options.bridge)
    for vid in options.tagged:
        made += host.join_vlan(options.name, vid, bridge=own)
    if options.vlan is not None:
        made += host.join_vlan(options.name, options.vlan, untagged=True, bridge=own)
    return made


def run(options: argparse.Namespace) -> int:
    """Do it, or explain it."""
    if options.action == "show":
        _show(options.netns)
        return exit_codes.OK
    wanted = steps(options)
    if options.explain:
        inside = f"ip netns exec {options.netns} " if options.netns else ""
        for step in wanted:
            print(f"{inside}{step.command}")
        return exit_codes.OK
    host.run(wanted, namespace=options.netns)
    return exit_codes.OK


def _show(namespace: str | None) -> None:
    rows = [("NAME", "KIND", "STATE", "BRIDGE", "ADDRESSES", "")]
    for item in host.show(namespace=namespace):
        state = "up" if item.up else "down"
        rows.append((item.name, item.kind, state, item.master, " ".join(item.addresses), item.details))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print(
            "  ".join(
                [*(text.ljust(width) for text, width in zip(row[:5], widths, strict=True)), row[5]]
            ).rstrip()
        )
