"""Catalog, keys, sessions and transactions against a plain model, on one server and across.

Every step sends one HTTP request and compares what was answered, and then everything that can be
read, with the model. Readers that block are looked at, too: they have woken if what they read has
changed, and only if its index has.
"""

import asyncio
import base64
from functools import partial
from typing import Any, ClassVar, TypeAlias
from urllib.parse import quote, urlencode

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.discovery_model import Json, Key, Model, Refused, Session
from support.pair import Pair, Reply

KEYS = ("a", "a/b", "a/b/é", "b")
PREFIXES = ("", "a", "a/", "a/b", "c")
NODES = ("n1", "n2")
NAMES = ("web", "db")
SERVICES = ("s1", "s2")
CHECKS = ("c1", "c2", "serfHealth")
STATUSES = ("passing", "passing", "warning", "passing", "critical", "passing", "")
CRITICAL = STATUSES.index("critical")
NOBODY = "00000000-0000-4000-8000-000000000000"
TICK = 0.001
"""Seconds that pass before each step, so that no two things begin at one moment."""

Question: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""Path and query of a read."""

RECURSE = (("recurse", ""),)
PASSING = (("passing", ""),)
RACKED = (("filter", 'Node.Meta.rack != "2" and not Checks.Status != passing'),)

keys, nodes, services = (st.sampled_from(one) for one in (KEYS, NODES, SERVICES))
values, flags = st.sampled_from((b"", b"1", b"\xff2")), st.sampled_from((0, 7, 2**64 - 1))
numbers = st.integers(0, 63)
"""Picks one of what there is at that moment."""


def make_node(name: str, number: int, dc: str) -> Json:
    return {
        "Node": name,
        "Address": f"10.0.0.{number % 2}",
        "Meta": {"rack": str(number)} if number % 3 else {},
        "Datacenter": dc,
    }


def make_service(name: str, number: int) -> Json:
    tags = ["v1", "v2"][: number % 3]
    return {
        "ID": name,
        "Service": NAMES[number % 2],
        "Tags": tags,
        "Port": 80 + number % 4,
        "Meta": {},
    }


def make_check(node: str, name: str, status: str, service: str) -> Json:
    shown = {"Node": node, "CheckID": name, "Name": f"{name} of {service}", "Status": status}
    return shown | {"ServiceID": service, "Output": ""}


def like(found: Any, expected: Any) -> Any:
    """What was found, with those fields only that are expected, and no nil lists."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {name: like(found.get(name), one) for name, one in expected.items()}
    if isinstance(expected, list):
        found = [] if found is None else found
        return [*map(like, found, expected), *found[len(expected) :]]
    return found


