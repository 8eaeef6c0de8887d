"""What operators are told of a datacenter's servers, and what they may change."""

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from isthmus.errors import RequestError
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.model.operator import (
    AutopilotConfig,
    AutopilotHealthReply,
    AutopilotSetConfigRequest,
    RaftRemovePeerRequest,
    TransferLeaderRequest,
)
from isthmus.model.query import DatacenterRequest
from isthmus.units import SECOND, Duration
from support.cluster import Cluster
from support.virtual_loop import now, run_virtual

ASK = DatacenterRequest()


def play(act: Callable[[Cluster], Awaitable[None]], *, count: int = 3) -> None:
    async def whole() -> None:
        cluster = Cluster(count, chosen=True)
        cluster.elect("s1")
        await cluster.start()
        await cluster.until(lambda: cluster.leaders == ["s1"])
        try:
            await act(cluster)
        finally:
            await cluster.stop()

    run_virtual(whole())


async def health(cluster: Cluster, asked: str = "s2") -> AutopilotHealthReply:
    found = await cluster[asked].call("Operator.ServerHealth", ASK)
    assert isinstance(found, AutopilotHealthReply)
    return found


def test_configuration_names_who_keeps_the_data_and_who_leads() -> None:
    async def act(cluster: Cluster) -> None:
        cluster.votes["id-s3"] = False
        cluster.votes["id-gone"] = True
        found = await cluster["s3"].call("Operator.RaftGetConfiguration", ASK)
        assert [
            (one.node, one.id, one.address, one.leader, one.voter) for one in found.servers
        ] == [
            ("(unknown)", "id-gone", "", False, True),
            ("s1", "id-s1", "10.0.0.1:8300", True, True),
            ("s2", "id-s2", "10.0.0.2:8300", False, True),
            ("s3", "id-s3", "10.0.0.3:8300", False, False),
        ]

    play(act)


def test_servers_that_follow_are_healthy_and_one_may_be_lost() -> None:
    async def act(cluster: Cluster) -> None:
        await cluster["s2"].call("KVS.Apply", KVSRequest(op=KV_SET, dir_ent=DirEntry(key="k")))
        await cluster.until(lambda: cluster["s3"].store.index == cluster["s1"].store.index)
        found = await health(cluster)
        assert (found.healthy, found.failure_tolerance) == (True, 1)
        assert [(one.name, one.leader, one.voter, one.healthy) for one in found.servers or ()] == [
            ("s1", True, True, True),
            ("s2", False, True, True),
            ("s3", False, True, True),
        ]
        assert {one.last_index for one in found.servers or ()} == {cluster["s1"].store.index}
        state = await cluster["s2"].call("Operator.AutopilotState", ASK)
        assert state.leader == "id-s1"
        assert state.voters == ("id-s1", "id-s2", "id-s3")
        assert [one.status for one in state.servers.values()] == ["leader", "voter", "voter"]

    play(act)


def test_server_that_failed_or_does_not_answer_is_not_healthy() -> None:
    async def act(cluster: Cluster) -> None:
        cluster.failed.add("s2")
        found = await health(cluster, "s3")
        assert (found.healthy, found.failure_tolerance) == (False, 0)
        assert [one.name for one in found.servers or () if not one.healthy] == ["s2"]
        assert [one.serf_status for one in found.servers or ()] == [1, 4, 1]
        cluster.failed.clear()
        cluster.wires.cut.add("s3")
        found = await health(cluster)
        assert [one.name for one in found.servers or () if not one.healthy] == ["s3"]
        cluster.wires.cut.clear()
        cluster.votes["id-gone"] = True
        found = await health(cluster)
        assert not found.healthy
        assert [one.id for one in found.servers or () if not one.healthy] == ["id-gone"]
        del cluster.votes["id-gone"], cluster.votes["id-s2"]  # It may be in another storage.
        found = await health(cluster)
        assert [one.name for one in found.servers or () if not one.healthy] == ["s2"]
        cluster.votes["id-s2"] = False  # It learns.
        assert (await health(cluster)).healthy

    play(act)


