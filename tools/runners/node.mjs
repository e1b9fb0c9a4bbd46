// Runs models in onnxruntime-node: node node.mjs NODE_MODULES JOBS.json RESULT.json. What a job is, run.py says.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { run } from "./npy.mjs";

const [modules, jobs, result] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const ort = require("onnxruntime-node");
const errors = {};
for (const job of JSON.parse(await readFile(jobs))) {
  try {
    await run(ort, { ...job, provider: "cpu" }, readFile, writeFile);
  } catch (error) {
    errors[job.name] = String(error.message ?? error);
  }
}
await writeFile(result, JSON.stringify({ version: ort.env.versions.node, errors }));
