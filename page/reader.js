// Reads in the browser: onnxruntime-web and a network that takes pictures (export.py --page).
import * as ort from "./ort.wasm.bundle.min.mjs";

const TOP = 10;
ort.env.wasm.numThreads = 1; // more threads need headers that not every host can send
ort.env.wasm.wasmPaths = {wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href};

// Return a function canvas -> answer, as the server's to POST /read.
export async function open(network) {
  const bytes = await (await fetch("network.onnx")).arrayBuffer();
  const session = await ort.InferenceSession.create(bytes, {executionProviders: ["wasm"]});
  const classes = [...network.classes];
  const read = async canvas => {
    const began = performance.now();
    const picture = new ort.Tensor("uint8", grey(canvas), [1, 1, canvas.height, canvas.width]);
    const {logits, glyph, character_score: score} = await session.run({picture});
    if (!glyph.data.some(value => value)) return {error: "No ink was found on the picture"};
    const character_score = score?.data[0];
    return {
      readings: best(logits.data, network.twins)
        .map(([label, probability]) => ({character: classes[label], probability})),
      glyph: toPng(glyph.data, network.size),
      character_score,
      is_character: score && character_score >= network.threshold,
      milliseconds: performance.now() - began,
    };
  };
  const blank = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
  await read(blank); // so that the first stroke does not wait
  return read;
}

// Return (h,w) grey levels of a canvas. Transparency becomes paper by the last rule of
// picture/glyph.py's _paper_under only: white under dark ink, black under light ink.
function grey(canvas) {
  const {width, height} = canvas;
  const {data} = canvas.getContext("2d", {willReadFrequently: true}).getImageData(0, 0, width, height);
  const levels = new Uint8Array(width * height);
  let ink = 0, inked = 0, clear = false;
  for (let i = 0; i < levels.length; i++) {
    const at = 4 * i; // OpenCV's weights
    levels[i] = (4899 * data[at] + 9617 * data[at + 1] + 1868 * data[at + 2] + 8192) >> 14;
    if (data[at + 3] > 127) { ink += levels[i]; inked++; }
    if (data[at + 3] < 255) clear = true;
  }
  if (!clear) return levels;
  const paper = inked && ink / inked > 127 ? 0 : 255;
  for (let i = 0; i < levels.length; i++) {
    const opacity = data[4 * i + 3] / 255;
    levels[i] = levels[i] * opacity + paper * (1 - opacity) + 0.5;
  }
  return levels;
}

// Return [label, probability] of the best. Of twins, which no picture tells apart, the Chinese
// character gets the probability of the symbols, too.
function best(logits, twins) {
  const highest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const shares = Float64Array.from(logits, logit => Math.exp(logit - highest));
  const sum = shares.reduce((total, share) => total + share);
  for (const [chinese, symbols] of twins) {
    for (const symbol of symbols) {
      shares[chinese] += shares[symbol];
      shares[symbol] = 0;
    }
  }
  return [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, TOP)
    .map(label => [label, shares[label] / sum]);
}

function toPng(glyph, size) {
  const canvas = Object.assign(document.createElement("canvas"), {width: size, height: size});
  const context = canvas.getContext("2d"), image = context.createImageData(size, size);
  const pixels = new Uint32Array(image.data.buffer); // opacity is the highest byte
  glyph.forEach((value, i) => { pixels[i] = 0xff000000 + value * 0x10101; });
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}
