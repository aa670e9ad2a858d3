"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const n = data.characters.length;
  const QUANTITIES = ["forget", "input", "candidate", "output", "cell", "hidden"];
  const arrays = {};
  for (const [name, packed] of Object.entries(data.arrays)) {
    const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
    arrays[name] = packed.scale
      ? Float32Array.from(new Int16Array(bytes.buffer), (v) => v / packed.scale)
      : new Float32Array(bytes.buffer);
  }
  const at = (name, layer, t, unit) => arrays[name][(layer * n + t) * data.units + unit];
  const cellBefore = (layer, t, unit) =>
    arrays.cell_before ? at("cell_before", layer, t, unit) : t ? at("cell", layer, t - 1, unit) : 0;
  const element = (id) => document.getElementById(id);
  const make = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const num = (x, digits = 2) =>
    (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace("-", "\u2212");
  const bracket = (x) => (x < 0 && num(x) !== num(0) ? `(${num(x)})` : num(x));
  const plus = (x) => (num(x).startsWith("\u2212") ? ` \u2212 ${num(-x)}` : ` + ${num(x)}`);
  const NAMES = { "\n": "line feed", " ": "space", "\t": "tab" };
  const SHORT = { "\n": "\u21b5", " ": "\u2423", "\t": "\u21e5" };
  const nameOf = (c) => NAMES[c] || c;
  const shortOf = (c) => SHORT[c] || c;

  // What is shown, and what stays when the pointer leaves.
  const state = { t: 0, layer: data.telling[0].layer - 1, unit: data.telling[0].unit };
  let pinned = 0;

  const texts = [...document.querySelectorAll(".text")].map((text) => [...text.querySelectorAll("i")]);

  function showExpected() {
    const { t } = state;
    const c = data.characters[t];
    element("after").textContent = `After ${JSON.stringify(data.characters.slice(Math.max(0, t - 11), t + 1).join(""))}`;
    const list = element("likeliest");
    list.replaceChildren();
    const next = data.characters[t + 1];
    for (const [character, p] of data.likeliest[t]) {
      const bar = make("span", undefined, "bar" + (character === next ? " came" : ""));
      bar.style.width = `${Math.max(1, 100 * p)}%`;
      const label = make("b", shortOf(character));
      label.setAttribute("aria-label", nameOf(character));
      list.append(label, bar, make("span", `${num(100 * p, 1)}%`, "p"));
    }
    const bits = data.bits[t];
    const nextBits = t + 1 < n ? data.bits[t + 1] : null;
    element("came").textContent =
      (bits === null
        ? `\u201c${shortOf(c)}\u201d is the first character: nothing was expected yet.`
        : `\u201c${shortOf(c)}\u201d came as a surprise of ${num(bits)} bits.`) +
      (nextBits === null ? "" : ` Next came \u201c${shortOf(next)}\u201d (${num(nextBits)} bits).`);
    return bits;
  }

  function showEquations() {
    const { t, layer, unit } = state;
    const value = Object.fromEntries(QUANTITIES.map((q) => [q, at(q, layer, t, unit)]));
    const before = cellBefore(layer, t, unit);
    const telling = data.telling.find((u) => u.layer - 1 === layer && u.unit === unit);
    const body = element("equations").tBodies[0];
    body.replaceChildren();
    const line = (label, symbol, text, result, group) => {
      const row = make("tr", undefined, group ? "group" : undefined);
      row.append(make("th", label), make("td", symbol), make("td", text), make("td", `= ${num(result)}`, "value"));
      row.cells[0].scope = "row";
      body.append(row);
    };
    const sum = (name, result) => {
      if (telling) {
        const terms = telling.terms[name];
        return num(terms.below[t]) + plus(terms.own[t]) + plus(terms.bias);
      }
      const x = name === "candidate" ? Math.atanh(result) : Math.log(result / (1 - result));
      return Number.isFinite(x) ? num(x) : result > 0.5 ? "large" : "\u2212large";
    };
    const x = layer ? `h of layer ${layer}` : "the character";
    const meaning = telling ? `  [${x} + h\u209c\u208b\u2081 + bias]` : "";
    line("forget gate", "f", `\u03c3(${sum("forget", value.forget)})${meaning}`, value.forget);
    line("input gate", "i", `\u03c3(${sum("input", value.input)})`, value.input);
    line("candidate", "g", `tanh(${sum("candidate", value.candidate)})`, value.candidate);
    line("output gate", "o", `\u03c3(${sum("output", value.output)})`, value.output);
    line("cell state", "c\u209c", `f\u00b7c\u209c\u208b\u2081 + i\u00b7g = ${num(value.forget)}\u00b7${bracket(before)} + ${num(value.input)}\u00b7${bracket(value.candidate)}`, value.cell, true);
    line("hidden state", "h\u209c", `o\u00b7tanh(c\u209c) = ${num(value.output)}\u00b7${bracket(Math.tanh(value.cell))}`, value.hidden);
    const percent = (p) => `${Math.round(100 * p)}%`;
    const sentence =
      `At \u201c${shortOf(data.characters[t])}\u201d unit ${unit} of layer ${layer + 1} keeps ${percent(value.forget)} of its memory ` +
      `(${num(before)}), lets in ${percent(value.input)} of the candidate (${num(value.candidate)}), so the memory ` +
      `becomes ${num(value.cell)}, and shows ${percent(value.output)} of it: ${num(value.hidden)}.` +
      (telling && telling.name ? ` It follows: ${telling.name}.` : "");
    element("sentence").textContent = sentence;
  }

  const maps = [];
  function drawMaps() {
    const style = getComputedStyle(document.documentElement);
    const rgb = (name) => style.getPropertyValue(name).split(",").map(Number);
    const ground = rgb("--ground-rgb"), low = rgb("--low"), high = rgb("--high");
    for (const map of maps) {
      const context = map.canvas.getContext("2d");
      const image = context.createImageData(n, data.units);
      for (let row = 0; row < data.units; row++) {
        for (let t = 0; t < n; t++) {
          let x = at(map.quantity, map.layer, t, map.order[row]);
          if (map.quantity === "cell") x = Math.tanh(x);
          const to = x < 0 ? low : high;
          const a = Math.min(1, Math.abs(x));
          const place = 4 * (row * n + t);
          for (let k = 0; k < 3; k++) image.data[place + k] = ground[k] + a * (to[k] - ground[k]);
          image.data[place + 3] = 255;
        }
      }
      context.putImageData(image, 0, 0);
    }
  }

  function prepareMaps() {
    const order = [];
    for (let layer = 0; layer < data.layers; layer++) {
      const mean = new Float64Array(data.units);
      for (let t = 0; t < n; t++) for (let u = 0; u < data.units; u++) mean[u] += at("forget", layer, t, u);
      order.push([...mean.keys()].sort((a, b) => mean[b] - mean[a]));
    }
    for (const holder of document.querySelectorAll(".map")) {
      const layer = Number(holder.dataset.layer);
      const map = { holder, layer, quantity: holder.dataset.quantity, order: order[layer] };
      map.canvas = holder.querySelector("canvas");
      map.canvas.width = n;
      map.canvas.height = data.units;
      map.cursor = holder.appendChild(make("div", undefined, "cursor"));
      map.row = holder.appendChild(make("div", undefined, "row"));
      const place = (event) => {
        const box = map.canvas.getBoundingClientRect();
        const clamp = (x, most) => Math.min(most - 1, Math.max(0, Math.floor(x * most)));
        return {
          t: clamp((event.clientX - box.left) / box.width, n),
          layer,
          unit: map.order[clamp((event.clientY - box.top) / box.height, data.units)],
        };
      };
      holder.addEventListener("pointermove", (event) => show(place(event)));
      holder.addEventListener("click", (event) => {
        const to = place(event);
        pinned = to.t;
        show(to);
      });
      holder.addEventListener("pointerleave", () => show({ t: pinned }));
      maps.push(map);
    }
    drawMaps();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMaps);
  }

  function show(changes) {
    Object.assign(state, changes);
    for (const characters of texts) {
      for (const character of characters) character.classList.toggle("now", Number(character.dataset.t) === state.t);
    }
    const bits = showExpected();
    showEquations();
    const c = data.characters[state.t];
    const slider = element("text");
    slider.setAttribute("aria-valuenow", state.t + 1);
    slider.setAttribute("aria-valuetext",
      `${nameOf(c)}, character ${state.t + 1} of ${n}` +
      (bits === null ? "" : `, surprise ${num(bits)} bits`) +
      `; next likeliest ${data.likeliest[state.t].slice(0, 3).map(([l, p]) => `${nameOf(l)} ${Math.round(100 * p)} percent`).join(", ")}`);
    for (const map of maps) {
      map.cursor.style.left = `calc(${(100 * (state.t + 0.5)) / n}% - 1px)`;
      map.row.hidden = map.layer !== state.layer;
      map.row.style.top = `${(100 * (map.order.indexOf(state.unit) + 0.5)) / data.units}%`;
    }
    const index = data.telling.findIndex((u) => u.layer - 1 === state.layer && u.unit === state.unit);
    element("unit").value = index < 0 ? "" : String(index);
    if (document.activeElement !== element("layer")) element("layer").value = state.layer + 1;
    if (document.activeElement !== element("number")) element("number").value = state.unit;
  }

  const move = (t) => {
    pinned = Math.min(n - 1, Math.max(0, t));
    show({ t: pinned });
  };
  const nextUnit = (by) => {
    const index = data.telling.findIndex((u) => u.layer - 1 === state.layer && u.unit === state.unit);
    const to = data.telling[(index + by + data.telling.length) % data.telling.length];
    show({ layer: to.layer - 1, unit: to.unit });
  };
  const KEYS = {
    ArrowRight: () => move(pinned + 1),
    ArrowLeft: () => move(pinned - 1),
    PageDown: () => move(pinned + 10),
    PageUp: () => move(pinned - 10),
    Home: () => move(0),
    End: () => move(n - 1),
    ArrowDown: () => nextUnit(1),
    ArrowUp: () => nextUnit(-1),
  };
  element("text").addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  for (const text of document.querySelectorAll(".text")) {
    const unit = text.dataset.unit === undefined ? null : data.telling[Number(text.dataset.unit)];
    const place = (event) => {
      const character = event.target.closest("i");
      if (!character) return null;
      const t = Number(character.dataset.t);
      return unit ? { t, layer: unit.layer - 1, unit: unit.unit } : { t };
    };
    text.addEventListener("pointerover", (event) => {
      const to = place(event);
      if (to) show(to);
    });
    text.addEventListener("click", (event) => {
      const to = place(event);
      if (!to) return;
      pinned = to.t;
      show(to);
    });
    text.addEventListener("pointerleave", () => show({ t: pinned }));
  }
  element("back").addEventListener("click", () => move(pinned - 1));
  element("on").addEventListener("click", () => move(pinned + 1));
  element("unit").addEventListener("change", (event) => {
    const to = data.telling[Number(event.target.value)];
    if (to) show({ layer: to.layer - 1, unit: to.unit });
  });
  for (const id of ["layer", "number"]) {
    element(id).addEventListener("change", () => {
      const layer = Number(element("layer").value) - 1;
      const unit = Number(element("number").value);
      if (!Number.isInteger(layer) || layer < 0 || layer >= data.layers) return;
      if (!Number.isInteger(unit) || unit < 0 || unit >= data.units) return;
      show({ layer, unit });
    });
  }
  prepareMaps();
  show({ t: Math.min(n - 1, data.start) });
  pinned = state.t;
})();
