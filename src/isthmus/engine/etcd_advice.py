"""What an operator can do when somebody else's etcd cannot be used: by what it, or TLS, says."""

from typing import Final

_ADVICE: Final = (
    (
        ("certificate is not valid for",),
        "write storage.endpoints with the names or addresses that etcd's certificate holds",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED",),
        "storage.ca_file must hold the authority that etcd's certificate was issued by",
    ),
    (
        ("BAD_CERTIFICATE", "CERTIFICATE_REQUIRED", "UNKNOWN_CA"),
        "etcd wants a certificate of an authority that it trusts: check storage.cert_file and "
        "key_file",
    ),
    (
        ("WRONG_VERSION_NUMBER", "ConnectionResetError", "UNEXPECTED_EOF"),
        "perhaps etcd speaks no TLS there: then leave out storage.ca_file, cert_file and key_file",
    ),
    (("server hung up",), "perhaps etcd wants TLS there: then set storage.ca_file"),
    (
        ("invalid user ID or password", "user name is empty", "invalid auth token"),
        "check storage.username and password",
    ),
    (
        ("authentication is not enabled",),
        "leave out storage.username and password, or turn etcd's access control on",
    ),
    (
        ("permission denied",),
        "storage.username must be a user who may read and write all keys under storage.prefix",
    ),
    (
        ("does not answer",),
        "check that etcd runs, that storage.endpoints are where its clients reach it, and that "
        "no firewall is between",
    ),
    (
        ("no leader", "no answer in time", "timed out"),
        "etcd needs a majority of its members: check that they run and reach each other",
    ),
)
"""What is said, and what helps; the first that fits."""


def advice(text: str) -> str:
    """What to do about an error's text; empty when nothing is known."""
    return next((help_ for said, help_ in _ADVICE if any(part in text for part in said)), "")
