"""What the door needs of the agent it belongs to; `agent/` implements it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from isthmus.model.agent import AgentService, CheckDefinition, Member, ServiceDefinition
from isthmus.model.catalog import HealthCheck
from isthmus.model.diagnosis import DoctorReport
from isthmus.model.event import UserEvent
from isthmus.model.metric import Metrics


class LocalAgent(Protocol):
    """The agent's own state and deeds.

    Every method may raise a `RequestError`, whose status and text are answered, or an
    `Unavailable`, answered as 500.
    """

    @property
    def datacenter(self) -> str:
        """Our datacenter."""

    @property
    def node_name(self) -> str:
        """Our node."""

    @property
    def coordinates_enabled(self) -> bool:
        """Whether round trips are estimated."""

    async def self_info(self) -> Mapping[str, object]:
        """Body of ``/v1/agent/self``: Config, DebugConfig, Coord, Member, Stats, Meta, xDS."""

    def members(self, *, wan: bool) -> Sequence[Member] | None:
        """Members of the LAN or WAN pool; None on an agent that is not in the WAN pool."""

    async def join(self, address: str, *, wan: bool) -> None:
        """Join the pool through a member at `address`."""

    async def leave(self) -> None:
        """Begin to leave and to stop; returns before the HTTP door is closed."""

    async def force_leave(self, node: str, *, prune: bool, wan: bool) -> None:
        """Declare a failed member as having left; with `prune`, forget it."""

    def services(self) -> Mapping[str, AgentService]:
        """Services of this agent by id."""

    def services_called(self, name: str) -> Sequence[AgentService]:
        """Instances of a service on this agent."""

    def service(self, service_id: str) -> AgentService | None:
        """One service; None when there is none."""

    def checks_of(self, service_id: str) -> Sequence[HealthCheck]:
        """Checks that concern a service: its own and those of the node."""

    async def service_changed(
        self, service_id: str, *, content_hash: str, wait: float
    ) -> AgentService | None:
        """A service once its content hash differs from the one given.

        Args:
            service_id: Of the service.
            content_hash: What the caller has; empty: the answer comes at once.
            wait: Longest wait in seconds; then the service is returned as it is.

        Returns:
            The service, or None when there is none (any more).
        """

    async def register_service(
        self, definition: ServiceDefinition, *, replace_existing_checks: bool
    ) -> None:
        """Register a service with its checks (see `model.registration`)."""

    async def deregister_service(self, service_id: str) -> None:
        """Remove a service and its checks; an unknown one is no error."""

    def checks(self) -> Mapping[str, HealthCheck]:
        """Checks of this agent by id, with the node filled in."""

    async def register_check(self, definition: CheckDefinition) -> None:
        """Register a check of the node or of a service."""

    async def deregister_check(self, check_id: str) -> None:
        """Remove a check; an unknown one is no error."""

    async def update_check(self, check_id: str, *, status: str, output: str) -> None:
        """Set the state of a TTL check and restart its time."""

    async def set_maintenance(
        self, service_id: str, *, enable: bool, reason: str, token: str
    ) -> None:
        """Take a service, or with an empty id the node, out of service or back.

        A `NotFound` says that there is no such service.
        """

    async def fire_event(self, event: UserEvent, *, dc: str, token: str) -> UserEvent:
        """Spread an event among the agents of a datacenter; return it with its id."""

    async def events(
        self, *, name: str, node: str, service: str, tag: str, index: int, wait: float
    ) -> tuple[int, Sequence[UserEvent]]:
        """The newest events that this agent took, once their index differs from the one given.

        Args:
            name: Only events of this name; empty for all.
            node: Only events that an agent of this name takes; empty for all.
            service: Only events that an agent with this service takes; empty for all.
            tag: Only events that an agent takes whose service has this tag; empty for all.
            index: What the caller has seen; 0: the answer comes at once.
            wait: Longest wait in seconds, 0 for the longest that there is; then the list comes
                as it is.

        Returns:
            The index that stands for the list, and the list, oldest first.
        """

    async def diagnose(self, dc: str) -> DoctorReport:
        """Examine the ways between our datacenter and others, hop by hop.

        Args:
            dc: The only other datacenter to look at; empty for all that are known.
        """

    @property
    def prometheus_enabled(self) -> bool:
        """Whether metrics are shown in Prometheus' format."""

    async def metrics(self) -> Metrics:
        """Every figure about the agent, as it is now; counts since it started."""

    async def recent_metrics(self) -> Metrics:
        """The figures of the last whole interval of ten seconds."""

    async def next_metrics(self) -> Metrics:
        """The figures of the interval that runs now, once it is over."""

    def watch_log(self, level: str, *, as_json: bool) -> AsyncGenerator[bytes, None]:
        """Yield log lines from now on, until the agent stops or the generator is closed.

        Args:
            level: The least one: TRACE, DEBUG, INFO, WARN or ERR, in any case.
            as_json: Whether each line is a JSON object.
        """

    def host(self) -> Mapping[str, object]:
        """Body of ``/v1/agent/host``: Memory, CPU, Host, Disk, CollectionTime, Errors."""

    async def reload(self) -> None:
        """Read the configuration again, and take over what needs no restart."""

    @property
    def debug_enabled(self) -> bool:
        """Whether stacks, profile and memory may be shown."""

    def stacks(self) -> str:
        """Where every thread and task is."""

    def memory(self) -> str:
        """Objects in memory by type."""

    async def profile(self, seconds: float) -> str:
        """Where the time goes: stacks, and how often each was seen."""

    async def move_storage(self) -> None:
        """Keep the data of the datacenter's one server in etcd from now on, so others can join.

        Raises an `InvalidRequest` when it is there already.
        """

    async def gateway_routes(self, service_id: str, content_hash: str, wait: float) -> bytes | None:
        """The route table of a mesh gateway as JSON, once its hash differs from the one given.

        Args:
            service_id: Of the gateway.
            content_hash: Hash of the table that the gateway has; empty: answer at once.
            wait: Longest wait in seconds; then the table is returned as it is.

        Returns:
            The table; None when no mesh gateway of that id is registered here.
        """
