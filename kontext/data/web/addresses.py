"""Which addresses may be asked: http and https, and of hosts no address inside a network.

A list of addresses is untrusted, and we may stand where it wants to look: beside a cloud's metadata
service, a router, a database. A name says nothing of where it leads, so it is resolved once, every
address of it is looked at, and the connection goes to one of those: asking the name again could
give another answer.
"""

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from kontext.data.web.problems import FetchError, PassingError

_LONGEST = 8192
_PORTS = {"http": 80, "https": 443}
_SAFE = "/%:@!$&'()*+,;=~-._?"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
# global addresses that answer inside of a network, and those that IPv4 was once carried behind
_INSIDE = ipaddress.ip_network("168.63.129.16/32")  # a cloud's own services, for its machines only
_RELAY = ipaddress.ip_network("192.88.99.0/24")
_EMBEDS = (0x00005EFE, 0x02005EFE)  # ISATAP: these, and then 32 bits of IPv4

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Url:
    """An address that may be asked, in the form that is sent."""

    scheme: str
    host: str  # lower case, ASCII
    port: int
    target: str  # path and query

    @property
    def origin(self) -> str:
        """What robots.txt is one for."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.origin + self.target


def parsed(text: str) -> Url:
    """The address `text`. Raises FetchError(url_refused) for what is none that we ask.

    >>> str(parsed("HTTP://Example.org:80/a b?q=ä#top"))
    'http://example.org/a%20b?q=%C3%A4'
    """
    try:
        if len(text) > _LONGEST or re.search(r"[\x00-\x1f\x7f]", text):
            raise ValueError("control characters, or too long")
        parts = urlsplit(text.strip())
        scheme = parts.scheme.lower()
        if scheme not in _PORTS:
            raise ValueError(f"'{scheme}' is neither http nor https")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it names a user")
        host = _ascii(parts.hostname or "")
        port = parts.port or _PORTS[scheme]
        query = f"?{parts.query}" if parts.query else ""
        target = quote((parts.path or "/") + query, safe=_SAFE)
    except ValueError as error:  # UnicodeError is one
        raise FetchError("url_refused", f"not asked: {error}") from error
    return Url(scheme, host, port, target)


def _ascii(host: str) -> str:
    """A host name as it is resolved. Raises ValueError."""
    found = host.rstrip(".")
    if not found:
        raise ValueError("it has no host")
    if ":" in found:
        return str(ipaddress.IPv6Address(found.partition("%")[0]))
    name = found.encode("idna").decode().lower()
    if not re.fullmatch(r"[a-z0-9._-]+", name):
        raise ValueError("its host is no name")
    return name


def resolved(host: str, port: int, allowed: Collection[str]) -> list[str]:
    """The addresses of a host, as numbers.

    Raises:
        PassingError: it has none now.
        FetchError: it has none, or one of them is inside a network and the host is not `allowed`.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        kind = PassingError if error.errno == socket.EAI_AGAIN else FetchError
        raise kind("unreachable", f"{host}: {error.strerror}") from error
    except (OSError, UnicodeError) as error:
        raise FetchError("unreachable", f"{host}: {error}") from error
    numbers = list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
    if not {host, f"{host}:{port}"} & set(allowed):
        for number in numbers:
            if not is_public(ipaddress.ip_address(number)):
                raise FetchError("address_private", f"{host} is an address inside a network")
    return numbers


def is_public(ip: Ip) -> bool:
    """Whether everybody on the internet could reach it, also through what it stands for."""
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None and (int(ip) >> 32) & 0xFFFFFFFF in _EMBEDS:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if ip.is_site_local:
            return False
    elif ip in _INSIDE or ip in _RELAY:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
