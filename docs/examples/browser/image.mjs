// A drawing as the networks know digits: 8x8 pixels from -1 (paper) to 1 (ink), each the ink in 4x4 points of a bitmap
// of 32x32 that the digit fills from top to bottom. Strokes are lists of points and are drawn anew in that size, so that
// neither the size of the drawing nor where it stands matters.

const SIDE = 32;
const PEN = 6; // as thick as in their training images

export function image(strokes) {
  const points = strokes.flat();
  const [left, top] = [Math.min(...points.map(([x]) => x)), Math.min(...points.map(([, y]) => y))];
  const [right, bottom] = [Math.max(...points.map(([x]) => x)), Math.max(...points.map(([, y]) => y))];
  const scale = (SIDE - PEN) / Math.max(right - left, bottom - top, 1);
  const canvas = new OffscreenCanvas(SIDE, SIDE);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.translate(SIDE / 2, SIDE / 2);
  pen.scale(scale, scale);
  pen.translate(-(left + right) / 2, -(top + bottom) / 2);
  draw(pen, strokes, PEN / scale);

  const ink = pen.getImageData(0, 0, SIDE, SIDE).data;
  const pixels = new Float32Array(64).fill(-1);
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      const at = (y >> 2) * 8 + (x >> 2);
      pixels[at] += ink[(y * SIDE + x) * 4 + 3] / 255 / 8;
    }
  }
  return pixels;
}

export function draw(pen, strokes, width) {
  pen.lineWidth = width;
  pen.lineCap = pen.lineJoin = "round";
  for (const [first, ...rest] of strokes) {
    pen.beginPath();
    pen.moveTo(...first);
    for (const point of rest.length ? rest : [first]) pen.lineTo(...point);
    pen.stroke();
  }
}
