"""Scenarios as TOML files: read whole, with every mistake at once."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from isthmus.errors import ConfigError, Mistake
from isthmus.gossip.config import GossipConfig
from isthmus.sim.faults import Fault, Scope
from isthmus.sim.keys import (
    EXPECT_KEYS,
    GOSSIP_KEYS,
    LINK_KEYS,
    SCENARIO_KEYS,
    TOPOLOGY_KEYS,
    Key,
    meant,
    read_keys,
    read_words,
)
from isthmus.sim.language import VERBS, FaultError, parse_fault, parse_links
from isthmus.sim.network import LinkModel
from isthmus.sim.scenario import Expect, Scenario
from isthmus.sim.topology import Topology

FILE_SIZE_MAX: Final = 1 << 20
_SECTIONS: Final = ("topology", "lan", "wan", "gossip_lan", "gossip_wan", "expect")
_FAULT_TIMES: Final = ("at", "for", "apart")


def load_scenario(path: Path) -> Scenario:
    """Read a scenario from a TOML file.

    Raises:
        ConfigError: It cannot be read, or is not a scenario; every mistake is listed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError([Mistake(str(path), "", error.strerror or str(error))]) from error
    if len(data) > FILE_SIZE_MAX:
        raise ConfigError([Mistake(str(path), "", f"longer than {FILE_SIZE_MAX} bytes")])
    try:
        return parse_scenario(data.decode(), source=str(path))
    except UnicodeDecodeError as error:
        raise ConfigError([Mistake(str(path), "", f"not UTF-8: {error}")]) from error


