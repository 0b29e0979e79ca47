// The main job by the TypeScript SDK: an agent plans, waits, a person approves, it is applied, read, and destroyed.
//
// node story.mjs '<json>': { packages, sdk: "v1" | "v2", agent, person, workspace, source }, where agent and person are each
// { url, key } or { command, args, env }. Prints one JSON document of what it saw; whatever goes wrong ends it with 1.

import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const story = JSON.parse(process.argv[2]);
const from = createRequire(path.join(story.packages, "story.mjs"));
const load = (name) => import(pathToFileURL(from.resolve(name)).href);
const PATIENCE = 120_000; // ms for the whole story

async function sdk() {
  if (story.sdk === "v2") {
    const client = await load("@modelcontextprotocol/client");
    const { StdioClientTransport } = await load("@modelcontextprotocol/client/stdio");
    return { ...client, StdioClientTransport, options: { versionNegotiation: { mode: "auto" } }, asked: "elicitation/create" };
  }
  const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const { StdioClientTransport } = await load("@modelcontextprotocol/sdk/client/stdio.js");
  const { ElicitRequestSchema } = await load("@modelcontextprotocol/sdk/types.js");
  return { Client, StreamableHTTPClientTransport, StdioClientTransport, options: {}, asked: ElicitRequestSchema };
}

const { Client, StreamableHTTPClientTransport, StdioClientTransport, options, asked } = await sdk();

async function connected(who, capabilities = {}) {
  const client = new Client({ name: "story", version: "1.0.0" }, { capabilities, ...options });
  const headers = { Authorization: `Bearer ${who.key}` };
  const transport = who.url
    ? new StreamableHTTPClientTransport(new URL(who.url), { requestInit: { headers } })
    : new StdioClientTransport({ command: who.command, args: who.args, env: who.env, stderr: "inherit" });
  return { client, transport };
}

async function call(client, name, args = {}) {
  const result = await client.callTool({ name, arguments: args });
  if (result.isError) throw new Error(`${name}: ${JSON.stringify(result.structuredContent)}`);
  return result.structuredContent;
}

async function until(client, run_id, ...states) {
  const seen = [];
  for (let from; ; ) {
    const now = await call(client, "run_wait", { run_id, timeout_seconds: 5, ...(from && { from }) });
    from = now.data.cursor;
    seen.push(...now.data.changes.map((change) => change.state));
    if (states.includes(now.run.state)) return { run: now.run, seen };
    if (now.run.ends_at || ["rejected", "errored", "canceled", "expired"].includes(now.run.state)) {
      throw new Error(`the run ended ${now.run.state}: ${JSON.stringify(now)}`);
    }
  }
}

const questions = [];
let types = {}; // what the person types next

async function main() {
  const agent = await connected(story.agent);
  const person = await connected(story.person, { elicitation: {} });
  person.client.setRequestHandler(asked, async (request) => {
    questions.push(request.params.message);
    return { action: "accept", content: types };
  });
  await agent.client.connect(agent.transport);
  await person.client.connect(person.transport);
  try {
    const tools = (await agent.client.listTools()).tools.map((tool) => tool.name);
    const where = { env: "dev", workspace: story.workspace };
    await call(agent.client, "terraform_register_workspace", { ...where, source: { path: story.source } });

    const started = (await call(agent.client, "apply_terraform", where)).run.run_id;
    const waits = await until(agent.client, started, "awaiting_approval");
    const plan = await call(agent.client, "run_plan", { run_id: started });
    await call(person.client, "run_approve", { run_id: started, plan_digest: waits.run.plan_digest });
    await until(agent.client, started, "applied");
    const got = await call(agent.client, "run_get", { run_id: started, include: ["outputs", "approvals"] });
    const resource = await agent.client.readResource({ uri: `run://${started}` });
    const prompt = await agent.client.getPrompt({ name: "plan-and-review", arguments: { run_id: started } });

    const destroying = (await call(agent.client, "destroy_terraform", where)).run.run_id;
    const destroy = await until(agent.client, destroying, "awaiting_approval");
    types = { confirm_name: destroy.run.approval.confirm_name };
    await call(person.client, "run_approve", { run_id: destroying, plan_digest: destroy.run.plan_digest });
    await until(agent.client, destroying, "applied");

    return {
      tools,
      created: plan.data.counts.create,
      outputs: got.data.outputs.values,
      approved_by: got.data.approvals.map((approval) => approval.by),
      read: JSON.parse(resource.contents[0].text).run.state,
      prompt: prompt.messages[0].content.text,
      questions,
      protocol: agent.client.getNegotiatedProtocolVersion?.() ?? agent.transport.protocolVersion ?? null,
    };
  } finally {
    await agent.client.close();
    await person.client.close();
  }
}

const late = setTimeout(() => {
  console.error("the story took too long");
  process.exit(1);
}, PATIENCE);
try {
  console.log(JSON.stringify(await main()));
} catch (failed) {
  console.error(failed);
  process.exitCode = 1;
} finally {
  clearTimeout(late);
}
