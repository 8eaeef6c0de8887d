"""Processes that stand still for a minute: the others give them up, and take them back."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.processes import eventually, shown_on_failure
from support.serf_agent import SERF, serf_agent

PAUSE = 60.0
GIVEN_UP_WITHIN = 20.0
BACK_WITHIN = 40.0
"""A member asleep hears of its death with the first packet, at the latest at a full exchange."""
LAN_TIMES = {"probe_interval": "1s", "probe_timeout": "500ms", "suspicion_mult": 4}
ALIVE, FAILED = 1, 4

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]


def statuses(agent: AgentProcess, *, wan: bool) -> dict[str, int]:
    """What an agent thinks of the members of one of its pools."""
    members: list[dict[str, Any]] = agent.get("/v1/agent/members" + ("?wan=1" if wan else ""))
    return {member["Name"]: member["Status"] for member in members}


def sees(agent: AgentProcess, expected: dict[str, int]) -> bool:
    """Whether this is what it thinks of the WAN pool."""
    return statuses(agent, wan=True) == expected


@pytest.fixture
def stopped() -> Iterator[ExitStack]:
    """What is on it is stopped in the end."""
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, folder: Path, host: str, **config: Any) -> AgentProcess:
    """A server agent with data, so that its timing is that of production."""
    agent = AgentProcess(
        folder, host, server=True, bootstrap=True, data_dir=str(folder / host), **config
    )
    stack.callback(agent.process.stop, signal.SIGKILL)
    return agent


def test_agent_that_stands_still_for_a_minute_comes_back(
    tmp_path: Path, stopped: ExitStack
) -> None:
    """Three datacenters; one server gets no processor time for 60 s, the WAN timed like a LAN."""
    hosts = [f"127.89.{number}.1" for number in (1, 2, 3)]
    agents = [
        start(
            stopped,
            tmp_path,
            host,
            datacenter=f"dc{number}",
            primary_datacenter="dc1",
            node_name="server",
            retry_join_wan=[hosts[0]] if number > 1 else [],
            gossip_wan=LAN_TIMES,
        )
        for number, host in enumerate(hosts, 1)
    ]
    names = {f"server.dc{number}" for number in (1, 2, 3)}
    with shown_on_failure(*(agent.process for agent in agents)):
        everyone = dict.fromkeys(names, ALIVE)
        eventually(
            lambda: all(sees(agent, everyone) for agent in agents),
            timeout=30,
            what="one WAN pool",
        )
        sleeper, *others = reversed(agents)
        sleeper.process.send(signal.SIGSTOP)
        asleep = time.monotonic()
        for agent in others:
            eventually(
                partial(sees, agent, everyone | {"server.dc3": FAILED}),
                timeout=GIVEN_UP_WITHIN,
                what="the sleeper is failed, and nobody else",
            )
        time.sleep(PAUSE - (time.monotonic() - asleep))
        sleeper.process.send(signal.SIGCONT)
        awake = time.monotonic()
        for agent in agents:
            eventually(
                partial(sees, agent, everyone),
                timeout=BACK_WITHIN,
                what="everyone is alive for everyone",
            )
        print(f"a server asleep for {PAUSE:.0f} s: all well {time.monotonic() - awake:.1f} s later")
        time.sleep(5)  # And it stays so: the sleeper suspected nobody for its own absence.
        assert all(sees(agent, everyone) for agent in agents)


@pytest.mark.skipif(SERF is None, reason="no serf agent here: apt-get install serf")
async def test_serf_agent_takes_back_a_process_that_stood_still(
    tmp_path: Path, stopped: ExitStack
) -> None:
    """The same among real peers: two serf agents in the LAN pool of a server of ours."""
    agent = start(stopped, tmp_path, "127.89.4.1", node_name="server")
    await asyncio.to_thread(agent.wait_until_ready)
    join = "-join=127.89.4.1:8301"
    async with (
        serf_agent("real0", tmp_path / "real0.log", "-profile=lan", join) as first,
        serf_agent("real1", tmp_path / "real1.log", "-profile=lan", join) as second,
    ):
        for peer in (first, second):
            await peer.sees("server", "alive", within=10)
        agent.process.send(signal.SIGSTOP)
        asleep = time.monotonic()
        for peer in (first, second):
            await peer.sees("server", "failed", within=GIVEN_UP_WITHIN)
        await asyncio.sleep(PAUSE - (time.monotonic() - asleep))
        agent.process.send(signal.SIGCONT)
        awake = time.monotonic()
        for peer in (first, second):
            await peer.sees("server", "alive", within=BACK_WITHIN)
        print(f"asleep for {PAUSE:.0f} s: serf has it back {time.monotonic() - awake:.1f} s later")

        def agreed() -> bool:
            return statuses(agent, wan=False) == dict.fromkeys(("real0", "real1", "server"), ALIVE)

        await asyncio.to_thread(eventually, agreed, timeout=BACK_WITHIN, what="its own view")
        for peer, other in ((first, "real1"), (second, "real0")):
            assert f"EventMemberFailed: {other}" not in peer.log
