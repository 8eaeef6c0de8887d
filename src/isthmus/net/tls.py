"""TLS contexts from the operator's files, and their reload.

Three ways in (protocol/rpc.md §1.1): native TLS on the server port always demands a client
certificate; TLS behind the type byte demands one if so configured. One way out per ALPN name:
chain and server name are always checked, except that a dial without server name checks the
chain only.
"""

import asyncio
import ssl
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isthmus.errors import ConfigError, Mistake
from isthmus.names import Alpn
from isthmus.net.ciphers import SUITES, openssl_names
from isthmus.net.network import TlsAccept, TlsDial

if TYPE_CHECKING:
    from cryptography import x509

_VERSIONS: Final = {
    "tls10": ssl.TLSVersion.TLSv1,
    "tls11": ssl.TLSVersion.TLSv1_1,
    "tls12": ssl.TLSVersion.TLSv1_2,
    "tls13": ssl.TLSVersion.TLSv1_3,
}

_DIALLED: Final = (
    Alpn.RPC_MULTI,
    Alpn.RPC_SNAPSHOT,
    Alpn.RPC_GRPC,
    Alpn.WAN_GOSSIP_PACKET,
    Alpn.WAN_GOSSIP_STREAM,
)
"""ALPN names that we dial; a context exists for each."""

_HTTP: Final = ("http/1.1",)
"""What HTTPS speaks."""

_CERTIFICATE_ALERTS: Final = frozenset(
    {
        "bad certificate",
        "unsupported certificate",
        "certificate revoked",
        "certificate expired",
        "certificate unknown",
        "unknown ca",
        "certificate required",
    }
)
"""Alerts (RFC 8446 §6.2, as OpenSSL spells them) that speak of the certificate we showed."""


class HandshakeFailed(ssl.SSLError):
    """No TLS with this peer: wrong certificate, no common protocol, or it hung up meanwhile.

    Attributes:
        alert: Bytes that tell the peer why, not sent yet.
    """

    def __init__(self, text: str, *, alert: bytes = b"") -> None:
        super().__init__(1, text)
        self.alert = alert


class AlpnRefused(HandshakeFailed):
    """The peer did not accept the ALPN name we offered; it is no server, or not of our kind."""


class HandshakeEnded(HandshakeFailed):
    """The peer ended the connection in the handshake, without an alert.

    Gateways do so that know no way to the server name, and programs that speak no TLS.
    """


