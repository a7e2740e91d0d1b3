// An exported network (`ghostnet export … -o net.onnx`) in onnxruntime-web, with the manifest that lies beside it.

const RUNTIME = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);

/** Load onnxruntime-web from this folder: its WASM backend, one thread. */
export async function loadRuntime() {
  let ort;
  try {
    ort = await import(new URL("ort.wasm.bundle.min.mjs", RUNTIME).href);
  } catch {
    throw new Error("onnxruntime-web is not here; run `npm install` in the folder of this page");
  }
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = RUNTIME.href;
  return ort;
}

/** Fetch a network and its manifest. */
export async function fetchNetwork(address) {
  const [file, beside] = await Promise.all([fetch(address), fetch(`${address}.json`)]);
  for (const answer of [file, beside]) {
    if (!answer.ok) {
      const name = answer.url.split("/").pop();
      throw new Error(`there is no ${name} beside this page; write it with \`ghostnet export NETWORK -o ${address}\``);
    }
  }
  return { name: address, bytes: new Uint8Array(await file.arrayBuffer()), manifest: await beside.json() };
}

/**
 * An exported network, ready to run.
 * A file has an open batch; fixed to one image the runtime plans better.
 */
export class Network {
  static async open(ort, { name, bytes, manifest }) {
    if (manifest.target !== "onnx") throw new Error(`${name} is for ${manifest.target}; export it with --target onnx`);
    const options = { executionProviders: ["wasm"], freeDimensionOverrides: { batch: 1 } };
    return new Network(ort, name, bytes.length, manifest, await ort.InferenceSession.create(bytes, options));
  }

  constructor(ort, name, size, manifest, session) {
    Object.assign(this, { ort, name, size, manifest, session });
  }

  /** Return the scores of one image, (3, H, W) -> (classes). */
  async scores(image) {
    const tensor = new this.ort.Tensor("float32", image, [1, ...this.manifest.input.shape.slice(1)]);
    const answers = await this.session.run({ [this.session.inputNames[0]]: tensor });
    return answers[this.session.outputNames[0]].data;
  }

  /** Return `[{name, probability}]` of the likeliest classes, the likeliest first. */
  likeliest(scores, count) {
    const largest = Math.max(...scores);
    const powers = Array.from(scores, (score) => Math.exp(score - largest));
    const sum = powers.reduce((a, b) => a + b, 0);
    const named = powers.map((power, index) => ({
      name: this.manifest.classes?.[index] ?? `class ${index}`,
      probability: power / sum,
    }));
    return named.sort((a, b) => b.probability - a.probability).slice(0, count);
  }
}
