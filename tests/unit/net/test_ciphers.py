"""Every suite that an operator may name is one of OpenSSL's."""

import ssl

import pytest

from isthmus.net.ciphers import SUITES, openssl_names


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_openssl_knows_the_suite(suite: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(f"{openssl_names([suite])}:@SECLEVEL=0")
    older = [one["name"] for one in context.get_ciphers() if one["protocol"] != "TLSv1.3"]
    assert older == [SUITES[suite]]


def test_order_is_kept_and_nothing_repeated() -> None:
    assert openssl_names(
        [
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_RSA_WITH_AES_128_CBC_SHA",
        ]
    ) == ("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305:AES128-SHA")
