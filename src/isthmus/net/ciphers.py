"""Names of TLS cipher suites: as operators write them, and as OpenSSL calls them.

Those of TLS 1.3 cannot be chosen, here as in Consul. Source: RFC 5246 §A.5, RFC 5289, RFC 7905;
protocol/cli-config-dns.md §2.3, `tls_cipher_suites`.
"""

from collections.abc import Iterable
from typing import Final

_BULK: Final = {
    "AES_128_CBC_SHA": "AES128-SHA",
    "AES_256_CBC_SHA": "AES256-SHA",
    "AES_128_CBC_SHA256": "AES128-SHA256",
    "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
_CHACHA: Final = "CHACHA20-POLY1305"
_EXCHANGES: Final = {
    "ECDHE_ECDSA": "ECDHE-ECDSA-",
    "ECDHE_RSA": "ECDHE-RSA-",
    "RSA": "",
}

SUITES: Final = {
    f"TLS_{exchange}_WITH_{bulk}": f"{prefix}{name}"
    for exchange, prefix in _EXCHANGES.items()
    for bulk, name in _BULK.items()
} | {
    f"TLS_{exchange}_WITH_CHACHA20_POLY1305{ending}": f"{_EXCHANGES[exchange]}{_CHACHA}"
    for exchange in ("ECDHE_ECDSA", "ECDHE_RSA")
    for ending in ("", "_SHA256")
}
"""OpenSSL's names by the standard's."""


def openssl_names(suites: Iterable[str]) -> str:
    """What `ssl.SSLContext.set_ciphers` takes.

    Args:
        suites: Keys of `SUITES`.
    """
    return ":".join(dict.fromkeys(SUITES[suite] for suite in suites))
