"""The clients of the server, and the share of it that each may use."""

import asyncio
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import HTTPConnection


class TooManyConnectionsError(RuntimeError):
    """All connections, or all connections of one client, are in use."""

    retry_after = 1.0  # seconds

    def __init__(self, detail: str = ""):
        super().__init__(f"too many requests at once{detail}: try again in {self.retry_after:g} s")


@dataclass
class Client:
    """A connected client; each of its uploads holds `decoding` while it is decoded."""

    decoding: asyncio.Semaphore
    connections: int = 0


class Clients:
    """Counts the connections of each client; one client can use at most `share` of the connections and the decoders.

    Args:
        max_connections: Maximum number of connections of all clients.
        decoders: Number of threads that decode uploads.
        share: Above 0, at most 1.
    """

    def __init__(self, *, max_connections: int, decoders: int, share: float):
        self.max_connections, self.decoders, self.share = max_connections, decoders, share
        self.clients: dict[str, Client] = {}

    @contextmanager
    def connection(self, name: str) -> Iterator[Client]:
        """Count a connection of this client while the block runs.

        Raises:
            TooManyConnectionsError: The client, or all clients together, have the maximum number of connections.
        """
        if sum(client.connections for client in self.clients.values()) >= self.max_connections:
            raise TooManyConnectionsError()
        client = self.clients.setdefault(name, Client(asyncio.Semaphore(max(1, int(self.decoders * self.share)))))
        if client.connections >= max(1, int(self.max_connections * self.share)):
            raise TooManyConnectionsError(" from your address")
        client.connections += 1
        try:
            yield client
        finally:
            client.connections -= 1
            if not client.connections:
                del self.clients[name]


def client_name(request: HTTPConnection) -> str:
    """Return the client's address; for IPv6 its first 64 bits, because a subscriber has all addresses with them."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
