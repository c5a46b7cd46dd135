// The map of the items on a canvas: to be moved, zoomed, searched and coloured.
import { ask } from "./api.js";
import { cardsOf } from "./cards.js";
import { fill, make, place } from "./dom.js";

// Of middle tones, which are seen by day and by night; the last is for none of these.
const TONES = ["#2f7de1", "#d9730d", "#2c9a5b", "#db4b4b", "#9a6ae0", "#1799a3", "#c94f9b", "#94712f", "#6f8f1a"];
const GREY = "#7f8996";
const SCALE = [[0x2f, 0x7d, 0xe1], [0xb0, 0x54, 0xc0], [0xd9, 0x6a, 0x14]];
const CELLS = 64;

// Colours as a canvas keeps them: bytes of red, green, blue and how opaque.
const bytes = (red, green, blue) => new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0];
const packed = (hex) => bytes(...[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));

function blend(share) {
  const at = Math.min(Math.max(share, 0), 1) * (SCALE.length - 1);
  const low = Math.min(Math.floor(at), SCALE.length - 2);
  return bytes(...SCALE[low].map((c, n) => Math.round(c + (at - low) * (SCALE[low + 1][n] - c))));
}

export class Atlas {
  constructor(open, fail) {
    this.open = open;
    this.fail = fail;
    this.map = null;
    this.best = this.liked = this.hits = [];
    this.whom = this.asked = this.spot = null;
    this.fingers = new Map();
    this.canvas = place("canvas");
    this.listen();
  }

  holds(card) { return Boolean(this.map) && this.rowOf.has(String(card.id)); }

  async load() {
    const own = this.loading = {};
    try {
      let map = null;
      while (!map) {
        ({ map } = await ask("v1/map"));
        if (own !== this.loading) return;
        if (!map) await new Promise((done) => setTimeout(done, 1500));
      }
      if (map.ids?.length) this.take(map);
      else place("atlas-says").textContent = "There is no map of these items.";
    } catch (error) {
      this.fail(error);
    }
  }

  take(map) {
    this.map = map;
    this.xs = Float64Array.from(map.x);
    this.ys = Float64Array.from(map.y);
    this.rowOf = new Map(map.ids.map((id, n) => [id, n]));
    const kept = map.kept === null ? "" : `: of an item's ten nearest, ${Math.round(100 * map.kept)} % are among its ten nearest here`;
    const sample = map.num_items > map.ids.length ? ` A sample of ${map.ids.length.toLocaleString("en")} of ${map.num_items.toLocaleString("en")} items.` : ` ${map.ids.length.toLocaleString("en")} items.`;
    place("atlas-says").textContent = `Items whose embeddings are near lie near, as far as a plane allows${kept}. Directions mean nothing.${sample}`;
    fill(place("colour"), ...map.colourings.map(({ name }, n) => make("option", { value: String(n) }, name)));
    this.words = map.titles.map((title, n) => `${map.ids[n]} ${title} ${map.about[n]}`.toLowerCase());
    this.bounds = [Math.min(...ends(map.x)), Math.max(...ends(map.x)), Math.min(...ends(map.y)), Math.max(...ends(map.y))];
    this.sort();
    place("atlas-whole").hidden = false;
    this.colour();
    this.whole();
    this.light(this.lit?.[0] || [], this.lit?.[1] || []);
    this.asked = null;
    this.find(this.whom);
  }

  // Where somebody stands by their own vector; no dial and no filter moves that.
  async find(whom) {
    this.whom = whom;
    const wanted = JSON.stringify(whom);
    if (!this.map || !whom || wanted === this.asked) return;
    this.asked = wanted;
    try {
      const { x, y } = await ask("v1/place", whom);
      if (wanted !== this.asked) return;
      this.spot = x === null ? null : [x, y];
      this.draw();
    } catch (error) {
      this.asked = null;
      this.fail(error);
    }
  }

  // Which items lie in which cell of a grid, so that the one under a pointer is found at once.
  sort() {
    const { x, y } = this.map;
    const [left, right, low, high] = this.bounds;
    this.size = Math.max(right - left, high - low, 1e-6) / CELLS;
    this.cells = new Map();
    for (let n = 0; n < x.length; n += 1) {
      const cell = this.cell(x[n], y[n]);
      this.cells.has(cell) ? this.cells.get(cell).push(n) : this.cells.set(cell, [n]);
    }
  }

  cell(x, y) { return Math.floor((x - this.bounds[0]) / this.size) * 4096 + Math.floor((y - this.bounds[2]) / this.size); }

