"""A part of the agent that dies by a defect of ours takes the agent with it, never half of it."""

import asyncio
import datetime
import json

import pytest

from isthmus.agent.agent import Agent
from isthmus.agent.platform import Machine
from isthmus.config import ConfigText, load

WALL = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


async def test_dead_gossip_thread_ends_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    text = json.dumps({"bind_addr": "127.88.3.1", "client_addr": "127.88.3.1"})
    config = load([ConfigText(text, format="json")], dev=True)
    agent = Agent(config, Machine(entropy=bytes, wall=lambda: WALL))
    running = asyncio.ensure_future(agent.run())
    async with asyncio.timeout(20):
        while agent.wan is None:
            await asyncio.wait({running}, timeout=0.01)

        def fail() -> None:
            raise AssertionError("broken on purpose")

        agent._gossip.post(fail)
        assert await running == 1
    assert "agent stops: broken on purpose" in caplog.text