class Discovery(RuleBasedStateMachine):
    """Requests to an agent of dc1 about one of the datacenters."""

    dc: ClassVar[str] = "dc1"

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.pair.__enter__()
        self.server = self.pair.servers[self.dc]
        self.model = Model()
        self.index = self.server.store.index
        self.created: list[str] = []  # Ids of all sessions that there ever were.
        self.blocked: list[tuple[str, Reply, asyncio.Task[Reply]]] = []
        self.seen: dict[Question, tuple[int, bytes]] = {}

    def teardown(self) -> None:
        self.forget_blocked()
        self.pair.__exit__(None, None, None)

    # Requests ------------------------------------------------------------------------------------

    def target(self, path: str, **query: str) -> str:
        if self.dc != "dc1":
            query["dc"] = self.dc
        return f"/v1/{quote(path)}?{urlencode(query)}"

    def write(self, method: str, path: str, body: object = b"", **query: str) -> Reply:
        """Send a write; the model learns its moment and its index: the next, if it is counted."""
        self.pair.run(asyncio.sleep(TICK))
        self.expire()
        reply = self.pair.request(method, self.target(path, **query), body)
        self.model.index, self.model.now = self.index + 1, self.pair.now
        self.index = self.server.store.index
        assert self.index in (self.model.index - 1, self.model.index)
        return reply

    def read(self, path: str, **query: str) -> Reply:
        return self.pair.request("GET", self.target(path, **query))

    def refused(self, reply: Reply, text: str) -> None:
        """The answer is this error; from another datacenter it stands behind a prefix."""
        prefix = "" if self.dc == "dc1" else "rpc error making call: "
        assert reply.status == 500
        if prefix:
            assert reply.text.startswith(prefix + text)
        else:
            assert reply.text == text

    def session_of(self, number: int) -> str:
        """A session: one that lives, one that ended, or nobody's."""
        ended = [one for one in self.created if one not in self.model.sessions]
        known = [*self.model.sessions, *self.model.sessions, *ended[-1:], NOBODY]
        return known[number % len(known)]

    def holder_of(self, key: str, number: int) -> str:
        """Who holds a lock, mostly; else any session."""
        held = self.model.keys.get(key, Key()).session
        return held if held and number % 4 else self.session_of(number)

    def index_of(self, row: Any, number: int) -> int:
        """An index to compare with: that of a row as it is, that of none, or another."""
        now = row.modified if row else 0
        return (now, now, now, 0, self.index)[number % 5]

    @initialize()
    def have_healthy_nodes(self) -> None:
        """Without nodes there are no sessions, and without sessions no locks."""
        for node in NODES:
            self.register(node, 1, "", "serfHealth")
            self.create_session(node, ("serfHealth",), "release", 15.0, 0.0)

    # Keys ----------------------------------------------------------------------------------------

    @rule(key=keys, value=values, flag=flags)
    def put(self, key: str, value: bytes, flag: int) -> None:
        reply = self.write("PUT", f"kv/{key}", value, flags=str(flag))
        self.model.put(key, value, flag)
        assert reply.json is True

    @rule(key=keys, value=values, flag=flags, number=numbers)
    def put_if_unchanged(self, key: str, value: bytes, flag: int, number: int) -> None:
        index = self.index_of(self.model.keys.get(key), number)
        reply = self.write("PUT", f"kv/{key}", value, flags=str(flag), cas=str(index))
        assert reply.json is (self.model.cas(key, value, flag, index) is not None)

    @rule(key=keys, value=values, number=numbers)
    def acquire(self, key: str, value: bytes, number: int) -> None:
        session = self.session_of(number)
        reply = self.write("PUT", f"kv/{key}", value, acquire=session)
        if self.model.is_closed(key):
            assert reply.json is False
            return
        try:
            expected = self.model.lock(key, value, 0, session)
        except Refused as error:
            self.refused(reply, f"raft apply failed: {error}")
        else:
            assert reply.json is (expected is not None)

    @rule(key=keys, value=values, number=numbers)
    def release(self, key: str, value: bytes, number: int) -> None:
        session = self.holder_of(key, number)
        reply = self.write("PUT", f"kv/{key}", value, release=session)
        assert reply.json is (self.model.unlock(key, value, 0, session) is not None)

    @rule(key=keys, value=values, number=numbers)
    def hold_and_lose(self, key: str, value: bytes, number: int) -> None:
        """What seldom follows by chance: a lock is taken, and given up, lost, or wanted twice."""
        self.acquire(key, value, number)
        self.look()
        row = self.model.keys.get(key, Key())
        holder = self.model.sessions.get(row.session)
        if holder is None:
            return
        if number % 4 == 0:
            self.release(key, value, 1)
        elif number % 4 == 1:
            self.destroy_session(list(self.model.sessions).index(row.session))
        elif number % 4 == 2 and holder.checks:
            self.register(holder.node, CRITICAL, "", holder.checks[0])
        elif holder.ttl:
            self.let_time_pass(21.017)
        self.look()
        self.acquire(key, value, number + 1)
        self.look()
        self.transact([(0, 2, number), (0, 10, number)])

    @rule(key=keys)
    def delete(self, key: str) -> None:
        reply = self.write("DELETE", f"kv/{key}")
        self.model.delete(key)
        assert reply.json is True

    @rule(key=keys, number=numbers)
    def delete_if_unchanged(self, key: str, number: int) -> None:
        index = self.index_of(self.model.keys.get(key), number)
        reply = self.write("DELETE", f"kv/{key}", cas=str(index))
        assert reply.json is self.model.delete_cas(key, index)

    @rule(prefix=st.sampled_from(PREFIXES))
    def delete_tree(self, prefix: str) -> None:
        reply = self.write("DELETE", f"kv/{prefix}", recurse="")
        self.model.delete_tree(prefix)
        assert reply.json is True

    # Sessions ------------------------------------------------------------------------------------

    @rule(
        node=nodes,
        checks=st.sampled_from(((), ("serfHealth",), ("serfHealth",), ("c1", "serfHealth"))),
        behavior=st.sampled_from(("release", "delete")),
        delay=st.sampled_from((0.0, 15.0, 120.0)),
        ttl=st.sampled_from((0.0, 10.0, 11.0)),
    )
    def create_session(
        self, node: str, checks: tuple[str, ...], behavior: str, delay: float, ttl: float
    ) -> None:
        body = {"Node": node, "NodeChecks": checks, "Behavior": behavior}
        body |= {"LockDelay": f"{delay}s", "TTL": f"{ttl:g}s" if ttl else ""}
        reply = self.write("PUT", "session/create", body)
        try:
            self.model.check_session(node, checks)
        except Refused as error:
            self.refused(reply, f"apply failed: {error}")
            return
        # Sessions end after twice their time.
        ends = self.pair.now + 2 * ttl if ttl else float("inf")
        index = self.model.index
        session_id = reply.json["ID"]
        assert len(session_id) == len(NOBODY)
        assert session_id not in self.created
        self.created.append(session_id)
        session = Session(node, checks, behavior, delay, ttl, index, ends)
        self.model.sessions[session_id] = session

    @rule(number=numbers)
    def destroy_session(self, number: int) -> None:
        session = self.session_of(number)
        reply = self.write("PUT", f"session/destroy/{session}")
        self.model.destroy(session)
        assert reply.json is True

    @rule(number=numbers)
    def renew_session(self, number: int) -> None:
        session_id = self.session_of(number)
        reply = self.write("PUT", f"session/renew/{session_id}")
        session = self.model.sessions.get(session_id)
        if session is None:
            assert (reply.status, reply.text) == (404, f"Session id '{session_id}' not found")
            return
        assert reply.json == [session.show(session_id)]
        if session.ttl:
            ends = self.pair.now + 2 * session.ttl
            self.model.sessions[session_id] = Session(**{**vars(session), "ends": ends})

    @rule(seconds=st.sampled_from((1.501, 7.253, 21.017, 61.003)))
    def let_time_pass(self, seconds: float) -> None:
        self.pair.run(asyncio.sleep(seconds))
        self.expire()

    def expire(self) -> None:
        """End the sessions in the model that outlived their time, each with a write of its own."""
        due = [(one.ends, name) for name, one in self.model.sessions.items()]
        for moment, session_id in sorted(due):
            if moment < self.pair.now:
                self.index += 1
                self.model.index, self.model.now = self.index, moment
                self.model.destroy(session_id)
        assert self.index == self.server.store.index

    # Catalog -------------------------------------------------------------------------------------

    @rule(
        node=nodes,
        number=numbers,
        service=st.sampled_from((*SERVICES, "")),
        name=st.sampled_from(CHECKS),
    )
    def register(self, node: str, number: int, service: str, name: str) -> None:
        fields = make_node(node, number % 5, self.dc)
        body: dict[str, Json] = {"NodeMeta": fields["Meta"], **fields}
        del body["Meta"]
        wanted = make_service(service, number) if service and number % 4 else None
        # A check of a service that is not there may be among them.
        check = make_check(node, name, STATUSES[number % 7], service if number % 3 else "")
        if wanted is not None:
            body["Service"] = wanted
        if number % 5:
            body["Check"] = check
        reply = self.write("PUT", "catalog/register", body)

        def carry_out(model: Model) -> None:
            model.set_node(fields)
            if wanted is not None:
                model.set_service(node, wanted)
            if number % 5:
                try:
                    model.set_check(check)
                except Refused as error:
                    raise Refused(f"failed inserting check: {error}") from None

        refusal = ""
        try:
            self.model.all_or_nothing(carry_out)
        except Refused as error:
            refusal = str(error)
        assert (reply.status, refusal in reply.text) == (500 if refusal else 200, True)

    @rule(node=nodes, number=numbers, service=services, check=st.sampled_from(CHECKS))
    def deregister(self, node: str, number: int, service: str, check: str) -> None:
        body = {"Node": node, "Datacenter": self.dc}
        if number % 8 == 0:
            self.model_after("PUT", "catalog/deregister", body).remove_node(node)
        elif number % 2:
            body["ServiceID"] = service
            self.model_after("PUT", "catalog/deregister", body).remove_service(node, service)
        else:
            body["CheckID"] = check
            self.model_after("PUT", "catalog/deregister", body).remove_check(node, check)

    def model_after(self, method: str, path: str, body: object) -> Model:
        assert self.write(method, path, body).json is True
        return self.model

    # Transactions --------------------------------------------------------------------------------

    @rule(draws=st.lists(st.tuples(st.integers(0, 3), numbers, numbers), min_size=1, max_size=4))
    def transact(self, draws: list[tuple[int, int, int]]) -> None:
        makers = (self.kv_op, self.kv_op, self.catalog_op, self.kv_op)
        ops = [makers[kind](verb, number) for kind, verb, number in draws]
        reads = {"get", "get-tree", "check-index", "check-session", "check-not-exists"}
        reply = self.write("PUT", "txn", ops)
        results, errors = self.model.txn(ops)
        answer = reply.json
        if errors:
            assert (reply.status, answer["Results"], answer["Errors"]) == (409, None, errors)
            return
        assert (reply.status, answer["Errors"]) == (200, None)
        assert like(answer["Results"], results) == results
        only_read = all(next(iter(op.values()))["Verb"] in reads for op in ops)
        assert ("KnownLeader" in answer) is only_read

    def kv_op(self, verb: int, number: int) -> Json:
        verbs = (
            *("set", "cas", "lock", "unlock", "get", "get-tree", "delete", "delete-tree"),
            *("delete-cas", "check-index", "check-session", "check-not-exists", "set", "lock"),
        )
        name = verbs[verb % len(verbs)]
        key = KEYS[number % len(KEYS)]
        op: dict[str, Json] = {"Verb": name, "Key": key}
        if name in ("set", "cas", "lock", "unlock"):
            value = (b"", b"1", b"2")[number % 3]
            op |= {"Value": base64.b64encode(value).decode(), "Flags": number % 2}
        if name in ("cas", "delete-cas", "check-index"):
            op["Index"] = self.index_of(self.model.keys.get(key), number // len(KEYS))
        if name in ("lock", "unlock", "check-session"):
            of = self.session_of if name == "lock" else partial(self.holder_of, key)
            op["Session"] = of(number // len(KEYS))
        return {"KV": op}

    def catalog_op(self, verb: int, number: int) -> Json:
        name = ("set", "cas", "get", "set", "delete-cas", "cas", "delete")[verb // 7 % 7]
        node, service = NODES[number % 2], SERVICES[number // 2 % 2]
        kind = ("Node", "Service", "Check")[number % 3]
        rows: dict[str, Any] = {
            "Node": self.model.nodes.get(node),
            "Service": self.model.services.get((node, service)),
            "Check": self.model.checks.get((node, CHECKS[number % 2])),
        }
        fields: dict[str, Json] = {
            "Node": make_node(node, number % 5, self.dc),
            "Service": make_service(service, number),
            "Check": make_check(
                node, CHECKS[number % 2], STATUSES[verb % 7], ("", service)[verb % 2]
            ),
        }[kind]
        if name in ("cas", "delete-cas"):
            fields["ModifyIndex"] = self.index_of(rows[kind], number // 5)
        op = {"Verb": name, kind: fields}
        return {kind: {"Node": node, **op} if kind == "Service" else op}

    # What can be read ----------------------------------------------------------------------------

    def look(self) -> None:
        """Compare between the steps of a rule."""
        self.blocked_readers_wake_for_news_only()
        self.everything_reads_as_in_the_model()

    @rule(number=numbers, key=keys)
    def block(self, number: int, key: str) -> None:
        """Wait for news; whether they come is looked at after the next step."""
        paths = [
            *(f"kv/{key}", f"kv/{key}?recurse", "kv/?keys", "session/list", "catalog/nodes"),
            *(f"session/node/{NODES[number % 2]}", "catalog/services", "health/state/any"),
            *(f"health/service/{NAMES[number % 2]}", f"health/node/{NODES[number % 2]}"),
        ]
        path, _, parameter = paths[number % len(paths)].partition("?")
        query = {parameter: ""} if parameter else {}
        before = self.read(path, **query)
        target = self.target(path, **query, index=str(before.index), wait="10m")

        async def start() -> asyncio.Task[Reply]:
            task = asyncio.ensure_future(self.pair.ask("GET", target))
            await asyncio.sleep(TICK)
            assert not task.done()
            return task

        self.blocked.append((target, before, self.pair.run(start())))

    @precondition(lambda self: self.blocked)
    @invariant()
    def blocked_readers_wake_for_news_only(self) -> None:
        self.pair.run(asyncio.sleep(TICK))
        for waiting in list(self.blocked):
            target, before, task = waiting
            now = self.pair.request("GET", target.replace(f"index={before.index}", "index=0"))
            if task.done():
                assert now.index > before.index, target
                assert task.result() == now, target
                self.blocked.remove(waiting)
            else:
                assert now.body == before.body, target
        if len(self.blocked) > 4:
            self.forget_blocked()

    def forget_blocked(self) -> None:
        async def cancel(tasks: list[asyncio.Task[Reply]]) -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        tasks = [task for _, _, task in self.blocked]
        self.blocked.clear()
        self.pair.run(cancel(tasks))

    @invariant()
    def everything_reads_as_in_the_model(self) -> None:
        expected = {**self.expected_keys(), **self.expected_sessions(), **self.expected_catalog()}

        async def read_all() -> list[Reply]:
            targets = [self.target(path, **dict(query)) for path, query in expected]
            return [await self.pair.ask("GET", target) for target in targets]

        for (at, wanted), reply in zip(expected.items(), self.pair.run(read_all()), strict=True):
            found = [] if reply.status == 404 else reply.json
            if at[0] == "catalog/services":
                found = {name: sorted(tags) for name, tags in reply.json.items()}
            assert like(found, wanted) == wanted, at
            index, body = self.seen.get(at, (0, reply.body))
            assert reply.index >= index, at
            assert reply.index > index or reply.body == body, at
            self.seen[at] = reply.index, reply.body
            self.compare_index(at, reply.index)

    def compare_index(self, at: Question, index: int) -> None:
        """Of keys it is known to the digit, since clients write with it."""
        path, query = at
        name = path.removeprefix("kv/")
        if name != path and not query:
            row = self.model.keys.get(name)
            assert index == (row.modified if row else max(self.model.kv_index, 1)), at
        elif name != path:
            assert index == max(self.model.tree_index(name), 1), at

    def expected_keys(self) -> dict[Question, Json]:
        found: dict[Question, Json] = {}
        for key in KEYS:
            row = self.model.keys.get(key)
            found[f"kv/{key}", ()] = [row.show(key)] if row else []
        for prefix in PREFIXES:
            names = self.model.list_keys(prefix)
            found[f"kv/{prefix}", RECURSE] = [self.model.keys[name].show(name) for name in names]
            found[f"kv/{prefix}", (("keys", ""),)] = names
        return found

    def expected_sessions(self) -> dict[Question, Json]:
        sessions = sorted(self.model.sessions.items())
        found: dict[Question, Json] = {
            ("session/list", ()): [one.show(name) for name, one in sessions]
        }
        for node in NODES:
            of_node = [one.show(name) for name, one in sessions if one.node == node]
            found[f"session/node/{node}", ()] = of_node
        for name in self.created[-3:]:
            alive = self.model.sessions.get(name)
            found[f"session/info/{name}", ()] = [alive.show(name)] if alive else []
        return found

    def expected_catalog(self) -> dict[Question, Json]:
        model = self.model
        names: dict[str, set[str]] = {}
        for row in model.services.values():
            names.setdefault(row.fields["Service"], set()).update(row.fields["Tags"])
        checks = sorted(model.checks.items())
        found: dict[Question, Json] = {
            ("catalog/nodes", ()): [row.show() for _, row in sorted(model.nodes.items())],
            ("catalog/services", ()): {name: sorted(tags) for name, tags in names.items()},
            ("health/state/any", ()): [row.show() for _, row in checks],
        }
        for node in NODES:
            at_node = model.nodes.get(node)
            here = [row.show() for at, row in sorted(model.services.items()) if at[0] == node]
            shown = {"Node": at_node.show(), "Services": here} if at_node else None
            found[f"catalog/node-services/{node}", ()] = shown or {"Node": None, "Services": []}
            of_node = [row.show() for at, row in checks if at[0] == node]
            found[f"health/node/{node}", ()] = of_node
        for name in NAMES:
            instances = model.instances(name)
            passing = [one for one in instances if all_pass(one["Checks"])]
            racked = [one for one in passing if one["Node"]["Meta"].get("rack") != "2"]
            path = f"health/service/{name}"
            found[path, ()] = instances
            found[path, PASSING], found[path, RACKED] = passing, racked
        return found


def all_pass(checks: list[Json]) -> bool:
    return all(check["Status"] == "passing" for check in checks)


class DiscoveryAcross(Discovery):
    """The same requests with ``?dc=``; the datacenter in between learns of nothing."""

    dc = "dc2"

    @invariant()
    def nothing_is_written_where_the_request_was_made(self) -> None:
        store = self.pair.servers["dc1"].store
        assert not any(store.row_counts().values())


SETTINGS = settings(
    max_examples=15,
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
TestDiscovery = Discovery.TestCase
TestDiscovery.settings = SETTINGS
TestDiscoveryAcross = DiscoveryAcross.TestCase
TestDiscoveryAcross.settings = SETTINGS
