"""What an operator is told to do; the texts are what etcd 3.4 and TLS say."""

import pytest

from isthmus.engine.etcd_advice import advice


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("h:1 does not answer: [Errno 111] Connect call failed", "storage.endpoints"),
        ("h:1 does not answer: [Errno -2] Name or service not known", "storage.endpoints"),
        (
            "h:1 does not answer: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
            "unable to get local issuer certificate",
            "storage.ca_file must",
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: IP address mismatch, "
            "certificate is not valid for '127.0.0.1'.",
            "storage.endpoints",
        ),
        ("the connection broke: [SSL: SSLV3_ALERT_BAD_CERTIFICATE]", "storage.cert_file"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]", "storage.cert_file"),
        ("h:1 does not answer: UNAVAILABLE: the server hung up", "set storage.ca_file"),
        ("h:1 does not answer: ConnectionResetError", "leave out storage.ca_file"),
        ("etcdserver: authentication failed, invalid user ID or password", "password"),
        ("etcdserver: user name is empty", "storage.username"),
        ("etcdserver: authentication is not enabled", "leave out storage.username"),
        ("PERMISSION_DENIED: etcdserver: permission denied", "storage.prefix"),
        ("etcdserver: no leader", "majority"),
    ],
)
def test_operator_is_told_what_to_do(said: str, told: str) -> None:
    assert told in advice(said)


def test_what_is_not_known_gets_no_advice() -> None:
    assert advice("etcdserver: something else") == ""
