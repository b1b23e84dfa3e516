// From a photo's pixels to metres, in the browser: the arithmetic of dogdepth.dog and dogdepth.predict. No DOM, so that tests can call each part.
export const clamp = (v, lo, hi) => Math.min(hi, Math.max(lo, v));

export function networkSize(height, width, sizes) {
  // The exported size whose shape is nearest to the photo's.
  const off = ([h, w]) => Math.abs(Math.log(w / h * height / width));
  return sizes.reduce((a, b) => off(b) < off(a) - 1e-9 ? b : a);
}

function spans(n, m) {                               // INTER_AREA along one axis: which of n samples each of m covers, and how much of each
  const out = [], s = n / m;
  for (let k = 0; k < m; k++) {
    const a = k * s, b = Math.min((k + 1) * s, n), first = Math.floor(a + 1e-9), last = Math.min(Math.ceil(b - 1e-9), n), w = [];
    for (let i = first; i < last; i++) w.push((Math.min(b, i + 1) - Math.max(a, i)) / (b - a));
    out.push([first, w]);
  }
  return out;
}
function lines(n, m) {                               // INTER_LINEAR along one axis: pixel centres on whole numbers
  return Array.from({length: m}, (_, k) => { const x = clamp((k + .5) * n / m - .5, 0, n - 1), i = Math.min(Math.floor(x), Math.max(0, n - 2)); return [i, n > 1 ? [1 - x + i, x - i] : [1]]; });
}
export function resize(src, H, W, h, w, channels, area) {
  // `src` (H,W,channels) -> Float32Array (h,w,channels); averages where it shrinks, interpolates where it grows.
  const across = (area ? spans : lines)(W, w), down = (area ? spans : lines)(H, h), half = new Float32Array(H * w * channels), out = new Float32Array(h * w * channels);
  for (let y = 0; y < H; y++) for (let x = 0; x < w; x++) { const [i, ws] = across[x]; for (let c = 0; c < channels; c++) { let s = 0; for (let k = 0; k < ws.length; k++) s += ws[k] * src[(y * W + i + k) * channels + c]; half[(y * w + x) * channels + c] = s; } }
  for (let y = 0; y < h; y++) { const [i, ws] = down[y]; for (let x = 0; x < w * channels; x++) { let s = 0; for (let k = 0; k < ws.length; k++) s += ws[k] * half[(i + k) * w * channels + x]; out[y * w * channels + x] = s; } }
  return out;
}

export function toGrey(rgb) {                        // OpenCV's integer weights
  const g = new Uint8Array(rgb.length / 3);
  for (let i = 0; i < g.length; i++) g[i] = (9798 * rgb[3 * i] + 19235 * rgb[3 * i + 1] + 3735 * rgb[3 * i + 2] + 16384) >> 15;
  return g;
}

const DISC = [0, 4, 6, 7, 8, 8, 9, 9, 9, 9, 10, 9, 9, 9, 9, 8, 8, 7, 6, 4, 0];   // half widths of OpenCV's filled circle of radius 10
export function focusScores(g, h, w) {
  // 16 points, each: keep a disc of the frame, take its Laplacian, and the variance of that over the whole frame (report §2.2).
  const at = (n, k) => Math.floor(k * (n - 1) / 5), scores = [];
  const mirror = (i, n) => i < 0 ? -i : i >= n ? 2 * n - 2 - i : i;
  for (let b = 1; b < 5; b++) for (let a = 1; a < 5; a++) {
    const cx = at(w, a), cy = at(h, b);
    const v = (y, x) => { y = mirror(y, h); x = mirror(x, w); const d = Math.abs(y - cy); return d <= 10 && Math.abs(x - cx) <= DISC[y - cy + 10] ? g[y * w + x] : 0; };
    let s = 0, ss = 0;
    for (let y = Math.max(0, cy - 11); y <= Math.min(h - 1, cy + 11); y++) for (let x = Math.max(0, cx - 11); x <= Math.min(w - 1, cx + 11); x++) {
      const l = v(y - 1, x) + v(y + 1, x) + v(y, x - 1) + v(y, x + 1) - 4 * v(y, x); s += l; ss += l * l;
    }
    const n = h * w; scores.push((n * ss - s * s) / n / n);
  }
  return scores;
}
export function focusSigma(g, h, w, fallback = 2) {
  const [a, b] = [...focusScores(g, h, w)].sort((p, q) => q - p);
  return a - b >= 1 ? a - b : fallback;
}

