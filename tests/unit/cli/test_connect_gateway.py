import pytest

from isthmus.cli.connect_gateway import parse, run
from isthmus.errors import ConfigError
from isthmus.gateway.registration import GatewayService

MESH = ["-gateway=mesh"]


@pytest.mark.parametrize(
    "args",
    [
        ["-gateway=mesh", "-register", "-expose-servers", "-address=127.0.0.1:1", "-service=gw"],
        [
            "--gateway",
            "mesh",
            "--register",
            "--expose-servers=true",
            "--address",
            "127.0.0.1:1",
            "-service",
            "gw",
        ],
        [
            "-mesh-gateway",
            "-register=1",
            "-expose-servers",
            "-address",
            "127.0.0.1:1",
            "--service=gw",
        ],
    ],
)
def test_flags_take_one_or_two_dashes_and_either_form_of_value(args: list[str]) -> None:
    settings = parse(args, {})
    assert settings.register
    assert settings.service == GatewayService(
        name="gw", id="gw", lan=("127.0.0.1", 1), exposes_servers=True
    )


def test_defaults_are_consuls() -> None:
    settings = parse(MESH, {})
    assert settings.service == GatewayService(
        name="mesh-gateway",
        id="mesh-gateway",
        lan=("", 8443),
        wan=None,
        binds=(),
        exposes_servers=False,
        deregister_after="6h",
    )
    assert (settings.register, settings.routes_file, settings.log_level) == (False, "", "info")
    assert settings.listen_as_registered
    assert str(settings.agent) == "http://127.0.0.1:8500"


def test_every_value_reaches_its_place() -> None:
    args = [*MESH, "-proxy-id=gw-1", "-address=127.0.0.1", "-wan-address=gateway.example:443"]
    args += ["-bind-address=a=127.0.0.1:1", "-bind-address", "b=[::1]:2"]
    args += ["-deregister-after-critical=1h", "-routes-file=/tmp/routes", "-log-level=WARN"]
    args += ["-http-addr=192.0.2.1:80", "-token=secret", "-register=false"]
    settings = parse(args, {"CONSUL_HTTP_ADDR": "192.0.2.9:80"})
    assert settings.service == GatewayService(
        id="gw-1",
        lan=("127.0.0.1", 8443),
        wan=("gateway.example", 443),
        binds=(("a", ("127.0.0.1", 1)), ("b", ("::1", 2))),
        deregister_after="1h",
    )
    assert (settings.routes_file, settings.log_level) == ("/tmp/routes", "warn")
    assert (str(settings.agent), settings.agent.token) == ("http://192.0.2.1:80", "secret")
    assert not settings.register
    assert not settings.listen_as_registered


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 8443)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[2001:db8::1]:1", ("2001:db8::1", 1)),
        ("[2001:db8::1]", ("2001:db8::1", 8443)),
        ("2001:db8::1", ("2001:db8::1", 8443)),
    ],
)
def test_addresses_have_a_default_port(address: str, expected: tuple[str, int]) -> None:
    assert parse([*MESH, f"-wan-address={address}"], {}).service.wan == expected


def test_lan_address_without_a_host_is_the_nodes() -> None:
    assert parse([*MESH, "-address=:4433"], {}).service.lan == ("", 4433)


def test_id_comes_from_the_environment_after_the_flag() -> None:
    environ = {"CONNECT_PROXY_ID": "from-environment"}
    assert parse(MESH, environ).service.id == "from-environment"
    assert parse([*MESH, "-proxy-id=x"], environ).service.id == "x"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "-gateway: the kind of gateway is missing"),
        (["-gateway=ingress"], "'ingress' is not supported"),
        ([*MESH, "-expose-servers"], "-expose-servers: needs -register"),
        ([*MESH, "-bind-address=127.0.0.1:1"], "-bind-address: bad value"),
        ([*MESH, "-bind-address=a=127.0.0.1"], "missing port in address"),
        ([*MESH, "-address=127.0.0.1:x"], "-address: bad port"),
        ([*MESH, "-address=203.0.113.77"], "not an address of this machine"),
        ([*MESH, "-wan-address={{ GetPublicIP }}"], "templates are not supported"),
        ([*MESH, "-deregister-after-critical=soon"], "invalid duration"),
        ([*MESH, "-log-level=loud"], "unknown level 'loud'"),
        ([*MESH, "-sidecar-for=web"], "-sidecar-for: flag provided but not defined"),
        ([*MESH, "-register=maybe"], "invalid boolean value"),
        ([*MESH, "-address"], "flag needs an argument"),
        ([*MESH, "extra"], "unexpected argument 'extra'"),
        ([*MESH, "-http-addr=ftp://x"], "bad address"),
    ],
)
def test_mistakes_are_named(args: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(args, {})
    assert text in str(caught.value)


def test_all_mistakes_are_reported_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-gateway=x", "-expose-servers", "-log-level=loud"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_help_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-help"]) == 0
    assert "-expose-servers" in capsys.readouterr().out
