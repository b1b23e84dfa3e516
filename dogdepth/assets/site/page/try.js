// The page that turns a visitor's photo into metres and a room. Nothing leaves the machine.
import {Network, exifFocal35, clamp} from './depth.js';
const $ = id => document.getElementById(id), root = document.documentElement.dataset.root || './', base = new URL(root + 'site/model/', location.href).href;
const MOST = 1280;                                   // pixels: a larger photo is shrunk to this for the page
const turbo = t => { const c = network.about.colours, x = clamp(t, 0, 1) * (c.length - 1), i = Math.min(Math.floor(x), c.length - 2); return c[i].map((v, k) => v + (x - i) * (c[i + 1][k] - v)); };
const say = (text, busy = false) => { $('try-say').textContent = text; $('try').setAttribute('aria-busy', busy); };
let network, room, now, generation = 0;

async function fromBlob(blob) {
  const bitmap = await createImageBitmap(blob, {imageOrientation: 'from-image', colorSpaceConversion: 'none'}), s = Math.min(1, MOST / Math.max(bitmap.width, bitmap.height));
  const c = document.createElement('canvas'); c.width = Math.round(bitmap.width * s); c.height = Math.round(bitmap.height * s);
  const g = c.getContext('2d', {willReadFrequently: true}); g.fillStyle = '#fff'; g.fillRect(0, 0, c.width, c.height); g.imageSmoothingQuality = 'high'; g.drawImage(bitmap, 0, 0, c.width, c.height);
  const {data} = g.getImageData(0, 0, c.width, c.height), rgb = new Uint8Array(c.width * c.height * 3);
  for (let i = 0, k = 0; i < data.length; i += 4) { rgb[k++] = data[i]; rgb[k++] = data[i + 1]; rgb[k++] = data[i + 2]; }
  return {canvas: c, rgb, width: c.width, height: c.height, shrunk: s};
}
const fromFov = (deg, w, h) => { const f = w / 2 / Math.tan(deg * Math.PI / 360); return {fx: f, fy: f, cx: (w - 1) / 2, cy: (h - 1) / 2, width: w, height: h}; };

async function open(blob, about = {}) {
  const mine = ++generation;
  try {
    if (blob.type && !blob.type.startsWith('image/')) throw Error(`${blob.name || 'that'} is not a picture: drop a JPEG, PNG or WebP photo.`);
    say('Reading the photo ...', true);
    const photo = await fromBlob(blob).catch(() => { throw Error(`${blob.name || 'That file'} cannot be read as a picture: drop a JPEG, PNG or WebP photo.`); });
    if (Math.min(photo.width, photo.height) < 32) throw Error('That picture is very small: at least 32 pixels each way, please.');
    if (!network) { say('Loading the network (19 MB, once) ...', true); network = await Network.open(base); }
    let camera = about.camera, known = about.camera ? 'known' : '';
    if (!camera) {
      const f35 = exifFocal35(await blob.slice(0, 131072).arrayBuffer()), diagonal = Math.hypot(photo.width, photo.height), f = f35 && f35 / 43.267 * diagonal;
      const guess = 2 * Math.atan(Math.max(photo.width, photo.height) / 2 / (network.about.guess * Math.max(photo.width, photo.height))) * 180 / Math.PI;
      const fov = f ? 2 * Math.atan(photo.width / 2 / f) * 180 / Math.PI : photo.width >= photo.height ? guess : 2 * Math.atan(photo.width / 2 / (network.about.guess * photo.height)) * 180 / Math.PI;
      camera = fromFov(clamp(fov, 20, 120), photo.width, photo.height); known = f ? 'noted by the camera' : 'assumed';
    }
    say('Looking ...', true); await new Promise(r => setTimeout(r, 30));
    const result = await network.depth(photo.rgb, photo.height, photo.width, camera);
    if (mine !== generation) return;
    now = {...photo, ...result, camera, first: camera, known, about}; await show();
    say(`${result.size[1]} x ${result.size[0]} pixels looked at in ${(result.ms.all / 1000).toFixed(2)} s: ${Math.round(result.ms.input)} ms for the blur image, ${Math.round(result.ms.network)} ms for the network. Nothing left this machine.`);
  } catch (e) { if (mine === generation) say(e.message); console.warn(e.message); }
}

