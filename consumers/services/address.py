"""Which addresses a service may have: a name in the settings must not lead a call into the private network.

Resolving and checking are one step, and the call then goes to the address that was checked: a name that is resolved
twice can be two addresses (DNS rebinding).
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from cdc.runtime.errors import DependencyDown

_Address = IPv4Address | IPv6Address

#: IPv4 inside IPv6, with the bits below it: mapped addresses are read by ipaddress itself. RFC 6052, RFC 3056.
_NAT64 = IPv6Network("64:ff9b::/96")
#: What is public of IPv6 is in here (RFC 4291 2.4), whatever else is set apart some day.
_UNICAST = IPv6Network("2000::/3")
#: Set apart for protocols, and for ipaddress public until late in Python 3.11: a cloud keeps its credentials there.
_PROTOCOLS = IPv4Network("192.0.0.0/24")


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Give the addresses of a host, in the order to try them.

    Raises DependencyDown when there are none, or when any of them is not public and may not be otherwise: that is wrong
    for every call, so they wait.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise DependencyDown(f"{host} has no address: {getattr(exc, 'strerror', None) or 'not a name'}") from exc
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private and not all(is_public(address) for address in addresses):
        hint = "Set allow_private = true for this service if it is meant to be inside"
        raise DependencyDown(f"{host} has an address that is not public: nothing was called", hint=hint)
    if any(is_nobodys(address) for address in addresses):
        hint = "Link-local (where clouds keep their credentials), multicast and unspecified addresses are never called"
        raise DependencyDown(f"{host} has an address that no service may have: nothing was called", hint=hint)
    return addresses


def is_nobodys(text: str) -> bool:
    """Tell whether an address can be no service, not even an internal one."""
    address = _unwrap(ip_address(text.partition("%")[0]))
    return address.is_link_local or address.is_multicast or address.is_unspecified


def is_public(text: str) -> bool:
    """Tell whether an address belongs to the public internet: not private, loopback, link-local, shared or multicast.

    An IPv4 address that is written inside an IPv6 one is judged as itself.
    """
    address = _unwrap(ip_address(text.partition("%")[0]))
    if address in _PROTOCOLS or (isinstance(address, IPv6Address) and address not in _UNICAST):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _unwrap(address: _Address) -> _Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
