// Runs the merged model in WebAssembly on what is drawn: see README.md.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { draw, image } from "./image.mjs";

const paper = document.querySelector("#paper");
const seen = document.querySelector("#seen");
const answer = document.querySelector("#answer");
const strokes = [];

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that say the page is isolated

const { tasks } = await (await fetch("task.json")).json();
const session = await ort.InferenceSession.create("merged.onnx", { executionProviders: ["wasm"] });

const dot = (one, other) => one.reduce((sum, value, at) => sum + value * other[at], 0);

// For each task, the cosines of the embedding with its class vectors.
async function cosines(pixels) {
  const { embedding } = await session.run({ images: new ort.Tensor("float32", pixels, [1, 1, 8, 8]) });
  const length = Math.sqrt(dot(embedding.data, embedding.data));
  return tasks.map(({ vectors }) => vectors.map((vector) => dot(embedding.data, vector) / length));
}

function show(found) {
  const nearest = { cosine: -Infinity, digit: null };
  tasks.forEach(({ classes }, task) => {
    const best = Math.max(...found[task]);
    classes.forEach((digit, at) => {
      const row = document.querySelector(`[data-digit="${digit}"]`);
      const cosine = found[task][at];
      row.classList.toggle("best", cosine === best);
      row.querySelector(".bar").style.width = `${Math.max(100 * cosine, 0)}%`;
      row.querySelector(".cosine").textContent = cosine.toFixed(2);
      if (cosine > nearest.cosine) Object.assign(nearest, { cosine, digit });
    });
  });
  answer.textContent = `It is a ${nearest.digit}`;
}

function empty() {
  answer.textContent = "Nothing is drawn yet";
  for (const row of document.querySelectorAll(".class")) {
    row.classList.remove("best");
    row.querySelector(".bar").style.width = "0";
    row.querySelector(".cosine").textContent = "";
  }
}

// One run at a time, always of the newest drawing.
let running = false;
let changed = false;
async function update() {
  changed = true;
  if (running) return;
  running = true;
  while (changed) {
    changed = false;
    const pen = paper.getContext("2d");
    pen.clearRect(0, 0, paper.width, paper.height);
    pen.strokeStyle = getComputedStyle(paper).color;
    draw(pen, strokes, paper.width / 12);
    const pixels = strokes.length ? image(strokes) : new Float32Array(64).fill(-1);
    preview(pixels);
    if (strokes.length) {
      const found = await cosines(pixels);
      if (strokes.length) show(found);
    } else {
      empty();
    }
  }
  running = false;
}

function preview(pixels) {
  const pen = seen.getContext("2d");
  pen.clearRect(0, 0, 8, 8);
  pen.fillStyle = getComputedStyle(paper).color;
  pixels.forEach((value, at) => {
    pen.globalAlpha = Math.min((value + 1) / 2, 1);
    pen.fillRect(at % 8, Math.floor(at / 8), 1, 1);
  });
}

const point = (event) => {
  const frame = paper.getBoundingClientRect();
  const scale = paper.width / frame.width;
  return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
};
paper.addEventListener("pointerdown", (event) => {
  paper.setPointerCapture(event.pointerId);
  strokes.push([point(event)]);
  update();
});
paper.addEventListener("pointermove", (event) => {
  if (!paper.hasPointerCapture(event.pointerId)) return;
  strokes.at(-1).push(point(event));
  update();
});
document.querySelector("#clear").addEventListener("click", () => {
  strokes.length = 0;
  update();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);

const element = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
for (const { name, classes } of tasks) {
  const rows = classes.map((digit) => {
    const [row, track] = [element("div", "class"), element("div", "track")];
    row.dataset.digit = digit;
    track.append(element("div", "bar"));
    row.append(element("span", "", digit), track, element("span", "cosine"));
    return row;
  });
  document.querySelector("#tasks").append(element("h3", "", `Which of ${name}`), ...rows);
}
update();
