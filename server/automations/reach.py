"""Whom the server may send something to, as others than its admins say where.

A URL names a host, and whose address that is may change between a check and the connection. So each address is looked
at right before it is connected to.
"""

import errno
import ipaddress
import socket
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""Addresses of IPv4 inside of IPv6 (NAT64)."""
_GIVEN_OUT = ipaddress.ip_network("2000::/3")
"""All public addresses of IPv6 so far. Others are local ones (`fec0::1`), or mean some of IPv4."""
_OF_CLOUDS = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
"""Look public, but lead to services of the cloud that a machine is in: Azure's and Oracle's."""


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket for an address as `getaddrinfo` tells it; `PermissionError` unless it is a public one."""
    family, kind, protocol, _, target = info
    if not is_public(str(target[0])):
        raise PermissionError(
            errno.EACCES, "not an address of the public internet; an admin of the server may allow it"
        )
    return socket.socket(family, kind, protocol)


def is_public(text: str) -> bool:
    """Whether this is the address of somebody in the public internet."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:  # such as 2130706433, in which systems see 127.0.0.1
        return False
    if inside := _inside(address):
        return all(is_public(str(inner)) for inner in inside)
    if isinstance(address, ipaddress.IPv6Address) and address not in _GIVEN_OUT:
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _OF_CLOUDS)


def _inside(address: Address) -> list[Address]:
    """Return the addresses of IPv4 that one of IPv6 leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]
