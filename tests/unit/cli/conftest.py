"""An agent that answers as it is told, and the program run in this process."""

from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from isthmus.cli.main import main
from support.cli import Cli, FakeAgent, Result, handler_of, serving


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAgent]:
    """An agent on loopback that CONSUL_HTTP_ADDR names."""
    fake = FakeAgent("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(fake))
    fake.address = f"127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("CONSUL_HTTP_ADDR", fake.address)
    for _ in serving(server):
        yield fake


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Run the program in this process."""

    def run(*args: str) -> Result:
        code = main(args)
        captured = capfdbinary.readouterr()
        return Result(
            code, captured.out.decode(errors="replace"), captured.err.decode(), captured.out
        )

    return run


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's own agent."""
    for name in (
        "CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_AUTH",
        "CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY", "CONSUL_CACERT", "CONSUL_CAPATH",
        "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_TLS_SERVER_NAME", "CONSUL_NAMESPACE",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
