"""Services and checks registered with this agent: validated, kept, checked, pushed.

Source: protocol/http-api.md §6.3.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from isthmus.agent.checks import CheckRunner, refuse_unknown_kind
from isthmus.agent.local import LocalState
from isthmus.errors import InvalidRequest, IsthmusError, MalformedPacket, RequestError
from isthmus.http.decode import decode
from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.registration import CheckPlan, Registration, register, register_check
from isthmus.net.tasks import TaskScope
from isthmus.wire import msgpack

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".registration"


class LocalServices:
    """The front of the local state: what users register comes in here.

    Args:
        local: Keeps the catalog up to date.
        node: Our node name.
        folder: Where registrations are kept over a restart; None: they are not.
        rng: Spreads the first runs of checks.
        changed: Called after every registration and removal.
    """

    def __init__(
        self,
        local: LocalState,
        *,
        node: str,
        folder: Path | None,
        rng: Random,
        changed: Callable[[], None],
    ) -> None:
        self._local, self._node, self._folder = local, node, folder
        self._rng, self._changed = rng, changed
        self._runners: dict[str, tuple[CheckRunner, asyncio.Task[None]]] = {}
        self._scope = TaskScope()
        self._configured: set[str] = set()  # Ids of services that the configuration holds.
        self._configured_checks: set[str] = set()

    def load(
        self, services: Iterable[Mapping[str, Any]], checks: Iterable[Mapping[str, Any]]
    ) -> None:
        """Register what the configuration holds, and what an earlier run kept.

        Raises:
            InvalidRequest: A definition of the configuration breaks a rule.
        """
        for definition in self._kept():
            try:
                self.register(definition, keep=False)
            except RequestError as error:
                logger.warning("kept registration of %s refused: %s", definition.name, error)
        self.reload(services, checks)

    def reload(
        self, services: Iterable[Mapping[str, Any]], checks: Iterable[Mapping[str, Any]]
    ) -> None:
        """Take the services and checks of a new configuration in place of the old one's."""
        wanted = [_definition(ServiceDefinition, entry) for entry in services]
        wanted_checks = [_definition(CheckDefinition, entry) for entry in checks]
        for definition in wanted:
            self._planned(definition)  # All mistakes show before anything is changed.
        for check in wanted_checks:
            refuse_unknown_kind(register_check(check, node=self._node).definition)
        ids = {definition.id or definition.name for definition in wanted}
        check_ids = {definition.check_id or definition.name for definition in wanted_checks}
        for gone in self._configured - ids:
            self.deregister(gone)
        for gone in self._configured_checks - check_ids:
            self.deregister_check(gone)
        for definition in wanted:
            self.register(definition, keep=False)
        for check in wanted_checks:
            self.register_check(check)
        self._configured, self._configured_checks = ids, check_ids

    def register(
        self, definition: ServiceDefinition, *, keep: bool = True, replace_checks: bool = False
    ) -> None:
        """Register a service with its checks, replacing one of the same id.

        Raises:
            InvalidRequest: The definition breaks a rule; nothing was changed.
        """
        registration = self._planned(definition)
        service = registration.service
        if keep:
            self._keep(service.id, definition)
        if replace_checks:
            wanted = {plan.check.check_id for plan in registration.checks}
            for check in list(self._local.checks.values()):
                if check.service_id == service.id and check.check_id not in wanted:
                    self.deregister_check(check.check_id)
        self._local.put_service(service, tuple(plan.check for plan in registration.checks))
        for plan in registration.checks:
            self._watch(plan)
        self._changed()

    def _planned(self, definition: ServiceDefinition) -> Registration:
        registration = register(definition, node=self._node)
        for plan in registration.checks:
            refuse_unknown_kind(plan.definition)
        connect = definition.connect
        if connect is not None and connect.sidecar_service is not None:
            raise InvalidRequest(
                "Connect.SidecarService is not supported by this release, register the proxy as "
                "a service of kind connect-proxy"
            )
        return registration

    def deregister(self, service_id: str) -> bool:
        """Remove a service and its checks; whether it was registered."""
        if service_id not in self._local.services:
            return False
        for check_id in self._local.remove_service(service_id):
            self._unwatch(check_id)
        if self._folder is not None:
            self._file(service_id).unlink(missing_ok=True)
        self._changed()
        return True

    def register_check(self, definition: CheckDefinition) -> None:
        """Register a check of the node or of a service.

        Raises:
            RequestError: The definition breaks a rule, or its service is not registered.
        """
        plan = register_check(definition, node=self._node)
        refuse_unknown_kind(plan.definition)
        self._local.put_check(plan.check)
        self._watch(plan)

    def deregister_check(self, check_id: str) -> None:
        """Remove a check; an unknown one is no error."""
        self._unwatch(check_id)
        self._local.remove_check(check_id)

    def update_check(self, check_id: str, status: str, output: str) -> None:
        """Take the state of a TTL check from its owner.

        Raises:
            RequestError: There is no such check, or it is no TTL check.
        """
        found = self._runners.get(check_id)
        if found is None:
            raise RequestError(f'CheckID "{check_id}" does not have associated TTL')
        found[0].heard(status, output)

    async def close(self) -> None:
        """Stop all checks."""
        await self._scope.close()

    # Checks --------------------------------------------------------------------------------------

    def _watch(self, plan: CheckPlan) -> None:
        check_id, service_id = plan.check.check_id, plan.check.service_id
        self._unwatch(check_id)
        runner = CheckRunner(
            check_id,
            plan.definition,
            report=self._local.update_check,
            deregister=lambda: self._deregister_critical(service_id, check_id),
            rng=self._rng,
        )
        self._runners[check_id] = (runner, self._scope.spawn(runner.run()))

    def _unwatch(self, check_id: str) -> None:
        found = self._runners.pop(check_id, None)
        if found is not None:
            found[1].cancel()

    def _deregister_critical(self, service_id: str, check_id: str) -> None:
        if service_id:
            self.deregister(service_id)
        else:
            self.deregister_check(check_id)

    # Kept registrations --------------------------------------------------------------------------

    def _file(self, service_id: str) -> Path:
        assert self._folder is not None
        return self._folder / (hashlib.sha256(service_id.encode()).hexdigest() + _SUFFIX)

    def _keep(self, service_id: str, definition: ServiceDefinition) -> None:
        if self._folder is None:
            return
        path = self._file(service_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_bytes(msgpack.encode(definition))
        draft.replace(path)

    def _kept(self) -> list[ServiceDefinition]:
        if self._folder is None or not self._folder.is_dir():
            return []
        found = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                found.append(msgpack.decode(ServiceDefinition, path.read_bytes()))
            except (OSError, MalformedPacket) as error:
                logger.warning("cannot read the kept registration %s: %s", path, error)
        return found


def _definition(kind: type[Any], entry: Mapping[str, Any]) -> Any:
    try:
        return decode(kind, json.dumps(entry).encode(), snake_case=True)
    except IsthmusError as error:
        raise InvalidRequest(f"{entry.get('Name') or entry.get('ID')}: {error}") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(str(error)) from error
