// The page: photos go up, depth comes back once and is read here; nothing comes from anywhere else.
import {Room} from './room.js';

const $ = id => document.getElementById(id);
const settings = JSON.parse(document.body.dataset.settings), words = settings.words;
const token = document.querySelector('meta[name=csrf-token]').content;
const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, k) => values[k]);
const number = (x, digits) => x.toLocaleString(settings.lang, {minimumFractionDigits: digits, maximumFractionDigits: digits});
const size = n => n < 1e6 ? say('kb', {n: number(Math.max(1, n / 1000), 0)}) : say('mb', {n: number(n / 1e6, 1)});
const root = new URL('../', import.meta.url).href;   // where the page lives, whatever folder a proxy put it in
const api = (...path) => `${root}api/${path.join('/')}`, file = (it, kind) => api('items', it.about.id, 'files', kind);
const pause = ms => new Promise(r => setTimeout(r, ms));

const items = new Map();                    // id -> {about, n, tile, mm, image}
let shown = null, count = 0, room = null, turn = 0;   // turn: how many things a person has asked for

// --- telling

function status(text) { $('status').textContent = text; }
function complain(text) {
  const p = document.createElement('p'), b = document.createElement('button');
  p.textContent = text; b.type = 'button'; b.textContent = words.close; b.onclick = () => p.remove();
  p.append(b); p.dataset.turn = turn; $('alerts').append(p);
  while ($('alerts').children.length > 3) $('alerts').firstChild.remove();
}
function settled(since) {                   // something went well: complaints about what was tried before it are old news
  for (const p of [...$('alerts').children]) if (Number(p.dataset.turn) < since) p.remove();
}

async function ask(path, options = {}) {
  let r;
  try { r = await fetch(path, {...options, headers: {'X-CSRF-Token': token, 'Accept-Language': settings.lang, ...options.headers}}); }
  catch { throw Error(words.offline); }
  if (!r.ok) { const said = await r.json().catch(() => ({})); throw Object.assign(Error(said.message || r.statusText), {status: r.status}); }
  return r;
}

document.documentElement.classList.toggle('touch', navigator.maxTouchPoints > 0);

// --- photos go up

const line = [];
async function take(files) {
  for (const f of files) line.push(f);
  if (take.busy) return;
  take.busy = true; turn++;
  while (line.length) await send(line.shift());
  take.busy = false;
}

async function send(file) {
  const mb = file.size / 1e6;
  const name = file.name || words.unnamed;
  if (mb > settings.upload_mb) return complain(say('too_large', {name, mb: number(mb, 0), most: settings.upload_mb}));
  const form = new FormData(); form.append('photo', file, file.name || 'photo.jpg');
  status(say('sending', {name}));
  const sent = performance.now();
  try {
    const about = await (await ask(api('predict'), {method: 'POST', body: form})).json();
    status(say('sent', {name}));
    const it = add(about); it.sent = sent; it.name = name; it.turn = turn; show(it); follow(it);
  } catch (e) { status(''); complain(say('refused', {name, why: e.message})); }
}

function add(about) {
  const li = document.createElement('li'), b = document.createElement('button'), img = document.createElement('img');
  const it = {about, n: ++count, tile: b, li};
  b.type = 'button'; b.className = 'thumb'; b.onclick = () => show(it);
  img.src = file(it, 'photo'); img.alt = ''; b.append(img); li.append(b); $('strip').append(li);
  items.set(about.id, it); mark(it); layout();
  return it;
}

const named = it => it.name || say('item', {n: it.n, w: it.about.camera.width, h: it.about.camera.height});

function mark(it) {                         // the tile says how its photo is doing
  const {state, camera} = it.about, b = it.tile;
  b.setAttribute('aria-label', say('item', {n: it.n, w: camera.width, h: camera.height}) + (state === 'done' ? '' : ', ' + (words[state] || state)));
  b.setAttribute('aria-current', String(it === shown));
  b.querySelector('.dot, .sad')?.remove();
  if (state === 'done') return;
  const s = document.createElement('span');
  s.className = ['waiting', 'working'].includes(state) ? 'dot' : 'sad'; s.textContent = s.className === 'sad' ? '!' : '';
  b.append(s);
}

function layout() {
  document.body.classList.toggle('busy', items.size > 0);
  $('yours').hidden = $('stage').hidden = !items.size;
}

async function follow(it) {                 // until its depth and all its files are made
  if (it.followed) return;
  it.followed = true;
  for (let wait = 120; items.has(it.about.id); wait = Math.min(700, wait * 1.3)) {
    const pending = ['waiting', 'working'], files = Object.values(it.about.files).filter(f => pending.includes(f.state));
    if (!pending.includes(it.about.state) && !files.length) break;
    await pause(pending.includes(it.about.state) ? 60 : wait);
    try { update(it, await (await ask(api('items', it.about.id) + (pending.includes(it.about.state) ? '?wait=5' : ''))).json()); }
    catch (e) { if (e.status === 404) { forget(it); status(words.gone); } else await pause(1500); }
  }
  it.followed = false;
}

