"""What became of dials and calls: one record per gateway, and since when a datacenter fails.

Every dial and every call to another datacenter is told here, and nowhere else is it counted, so
that errors, status and log lines agree. Bounded: a federation has few gateways and datacenters,
and what does not fit is not remembered.
"""

from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from isthmus.names import ANY_SERVER

GATEWAYS_MAX: Final = 4096
"""Gateways remembered; the one unused for longest gives way."""
DATACENTERS_MAX: Final = 4096
"""Datacenters in trouble at once that are remembered."""
SERVERS_MAX: Final = 64
"""Servers in trouble that are remembered of each."""
TEXT_SIZE_MAX: Final = 1024
"""Characters kept of an error."""


@dataclass(slots=True)
class GatewayRecord:
    """Dials of one gateway; moments are on the driver's monotonic clock.

    Attributes:
        address: ``host:port``.
        dcs: Datacenters that it was dialled for.
        attempts: Dials.
        failures: Those that failed.
        used_at: Latest dial.
        dial_seconds: Of the latest that worked.
        error: Of the latest that failed.
        error_at: When that was.
        failing_since: First failure since it worked last; None while it works.
    """

    address: str
    dcs: set[str] = field(default_factory=set)
    attempts: int = 0
    failures: int = 0
    used_at: float = 0.0
    dial_seconds: float = 0.0
    error: str = ""
    error_at: float | None = None
    failing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """A server that cannot be reached; moments are on the driver's monotonic clock.

    Attributes:
        dc: Its datacenter.
        node: The server; ``*`` for whichever a gateway picks.
        gateway: ``host:port`` that was dialled last; empty for none.
        step: What failed last, one of `errors.STEPS`.
        text: The error.
        since: First failure since it worked.
        latest: Latest failure.
        by_call: The dial had worked; the connection failed after it. Then only an answer proves
            that it is over.
        count: Failures since then.
    """

    dc: str
    node: str
    gateway: str
    step: str
    text: str
    since: float
    latest: float
    by_call: bool = False
    count: int = 1


@dataclass(frozen=True, slots=True)
class TroubleBegan:
    """Event: a server cannot be reached any more, or fails at another step than before."""

    trouble: Trouble


@dataclass(frozen=True, slots=True)
class TroubleEnded:
    """Event: a server answers again."""

    trouble: Trouble
    seconds: float


Event: TypeAlias = TroubleBegan | TroubleEnded


