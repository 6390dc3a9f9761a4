"""What carries the first hop, from fake trees of the system's files."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.system.medium import MAX_AGE_S, MAX_HOSTS, MediumProbe
from hybrid_detect.types import Medium

from ..clock import FakeClock

UP, GATEWAY, REJECT = 0x1, 0x2, 0x200


def printed(address: str) -> str:
    """An IPv4 address as the kernel prints it: a number of this machine's byte order."""
    octets = bytes(int(part) for part in address.split("."))
    return f"{int.from_bytes(octets, sys.byteorder):08X}"


def ipv4(root: Path, *routes: tuple[str, str, int, int, int]) -> None:
    """Routes as (interface, network, prefix, metric, flags)."""
    lines = ["Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"]
    for name, network, prefix, metric, flags in routes:
        mask = (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF
        octets = ".".join(str(mask >> shift & 255) for shift in (24, 16, 8, 0))
        lines.append(
            f"{name}\t{printed(network)}\t{printed('0.0.0.0')}\t{flags:04X}\t0\t0\t{metric}\t"
            f"{printed(octets)}\t0\t0\t0"
        )
    put(root, "proc/net/route", "\n".join(lines) + "\n")


def ipv6(root: Path, *routes: tuple[str, int, int, int, int]) -> None:
    """Routes as (interface, network, prefix, metric, flags)."""
    lines = [
        f"{network:032x} {prefix:02x} {0:032x} 00 {0:032x} {metric:08x} 00000001 00000000 "
        f"{flags:08x} {name:>8}"
        for name, network, prefix, metric, flags in routes
    ]
    put(root, "proc/net/ipv6_route", "\n".join(lines) + "\n")


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def interface(root: Path, name: str, **facts: object) -> None:
    """An interface: `devtype`, `type`, `driver` of its device, and folders below it."""
    folder = f"sys/class/net/{name}"
    devtype = facts.get("devtype")
    uevent = f"DEVTYPE={devtype}\n" if devtype else ""
    put(root, f"{folder}/uevent", f"{uevent}INTERFACE={name}\nIFINDEX=2\n")
    put(root, f"{folder}/type", f"{facts.get('type', 1)}\n")
    if "driver" in facts:
        put(root, f"{folder}/device/uevent", f"DRIVER={facts['driver']}\n")
    for other in facts.get("folders", ()):  # type: ignore[attr-defined]
        (root / folder / other).mkdir()


def medium(root: Path, host: str = "api.example.com") -> Medium:
    return MediumProbe(root=root).read(host)


def default(root: Path, name: str) -> None:
    ipv4(root, (name, "0.0.0.0", 0, 0, UP | GATEWAY))


WLAN0 = {"devtype": "wlan", "driver": "brcmfmac"}
ETH0 = {"driver": "bcmgenet"}
WWAN0 = {"devtype": "wwan", "driver": "qmi_wwan"}


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("wlan0", WLAN0, Medium.WIFI),
        ("wlp2s0", {"driver": "iwlwifi", "folders": ["wireless"]}, Medium.WIFI),
        ("wlp3s0", {"driver": "ath10k", "folders": ["phy80211"]}, Medium.WIFI),
        ("wwan0", WWAN0, Medium.CELLULAR),
        ("rmnet_data0", {"type": 519}, Medium.CELLULAR),
        ("rmnet_data1", {"type": 530}, Medium.CELLULAR),
        ("eth0", ETH0, Medium.WIRED),
        ("enp3s0", {"driver": "virtio_net"}, Medium.WIRED),
        ("usb0", {"driver": "rndis_host"}, Medium.UNKNOWN),  # a telephone: who knows what it is on
        ("eth1", {"driver": "ipheth"}, Medium.UNKNOWN),
        ("tun0", {"type": 65534}, Medium.UNKNOWN),
        ("ppp0", {"devtype": "ppp", "type": 512}, Medium.UNKNOWN),
        ("eth0", {}, Medium.UNKNOWN),  # one end of a container's cable
    ],
)
def test_the_interface_of_the_route_tells(
    tmp_path: Path, name: str, facts: dict[str, object], expected: Medium
) -> None:
    interface(tmp_path, name, **facts)
    default(tmp_path, name)
    assert medium(tmp_path) is expected


def test_of_two_ways_out_the_one_of_the_lower_metric_counts(tmp_path: Path) -> None:
    interface(tmp_path, "eth0", **ETH0)
    interface(tmp_path, "wlan0", **WLAN0)
    for eth0, wlan0, expected in ((100, 600, Medium.WIRED), (700, 600, Medium.WIFI)):
        ipv4(
            tmp_path,
            ("eth0", "0.0.0.0", 0, eth0, UP | GATEWAY),
            ("wlan0", "0.0.0.0", 0, wlan0, UP | GATEWAY),
        )
        assert medium(tmp_path) is expected


def test_an_address_goes_by_the_most_exact_route(tmp_path: Path) -> None:
    interface(tmp_path, "eth0", **ETH0)
    interface(tmp_path, "wwan0", **WWAN0)
    ipv4(
        tmp_path,
        ("wwan0", "0.0.0.0", 0, 0, UP | GATEWAY),
        ("eth0", "192.168.1.0", 24, 100, UP),
        ("eth0", "10.0.0.0", 8, 100, REJECT | UP),
    )
    assert medium(tmp_path, "192.168.1.7") is Medium.WIRED
    assert medium(tmp_path, "192.168.2.7") is Medium.CELLULAR
    assert medium(tmp_path, "10.1.2.3") is Medium.CELLULAR
    assert medium(tmp_path, "a.home") is Medium.CELLULAR
    assert medium(tmp_path, "2001:db8::1") is Medium.UNKNOWN, "there is no way there"