  colour() {
    const colouring = this.map.colourings[Number(place("colour").value) || 0];
    const labels = colouring.labels;
    const others = packed(GREY);
    const tints = colouring.values.map((value) => labels ? value < labels.length ? packed(TONES[value]) : others
      : value === null ? others : blend((value - colouring.low) / (colouring.high - colouring.low || 1)));
    this.tints = Uint32Array.from(tints);
    // What is grey is drawn first, below the others.
    const rows = tints.map((_, n) => n);
    const is_grey = (n) => tints[n] === others;
    this.order = Uint32Array.from([...rows.filter(is_grey), ...rows.filter((n) => !is_grey(n))]);
    const swatch = (background, long) => {
      const element = make("span", { className: long ? "swatch long" : "swatch", "aria-hidden": "true" });
      if (background) element.style.background = background;
      return element;
    };
    if (colouring.labels) {
      fill(place("legend"), ...colouring.labels.map((label, n) => make("li", {}, swatch(TONES[n]), label)),
        tints.includes(others) && make("li", {}, swatch(GREY), "others"));
    } else {
      const written = colouring.ticks ? [colouring.ticks[0][1], colouring.ticks.at(-1)[1]]
        : [colouring.low, colouring.high].map((value) => String(Number(value.toPrecision(4))));
      fill(place("legend"), make("li", {}, written[0], swatch("", true), written[1]));
    }
    this.draw();
  }

  whole() {
    const { clientWidth, clientHeight } = this.canvas;
    const [left, right, low, high] = this.bounds;
    this.scale = 0.92 * Math.min(clientWidth / (right - left || 1), clientHeight / (high - low || 1));
    this.fit = this.scale;
    this.centre = [(left + right) / 2, (low + high) / 2];
    this.draw();
  }

  // Which items to light up: those recommended, by rank, and those liked.
  light(best, liked) {
    this.lit = [best, liked];
    if (!this.map) return;
    const rows = (ids) => ids.map((id) => this.rowOf.get(String(id)));
    this.best = rows(best);
    this.liked = rows(liked).filter((row) => row !== undefined);
    this.draw();
  }

  show(card) {
    const row = this.rowOf.get(String(card.id));
    this.hits = [row];
    this.centre = [this.map.x[row], this.map.y[row]];
    this.scale = Math.max(this.scale, 6 * this.fit);
    place("sought").textContent = "";
    this.name();
    place("atlas").scrollIntoView({ block: "start" });
    this.canvas.focus({ preventScroll: true });
    this.draw();
  }

  seek(word) {
    const parts = word.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    if (parts.length) this.words.forEach((text, n) => { if (parts.every((part) => text.includes(part))) found.push(n); });
    this.hits = found;
    place("sought").textContent = parts.length ? `${found.length.toLocaleString("en")} found` : "";
    this.name();
    this.draw();
  }

  name() {
    fill(place("hits"), ...this.hits.slice(0, 12).map((row) =>
      make("li", {}, make("button", { type: "button", onclick: () => this.choose(row) }, this.map.titles[row]))));
  }

  async choose(row) {
    try {
      const [card] = await cardsOf([this.map.ids[row]]);
      this.open(card);
    } catch (error) {
      this.fail(error);
    }
  }

  at(row) { return this.on(this.map.x[row], this.map.y[row]); }

  on(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    return [clientWidth / 2 + (x - this.centre[0]) * this.scale, clientHeight / 2 - (y - this.centre[1]) * this.scale];
  }

