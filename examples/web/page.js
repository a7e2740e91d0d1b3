// The page: it shows what the network sees, what it takes it for, and how long that takes.

import { Network, fetchNetwork, loadRuntime } from "./network.js";
import { cropped, normalised } from "./preprocessing.js";

const TIMED_RUNS = 20;
const part = (name) => document.getElementById(name);
const ready = start();

async function start() {
  const ort = await loadRuntime();
  const address = new URLSearchParams(location.search).get("network") ?? "net.onnx";
  const network = await Network.open(ort, await fetchNetwork(address));
  if (!network.manifest.preprocessing) {
    throw new Error(`the manifest of ${address} does not say how images are prepared; export it with \`ghostnet export\``);
  }
  const { input, metadata, optimized } = network.manifest;
  const of = metadata.network ? `${metadata.network}, ` : "";
  part("network").textContent =
    `${of}${(network.size / 1e6).toFixed(1)} MB, ${optimized ? "with" : "without"} rewrites, ` +
    `input ${input.shape.slice(1).join("×")}, onnxruntime-web ${ort.env.versions.web}, WASM, one thread`;
  return network;
}

// The pixels of a file as RGBA bytes, upright, in the file's own colours, what is transparent on white.
async function pixelsOf(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name} is no image that this browser can read`);
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function classify(file) {
  const network = await ready;
  const wanted = network.manifest.preprocessing;
  const image = await pixelsOf(file);
  const before = performance.now();
  const seen = cropped(image, wanted);
  const input = normalised(seen, wanted);
  const prepared = performance.now() - before;
  const scores = Float32Array.from(await network.scores(input));
  show(seen, wanted.image_size, file.name, network.likeliest(scores, 5));
  const times = [];
  for (let run = 0; run < TIMED_RUNS; run++) {
    const start = performance.now();
    await network.scores(input);
    times.push(performance.now() - start);
  }
  const median = times.sort((a, b) => a - b)[TIMED_RUNS / 2];
  part("latency").textContent =
    `${median.toFixed(1)} ms an image (median of ${TIMED_RUNS} runs), and ${prepared.toFixed(1)} ms to prepare it`;
}

function show(seen, size, name, answers) {
  const canvas = part("seen");
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size);
  for (let place = 0; place < size * size; place++) {
    image.data.set([seen[3 * place], seen[3 * place + 1], seen[3 * place + 2], 255], 4 * place);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", `${name} as the network sees it`);
  part("answers").replaceChildren(...answers.map(row));
  part("latency").textContent = "timing …";
  part("result").hidden = false;
}

function row({ name, probability }) {
  const item = document.createElement("li");
  const label = document.createElement("span"), bar = document.createElement("meter"), share = document.createElement("output");
  label.textContent = name;
  bar.value = probability;
  share.textContent = `${(100 * probability).toFixed(2)} %`;
  item.append(label, bar, share);
  return item;
}

// One image at a time: what is dropped meanwhile waits.
let last = ready;
function take(files) {
  if (!files.length) return;
  part("problem").hidden = true;
  last = last.catch(() => {}).then(() => classify(files[0])).catch(complain);
}

function complain(error) {
  part("problem").textContent = error.message;
  part("problem").hidden = false;
}

part("file").addEventListener("change", (event) => take(event.target.files));
const zone = part("zone");
for (const name of ["dragover", "dragleave", "drop"]) {
  zone.addEventListener(name, (event) => {
    event.preventDefault();
    zone.classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
}
ready.catch((error) => {
  part("network").textContent = "no network";
  complain(error);
});