def test_ipv6_counts_as_well(tmp_path: Path) -> None:
    interface(tmp_path, "wlan0", **WLAN0)
    interface(tmp_path, "eth0", **ETH0)
    unreachable = ("lo", 0, 0, 0xFFFFFFFF, 0x00200200)
    ipv6(tmp_path, ("wlan0", 0, 0, 1024, UP | GATEWAY), unreachable)
    assert medium(tmp_path) is Medium.WIFI
    assert medium(tmp_path, "[2001:db8::1]") is Medium.WIFI
    default(tmp_path, "wlan0")
    assert medium(tmp_path) is Medium.WIFI
    default(tmp_path, "eth0")
    assert medium(tmp_path) is Medium.UNKNOWN, "the two part company"
    assert medium(tmp_path, "198.51.100.1") is Medium.WIRED


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "127.3.2.1"])
def test_this_machine_needs_no_radio(tmp_path: Path, host: str) -> None:
    interface(tmp_path, "wwan0", **WWAN0)
    default(tmp_path, "wwan0")
    assert medium(tmp_path, host) is Medium.WIRED


def test_what_lies_on_top_is_what_lies_below(tmp_path: Path) -> None:
    interface(tmp_path, "wlan0", **WLAN0)
    interface(tmp_path, "eth0", **ETH0)
    interface(tmp_path, "bond0", folders=["lower_wlan0"])
    interface(tmp_path, "br0", folders=["lower_bond0"])
    default(tmp_path, "br0")
    assert medium(tmp_path) is Medium.WIFI
    (tmp_path / "sys/class/net/br0/lower_eth0").mkdir()
    assert medium(tmp_path) is Medium.UNKNOWN
    (tmp_path / "sys/class/net/bond0/lower_br0").mkdir()  # no kernel would
    assert medium(tmp_path) is Medium.UNKNOWN


def test_where_the_system_does_not_tell_it_is_unknown(tmp_path: Path) -> None:
    assert medium(tmp_path) is Medium.UNKNOWN
    assert medium(tmp_path, "") is Medium.UNKNOWN
    assert isinstance(MediumProbe().read("api.example.com"), Medium)


@given(text=st.text(), host=st.text())
def test_no_reading_raises(tmp_path_factory: pytest.TempPathFactory, text: str, host: str) -> None:
    root = tmp_path_factory.mktemp("root")
    put(root, "proc/net/route", text.encode("utf-8", "ignore").decode())
    put(root, "proc/net/ipv6_route", text.encode("utf-8", "ignore").decode())
    assert medium(root, host) in Medium


def test_a_reading_is_kept_for_a_while(tmp_path: Path) -> None:
    clock = FakeClock()
    interface(tmp_path, "eth0", **ETH0)
    interface(tmp_path, "wlan0", **WLAN0)
    default(tmp_path, "eth0")
    probe = MediumProbe(root=tmp_path, clock=clock)
    assert probe.read("a") is Medium.WIRED
    default(tmp_path, "wlan0")
    assert probe.read("a") is Medium.WIRED
    clock.now_s += MAX_AGE_S
    assert probe.read("a") is Medium.WIFI
    for number in range(3 * MAX_HOSTS):
        probe.read(f"host{number}")
    assert len(probe._known) <= MAX_HOSTS


# -- the app -------------------------------------------------------------------------------------


def test_what_the_app_tells_goes_first(tmp_path: Path) -> None:
    interface(tmp_path, "eth0", **ETH0)
    default(tmp_path, "eth0")
    assert MediumProbe("cellular", root=tmp_path).read("a") is Medium.CELLULAR
    assert MediumProbe(Medium.UNKNOWN, root=tmp_path).read("a") is Medium.UNKNOWN
    told: list[str | None] = [None, "wifi", Medium.CELLULAR]
    clock = FakeClock()
    probe = MediumProbe(lambda: told.pop(0), root=tmp_path, clock=clock)
    seen = []
    for _ in range(3):
        seen.append(probe.read("a"))
        clock.now_s += MAX_AGE_S
    assert seen == [Medium.WIRED, Medium.WIFI, Medium.CELLULAR]


@pytest.mark.parametrize("told", [lambda: "5g", lambda: 1 / 0])
def test_an_app_s_function_that_fails_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, told: object
) -> None:
    interface(tmp_path, "wlan0", **WLAN0)
    default(tmp_path, "wlan0")
    clock = FakeClock()
    probe = MediumProbe(told, root=tmp_path, clock=clock)  # type: ignore[arg-type]
    for _ in range(3):
        assert probe.read("a") is Medium.WIFI
        clock.now_s += MAX_AGE_S
    assert len(caplog.records) == 1
    assert "5g" not in caplog.text


def test_an_app_s_function_that_failed_once_is_asked_again(tmp_path: Path) -> None:
    told = iter([1 / 2, "cellular"])
    clock = FakeClock()
    probe = MediumProbe(lambda: next(told), root=tmp_path, clock=clock)  # type: ignore[arg-type,return-value]
    assert probe.read("a") is Medium.UNKNOWN
    clock.now_s += MAX_AGE_S
    assert probe.read("a") is Medium.CELLULAR