function colourMap() {
  const {metres, width, height} = now, sorted = metres.filter((_, i) => i % 53 === 0).sort(), lo = sorted[Math.floor(sorted.length * .02)], hi = sorted[Math.floor(sorted.length * .98)];
  const c = $('try-depth'); c.width = width; c.height = height; const g = c.getContext('2d'), px = g.createImageData(width, height);
  const lut = Array.from({length: 256}, (_, k) => turbo(k / 255));
  for (let i = 0; i < metres.length; i++) { const [r, q, b] = lut[Math.round(clamp((metres[i] - lo) / (hi - lo || 1), 0, 1) * 255)]; px.data[4 * i] = r; px.data[4 * i + 1] = q; px.data[4 * i + 2] = b; px.data[4 * i + 3] = 255; }
  g.putImageData(px, 0, 0);
  $('try-bar').style.background = `linear-gradient(90deg, ${Array.from({length: 12}, (_, k) => `rgb(${turbo(k / 11).map(Math.round)})`)})`;
  $('try-lo').textContent = lo.toFixed(2) + ' m'; $('try-hi').textContent = hi.toFixed(2) + ' m';
}
async function show() {
  const {canvas, width, height, about} = now, p = $('try-photo');
  p.width = width; p.height = height; p.getContext('2d').drawImage(canvas, 0, 0);
  for (const e of document.querySelectorAll('#try .probe')) e.style.aspectRatio = `${width}/${height}`;
  $('try-out').hidden = false; colourMap();
  $('try-fov').value = Math.round(2 * Math.atan(width / 2 / now.camera.fx) * 180 / Math.PI); fovWords();
  $('try-truth').textContent = about.truth ? compare() : '';
  await drawRoom();
}
function compare() {                                 // where the true depth is known: how wrong is it?
  const {metres, width, height, about: {truth}} = now; let sum = 0, n = 0; const off = [];
  for (let y = 0; y < truth.height; y++) for (let x = 0; x < truth.width; x++) {
    const t = truth.mm[y * truth.width + x] / 1000; if (!t) continue;
    const m = metres[Math.min(height - 1, Math.floor((y + .5) * height / truth.height)) * width + Math.min(width - 1, Math.floor((x + .5) * width / truth.width))];
    sum += Math.abs(m - t) / t; n++; off.push(Math.abs(m - t));
  }
  return `Measured depth is known for this picture: the network is off by ${(100 * sum / n).toFixed(0)} % on average (AbsRel ${(sum / n).toFixed(3)}), half of the pixels by less than ${(100 * off.sort((a, b) => a - b)[n >> 1]).toFixed(0)} cm.`;
}
async function drawRoom() {
  const c = $('try-room');
  try {
    if (!room) { const {Room} = await import('./room.js'); room = new Room(c, r => $('try-sway').setAttribute('aria-pressed', !!r.swaying)); window.dogdepthRoom = room; }
    const mm = Uint16Array.from(now.metres, v => Math.min(65534, Math.round(v * 1000)));
    room.load({mm, width: now.width, height: now.height, camera: now.camera, image: now.canvas, rule: network.about.rule});
    room.welcome();
  } catch (e) { c.hidden = true; $('try-noroom').hidden = false; console.warn(e.message); }
}
const fovOf = c => c ? `${Math.round(2 * Math.atan(c.width / 2 / c.fx) * 180 / Math.PI)}\u00b0` : '';
const fovWords = () => { const d = $('try-fov').value; $('try-fovsay').textContent = `${d}\u00b0`; $('try-fov').setAttribute('aria-valuetext', `${d} degrees`); $('try-lens').textContent = {known: 'The lens of this picture is known.', 'noted by the camera': 'The camera noted its lens in the file.', assumed: 'The file does not say which lens took it, so a usual one is assumed. If sizes look wrong, move this.', yours: `Set by hand; ${fovOf(now?.first)} was ${now?.about.camera ? 'known' : 'the beginning'}.`}[now?.known] || ''; };