function update(it, about) {
  const before = it.about; it.about = about; mark(it);
  if (about.state === 'done' && (before.state !== 'done' || !it.mm)) { it.mm = null; if (it === shown) open(it); }
  else if (it === shown) { waiting(it); files(it); }
  if (about.state === 'failed' && before.state !== 'failed') complain(say('failed', {name: named(it), why: about.files.depth.message || ''}));
  for (const [kind, f] of Object.entries(about.files)) {
    if (f.state === 'failed' && before.files[kind].state !== 'failed' && !['depth', 'grid'].includes(kind)) complain(say('refused', {name: named(it), why: f.message}));
    if (f.state === 'done' && it.wanted?.delete(kind)) { status(say('made', {what: $('name-' + kind).textContent})); settled(it.turn); if (kind !== 'video') download(it, kind); }
  }
}

function forget(it) {
  const after = it.li.nextElementSibling || it.li.previousElementSibling;
  items.delete(it.about.id); it.li.remove(); layout();
  if (it !== shown) return;
  shown = null; $('video').removeAttribute('src'); room?.stop();
  if (after) { after.firstChild.focus(); after.firstChild.click(); } else $('file').focus();
}

// --- one photo on the stage

function show(it) {
  if (shown === it) return;
  shown = it; items.forEach(mark); it.tile.scrollIntoView({block: 'nearest', inline: 'nearest'});
  const {width, height} = it.about.camera;
  document.querySelectorAll('.frame').forEach(f => f.style.setProperty('--shape', `${width} / ${height}`));
  $('photo').src = file(it, 'photo'); $('photo').alt = say('item', {n: it.n, w: width, h: height});
  $('near').textContent = $('far').textContent = ''; $('bar').style.background = ''; unread(); clear();
  lens(it.about.camera); waiting(it); files(it); notes(it);
  if (it.about.state === 'done') open(it);
}

function clear() {
  const c = $('colours'); c.width = c.height = 1;
  if (room) { room.scene = null; room.stop(); const gl = room.gl; gl.clearColor(.063, .082, .11, 1); gl.clear(gl.COLOR_BUFFER_BIT); }
}

function waiting(it) {
  const s = it.about.state;
  $('finding').hidden = s === 'done' || !(s in words);
  $('finding').querySelector('.spinner').hidden = !['waiting', 'working'].includes(s);
  $('finding-text').textContent = s === 'failed' ? it.about.files.depth.message : words[s] || '';
}

async function open(it) {                   // fetch the depth once, then everything happens here
  const again = Boolean(it.image);
  try {
    if (!it.mm) {
      const [bytes, image] = await Promise.all([ask(file(it, 'grid')).then(r => r.arrayBuffer()), it.image || picture(file(it, 'photo'))]);
      it.mm = new Uint16Array(bytes); it.image = image;   // little endian, as every browser's machine is
    }
  } catch (e) { return complain(e.message || words.offline); }
  if (it !== shown) return;
  const {width, height, near_m, far_m} = it.about.depth;
  colour(it); waiting(it); files(it); lens(it.about.camera); notes(it); settled(it.turn);
  $('near').textContent = say('metres', {d: number(near_m, 1)}); $('far').textContent = say('metres', {d: number(far_m, 1)});
  $('bar').style.background = `linear-gradient(90deg, ${TURBO.map(c => '#' + c)})`;
  status(say('ready', {near: number(near_m, 1), far: number(far_m, 1)}));
  if (!room) return;
  const still = again && room.scene?.id === it.about.id;
  room.load({id: it.about.id, mm: it.mm, width, height, camera: it.about.camera, image: it.image, rule: settings.rule}, still);
  room.canvas.dataset.ready = it.about.id; performance.measure('room', {start: it.sent || 0});
  if (!again) room.welcome();
}

const picture = url => new Promise((ok, no) => { const i = new Image(); i.onload = () => ok(i); i.onerror = () => no(Error(words.offline)); i.src = url; });

const TURBO = '30123b 3b2f80 434eba 466be3 4685fa 3ba0fd 28bceb 1ad2d2 1ae4b6 32f298 55fa76 80ff53 a4fc3c bef434 d9e436 eecf3a faba39 fe9e2f fb7e21 f26014 e4450a d02f05 b91e02 9b0f01 7a0403'.split(' '); // Mikhailov 2019, as matplotlib has it
const LUT = Uint32Array.from({length: 256}, (_, k) => {   // 256 colours between the stops, as ABGR
  const t = k / 255 * (TURBO.length - 1), a = Math.min(TURBO.length - 2, t | 0), at = (i, c) => parseInt(TURBO[i].slice(2 * c, 2 * c + 2), 16);
  return [0, 1, 2].reduce((all, c) => all + Math.round(at(a, c) + (at(a + 1, c) - at(a, c)) * (t - a)) * 2 ** (8 * c), 0xff000000);
});