  draw() {
    if (!this.map || this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
  }

  paint() {
    const { canvas, map, scale } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const [ink, lit, paper] = ["--ink", "--lit", "--paper"].map((name) => style.getPropertyValue(name).trim());
    const size = Math.min(9, (map.x.length > 5000 ? 2.4 : map.x.length > 500 ? 4 : 6) * Math.sqrt(scale / this.fit) ** 0.8);
    this.dots(pen, size * ratio, scale * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const circle = (row, radius) => {
      const [x, y] = this.at(row);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
    };
    for (const row of this.liked) {
      circle(row, 4.5);
      pen.fillStyle = ink;
      pen.fill();
      pen.strokeStyle = paper;
      pen.lineWidth = 1.5;
      pen.stroke();
    }
    pen.lineWidth = 2.5;
    pen.strokeStyle = ink;
    for (const row of this.hits.slice(0, 2000)) { circle(row, 7); pen.stroke(); }
    pen.font = "600 11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.strokeStyle = lit;
    this.best.forEach((row, rank) => {
      if (row === undefined) return;
      circle(row, 9);
      pen.fillStyle = paper;
      pen.fill();
      pen.lineWidth = 2.5;
      pen.stroke();
      pen.fillStyle = ink;
      pen.fillText(String(rank + 1), ...this.at(row));
    });
    if (this.spot) {
      pen.font = "26px system-ui, sans-serif";
      pen.lineWidth = 4;
      pen.strokeStyle = paper;
      pen.strokeText("★", ...this.on(...this.spot));
      pen.fillStyle = lit;
      pen.fillText("★", ...this.on(...this.spot));
    }
  }

  // All items as squares, written into the pixels: far faster than to ask the pen for each.
  dots(pen, size, scale) {
    const { width, height } = this.canvas;
    if (this.image?.width !== width || this.image?.height !== height) {
      this.image = pen.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const { pixels, tints, xs, ys, order } = this;
    pixels.fill(0);
    const side = Math.max(1, Math.round(size));
    const dx = width / 2 - this.centre[0] * scale - side / 2;
    const dy = height / 2 + this.centre[1] * scale - side / 2;
    for (let k = 0; k < order.length; k += 1) {
      const n = order[k];
      const left = Math.round(dx + xs[n] * scale);
      const top = Math.round(dy - ys[n] * scale);
      if (left < 0 || top < 0 || left + side > width || top + side > height) continue;
      // One by one: to fill some pixels of a row takes many times as long.
      for (let at = top * width + left, row = 0; row < side; row += 1, at += width) {
        for (let column = 0; column < side; column += 1) pixels[at + column] = tints[n];
      }
    }
    pen.putImageData(this.image, 0, 0);
  }

  // The item nearest to a place on the canvas, if it is near.
  under(px, py) {
    const { clientWidth, clientHeight } = this.canvas;
    const x = this.centre[0] + (px - clientWidth / 2) / this.scale;
    const y = this.centre[1] - (py - clientHeight / 2) / this.scale;
    const reach = 12 / this.scale;
    const span = Math.min(8, Math.ceil(reach / this.size));
    let best = [reach ** 2, null];
    for (let i = -span; i <= span; i += 1) {
      for (let j = -span; j <= span; j += 1) {
        for (const n of this.cells.get(this.cell(x + i * this.size, y + j * this.size)) || []) {
          const far = (this.map.x[n] - x) ** 2 + (this.map.y[n] - y) ** 2;
          if (far < best[0]) best = [far, n];
        }
      }
    }
    return best[1];
  }

  zoom(by, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * by, this.fit / 2), this.fit * 400);
    const [ox, oy] = [px - this.canvas.clientWidth / 2, py - this.canvas.clientHeight / 2];
    this.centre[0] += ox / this.scale - ox / scale;
    this.centre[1] -= oy / this.scale - oy / scale;
    this.scale = scale;
    this.draw();
  }

  move(dx, dy) {
    this.centre[0] -= dx / this.scale;
    this.centre[1] += dy / this.scale;
    this.draw();
  }

  tell(event) {
    const row = this.map && this.under(event.offsetX, event.offsetY);
    const tip = place("tip");
    tip.hidden = row === null;
    this.canvas.style.cursor = row === null ? "grab" : "pointer";
    if (row === null) return;
    tip.textContent = `${[this.map.titles[row], this.map.about[row], this.map.ids[row]].filter(Boolean).join(" · ")} · met ${this.map.met[row].toLocaleString("en")} times`;
    tip.style.left = `${Math.min(event.offsetX + 12, Math.max(0, this.canvas.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${event.offsetY + (event.offsetY > this.canvas.clientHeight - 60 ? -tip.offsetHeight - 8 : 14)}px`;
  }

  listen() {
    const { canvas, fingers } = this;
    let moved = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
      moved = fingers.size > 1 ? 99 : 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) { this.tell(event); return; }
      const now = [event.offsetX, event.offsetY];
      moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const spread = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
        this.zoom(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
        this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      } else if (moved > 4) {
        place("tip").hidden = true;
        this.move(now[0] - before[0], now[1] - before[1]);
      }
      fingers.set(event.pointerId, now);
    });
    // One finger scrolls the page past the map, two are the map's (see touch-action).
    canvas.addEventListener("touchmove", (event) => {
      if (event.touches.length > 1 && event.cancelable) event.preventDefault();
    }, { passive: false });
    const lift = (event) => {
      fingers.delete(event.pointerId);
      const row = this.map && event.type === "pointerup" && moved <= 4 ? this.under(event.offsetX, event.offsetY) : null;
      if (row !== null) this.choose(row);
    };
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("pointerleave", () => { place("tip").hidden = true; });
    canvas.addEventListener("wheel", (event) => {
      // Without a key the wheel goes on to scroll the page, unless the map has the focus.
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
      if (step) this.move(...step);
      else if (event.key === "+" || event.key === "=") this.zoom(1.4);
      else if (event.key === "-") this.zoom(1 / 1.4);
      else if (event.key === "0") this.whole();
      else return;
      event.preventDefault();
    });
    place("in").addEventListener("click", () => this.zoom(1.6));
    place("out").addEventListener("click", () => this.zoom(1 / 1.6));
    place("whole").addEventListener("click", () => this.whole());
    place("colour").addEventListener("change", () => this.colour());
    place("seek").addEventListener("input", (event) => this.seek(event.target.value));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }
}

// The least and the greatest, without an argument a number.
function ends(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  return [low, high];
}