def test_server_that_is_behind_is_not_healthy() -> None:
    async def act(cluster: Cluster) -> None:
        config = AutopilotConfig(max_trailing_logs=5)
        await cluster["s1"].call(
            "Operator.AutopilotSetConfiguration", AutopilotSetConfigRequest(config=config)
        )
        lagging = cluster["s3"].store
        await cluster.until(lambda: lagging.index == cluster["s1"].store.index)
        lagging.index -= 6
        found = await health(cluster)
        assert [one.name for one in found.servers or () if not one.healthy] == ["s3"]
        lagging.index += 1
        assert (await health(cluster)).healthy

    play(act)


def test_autopilot_settings_are_kept_by_all_servers_and_changed_by_one_at_a_time() -> None:
    async def act(cluster: Cluster) -> None:
        default = await cluster["s2"].call("Operator.AutopilotGetConfiguration", ASK)
        assert default == AutopilotConfig()
        wanted = AutopilotConfig(
            cleanup_dead_servers=False, min_quorum=3, last_contact_threshold=Duration(SECOND)
        )
        request = AutopilotSetConfigRequest(config=wanted)
        assert await cluster["s3"].call("Operator.AutopilotSetConfiguration", request)
        kept = await cluster["s2"].call("Operator.AutopilotGetConfiguration", ASK)
        assert (kept.cleanup_dead_servers, kept.min_quorum) == (False, 3)
        assert kept.modify_index == kept.create_index > 0
        await cluster.until(lambda: cluster["s3"].store.autopilot.get() == kept)
        stale = msgspec.structs.replace(kept, modify_index=kept.modify_index - 1)
        for config, done in ((stale, False), (kept, True), (kept, False)):
            cas = AutopilotSetConfigRequest(config=config, cas=True)
            assert await cluster["s2"].call("Operator.AutopilotSetConfiguration", cas) is done
        wrong = AutopilotSetConfigRequest(
            config=AutopilotConfig(last_contact_threshold=Duration(-1))
        )
        with pytest.raises(RequestError, match="negative"):
            await cluster["s1"].call("Operator.AutopilotSetConfiguration", wrong)

    play(act)


def test_server_is_removed_by_id_or_address_and_only_if_the_storage_allows_it() -> None:
    async def act(cluster: Cluster) -> None:
        for method, request, text in (
            (
                "ByAddress",
                RaftRemovePeerRequest(address="10.9.9.9:1"),
                'address "10.9.9.9:1" was not',
            ),
            ("ByID", RaftRemovePeerRequest(id="x"), 'id "x" was not found'),
        ):
            with pytest.raises(RequestError, match=text):
                await cluster["s2"].call(f"Operator.RaftRemovePeer{method}", request)
        request = RaftRemovePeerRequest(address="10.0.0.3:8300")
        await cluster["s2"].call("Operator.RaftRemovePeerByAddress", request)
        assert sorted(cluster.votes) == ["id-s1", "id-s2"]
        with pytest.raises(RequestError, match="does not let it go"):
            await cluster["s2"].call(
                "Operator.RaftRemovePeerByID", RaftRemovePeerRequest(id="id-s2")
            )

    play(act)


def test_leadership_is_handed_over_and_the_answer_comes_when_another_leads() -> None:
    async def act(cluster: Cluster) -> None:
        cluster.elect("s3")
        reply = await cluster["s2"].call("Operator.TransferLeader", TransferLeaderRequest())
        assert reply.success
        assert cluster.leaders == ["s3"]

    play(act)


def test_hand_over_to_nobody_is_refused() -> None:
    async def act(cluster: Cluster) -> None:
        for votes, wanted, text in (
            ({"id-s1": True, "id-s2": False}, "id-s2", "does not vote"),
            ({"id-s1": True}, "", "no other server"),
        ):
            cluster.votes = votes
            with pytest.raises(RequestError, match=text):
                await cluster["s1"].call(
                    "Operator.TransferLeader", TransferLeaderRequest(id=wanted)
                )
        cluster.votes = {"id-s1": True, "id-s2": True}
        started = now()
        await cluster["s1"].call("Operator.TransferLeader", TransferLeaderRequest(id="id-s1"))
        assert now() == started
        assert cluster.leaders == ["s1"]

    play(act)
