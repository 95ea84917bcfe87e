// Hide series by their legend, and zoom into a panel. The page is complete without it; printing and files need nothing of it.
// A panel's axes say in data-x and data-y where they lie (pixels), what they span, and how their numbers are written. Zooming
// moves the absolute coordinates (capital letters in paths) and leaves sizes alone: dots stay round, ticks are found anew.
const figures = (() => {
  const MOST = 200;  // times; closer than that dots of one seed stand alone
  const hidden = new Set();  // what the reader did outlives the page's own news (live.js)
  const views = new Map();

  const made = (name, attributes, text = "") => {
    const found = document.createElementNS(document.querySelector("svg").namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    found.textContent = text;
    return found;
  };
  const button = (text, label, act) => {
    const found = document.createElement("button");
    found.type = "button";
    found.textContent = text;
    if (label) { found.setAttribute("aria-label", label); found.title = label; }
    found.addEventListener("click", act);
    return found;
  };

  // series

  const series = (figure, key) => {
    const items = [...figure.querySelectorAll(".legend li")];
    const show = () => {
      const off = new Set(items.flatMap((item, at) => hidden.has(`${key} ${item.textContent}`) ? [String(at)] : []));
      for (const mark of figure.querySelectorAll("[data-s]")) {
        mark.classList.toggle("off", mark.dataset.s.split(" ").some((name) => off.has(name)));
      }
      items.forEach((item, at) => item.firstChild.setAttribute("aria-pressed", String(!off.has(String(at)))));
    };
    for (const item of items) {
      const name = `${key} ${item.textContent}`;
      const toggle = button("", "", () => { if (!hidden.delete(name)) hidden.add(name); show(); });
      toggle.title = "show or hide";
      toggle.dataset.key = name;
      toggle.append(...item.childNodes);
      item.append(toggle);
    }
    if (items.length) show();
  };

  // zoom

  const axisOf = (words) => {
    const [start, end, low, high, log, kind] = words.split(" ");
    return { start: +start, end: +end, low: +low, high: +high, log: log === "log", si: kind === "si" };
  };
  const valueAt = (axis, share) => axis.log
    ? axis.low * (axis.high / axis.low) ** share
    : axis.low + (axis.high - axis.low) * share;
  const shareOf = (axis, value) => axis.log
    ? Math.log(value / axis.low) / Math.log(axis.high / axis.low)
    : (value - axis.low) / (axis.high - axis.low);
  const moved = (axis, [from, to]) => (pixel) => {
    const length = axis.end - axis.start;
    return axis.start + (((pixel - axis.start) / length - from) / (to - from)) * length;
  };
  const written = (value, step, si) => {
    const letters = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]];
    const [letter, unit] = (si && letters.find(([, size]) => Math.abs(value) >= size)) || ["", 1];
    if (!letter && value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)) return value.toExponential(2);
    const decimals = Math.min(12, Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9)));
    const text = (value / unit).toFixed(decimals);
    return (text.includes(".") ? text.replace(/\.?0+$/, "") : text).replace("-", "−") + letter;
  };
  const ticks = (low, high, log, most) => {
    for (const mantissas of log && high / low >= 10 ? [[1, 2, 5], [1, 3], [1]] : []) {
      const found = [];
      for (let n = Math.floor(Math.log10(low)); n <= Math.log10(high); n += 1) {
        found.push(...mantissas.map((m) => [m * 10 ** n, 10 ** n]).filter(([v]) => low <= v && v <= high));
      }
      if (found.length <= most) return found;
    }
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999) ?? 10 * power;
    const first = Math.ceil(low / step), count = Math.floor(high / step) - first + 1;
    return Array.from({ length: Math.max(0, count) }, (_, i) => [(first + i) * step, step === 2.5 * power ? step / 10 : step]);
  };
  const gridOf = (x, y, view) => {
    const group = made("g", { class: "axes anew" });
    const at = (axis, shares, value) => moved(axis, shares)(axis.start + shareOf(axis, value) * (axis.end - axis.start));
    const most = (axis, room) => Math.max(3, Math.floor(Math.abs(axis.end - axis.start) / room));
    for (const [value, step] of ticks(valueAt(y, view.y[0]), valueAt(y, view.y[1]), y.log, most(y, 46))) {
      const level = at(y, view.y, value).toFixed(1);
      group.append(made("path", { class: "grid", d: `M${x.start} ${level}L${x.end} ${level}` }));
      group.append(made("text", { class: "number", "text-anchor": "end", x: x.start - 7, y: +level + 4 }, written(value, step, y.si)));
    }
    for (const [value, step] of ticks(valueAt(x, view.x[0]), valueAt(x, view.x[1]), x.log, most(x, 80))) {
      const place = at(x, view.x, value).toFixed(1);
      group.append(made("path", { class: "tick", d: `M${place} ${y.start}L${place} ${y.start + 4}` }));
      group.append(made("text", { class: "number", "text-anchor": "middle", x: place, y: y.start + 17 }, written(value, step, x.si)));
    }
    return group;
  };
  const clipped = (svg, x, y) => {
    let clip = svg.querySelector("clipPath");
    if (clip === null) {
      clip = made("clipPath", { id: `clip-${Math.random().toString(36).slice(2)}` });
      clip.append(made("rect", { x: x.start, y: y.end, width: x.end - x.start + 1, height: y.start - y.end + 1 }));
      svg.prepend(clip);
    }
    return `url(#${clip.id})`;
  };
  const first = new WeakMap();  // element -> its coordinates before any zoom
  const place = (element, name, change) => {
    const kept = first.get(element) ?? {};
    kept[name] ??= element.getAttribute(name);
    first.set(element, kept);
    element.setAttribute(name, change(kept[name]));
  };
  const drawn = (svg, view) => {
    const x = axisOf(svg.dataset.x), y = axisOf(svg.dataset.y), whole = view === null;
    const { x: xs, y: ys } = view ?? { x: [0, 1], y: [0, 1] };
    svg.classList.toggle("zoomed", !whole);
    svg.querySelector(".anew")?.remove();
    if (!whole) svg.querySelector(".axes").after(gridOf(x, y, view));
    const marks = svg.querySelector(".marks");
    if (whole) marks.removeAttribute("clip-path"); else marks.setAttribute("clip-path", clipped(svg, x, y));
    const same = (pixel) => pixel;
    for (const element of svg.querySelectorAll(".marks path, .marks circle, .marks text, .labels text")) {
      const fixed = element.closest("[data-fix]")?.dataset.fix ?? "";
      const across = fixed.includes("x") || whole ? same : moved(x, xs);
      const up = fixed.includes("y") || whole ? same : moved(y, ys);
      const number = (turn) => (text) => whole ? text : turn(+text).toFixed(1);
      if (element.tagName === "path") {
        place(element, "d", (d) => whole ? d : d.replace(/([ML])(-?[\d.]+) (-?[\d.]+)/g,
          (_, letter, px, py) => `${letter}${across(+px).toFixed(1)} ${up(+py).toFixed(1)}`));
      } else {
        const [h, v] = element.tagName === "circle" ? ["cx", "cy"] : ["x", "y"];
        place(element, h, number(across));
        place(element, v, number(up));
        const level = +element.getAttribute(v);
        if (element.closest(".labels")) element.classList.toggle("off", level < y.end || level > y.start + 6);
      }
    }
  };
  const within = ([from, to]) => {
    const width = Math.min(1, Math.max(1 / MOST, to - from));
    const begin = Math.min(1 - width, Math.max(0, (from + to - width) / 2));
    return [begin, begin + width];
  };
  const scaled = ([from, to], times) => {
    const middle = (from + to) / 2, half = (to - from) / 2 / times;
    return within([middle - half, middle + half]);
  };
  const zoom = (panel, key, title) => {
    const plots = [...panel.querySelectorAll("svg[data-x]")];
    if (plots.length === 0) return;
    const bar = document.createElement("div");
    const now = () => views.get(key) ?? { x: [0, 1], y: [0, 1] };
    const set = (view) => {
      const whole = view === null || (view.x[1] - view.x[0] > 0.999 && view.y[1] - view.y[0] > 0.999);
      if (whole) views.delete(key); else views.set(key, view);
      for (const svg of plots) drawn(svg, whole ? null : view);
      if (whole && [less, reset].includes(document.activeElement)) more.focus({ preventScroll: true });
      for (const back of [less, reset]) back.disabled = whole;
      more.disabled = !whole && view.x[1] - view.x[0] < 1.01 / MOST;
    };
    const by = (times) => () => set({ x: scaled(now().x, times), y: scaled(now().y, times) });
    const more = button("+", "zoom in", by(2)), less = button("−", "zoom out", by(0.5));
    const reset = button("reset", "", () => set(null));
    [more, less, reset].forEach((each, at) => { each.dataset.key = `${key} ${at}`; });
    bar.className = "zoom";
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", `Zoom of ${title}; arrow keys move`);
    bar.append(reset, less, more);
    bar.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (steps === undefined || !views.has(key)) return;
      event.preventDefault();
      const [x, y] = ["x", "y"].map((name, at) => now()[name].map((share) => share + (steps[at] * (now()[name][1] - now()[name][0])) / 4));
      set({ x: within(x), y: within(y) });
    });
    panel.prepend(bar);
    for (const svg of plots) drag(svg, now, set);
    set(views.get(key) ?? null);
  };
  const drag = (svg, now, set) => {
    const x = axisOf(svg.dataset.x), y = axisOf(svg.dataset.y);
    const at = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const inside = (value, a, b) => Math.min(Math.max(value, Math.min(a, b)), Math.max(a, b));
      return [inside(point.x, x.start, x.end), inside(point.y, y.start, y.end)];
    };
    let from = null, box = null;
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" || event.button !== 0) return;  // a finger scrolls the page
      event.preventDefault();
      from = at(event);
      box = made("rect", { class: "chosen" });
      svg.append(box);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = at(event);
      box.setAttribute("x", Math.min(from[0], to[0]));
      box.setAttribute("y", Math.min(from[1], to[1]));
      box.setAttribute("width", Math.abs(from[0] - to[0]));
      box.setAttribute("height", Math.abs(from[1] - to[1]));
    });
    const end = (event) => {
      if (from === null) return;
      const begin = from, to = at(event), view = now();
      box.remove();
      from = null;
      if (event.type !== "pointerup" || Math.abs(begin[0] - to[0]) < 8 || Math.abs(begin[1] - to[1]) < 8) return;
      const shares = (axis, [low, high], a, b) => within([a, b]
        .map((pixel) => low + ((pixel - axis.start) / (axis.end - axis.start)) * (high - low))
        .sort((one, other) => one - other));
      set({ x: shares(x, view.x, begin[0], to[0]), y: shares(y, view.y, begin[1], to[1]) });
    };
    svg.addEventListener("pointerup", end);
    svg.addEventListener("pointercancel", end);
    svg.addEventListener("dblclick", () => set(null));
  };

  return () => {
    for (const section of document.querySelectorAll("section")) {
      section.querySelectorAll("figure").forEach((figure, number) => {
        series(figure, `${section.id} ${number}`);
        [...figure.querySelectorAll(".panels > div")].forEach((panel, at) => {
          const title = panel.querySelector("h3")?.textContent ?? section.querySelector("h2").textContent;
          zoom(panel.lastElementChild, `${section.id} ${number} panel ${at}`, title);
        });
      });
    }
  };
})();
figures();
