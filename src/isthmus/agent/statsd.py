"""Sends the figures of each interval to statsd or DogStatsD, over UDP.

A figure is a line: ``name:value|c`` for a counter, ``|g`` for a gauge, ``|ms`` for a timing, of
which the mean is sent with the rate at which it stands for all: ``|@0.25`` for four. statsd knows
no labels: their values become words of the name, as in Consul. DogStatsD gets them as tags.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from isthmus.config.model import TelemetryConfig
from isthmus.model.metric import Metric, MetricKind
from isthmus.names import split_host_port

logger = logging.getLogger(__name__)

PACKET_SIZE_MAX: Final = 1432
"""Bytes that pass through any usual network in one piece."""
OPEN_TIMEOUT: Final = 5.0
_UNSAFE: Final = re.compile(r"[\s:|@#,]")
_TYPES: Final = {MetricKind.COUNTER: "c", MetricKind.GAUGE: "g", MetricKind.TIMING: "ms"}


class StatsdSink:
    """Sends to one address; what is lost on the way is lost.

    Args:
        address: ``host:port``.
        tagged: Whether it is a DogStatsD.
        tags: Of all that is sent to one.
    """

    def __init__(self, address: str, *, tagged: bool, tags: Sequence[str] = ()) -> None:
        self._address, self._tagged, self._tags = address, tagged, tags
        self._failing = False

    async def take(self, metrics: Sequence[Metric]) -> None:
        """Send one interval's figures."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                transport, _ = await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, remote_addr=split_host_port(self._address)
                )
        except OSError as error:  # Also the timeout, and names that are not found.
            if not self._failing:
                logger.warning("cannot send metrics to %s: %s", self._address, error)
            self._failing = True
            return
        self._failing = False
        try:
            for packet in packets(lines(metrics, tagged=self._tagged, tags=self._tags)):
                transport.sendto(packet)
        finally:
            transport.close()


def sinks(config: TelemetryConfig) -> tuple[StatsdSink, ...]:
    """Those that the operator wants."""
    wanted = ((config.statsd_address, False), (config.dogstatsd_addr, True))
    return tuple(
        StatsdSink(address, tagged=tagged, tags=config.dogstatsd_tags)
        for address, tagged in wanted
        if address
    )


def lines(metrics: Iterable[Metric], *, tagged: bool, tags: Sequence[str] = ()) -> Iterator[bytes]:
    """Figures as lines.

    Args:
        metrics: The figures.
        tagged: Whether labels are tags, and no words of the name.
        tags: Tags of all, if so.
    """
    for metric in metrics:
        words = [metric.name]
        if not tagged:
            words += [value for _, value in metric.labels]
        value, rate = metric.value, ""
        if metric.kind is MetricKind.TIMING:
            value = metric.value / metric.count
            rate = f"|@{1 / metric.count:.9g}" if metric.count > 1 else ""
        name = ".".join(_UNSAFE.sub("_", word) for word in words)
        labels = (f"{key}:{_UNSAFE.sub('_', value)}" for key, value in metric.labels)
        shown = ",".join((*tags, *labels))
        ending = f"|#{shown}" if tagged and shown else ""
        yield f"{name}:{value:.9g}|{_TYPES[metric.kind]}{rate}{ending}".encode()


def packets(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines put together; one that is too long for a packet goes alone."""
    packet = b""
    for line in lines:
        if packet and len(packet) + 1 + len(line) > PACKET_SIZE_MAX:
            yield packet
            packet = b""
        packet = packet + b"\n" + line if packet else line
    if packet:
        yield packet