function blurRows(n, sigma) {                        // for each sample the weights of a Gaussian around it, folded back at the borders (reflect-101)
  if (n === 1) return [[0, [1]]];
  const p = 2 * (n - 1), s = clamp(sigma, 1e-3, 1.5 * n), k = new Float64Array(p), least = s < 2.8 ? 1e-4 * Math.max(1, sigma * Math.sqrt(2 * Math.PI)) : 0;
  let sum = 0;
  for (let d = 0; d < p; d++) { for (let m = -3; m <= 3; m++) k[d] += Math.exp(-.5 * ((d + p * m) / s) ** 2); if (k[d] < least) k[d] = 0; sum += k[d]; }
  return Array.from({length: n}, (_, i) => {
    const row = Array.from({length: n}, (_, j) => (k[(j - i + p) % p] + k[(j + i) % p]) / sum * (j === 0 || j === n - 1 ? .5 : 1));
    let lo = 0, hi = n; while (lo < n - 1 && row[lo] < 1e-8) lo++; while (hi > lo + 1 && row[hi - 1] < 1e-8) hi--;
    return [lo, row.slice(lo, hi)];
  });
}
export function blur(g, h, w, sigma) {
  const across = blurRows(w, sigma), down = blurRows(h, sigma), half = new Float32Array(h * w), out = new Uint8Array(h * w), sum = new Float64Array(w);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) { const [lo, ws] = across[x]; let s = 0; for (let k = 0; k < ws.length; k++) s += ws[k] * g[y * w + lo + k]; half[y * w + x] = s; }
  for (let y = 0; y < h; y++) { const [lo, ws] = down[y]; sum.fill(1e-3); for (let k = 0; k < ws.length; k++) for (let x = 0; x < w; x++) sum[x] += ws[k] * half[(lo + k) * w + x]; for (let x = 0; x < w; x++) out[y * w + x] = clamp(Math.round(sum[x]), 0, 255); }
  return out;
}
export function modifiedDog(g, h, w, sigma = focusSigma(g, h, w)) {
  const wide = blur(g, h, w, sigma), fine = blur(g, h, w, sigma / 10);
  return wide.map((v, i) => Math.max(0, v - fine[i]));
}

export function networkInput(rgb, H, W, h, w) {
  // `rgb` (H,W,3) -> Float32Array (6,h,w): the photo in [0,1] and three times its blur image (report §2.4).
  const small = Uint8Array.from(resize(rgb, H, W, h, w, 3, H >= h && W >= w), v => clamp(Math.round(v), 0, 255)), n = h * w, x = new Float32Array(6 * n);
  const dog = modifiedDog(toGrey(small), h, w);
  for (let i = 0; i < n; i++) { for (let c = 0; c < 3; c++) x[c * n + i] = small[3 * i + c] / 255; x[3 * n + i] = x[4 * n + i] = x[5 * n + i] = dog[i] / 255; }
  return x;
}

export function exifFocal35(bytes) {
  // The focal length as 35 mm equivalent from a JPEG's EXIF block (tag 0xA405), or 0.
  const v = new DataView(bytes); let at = 2;
  try {
    if (v.getUint16(0) !== 0xFFD8) return 0;
    while (v.getUint16(at) !== 0xFFE1) { if ((v.getUint16(at) & 0xFF00) !== 0xFF00) return 0; at += 2 + v.getUint16(at + 2); }
    const t = at + 10, little = v.getUint16(t) === 0x4949, u16 = o => v.getUint16(t + o, little), u32 = o => v.getUint32(t + o, little);
    const find = (o, tag) => { for (let k = 0; k < u16(o); k++) if (u16(o + 2 + 12 * k) === tag) return o + 2 + 12 * k; return 0; };
    const sub = find(u32(4), 0x8769), f = sub && find(u32(sub + 8), 0xA405);
    return f ? u16(f + 8) : 0;
  } catch { return 0; }
}

export class Network {
  constructor(about, ort, base) { Object.assign(this, {about, ort, base, sessions: new Map()}); }
  static async open(base) {
    const about = await (await fetch(base + 'model.json')).json(), ort = await import(base + '../ort/ort.wasm.min.mjs');
    ort.env.wasm.wasmPaths = new URL('../ort/', new URL(base, location.href)).href; ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1; ort.env.logLevel = 'error';
    return new Network(about, ort, base);
  }
  session([h, w]) {                                  // one small graph for each size; they share the weights, which are fetched once
    const key = `${h}x${w}`;
    if (!this.sessions.has(key)) this.sessions.set(key, (async () => {
      this.weights ??= fetch(this.base + 'weights.bin').then(r => r.arrayBuffer()).then(b => new Uint8Array(b));
      const [graph, data] = await Promise.all([fetch(`${this.base}${key}.onnx`).then(r => r.arrayBuffer()), this.weights]);
      return this.ort.InferenceSession.create(new Uint8Array(graph), {executionProviders: ['wasm'], externalData: [{path: 'weights.bin', data}]});
    })());
    return this.sessions.get(key);
  }
  async depth(rgb, H, W, camera) {
    // Metres (Float32Array (H,W)) of a photo, and how long each step took in ms; `camera` {fx, fy} in pixels of this photo.
    const size = networkSize(H, W, this.about.sizes), [h, w] = size, session = await this.session(size), t0 = performance.now();
    const x = networkInput(rgb, H, W, h, w), t1 = performance.now();
    const out = await session.run({x: new this.ort.Tensor('float32', x, [1, 6, h, w])}, ['depth']), t2 = performance.now();
    const scale = Math.sqrt(camera.fx * w / W * camera.fy * h / H) / this.about.focal;
    const small = out.depth.data.map(v => v * scale), metres = resize(small, h, w, H, W, 1, false).map(v => Math.max(v, this.about.nearest));
    return {metres, small, size, ms: {input: t1 - t0, network: t2 - t1, all: performance.now() - t0}};
  }
}
