"""Files and flags → one checked `AgentConfig`, or all mistakes at once.

Order of precedence, weakest first: defaults, the ``-dev`` preset, files and texts in the order
given, flags. Lists of flags stand before those of files, as in Consul.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from isthmus.config.definitions import check_definition, service_definition, watch_definition
from isthmus.config.keys import KEYS
from isthmus.config.kinds import ADDRESS, ADDRESSES, Merge
from isthmus.config.model import AddressConfig, AgentConfig, Definition, GossipTimers, LeaveConfig
from isthmus.config.records import placed
from isthmus.config.rules import broken_rules, warnings
from isthmus.config.settings import Settings
from isthmus.config.sources import Source, read_sources
from isthmus.config.surroundings import Surroundings
from isthmus.config.templates import advertised_ipv4, expand, is_template
from isthmus.errors import ConfigError, Mistake

T = TypeVar("T")

DEV_GRPC_PORT: Final = 8502
_ANY_IPV4: Final = "0.0.0.0"
_ANY: Final = (_ANY_IPV4, "::", "[::]")
_DEV_VALUES: Final[Mapping[str, object]] = {
    "server": True,
    "bind_addr": "127.0.0.1",
    "connect.enabled": True,
    "log_level": "DEBUG",
    "ports.grpc": DEV_GRPC_PORT,
    "performance.raft_multiplier": 1,
    "ui_config.enabled": True,
    "disable_keyring_file": True,
    "enable_debug": True,
}


def load(
    sources: Sequence[Source],
    flags: Mapping[str, object] | None = None,
    *,
    dev: bool = False,
    surroundings: Surroundings | None = None,
) -> AgentConfig:
    """Read, merge and check a configuration.

    Args:
        sources: Files, directories and texts, later ones win.
        flags: Values by key name (``ports.http``), each as its kind's `parse` returned it.
        dev: Start from the preset for one developer.
        surroundings: The machine; None for this one.

    Returns:
        The whole configuration; what it warns of is in `AgentConfig.warnings`.

    Raises:
        ConfigError: Every mistake that was found. Nothing was started.
    """
    flags = flags or {}
    settings = Settings()
    trees, unreadable = read_sources(sources)
    for name, value in flags.items():
        if KEYS[name].kind.merge is Merge.APPEND:
            settings.add_value(name, value, source=f"-{KEYS[name].flag or name}")
    for tree in trees:
        settings.add_tree(tree)
    for name, value in flags.items():
        if KEYS[name].kind.merge is not Merge.APPEND:
            settings.add_value(name, value, source=f"-{KEYS[name].flag or name}")
    builder = _Builder(settings, surroundings or Surroundings.of_this_machine(), dev=dev)
    config = builder.build()
    mistakes = [*unreadable, *settings.mistakes, *builder.mistakes]
    # A value that could not be read is missing; do not report what follows from that as well.
    broken = {mistake.key for mistake in mistakes}
    mistakes += [rule for rule in broken_rules(config) if rule.key not in broken]
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    return replace(config, warnings=(*settings.warnings, *warnings(config)))


class _Builder:
    """Put settings into their fields, and what depends on other settings in its place."""

    def __init__(self, settings: Settings, surroundings: Surroundings, *, dev: bool) -> None:
        self._settings = settings
        self._surroundings = surroundings
        self._dev = dev
        self._values: dict[str, Any] = dict(_DEV_VALUES) if dev else {}
        self._values.update((name, one.value) for name, one in settings.values.items())
        self.mistakes: list[Mistake] = []

    def build(self) -> AgentConfig:
        config = AgentConfig(dev=self._dev)
        if self._dev:
            timers = GossipTimers.dev()
            config = replace(
                config,
                gossip=replace(config.gossip, lan=timers, wan=timers),
                http=replace(config.http, pretty=True),
            )
        self._expand_templates()
        config = placed(config, self._fields())
        config = self._identity(config)
        services, checks = self._definitions()
        watches = self._normalised(("watches",), watch_definition)
        return replace(
            config,
            addresses=self._addresses(config.addresses),
            leave=self._leave(config),
            tls=replace(
                config.tls,
                # Consul documents that the one implies the other.
                verify_outgoing=config.tls.verify_outgoing or config.tls.verify_server_hostname,
            ),
            check=replace(
                config.check,
                enable_local_script_checks=config.check.enable_local_script_checks
                or config.check.enable_remote_script_checks,
            ),
            services=services,
            checks=checks,
            watches=watches,
            origins={name: one.source for name, one in self._settings.values.items()},
        )

    def _fields(self) -> dict[str, Any]:
        """Values by field path."""
        computed = {"services", "checks", "watches", "data_dir", "tls.cipher_suites", "acl.tokens"}
        fields: dict[str, Any] = {
            KEYS[name].field: tuple(value) if isinstance(value, list) else value
            for name, value in self._values.items()
            if KEYS[name].field and KEYS[name].field not in computed
        }
        if directory := self._values.get("data_dir"):
            fields["data_dir"] = Path(directory)
        if suites := self._values.get("tls_cipher_suites"):
            fields["tls.cipher_suites"] = tuple(suites.replace(",", " ").split())
        fields["acl.tokens"] = {
            name: value
            for name, value in self._values.get("acl.tokens", {}).items()
            if isinstance(value, str)
        }
        for name in ("domain", "alt_domain"):
            if name in fields:
                fields[name] = fields[name].rstrip(".")
        if level := fields.get("log.level"):
            fields["log.level"] = level.upper()
        return fields

    def _identity(self, config: AgentConfig) -> AgentConfig:
        datacenter = config.datacenter.lower()
        named = self._values.get("primary_datacenter", "")
        return replace(
            config,
            datacenter=datacenter,
            primary_datacenter=named.lower() or datacenter,
            node_name=self._values.get("node_name", self._surroundings.hostname),
            node_id=config.node_id.lower(),
        )

    def _leave(self, config: AgentConfig) -> LeaveConfig:
        return LeaveConfig(
            on_terminate=self._values.get("leave_on_terminate", not config.server),
            skip_on_interrupt=self._values.get("skip_leave_on_interrupt", config.server),
        )

    def _expand_templates(self) -> None:
        """Expand address templates, and split what may hold several addresses."""
        for name, value in list(self._values.items()):
            kind = KEYS[name].kind
            if kind is ADDRESS:
                self._values[name] = self._expanded(name, value)
            elif kind is ADDRESSES:
                self._values[name] = tuple(self._expanded(name, value).split())
            elif name in {"primary_gateways", "retry_join", "retry_join_wan", "start_join",
                          "start_join_wan"}:  # fmt: skip
                self._values[name] = [
                    address
                    for entry in value
                    for address in (
                        self._expanded(name, entry).split() if is_template(entry) else [entry]
                    )
                ]

    def _expanded(self, name: str, text: str) -> str:
        try:
            return expand(text, self._surroundings).strip()
        except ValueError as error:
            self._mistake(name, f"{name}: {error}")
            return ""

    def _addresses(self, written: AddressConfig) -> AddressConfig:
        defaults = AddressConfig()
        bind = written.bind or defaults.bind
        client = written.client or defaults.client
        advertise = self._values.get("advertise_addr") or self._values.get("advertise_addr_ipv4")
        advertise = advertise or self._values.get("advertise_addr_ipv6")
        if not advertise:
            advertise = self._guessed_advertise() if bind in _ANY else bind
        wan = self._values.get("advertise_addr_wan") or self._values.get("advertise_addr_wan_ipv4")
        wan = wan or self._values.get("advertise_addr_wan_ipv6") or advertise
        return replace(
            written,
            bind=bind,
            serf_lan=self._values.get("serf_lan") or bind,
            serf_wan=self._values.get("serf_wan") or bind,
            advertise=advertise,
            advertise_wan=wan,
            client=client,
            http=self._values.get("addresses.http") or client,
            https=self._values.get("addresses.https") or client,
            dns=self._values.get("addresses.dns") or client,
            grpc=self._values.get("addresses.grpc") or client,
            tagged=self._tagged(advertise, wan),
        )

    def _guessed_advertise(self) -> str:
        if self._values.get("bind_addr") == "":
            return ""  # Its template failed; that is reported.
        try:
            found = advertised_ipv4(self._surroundings.interfaces())
        except OSError as error:
            self._mistake("advertise_addr", f"the machine's addresses cannot be read: {error}")
            return ""
        if len(found) == 1:
            return found[0]
        text = "No private IPv4 address found"
        if found:
            text = (
                "Multiple private IPv4 addresses found. Please configure one with 'bind' and/or "
                "'advertise'."
            )
        remedy = "set bind_addr or advertise_addr"
        self._mistake("advertise_addr", text, f"{remedy}: {', '.join(found)}" if found else remedy)
        return ""

    def _tagged(self, advertise: str, wan: str) -> dict[str, str]:
        tagged = {"lan": advertise, "wan": wan}
        for tag, address in (("lan", advertise), ("wan", wan)):
            tagged[f"{tag}_ipv6" if ":" in address else f"{tag}_ipv4"] = address
        for tag, key in (("lan", "advertise_addr"), ("wan", "advertise_addr_wan")):
            for version in ("ipv4", "ipv6"):
                if written := self._values.get(f"{key}_{version}"):
                    tagged[f"{tag}_{version}"] = written
        return {**tagged, **self._values.get("tagged_addresses", {})}

    def _definitions(self) -> tuple[tuple[Definition, ...], tuple[Definition, ...]]:
        services = self._normalised(("service", "services"), service_definition)
        checks = self._normalised(("check", "checks"), check_definition)
        return services, checks

    def _normalised(
        self, names: Sequence[str], normalise: Callable[[Mapping[str, object]], T]
    ) -> tuple[T, ...]:
        found = list[T]()
        for name in names:
            for written in self._values.get(name, ()):
                try:
                    found.append(normalise(written))
                except ValueError as error:
                    self._mistake(name, str(error))
        return tuple(found)

    def _mistake(self, key: str, text: str, remedy: str = "") -> None:
        setting = self._settings.values.get(key)
        self.mistakes.append(Mistake(setting.source if setting else "", key, text, remedy))
