"""Prepared queries as captured."""

from isthmus.model.prepared_query import (
    PreparedQuery,
    PreparedQueryExecuteRemoteRequest,
    QueryDatacenterOptions,
    ServiceQuery,
)
from isthmus.wire import msgpack
from support.rpc_vectors import load


def test_captured_failover_carries_the_whole_query() -> None:
    body = load("preparedquery-executeremote-request").body
    request = msgpack.decode(PreparedQueryExecuteRemoteRequest, body)
    assert request.datacenter == "dc1"
    assert request.query == PreparedQuery(
        id="b841c8bc-ec00-620f-5035-f9ff3e6bf7af",
        name="qf",
        service=ServiceQuery(
            service="nosuch", failover=QueryDatacenterOptions(datacenters=("dc1",))
        ),
        create_index=29,
        modify_index=29,
    )
