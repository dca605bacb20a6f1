"""``pyvmm net``: what it says that it does, and that it does it, in namespaces that the test makes for itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from pyvmm.errors import ConfigError
from pyvmm.net import host

PYVMM = [sys.executable, "-m", "pyvmm.cli.main", "net"]
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def commands(steps: list[host.Step]) -> list[str]:
    return [step.command for step in steps]


def test_explain() -> None:
    assert commands(host.make_bridge("br0", vlan_filtering=True, cidr="192.168.7.1/24")) == [
        "ip link add br0 type bridge vlan_filtering 1",
        "ip addr add 192.168.7.1/24 dev br0",
        "ip link set br0 up",
    ]
    assert commands(host.make_tap("t1", user="0", bridge="br0")) == [
        "ip tuntap add t1 mode tap vnet_hdr user 0",
        "ip link set t1 master br0",
        "ip link set t1 up",
    ]
    assert commands(host.join_vlan("t1", 10, untagged=True)) == [
        "bridge vlan add dev t1 vid 10 pvid untagged master",
        "bridge vlan del dev t1 vid 1 master",
    ]
    assert commands(host.join_vlan("br0", 10, bridge=True)) == ["bridge vlan add dev br0 vid 10 self"]
    assert commands(host.make_vlan("eth0", 7)) == [
        "ip link add link eth0 name eth0.7 type vlan id 7",
        "ip link set eth0.7 up",
    ]
    assert commands(host.make_vxlan("vx", 42, remote="239.1.1.1", device="eth0", bridge="br0")) == [
        "ip link add vx type vxlan id 42 dstport 4789 group 239.1.1.1 dev eth0",
        "ip link set vx master br0",
        "ip link set vx up",
    ]
    assert commands(host.remove("vx")) == ["ip link del vx"]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "sixteen-letters-", "a:b", "..", "x\0y"])
def test_names(name: str) -> None:
    with pytest.raises(ConfigError, match="not an interface's name"):
        host.make_bridge(name)


def test_values() -> None:
    for vid in (0, 4095, -1):
        with pytest.raises(ConfigError, match="1 to 4094"):
            host.make_vlan("eth0", vid)
    with pytest.raises(ConfigError, match="1 to 16777215"):
        host.make_vxlan("vx", 1 << 24)
    with pytest.raises(ConfigError, match="not an IP address"):
        host.make_vxlan("vx", 1, remote="host")
    with pytest.raises(ConfigError, match="--port"):
        host.make_vxlan("vx", 1, port=0)
    with pytest.raises(ConfigError, match="with its prefix"):
        host.make_bridge("br0", cidr="10.0.0.1")
    with pytest.raises(ConfigError, match="no such user"):
        host.make_tap("t", user="nobody-has-this-name")


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root of a user and network namespace of its own, ``$NET`` being ``pyvmm net``."""
    return subprocess.run(
        [*UNSHARE, "sh", "-c", script],
        env={**os.environ, "NET": " ".join(PYVMM)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def namespace() -> None:
    pytest.importorskip("pyroute2", reason="pyroute2 is not installed")
    if shutil.which("ip") is None:
        pytest.skip("no ip (iproute2) to compare with")
    done = in_namespace("true")
    if done.returncode:
        pytest.skip(f"no namespace of one's own here: {done.stderr.strip()}")


def need_kind(words: str) -> None:
    done = in_namespace(f"ip link add probe {words}")
    if done.returncode:
        pytest.skip(f"this kernel has no {words}: {done.stderr.strip()}")


@pytest.mark.usefixtures("namespace")
def test_tap_on_a_bridge() -> None:
    need_kind("type bridge")
    done = in_namespace(
        "$NET bridge br0 --address 192.168.7.1/24 && $NET tap t1 --bridge br0 && ip -o link show t1"
        " && ip -o addr show br0 && $NET show && $NET tap t1; $NET remove t1 && $NET remove br0 && $NET remove br0"
    )
    assert "master br0" in done.stdout
    assert "192.168.7.1/24" in done.stdout
    assert "tap   " in done.stdout
    assert "ip tuntap add t1 mode tap vnet_hdr: it is there already" in done.stderr
    assert "br0: there is no such interface" in done.stderr
    assert done.returncode == 1


@pytest.mark.usefixtures("namespace")
def test_vxlan() -> None:
    need_kind("type vxlan id 5 dstport 4789")
    done = in_namespace(
        "$NET vxlan vx0 42 --remote 10.0.0.2 --local 10.0.0.1 && ip -d -o link show vx0 && $NET show"
    )
    assert "vxlan id 42 remote 10.0.0.2 local 10.0.0.1" in done.stdout
    assert "VXLAN 42" in done.stdout


@pytest.mark.usefixtures("namespace")
def test_vlan_filtering() -> None:
    need_kind("type bridge vlan_filtering 1")
    done = in_namespace(
        "$NET bridge br0 --vlan-filtering && $NET tap t1 --bridge br0 --vlan 10 && $NET port br0 br0 --tagged 10"
        " && $NET vlan br0 10 --address 10.1.0.1/24 && bridge vlan show && $NET show"
    )
    assert done.returncode == 0, done.stderr
    assert "10 PVID Egress Untagged" in done.stdout
    assert "VLAN 10 of br0" in done.stdout


@pytest.mark.usefixtures("namespace")
def test_other_namespaces() -> None:
    done = in_namespace(
        "mount -t tmpfs none /run && $NET namespace n1 && $NET tap t9 --netns n1 && $NET show --netns n1"
        " && ! $NET show | grep t9 && $NET namespace n1 --remove && $NET show --netns n1"
    )
    assert "t9" in done.stdout
    assert "--netns n1: " in done.stderr
    assert "pyvmm net namespace makes one" in done.stderr


def test_without_privileges() -> None:
    pytest.importorskip("pyroute2", reason="pyroute2 is not installed")
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        argv = []
        if os.geteuid() == 0:
            pytest.skip("root, and no setpriv to be somebody else")
    else:
        argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*argv, *PYVMM, "bridge", "pyvmm-none"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "needs root (CAP_NET_ADMIN)" in done.stderr
    assert done.stderr.count("\n") == 1
