"use strict";
// Draws the scatter of networks over the static figure that the page brings along, which stays if this fails.
(() => {
  const data = JSON.parse(document.getElementById("networks").textContent);
  const get = (id) => document.getElementById(id);
  const chart = get("chart"), detail = get("detail"), remark = get("remark");
  const KINDS = Object.keys(data.kinds);
  const MUTE = new Set(["searched", "refused"]);
  let picked = [data.kind.indexOf("shipped"), data.knee[0], data.kind.indexOf("front"), 0].find((i) => i >= 0); // of use before anything is pointed at
  let plotted = [];

  // ---- numbers in words, as in the rest of the page
  function digits(value) {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-4 || size >= 1e9) return value.toPrecision(3);
    const places = Math.max(0, 2 - Math.floor(Math.log10(size)));
    return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  }
  function magnitude(value) {
    const step = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]].find(([size]) => Math.abs(value) >= size);
    if (step) return digits(value / step[0]) + step[1];
    return Number.isInteger(value) ? String(value) : digits(value);
  }
  function amount(metric, value) {
    if (value === null || value === undefined) return "–";
    if (metric.unit === "%") return (100 * value).toFixed(Math.abs(value) < 0.01 ? 2 : 1) + " %";
    return metric.unit ? digits(value) + " " + metric.unit : magnitude(value);
  }
  const brief = (text) => text.replace(/(\.\d*?)0+(?=\s|$)/, "$1").replace(/\.(?=\s|$)/, "");
  function tick(metric, value) {
    if (metric.unit === "%") return String(+(100 * value).toPrecision(6));
    if (metric.unit) return String(+value.toPrecision(6));
    return brief(magnitude(value));
  }

  // ---- scales
  function scale(values, start, stop, log, margin, limit) {
    const put = log ? Math.log10 : (value) => value;
    let low = put(Math.min(...values)), high = put(Math.max(...values));
    if (limit !== null && (!log || limit > 0)) {
      const near = put(limit);
      if (near >= 2 * low - high && near <= 2 * high - low) [low, high] = [Math.min(low, near), Math.max(high, near)];
    }
    const pad = (high - low) * margin || Math.abs(high) * 0.5 || 1;
    low = !log && low >= 0 && low - pad < 0 ? 0 : low - pad;
    high += pad;
    const at = (value) => Math.round((start + (put(value) - low) / (high - low) * (stop - start)) * 10) / 10;
    at.holds = (value) => put(value) >= low && put(value) <= high;
    at.ticks = (count) => (log ? decades(low, high, count) : steps(low, high, count));
    return at;
  }
  function steps(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k++) found.push(+(k * step).toPrecision(12));
    return found;
  }
  function decades(low, high, count) {
    const factors = high - low > count ? [1] : high - low > 1.2 ? [1, 3] : [1, 2, 3, 5, 7];
    const found = [];
    for (let k = Math.floor(low); k <= Math.ceil(high); k++)
      for (const factor of factors) {
        const value = +(factor * 10 ** k).toPrecision(12), spot = Math.log10(value);
        if (spot >= low && spot <= high) found.push(value);
      }
    return found.length > 1 ? found : steps(10 ** low, 10 ** high, count).filter((value) => value > 0);
  }

  // ---- elements; text only ever enters as text
  function shape(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function element(name, className, ...inner) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...inner);
    return made;
  }

  // ---- the chart
  function draw() {
    const ix = +get("x").value, iy = +get("y").value;
    const x = data.metrics[ix], y = data.metrics[iy], logx = get("logx").checked, logy = get("logy").checked;
    const fits = (row) => row && row[ix] !== null && row[iy] !== null && (!logx || row[ix] > 0) && (!logy || row[iy] > 0);
    const drawn = data.value.map((row, i) => i).filter((i) => fits(data.value[i]));
    const width = Math.max(280, chart.clientWidth), height = Math.round(Math.min(520, Math.max(320, width * 0.62)));
    const edge = { left: 52, right: 16, top: 34, bottom: 48 };
    const svg = shape("svg", { class: "figure", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0,
      "aria-label": `${drawn.length} networks, ${y.label} against ${x.label}; arrow keys walk along them` });
    svg.append(shape("rect", { class: "panel", width, height }));
    plotted = [];
    remark.textContent = "";
    if (!drawn.length) {
      svg.append(shape("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No network has both of these metrics"));
      chart.replaceChildren(svg);
      return;
    }
    const near = get("view").value === "near";
    const holders = (near ? close(drawn, ix, iy) : drawn).map((i) => data.value[i]);
    const margin = near ? 0.25 : 0.06;
    const across = scale(holders.map((row) => row[ix]), edge.left, width - edge.right, logx, margin, x.limit);
    const up = scale(holders.map((row) => row[iy]), height - edge.bottom, edge.top, logy, margin, y.limit);
    const spot = (row) => [across(row[ix]), up(row[iy])];
    axes(svg, across, up, x, y, width, height, edge);
    limits(svg, across, up, x, y, width, height, edge);

    plotted = drawn.filter((i) => across.holds(data.value[i][ix]) && up.holds(data.value[i][iy]))
      .sort((a, b) => KINDS.indexOf(data.kind[b]) - KINDS.indexOf(data.kind[a]))
      .map((i) => ({ i, at: spot(data.value[i]) }));
    stairs(svg, plotted.filter((mark) => data.kind[mark.i] === "front"), ix, iy, x, y);
    const named = [], marks = plotted.filter((mark) => !MUTE.has(data.kind[mark.i])).map((mark) => mark.at);
    const arrows = shape("g", {}), dots = shape("g", {}), names = shape("g", {});
    for (const { i, at } of plotted) {
      if (fits(data.before[i])) arrow(arrows, spot(data.before[i]), at, data.kind[i]);
      dots.append(shape("path", { class: `dot ${data.kind[i]}`, d: `M${at[0]},${at[1]}${data.shapes[data.kind[i]]}` }));
      if (data.knee.includes(i)) {
        dots.append(shape("circle", { class: "ring", cx: at[0], cy: at[1], r: 9 }));
        named.push([at, "knee"]);
      }
      if (data.kind[i] === "shipped") named.push([at, "shipped"]);
    }
    for (const [at, text] of named) {
      const { x, y } = place(at, 7 * text.length, marks, width, height - edge.bottom);
      for (let k = 0; k < text.length; k++) marks.push([x + 7 * k, y - 4]);
      names.append(shape("text", { class: "name", x, y }, text));
    }
    svg.append(arrows, dots, names, shape("circle", { class: "pointer", id: "pointer", r: 12, visibility: "hidden" }));
    const outside = drawn.length - plotted.length, unknown = data.value.length - drawn.length;
    const told = [];
    if (outside) told.push(`${outside} ${outside === 1 ? "network lies" : "networks lie"} outside this view`);
    if (unknown) told.push(`${unknown} ${unknown === 1 ? "has" : "have"} no value for these axes`);
    for (const [axis, at] of [[x, across], [y, up]])
      if (axis.limit !== null && !at.holds(axis.limit)) told.push(`the limit of ${axis.label}, ${brief(amount(axis, axis.limit))}, is outside this view`);
    remark.textContent = told.length ? told.join("; ").replace(/^./, (c) => c.toUpperCase()) + "." : "";
    chart.replaceChildren(svg);
    listen(svg);
    pick(picked, false);
  }
  // What the first view must hold: the front and what came of it, else all but the worst tenth.
  function close(drawn, ix, iy) {
    const focus = drawn.filter((i) => !MUTE.has(data.kind[i]) && data.kind[i] !== "rejected");
    if (focus.length > 2) return focus;
    let kept = drawn;
    for (const k of [ix, iy]) {
      const sign = data.metrics[k].goal === "max" ? -1 : 1;
      const ranked = drawn.map((i) => sign * data.value[i][k]).sort((a, b) => a - b), worst = ranked[Math.floor(0.9 * (ranked.length - 1))];
      kept = kept.filter((i) => sign * data.value[i][k] <= worst);
    }
    return focus.concat(kept).length ? focus.concat(kept) : drawn;
  }
  // The spot beside a mark where a name covers the fewest other marks.
  function place([px, py], long, marks, width, floor) {
    const spots = [[16, 4], [10, 24], [10, -14], [-16 - long, 4], [-10 - long, 24], [-10 - long, -14]].map(([dx, dy]) => {
      const x = px + dx, y = py + dy, off = x < 60 || x + long > width || y < 34 || y > floor - 6;
      const covered = marks.filter(([mx, my]) => Math.abs(mx - x - long / 2) < long / 2 + 8 && Math.abs(my - y + 4) < 14);
      return { x, y, cost: (off ? 100 : 0) + covered.length };
    });
    return spots.reduce((best, spot) => (spot.cost < best.cost ? spot : best));
  }
  function axes(svg, across, up, x, y, width, height, edge) {
    const floor = height - edge.bottom;
    const title = (metric) => metric.label + (metric.unit ? `, ${metric.unit}` : "") + (metric.goal === "max" ? " (higher is better)" : " (lower is better)");
    let last = -1e9;
    for (const value of across.ticks(Math.max(2, Math.floor(width / 85)))) {
      const at = across(value);
      svg.append(shape("path", { class: "grid", d: `M${at},${floor}V${edge.top}` }));
      if (at - last < 38) continue;
      last = at;
      svg.append(shape("text", { x: at, y: floor + 16, "text-anchor": "middle" }, tick(x, value)));
    }
    last = 1e9;
    for (const value of up.ticks(Math.max(3, Math.floor(height / 52)))) {
      const at = up(value);
      svg.append(shape("path", { class: "grid", d: `M${edge.left},${at}H${width - edge.right}` }));
      if (last - at < 15) continue;
      last = at;
      svg.append(shape("text", { x: edge.left - 8, y: at + 4, "text-anchor": "end" }, tick(y, value)));
    }
    svg.append(shape("path", { class: "frame", d: `M${edge.left},${floor}H${width - edge.right}` }),
      shape("text", { class: "title", x: 10, y: 20 }, "↑ " + title(y)),
      shape("text", { class: "title", x: width - edge.right, y: height - 10, "text-anchor": "end" }, title(x) + " →"));
  }
  function limits(svg, across, up, x, y, width, height, edge) {
    const right = width - edge.right, floor = height - edge.bottom;
    if (x.limit !== null && across.holds(x.limit)) {
      const at = across(x.limit), low = x.goal === "max";
      svg.append(shape("rect", { class: "beyond", x: low ? edge.left : at, y: edge.top, width: Math.max(0, low ? at - edge.left : right - at), height: floor - edge.top }),
        shape("path", { class: "limit", d: `M${at},${floor}V${edge.top}` }),
        shape("text", { class: "limit-name", x: at - 6, y: edge.top + 14, "text-anchor": "end" }, `limit ${brief(amount(x, x.limit))}`));
    }
    if (y.limit !== null && up.holds(y.limit)) {
      const at = up(y.limit), low = y.goal === "max";
      svg.append(shape("rect", { class: "beyond", x: edge.left, y: low ? at : edge.top, width: right - edge.left, height: Math.max(0, low ? floor - at : at - edge.top) }),
        shape("path", { class: "limit", d: `M${edge.left},${at}H${right}` }),
        shape("text", { class: "limit-name", x: right - 4, y: at + (at > floor - 24 ? -6 : 15), "text-anchor": "end" }, `limit ${brief(amount(y, y.limit))}`));
    }
  }
  function stairs(svg, marks, ix, iy, x, y) {
    const sign = (metric) => (metric.goal === "max" ? -1 : 1);
    const ranked = marks.slice().sort((a, b) => sign(x) * (data.value[a.i][ix] - data.value[b.i][ix]) || sign(y) * (data.value[a.i][iy] - data.value[b.i][iy]));
    const best = [];
    for (const mark of ranked)
      if (!best.length || sign(y) * (data.value[mark.i][iy] - data.value[best[best.length - 1].i][iy]) < 0) best.push(mark);
    if (best.length > 1)
      svg.append(shape("path", { class: "stairs", d: best.map(({ at }, k) => (k ? `H${at[0]}V${at[1]}` : `M${at[0]},${at[1]}`)).join("") }));
  }
  function arrow(into, [ax, ay], [bx, by], kind) {
    const length = Math.hypot(bx - ax, by - ay);
    if (length < 14) return;
    const ux = (bx - ax) / length, uy = (by - ay) / length, ex = bx - 9 * ux, ey = by - 9 * uy;
    const barb = (turn) => `M${ex},${ey}L${ex - 6 * ux + turn * 3 * uy},${ey - 6 * uy - turn * 3 * ux}`;
    into.append(shape("path", { class: `step ${kind}`, d: `M${ax},${ay}L${ex},${ey}${barb(1)}${barb(-1)}` }));
  }

  // ---- pointing at networks
  function listen(svg) {
    const seek = (event, reach) => {
      const frame = svg.getBoundingClientRect(), zoom = svg.viewBox.baseVal.width / frame.width;
      const px = (event.clientX - frame.left) * zoom, py = (event.clientY - frame.top) * zoom;
      let best = null, gap = reach;
      for (const mark of plotted) {
        const far = Math.hypot(mark.at[0] - px, mark.at[1] - py) + (MUTE.has(data.kind[mark.i]) ? 3 : 0);
        if (far <= gap) { gap = far; best = mark; }
      }
      if (best) pick(best.i, true);
    };
    svg.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") seek(event, 22); });
    svg.addEventListener("click", (event) => seek(event, 32));
    svg.addEventListener("keydown", (event) => {
      const turn = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!turn || !plotted.length) return;
      event.preventDefault();
      const line = plotted.slice().sort((a, b) => a.at[0] - b.at[0] || a.i - b.i), at = line.findIndex((mark) => mark.i === picked);
      pick(line[(at + turn + line.length) % line.length].i, true);
    });
  }
  function pick(i, redraw) {
    if (redraw && i === picked) return;
    picked = i;
    const mark = plotted.find((one) => one.i === i), pointer = get("pointer");
    if (pointer) {
      pointer.setAttribute("visibility", mark ? "visible" : "hidden");
      if (mark) { pointer.setAttribute("cx", mark.at[0]); pointer.setAttribute("cy", mark.at[1]); }
    }
    for (const row of document.querySelectorAll("tr[data-network]"))
      row.classList.toggle("picked", row.dataset.network === data.name[i]);
    describe(i);
  }
  function pairs(list) {
    const made = element("dl", "pairs");
    for (const [name, ...value] of list) made.append(element("div", "", element("dt", "", name), element("dd", "", ...value)));
    return made;
  }
  function describe(i) {
    if (data.value[i] === undefined) return;
    const before = data.before[i], changed = (k) => before && before[k] !== null && before[k] !== data.value[i][k];
    const inner = [element("h3", "", data.name[i]),
      element("p", "small", [data.kinds[data.kind[i]], data.knee.includes(i) ? "the knee" : ""].filter(Boolean).join(", ")),
      pairs(data.metrics.map((metric, k) => data.value[i][k] === null ? null : [metric.label, changed(k) ? amount(metric, before[k]) + " → " : "", element("b", "", amount(metric, data.value[i][k]))]).filter(Boolean))];
    for (const note of data.notes[i] || []) inner.push(element("p", "small", note));
    const chosen = Object.entries(data.choices[i] || {});
    if (chosen.length) inner.push(element("h4", "", "choices"), pairs(chosen.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)])));
    detail.replaceChildren(...inner);
    detail.scrollTop = 0;
  }

  // ---- sorting the table of the front
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => {
      if (!column) return;
      const button = element("button", "", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
        const key = (row) => (row.cells[column].dataset.value === "" ? Infinity : +row.cells[column].dataset.value);
        body.append(...[...body.rows].sort((a, b) => turn * (key(a) - key(b)) || 0));
      });
    });
    const show = (event) => {
      const row = event.target.closest("tr[data-network]");
      if (row) pick(data.name.indexOf(row.dataset.network), true);
    };
    body.addEventListener("click", show);
  }

  if (!data.metrics.length || !data.value.length) return;
  get("controls").hidden = false;
  detail.hidden = false;
  for (const id of ["x", "y", "view", "logx", "logy"]) get(id).addEventListener("change", draw);
  let size = 0;
  function fit() {
    if (chart.clientWidth === size) return;
    size = chart.clientWidth;
    draw();
    detail.style.maxHeight = window.matchMedia("(min-width: 821px)").matches ? `${chart.offsetHeight}px` : "";
  }
  // A frame later: drawing inside the notification would resize what is being observed.
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(chart);
  fit();
  window.addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
})();
