// Arrays of float32 as .npy files, for the runtimes that have no numpy.

export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] > 1; // version 2 has a longer length
  const start = (wide ? 12 : 10) + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.slice(wide ? 12 : 10, start));
  if (!header.includes("'<f4'") || !header.includes("'fortran_order': False")) throw new Error(`not float32: ${header}`);
  const dims = header.match(/'shape': \(([^)]*)\)/)[1].split(",").map((each) => each.trim()).filter(Boolean).map(Number);
  return { dims, data: new Float32Array(bytes.slice(start).buffer) };
}

export function encode({ dims, data }) {
  const shape = dims.length === 1 ? `(${dims[0]},)` : `(${dims.join(", ")})`;
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`;
  const padded = header.padEnd(64 * Math.ceil((header.length + 11) / 64) - 11) + "\n";
  const bytes = new Uint8Array(10 + padded.length + data.byteLength);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, padded.length & 255, padded.length >> 8]);
  bytes.set(new TextEncoder().encode(padded), 10);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 10 + padded.length);
  return bytes;
}

// Does one job with ONNX Runtime of either kind; `read` and `write` take the names of files.
export async function run(ort, job, read, write) {
  const session = await ort.InferenceSession.create(new Uint8Array(await read(job.model)), { executionProviders: [job.provider] });
  const feeds = {};
  for (const [name, file] of Object.entries(job.inputs)) {
    const { dims, data } = decode(await read(file));
    feeds[name] = new ort.Tensor("float32", data, dims);
  }
  const found = await session.run(feeds, Object.keys(job.outputs));
  for (const [name, file] of Object.entries(job.outputs)) await write(file, encode(found[name]));
  await session.release();
}
