// What the pages do by themselves: figures that turn when they come into view, maths, the skip link. No library but those beside this file.
'use strict';
window.dogdepth = (() => {
  const root = document.documentElement.dataset.root || './';
  const loaded = new Map();
  const script = src => {                            // load a script once
    if (!loaded.has(src)) loaded.set(src, new Promise((yes, no) => {
      const s = document.createElement('script'); s.src = root + src; s.onload = yes; s.onerror = () => no(Error('cannot load ' + src)); document.head.append(s);
    }));
    return loaded.get(src);
  };
  const dark = () => document.documentElement.classList.contains('quarto-dark') || document.body.classList.contains('quarto-dark');
  const css = name => getComputedStyle(document.body).getPropertyValue(name).trim();
  const webgl = (() => { let known; return () => known ??= (() => { try { const c = document.createElement('canvas'); return !!(c.getContext('webgl2') || c.getContext('webgl')); } catch { return false; } })(); })();
  const make = (tag, attrs = {}, text = '') => { const e = document.createElement(tag); for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v); e.textContent = text; return e; };

  // ---- how high the header is, for the panel of chapters that opens below it on a phone
  const head = document.getElementById('quarto-header');
  const measure = () => head && document.documentElement.style.setProperty('--head', head.offsetHeight + 'px');
  measure(); addEventListener('resize', measure); addEventListener('load', measure);

  // ---- figures
  const waiting = new Map();                         // file -> what to do with its description
  const figure = (tag, description) => waiting.get(tag.getAttribute('src').slice(root.length))?.(description);

  function colours(layout) {                         // Plotly in the colours of the page, light or dark
    const line = css('--line'), soft = css('--soft'), look = {paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', 'font.color': soft};
    for (const k of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(k)) Object.assign(look, {[k + '.gridcolor']: line, [k + '.linecolor']: line, [k + '.zerolinecolor']: line, [k + '.color']: soft});
      if (/^scene\d*$/.test(k)) {
        look[k + '.bgcolor'] = 'rgba(0,0,0,0)';
        for (const a of ['xaxis', 'yaxis', 'zaxis']) Object.assign(look, {[`${k}.${a}.gridcolor`]: line, [`${k}.${a}.color`]: soft, [`${k}.${a}.backgroundcolor`]: 'rgba(0,0,0,0)'});
      }
    }
    return look;
  }

  function turned(c, yaw, pitch, zoom) {             // Plotly's eye on its sphere around the centre, in radians
    const m = {x: 0, y: 0, z: 0, ...c.center}, e = {x: 1.25, y: 1.25, z: 1.25, ...c.eye}, v = {x: e.x - m.x, y: e.y - m.y, z: e.z - m.z};
    const r = Math.hypot(v.x, v.y, v.z), a = Math.atan2(v.y, v.x) + yaw, b = Math.max(-1.45, Math.min(1.45, Math.asin(v.z / r) + pitch)), q = r * zoom;
    return {...c, eye: {x: m.x + q * Math.cos(b) * Math.cos(a), y: m.y + q * Math.cos(b) * Math.sin(a), z: m.z + q * Math.sin(b)}};
  }

  class Figure {
    constructor(box) { this.box = box; this.still = box.querySelector('img'); this.solid = box.classList.contains('solid'); }
    describe() {
      return new Promise((yes, no) => { waiting.set(this.box.dataset.figure, yes); script(this.box.dataset.figure).catch(no); });
    }
    async draw() {
      if (this.solid && !webgl()) return this.say('This browser cannot draw in 3D: here is a still picture instead.');
      try {
        const [fig] = await Promise.all([this.describe(), script('site/plotly.min.js')]);
        await this.plot(fig);
      } catch (e) { this.say('The figure could not be drawn: here is a still picture instead.'); console.warn(e.message); }
    }
    async plot(fig) {
      const {sliders, updatemenus, ...layout} = fig.layout, narrow = this.box.clientWidth < 520;
      delete layout.width; layout.autosize = true;
      layout.height = narrow && this.solid ? Math.min(layout.height || 440, Math.round(this.box.clientWidth * .85)) : layout.height;
      this.plotBox = make('div', {class: 'plot'}); this.box.append(this.plotBox);
      if (this.solid) this.reach(this.plotBox);
      await Plotly.newPlot(this.plotBox, {data: fig.data, layout, frames: fig.frames || [], config: {responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: this.solid}});
      await this.recolour();
      if (this.solid && !this.plotBox.querySelector('canvas')) { this.plotBox.remove(); return this.say('This browser cannot draw in 3D: here is a still picture instead.'); }
      for (const s of sliders || []) this.slider(s);
      if (this.solid) { this.home = JSON.parse(JSON.stringify(this.plotBox.layout.scene.camera || {})); this.hint(); }
      this.still.remove(); this.box.classList.add('drawn');
      if (this.solid && !matchMedia('(prefers-reduced-motion: reduce)').matches) this.sway();
    }
    recolour() { return this.plotBox && Plotly.relayout(this.plotBox, colours(this.plotBox.layout)); }
    say(text) { this.box.append(make('p', {class: 'note'}, text)); }
    hint() {
      const bar = make('div', {class: 'hint'});
      bar.append(make('span', {}, matchMedia('(pointer: coarse)').matches ? 'Tap, then drag to turn.' : 'Drag to turn. Click, then scroll to come closer.'));
      for (const [what, sign] of [['left', '\u2190'], ['right', '\u2192'], ['in', '+'], ['out', '\u2212'], ['reset', 'reset']]) {
        const b = make('button', {type: 'button', 'aria-label': {left: 'Turn left', right: 'Turn right', in: 'Closer', out: 'Further away', reset: 'Back to the first view'}[what]}, sign);
        b.onclick = () => this.act(what); bar.append(b);
      }
      this.box.append(bar);
    }
    reach(e) {                                       // keys; and the page scrolls past a figure that nobody chose
      Object.assign(e, {tabIndex: 0}); e.setAttribute('role', 'group'); e.setAttribute('aria-roledescription', '3D view'); e.setAttribute('aria-label', this.still.alt + ' Arrow keys turn it, plus and minus zoom, 0 resets.');
      e.addEventListener('keydown', ev => {
        const what = {ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'up', ArrowDown: 'down', '+': 'in', '=': 'in', '-': 'out', 0: 'reset'}[ev.key];
        if (what && !ev.ctrlKey && !ev.metaKey && !ev.altKey) { ev.preventDefault(); this.act(what); }
      });
      e.addEventListener('wheel', ev => { if (!e.contains(document.activeElement)) ev.stopImmediatePropagation(); }, {capture: true});
      e.addEventListener('pointerdown', () => e.focus({preventScroll: true}), {capture: true});
      if (matchMedia('(pointer: coarse)').matches) { e.classList.add('resting'); e.addEventListener('click', () => e.classList.remove('resting')); }
    }
    sway() {                                         // to both sides once, so that one sees it is not a photo
      const from = JSON.parse(JSON.stringify(this.home)), start = performance.now(), step = async now => {
        const t = Math.max(0, now - start) / 5000; if (!this.swaying) return;
        if (t >= 1) { this.swaying = 0; return Plotly.relayout(this.plotBox, {'scene.camera': from}); }
        await Plotly.relayout(this.plotBox, {'scene.camera': turned(from, .3 * Math.sin(2 * Math.PI * t), 0, 1)});
        if (this.swaying) this.swaying = requestAnimationFrame(step);
      };
      for (const e of ['pointerdown', 'keydown', 'wheel']) this.plotBox.addEventListener(e, () => { this.swaying = 0; }, {once: true, capture: true});
      this.swaying = requestAnimationFrame(step);
    }
    act(what) {
      this.swaying = 0;
      const now = this.plotBox.layout.scene.camera || {};
      if (what === 'reset') return Plotly.relayout(this.plotBox, {'scene.camera': this.home});
      const [yaw, pitch, zoom] = {left: [-.15, 0, 1], right: [.15, 0, 1], up: [0, .1, 1], down: [0, -.1, 1], in: [0, 0, .85], out: [0, 0, 1.18]}[what];
      return Plotly.relayout(this.plotBox, {'scene.camera': turned(now, yaw, pitch, zoom)});
    }
    slider(s) {                                      // one of Plotly's sliders as a control that keys, thumbs and screen readers know
      const steps = s.steps || [], id = this.box.id + '-' + Math.random().toString(36).slice(2, 7), name = (s.currentvalue?.prefix || 'step').replace(/[=:\s]+$/, '');
      const row = make('div', {class: 'slider'}), input = make('input', {type: 'range', id, min: 0, max: steps.length - 1, step: 1, value: s.active || 0});
      const label = make('label', {for: id}, name), out = make('output', {for: id});
      const show = () => { const k = steps[input.value], text = k.label ?? k.args?.[0]; out.textContent = text + (s.currentvalue?.suffix || ''); input.setAttribute('aria-valuetext', out.textContent); };
      input.oninput = async () => {
        show(); const k = steps[input.value]; if (!k.method || k.method === 'skip') return;
        const args = k.method === 'animate' ? [k.args[0], {...k.args[1], mode: 'immediate', frame: {duration: 0, redraw: true}, transition: {duration: 0}}] : k.args;
        try { await Plotly[k.method](this.plotBox, ...args); } catch { /* a newer move took over */ }
      };
      show(); row.append(label, input, out); this.box.append(row);
    }
  }

  // ---- start
  const figures = [];
  const start = () => {
    const boxes = [...document.querySelectorAll('.turn[data-figure]')].map(b => [b, new Figure(b)]), by = new Map(boxes);
    figures.push(...by.values());
    const seen = new IntersectionObserver(es => es.forEach(e => { if (e.isIntersecting) { seen.unobserve(e.target); by.get(e.target).draw(); } }), {rootMargin: '250px'});
    for (const [b] of boxes) seen.observe(b);
    new MutationObserver(() => {
      if (window.smalldocsToggleScheme) document.documentElement.classList.toggle('quarto-dark', document.documentElement.dataset.scheme === 'alternate');   // before its own script looks
      if (start.dark !== dark()) { start.dark = dark(); figures.forEach(f => f.recolour()); }
    }).observe(document.documentElement, {attributes: true, subtree: false, attributeFilter: ['class', 'data-scheme']});
    start.dark = dark();
    for (const b of document.querySelectorAll('[role=button]')) b.addEventListener('keydown', e => { if (e.key === ' ') { e.preventDefault(); b.click(); } });
    if (document.getElementById('try')) import(new URL(root + 'site/try.js', location.href).href).catch(e => console.warn(e.message));
    const maths = [...document.querySelectorAll('.math')];
    if (maths.length) script('site/katex/katex.min.js').then(() => maths.forEach(m => {
      const tex = m.textContent.replace(/^\s*\\[([]|\\[)\]]\s*$/g, ''), display = m.classList.contains('display');
      katex.render(tex, m, {displayMode: display, throwOnError: false});
    })).catch(() => { /* the formula stays as it is written */ });
  };
  document.readyState === 'loading' ? addEventListener('DOMContentLoaded', start) : start();
  return {figure, figures, script, root, css, dark};
})();
