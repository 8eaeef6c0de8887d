"""HTTP checks against servers on loopback."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from isthmus.agent.checks.http import probe_http
from isthmus.agent.checks.result import Result
from isthmus.agent.checks.tls import CheckTls
from isthmus.model.agent import CheckDefinition
from isthmus.net.tls import TlsConfig, TlsConfigurator
from support.certificates import Authority

TIMEOUT = 30.0


async def probe(url: str, *, timeout: float = TIMEOUT, size: int = 4096, **fields: Any) -> Result:
    tls = fields.pop("tls", CheckTls())
    definition = CheckDefinition(http=url, **fields)
    return await probe_http(definition, timeout=timeout, output_size_max=size, tls=tls)


Use = Callable[[str], Awaitable[Result]]


async def answered(
    *answers: bytes, use: Use, context: ssl.SSLContext | None = None
) -> tuple[Result, list[bytes]]:
    """What `use` makes of a server at an address that answers so; and the requests it got."""
    waiting, requests = list(answers), list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            if b"Content-Length: " in request:
                size = int(request.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                request += await reader.readexactly(size)
            requests.append(request)
            writer.write(waiting.pop(0))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        host, port = server.sockets[0].getsockname()
        return await use(f"{host}:{port}"), requests


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (200, "passing"),
        (204, "passing"),
        (404, "critical"),
        (429, "warning"),
        (503, "critical"),
    ],
)
async def test_status_decides(code: int, status: str) -> None:
    answer = f"HTTP/1.1 {code} Word\r\nContent-Length: {0 if code == 204 else 4}\r\n\r\n"
    body = b"" if code == 204 else b"body"
    url = ""

    async def use(address: str) -> Result:
        nonlocal url
        url = f"http://{address}/health?deep=1"
        return await probe(url)

    found, (request,) = await answered(answer.encode() + body, use=use)
    assert found == Result(status, f"HTTP GET {url}: {code} Word Output: {body.decode()}")
    assert request.startswith(b"GET /health?deep=1 HTTP/1.1\r\n")
    assert b"\r\nUser-Agent: Consul Health Check\r\n" in request
    assert b"\r\nAccept: text/plain, text/*, */*\r\n" in request


async def test_headers_are_sent_as_given() -> None:
    header = {"X-Test": ("a", "b"), "host": ("web.example",), "User-Agent": ("mine",)}
    _, (request,) = await answered(OK, use=lambda at: probe(f"http://{at}", header=header))
    lines = request.split(b"\r\n")
    assert [line for line in lines if line.startswith(b"X-Test")] == [b"X-Test: a", b"X-Test: b"]
    assert [line.lower() for line in lines if line.lower().startswith(b"host")] == [
        b"host: web.example"
    ]
    assert [line for line in lines if line.startswith(b"User-Agent")] == [b"User-Agent: mine"]


async def test_method_and_body_are_sent() -> None:
    _, (request,) = await answered(
        OK, use=lambda at: probe(f"http://{at}", method="PUT", body="grüß")
    )
    assert request.startswith(b"PUT / HTTP/1.1\r\n")
    assert request.endswith("\r\n\r\ngrüß".encode())
    assert b"Content-Type" not in request


async def test_last_part_of_the_body_is_kept() -> None:
    found, _ = await answered(OK, use=lambda at: probe(f"http://{at}", size=3))
    assert found.output.endswith(" Output: ine")


MOVED = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"


async def test_redirect_is_followed_unless_that_is_switched_off() -> None:
    found, requests = await answered(MOVED, OK, use=lambda at: probe(f"http://{at}/here"))
    assert found.status == "passing"
    assert [request.split()[1] for request in requests] == [b"/here", b"/there"]
    found, requests = await answered(
        MOVED, OK, use=lambda at: probe(f"http://{at}/here", disable_redirects=True)
    )
    assert (found.status, len(requests)) == ("critical", 1)


async def test_redirects_come_to_an_end() -> None:
    found, requests = await answered(*[MOVED] * 30, use=lambda at: probe(f"http://{at}"))
    assert found.status == "critical"
    assert 10 <= len(requests) <= 11


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:abc/", "http://", "http://h:99999/", "nonsense", "ftp://h/", ""]
)
async def test_url_that_cannot_be_used_is_critical(url: str) -> None:
    found = await probe(url)
    assert found.status == "critical"
    assert found.output.startswith(f'Get "{url}": ')


async def test_header_that_cannot_be_sent_is_critical() -> None:
    found = await probe("http://127.0.0.1:1", header={"a\r\nb": ("c",)})
    assert found.status == "critical"


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n\r\n", b""])
async def test_answer_that_is_no_http_is_critical(answer: bytes) -> None:
    found, _ = await answered(answer, use=lambda at: probe(f"http://{at}"))
    assert found.status == "critical"


async def test_silence_is_critical_in_time() -> None:
    released = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        found = await probe(f"http://{host}:{port}", timeout=0.1)
        released.set()
    assert found.status == "critical"
    assert "context deadline exceeded" in found.output
    assert found.output.startswith('Get "http://127.0.0.1:')


# TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def agents(authority: Authority, name: str = "") -> CheckTls:
    """Checks that use the certificate of an agent called `agent.example`."""
    certificate = authority.issue("agent.example")
    config = TlsConfig(
        ca_file=str(certificate.ca_file),
        cert_file=str(certificate.cert_file),
        key_file=str(certificate.key_file),
    )
    return CheckTls(TlsConfigurator(config), use_agents=True, agent_name=name)


def server_context(authority: Authority, *, demand: bool = False) -> ssl.SSLContext:
    certificate = authority.issue("web.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    if demand:
        context.load_verify_locations(certificate.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def over_tls(context: ssl.SSLContext, **fields: Any) -> Result:
    found, _ = await answered(OK, use=lambda at: probe(f"https://{at}", **fields), context=context)
    return found


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_certificate_is_checked_unless_that_is_switched_off(authority: Authority) -> None:
    context = server_context(authority)
    assert (await over_tls(context)).status == "critical"
    assert (await over_tls(context, tls_skip_verify=True)).status == "passing"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_agents_authority_and_name_count_where_they_shall(authority: Authority) -> None:
    context = server_context(authority)
    tls = agents(authority, "agent.example")
    assert (await over_tls(context, tls=tls)).status == "critical"
    found = await over_tls(context, tls=tls, tls_server_name="web.example")
    assert found.status == "passing", found.output
    assert (await over_tls(context, tls=agents(authority, "web.example"))).status == "passing"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("skip", [False, True])
async def test_agents_certificate_is_shown(authority: Authority, skip: bool) -> None:
    context = server_context(authority, demand=True)
    tls = agents(authority, "web.example")
    assert (await over_tls(context, tls=tls, tls_skip_verify=skip)).status == "passing"
    assert (await over_tls(context, tls_skip_verify=True)).status == "critical"
