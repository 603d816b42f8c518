// @zeldafan0225/ai_horde, as a bot on Node would use it. See common.py for what a script is.
import { setTimeout as sleep } from "node:timers/promises";
import { AIHorde, APIError } from "@zeldafan0225/ai_horde";

const UNKNOWN_ID = "00000000-0000-4000-8000-000000000000";
const task = JSON.parse(process.argv[2]);
const horde = new AIHorde({
  api_route: `${task.api}/v2`,
  default_token: task.key,
  client_agent: "a-bot:1:somebody",
});

const small = (params = {}, fields = {}) => ({
  prompt: "a fox",
  params: { width: 64, height: 64, steps: 4, n: 2, sampler_name: "k_euler", ...params },
  models: ["stable_diffusion"],
  shared: true,
  ...fields,
});

// What the client throws: its documented fields.
async function thrown(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    const { name, message, status, method, error_code, errors, rawError } = error;
    return { name, message, status, method, error_code, errors, rawError };
  }
}

async function download(url) {
  const answer = await fetch(url, { redirect: "error" });
  if (answer.status !== 200) throw new Error(`GET of an image: ${answer.status}`);
  const bytes = Buffer.from(await answer.arrayBuffer());
  return { type: answer.headers.get("content-type"), image: bytes.toString("base64") };
}

const user = await horde.findUser({ token: task.key });
const dry = await horde.postAsyncImageGenerate(small({}, { dry_run: true }));
const accepted = await horde.postAsyncImageGenerate(small());
let check;
do {
  await sleep(500);
  check = await horde.getImageGenerationCheck(accepted.id);
} while (!check.done);
const status = await horde.getImageGenerationStatus(accepted.id);

const waiting = await horde.postAsyncImageGenerate(small({}, { models: [task.model] }));
const before = await horde.deleteImageGenerationRequest(waiting.id);
const after = await horde.getImageGenerationCheck(waiting.id);

const seen = {
  user,
  dry,
  accepted,
  check,
  status,
  downloads: await Promise.all(status.generations.map((generation) => download(generation.img))),
  cancelled: [before, after],
  masked: await horde.getImageGenerationCheck(accepted.id, { fields: ["done", "finished"] }),
  heartbeat: await horde.getHeartbeat(),
  bad_sampler: await thrown(horde.postAsyncImageGenerate(small({ sampler_name: "k_nothing" }))),
  bad_key: await thrown(horde.postAsyncImageGenerate(small(), { token: "x".repeat(22) })),
  too_poor: await thrown(
    horde.postAsyncImageGenerate(small({}, { slow_workers: false }), { token: task.poor }),
  ),
  unknown_check: await thrown(horde.getImageGenerationCheck(UNKNOWN_ID)),
  unknown_status: await thrown(horde.getImageGenerationStatus(UNKNOWN_ID)),
  unknown_cancel: await thrown(horde.deleteImageGenerationRequest(UNKNOWN_ID)),
};
console.log(JSON.stringify(seen));
