"""``isthmus connect gateway``: run the built-in mesh gateway.

Takes the flags of ``consul connect envoy`` as far as they concern a mesh gateway. It parses them
itself and imports little: the process it becomes is meant to stay small.

Source: protocol/federation.md §16; protocol/cli-config-dns.md §1.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from isthmus.errors import ConfigError, Mistake
from isthmus.gateway.agent import agent_address
from isthmus.gateway.process import LOG_LEVELS, GatewaySettings, is_local, run_gateway
from isthmus.gateway.registration import GatewayService
from isthmus.names import GATEWAY_PORT, MESH_GATEWAY_KIND, split_host_port
from isthmus.units import parse_duration

_BOOLEANS: Final = {"mesh-gateway", "register", "expose-servers", "help"}
_VALUES: Final = {
    "gateway",
    "service",
    "proxy-id",
    "address",
    "wan-address",
    "bind-address",
    "deregister-after-critical",
    "routes-file",
    "log-level",
    "http-addr",
    "token",
    "token-file",
    "ca-file",
    "ca-path",
    "client-cert",
    "client-key",
    "tls-server-name",
}
_REPEATED: Final = {"bind-address"}

USAGE: Final = """\
Usage: isthmus connect gateway -gateway=mesh [options]

  Forwards TLS between datacenters by server name, without decrypting it. Learns its
  routes from the local agent and keeps forwarding while the agent is away.

  -gateway=mesh (or -mesh-gateway)   Kind of gateway; mesh is the only one.
  -register                          Register with the local agent, deregister at the end.
                                     Without it: listen where the registration of -proxy-id
                                     says, unless an address is given here.
  -expose-servers                    Let other datacenters reach our servers (needs -register).
  -service=NAME, -proxy-id=ID        Service name and id (mesh-gateway).
  -address=IP[:PORT]                 LAN address to advertise and listen on (port 8443).
  -wan-address=HOST[:PORT]           WAN address to advertise; also listened on when it is local.
  -bind-address=NAME=IP:PORT         Listen here instead; may be given several times.
  -deregister-after-critical=6h      Deregister after being critical for this long.
  -routes-file=PATH                  Keep the last routes here, to start without the agent.
  -log-level=info                    trace, debug, info, warn or err.
  -http-addr, -token, -token-file, -ca-file, -ca-path, -client-cert, -client-key,
  -tls-server-name                   The agent; also by Consul's environment variables.
"""


@dataclass(slots=True)
class _Flags:
    values: dict[str, str] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    binds: list[str] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, flag: str, text: str, remedy: str = "") -> None:
        """Note a mistake; all are reported together."""
        self.mistakes.append(Mistake("flag", f"-{flag}", text, remedy))


def run(args: list[str]) -> int:
    """Run the command; returns its exit code."""
    if any(argument in {"-h", "-help", "--help"} for argument in args):
        sys.stdout.write(USAGE)
        return 0
    try:
        return run_gateway(parse(args, os.environ))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def parse(args: Sequence[str], environ: Mapping[str, str]) -> GatewaySettings:
    """Read the command line.

    Raises:
        ConfigError: All mistakes in it.
    """
    flags = _read_flags(args)
    _check_kind(flags)
    lan = _address(flags, "address") or ("", GATEWAY_PORT)
    wan = _address(flags, "wan-address")
    binds = tuple(bind for text in flags.binds if (bind := _bind(flags, text)))
    if not binds and lan[0] and not is_local(lan[0]):
        flags.wrong(
            "address",
            f"{lan[0]} is not an address of this machine",
            "name the address to listen on with -bind-address",
        )
    name = flags.values.get("service") or MESH_GATEWAY_KIND
    service = GatewayService(
        name=name,
        id=flags.values.get("proxy-id") or environ.get("CONNECT_PROXY_ID") or name,
        lan=lan,
        wan=wan,
        binds=binds,
        exposes_servers="expose-servers" in flags.switches,
        deregister_after=_deregister_after(flags),
    )
    level = flags.values.get("log-level", "info").lower()
    if level not in LOG_LEVELS:
        flags.wrong("log-level", f"unknown level {level!r}", f"one of {', '.join(LOG_LEVELS)}")
    try:
        agent = agent_address(flags.values, environ)
    except ConfigError as error:
        flags.mistakes.extend(error.mistakes)
    if flags.mistakes:
        raise ConfigError(flags.mistakes)
    return GatewaySettings(
        agent=agent,
        service=service,
        register="register" in flags.switches,
        listen_as_registered=not (flags.switches & {"register"} or lan[0] or binds),
        routes_file=flags.values.get("routes-file", ""),
        log_level=level,
    )


def _read_flags(args: Sequence[str]) -> _Flags:
    """Sort the arguments: one or two dashes, ``-flag=value`` or ``-flag value``."""
    flags = _Flags()
    rest = list(args)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            flags.wrong("", f"unexpected argument {argument!r}")
            continue
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if name in _BOOLEANS:
            if value.lower() in {"", "1", "t", "true"}:
                flags.switches.add(name)
            elif value.lower() not in {"0", "f", "false"}:
                flags.wrong(name, f"invalid boolean value {value!r}")
        elif name not in _VALUES:
            flags.wrong(name, "flag provided but not defined", "see -help")
        elif not equals and not rest:
            flags.wrong(name, "flag needs an argument")
        else:
            value = value if equals else rest.pop(0)
            if name in _REPEATED:
                flags.binds.append(value)
            else:
                flags.values[name] = value
    return flags


def _check_kind(flags: _Flags) -> None:
    kind = flags.values.get("gateway", "")
    is_mesh = kind == "mesh" or "mesh-gateway" in flags.switches
    if kind not in {"", "mesh"}:
        flags.wrong("gateway", f"{kind!r} is not supported here", "-gateway=mesh")
    elif not is_mesh:
        flags.wrong("gateway", "the kind of gateway is missing", "-gateway=mesh")
    if "expose-servers" in flags.switches and not ("register" in flags.switches and is_mesh):
        flags.wrong("expose-servers", "needs -register and a mesh gateway")


def _deregister_after(flags: _Flags) -> str:
    text = flags.values.get("deregister-after-critical") or "6h"
    try:
        parse_duration(text)
    except ValueError as error:
        flags.wrong("deregister-after-critical", str(error), "a duration such as 6h")
    return text


def _address(flags: _Flags, flag: str) -> tuple[str, int] | None:
    """Value of an address flag, ``HOST[:PORT]``; None when it is not given or wrong."""
    text = flags.values.get(flag, "")
    if not text:
        return None
    if "{{" in text:
        flags.wrong(flag, f"templates are not supported: {text!r}", "give the address itself")
        return None
    bare = ":" not in text or text.endswith("]") or (text.count(":") > 1 and text[0] != "[")
    if bare:
        return text.removeprefix("[").removesuffix("]"), GATEWAY_PORT
    try:
        if flag == "address" and text.startswith(":"):
            return "", split_host_port(f"localhost{text}")[1]
        return split_host_port(text)
    except ValueError as error:
        flags.wrong(flag, str(error), "IP or IP:PORT")
        return None


def _bind(flags: _Flags, text: str) -> tuple[str, tuple[str, int]] | None:
    name, equals, address = text.partition("=")
    try:
        if not equals or not name:
            raise ValueError(f"bad value {text!r}")
        return name, split_host_port(address)
    except ValueError as error:
        flags.wrong("bind-address", str(error), "NAME=IP:PORT")
        return None