def parse_scenario(text: str, *, source: str) -> Scenario:
    """Parse a scenario.

    Args:
        text: TOML.
        source: File name, for mistakes.

    Raises:
        ConfigError: It is not a scenario; every mistake is listed.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Mistake(source, "", f"not TOML: {error}")]) from error
    reader = _Reader(document, source)
    scenario = reader.scenario()
    if reader.mistakes or scenario is None:
        raise ConfigError(reader.mistakes)
    return scenario


def link_of(text: str, default: LinkModel) -> LinkModel:
    """Read a link from words, ``latency=80ms loss=1%``; the rest is as in `default`.

    Raises:
        ValueError: A word is wrong.
    """
    return replace(default, **_values(LINK_KEYS, text))


def gossip_of(text: str, default: GossipConfig) -> GossipConfig:
    """Read gossip settings from words, ``probe_interval=10s``; the rest is as in `default`.

    Raises:
        ValueError: A word is wrong.
    """
    values = _values(GOSSIP_KEYS, text)
    if problem := _gossip_problem(default, values):
        raise ValueError(problem)
    return replace(default, **values)


def expect_of(text: str, default: Expect) -> Expect:
    """Read what is expected from words, ``detection=2m``; the rest is as in `default`.

    Raises:
        ValueError: A word is wrong.
    """
    return replace(default, **_values(EXPECT_KEYS, text))


def pair_of(
    text: str, topology: Topology, pairs: Mapping[tuple[str, str], LinkModel]
) -> dict[tuple[str, str], LinkModel]:
    """Read links between datacenters that differ, ``dc1|dc3 latency=200ms``.

    Args:
        text: Links as the fault language has them, then words.
        topology: Whose `wan` they differ from.
        pairs: What differs already.

    Raises:
        ValueError: A word is wrong.
    """
    where, _, words = text.strip().partition(" ")
    return _pairs(where, _values(LINK_KEYS, words), topology, pairs)


def _values(keys: Sequence[Key], text: str) -> dict[str, Any]:
    values, mistakes = read_keys(read_words(text), keys, source="")
    if mistakes:
        raise ValueError(f"{mistakes[0].text}; {mistakes[0].remedy}")
    return values


def _gossip_problem(default: GossipConfig, values: Mapping[str, Any]) -> str:
    interval = values.get("probe_interval", default.probe_interval)
    timeout = values.get("probe_timeout", default.probe_timeout)
    if timeout > interval:
        return f"probe_timeout ({timeout:g} s) is longer than probe_interval ({interval:g} s)"
    return ""


def _pairs(
    where: str,
    values: Mapping[str, Any],
    topology: Topology,
    pairs: Mapping[tuple[str, str], LinkModel],
) -> dict[tuple[str, str], LinkModel]:
    links = parse_links(where, topology)
    if links.scope is not Scope.BETWEEN:
        raise ValueError(f"{where!r} are not links between two datacenters")
    changed = dict(pairs)
    for source in topology.names:
        for target in topology.names:
            if links.covers(source, target):
                changed[source, target] = replace(topology.link(source, target), **values)
    return changed


class _Reader:
    """Reads one document and collects its mistakes."""

    def __init__(self, document: Mapping[str, Any], source: str) -> None:
        self._document, self._source = document, source
        self.mistakes: list[Mistake] = []

    def scenario(self) -> Scenario | None:
        """Read all; None or not, there may be mistakes."""
        tables = {name: self._table(name) for name in _SECTIONS}
        rest = {
            name: value
            for name, value in self._document.items()
            if name not in (*_SECTIONS, "link", "fault", "faults")
        }
        top = self._read(rest, SCENARIO_KEYS, "", extra=(*_SECTIONS, "link", "fault", "faults"))
        topology = self._topology(tables)
        lan = self._gossip("gossip_lan", GossipConfig.lan(), tables)
        wan = self._gossip("gossip_wan", GossipConfig.wan(), tables)
        expect = Expect(**self._read(tables["expect"], EXPECT_KEYS, "expect"))
        if topology is None:
            return None
        faults = self._faults(topology)
        if self.mistakes:
            return None
        name = top.pop("name", Path(self._source).stem)
        try:
            return Scenario(
                name=name, topology=topology, faults=faults, lan=lan, wan=wan, expect=expect, **top
            )
        except ValueError as error:
            self._wrong("", str(error))
            return None

    def _topology(self, tables: Mapping[str, Mapping[str, object]]) -> Topology | None:
        values = self._read(tables["topology"], TOPOLOGY_KEYS, "topology")
        lan = self._link("lan", LinkModel.lan(), tables)
        wan = self._link("wan", LinkModel.wan(), tables)
        try:
            topology = Topology(lan=lan, wan=wan, **values)
        except ValueError as error:
            self._wrong("topology", f"topology.{error}")
            return None
        pairs = dict[tuple[str, str], LinkModel]()
        for number, table in enumerate(self._tables("link"), 1):
            place = f"link {number}"
            given = dict(table)
            between = given.pop("between", "")
            changed = self._read(given, LINK_KEYS, place)
            try:
                pairs = _pairs(str(between), changed, replace(topology, pairs=pairs), pairs)
            except ValueError as error:
                self._wrong(f"{place}.between", f"{place}.between: {error}")
        return replace(topology, pairs=pairs)

    def _link(
        self, name: str, default: LinkModel, tables: Mapping[str, Mapping[str, object]]
    ) -> LinkModel:
        values = self._read(tables[name], LINK_KEYS, name)
        try:
            return replace(default, **values)
        except ValueError as error:
            self._wrong(name, f"{name}: {error}")
            return default

    def _gossip(
        self, name: str, default: GossipConfig, tables: Mapping[str, Mapping[str, object]]
    ) -> GossipConfig:
        values = self._read(tables[name], GOSSIP_KEYS, name)
        if problem := _gossip_problem(default, values):
            self._wrong(f"{name}.probe_timeout", f"{name}: {problem}")
            return default
        return replace(default, **values)

    def _faults(self, topology: Topology) -> tuple[Fault, ...]:
        texts = self._document.get("faults", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            self._wrong("faults", "faults: must be a list of texts")
            texts = []
        texts = [*texts, *self._fault_texts()]
        faults = list[Fault]()
        for number, text in enumerate(texts, 1):
            try:
                faults.append(parse_fault(text, topology))
            except FaultError as error:
                self._wrong(f"fault {number}", f"fault {number}: {error}")
        return tuple(faults)

    def _fault_texts(self) -> list[str]:
        """The ``[[fault]]`` tables in the fault language."""
        texts = list[str]()
        for number, table in enumerate(self._tables("fault"), 1):
            verbs = [name for name in table if name not in _FAULT_TIMES]
            place = f"[[fault]] {number}"
            if unknown := [name for name in verbs if name not in VERBS]:
                hint = meant(unknown[0], (*VERBS, *_FAULT_TIMES))
                self._wrong(place, f"{place}: unknown key {unknown[0]}", hint)
            elif len(verbs) != 1:
                named = " and ".join(verbs) or "nothing"
                self._wrong(place, f"{place}: one fault for each table; here is {named}")
            else:
                parts = [verbs[0], str(table[verbs[0]])]
                parts += [f"{name} {table[name]}" for name in ("at", "for") if name in table]
                parts += [f"{table['apart']} apart"] if "apart" in table else []
                texts.append(" ".join(parts))
        return texts

    def _read(
        self,
        given: Mapping[str, object],
        keys: Sequence[Key],
        section: str,
        *,
        extra: Sequence[str] = (),
    ) -> dict[str, Any]:
        values, mistakes = read_keys(given, keys, source=self._source, section=section, also=extra)
        self.mistakes += mistakes
        return values

    def _table(self, name: str) -> Mapping[str, object]:
        table = self._document.get(name, {})
        if isinstance(table, dict):
            return table
        self._wrong(name, f"{name}: must be a table, [{name}]")
        return {}

    def _tables(self, name: str) -> Sequence[Mapping[str, object]]:
        tables = self._document.get(name, [])
        if isinstance(tables, list) and all(isinstance(table, dict) for table in tables):
            return tables
        self._wrong(name, f"{name}: must be tables, [[{name}]]")
        return ()

    def _wrong(self, key: str, text: str, remedy: str = "") -> None:
        self.mistakes.append(Mistake(self._source, key, text, remedy))
