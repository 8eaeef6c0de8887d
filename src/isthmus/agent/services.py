"""Services and checks registered with this agent: validated, kept, checked, pushed.

Source: protocol/http-api.md §6.3.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final

import msgspec

from isthmus.agent.checks import CheckRunner, CheckWorld, refuse_unknown_kind
from isthmus.agent.kept import Kept, KeptState
from isthmus.agent.local import LocalState
from isthmus.agent.outbox import CHECK, SERVICE
from isthmus.errors import InvalidRequest, IsthmusError, NotFound, RequestError
from isthmus.http.decode import decode
from isthmus.model import agent
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import CRITICAL, MAINTENANCE, HealthCheck, NodeService, ServiceConnect
from isthmus.model.registration import CheckPlan, Registration, dns_fault, register, register_check
from isthmus.model.sidecar import free_port, sidecar_definition, sidecar_id
from isthmus.net.tasks import TaskScope
from isthmus.units import SECOND

logger = logging.getLogger(__name__)

NODE_MAINTENANCE: Final = "_node_maintenance"
SERVICE_MAINTENANCE: Final = "_service_maintenance:"
_NO_REASON: Final = "Maintenance mode is enabled for this {}, and no reason was given."
_NO_SCRIPTS: Final = "Scripts are disabled on this agent"

Name = tuple[str, str]
"""`SERVICE` or `CHECK`, and an id: what the catalog learns of."""


class Source(Enum):
    """Who registers: that decides who may run programs."""

    FILE = "file"
    HTTP = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicesConfig:
    """What may be registered.

    Attributes:
        sidecar_port_min, sidecar_port_max: For sidecars that name no port; 0 or less: none.
        file_scripts: Checks from files may run programs.
        http_scripts: Checks registered over HTTP may, too.
    """

    sidecar_port_min: int = 21000
    sidecar_port_max: int = 21255
    file_scripts: bool = False
    http_scripts: bool = False


@dataclass(frozen=True, slots=True)
class _Planned:
    """A registration that breaks no rule, and what it was made of."""

    definition: ServiceDefinition
    registration: Registration
    is_sidecar: bool = False

    @property
    def id(self) -> str:
        return self.registration.service.id

    @property
    def names(self) -> tuple[Name, ...]:
        checks = ((CHECK, plan.check.check_id) for plan in self.registration.checks)
        return ((SERVICE, self.id), *checks)


class LocalServices:
    """The front of the local state: what users register comes in here.

    Args:
        world: What checks have in common; holds the local state.
        config: What may be registered.
        kept: Registrations over HTTP and states of TTL checks on disk.
        wall: The calendar clock.
        changed: Called after every registration and removal.
    """

    def __init__(
        self,
        world: CheckWorld,
        *,
        config: ServicesConfig,
        kept: Kept,
        wall: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._world, self._local, self._config = world, world.local, config
        self._kept, self._wall, self._changed = kept, wall, changed
        self._node = self._local.facts.node
        self._runners: dict[str, tuple[CheckRunner, asyncio.Task[None]]] = {}
        self._scope = TaskScope()
        self._sidecars: set[str] = set()
        self._configured: set[str] = set()  # Ids of services that the configuration holds.
        self._configured_checks: set[str] = set()

    @property
    def local(self) -> LocalState:
        """What is registered, and its state."""
        return self._local

    def runner_count(self, kind: str = "") -> int:
        """How many checks run, of a kind or of all."""
        kinds = [runner.definition.type for runner, _ in self._runners.values()]
        return kinds.count(kind) if kind else len(kinds)

    # Files ---------------------------------------------------------------------------------------

    def load(
        self, services: Iterable[Mapping[str, Any]], checks: Iterable[Mapping[str, Any]]
    ) -> None:
        """Register what the configuration holds, and what an earlier run kept.

        The configuration wins over what was kept.

        Raises:
            InvalidRequest: A definition of the configuration breaks a rule.
        """
        planned, plans = self._wanted(services, checks)
        self._take_configured(planned)
        self._restore_services()
        self._take_configured_checks(planned, plans)
        self._restore_checks()

    def reload(
        self, services: Iterable[Mapping[str, Any]], checks: Iterable[Mapping[str, Any]]
    ) -> None:
        """Take the services and checks of a new configuration in place of the old one's.

        What did not change goes on undisturbed, and so does what came over HTTP.

        Raises:
            InvalidRequest: A definition breaks a rule; nothing was changed.
        """
        planned, plans = self._wanted(services, checks)
        for gone in self._configured - {one.id for one in planned}:
            self.deregister(gone)
        self._take_configured(planned)
        self._take_configured_checks(planned, plans)

    def _wanted(
        self, services: Iterable[Mapping[str, Any]], checks: Iterable[Mapping[str, Any]]
    ) -> tuple[list[_Planned], list[CheckPlan]]:
        """Everything of a configuration, checked: all mistakes show before anything changes."""
        planned: list[_Planned] = []
        for entry in services:
            definition = _definition(ServiceDefinition, entry)
            planned += self._plan(definition, Source.FILE, taken=planned)
        plans = [
            self._plan_check(_definition(CheckDefinition, entry), Source.FILE) for entry in checks
        ]
        return planned, plans

    def _take_configured(self, planned: list[_Planned]) -> None:
        for one in planned:
            self._kept.forget_service(one.id)
            self._put(one)
        self._configured = {one.id for one in planned}
        self._changed()

    def _take_configured_checks(self, planned: list[_Planned], plans: list[CheckPlan]) -> None:
        for plan in plans:
            self._kept.forget_definition(plan.check.check_id)
            self._put_check(plan)
        ids = {plan.check.check_id for one in planned for plan in one.registration.checks}
        ids |= {plan.check.check_id for plan in plans}
        for gone in self._configured_checks - ids:
            self.deregister_check(gone)
        self._configured_checks = ids

    def _restore_services(self) -> None:
        for kept in list(self._kept.services()):
            service = kept.service
            if service is None or (service.id or service.name) in self._local.services:
                continue
            checks = (*(service.checks or ()), *self._still_allowed(kept.checks))
            definition = msgspec.structs.replace(service, checks=checks or None)
            try:
                for one in self._plan(definition, Source.HTTP):
                    self._put(replace(one, is_sidecar=kept.is_sidecar))
            except RequestError as error:
                logger.warning("kept registration of %s refused: %s", definition.name, error)

    def _still_allowed(self, checks: Iterable[CheckDefinition]) -> Iterator[CheckDefinition]:
        """Kept checks that this agent may still run; the others are forgotten."""
        for check in checks:
            try:
                self._allow(check, Source.HTTP)
            except RequestError as error:
                logger.warning("kept check %s refused: %s", check.check_id, error)
                self._kept.forget_check(check.check_id)
            else:
                yield check

    def _restore_checks(self) -> None:
        for definition in list(self._kept.checks()):
            check_id = definition.check_id
            if check_id in self._local.checks:
                continue
            try:
                if _is_maintenance(check_id):
                    self._enter_maintenance(definition)
                else:
                    self._put_check(self._plan_check(definition, Source.HTTP))
            except RequestError as error:
                logger.warning("kept registration of check %s refused: %s", check_id, error)
                self._kept.forget_check(check_id)

    # Services ------------------------------------------------------------------------------------

    def register(
        self, definition: ServiceDefinition, *, replace_checks: bool = False
    ) -> tuple[Name, ...]:
        """Register a service with its checks and its sidecar, replacing one of the same id.

        Args:
            definition: As its owner gives it.
            replace_checks: Checks of the service that it does not name go.

        Returns:
            What the catalog learns of.

        Raises:
            RequestError: The definition breaks a rule; nothing was changed.
        """
        planned = self._plan(definition, Source.HTTP)
        names: list[Name] = []
        for one in planned:
            self._put(one, keep=True)
            for plan in one.registration.checks:
                self._take_status(plan)
            names += one.names
            if replace_checks:
                wanted = {name for kind, name in one.names if kind == CHECK}
                for check in self._local.checks_of(one.id):
                    if check.check_id not in wanted:
                        names += self.deregister_check(check.check_id)
        self._changed()
        return tuple(names)

    def deregister(self, service_id: str) -> tuple[Name, ...]:
        """Remove a service with its checks and its sidecar; an unknown one is no error."""
        if service_id not in self._local.services:
            return ()
        self._kept.forget_service(service_id)
        for check_id in self._local.remove_service(service_id):
            self._unwatch(check_id)
            self._kept.forget_check(check_id)
        self._sidecars.discard(service_id)
        self._changed()
        sidecar = sidecar_id(service_id)
        more = self.deregister(sidecar) if sidecar in self._sidecars else ()
        return ((SERVICE, service_id), *more)

    def _plan(
        self, definition: ServiceDefinition, source: Source, *, taken: Iterable[_Planned] = ()
    ) -> list[_Planned]:
        """A service, and its sidecar if it has one.

        Raises:
            RequestError: The definition breaks a rule.
        """
        connect = definition.connect
        asked = connect.sidecar_service if connect is not None else None
        if connect is not None and asked is not None:
            bare = ServiceConnect(native=connect.native)
            definition = msgspec.structs.replace(definition, connect=bare)
        planned = [self._planned(definition, source)]
        if asked is not None:
            sidecar = self._sidecar(definition, _sidecar_of(definition, asked), taken)
            try:
                planned.append(self._planned(sidecar, source, is_sidecar=True))
            except InvalidRequest as error:
                raise InvalidRequest(f"Bad request: Invalid SidecarService: {error}") from error
        return planned

    def _planned(
        self, definition: ServiceDefinition, source: Source, *, is_sidecar: bool = False
    ) -> _Planned:
        registration = register(definition, node=self._node)
        for plan in registration.checks:
            self._allow(plan.definition, source)
        return _Planned(definition, registration, is_sidecar)

    def _sidecar(
        self, service: ServiceDefinition, sidecar: ServiceDefinition, taken: Iterable[_Planned]
    ) -> ServiceDefinition:
        first, last = self._config.sidecar_port_min, self._config.sidecar_port_max
        port: int | None = sidecar.port if sidecar.port > 0 else None
        if port is None and first > 0 and last > 0:
            services = {**self._local.services}
            services |= {one.id: one.registration.service for one in taken}
            name = sidecar_id(service.id or service.name)
            port = free_port(services, name, first=first, last=last)
        if port is None:
            why = (
                f"and none left in the configured range [{first}, {last}]"
                if first > 0 and last > 0
                else "and auto-assignment disabled in config"
            )
            text = f"no port provided for sidecar_service {why}"
            raise InvalidRequest(f"Bad request: Invalid SidecarService: {text}")
        return sidecar_definition(service, sidecar, port=port)

    def _put(self, planned: _Planned, *, keep: bool = False) -> None:
        service, plans = planned.registration.service, planned.registration.checks
        if service.id not in self._local.services:
            _warn_of_dns(service)
        token = planned.definition.token
        checks = tuple(self._restored(plan.check) for plan in plans)
        self._local.put_service(service, checks, token=token)
        if planned.is_sidecar:
            self._sidecars.add(service.id)
        for plan in plans:
            self._watch(plan, token)
        if keep:
            self._kept.keep_service(
                planned.definition,
                [plan.definition for plan in plans],
                is_sidecar=planned.is_sidecar,
            )

    # Checks --------------------------------------------------------------------------------------

    def register_check(self, definition: CheckDefinition) -> tuple[Name, ...]:
        """Register a check of the node or of a service.

        Returns:
            What the catalog learns of.

        Raises:
            RequestError: The definition breaks a rule, or its service is not registered.
        """
        plan = self._plan_check(definition, Source.HTTP)
        self._put_check(plan)
        self._take_status(plan)
        self._kept.keep_check(plan.definition)
        return ((CHECK, plan.check.check_id),)

    def deregister_check(self, check_id: str) -> tuple[Name, ...]:
        """Remove a check; an unknown one is no error."""
        self._unwatch(check_id)
        self._local.remove_check(check_id)
        self._kept.forget_check(check_id)
        return ((CHECK, check_id),)

    def update_check(self, check_id: str, status: str, output: str) -> tuple[Name, ...]:
        """Take the state of a TTL check from its owner.

        Raises:
            RequestError: There is no such check, or it is no TTL check.
        """
        found = self._runners.get(check_id)
        if found is None:
            raise RequestError(f'CheckID "{check_id}" does not have associated TTL')
        runner = found[0]
        kept = runner.heard(status, output)
        expires = int(self._wall().timestamp() + runner.definition.ttl / SECOND)
        state = KeptState(check_id=check_id, status=status, output=kept, expires=expires)
        self._kept.keep_state(state)
        return ((CHECK, check_id),)

    async def saved(self) -> None:
        """Return once what was registered and removed is safe on the disk.

        Raises:
            RequestError: It can not be written; it is in effect until the agent stops.
        """
        await self._kept.saved()

    async def close(self) -> None:
        """Stop all checks."""
        await self._scope.close()
        await self._kept.close()

    def _plan_check(self, definition: CheckDefinition, source: Source) -> CheckPlan:
        plan = register_check(definition, node=self._node)
        self._allow(plan.definition, source)
        return plan

    def _put_check(self, plan: CheckPlan) -> None:
        token = plan.definition.token
        self._local.put_check(self._restored(plan.check), token=token)
        self._watch(plan, token)

    def _allow(self, definition: CheckDefinition, source: Source) -> None:
        """Refuse what this agent can not or must not run.

        Raises:
            RequestError: Says why.
        """
        refuse_unknown_kind(definition)
        if definition.type != agent.SCRIPT:
            return
        config = self._config
        if source is Source.FILE and not (config.file_scripts or config.http_scripts):
            raise RequestError(
                f"{_NO_SCRIPTS}; to enable, configure 'enable_script_checks' or "
                f"'enable_local_script_checks' to true (check {definition.check_id!r})"
            )
        if source is Source.HTTP and not config.http_scripts:
            raise RequestError(
                f"{_NO_SCRIPTS} from remote calls; to enable, configure "
                "'enable_script_checks' to true"
            )

    def _take_status(self, plan: CheckPlan) -> None:
        """Believe an owner who says in its registration how a known check is now.

        One who says nothing leaves it as it is. So a program that comes back is of use again
        before the next run of its check.
        """
        found, status = self._local.checks.get(plan.check.check_id), plan.definition.status
        if found is not None and status and found.status != plan.check.status:
            self._local.update_check(found.check_id, plan.check.status, "")

    def _restored(self, check: HealthCheck) -> HealthCheck:
        """A new TTL check with the state that an earlier run kept, while that counts."""
        if check.type != agent.TTL or check.check_id in self._local.checks:
            return check
        state = self._kept.state(check.check_id, now=self._wall().timestamp())
        if state is None:
            return check
        return msgspec.structs.replace(check, status=state.status, output=state.output)

    def _watch(self, plan: CheckPlan, token: str) -> None:
        """Run a check; one that is the same as before runs on."""
        definition, service_id = _how(plan.definition), plan.check.service_id
        found = self._runners.get(definition.check_id)
        if found is not None and found[0].definition == definition:
            found[0].registered_again()
            return
        self._unwatch(definition.check_id)
        runner = CheckRunner(
            definition,
            self._world,
            deregister=lambda: self._deregister_critical(service_id),
            token=token,
        )
        self._runners[definition.check_id] = (runner, self._scope.spawn(runner.run()))

    def _unwatch(self, check_id: str) -> None:
        found = self._runners.pop(check_id, None)
        if found is not None:
            found[1].cancel()

    def _deregister_critical(self, service_id: str) -> None:
        if service_id:
            self.deregister(service_id)

    # Maintenance ---------------------------------------------------------------------------------

    def set_maintenance(
        self, service_id: str, *, enable: bool, reason: str = "", token: str = ""
    ) -> tuple[Name, ...]:
        """Take a service, or with an empty id the node, out of service or back.

        Raises:
            NotFound: There is no such service.
        """
        if service_id and service_id not in self._local.services:
            raise NotFound(f'No service registered with ID "{service_id}"')
        check_id = SERVICE_MAINTENANCE + service_id if service_id else NODE_MAINTENANCE
        what = f"service {service_id}" if service_id else "node"
        if enable == (check_id in self._local.checks):
            return ()
        if not enable:
            logger.info("%s leaves maintenance mode", what)
            return self.deregister_check(check_id)
        definition = CheckDefinition(
            check_id=check_id,
            service_id=service_id,
            notes=reason or _NO_REASON.format("service" if service_id else "node"),
            token=token,
        )
        self._enter_maintenance(definition)
        self._kept.keep_check(definition)
        logger.info("%s enters maintenance mode", what)
        return ((CHECK, check_id),)

    def _enter_maintenance(self, definition: CheckDefinition) -> None:
        what = "Service" if definition.service_id else "Node"
        check = HealthCheck(
            check_id=definition.check_id,
            name=f"{what} Maintenance Mode",
            notes=definition.notes,
            status=CRITICAL,
            service_id=definition.service_id,
            type=MAINTENANCE,
        )
        self._local.put_check(check, token=definition.token)


def _warn_of_dns(service: NodeService) -> None:
    """Say in the log what of a service is not found over DNS; it is registered all the same."""
    for what, name in (("name", service.service), *(("tag", tag) for tag in service.tags or ())):
        if fault := dns_fault(name):
            level = logging.WARNING if what == "name" else logging.DEBUG
            text = "service %s: its %s %r is not found over DNS: %s"
            logger.log(level, text, service.id, what, name, fault)


def _is_maintenance(check_id: str) -> bool:
    return check_id == NODE_MAINTENANCE or check_id.startswith(SERVICE_MAINTENANCE)


def _how(definition: CheckDefinition) -> CheckDefinition:
    """A definition without what says nothing about how the check runs."""
    return msgspec.structs.replace(definition, name="", notes="", status="", token="")


def _sidecar_of(service: ServiceDefinition, asked: Mapping[str, object]) -> ServiceDefinition:
    """The definition of a sidecar inside that of its service.

    Raises:
        InvalidRequest: It is none, or breaks a rule of its own.
    """
    sidecar: ServiceDefinition = _definition(ServiceDefinition, asked)
    if sidecar.id:
        raise InvalidRequest(
            "1 error occurred:\n\t* A SidecarService cannot specify an ID as this is managed by "
            "the agent\n\n"
        )
    if sidecar.connect is not None and sidecar.connect.sidecar_service is not None:
        raise InvalidRequest(
            "1 error occurred:\n\t* A SidecarService cannot have a nested SidecarService\n\n"
        )
    return sidecar


def _definition(kind: type[Any], entry: Mapping[str, Any]) -> Any:
    try:
        return decode(kind, json.dumps(entry).encode(), snake_case=True)
    except IsthmusError as error:
        raise InvalidRequest(f"{entry.get('Name') or entry.get('ID')}: {error}") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(str(error)) from error
