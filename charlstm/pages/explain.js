"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const n = data.characters.length;
  const QUANTITIES = ["forget", "input", "candidate", "output", "cell", "hidden"];
  const arrays = {};
  for (const [name, packed] of Object.entries(data.arrays)) {
    arrays[name] = new Float32Array(Uint8Array.from(atob(packed), (c) => c.charCodeAt(0)).buffer);
  }
  // Of the gates and the candidate the page holds the sums.
  const stored = (name, layer, t, unit) => arrays[name][(layer * n + t) * data.units + unit];
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const at = (name, layer, t, unit) => {
    if (name === "cell") return stored(name, layer, t, unit);
    if (name === "candidate") return Math.tanh(stored(name, layer, t, unit));
    if (name !== "hidden") return sigmoid(stored(name, layer, t, unit));
    return at("output", layer, t, unit) * Math.tanh(at("cell", layer, t, unit));
  };
  const cellBefore = (layer, t, unit) =>
    arrays.cell_before ? stored("cell_before", layer, t, unit) : t ? at("cell", layer, t - 1, unit) : 0;
  const element = (id) => document.getElementById(id);
  const make = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const num = (x, digits = 2) =>
    (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace("-", "\u2212");
  // Four places in equations, so that a reader who does the sum gets the same.
  const exact = (x) => num(x, 4);
  const bracket = (x) => (exact(x).startsWith("\u2212") ? `(${exact(x)})` : exact(x));
  const plus = (x) => (exact(x).startsWith("\u2212") ? ` \u2212 ${exact(-x)}` : ` + ${exact(x)}`);
  const NAMES = { "\n": "line feed", " ": "space", "\t": "tab" };
  const SHORT = { "\n": "\u21b5", " ": "\u2423", "\t": "\u21e5" };
  const nameOf = (c) => NAMES[c] || data.shown[c] || c;
  const shortOf = (c) => SHORT[c] || data.shown[c] || c;

  // What is shown, and what stays when the pointer leaves.
  const state = { t: 0, layer: data.telling[0].layer - 1, unit: data.telling[0].unit };
  let pinned = { ...state };

  const texts = [...document.querySelectorAll(".text")].map((text) => [...text.querySelectorAll("i")]);

  function showExpected() {
    const { t } = state;
    const bits = data.bits[t];
    const said = (row) => row.map(([l, p]) => `${shortOf(l)} ${num(100 * p, 1)}%`).join(", ");
    element("at").textContent = `This character: ${shortOf(data.characters[t])}`;
    element("came").textContent =
      bits === null
        ? "It is the first one: nothing was expected yet."
        : `It came as a surprise of ${num(bits)} bits. Expected in its place: ${said(data.likeliest[t - 1])}.`;
    const before = data.characters.slice(Math.max(0, t - 11), t + 1).map(shortOf).join("");
    element("after").textContent = `What may come after \u201c${before}\u201d`;
    const list = element("likeliest");
    list.replaceChildren();
    const next = data.characters[t + 1];
    for (const [character, p] of data.likeliest[t]) {
      const row = make("div", undefined, "choice");
      row.setAttribute("role", "listitem");
      const bar = make("span", undefined, "bar" + (character === next ? " came" : ""));
      bar.style.width = `${Math.max(1, 100 * p)}%`;
      const label = make("b", shortOf(character));
      label.setAttribute("aria-hidden", "true");
      const name = make("span", nameOf(character), "hidden");
      const share = make("span", `${num(100 * p, 1)}%`, "p");
      row.append(label, name, bar, share);
      if (character === next) row.append(make("span", "came next", "hidden"));
      list.append(row);
    }
    return bits;
  }

  function showEquations() {
    const { t, layer, unit } = state;
    const value = Object.fromEntries(QUANTITIES.map((q) => [q, at(q, layer, t, unit)]));
    const before = cellBefore(layer, t, unit);
    const telling = data.telling.find((u) => u.layer - 1 === layer && u.unit === unit);
    const body = element("equations").tBodies[0];
    body.replaceChildren();
    const line = (label, symbol, formula, text, result, group) => {
      const row = make("tr", undefined, group ? "group" : undefined);
      const sum = make("td");
      sum.append(make("span", formula, "formula"), make("span", `= ${text}`));
      row.append(make("th", label), make("td", symbol), sum, make("td", `= ${exact(result)}`, "value"));
      row.cells[0].scope = "row";
      body.append(row);
    };
    const gate = (label, symbol, of, name) => {
      const terms = telling && telling.terms[name];
      const sum = terms
        ? exact(terms.below[t]) + plus(terms.own[t]) + plus(terms.bias)
        : exact(stored(name, layer, t, unit));
      line(label, symbol, `${of}(x\u00b7W + h\u209c\u208b\u2081\u00b7U + b)`, `${of}(${sum})`, value[name]);
    };
    gate("forget gate", "f", "\u03c3", "forget");
    gate("input gate", "i", "\u03c3", "input");
    gate("candidate", "g", "tanh", "candidate");
    gate("output gate", "o", "\u03c3", "output");
    line("cell state", "c\u209c", "f\u00b7c\u209c\u208b\u2081 + i\u00b7g",
      `${exact(value.forget)}\u00b7${bracket(before)} + ${exact(value.input)}\u00b7${bracket(value.candidate)}`,
      value.cell, true);
    line("hidden state", "h\u209c", "o\u00b7tanh(c\u209c)",
      `${exact(value.output)}\u00b7${bracket(Math.tanh(value.cell))}`, value.hidden);
    const percent = (p) => `${Math.round(100 * p)}%`;
    const sentence =
      `At \u201c${shortOf(data.characters[t])}\u201d unit ${unit} of layer ${layer + 1} keeps ${percent(value.forget)} of its memory ` +
      `(${num(before)}) and lets in ${percent(value.input)} of the candidate (${num(value.candidate)}), so the memory ` +
      `becomes ${num(value.cell)}. The tanh brings that to ${num(Math.tanh(value.cell))}, and the output gate shows ` +
      `${percent(value.output)} of it: ${num(value.hidden)}.` +
      (telling && telling.name ? ` The unit follows: ${telling.name}.` : "");
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
      holder.addEventListener("click", (event) => pin(place(event)));
      holder.addEventListener("pointerleave", () => show(pinned));
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

  // Hovering shows, and what was chosen comes back; choosing stays.
  function pin(changes) {
    show(changes);
    pinned = { ...state };
  }
  const move = (t) => pin({ ...pinned, t: Math.min(n - 1, Math.max(0, t)) });
  const nextUnit = (by) => {
    const { layer, unit } = pinned;
    const index = data.telling.findIndex((u) => u.layer - 1 === layer && u.unit === unit);
    const from = index < 0 && by < 0 ? 0 : index;
    const to = data.telling[(from + by + data.telling.length) % data.telling.length];
    pin({ ...pinned, layer: to.layer - 1, unit: to.unit });
  };
  const KEYS = {
    ArrowRight: () => move(pinned.t + 1),
    ArrowLeft: () => move(pinned.t - 1),
    PageDown: () => move(pinned.t + 10),
    PageUp: () => move(pinned.t - 10),
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
      if (to) pin(to);
    });
    text.addEventListener("pointerleave", () => show(pinned));
  }
  element("back").addEventListener("click", () => move(pinned.t - 1));
  element("on").addEventListener("click", () => move(pinned.t + 1));
  element("unit").addEventListener("change", (event) => {
    const to = data.telling[event.target.value];
    if (to) pin({ ...pinned, layer: to.layer - 1, unit: to.unit });
    else element("number").focus(); // "another": which, is typed there
  });
  for (const id of ["layer", "number"]) {
    element(id).addEventListener("change", () => {
      const within = (value, most) => Math.min(most, Math.max(0, Math.round(Number(value) || 0)));
      const layer = within(element("layer").value - 1, data.layers - 1);
      const unit = within(element("number").value, data.units - 1);
      element("layer").value = layer + 1;
      element("number").value = unit;
      pin({ ...pinned, layer, unit });
    });
  }
  prepareMaps();
  pin({ t: Math.min(n - 1, Math.max(0, data.start)) });
})();
