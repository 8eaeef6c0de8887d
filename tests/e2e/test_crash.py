"""SIGKILL during writes: what was acknowledged is there, whole, and its indexes are exact.

A handful of rounds by default; ``ISTHMUS_CRASH_ROUNDS=50`` (``make crash``) runs more.
"""

import asyncio
import base64
import hashlib
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.agent_process import HTTP_PORT, AgentProcess

ROUNDS = int(os.environ.get("ISTHMUS_CRASH_ROUNDS", "8"))
SEED = int(os.environ.get("ISTHMUS_CRASH_SEED", "1"))
WRITERS = 64
REGISTERING = 8
"""So many of the writers write to the catalog; the others to the key-value store."""
VALUE_SIZES = (16, 200, 5_000)
HOST = "127.88.9.1"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60 + 15 * ROUNDS)]


@dataclass
class Journal:
    """What one writer asked for, in order, over all rounds.

    Attributes:
        number: Which writer.
        attempted: Keys, or names of nodes, whose write was sent.
        acknowledged: Of these: answered with success.
    """

    number: int
    attempted: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)

    @property
    def registers(self) -> bool:
        """Whether it writes to the catalog."""
        return self.number < REGISTERING

    def next_request(self) -> bytes:
        """The next write, as HTTP."""
        name = f"w{self.number}-{len(self.attempted):06}"
        self.attempted.append(name)
        if self.registers:
            path, body = "catalog/register", json.dumps(registration(name)).encode()
        else:
            path, body = f"kv/{name}", value_of(name)
        head = f"PUT /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def value_of(key: str) -> bytes:
    """The value that belongs to a key, so that a part or a mixture of values is seen."""
    digest = hashlib.sha256(key.encode()).digest()
    size = VALUE_SIZES[digest[0] % len(VALUE_SIZES)]
    return (digest * (size // len(digest) + 1))[:size]


def registration(name: str) -> dict[str, Any]:
    """One write of three records."""
    return {
        "Node": name,
        "Address": "127.0.0.1",
        "Service": {"Service": "crash", "ID": f"crash-{name}", "Port": 80},
        "Check": {"CheckID": f"check-{name}", "Status": "passing", "ServiceID": f"crash-{name}"},
    }


async def write(journal: Journal) -> None:
    """Write until the connection breaks."""
    try:
        reader, writer = await asyncio.open_connection(HOST, HTTP_PORT)
    except OSError:
        return
    try:
        while True:
            writer.write(journal.next_request())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200"), (head, body)
            assert body == b"true", body
            journal.acknowledged.append(journal.attempted[-1])
    except (OSError, asyncio.IncompleteReadError):
        return
    finally:
        writer.transport.abort()


async def write_until_killed(agent: AgentProcess, journals: list[Journal], after: float) -> None:
    """Run all writers at once, kill the agent after some seconds."""
    asyncio.get_running_loop().call_later(after, agent.process.send, signal.SIGKILL)
    async with asyncio.timeout(after + 20), asyncio.TaskGroup() as group:
        for journal in journals:
            group.create_task(write(journal))
    agent.process.wait()


@dataclass
class Stored:
    """What the agent has after its restart, by key or node."""

    index: int
    modify: dict[str, int]


def read_back(agent: AgentProcess) -> Stored:
    """Read everything; assert that each record is whole."""
    modify: dict[str, int] = {}
    status, body, headers = agent.request("GET", "/v1/kv/?recurse", timeout=30)
    indexes = [int(headers["X-Consul-Index"])]
    for entry in json.loads(body) if status == 200 else ():
        key = entry["Key"]
        assert base64.b64decode(entry["Value"]) == value_of(key), f"{key} is not whole"
        assert entry["CreateIndex"] == entry["ModifyIndex"], key
        modify[key] = entry["ModifyIndex"]
    status, body, headers = agent.request("GET", "/v1/health/service/crash", timeout=30)
    assert status == 200
    indexes.append(int(headers["X-Consul-Index"]))
    instances = json.loads(body)
    for instance in instances:
        name = instance["Node"]["Node"]
        (check,) = instance["Checks"]
        assert instance["Service"]["ID"] == f"crash-{name}"
        assert check["CheckID"] == f"check-{name}"
        written = {part["ModifyIndex"] for part in (instance["Node"], instance["Service"], check)}
        assert len(written) == 1, f"{name} was written in parts"
        modify[name] = written.pop()
    nodes = {node["Node"] for node in agent.get("/v1/catalog/nodes", timeout=30)}
    registered = {instance["Node"]["Node"] for instance in instances}
    assert {name for name in nodes if name.startswith("w")} == registered, "a node alone"
    return Stored(max(indexes), modify)


def check(journals: list[Journal], stored: Stored) -> None:
    """Assert that the store holds what the journals allow, and nothing else."""
    allowed = {name for journal in journals for name in journal.attempted}
    assert stored.modify.keys() <= allowed
    assert len(set(stored.modify.values())) == len(stored.modify), "two writes have one index"
    assert max(stored.modify.values(), default=0) <= stored.index
    for journal in journals:
        lost = [name for name in journal.acknowledged if name not in stored.modify]
        assert not lost, f"acknowledged and lost: {lost[:5]} ({len(lost)} in all)"
        order = [stored.modify[name] for name in journal.attempted if name in stored.modify]
        assert order == sorted(order), f"indexes of writer {journal.number} are out of order"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    data = str(tmp_path / "data")
    agent = AgentProcess(tmp_path, HOST, server=True, bootstrap=True, data_dir=data)
    try:
        yield agent
    finally:
        agent.kill()


def test_acknowledged_writes_survive_sigkill_whole_and_in_order(
    agent: AgentProcess, tmp_path: Path
) -> None:
    rng = Random(SEED)
    journals = [Journal(number) for number in range(WRITERS)]
    index = 0
    for _ in range(ROUNDS):
        agent.wait_until_ready()
        asyncio.run(write_until_killed(agent, journals, after=rng.uniform(0.1, 0.8)))
        agent.restart()
        agent.wait_until_ready()
        stored = read_back(agent)
        check(journals, stored)
        assert stored.index > index, "the index of the store did not grow"
        index = stored.index
    assert agent.process.stop() == 0
    assert "Traceback" not in agent.process.output()
    (file,) = (tmp_path / "data").rglob("*.db")
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    acknowledged = sum(len(journal.acknowledged) for journal in journals)
    print(f"{ROUNDS} rounds, {acknowledged} acknowledged writes, index {index}")
    assert acknowledged > ROUNDS * WRITERS