class TlsDisabled(HandshakeFailed):
    """We have no CA or certificate, so nothing was tried."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """What the operator configures; names are Consul's keys.

    Attributes:
        ca_file: PEM file of the agents' CA.
        ca_path: Directory of such files.
        cert_file: Our certificate, PEM, intermediates after it.
        key_file: Its key.
        verify_incoming: Demand client certificates wherever we accept TLS, and TLS for RPC.
        verify_incoming_rpc: The same for RPC only.
        verify_outgoing: Dial servers with TLS.
        verify_server_hostname: Check the name in the certificate of a server that we dial
            directly; through gateways it is always checked.
        server_name: Overrides the node name in our own checks of our certificate.
        tls_min_version: ``tls10``, ``tls11``, ``tls12`` or ``tls13``.
        cipher_suites: Keys of `net.ciphers.SUITES`, in order of preference; empty: OpenSSL's
            choice.
        node_name: Our node name.
        dc: Our datacenter.
        domain: DNS domain of the federation.
        allow_client_certificates: Let any certificate of the CA act as a server, as Consul does,
            instead of demanding one that names ``server.<dc>.<domain>``.
    """

    ca_file: str = ""
    ca_path: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify_incoming: bool = False
    verify_incoming_rpc: bool = False
    verify_outgoing: bool = False
    verify_server_hostname: bool = False
    server_name: str = ""
    tls_min_version: str = "tls12"
    cipher_suites: tuple[str, ...] = ()
    node_name: str = ""
    dc: str = ""
    domain: str = "consul"
    allow_client_certificates: bool = False

    @property
    def demands_tls_for_rpc(self) -> bool:
        """Whether RPC in clear is refused."""
        return self.verify_incoming or self.verify_incoming_rpc


class _Engine(ssl.SSLObject):
    """A TLS engine for asyncio, with what asyncio leaves out.

    A failed handshake carries the alert for the peer, who would see only that the connection
    ended. And a connection may stay open in one direction (`outlive_end`).
    """

    outgoing: ssl.MemoryBIO
    on_end: Callable[[], object] | None = None

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 (the name is theirs)
        found = super().read(len, buffer)
        if not found and self.on_end is not None:
            self.on_end()
            raise ssl.SSLWantReadError("the peer sends no more")
        return found

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            raise HandshakeFailed(describe(error), alert=self.outgoing.read()) from error


class _Context(ssl.SSLContext):
    """A context whose engines are `_Engine`."""

    sslobject_class = _Engine

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        engine = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(engine, _Engine)
        engine.outgoing = outgoing
        return engine


@dataclass(frozen=True, slots=True)
class _Contexts:
    """All contexts made from one reading of the files; replaced as a whole."""

    incoming: Mapping[TlsAccept, ssl.SSLContext] = field(default_factory=dict)
    outgoing: Mapping[tuple[str, bool], ssl.SSLContext] = field(default_factory=dict)


def outlive_end(transport: asyncio.BaseTransport, ended: Callable[[], None] | None) -> None:
    """Keep a TLS connection open for what we send when its peer says that it sends no more.

    That is what ``CloseWrite`` of Go's TLS does. Of its own accord asyncio closes the connection
    then, whatever `eof_received` returns. Without TLS, that return value alone decides.

    Args:
        transport: A connection of a `TlsConfigurator`'s context; others are left as they are.
        ended: Called after the last data, more than once perhaps; None: close again as asyncio
            does, a connection whose peer has ended already included.
    """
    engine = transport.get_extra_info("ssl_object")
    if isinstance(engine, _Engine):
        loop = asyncio.get_running_loop()
        engine.on_end = None if ended is None else partial(loop.call_soon, ended)


class TlsConfigurator:
    """Holds the contexts; may be asked from any thread, reloaded from one.

    Args:
        config: Files and switches.
        read_files: Whether contexts are made of the files; a simulated network needs none.

    Raises:
        ConfigError: A file cannot be read or used; every such mistake is listed.
    """

    def __init__(self, config: TlsConfig, *, read_files: bool = True) -> None:
        self._config, self._read_files = config, read_files
        self._contexts = _load(config) if read_files else _Contexts()

    @property
    def config(self) -> TlsConfig:
        """What the contexts were made from."""
        return self._config

    @property
    def ca_loaded(self) -> bool:
        """Whether we have a CA."""
        return bool(self._config.ca_file or self._config.ca_path)

    @property
    def cert_loaded(self) -> bool:
        """Whether we have a certificate with its key."""
        return bool(self._config.cert_file)

    @property
    def native_tls(self) -> bool:
        """Whether native TLS can be spoken: it needs a CA and a certificate."""
        return self.ca_loaded and self.cert_loaded

    def reload(self, config: TlsConfig | None = None) -> None:
        """Read the files again, for handshakes from now on.

        Args:
            config: Other files and switches; None for those we have.

        Raises:
            ConfigError: As the constructor; the old contexts stay in use.
        """
        config = config or self._config
        if self._read_files:
            self._contexts = _load(config)
        self._config = config

    def incoming(self, accept: TlsAccept) -> ssl.SSLContext:
        """Context for an accepted connection.

        Raises:
            TlsDisabled: We have no certificate, or no CA where the client's must be checked.
        """
        try:
            return self._contexts.incoming[accept]
        except KeyError:
            raise TlsDisabled("incoming TLS disabled: no CA or no certificate") from None

    def outgoing(self, dial: TlsDial) -> ssl.SSLContext:
        """Context for a dialled connection.

        Raises:
            TlsDisabled: We have no CA.
        """
        try:
            return self._contexts.outgoing[dial.alpn, bool(dial.server_name)]
        except KeyError:
            raise TlsDisabled(f"outgoing TLS disabled: no CA (ALPN {dial.alpn!r})") from None

    def check_client(self, certificate: Mapping[str, Any] | None) -> None:
        """Demand that a client's certificate is a server's, unless configured otherwise.

        Args:
            certificate: As ``SSLObject.getpeercert`` returns it.

        Raises:
            HandshakeFailed: It names no server of the domain.

        Source: protocol/rpc.md §1.1, "Incoming identity"; stricter than Consul, which checks
        the chain only, so that a client's certificate cannot act as a server.
        """
        if self._config.allow_client_certificates:
            return
        if not server_dcs(certificate, self._config.domain):
            names = ", ".join(certificate_names(certificate)) or "nothing"
            raise HandshakeFailed(
                f"client certificate is not a server's: it names {names},"
                f" not server.DATACENTER.{self._config.domain.rstrip('.')}; issue a server's"
                f" certificate, or set allow_client_certificates_rpc"
            )


def certificate_names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """DNS names of a certificate as ``getpeercert`` returns it, in lower case."""
    names: Iterable[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
    return tuple(name.lower() for kind, name in names if kind == "DNS")


def server_dcs(certificate: Mapping[str, Any] | None, domain: str) -> frozenset[str]:
    """Datacenters whose server a certificate proves its holder to be.

    They are the `dc` of the names ``server.<dc>.<domain>`` and ``<node>.server.<dc>.<domain>``.
    """
    suffix = "." + domain.rstrip(".").lower()
    dcs = set()
    for name in certificate_names(certificate):
        if not name.endswith(suffix):
            continue
        labels = name.removesuffix(suffix).split(".")
        if len(labels) >= 2 and labels[-2] == "server" and labels[-1]:
            dcs.add(labels[-1])
    return frozenset(dcs)


def describe(error: ssl.SSLError) -> str:
    """What went wrong in a handshake, in words for an operator."""
    if isinstance(error, HandshakeFailed):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is refused: {error.verify_message}"
    reason: str = getattr(error, "reason", None) or str(error)
    if reason.startswith(("TLSV1_ALERT", "SSLV3_ALERT", "TLSV13_ALERT")):
        alert = reason.split("ALERT_", 1)[1].replace("_", " ").lower()
        what = "our certificate" if alert in _CERTIFICATE_ALERTS else "the handshake"
        return f"the peer refused {what}: {alert}"
    return reason.replace("_", " ").lower()


def _load(config: TlsConfig) -> _Contexts:
    mistakes: list[Mistake] = []
    version = _VERSIONS.get(config.tls_min_version)
    if version is None:
        remedy = f"use one of {', '.join(_VERSIONS)}"
        text = f"unknown version {config.tls_min_version!r}"
        mistakes.append(Mistake("", "tls_min_version", text, remedy))
    if unknown := [suite for suite in config.cipher_suites if suite not in SUITES]:
        text = f"unsupported cipher suites: {', '.join(unknown)}"
        mistakes.append(Mistake("", "tls_cipher_suites", text, f"there are {', '.join(SUITES)}"))
    if bool(config.cert_file) != bool(config.key_file):
        missing = "key_file" if config.cert_file else "cert_file"
        mistakes.append(Mistake("", missing, "a certificate needs its key, and a key it", ""))
    authorities = _read_authorities(config, mistakes)
    if config.cert_file and config.key_file:
        _check_pair(config, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    assert version is not None

    def make(*, server: bool, check_peer: bool, alpn: Iterable[str]) -> ssl.SSLContext:
        context = _Context(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # The operator asked for it.
            context.minimum_version = version
        if config.cipher_suites:
            context.set_ciphers(openssl_names(config.cipher_suites))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED if check_peer else ssl.CERT_NONE
        if server:
            context.num_tickets = 0  # Every connection proves itself anew; no keys to rotate.
        if authorities:
            context.load_verify_locations(cadata=authorities)
        if config.cert_file:
            context.load_cert_chain(config.cert_file, config.key_file)
        names = list(alpn)
        if names:
            context.set_alpn_protocols(names)
        return context

    incoming: dict[TlsAccept, ssl.SSLContext] = {}
    outgoing: dict[tuple[str, bool], ssl.SSLContext] = {}
    if config.cert_file:
        incoming[TlsAccept(False, False)] = make(server=True, check_peer=False, alpn=())
        incoming[TlsAccept(False, False, True)] = make(server=True, check_peer=False, alpn=_HTTP)
        if authorities:
            incoming[TlsAccept(True, False)] = make(server=True, check_peer=True, alpn=())
            incoming[TlsAccept(True, True)] = make(server=True, check_peer=True, alpn=Alpn)
            incoming[TlsAccept(True, False, True)] = make(server=True, check_peer=True, alpn=_HTTP)
    if authorities:
        for alpn in ("", *_DIALLED):
            context = make(server=False, check_peer=True, alpn=(alpn,) if alpn else ())
            context.check_hostname = True
            outgoing[alpn, True] = context
        outgoing["", False] = make(server=False, check_peer=True, alpn=())
    return _Contexts(incoming, outgoing)


def _read_authorities(config: TlsConfig, mistakes: list[Mistake]) -> str:
    """Text of all CA files, empty when none is configured or one is bad."""
    files = [("ca_file", Path(config.ca_file))] if config.ca_file else []
    if config.ca_path:
        try:
            found = sorted(path for path in Path(config.ca_path).iterdir() if path.is_file())
            files += [("ca_path", path) for path in found]
            if not found:
                mistakes.append(Mistake("", "ca_path", f"no file in {config.ca_path}"))
        except OSError as error:
            text = f"cannot read {config.ca_path}: {error.strerror}"
            mistakes.append(Mistake("", "ca_path", text))
    texts = []
    for key, path in files:
        try:
            text = path.read_text("ascii")
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
            texts.append(text)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            mistakes.append(Mistake("", key, f"cannot use {path}: {reason}", "PEM certificates"))
        except ValueError as error:
            mistakes.append(Mistake("", key, f"cannot use {path}: {error}", "PEM certificates"))
    return "\n".join(texts)


def _check_pair(config: TlsConfig, mistakes: list[Mistake]) -> None:
    for key, name in (("cert_file", config.cert_file), ("key_file", config.key_file)):
        try:
            Path(name).read_bytes()
        except OSError as error:
            mistakes.append(Mistake("", key, f"cannot read {name}: {error.strerror}"))
            return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.cert_file, config.key_file, password=_no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        text = f"cannot use {config.cert_file} with {config.key_file}: {reason}"
        mistakes.append(Mistake("", "cert_file", text, "a PEM certificate and its key"))
    except ValueError as error:
        mistakes.append(Mistake("", "key_file", f"cannot use {config.key_file}: {error}"))


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a passphrase")


def dns_names(certificate: "x509.Certificate") -> tuple[str, ...]:
    """DNS names of a certificate, in lower case."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in names.value.get_values_for_type(x509.DNSName))
