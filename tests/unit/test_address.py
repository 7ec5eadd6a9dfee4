"""Which addresses are public."""

import socket
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.runtime.errors import DependencyDown
from consumers.services.address import is_public, resolve

#: IANA's special-purpose registries, and multicast.
NOT_PUBLIC = [
    ip_network(text)
    for text in """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.168.0.0/16
    198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    ::1/128 ::/128 fc00::/7 fe80::/10 fec0::/10 ff00::/8 2001:db8::/32 100::/64 64:ff9b:1::/48 5f00::/16
    """.split()
]
PRIVATE_V4 = [network for network in NOT_PUBLIC if isinstance(network, IPv4Network)]


@given(
    st.sampled_from(NOT_PUBLIC).flatmap(
        lambda network: st.integers(0, network.num_addresses - 1).map(network.__getitem__)
    )
)
def test_no_address_of_a_special_network_is_public(address: object) -> None:
    assert not is_public(str(address))


@given(
    st.sampled_from(PRIVATE_V4).flatmap(
        lambda network: st.integers(0, network.num_addresses - 1).map(network.__getitem__)
    )
)
def test_a_private_address_is_found_inside_an_ipv6_one(address: IPv4Address) -> None:
    high, low = divmod(int(address), 1 << 16)
    for text in (f"::ffff:{address}", f"64:ff9b::{address}", f"2002:{high:x}:{low:x}::1", f"::{address}"):
        assert not is_public(text)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


def test_a_scope_does_not_hide_a_link_local_address() -> None:
    assert not is_public("fe80::1%eth0")


def names(*addresses: str) -> object:
    """Stand in for the resolver: a name of which we say what it is."""
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["127.0.0.1"], ["::ffff:10.0.0.1"], ["fd00::1", "100.64.0.1"]]
)
def test_a_host_with_any_private_address_is_called_only_if_allowed(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", names(*addresses))
    with pytest.raises(DependencyDown, match="allow_private"):
        resolve("service.example", 443, allow_private=False)
    assert resolve("service.example", 443, allow_private=True) == addresses


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "fe80::1%eth0",
        "0.0.0.0",  # noqa: S104  no server here
        "::",
        "224.0.0.1",
    ],
)
def test_no_permission_lets_a_call_go_where_no_service_can_be(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", names("10.0.0.1", address))
    with pytest.raises(DependencyDown, match="no service may have"):
        resolve("service.example", 443, allow_private=True)


def test_addresses_keep_the_resolvers_order_and_stand_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", names("8.8.8.8", "1.1.1.1", "8.8.8.8"))
    assert resolve("service.example", 443, allow_private=False) == ["8.8.8.8", "1.1.1.1"]


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".example", "..", ""])
def test_a_host_without_an_address_is_down(host: str) -> None:
    with pytest.raises(DependencyDown, match=r"no address|not public"):
        resolve(host, 443, allow_private=False)