function colour(it) {
  const {width, height, near_m, far_m} = it.about.depth, c = $('colours'), g = c.getContext('2d');
  c.width = width; c.height = height;
  const px = g.createImageData(width, height), lo = 1000 * near_m, k = 255 / Math.max(1, 1000 * (far_m - near_m));
  const out = new Uint32Array(px.data.buffer);
  for (let i = 0; i < it.mm.length; i++) out[i] = it.mm[i] ? LUT[Math.max(0, Math.min(255, Math.round((it.mm[i] - lo) * k)))] : 0xff999999;
  g.putImageData(px, 0, 0);
}

function side(depth) {
  $('colours').classList.toggle('seen', depth);
  $('show-depth').setAttribute('aria-pressed', String(depth)); $('show-photo').setAttribute('aria-pressed', String(!depth));
}
$('show-photo').onclick = () => side(false); $('show-depth').onclick = () => side(true);

// --- the cross reads metres

const cross = {x: .5, y: .5};
function read() {
  const it = shown; if (!it?.mm) return;
  const {width, height, near_m, far_m} = it.about.depth, stretch = preview(it);
  const i = Math.min(height - 1, Math.floor(cross.y * height)), j = Math.min(width - 1, Math.floor(cross.x * width)), d = it.mm[i * width + j] / 1000 * stretch;
  const box = $('probe'), out = $('reading'), w = box.clientWidth, h = box.clientHeight;
  box.classList.add('reading');
  box.querySelector('.across').style.top = `${100 * cross.y}%`; box.querySelector('.down').style.left = `${100 * cross.x}%`;
  out.textContent = d ? say('metres', {d: number(d, 2)}) : words.none;
  const x = cross.x * w, y = cross.y * h, left = x > w - 100 ? x - 12 - out.offsetWidth : x + 12, top = y < 46 ? y + 12 : y - 12 - out.offsetHeight;
  out.style.transform = `translate(${left}px, ${top}px)`;
  $('tick').style.left = `${100 * Math.max(0, Math.min(1, (d / stretch - near_m) / Math.max(.001, far_m - near_m)))}%`; $('tick').style.opacity = d ? 1 : 0;
}
function unread() { $('probe').classList.remove('reading'); $('tick').style.opacity = 0; }
{
  const box = $('probe'), most = .9999, within = v => Math.min(most, Math.max(0, v));
  const at = e => { const r = box.getBoundingClientRect(); cross.x = within((e.clientX - r.left) / r.width); cross.y = within((e.clientY - r.top) / r.height); read(); };
  box.addEventListener('pointermove', at); box.addEventListener('pointerdown', at);
  box.addEventListener('pointerleave', e => e.pointerType === 'mouse' && !box.matches(':focus-visible') && unread());
  box.addEventListener('focus', () => box.matches(':focus-visible') && read());
  box.addEventListener('blur', unread);
  box.addEventListener('keydown', e => {
    const go = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key];
    if (!go) return;
    e.preventDefault(); const s = e.shiftKey ? .1 : .02;
    cross.x = within(cross.x + s * go[0]); cross.y = within(cross.y + s * go[1]); read();
  });
}

// --- the room

try {
  room = new Room($('room'), r => {
    const b = document.querySelector('[data-do=sway]'); b.setAttribute('aria-pressed', String(Boolean(r.swaying)));
    clearTimeout(room?.later);
    if (room && !r.swaying && document.activeElement === $('room')) room.later = setTimeout(() => status(say('moved', {yaw: Math.round(r.yaw * 57.3), pitch: Math.round(r.pitch * 57.3)})), 700);
  });
} catch { $('no-room').textContent = words.nogl; $('no-room').hidden = false; }
for (const b of document.querySelectorAll('[data-do]')) b.onclick = () => room?.act(b.dataset.do);

// --- the lens

const focal = (fov, width) => width / 2 / Math.tan(fov * Math.PI / 360);
const preview = it => !it.slid ? 1 : focal(it.slid, it.about.camera.width) / it.about.camera.fx;
function lens(camera) {
  $('fov').value = camera.fov_deg; $('fov-value').textContent = say('degrees', {d: number(camera.fov_deg, 0)});
  $('lens').textContent = words['lens_' + camera.lens]; $('fov-auto').disabled = camera.lens !== 'given';
}
$('fov').addEventListener('input', () => {
  const it = shown, c = it?.about.camera; if (!c) return;
  it.slid = Number($('fov').value); $('fov-value').textContent = say('degrees', {d: number(it.slid, 0)});
  const f = focal(it.slid, c.width); room?.lens({...c, fx: f, fy: f});
});
async function look(fov) {
  const it = shown; if (!it) return;
  it.turn = ++turn;
  try {
    const about = await (await ask(api('items', it.about.id), {method: 'PATCH', body: JSON.stringify({fov}), headers: {'Content-Type': 'application/json'}})).json();
    it.slid = null; if (about.state !== 'done') it.about = {...it.about, state: 'waiting'}; else it.mm = null;
    update(it, about); follow(it);
  } catch (e) { it.slid = null; lens(it.about.camera); complain(e.message); }
}
$('fov').addEventListener('change', () => look(Number($('fov').value)));
$('fov-auto').onclick = () => look(null);