function probe(box) {                                // the distance under the pointer, on photo and map alike
  const read = (x, y) => {
    if (!now) return;
    const i = Math.min(now.height - 1, Math.floor(y * now.height)), j = Math.min(now.width - 1, Math.floor(x * now.width)), t = now.about.truth, d = now.metres[i * now.width + j];
    const mm = t ? t.mm[Math.floor(y * t.height) * t.width + Math.floor(x * t.width)] : 0;
    $('try-reading').textContent = `${d.toFixed(2)} m` + (mm ? `, measured ${(mm / 1000).toFixed(2)} m` : '');
    for (const b of document.querySelectorAll('#try .probe')) { b.style.setProperty('--x', `${100 * x}%`); b.style.setProperty('--y', `${100 * y}%`); b.style.setProperty('--seen', .9); }
    box.at = [x, y];
  };
  const at = e => { const r = box.getBoundingClientRect(); read(clamp((e.clientX - r.left) / r.width, 0, .999), clamp((e.clientY - r.top) / r.height, 0, .999)); };
  box.addEventListener('pointermove', at); box.addEventListener('pointerdown', at);
  box.addEventListener('keydown', e => {
    const go = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key]; if (!go) return;
    e.preventDefault(); const [x, y] = box.at || [.5, .5], s = e.shiftKey ? .1 : .02; read(clamp(x + s * go[0], 0, .999), clamp(y + s * go[1], 0, .999));
  });
}

async function sample(name) {
  say('Fetching the sample ...', true);
  try {
    const about = network?.about || await (await fetch(base + 'model.json')).json(), s = about.samples.find(s => s.name === name), [photo, mm] = await Promise.all([fetch(base + s.photo).then(r => r.blob()), fetch(base + s.truth.file).then(r => r.arrayBuffer())]);
    await open(photo, {camera: s.camera, truth: {...s.truth, mm: new Uint16Array(mm)}});
  } catch (e) { say('The sample cannot be fetched: ' + e.message); }
}

for (const b of document.querySelectorAll('[data-sample]')) b.onclick = () => sample(b.dataset.sample);
$('try-file').onchange = e => e.target.files[0] && open(e.target.files[0]);
const drop = $('try-drop');
for (const kind of ['dragenter', 'dragover']) document.addEventListener(kind, e => { e.preventDefault(); drop.classList.add('over'); });
for (const kind of ['dragleave', 'drop']) document.addEventListener(kind, e => { e.preventDefault(); drop.classList.remove('over'); });
document.addEventListener('drop', e => { const f = e.dataTransfer.files[0]; if (f) open(f); });
document.addEventListener('paste', e => { const f = [...e.clipboardData.files].find(f => f.type.startsWith('image/')); if (f) open(f); });
$('try-fov').oninput = () => {                        // another lens: depth goes with the focal length
  if (!now) return;
  const c = fromFov(+$('try-fov').value, now.width, now.height), k = c.fx / now.camera.fx;
  now.metres = now.metres.map(v => v * k); now.camera = {...now.camera, fx: c.fx, fy: now.camera.fy * k}; now.known = 'yours'; fovWords(); colourMap();
  if (now.about.truth) $('try-truth').textContent = compare();
  clearTimeout($('try-fov').later); $('try-fov').later = setTimeout(drawRoom, 250);
};
for (const b of document.querySelectorAll('[data-act]')) b.onclick = () => room?.act(b.dataset.act);
document.querySelectorAll('#try .probe').forEach(probe);
window.dogdepthTry = {get now() { return now; }, get network() { return network; }, open, sample};
fetch(base + 'model.json').then(r => r.json()).then(about => { if (!about.sizes) throw Error(); for (const b of document.querySelectorAll('#try button, #try input')) b.disabled = false; say('Ready: drop a photo anywhere on this page, or choose a sample.'); })
  .catch(() => say('This copy of the site was built without the network, so nothing can be computed here. Build it with npm and the package onnx at hand, or see the page opened over http and not from a file.'));
