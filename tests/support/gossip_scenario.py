"""Runs a gossip scenario: commands, each followed by the trace of what came of it.

A line ``> command`` is executed; lines that start with ``#`` are the story; everything else is the
expected trace. Times are seconds since the start.

=========================== ==================================================================
``pool NAME...``            start members that join through the first, then 5 s to settle
``federation NAME...``      the same with WAN times, routed by name
``add NAME`` ``join A B``   start one; let A join through B
``leave A`` ``crash A``     a graceful end; a sudden one
``pause A S``               A stands still for S seconds
``cut A B`` ``heal``        nothing gets between A and B; all ways are open again
``refuse A B``              what A sends to B fails at once
``hold A`` ``release A``    A starts nothing by itself; takes it up again
``force-leave A B [prune]`` A declares that B left
``tags A K=V...``           A changes its tags
``event A NAME``            A tells all an event
``encrypt K``               members that are started from now on have this key
``keys A WHAT K``           A lets all install, use, remove or list keys
``ask A NAME [B...]``       A asks all, or only these
``answer A TEXT``           A answers the last question that it was asked
``watch A``                 from now on show the packets that A sends
``run S``                   let S seconds pass
``members A``               show what A thinks of all
=========================== ==================================================================
"""

import base64
from typing import Any

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keys import KeyOperation, KeysAnswered
from isthmus.gossip.queries import QueryReceived, Question
from isthmus.gossip.serf import QueryFinished
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire
from support.gossip_world import World


class Scenario:
    """One scenario being run."""

    def __init__(self) -> None:
        self.world = World(seed=7)
        self._cuts: set[frozenset[str]] = set()
        self._refusals: set[tuple[str, str]] = set()
        self._watched: set[str] = set()
        self._shown: dict[int, tuple[int, int]] = {}
        self._packets_shown = 0

    def run(self, text: str) -> str:
        """Execute all commands; return the text with the trace as it is."""
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("> "):
                lines.append(line)
                lines += self._execute(line[2:].split())
            elif line.startswith("#") or not line:
                lines.append(line)
        return "\n".join(lines) + "\n"

    def _execute(self, words: list[str]) -> list[str]:
        verb, arguments = words[0].replace("-", "_"), words[1:]
        answer = getattr(self, f"_do_{verb}")(*arguments)
        return [f"  {line}" for line in [*self._trace(), *(answer or ())]]

    def _trace(self) -> list[str]:
        """What happened since the last look, in order of time."""
        found: list[tuple[float, str]] = []
        for name, site in self.world.sites.items():
            events, warnings = self._shown.get(id(site), (0, 0))
            found += [(m, f"{name}: {_event(e)}") for m, e in site.events[events:]]
            found += [(m, f"{name}: {text}") for m, text in site.warnings[warnings:]]
            self._shown[id(site)] = (len(site.events), len(site.warnings))
        for moment, source, target, data in self.world.packets[self._packets_shown :]:
            if source in self._watched:
                leaves = packets.open_packet(data).messages
                shown = " + ".join(_message(packets.decode_message(leaf)) for leaf in leaves)
                found.append((moment, f"{source} -> {target}: {shown}"))
        self._packets_shown = len(self.world.packets)
        return [f"{moment:8.3f} {text}" for moment, text in sorted(found, key=lambda x: x[0])]

    # --- Commands -------------------------------------------------------------------------------

    def _do_pool(self, *names: str) -> None:
        for name in names:
            self.world.add(name)
        for name in names[1:]:
            self.world.join(name, names[0])
        self.world.run(until=self.world.now + 5)

    def _do_federation(self, *names: str) -> None:
        self.world.config = GossipConfig.wan()
        self.world.by_name = True
        self._do_pool(*names)

    def _do_add(self, name: str) -> None:
        self.world.add(name)

    def _do_join(self, name: str, through: str) -> None:
        self.world.join(name, through)

    def _do_leave(self, name: str) -> None:
        self.world.leave(name)

    def _do_crash(self, name: str) -> None:
        self.world.crash(name)

    def _do_pause(self, name: str, seconds: str) -> None:
        self.world.pause(name, until=self.world.now + float(seconds))

    def _do_cut(self, a: str, b: str) -> None:
        self._cuts.add(frozenset({a, b}))
        self._set_ways()

    def _do_refuse(self, source: str, target: str) -> None:
        self._refusals.add((source, target))
        self._set_ways()

    def _do_heal(self) -> None:
        self._cuts.clear()
        self._refusals.clear()

    def _set_ways(self) -> None:
        self.world.cut = lambda source, target: frozenset({source, target}) in self._cuts
        self.world.refuse = lambda source, target: (source, target) in self._refusals

    def _do_hold(self, name: str) -> None:
        self.world.sites[name].serf.hold()
        self.world.flush(name)

    def _do_release(self, name: str) -> None:
        self.world.sites[name].serf.release(now=self.world.now)
        self.world.flush(name)

    def _do_force_leave(self, name: str, target: str, *options: str) -> None:
        serf = self.world.sites[name].serf
        serf.force_leave(target, prune="prune" in options, now=self.world.now)
        self.world.flush(name)

    def _do_tags(self, name: str, *tags: str) -> None:
        pairs = dict(tag.split("=", 1) for tag in tags)
        self.world.sites[name].serf.update_tags(pairs, now=self.world.now)
        self.world.flush(name)

    def _do_event(self, name: str, event: str) -> None:
        self.world.sites[name].serf.user_event(event, b"", coalesce=False)
        self.world.flush(name)

    def _do_encrypt(self, key: str) -> None:
        self.world.keys = (_key(key),)

    def _do_keys(self, name: str, what: str, key: str = "") -> None:
        operation = KeyOperation[what.upper()]
        serf = self.world.sites[name].serf
        serf.change_keys(operation, _key(key), relay_factor=0, now=self.world.now)
        self.world.flush(name)

    def _do_ask(self, name: str, question: str, *nodes: str) -> None:
        asked = Question(name=question, nodes=nodes, acks=True)
        self.world.sites[name].serf.query(asked, now=self.world.now)
        self.world.flush(name)

    def _do_answer(self, name: str, text: str) -> None:
        site = self.world.sites[name]
        asked = [event for _, event in site.events if isinstance(event, QueryReceived)]
        site.serf.respond(asked[-1].query, text.encode(), now=self.world.now)
        self.world.flush(name)

    def _do_watch(self, name: str) -> None:
        self.world.record_packets = True
        self._watched.add(name)

    def _do_run(self, seconds: str) -> None:
        self.world.run(until=self.world.now + float(seconds))

    def _do_members(self, name: str) -> list[str]:
        members = sorted(self.world.sites[name].serf.members(), key=lambda member: member.name)
        return [f"{member.name} {member.status}" for member in members]


