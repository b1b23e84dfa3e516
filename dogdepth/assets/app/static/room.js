// A room that turns: depth in metres and a photo become a mesh, cut where depth jumps. WebGL 2, no library.
const VERTEX = `#version 300 es
in vec3 at; in vec2 uv; uniform mat4 view; uniform float stretch; out vec2 where;
void main() { where = uv; gl_Position = view * vec4(at.xy, at.z * stretch, 1.); }`;
const FRAGMENT = `#version 300 es
precision mediump float; in vec2 where; uniform sampler2D photo; out vec4 colour;
void main() { colour = texture(photo, where); }`;
const calm = matchMedia('(prefers-reduced-motion: reduce)');

export function mesh(mm, width, height, camera, {jump, angle, most = 80000}) {
  // Vertices in metres (x right, y down, z forward), texture places and triangles; the same rule as dogdepth.cloud.mesh.
  const s = Math.ceil(Math.sqrt(width * height / most)), w = Math.ceil(width / s), h = Math.ceil(height / s);
  const sx = width / camera.width, sy = height / camera.height, steep = Math.cos(angle * Math.PI / 180);
  const fx = camera.fx * sx, fy = camera.fy * sy, cx = (camera.cx + .5) * sx - .5, cy = (camera.cy + .5) * sy - .5;
  const at = new Float32Array(3 * w * h), uv = new Float32Array(2 * w * h), faces = new Uint32Array(6 * (w - 1) * (h - 1));
  for (let i = 0, k = 0; i < h; i++) for (let j = 0; j < w; j++, k++) {
    const u = j * s, v = i * s, z = mm[v * width + u] / 1000;
    at[3 * k] = (u - cx) / fx * z; at[3 * k + 1] = (v - cy) / fy * z; at[3 * k + 2] = z;
    uv[2 * k] = (u + .5) / width; uv[2 * k + 1] = (v + .5) / height;
  }
  const whole = (a, b, c) => {
    const za = at[3 * a + 2], zb = at[3 * b + 2], zc = at[3 * c + 2], near = Math.min(za, zb, zc);
    if (!(near > 0) || Math.max(za, zb, zc) - near > jump * near) return false;
    const xa = at[3 * a], ya = at[3 * a + 1], xb = at[3 * b], yb = at[3 * b + 1], xc = at[3 * c], yc = at[3 * c + 1];
    const nx = (yb - ya) * (zc - za) - (zb - za) * (yc - ya), ny = (zb - za) * (xc - xa) - (xb - xa) * (zc - za), nz = (xb - xa) * (yc - ya) - (yb - ya) * (xc - xa);
    const mx = xa + xb + xc, my = ya + yb + yc, mz = za + zb + zc;
    return Math.abs(nx * mx + ny * my + nz * mz) >= steep * Math.sqrt((nx * nx + ny * ny + nz * nz) * (mx * mx + my * my + mz * mz));
  };
  let f = 0;
  for (let i = 0; i < h - 1; i++) for (let j = 0; j < w - 1; j++) {
    const a = i * w + j, b = a + 1, c = a + w, d = c + 1;
    if (whole(a, c, b)) { faces[f++] = a; faces[f++] = c; faces[f++] = b; }
    if (whole(b, c, d)) { faces[f++] = b; faces[f++] = c; faces[f++] = d; }
  }
  return {at, uv, faces: faces.subarray(0, f)};
}

