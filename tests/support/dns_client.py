"""Asking a DNS server over sockets, and a server of other names that the library speaks for."""

import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset

from support.dns import rows

PORT: Final = 8600
TIMEOUT: Final = 10.0
POLL_TIMEOUT: Final = 1.0


def ask(
    host: str,
    name: str,
    kind: str = "A",
    *,
    port: int = PORT,
    tcp: bool = False,
    edns: int = 4096,
    timeout: float = TIMEOUT,
) -> dns.message.Message:
    """The answer to a question.

    Raises:
        OSError: None came.
    """
    query = dns.message.make_query(name, kind, use_edns=0 if edns else -1, payload=edns or 1232)
    send = dns.query.tcp if tcp else dns.query.udp
    try:
        return send(query, host, port=port, timeout=timeout)
    except dns.exception.Timeout as error:
        raise OSError(str(error)) from error


def answers(host: str, name: str, kind: str = "A", **options: Any) -> list[str]:
    """Data of the records in the answer, sorted."""
    message = ask(host, name, kind, **options)
    return sorted(row.split(" ", 3)[3] for row in rows(message.answer))


def known(host: str, name: str, **options: Any) -> list[str]:
    """Addresses of a name, asked without patience: for repeating it until it is known.

    Raises:
        OSError: No answer came.
    """
    return answers(host, name, timeout=POLL_TIMEOUT, **options)


def code(host: str, name: str, kind: str = "A", **options: Any) -> str:
    """Code of the answer."""
    return dns.rcode.to_text(ask(host, name, kind, **options).rcode())


class OtherNames:
    """A DNS server on UDP and TCP that knows addresses of a few names, and no others.

    Args:
        names: Addresses by name.
        host: Where it listens.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], host: str = "127.0.0.1") -> None:
        self._names = {f"{name}.": found for name, found in names.items()}
        self._tcp = socket.create_server((host, 0))
        self.host, self.port = self._tcp.getsockname()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((self.host, self.port))
        serving = (self._serve_udp, self._serve_tcp)
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in serving]

    def __enter__(self) -> "OtherNames":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._udp.sendto(b"", (self.host, self.port))
        socket.create_connection((self.host, self.port)).close()
        for thread in self._threads:
            thread.join(TIMEOUT)
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while True:
            data, source = self._udp.recvfrom(4096)
            if not data:
                return
            self._udp.sendto(self._answer(data), source)

    def _serve_tcp(self) -> None:
        while True:
            client, _ = self._tcp.accept()
            with client, client.makefile("rb") as stream:
                size = stream.read(2)
                if not size:
                    return
                answer = self._answer(stream.read(struct.unpack(">H", size)[0]))
                client.sendall(struct.pack(">H", len(answer)) + answer)

    def _answer(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        name, kind = query.question[0].name, query.question[0].rdtype
        found = self._names.get(str(name))
        if found is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif kind == dns.rdatatype.A:
            reply.answer = [dns.rrset.from_text(name, 60, "IN", "A", *found)]
        return reply.to_wire()
