"""Which addresses belong to the public internet. Pure."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

#: the part of IPv6 in which public addresses are given out (RFC 4291 §2.4)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
#: IPv4 behind a translator (RFC 6052), whose last four bytes are an IPv4 address
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an address, as the resolver writes it, is public; false for what is no address.

    An IPv6 address that holds an IPv4 address (mapped, NAT64, 6to4, Teredo) is as public as that one.
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return _is_public_v4(address)
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(IPv4Address(address.packed[12:]))
    held = [each for each in inner if each is not None]
    if held:
        return all(map(_is_public_v4, held))
    return _is_public_v6(address)


def _is_public_v4(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _is_public_v6(address: IPv6Address) -> bool:
    return address in _GLOBAL_UNICAST and address.is_global