export class Room {
  constructor(canvas, told = () => {}) {
    this.canvas = canvas; this.told = told;
    this.gl = canvas.getContext('webgl2', {antialias: true, alpha: false});
    if (!this.gl) throw Error('no WebGL 2');
    this.prepare();
    canvas.addEventListener('webglcontextlost', e => e.preventDefault());
    canvas.addEventListener('webglcontextrestored', () => { this.prepare(); if (this.scene) this.fill(); });
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.listen(); this.home();
  }
  prepare() {
    const gl = this.gl, program = this.program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const s = gl.createShader(kind); gl.shaderSource(s, text); gl.compileShader(s); gl.attachShader(program, s);
    }
    gl.linkProgram(program); gl.useProgram(program); gl.enable(gl.DEPTH_TEST);
    this.buffers = [0, 1, 2].map(() => gl.createBuffer()); this.texture = gl.createTexture();
  }
  load(scene, keep = false) {               // {mm, width, height, camera, image, rule}; keep: stay where we stand
    this.stop(); this.scene = scene; this.stretch = 1; this.camera = scene.camera;
    const some = scene.mm.filter((d, i) => d && i % 97 === 0).sort();
    this.far = (some[some.length >> 1] || 2000) / 1000;
    this.fill(); if (!keep) this.home();
    this.paint();
  }
  fill() {
    const gl = this.gl, s = this.scene, {at, uv, faces} = mesh(s.mm, s.width, s.height, s.camera, s.rule);
    for (const [k, name, data, n] of [[0, 'at', at, 3], [1, 'uv', uv, 2]]) {
      const place = gl.getAttribLocation(this.program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[k]); gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place); gl.vertexAttribPointer(place, n, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers[2]); gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    gl.bindTexture(gl.TEXTURE_2D, this.texture); gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, s.image);
    for (const [p, v] of [[gl.TEXTURE_MIN_FILTER, gl.LINEAR], [gl.TEXTURE_MAG_FILTER, gl.LINEAR], [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE]]) gl.texParameteri(gl.TEXTURE_2D, p, v);
    this.count = faces.length;
  }
  lens(camera) {                            // another focal length: depth goes with it, width and height stay
    if (!this.scene) return;
    this.stretch = camera.fx / this.scene.camera.fx; this.camera = camera; this.draw();
  }
  home() { Object.assign(this, {yaw: 0, pitch: 0, zoom: 1, x: 0, y: 0}); }
  view() {                                  // column-major: camera frame to clip space
    const c = this.camera, far = this.far * this.stretch, r = far * this.zoom;
    const [sa, ca, sb, cb] = [Math.sin(this.yaw), Math.cos(this.yaw), -Math.sin(this.pitch), Math.cos(this.pitch)];
    const right = [ca, 0, -sa], down = [sa * sb, cb, ca * sb], ahead = [sa * cb, -sb, ca * cb];
    const eye = [0, 1, 2].map(q => -ahead[q] * r + right[q] * this.x + down[q] * this.y + (q === 2 ? far : 0));
    const fit = Math.min(this.canvas.width / c.width, this.canvas.height / c.height);
    const px = 2 * c.fx * fit / this.canvas.width, py = 2 * c.fy * fit / this.canvas.height;
    const ox = (c.cx - (c.width - 1) / 2) * 2 * fit / this.canvas.width, oy = (c.cy - (c.height - 1) / 2) * 2 * fit / this.canvas.height;
    const near = .02 * far, end = 40 * far, A = (end + near) / (end - near), B = -2 * end * near / (end - near);
    const dot = v => -(v[0] * eye[0] + v[1] * eye[1] + v[2] * eye[2]), rows = [[right, dot(right)], [down, dot(down)], [ahead, dot(ahead)]];
    const col = k => rows.map(([v, t]) => k < 3 ? v[k] : t), m = new Float32Array(16);
    for (let k = 0; k < 4; k++) {
      const [X, Y, Z] = col(k);
      m.set([px * X + ox * Z, -(py * Y + oy * Z), A * Z + (k === 3 ? B : 0), Z], 4 * k);
    }
    return m;
  }
  draw() { if (!this.asked) this.asked = requestAnimationFrame(() => { this.asked = 0; this.paint(); }); }
  paint() {
    const gl = this.gl, c = this.canvas, q = Math.min(devicePixelRatio || 1, 2), w = Math.round(c.clientWidth * q), h = Math.round(c.clientHeight * q);
    if (!w || !h || !this.scene) return;
    if (c.width !== w || c.height !== h) { c.width = w; c.height = h; }
    gl.viewport(0, 0, w, h); gl.clearColor(.063, .082, .11, 1); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(gl.getUniformLocation(this.program, 'view'), false, this.view());
    gl.uniform1f(gl.getUniformLocation(this.program, 'stretch'), this.stretch);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
    c.dataset.pose = [this.yaw, this.pitch, this.zoom, this.x, this.y].map(n => n.toFixed(3)).join(' ');
  }
  turn(yaw, pitch) { this.yaw += yaw; this.pitch = Math.max(-1.4, Math.min(1.4, this.pitch + pitch)); this.draw(); }
  walk(factor) { this.zoom = Math.max(.08, Math.min(6, this.zoom * factor)); this.draw(); }
  shift(x, y) { const r = this.far * this.stretch * this.zoom; this.x += x * r; this.y += y * r; this.draw(); }
  act(what) {
    if (!this.scene) return;
    if (what === 'sway') return this.swaying ? this.stop() : this.sway();
    this.stop();
    const does = {left: () => this.turn(-.1, 0), right: () => this.turn(.1, 0), up: () => this.turn(0, .08), down: () => this.turn(0, -.08), in: () => this.walk(.88), out: () => this.walk(1.14),
      a: () => this.shift(-.05, 0), d: () => this.shift(.05, 0), w: () => this.shift(0, -.05), s: () => this.shift(0, .05), reset: () => { this.home(); this.draw(); }};
    does[what](); this.told(this);
  }
  sway(times = Infinity) {                  // to both sides and back, `times` times
    const from = {yaw: this.yaw, pitch: this.pitch}, start = performance.now();
    const step = now => {
      const t = Math.max(0, now - start) / 6500;
      if (t >= times) { Object.assign(this, from); this.draw(); return this.stop(); }
      this.yaw = from.yaw + .34 * Math.sin(2 * Math.PI * t); this.pitch = from.pitch + .07 * (1 - Math.cos(2 * Math.PI * t)); this.draw();
      if (this.swaying) this.swaying = requestAnimationFrame(step);
    };
    this.swaying = requestAnimationFrame(step); this.told(this);
  }
  welcome() { if (!calm.matches) this.sway(1); }
  stop() { if (this.swaying) { cancelAnimationFrame(this.swaying); this.swaying = 0; this.told(this); } }
  listen() {
    const c = this.canvas, held = new Map();
    const keys = {ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'up', ArrowDown: 'down', '+': 'in', '=': 'in', '-': 'out', 0: 'reset', ' ': 'sway', w: 'w', a: 'a', s: 's', d: 'd'};
    c.addEventListener('keydown', e => { const what = keys[e.key]; if (what && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); this.act(what); } });
    c.addEventListener('pointerdown', e => { this.stop(); held.set(e.pointerId, e); c.setPointerCapture(e.pointerId); c.focus({focusVisible: false, preventScroll: true}); });
    c.addEventListener('pointermove', e => {
      const was = held.get(e.pointerId); if (!was) return;
      const dx = e.clientX - was.clientX, dy = e.clientY - was.clientY, size = c.clientWidth;
      if (held.size > 1) {
        const other = [...held.values()].find(p => p.pointerId !== e.pointerId), apart = p => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
        this.walk(apart(was) / Math.max(20, apart(e))); this.shift(-dx / size / 2, -dy / size / 2);
      } else if (e.shiftKey || e.buttons & 2) this.shift(-dx / size, -dy / size);
      else this.turn(dx / size * 2.6, dy / size * 2.6);
      held.set(e.pointerId, e);
    });
    for (const end of ['pointerup', 'pointercancel']) c.addEventListener(end, e => held.delete(e.pointerId));
    c.addEventListener('contextmenu', e => e.preventDefault());
    c.addEventListener('wheel', e => { if (document.activeElement === c) { e.preventDefault(); this.stop(); this.walk(Math.exp(e.deltaY * .0012)); } }, {passive: false});
  }
}
