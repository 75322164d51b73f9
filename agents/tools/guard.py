"""Connections that only reach where they may: the address that is connected to is the one that was checked.

A name is resolved once, every address it has is judged, and the connection is made to a judged address, never to the
name: a DNS server that answers differently the second time gains nothing. TLS still verifies the name.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import httpcore
import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
RESOLVE_S = 5.0
#: What resolvers say of a name that does not exist, or has no address.
_UNKNOWN = (socket.EAI_NONAME, socket.EAI_NODATA)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: Not private by their registry, but no web site either: some clouds answer there with a machine's own secrets.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.88.99.0/24",  # relays of 6to4, given up
        "3fff::/20",  # documentation
        "fec0::/10",  # site-local, given up
    )
)


class AddressRefused(Exception):
    """The host has no address that may be reached. The message says which it has and what an operator can do."""


class NoSuchHost(httpcore.ConnectError):
    """The name leads to no address: not that nobody could be asked for it."""


def _behind(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one leads to, where it does (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address.sixtofour:
            return address.ipv4_mapped or address.sixtofour or address
        if address.teredo:
            return address.teredo[1]
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Tell whether an address is on the public internet: not private, loopback, link-local, metadata or multicast."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        return False
    real = _behind(address)
    if any(real in network for network in _SPECIAL):
        return False
    return real.is_global and not (real.is_multicast or real.is_reserved or real.is_unspecified)


class AllowList:
    """The private hosts that may be reached all the same: names, addresses, ``host:port`` and networks (CIDR).

    Raises:
        ValueError: a network is not one.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._hosts: set[tuple[str, int | None]] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in filter(None, (entry.strip().lower() for entry in entries)):
            if "/" in entry:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
                continue
            host, colon, port = entry.rpartition(":")
            with_port = bool(colon) and port.isdigit() and (":" not in host or host.endswith("]"))
            self._hosts.add((host.strip("[]"), int(port)) if with_port else (entry.strip("[]"), None))

    def names(self, host: str, port: int) -> bool:
        """Tell whether the host itself is listed, with this port or with all."""
        host = host.lower().strip("[]")
        return (host, None) in self._hosts or (host, port) in self._hosts

    def allows(self, host: str, port: int, address: Address) -> bool:
        """Tell whether ``address``, which ``host`` resolves to, may be connected to on ``port``."""
        if is_public(address) or self.names(host, port) or self.names(str(address), port):
            return True
        real = _behind(address)
        return any(real in network or address in network for network in self._networks)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections to allowed addresses only."""

    def __init__(self, allow: AllowList) -> None:
        self._allow = allow
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the interface of httpcore)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve ``host`` once and connect to the first of its allowed addresses that answers.

        Raises:
            AddressRefused: none of its addresses is allowed.
            httpcore.ConnectError: the name is unknown, or nobody answers.
        """
        addresses = await self._resolve(host, port)
        allowed = [address for address in addresses if self._allow.allows(host, port, address)]
        if not allowed:
            where = host if host == str(addresses[0]) else f"{host}, at {addresses[0]},"
            raise AddressRefused(
                f"{where} is not on the public internet. An operator can allow it in ASTRA_ALLOWED_PRIVATE_HOSTS."
            )
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in allowed[:4]:
            try:
                stream = await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            peer = stream.get_extra_info("server_addr")
            if not self._allow.allows(host, port, ipaddress.ip_address(peer[0])):
                await stream.aclose()
                raise AddressRefused(f"{host} answered from {peer[0]}, which is not on the public internet.")
            return stream
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 (the interface of httpcore)
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no URL leads to a Unix socket."""
        raise AddressRefused("Unix sockets are out of reach.")

    async def sleep(self, seconds: float) -> None:
        """Wait, for httpcore's own retries."""
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> Sequence[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"the name {host} could not be resolved in {RESOLVE_S:g} s") from None
        except UnicodeError:
            raise NoSuchHost(f"no such host: {host}") from None
        except OSError as error:
            if error.errno in _UNKNOWN:
                raise NoSuchHost(f"no such host: {host}") from None
            raise httpcore.ConnectError(f"the name {host} could not be looked up") from None
        return [ipaddress.ip_address(address) for address in dict.fromkeys(str(entry[4][0]) for entry in found)]


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the context that all crawls share: reading the certificates takes 20 ms."""
    return httpx.create_ssl_context()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class GuardedTransport(httpx.AsyncBaseTransport):
    """An httpx transport over :class:`GuardedBackend`. It follows no proxy of the environment.

    Errors of the network come out as httpcore's own (`httpcore.NetworkError`, `httpcore.TimeoutException` …).
    """

    def __init__(self, allow: AllowList, *, connections: int = 16) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=15.0,
            network_backend=GuardedBackend(allow),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await self._pool.aclose()
