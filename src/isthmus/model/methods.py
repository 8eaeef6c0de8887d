"""Which RPC methods there are, what they take and what they answer.

The one table that servers dispatch by, pools decode by and doors call by.
Source: protocol/rpc.md §6, "Methods".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.model import (
    catalog,
    config_entry,
    coordinate,
    diagnosis,
    event,
    federation,
    keyring,
    kv,
    operator,
    prepared_query,
    query,
    session,
    snapshot,
    storage,
    txn,
)


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC method.

    Attributes:
        request: Record type of the argument.
        reply: Type of the reply: a record type, or a plain type such as ``bool``,
            ``str``, ``tuple[str, ...]``.
        read: Whether it is a read: it may block, and may be stale.
        local: Answered by whichever server is asked, never forwarded.
        anywhere: Answered by any server of its datacenter, whoever leads.
        leading: Answered by who leads, however stale its caller takes the answer.
    """

    request: type
    reply: object
    read: bool = True
    local: bool = False
    anywhere: bool = False
    leading: bool = False

    @property
    def may_be_stale(self) -> bool:
        """Whether a server that does not lead may answer a caller who allows that."""
        return self.read and not self.leading


METHODS: Final[Mapping[str, Method]] = {
    "Status.Ping": Method(query.Empty, query.Empty, local=True),
    "Status.Leader": Method(query.DatacenterRequest, str, anywhere=True),
    "Status.Peers": Method(query.DatacenterRequest, tuple[str, ...], anywhere=True),
    "Catalog.Register": Method(catalog.RegisterRequest, query.Empty, read=False),
    "Catalog.Deregister": Method(catalog.DeregisterRequest, query.Empty, read=False),
    "Catalog.ListDatacenters": Method(catalog.DatacentersRequest, tuple[str, ...], local=True),
    "Catalog.ListNodes": Method(query.DatacenterRequest, catalog.IndexedNodes),
    "Catalog.ListServices": Method(query.DatacenterRequest, catalog.IndexedServices),
    "Catalog.ServiceList": Method(query.DatacenterRequest, catalog.IndexedServiceList),
    "Catalog.ServiceNodes": Method(catalog.ServiceRequest, catalog.IndexedServiceNodes),
    "Catalog.NodeServices": Method(catalog.NodeRequest, catalog.IndexedNodeServices),
    "Catalog.NodeServiceList": Method(catalog.NodeRequest, catalog.IndexedNodeServiceList),
    "Catalog.GatewayServices": Method(catalog.ServiceRequest, catalog.IndexedGatewayServices),
    "Health.ServiceNodes": Method(catalog.ServiceRequest, catalog.IndexedCheckServiceNodes),
    "Health.ServiceChecks": Method(catalog.ServiceRequest, catalog.IndexedHealthChecks),
    "Health.NodeChecks": Method(catalog.NodeRequest, catalog.IndexedHealthChecks),
    "Health.ChecksInState": Method(catalog.ChecksInStateRequest, catalog.IndexedHealthChecks),
    "Coordinate.ListDatacenters": Method(
        query.Empty, tuple[coordinate.DatacenterMap, ...], local=True
    ),
    "Coordinate.ListNodes": Method(query.DatacenterRequest, coordinate.IndexedCoordinates),
    "Coordinate.Node": Method(catalog.NodeRequest, coordinate.IndexedCoordinates),
    "Coordinate.Update": Method(coordinate.CoordinateUpdateRequest, query.Empty, read=False),
    "Internal.NodeInfo": Method(catalog.NodeRequest, catalog.IndexedNodeDump),
    "Internal.NodeDump": Method(query.DatacenterRequest, catalog.IndexedNodeDump),
    "Internal.ServiceDump": Method(catalog.ServiceDumpRequest, catalog.IndexedNodesWithGateways),
    "Internal.EventFire": Method(
        event.EventFireRequest, event.EventFireResponse, read=False, anywhere=True
    ),
    "Internal.KeyringOperation": Method(
        keyring.KeyringRequest, keyring.KeyringResponses, anywhere=True
    ),
    "KVS.Apply": Method(kv.KVSRequest, bool, read=False),
    "KVS.Get": Method(kv.KeyRequest, kv.IndexedDirEntries),
    "KVS.List": Method(kv.KeyRequest, kv.IndexedDirEntries),
    "KVS.ListKeys": Method(kv.KeyListRequest, kv.IndexedKeyList),
    "FederationState.Apply": Method(federation.FederationStateRequest, bool, read=False),
    "FederationState.Get": Method(
        federation.FederationStateQuery, federation.FederationStateResponse
    ),
    "FederationState.List": Method(query.DatacenterRequest, federation.IndexedFederationStates),
    "FederationState.ListMeshGateways": Method(
        query.DatacenterRequest, federation.DatacenterIndexedCheckServiceNodes
    ),
    "ConfigEntry.Apply": Method(config_entry.ConfigEntryRequest, bool, read=False),
    "ConfigEntry.Delete": Method(config_entry.ConfigEntryRequest, query.Empty, read=False),
    "ConfigEntry.Get": Method(config_entry.ConfigEntryQuery, config_entry.ConfigEntryResponse),
    "ConfigEntry.List": Method(config_entry.ConfigEntryQuery, config_entry.IndexedConfigEntries),
    "ConfigEntry.ListAll": Method(
        config_entry.ConfigEntryListAllRequest, config_entry.IndexedGenericConfigEntries
    ),
    "Session.Apply": Method(session.SessionRequest, str, read=False),
    "Session.Get": Method(session.SessionSpecificRequest, session.IndexedSessions),
    "Session.List": Method(session.SessionSpecificRequest, session.IndexedSessions),
    "Session.NodeSessions": Method(catalog.NodeRequest, session.IndexedSessions),
    # It may be repeated, but only the leader's clock counts.
    "Session.Renew": Method(session.SessionSpecificRequest, session.IndexedSessions, leading=True),
    "Txn.Apply": Method(txn.TxnRequest, txn.TxnResponse, read=False),
    "Txn.Read": Method(txn.TxnReadRequest, txn.TxnReadResponse),
    # Ours; a Consul server answers that it has no such service.
    "Isthmus.Clock": Method(query.DatacenterRequest, diagnosis.Clock, anywhere=True),
    "Isthmus.Report": Method(query.DatacenterRequest, diagnosis.FederationReport),
    "PreparedQuery.Apply": Method(prepared_query.PreparedQueryRequest, str, read=False),
    "PreparedQuery.Get": Method(
        prepared_query.PreparedQuerySpecificRequest, prepared_query.IndexedPreparedQueries
    ),
    "PreparedQuery.List": Method(query.DatacenterRequest, prepared_query.IndexedPreparedQueries),
    "PreparedQuery.Explain": Method(
        prepared_query.PreparedQueryExecuteRequest, prepared_query.PreparedQueryExplainResponse
    ),
    "PreparedQuery.Execute": Method(
        prepared_query.PreparedQueryExecuteRequest, prepared_query.PreparedQueryExecuteResponse
    ),
    "PreparedQuery.ExecuteRemote": Method(
        prepared_query.PreparedQueryExecuteRemoteRequest,
        prepared_query.PreparedQueryExecuteResponse,
    ),
    "Status.RaftStats": Method(query.Empty, operator.RaftStats, local=True),
    "Operator.RaftGetConfiguration": Method(
        query.DatacenterRequest, operator.RaftConfigurationResponse
    ),
    "Operator.RaftRemovePeerByAddress": Method(
        operator.RaftRemovePeerRequest, query.Empty, read=False
    ),
    "Operator.RaftRemovePeerByID": Method(operator.RaftRemovePeerRequest, query.Empty, read=False),
    "Operator.AutopilotGetConfiguration": Method(query.DatacenterRequest, operator.AutopilotConfig),
    "Operator.AutopilotSetConfiguration": Method(
        operator.AutopilotSetConfigRequest, bool, read=False
    ),
    "Operator.ServerHealth": Method(query.DatacenterRequest, operator.AutopilotHealthReply),
    "Operator.AutopilotState": Method(query.DatacenterRequest, operator.AutopilotState),
    "Operator.TransferLeader": Method(
        operator.TransferLeaderRequest, operator.TransferLeaderResponse, read=False
    ),
    "Isthmus.SnapshotRead": Method(snapshot.SnapshotReadRequest, snapshot.SnapshotPiece),
    "Isthmus.SnapshotWrite": Method(
        snapshot.SnapshotWriteRequest, snapshot.SnapshotWriteReply, read=False
    ),
    "Isthmus.Storage": Method(storage.StorageRequest, storage.StorageReply, read=False, local=True),
}
"""Every method that servers answer."""