class Outcomes:
    """Takes note of every dial and call; belongs to one thread."""

    def __init__(self) -> None:
        self._gateways: dict[str, GatewayRecord] = {}  # The one used last stands last.
        self._troubles: dict[str, dict[str, Trouble]] = {}  # By datacenter and server.
        self._worked_at: dict[str, float] = {}  # Only of datacenters that are in trouble.
        self._refused: dict[str, float] = {}
        self._outputs: list[Event] = []

    # Told ---------------------------------------------------------------------------------------

    def gateway_dialled(
        self, address: str, dc: str, node: str, *, seconds: float, error: str = "", now: float
    ) -> None:
        """One gateway was tried.

        Args:
            address: ``host:port``.
            dc: Datacenter that it was to lead to.
            node: Server that was meant.
            seconds: How long it took.
            error: Why it failed; empty when a server answered the handshake.
            now: Seconds on the driver's monotonic clock.
        """
        record = self._gateways.pop(address, None) or GatewayRecord(address)
        self._gateways[address] = record
        if len(self._gateways) > GATEWAYS_MAX:
            del self._gateways[next(iter(self._gateways))]
        record.dcs.add(dc)
        record.attempts += 1
        record.used_at = now
        if not error:
            record.dial_seconds, record.failing_since = seconds, None
            if self._troubles:
                self._worked(dc, node, by_call=False, now=now)
            return
        record.failures += 1
        record.error, record.error_at = error[:TEXT_SIZE_MAX], now
        if record.failing_since is None:
            record.failing_since = now

    def failed(
        self,
        dc: str,
        *,
        node: str,
        gateway: str,
        step: str,
        text: str,
        by_call: bool,
        now: float,
    ) -> Trouble:
        """A whole dial failed over all gateways, or a call after it (`by_call`).

        Returns:
            The trouble with the server, as it is now.
        """
        ours = self._troubles.get(dc.lower(), {})
        known = ours.get(node)
        text = text[:TEXT_SIZE_MAX]
        if known is None:
            trouble = Trouble(dc, node, gateway, step, text, now, now, by_call)
        else:
            trouble = replace(
                known,
                node=node,
                gateway=gateway,
                step=step,
                text=text,
                by_call=by_call,
                latest=now,
                count=known.count + 1,
            )
        if known is None and (
            len(ours) >= SERVERS_MAX or (not ours and len(self._troubles) >= DATACENTERS_MAX)
        ):
            return trouble
        # What stands between us and any server of it was said of one of them, or the reverse.
        said = any(one.step == step and ANY_SERVER in {one.node, node} for one in ours.values())
        self._troubles.setdefault(dc.lower(), ours)[node] = trouble
        if not said and (known is None or known.step != step):
            self._outputs.append(TroubleBegan(trouble))
        return trouble

    def refused(self, dc: str, node: str, *, now: float) -> float:
        """A server of the datacenter denied a call to its token.

        Returns:
            Seconds since it first did so without allowing any in between.
        """
        self._worked(dc, node, by_call=True, now=now)
        if len(self._refused) < DATACENTERS_MAX:
            self._refused.setdefault(dc.lower(), now)
        return now - self._refused.get(dc.lower(), now)

    def answered(self, dc: str, node: str, *, now: float) -> None:
        """A server of the datacenter answered a call."""
        self._refused.pop(dc.lower(), None)
        self._worked(dc, node, by_call=True, now=now)

    def forget(self, dc: str) -> None:
        """The datacenter left the federation."""
        for table in (self._troubles, self._worked_at, self._refused):
            table.pop(dc.lower(), None)

    @property
    def has_news_in_an_answer(self) -> bool:
        """Whether an answer of some datacenter would change anything here."""
        return bool(self._troubles or self._refused)

    # Asked --------------------------------------------------------------------------------------

    def trouble(self, dc: str) -> Trouble | None:
        """Why a datacenter cannot be reached: the latest trouble, dated with the first.

        None when one of its servers was reached since: then only others of them are down.
        """
        worked_at = self._worked_at.get(dc.lower(), float("-inf"))
        open_ones = [
            trouble
            for trouble in self._troubles.get(dc.lower(), {}).values()
            if trouble.latest > worked_at
        ]
        if not open_ones:
            return None
        since = max(min(trouble.since for trouble in open_ones), worked_at)
        return replace(max(open_ones, key=lambda trouble: trouble.latest), since=since)

    def nodes_in_trouble(self, dc: str) -> frozenset[str]:
        """Servers of a datacenter that could not be reached when they were tried last."""
        return frozenset(self._troubles.get(dc.lower(), ()))

    def troubles(self) -> tuple[Trouble, ...]:
        """Of every datacenter that cannot be reached, by name."""
        found = (self.trouble(dc) for dc in sorted(self._troubles))
        return tuple(trouble for trouble in found if trouble is not None)

    def gateways(self) -> tuple[GatewayRecord, ...]:
        """Gateways that were dialled, by address."""
        return tuple(self._gateways[address] for address in sorted(self._gateways))

    def take_outputs(self) -> list[Event]:
        """Remove and return the events, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _worked(self, dc: str, node: str, *, by_call: bool, now: float) -> None:
        """A server was reached; whichever server was looked for before would have been, too."""
        key = dc.lower()
        ours = self._troubles.get(key)
        if ours is None:
            return
        reached = by_call or not any(trouble.by_call for trouble in ours.values())
        if reached:
            self._worked_at[key] = now
        for name in (node, ANY_SERVER):
            trouble = ours.get(name)
            if trouble is not None and (by_call or not trouble.by_call):
                del ours[name]
                self._outputs.append(TroubleEnded(trouble, now - trouble.since))
        if not ours:
            del self._troubles[key]
            self._worked_at.pop(key, None)
