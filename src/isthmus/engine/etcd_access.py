"""Where an etcd is and what it wants to see, apart from how it is called, which loads much more."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from isthmus.store.engine import EngineUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdAccess:
    """How to reach an etcd cluster.

    Attributes:
        endpoints: ``host:port`` each; the first that answers is used until it fails.
        ca_file: Certificates that the endpoints must have been issued by; None: clear text.
        cert_file, key_file: Our own certificate, if the endpoints demand one.
        username, password: Of etcd's own access control; empty: none.
    """

    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        """Check what cannot work."""
        assert self.endpoints
        assert (self.cert_file is None) == (self.key_file is None)

    def context(self) -> ssl.SSLContext | None:
        """Read the files: what TLS is made with; None: clear text.

        Raises:
            EngineUnavailable: One cannot be read; the text names it.
        """
        if self.ca_file is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            named = error.filename or ", ".join(
                str(file) for file in (self.ca_file, self.cert_file, self.key_file) if file
            )
            raise EngineUnavailable(
                f"cannot read {named}: {error.strerror or error}; check storage's ca_file, "
                "cert_file and key_file",
                operation="open",
            ) from error
        context.set_alpn_protocols(["h2"])
        return context


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """Where the certificate, key and authority of a member of ours are.

    Attributes:
        directory: Their folder.
    """

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "storage-ca.pem"

    @property
    def certificate(self) -> Path:
        """Our certificate."""
        return self.directory / "storage.pem"

    @property
    def key(self) -> Path:
        """Our key."""
        return self.directory / "storage-key.pem"
