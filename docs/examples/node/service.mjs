// One merged model behind HTTP that answers both of its parents' tasks: see README.md.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import ort from "onnxruntime-node";

const folder = process.env.MODEL_FOLDER ?? import.meta.dirname;
const { tasks } = JSON.parse(await readFile(`${folder}/task.json`));
const session = await ort.InferenceSession.create(`${folder}/merged.onnx`);

const dot = (one, other) => one.reduce((sum, value, at) => sum + value * other[at], 0);
const isPixel = (value) => typeof value === "number" && value >= 0 && value <= 16; // null >= 0 holds, too
const isImage = (pixels) =>
  Array.isArray(pixels) && pixels.length === 8 &&
  pixels.every((row) => Array.isArray(row) && row.length === 8 && row.every(isPixel));

// For each task, its class that is nearest to the model's embedding and the cosine; and the nearest of all.
async function classify(pixels) {
  const data = Float32Array.from(pixels.flat(), (value) => value / 8 - 1);
  const { embedding } = await session.run({ images: new ort.Tensor("float32", data, [1, 1, 8, 8]) });
  const length = Math.sqrt(dot(embedding.data, embedding.data));
  const answers = {};
  for (const { name, classes, vectors } of tasks) {
    const cosines = vectors.map((vector) => dot(embedding.data, vector) / length);
    const cosine = Math.max(...cosines);
    answers[name] = { class: classes[cosines.indexOf(cosine)], cosine: Math.round(cosine * 1e4) / 1e4 };
  }
  const nearest = Object.values(answers).reduce((one, other) => (other.cosine > one.cosine ? other : one));
  return { tasks: answers, class: nearest.class };
}

async function bodyOf(request) {
  const parts = [];
  let size = 0;
  for await (const part of request.iterator({ destroyOnReturn: false })) { // so that an answer still gets through
    size += part.length;
    if (size > 10000) return null;
    parts.push(part);
  }
  try {
    return JSON.parse(Buffer.concat(parts));
  } catch {
    return null;
  }
}

const server = createServer(async (request, response) => {
  const reply = (code, value) => response.writeHead(code, { "Content-Type": "application/json" }).end(JSON.stringify(value));
  if (request.method !== "POST" || request.url !== "/classify") return reply(404, { detail: "POST /classify" });
  try {
    const body = await bodyOf(request);
    if (!isImage(body?.pixels)) return reply(422, { detail: "pixels: 8 rows of 8 numbers from 0 to 16" });
    return reply(200, await classify(body.pixels));
  } catch (error) { // a client that went away, or a model that failed: the end of this request, not of the service
    console.error(error.message);
    return reply(500, { detail: "failed" });
  }
});
server.listen(Number(process.env.PORT ?? 8000), "127.0.0.1");
