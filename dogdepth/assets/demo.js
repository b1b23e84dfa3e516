// Rooms that turn, and a cross that reads metres. No library but the plotly.min.js beside the page.
'use strict';
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const calm = matchMedia('(prefers-reduced-motion: reduce)');

function colours() {                       // Plotly in the colours of the page, light or dark
  const look = {};
  for (const k of ['xaxis', 'yaxis', 'zaxis'])
    Object.assign(look, {[`scene.${k}.gridcolor`]: css('--line'), [`scene.${k}.color`]: css('--soft')});
  return {...look, paper_bgcolor: 'rgba(0,0,0,0)', 'scene.bgcolor': css('--card'), 'font.color': css('--soft')};
}

class Room {                               // one point cloud: drawn when it comes into view
  constructor(section) {
    this.box = section.querySelector('.room');
    this.data = section.querySelector('.room-data');
    this.swing = section.querySelector('[data-do=swing]');
    for (const b of section.querySelectorAll('[data-do]')) b.onclick = () => this.act(b.dataset.do);
    this.box.addEventListener('keydown', e => {
      const what = {ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'up', ArrowDown: 'down', '+': 'in', '=': 'in', '-': 'out', 0: 'reset', ' ': 'swing'}[e.key];
      if (what && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); this.act(what); }
    });
    this.box.addEventListener('pointerdown', () => this.stop());
  }
  async draw() {
    if (this.drawn) return this.drawn;
    return this.drawn = (async () => {
      const fig = JSON.parse(this.data.textContent);
      this.home = fig.layout.scene.camera;
      delete fig.layout.height; fig.layout.autosize = true;
      try {
        await Plotly.newPlot(this.box, fig.data, fig.layout, {responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: false});
        await Plotly.relayout(this.box, colours());
        this.box.querySelector('.waiting')?.remove();
        if (!this.box.querySelector('canvas')) throw Error('no WebGL');
        this.ready = true;
        if (!calm.matches) this.move(1);
      } catch (e) { this.box.innerHTML = '<p class="waiting">This browser cannot draw 3D here. The GLB file below opens in any 3D viewer.</p>'; }
    })();
  }
  camera() { return this.box.layout.scene.camera; }
  look(camera) { return Plotly.relayout(this.box, {'scene.camera': camera}); }
  turned(c, yaw, pitch, zoom = 1) {        // the eye on its sphere around the centre, in radians
    const v = {x: c.eye.x - c.center.x, y: c.eye.y - c.center.y, z: c.eye.z - c.center.z};
    const r = Math.hypot(v.x, v.y, v.z), a = Math.atan2(v.y, v.x) + yaw, b = Math.max(-1.4, Math.min(1.4, Math.asin(v.z / r) + pitch)), q = r * zoom;
    return {...c, eye: {x: c.center.x + q * Math.cos(b) * Math.cos(a), y: c.center.y + q * Math.cos(b) * Math.sin(a), z: c.center.z + q * Math.sin(b)}};
  }
  act(what) {
    if (!this.ready) return;
    if (what === 'swing') return this.frame ? this.stop() : this.move(Infinity);
    this.stop();
    if (what === 'reset') return this.look(this.home);
    const [yaw, pitch, zoom] = {left: [-.12, 0, 1], right: [.12, 0, 1], up: [0, .1, 1], down: [0, -.1, 1], in: [0, 0, .85], out: [0, 0, 1.18]}[what];
    return this.look(this.turned(this.camera(), yaw, pitch, zoom));
  }
  move(times) {                            // swing to both sides and come back, `times` times
    const from = this.camera(), start = performance.now(), period = 6000;
    this.swing.setAttribute('aria-pressed', 'true');
    const step = async now => {
      const t = Math.max(0, now - start) / period;
      if (t >= times) { await this.look(from); return this.stop(); }
      await this.look(this.turned(from, .38 * Math.sin(2 * Math.PI * t), .12 * (1 - Math.cos(2 * Math.PI * t)) / 2, 1));
      if (this.frame) this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }
  stop() { cancelAnimationFrame(this.frame); this.frame = 0; this.swing.setAttribute('aria-pressed', 'false'); }
}

function probe(section) {                  // the distance under the pointer, on the photo and its depth map alike
  const {height, width, mm} = JSON.parse(section.querySelector('.depth-data').textContent);
  const bytes = Uint8Array.from(atob(mm), c => c.charCodeAt(0)), depth = new DataView(bytes.buffer);
  const boxes = [...section.querySelectorAll('.probe')], reading = section.querySelector('.reading');
  let x = .5, y = .5;
  const show = seen => {
    const i = Math.min(height - 1, Math.floor(y * height)), j = Math.min(width - 1, Math.floor(x * width));
    const d = depth.getUint16(2 * (i * width + j), true) / 1000;
    for (const b of boxes) { b.style.setProperty('--x', `${100 * x}%`); b.style.setProperty('--y', `${100 * y}%`); b.style.setProperty('--seen', seen ? .9 : 0); }
    reading.textContent = seen ? (d ? `${d.toFixed(2)} m` : 'no reading') : '';
  };
  for (const b of boxes) {
    const at = e => { const r = b.getBoundingClientRect(); x = Math.min(.999, Math.max(0, (e.clientX - r.left) / r.width)); y = Math.min(.999, Math.max(0, (e.clientY - r.top) / r.height)); show(true); };
    b.addEventListener('pointermove', at); b.addEventListener('pointerdown', at);
    b.addEventListener('pointerleave', () => show(document.activeElement === b && b.matches(':focus-visible')));
    b.addEventListener('focus', () => b.matches(':focus-visible') && show(true));
    b.addEventListener('blur', () => show(false));
    b.addEventListener('keydown', e => {
      const go = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key];
      if (!go) return;
      e.preventDefault(); const s = e.shiftKey ? .1 : .02;
      x = Math.min(.999, Math.max(0, x + s * go[0])); y = Math.min(.999, Math.max(0, y + s * go[1])); show(true);
    });
  }
}

addEventListener('DOMContentLoaded', () => {
  const rooms = new Map();
  for (const s of document.querySelectorAll('.photo')) { probe(s); const r = new Room(s); rooms.set(r.box, r); }
  const seen = new IntersectionObserver(es => es.forEach(e => { if (e.isIntersecting) { seen.unobserve(e.target); rooms.get(e.target).draw(); } }), {rootMargin: '300px'});
  for (const box of rooms.keys()) seen.observe(box);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => rooms.forEach(r => r.ready && Plotly.relayout(r.box, colours())));
});
