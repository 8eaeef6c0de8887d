"""Prepared queries that answer to all names with a prefix: their texts, filled in.

Every text of such a query's service may hold expressions (`store.query_expression`) of the
variables ``name.full``, ``name.prefix``, ``name.suffix`` and ``agent.segment``, and the function
``match(N)`` over the groups of the query's regular expression.
Source: protocol/http-api.md §6.5.
"""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from isthmus.errors import RequestError
from isthmus.model.pattern import compile_groups
from isthmus.model.prepared_query import (
    NAME_PREFIX_MATCH,
    PreparedQuery,
    QueryDatacenterOptions,
    ServiceQuery,
)
from isthmus.store.query_expression import Expression, Fault, Scope, parse, shown

Visit: TypeAlias = Callable[[str, str], str]
"""Takes a text's path, such as ``.Tags[0]``, and the text; returns what shall stand there."""


class Template:
    """A query that was found to be a valid template.

    Args:
        query: As stored.

    Raises:
        RequestError: Of an unknown type, or a text or the regular expression is malformed, or
            names what there is not. The texts are Consul's.
    """

    def __init__(self, query: PreparedQuery) -> None:
        options = query.template
        if options.type != NAME_PREFIX_MATCH:
            raise RequestError(f"Bad Template.Type '{options.type}'")
        self._query = query
        self._texts: dict[str, Expression] = {}
        walk(query.service, self._parse)
        self._groups: Callable[[str], tuple[str, ...]] | None = None
        if options.regexp:
            try:
                self._groups = compile_groups(options.regexp)
            except ValueError as error:
                raise RequestError(f"Bad Regexp: {error}") from None
        self.render(query.name)

    def render(self, name: str, *, segment: str = "") -> PreparedQuery:
        """The query that a name stands for.

        Args:
            name: As its caller wrote it.
            segment: Network segment of the agent that it was asked at.

        Raises:
            RequestError: A text cannot be filled in.
        """
        query = self._query
        scope = Scope(
            {
                "name.full": name,
                "name.prefix": query.name,
                "name.suffix": name.removeprefix(query.name),
                "agent.segment": segment,
            },
            self._groups(name) if self._groups is not None else (),
        )

        def fill(path: str, text: str) -> str:
            try:
                return shown(self._texts[path](scope))
            except Fault as fault:
                raise RequestError(
                    f"Bad evaluation for '{text}' in Service{path}: {fault}"
                ) from None

        service = walk(query.service, fill)
        if query.template.remove_empty_tags:
            tags = tuple([tag for tag in service.tags or () if tag])
            service = msgspec.structs.replace(service, tags=tags)
        return msgspec.structs.replace(query, service=service)

    def _parse(self, path: str, text: str) -> str:
        try:
            self._texts[path] = parse(text)
        except Fault as fault:
            raise RequestError(f"Bad format '{text}' in Service{path}: {fault}") from None
        return text


def walk(service: ServiceQuery, visit: Visit) -> ServiceQuery:
    """A service with every text replaced by what `visit` makes of it."""

    def texts(path: str, found: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if found is None:
            return None
        return tuple([visit(f"{path}[{at}]", text) for at, text in enumerate(found)])

    def pairs(path: str, found: dict[str, str] | None) -> dict[str, str] | None:
        if found is None:
            return None
        return {key: visit(f"{path}[{key}]", text) for key, text in found.items()}

    failover = service.failover
    return msgspec.structs.replace(
        service,
        service=visit(".Service", service.service),
        failover=QueryDatacenterOptions(
            nearest_n=failover.nearest_n,
            datacenters=texts(".Failover.Datacenters", failover.datacenters),
        ),
        ignore_check_ids=texts(".IgnoreCheckIDs", service.ignore_check_ids),
        near=visit(".Near", service.near),
        tags=texts(".Tags", service.tags),
        node_meta=pairs(".NodeMeta", service.node_meta),
        service_meta=pairs(".ServiceMeta", service.service_meta),
    )
