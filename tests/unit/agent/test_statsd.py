"""Figures as lines for statsd and DogStatsD, and packets of them."""

import asyncio
import logging
import socket

import pytest

from isthmus.agent.statsd import PACKET_SIZE_MAX, StatsdSink, lines, packets, sinks
from isthmus.config.model import TelemetryConfig
from isthmus.model.metric import Metric, MetricKind

DEADLINE = 10.0
LABELS = (("datacenter", "dc 2"), ("op", "a|b"))
METRICS = [
    Metric("consul.rpc.cross-dc", MetricKind.COUNTER, 4.0, LABELS),
    Metric("consul.h.members", MetricKind.GAUGE, 2.5),
    Metric("consul.kvs.apply", MetricKind.TIMING, 30.0, count=4),
    Metric("consul.kvs.apply", MetricKind.TIMING, 30.0, count=1),
]


def test_statsd_has_labels_in_the_names() -> None:
    assert list(lines(METRICS, tagged=False)) == [
        b"consul.rpc.cross-dc.dc_2.a_b:4|c",
        b"consul.h.members:2.5|g",
        b"consul.kvs.apply:7.5|ms|@0.25",
        b"consul.kvs.apply:30|ms",
    ]


def test_dogstatsd_has_tags() -> None:
    assert next(lines(METRICS, tagged=True)) == (b"consul.rpc.cross-dc:4|c|#datacenter:dc_2,op:a_b")


def test_tags_of_the_operator_stand_first() -> None:
    config = TelemetryConfig(dogstatsd_addr="127.0.0.1:8125", dogstatsd_tags=("region:n", "x"))
    assert len(sinks(config)) == 1
    found = list(lines(METRICS[:2], tagged=True, tags=config.dogstatsd_tags))
    assert found == [
        b"consul.rpc.cross-dc:4|c|#region:n,x,datacenter:dc_2,op:a_b",
        b"consul.h.members:2.5|g|#region:n,x",
    ]


def test_packets_are_as_full_as_they_may_be() -> None:
    made = [b"%03d" % number + b"x" * 400 for number in range(10)]
    found = list(packets(made))
    assert [len(packet.split(b"\n")) for packet in found] == [3, 3, 3, 1]
    assert all(len(packet) <= PACKET_SIZE_MAX for packet in found)
    assert b"\n".join(found).split(b"\n") == made
    assert list(packets([])) == []


async def test_intervals_arrive() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        host, port = server.getsockname()
        config = TelemetryConfig(statsd_address=f"{host}:{port}", dogstatsd_addr=f"{host}:{port}")
        async with asyncio.timeout(DEADLINE):
            for sink in sinks(config):
                await sink.take(METRICS)
            loop = asyncio.get_running_loop()
            found = [await loop.sock_recv(server, 2048) for _ in range(2)]
    assert [packet.split(b"\n")[0] for packet in found] == [
        b"consul.rpc.cross-dc.dc_2.a_b:4|c",
        b"consul.rpc.cross-dc:4|c|#datacenter:dc_2,op:a_b",
    ]


async def test_address_that_cannot_be_sent_to_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = StatsdSink("no-such-host.invalid:8125", tagged=False)
    with caplog.at_level(logging.WARNING):
        await sink.take(METRICS)
        await sink.take(METRICS)
    assert caplog.text.count("cannot send metrics to no-such-host.invalid:8125") == 1


def test_nothing_is_sent_unless_it_is_configured() -> None:
    assert sinks(TelemetryConfig()) == ()
