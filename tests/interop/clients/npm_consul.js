// Every method of the npm client "consul" that concerns service discovery, against an agent.
//
// Usage: node npm_consul.js DIRECTORY-OF-THE-CLIENT HOST
"use strict";

const assert = require("node:assert/strict");
const http = require("node:http");
const path = require("node:path");

const [, , directory, host] = process.argv;
const Consul = require(path.resolve(directory));

const consul = new Consul({ host, port: 8500 });
const done = [];

async function step(name, work) {
  try {
    await work();
    done.push(name);
  } catch (error) {
    console.error(`${name}: ${error.stack}`);
    process.exitCode = 1;
  }
}

async function rejects(work, status) {
  await assert.rejects(work, (error) => error.response?.statusCode === status);
}

async function until(what, check) {
  const deadline = Date.now() + 30_000;
  while (!(await check())) {
    assert.ok(Date.now() < deadline, `${what} within 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function agentSteps() {
  await step("agent.self", async () => {
    const self = await consul.agent.self();
    assert.equal(self.Config.Datacenter, "dc1");
    assert.ok(self.Member.Name);
  });
  await step("agent.members", async () => {
    assert.equal((await consul.agent.members())[0].Status, 1);
    assert.equal((await consul.agent.members({ wan: true })).length, 1);
  });
  await step("agent.reload", () => consul.agent.reload());
  await step("agent.maintenance", async () => {
    await consul.agent.maintenance({ enable: true, reason: "because" });
    const checks = await consul.agent.checks();
    assert.equal(checks._node_maintenance.Notes, "because");
    await consul.agent.maintenance(false);
    assert.equal((await consul.agent.checks())._node_maintenance, undefined);
  });
  await step("agent.join", async () => {
    await consul.agent.join(host);
    await rejects(() => consul.agent.join("127.0.0.254:1"), 500);
  });
  await step("agent.forceLeave", () => rejects(() => consul.agent.forceLeave("nobody"), 500));

  await step("agent.service", async () => {
    await consul.agent.service.register({
      name: "web", id: "web1", tags: ["a"], port: 80, address: "10.0.0.1", meta: { k: "v" },
      check: { ttl: "60s", status: "passing" },
    });
    const found = (await consul.agent.service.list()).web1;
    assert.deepEqual([found.Service, found.Port, found.Tags], ["web", 80, ["a"]]);
    assert.deepEqual(await consul.agent.services(), await consul.agent.service.list());
    await consul.agent.service.maintenance({ id: "web1", enable: true });
    assert.ok((await consul.agent.check.list())["_service_maintenance:web1"]);
    await consul.agent.service.maintenance({ id: "web1", enable: false });
    await rejects(() => consul.agent.service.maintenance({ id: "zz", enable: true }), 404);
    await consul.agent.service.register({ name: "gone" });
    await consul.agent.service.deregister("gone");
    assert.equal((await consul.agent.service.list()).gone, undefined);
  });
  await step("agent.check", async () => {
    await consul.agent.check.register({ name: "live", ttl: "60s", notes: "n" });
    for (const [method, status] of [["pass", "passing"], ["warn", "warning"], ["fail", "critical"]]) {
      await consul.agent.check[method]({ id: "live", note: "said" });
      const check = (await consul.agent.check.list()).live;
      assert.deepEqual([check.Status, check.Output], [status, "said"]);
    }
    await consul.agent.check.deregister("live");
    assert.equal((await consul.agent.checks()).live, undefined);
    await rejects(() => consul.agent.check.pass("live"), 500);
  });
}

async function catalogSteps() {
  const { Config: { NodeName: node } } = await consul.agent.self();
  await step("catalog.register", async () => {
    await consul.catalog.register({
      node: "outside", address: "10.9.9.9",
      service: { service: "db", id: "db1", port: 5432, tags: ["primary"] },
      check: { node: "outside", name: "c", checkid: "c", status: "passing", serviceid: "db1" },
    });
  });
  await step("catalog lists", async () => {
    assert.deepEqual(await consul.catalog.datacenters(), ["dc1"]);
    assert.ok((await consul.catalog.nodes()).some((each) => each.Node === "outside"));
    assert.deepEqual(await consul.catalog.nodes(), await consul.catalog.node.list("dc1"));
    assert.ok((await consul.catalog.node.services("outside")).Services.db1);
    assert.deepEqual((await consul.catalog.services()).db, ["primary"]);
    assert.deepEqual(await consul.catalog.service.list(), await consul.catalog.services());
    const [instance] = await consul.catalog.service.nodes({ service: "db", tag: "primary" });
    assert.equal(instance.ServicePort, 5432);
    assert.deepEqual(await consul.catalog.service.nodes({ service: "db", tag: "other" }), []);
    assert.deepEqual(await consul.catalog.connect.nodes("db"), []);
  });
  await step("health", async () => {
    assert.equal((await consul.health.node("outside"))[0].CheckID, "c");
    assert.equal((await consul.health.checks("db"))[0].Status, "passing");
    assert.equal((await consul.health.service({ service: "db", passing: true })).length, 1);
    assert.ok((await consul.health.state("passing")).some((each) => each.CheckID === "serfHealth"));
    assert.ok((await consul.health.node(node)).length >= 1);
  });
  await step("catalog.deregister", async () => {
    await consul.catalog.deregister({ node: "outside" });
    assert.deepEqual(await consul.health.service("db"), []);
  });
  await step("status", async () => {
    assert.equal(await consul.status.leader(), `${host}:8300`);
    assert.deepEqual(await consul.status.peers(), [`${host}:8300`]);
  });
  await step("event", async () => {
    const fired = await consul.event.fire({ name: "deploy", payload: "53" });
    await until("the event is listed", async () =>
      (await consul.event.list("deploy")).some((each) => each.ID === fired.ID));
    assert.equal((await consul.event.list("deploy"))[0].Payload, "53");
  });
}

async function stateSteps() {
  await step("kv", async () => {
    assert.equal(await consul.kv.get("missing"), undefined);
    assert.equal(await consul.kv.set({ key: "a/b", value: "hello", flags: 7 }), true);
    const found = await consul.kv.get("a/b");
    assert.deepEqual([found.Value, found.Flags], ["hello", 7]);
    assert.equal(await consul.kv.get({ key: "a/b", raw: true }).then(String), "hello");
    assert.ok(!(await consul.kv.set({ key: "a/b", value: "x", cas: "1" })));
    assert.equal(await consul.kv.set({ key: "a/b", value: "x", cas: String(found.ModifyIndex) }), true);
    await consul.kv.set("a/c/d", "y");
    assert.deepEqual(await consul.kv.keys("a/"), ["a/b", "a/c/d"]);
    assert.deepEqual(await consul.kv.keys({ key: "a/", separator: "/" }), ["a/b", "a/c/"]);
    assert.equal((await consul.kv.get({ key: "a/", recurse: true })).length, 2);
    assert.ok(!(await consul.kv.del({ key: "a/b", cas: "1" })));
    assert.equal(await consul.kv.del({ key: "a/", recurse: true }), true);
    assert.equal(await consul.kv.get({ key: "a/", recurse: true }), undefined);
  });
  await step("session", async () => {
    const { ID: id } = await consul.session.create({ name: "s", ttl: "30s", behavior: "delete" });
    const session = await consul.session.info(id);
    const [shown] = Array.isArray(session) ? session : [session];
    assert.deepEqual([shown.Name, shown.TTL, shown.Behavior], ["s", "30s", "delete"]);
    assert.ok((await consul.session.list()).some((each) => each.ID === id));
    assert.ok((await consul.session.node(shown.Node)).some((each) => each.ID === id));
    assert.equal((await consul.session.renew(id))[0].ID, id);
    assert.equal(await consul.kv.set({ key: "lock", value: "1", acquire: id }), true);
    const other = await consul.session.create({ name: "t" });
    assert.ok(!(await consul.kv.set({ key: "lock", value: "2", acquire: other.ID })));
    assert.equal(await consul.kv.set({ key: "lock", value: "3", release: id }), true);
    assert.equal(await consul.kv.set({ key: "lock", value: "4", acquire: id }), true);
    await consul.session.destroy(id);
    assert.equal(await consul.kv.get("lock"), undefined);
    await rejects(() => consul.session.renew(id), 404);
    await consul.session.destroy(other.ID);
  });
  await step("query", async () => {
    const { ID: id } = await consul.query.create({ name: "wq", service: { service: "web" } });
    assert.equal((await consul.query.get(id)).Name, "wq");
    assert.equal((await consul.query.list()).length, 1);
    await consul.query.update({
      query: id, name: "wq", service: { service: "web", onlypassing: true }, dns: { ttl: "5s" },
    });
    assert.equal((await consul.query.get(id)).DNS.TTL, "5s");
    const answer = await consul.query.execute("wq");
    assert.deepEqual([answer.Service, answer.Nodes.length], ["web", 1]);
    await consul.query.explain("wq");
    await consul.query.destroy(id);
    await rejects(() => consul.query.get(id), 404);
  });
  await step("transaction", async () => {
    const encoded = Buffer.from("v").toString("base64");
    const { Results: results } = await consul.transaction.create([
      { KV: { Verb: "set", Key: "t", Value: encoded } },
      { KV: { Verb: "get", Key: "t" } },
    ]);
    assert.equal(results[1].KV.Value, encoded);
    await rejects(
      () => consul.transaction.create([{ KV: { Verb: "check-not-exists", Key: "t" } }]),
      409,
    );
  });
  await step("watch", async () => {
    const seen = [];
    const watch = consul.watch({ method: consul.kv.get, options: { key: "watched" } });
    watch.on("change", (data) => seen.push(data?.Value));
    watch.on("error", (error) => seen.push(error));
    await until("the watch runs", async () => seen.length >= 0 && watch.isRunning());
    await consul.kv.set("watched", "one");
    await until("the first value", async () => seen.includes("one"));
    await consul.kv.set("watched", "two");
    await until("the second value", async () => seen.includes("two"));
    watch.end();
  });
}

(async () => {
  await agentSteps();
  await catalogSteps();
  await stateSteps();
  console.log(JSON.stringify(done));
  http.globalAgent.destroy();
  process.exit();
})();