def _key(text: str) -> bytes:
    """A key that is easily written."""
    return (text * 16)[:16].encode() if text else b""


def _event(event: Any) -> str:
    kind = type(event).__name__
    match event:
        case QueryReceived(query):
            return f"{kind} {query.name} from {query.source_node}"
        case QueryFinished(_, result):
            answers = [f"{who}={text.decode()}" for who, text in sorted(result.responses.items())]
            acked = f"received by {' '.join(sorted(result.acks))}"
            end = "time is over" if result.timed_out else "all answered"
            return f"{kind} {' '.join([*answers, acked])}, {end}"
        case KeysAnswered(_, counted):
            said = [f"{who}: {text}" for who, text in sorted(counted.messages.items())]
            keys = [
                f"{base64.b64decode(key)[:1].decode()} at {count}"
                for key, count in counted.keys.items()
            ]
            return f"{kind} {'; '.join([counted.error or 'done', *keys, *said])}"
        case _:
            pass
    member = getattr(event, "member", None)
    if member is None:
        return f"{kind} {getattr(event, 'name', '')}".rstrip()
    tags = "".join(f" {key}={value}" for key, value in sorted(member.tags.items()))
    return f"{kind} {member.name}{tags}"


def _message(message: packets.PacketMessage) -> str:
    match message:
        case packets.Ping():
            return f"ping {message.node} #{message.seq_no}"
        case packets.IndirectPing():
            return f"ping-for-me {message.node} #{message.seq_no}"
        case packets.Ack() | packets.Nack():
            return f"{type(message).__name__.lower()} #{message.seq_no}"
        case packets.Suspect() | packets.Dead():
            what = type(message).__name__.lower()
            return f"{what} {message.node}@{message.incarnation} by {message.from_}"
        case packets.Alive():
            return f"alive {message.node}@{message.incarnation}"
        case packets.UserMessage():
            inner = wire.decode_message(message.payload)
            return f"{type(inner).__name__.lower()}@{getattr(inner, 'ltime', '')}"
        case _:
            return type(message).__name__
