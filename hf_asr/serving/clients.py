"""Who asks a server, and how much of it each may have."""

import asyncio
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request


class TooManyError(RuntimeError):
    """All connections are taken, or all that one client may have."""


@dataclass
class Client:
    """One that has connections; `decoding` is held while one of its uploads is decoded."""

    decoding: asyncio.Semaphore
    connections: int = 0


class Clients:
    """Counts the connections of all clients and of each: none may take all, nor all decoders."""

    def __init__(self, *, max_connections: int, decoders: int, share: float):
        self.max_connections, self.decoders, self.share = max_connections, decoders, share
        self.clients: dict[str, Client] = {}

    @contextmanager
    def connection(self, name: str) -> Iterator[Client]:
        """Counts a connection of this client while the block runs.

        Raises:
            TooManyError: There are too many.
        """
        if sum(client.connections for client in self.clients.values()) >= self.max_connections:
            raise TooManyError("too many requests at once")
        client = self.clients.setdefault(name, Client(asyncio.Semaphore(max(1, int(self.decoders * self.share)))))
        if client.connections >= max(1, int(self.max_connections * self.share)):
            raise TooManyError("too many requests at once from your address")
        client.connections += 1
        try:
            yield client
        finally:
            client.connections -= 1
            if not client.connections:
                del self.clients[name]


def client_name(request: Request) -> str:
    """The address that asks; of IPv6 the first half, as a subscriber has all addresses that begin with it."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
