// What happens to pixels between decoding and the network, as `ghostnet predict` does it (ghostnet/data/preprocessing.py):
// the shorter side to image_size / crop_fraction with an antialiased filter, the centre crop, mean and std.
// No canvas resizes here: browsers differ in their filters, and networks notice.

const LONGEST = 100; // times the shorter side; longer strips are refused, as `ghostnet predict` does
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

function cubic(x) {
  const a = -0.5, d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? a * (((d - 5) * d + 8) * d - 4) : 0;
}

// Python's round: halves go to the even neighbour.
function rounded(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

// For each of `to` pixels of a line that had `from`: the first pixel that it reads, and the weights.
function taps(from, to, filter) {
  const scale = from / to, stretch = Math.max(scale, 1), reach = filter.support * stretch;
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => filter.weight((first + k + 0.5 - centre) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

// Resize along one axis; `next` is the distance of neighbours along it and `stride` that of lines, in entries of `pixels`.
function resized(pixels, { lines, stride, next }, found, [ownStride, ownNext]) {
  const made = new Uint8ClampedArray(lines * found.length * 3);
  for (let line = 0; line < lines; line++) {
    found.forEach(({ first, weights }, index) => {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0.5; // rounds, as the last step is a floor
        let place = line * stride + first * next + channel;
        for (let k = 0; k < weights.length; k++, place += next) sum += weights[k] * pixels[place];
        made[line * ownStride + index * ownNext + channel] = Math.floor(sum);
      }
    });
  }
  return made;
}

/**
 * Resize the shorter side and cut the centre out.
 * @param {{data: ArrayLike<number>, width: number, height: number}} image - RGBA bytes, as canvases give them.
 * @param {{image_size: number, crop_fraction: number, interpolation: string}} wanted - a manifest's `preprocessing`.
 * @returns {Uint8ClampedArray} RGB bytes, (image_size, image_size, 3).
 */
export function cropped(image, wanted) {
  const filter = FILTERS[wanted.interpolation];
  if (!filter) throw new Error(`the manifest asks for ${wanted.interpolation}; this page knows ${Object.keys(FILTERS).join(", ")}`);
  const { width, height } = image, size = wanted.image_size, shorter = Math.min(width, height);
  if (Math.max(width, height) > LONGEST * shorter) {
    throw new Error(`the image is ${width}x${height} pixels, a strip that resizing would blow up; crop it`);
  }
  const side = rounded(size / wanted.crop_fraction);
  const toWidth = width === shorter ? side : Math.trunc((side * width) / shorter);
  const toHeight = height === shorter ? side : Math.trunc((side * height) / shorter);
  const left = rounded((toWidth - size) / 2), top = rounded((toHeight - size) / 2);
  const across = taps(width, toWidth, filter).slice(left, left + size);
  const down = taps(height, toHeight, filter).slice(top, top + size);

  // across first: (height, width, RGBA) -> (height, size, RGB), rounded to bytes; then down
  const narrow = resized(image.data, { lines: height, stride: 4 * width, next: 4 }, across, [3 * size, 3]);
  return resized(narrow, { lines: size, stride: 3, next: 3 * size }, down, [3, 3 * size]);
}

/**
 * Turn pixels into what the network takes.
 * @param {Uint8ClampedArray} pixels - RGB bytes, (size, size, 3).
 * @param {{mean: number[], std: number[]}} wanted - a manifest's `preprocessing`.
 * @returns {Float32Array} (3, size, size)
 */
export function normalised(pixels, { mean, std }) {
  const area = pixels.length / 3, made = new Float32Array(pixels.length);
  for (let channel = 0; channel < 3; channel++) {
    const scale = 1 / (255 * std[channel]), shift = mean[channel] / std[channel];
    for (let place = 0; place < area; place++) {
      made[channel * area + place] = pixels[3 * place + channel] * scale - shift;
    }
  }
  return made;
}
