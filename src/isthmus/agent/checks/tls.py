"""TLS contexts with which checks dial: the system's authorities, or the agent's own certificate.

Source: Consul 1.10, tlsutil, the configuration of checks.
"""

import functools
import ssl
from pathlib import Path
from typing import Final

from isthmus.net.network import TlsDial
from isthmus.net.tls import TlsConfigurator, TlsDisabled

_AUTHORITY_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
)


class CheckTls:
    """Makes the contexts.

    Args:
        configurator: The agent's certificates; None: there are none.
        use_agents: Checks show the agent's certificate and trust its authorities.
        agent_name: Expected in certificates then, where a check names nothing else.
    """

    def __init__(
        self,
        configurator: TlsConfigurator | None = None,
        *,
        use_agents: bool = False,
        agent_name: str = "",
    ) -> None:
        assert configurator is not None or not use_agents
        self._configurator, self._use_agents = configurator, use_agents
        self._agent_name = agent_name

    def server_name(self, configured: str) -> str:
        """Name to expect in a certificate; empty: that of the host that is dialled."""
        return configured or (self._agent_name if self._use_agents else "")

    def context(self, *, skip_verify: bool) -> ssl.SSLContext:
        """Context to dial with; it is not to be changed.

        Raises:
            OSError: The agent's files can not be read.
        """
        if not self._use_agents:
            return _public(skip_verify)
        assert self._configurator is not None
        if not skip_verify:
            try:
                return self._configurator.outgoing(TlsDial(server_name=self._agent_name or "-"))
            except TlsDisabled:
                pass  # There is no CA: the system's authorities have to do.
        context = _make(skip_verify)
        config = self._configurator.config
        if config.cert_file:
            context.load_cert_chain(config.cert_file, config.key_file)
        return context

    def authorities(self) -> bytes | None:
        """Certificates of the authorities that are trusted, as PEM; None: a library's own.

        Raises:
            OSError: They can not be read.
        """
        if not self._use_agents:
            return _system_authorities()
        found = self.context(skip_verify=False).get_ca_certs(binary_form=True)
        pem = "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in found)
        return pem.encode() or _system_authorities()

    def certificate(self) -> tuple[bytes, bytes] | None:
        """Chain and key to show to who asks, as PEM; None: there is none.

        Raises:
            OSError: They can not be read.
        """
        if not self._use_agents or self._configurator is None:
            return None
        config = self._configurator.config
        if not config.cert_file:
            return None
        return Path(config.cert_file).read_bytes(), Path(config.key_file).read_bytes()


@functools.cache
def _public(skip_verify: bool) -> ssl.SSLContext:
    return _make(skip_verify)


def _make(skip_verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _system_authorities() -> bytes | None:
    """What the system trusts, if it keeps that in one file."""
    configured = ssl.get_default_verify_paths().cafile
    for path in filter(None, (configured, *_AUTHORITY_FILES)):
        if Path(path).is_file():
            return Path(path).read_bytes()
    return None
