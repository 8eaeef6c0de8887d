"""Sessions: what holds locks on keys, and dies with its node, its checks or its time to live.

Source: protocol/rpc.md §6, protocol/http-api.md §6.4.
"""

from typing import Final

from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record, Uint
from isthmus.units import HOUR, SECOND, Duration

SESSION_CREATE: Final = "create"
SESSION_DESTROY: Final = "destroy"
BEHAVIOR_RELEASE: Final = "release"
BEHAVIOR_DELETE: Final = "delete"
LOCK_DELAY_MAX: Final = Duration(60 * SECOND)
"""Longest time for which a lock stays closed after its holder was lost."""
LOCK_DELAY: Final = Duration(15 * SECOND)
"""The same of a session that does not say; Consul's default."""
TTL_MIN: Final = Duration(10 * SECOND)
"""Shortest time to live, unless the operator sets another; Consul's default."""
TTL_MAX: Final = Duration(24 * HOUR)


class ServiceCheck(Record, frozen=True, kw_only=True):
    """Id of a service's check that a session depends on."""

    id: str = ""
    namespace: str = ""


class Session(Record, frozen=True, kw_only=True):
    """A session.

    Attributes:
        lock_delay: How long its locks stay closed after it was invalidated; JSON shows
            nanoseconds.
        behavior: ``release`` or ``delete``: what becomes of its keys.
        ttl: Duration as text; empty for none.
        checks: Checks it depends on, in the form older than `node_checks`.
    """

    json_omit_empty = frozenset({"checks"})
    json_numbers = frozenset({"lock_delay"})

    id: str = ""
    name: str = ""
    node: str = ""
    lock_delay: Duration = Duration(0)
    behavior: str = ""
    ttl: str = ""
    node_checks: tuple[str, ...] | None = None
    service_checks: tuple[ServiceCheck, ...] | None = None
    checks: tuple[str, ...] | None = None
    create_index: Uint = 0
    modify_index: Uint = 0


class SessionRequest(Record, frozen=True, kw_only=True):
    """Create or destroy a session."""

    datacenter: str = ""
    op: str = ""
    session: Session = Session()
    token: str = ""


class SessionSpecificRequest(QueryOptions, frozen=True, kw_only=True):
    """Read of one session. The id stands twice: in `session` for old servers."""

    datacenter: str = ""
    session_id: str = ""
    session: str = ""


class IndexedSessions(QueryMeta, frozen=True, kw_only=True):
    """Reply of the calls that read sessions."""

    sessions: tuple[Session, ...] | None = None