function notes(it) {                        // what the library had to say about this photo
  $('notes').replaceChildren(...(it.about.notes || []).map(n => Object.assign(document.createElement('li'), {textContent: n.message})));
  $('notes').hidden = !$('notes').children.length;
}

// --- files to take along

function files(it) {
  for (const li of document.querySelectorAll('.files li')) {
    const kind = li.dataset.kind, f = it.about.files[kind], busy = kind !== 'depth' && ['waiting', 'working'].includes(f.state), get = li.querySelector('.get');
    li.querySelector('progress').hidden = !busy; li.querySelector('.stop').hidden = !busy; get.hidden = busy;
    if (busy) li.querySelector('progress').value = f.progress;
    get.disabled = it.about.state !== 'done'; get.textContent = f.state === 'done' || kind !== 'video' ? words.download : words.make;
    li.querySelector('.size').textContent = f.bytes ? size(f.bytes) : '';
  }
  const v = $('video'), film = it.about.files.video, ready = film.state === 'done';
  v.hidden = !ready;
  if (!ready) v.removeAttribute('src');
  else { const src = `${file(it, 'video')}?v=${film.bytes}`; if (v.getAttribute('src') !== src) { v.src = src; v.play().catch(() => {}); } }
}

function download(it, kind) {
  const a = document.createElement('a'); a.href = file(it, kind) + '?save'; a.download = '';
  document.body.append(a); a.click(); a.remove();
}

for (const li of document.querySelectorAll('.files li')) {
  const kind = li.dataset.kind;
  li.querySelector('.get').onclick = async () => {
    const it = shown; if (!it) return;
    it.turn = ++turn;
    if (it.about.files[kind].state === 'done') { settled(turn); return download(it, kind); }
    (it.wanted ??= new Set()).add(kind); status(say('making', {what: $('name-' + kind).textContent}));
    try { update(it, await (await ask(file(it, kind), {method: 'POST'})).json()); follow(it); li.querySelector('.stop').focus(); }
    catch (e) { it.wanted.delete(kind); complain(say('refused', {name: named(it), why: e.message})); }
  };
  li.querySelector('.stop').onclick = async () => {
    const it = shown; it.wanted?.delete(kind);
    try { update(it, await (await ask(file(it, kind), {method: 'DELETE'})).json()); li.querySelector('.get').focus(); } catch (e) { complain(e.message); }
  };
}

$('delete').onclick = async () => {
  const it = shown; if (!it) return;
  try { await ask(api('items', it.about.id), {method: 'DELETE'}); } catch (e) { if (e.status !== 404) return complain(e.message); }
  forget(it); settled(++turn); status(words.deleted);
};

// --- ways in: choose, take, drop, paste, sample

for (const id of ['file', 'camera']) $(id).addEventListener('change', e => { take([...e.target.files]); e.target.value = ''; });
for (const b of document.querySelectorAll('[data-sample]')) b.onclick = async () => {
  try { take([new File([await (await ask(`${root}sample/${b.dataset.sample}.jpg`)).blob()], b.innerText.trim(), {type: 'image/jpeg'})]); } catch (e) { complain(e.message); }
};
let over = 0;
const carries = e => [...(e.dataTransfer?.types || [])].includes('Files');
addEventListener('dragenter', e => { if (carries(e)) { over++; $('drop').classList.add('over'); } });
addEventListener('dragleave', e => { if (carries(e) && --over <= 0) { over = 0; $('drop').classList.remove('over'); } });
addEventListener('dragover', e => { if (carries(e)) e.preventDefault(); });
addEventListener('drop', e => { if (carries(e)) { e.preventDefault(); over = 0; $('drop').classList.remove('over'); take([...e.dataTransfer.files]); } });
addEventListener('paste', e => { const f = [...(e.clipboardData?.files || [])]; if (f.length) { e.preventDefault(); take(f); } });

// --- what is still here from before

try {
  for (const about of (await (await ask(api('items'))).json()).items) follow(add(about));
  if (items.size) show([...items.values()].at(-1));
} catch (e) { complain(e.message); }
document.documentElement.dataset.ready = 'yes';
