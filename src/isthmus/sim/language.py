"""The fault language: one line that says what goes wrong, where, when and for how long.

::

    partition LINKS                     crash HOSTS          at 30s      (default: 10s)
    loss 5% LINKS                       pause HOSTS          for 2m      (default: to the end)
    duplication 5% LINKS                restart HOSTS        10s apart   (one host after another)
    reordering 5% LINKS                 leave HOSTS
    latency +200ms LINKS                move HOSTS
    bandwidth 64kB/s LINKS              drift HOSTS 1.05

    LINKS   dc1|dc2   dc1>dc2 (one way)   dc1,dc4..dc9|*   within dc1   within *   everywhere
    HOSTS   server 2 of dc3   every gateway of dc1   every server of dc1..dc5   client 1 of *

Every fault prints as the text that parses to it.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

from isthmus.sim.amounts import parse_rate, parse_seconds, parse_share
from isthmus.sim.faults import (
    FAULT_AT,
    Bandwidth,
    Crash,
    Drift,
    Duplication,
    Fault,
    Hosts,
    Latency,
    Leave,
    Links,
    Loss,
    Move,
    Partition,
    Pause,
    Reordering,
    Restart,
    Scope,
)
from isthmus.sim.topology import DATACENTERS_MAX, Role, Topology

AmountT = TypeVar("AmountT")

TEXT_MAX: Final = 1000
"""Characters of one fault."""
DRIFT_MIN, DRIFT_MAX = 0.5, 2.0
LATENCY_MAX: Final = 60.0
_LINK_VERBS: Final = ("partition", "loss", "duplication", "reordering", "latency", "bandwidth")
_HOST_VERBS: Final = ("pause", "crash", "restart", "leave", "move", "drift")
VERBS: Final = _LINK_VERBS + _HOST_VERBS
_ENDLESS: Final = {
    "leave": "a host that left stays away; start it again with 'restart'",
    "move": "a new address stays; move it again with another fault",
}
_TOKEN: Final = re.compile(r"[|>,]|[^\s|>,]+")
_DATACENTERS: Final = re.compile(r"dc([1-9]\d{0,5})(?:\.\.dc([1-9]\d{0,5}))?")


class FaultError(ValueError):
    """A text is no fault; the message points at the word that is wrong.

    Attributes:
        reason: What is wrong and what is known instead.
        text: The whole fault.
        start: Where the word begins.
        end: Where it ends.
    """

    def __init__(self, reason: str, text: str, start: int, end: int) -> None:
        self.reason, self.text, self.start, self.end = reason, text, start, end
        marks = " " * start + "^" * max(1, end - start)
        super().__init__(f"{reason}\n  {text}\n  {marks}")


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    start: int
    end: int


@dataclass(slots=True)
class _Times:
    at: float = FAULT_AT
    duration: float | None = None
    apart: float = 0.0


def parse_fault(text: str, topology: Topology | None = None) -> Fault:
    """Parse one fault.

    Args:
        text: In the language of this module.
        topology: What its datacenters and hosts must exist in; None: any will do.

    Raises:
        FaultError: It is not in the language, or names what the topology does not have.
    """
    return _Reader(text, topology).fault()


def parse_links(text: str, topology: Topology | None = None) -> Links:
    """Parse links alone: ``dc1|dc2``, ``dc1>*``, ``within dc1``, ``everywhere``.

    Raises:
        FaultError: They are not in the language, or the topology does not have them.
    """
    return _Reader(text, topology).links()


class _Reader:
    """Reads one fault, word by word."""

    def __init__(self, text: str, topology: Topology | None) -> None:
        # The message shows the text above its mark, so both are of one line.
        self._text = " ".join(text.split())
        self._words = [_Word(m[0], m.start(), m.end()) for m in _TOKEN.finditer(self._text)]
        self._at = 0
        self._topology = topology
        if len(self._text) > TEXT_MAX:
            raise FaultError(f"longer than {TEXT_MAX} characters", self._text[:40] + " …", 0, 40)

    def fault(self) -> Fault:
        """Read it all."""
        verb = self._take(f"what goes wrong: {_list(VERBS)}")
        if verb.text in _LINK_VERBS:
            return self._link_fault(verb)
        if verb.text not in _HOST_VERBS:
            self._fail(f"{verb.text!r} is no fault{_meant(verb.text, VERBS)}", verb)
        return self._host_fault(verb)

    def links(self) -> Links:
        """Read links and nothing else."""
        links = self._links()
        if (word := self._peek()) is not None:
            self._fail(f"{word.text!r} is too much here", word)
        return links

    # Faults

    def _link_fault(self, verb: _Word) -> Fault:
        if verb.text == "partition":
            links, times = self._links(), self._times(verb)
            return Partition(links=links, at=times.at, duration=times.duration)
        if verb.text == "latency":
            extra = self._latency()
            links, times = self._links(), self._times(verb)
            return Latency(links=links, extra=extra, at=times.at, duration=times.duration)
        if verb.text == "bandwidth":
            limit = self._rate()
            links, times = self._links(), self._times(verb)
            return Bandwidth(links=links, limit=limit, at=times.at, duration=times.duration)
        share = self._share()
        links, times = self._links(), self._times(verb)
        kinds: dict[str, type[Loss | Duplication | Reordering]] = {
            "loss": Loss,
            "duplication": Duplication,
            "reordering": Reordering,
        }
        return kinds[verb.text](links=links, share=share, at=times.at, duration=times.duration)

    def _host_fault(self, verb: _Word) -> Fault:
        hosts = self._hosts()
        if verb.text == "drift":
            factor, times = self._factor(), self._times(verb, hosts)
            return Drift(
                hosts=hosts,
                factor=factor,
                at=times.at,
                duration=times.duration,
                apart=times.apart,
            )
        times = self._times(verb, hosts)
        kinds: dict[str, type[Pause | Crash | Restart | Leave | Move]] = {
            "pause": Pause,
            "crash": Crash,
            "restart": Restart,
            "leave": Leave,
            "move": Move,
        }
        return kinds[verb.text](
            hosts=hosts, at=times.at, duration=times.duration, apart=times.apart
        )

    # Their parts

    def _links(self) -> Links:
        first = self._peek()
        if first is not None and first.text == "everywhere":
            self._take("")
            return Links(scope=Scope.EVERYWHERE)
        if first is not None and first.text == "within":
            self._take("")
            return Links(self._group(), scope=Scope.WITHIN)
        left = self._group("links: 'dc1|dc2', 'dc1>dc2', 'dc1|*', 'within dc1' or 'everywhere'")
        middle = self._take("'|' (both ways) or '>' (one way) and the other datacenters")
        if middle.text not in {"|", ">"}:
            self._fail("here stands '|' (both ways) or '>' (one way)", middle)
        start = self._peek()
        right = self._group()
        assert start is not None
        if both := set(left) & set(right):
            name = min(both)
            self._fail(f"{name} is on both sides; its own network is 'within {name}'", start)
        if self._topology is not None and self._topology.datacenters == 1:
            self._fail("there is only dc1, so there are no links between datacenters", middle)
        return Links(left, right, middle.text == ">")

    def _hosts(self) -> Hosts:
        known = "a host: 'server 2 of dc3', 'gateway 1 of dc1', 'every server of dc2'"
        word = self._take(known)
        every = word.text == "every"
        if every:
            word = self._take("server, client or gateway")
        roles = [role.value for role in Role]
        if word.text not in roles:
            self._fail(f"{word.text!r} is no host{_meant(word.text, roles)}", word)
        role = Role(word.text)
        number = None if every else self._number(role)
        after = self._peek()
        if after is None or after.text != "of":
            if every:
                return self._existing(Hosts(role, None), word)
            self._fail("of which datacenter? 'of dc1', 'of dc1..dc3' or 'of *'", after)
        self._take("")
        return self._existing(Hosts(role, number, self._group()), word)

    def _existing(self, hosts: Hosts, word: _Word) -> Hosts:
        if self._topology is not None and self._topology.count(hosts.role) == 0:
            self._fail(f"no datacenter has a {hosts.role}", word)
        return hosts

    def _number(self, role: Role) -> int:
        word = self._take(f"the {role}'s number, from 1")
        if not re.fullmatch(r"[1-9]\d{0,5}", word.text):
            self._fail(f"{word.text!r} is no {role}'s number; they count from 1", word)
        number = int(word.text)
        count = number if self._topology is None else self._topology.count(role)
        if 0 < count < number:
            has = f"{role}s 1 to {count}" if count > 1 else f"only {role} 1"
            self._fail(f"there is no {role} {number}; every datacenter has {has}", word)
        return number

    def _group(
        self, known: str = "datacenters: 'dc1', 'dc1,dc3', 'dc2..dc5' or '*'"
    ) -> tuple[str, ...]:
        numbers = set[int]()
        while True:
            word = self._take(known)
            if word.text == "*" and not numbers:
                return ()
            for number in self._range(word, known):
                if number in numbers:
                    self._fail(f"dc{number} is named twice", word)
                numbers.add(number)
            after = self._peek()
            if after is None or after.text != ",":
                return tuple(f"dc{number}" for number in sorted(numbers))
            self._take("")

    def _range(self, word: _Word, known: str) -> Iterable[int]:
        match = _DATACENTERS.fullmatch(word.text)
        if match is None:
            self._fail(f"{word.text!r} is none of the {known}", word)
        first, last = int(match[1]), int(match[2] or match[1])
        count = DATACENTERS_MAX if self._topology is None else self._topology.datacenters
        if max(first, last) > count:
            has = f"dc1 to dc{count}" if count > 1 else "only dc1"
            self._fail(f"there is no dc{max(first, last)}; there are {has}", word)
        if last < first:
            self._fail(f"dc{last} comes before dc{first}: write dc{last}..dc{first}", word)
        return range(first, last + 1)

    # Amounts

    def _share(self) -> float:
        word = self._take("a share of the packets, such as 5%")
        share = self._amount(word, word.text, parse_share)
        if share == 0:
            self._fail("0% changes nothing", word)
        return share

    def _latency(self) -> float:
        word = self._take("how much longer packets take, such as +200ms")
        extra = self._amount(word, word.text.removeprefix("+"), parse_seconds)
        if not 0 < extra <= LATENCY_MAX:
            self._fail(f"latency is added: more than 0s, at most {LATENCY_MAX:g}s", word)
        return extra

    def _rate(self) -> int:
        word = self._take("bytes per second, such as 64kB/s")
        rate = self._amount(word, word.text, parse_rate)
        if rate == 0:
            self._fail("nothing at all gets through with 0; that is a partition", word)
        return rate

    def _factor(self) -> float:
        word = self._take("the clock's speed, such as 1.05 for 5 % fast")
        if not re.fullmatch(r"\d+(?:\.\d{1,9})?", word.text):
            self._fail(f"{word.text!r} is no speed; write 1.05 for 5 % fast, 0.95 for slow", word)
        factor = float(word.text)
        if not DRIFT_MIN <= factor <= DRIFT_MAX or factor == 1:
            self._fail(
                f"a clock's speed is within {DRIFT_MIN} to {DRIFT_MAX}, and 1 is no drift", word
            )
        return factor

    def _amount(self, word: _Word, text: str, parse: Callable[[str], AmountT]) -> AmountT:
        try:
            return parse(text)
        except ValueError as error:
            self._fail(str(error), word)

    def _times(self, verb: _Word, hosts: Hosts | None = None) -> _Times:
        """Read the clauses at the end, in any order, each at most once."""
        times, seen = _Times(), set[str]()
        known = "'at 30s', 'for 2m'" + ("" if hosts is None else " or '10s apart'")
        while self._peek() is not None:
            word = self._take("")
            if word.text in {"at", "for"}:
                clause = word
                word = self._take(f"a duration behind {clause.text!r}")
                value = self._amount(word, word.text, parse_seconds)
            else:
                value = self._clause_seconds(word, known)
                clause = self._take("'apart'")
                if clause.text != "apart" or hosts is None:
                    self._fail(f"behind the fault come {known}", word)
            if clause.text in seen:
                self._fail(f"{clause.text!r} stands here twice", clause)
            seen.add(clause.text)
            self._apply(times, clause, word, value, verb, hosts)
        return times

    def _clause_seconds(self, word: _Word, known: str) -> float:
        if not word.text[:1].isdigit():
            self._fail(f"{word.text!r} is not known here; behind the fault come {known}", word)
        return self._amount(word, word.text, parse_seconds)

    def _apply(
        self,
        times: _Times,
        clause: _Word,
        word: _Word,
        value: float,
        verb: _Word,
        hosts: Hosts | None,
    ) -> None:
        if clause.text == "at":
            times.at = value
            return
        if value == 0:
            self._fail(f"{clause.text!r} needs more than 0s", word)
        if clause.text == "for":
            if verb.text in _ENDLESS:
                self._fail(f"'{verb.text}' has no end: {_ENDLESS[verb.text]}", clause)
            times.duration = value
            return
        if hosts is not None and hosts.number is not None and len(hosts.datacenters) == 1:
            self._fail(
                "a single host is not apart from itself; say 'every' or more datacenters", clause
            )
        times.apart = value

    # Words

    def _peek(self) -> _Word | None:
        return self._words[self._at] if self._at < len(self._words) else None

    def _take(self, expected: str) -> _Word:
        word = self._peek()
        if word is None:
            self._fail(f"here something is missing: {expected}", None)
        self._at += 1
        return word

    def _fail(self, reason: str, word: _Word | None) -> NoReturn:
        end = len(self._text)
        start, end = (word.start, word.end) if word else (end and end + 1, end + 2)
        raise FaultError(reason, self._text, start, end)


def _list(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}"


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {_list(known)}"
