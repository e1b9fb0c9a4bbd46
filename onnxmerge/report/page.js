// The panel of a group, the colours of the picture, and the button that copies. Text is put in as text alone.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, text = null, space = null) => {
    const element = space ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    return element;
  };
  const draw = (parent, name, attributes, text = null) => parent.append(make(name, attributes, text, SVG));
  const shade = (value) => `--v:${Math.max(0, Math.min(100, value / 10))}%`;

  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
  for (const choice of document.querySelectorAll(".choice")) {
    choice.hidden = false;
    choice.addEventListener("change", (event) => {
      document.getElementById("pictures").dataset.colour = event.target.value;
    });
  }
  if (!data) return;

  const panel = document.getElementById("panel");
  let current = 0, other = 0;

  const figure = (title, about, width, height) => {
    const box = make("figure"), picture = make("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${about}`}, null, SVG);
    box.append(make("h3", {}, title), picture, make("figcaption", {}, about));
    return [box, picture];
  };
  const mean = (bins) => {
    const all = bins.reduce((sum, count) => sum + count, 0);
    return all ? bins.reduce((sum, count, index) => sum + count * ((2 * index + 1) / bins.length - 1), 0) / all : NaN;
  };
  const told = (value) => Number.isFinite(value) ? value.toFixed(2) : "not known";
  const axes = (picture, left, top, right, bottom, ticks) => {
    for (const [place, name] of ticks) {
      draw(picture, "path", {class: "grid", d: `M${place} ${top}V${bottom}`});
      draw(picture, "text", {x: place, y: bottom + 14, "text-anchor": "middle"}, name);
    }
    draw(picture, "path", {class: "axis", d: `M${left} ${bottom}H${right}`});
  };

  const histogram = (title, [before, after]) => {
    const all = after.reduce((sum, count) => sum + count, 0);
    const about = `Filled: in the order they came, mean ${before ? told(mean(before)) : "not known"}. Line: as matched, mean ${told(mean(after))}.`;
    const [box, picture] = figure(title, about, 320, 180);
    const most = Math.max(1, ...after, ...(before || []));
    const x = (index) => 12 + 296 * index / after.length, y = (count) => 152 - 140 * count / most;
    axes(picture, 12, 10, 308, 152, [-1, -0.5, 0, 0.5, 1].map((v) => [160 + 148 * v, `${v}`]));
    const outline = (bins) => bins.map((count, index) => `V${y(count).toFixed(1)}H${x(index + 1).toFixed(1)}`).join("");
    if (before) draw(picture, "path", {class: "before", d: `M12 152${outline(before)}V152z`});
    if (all) draw(picture, "path", {class: "after", d: `M12 152${outline(after)}V152`});
    return box;
  };

  const scatter = (pair) => {
    const [xs, ys] = pair.points;
    const about = "One point for a pair of matched units: similarity of weights to the right, of activations upwards"
      + (pair.near ? "; the darker or brighter, the more alike the merged unit is to its parents." : ".");
    const [box, picture] = figure("Weights against activations", about, 320, 300);
    const x = (v) => 40 + 268 * (v / 1000 + 1) / 2, y = (v) => 270 - 258 * (v / 1000 + 1) / 2;
    axes(picture, 40, 12, 308, 270, [-1, 0, 1].map((v) => [x(1000 * v), `${v}`]));
    for (const v of [-1, 0, 1]) {
      draw(picture, "path", {class: "grid", d: `M40 ${y(1000 * v)}H308`});
      draw(picture, "text", {x: 34, y: y(1000 * v) + 4, "text-anchor": "end"}, `${v}`);
    }
    xs.forEach((value, index) => {
      if (value === null || ys[index] === null) return;
      const near = pair.near && pair.near[index] !== null ? pair.near[index] : 800;
      draw(picture, "circle", {class: "point", cx: x(value).toFixed(1), cy: y(ys[index]).toFixed(1), r: 3.2, style: shade(near)});
    });
    return box;
  };

  const matrix = (pair) => {
    const size = pair.outer.length, cell = 280 / size;
    const about = `Each of ${size} units of the first (rows) with each of the other (columns), their inner units at the best order. Most in a row: `
      + pair.outer.map((row) => (Math.max(...row) / 1000).toFixed(2)).slice(0, 12).join(", ") + ".";
    const [box, picture] = figure("Heads", about, 300, 300);
    pair.outer.forEach((row, i) => row.forEach((value, j) => {
      draw(picture, "rect", {class: "cell", x: 10 + cell * j, y: 10 + cell * i, width: cell - 1, height: cell - 1, style: shade(value)});
      if (size <= 8) draw(picture, "text", {x: 10 + cell * (j + .5), y: 14 + cell * (i + .5), "text-anchor": "middle", style: "fill:var(--ink)"}, (value / 1000).toFixed(2));
    }));
    return box;
  };

  const show = (index, focus) => {
    current = (index + data.groups.length) % data.groups.length;
    const group = data.groups[current], pair = group.pairs[Math.min(other, group.pairs.length - 1)];
    panel.hidden = false;
    panel.replaceChildren();
    panel.append(make("h3", {}, `${group.id}${group.name ? `: ${group.name}` : ""}`));
    const row = make("div", {class: "row"});
    for (const [name, step] of [["Previous group", -1], ["Next group", 1]]) {
      const button = make("button", {type: "button"}, name);
      button.addEventListener("click", () => show(current + step, false));
      row.append(button);
    }
    if (group.pairs.length > 1) {
      const label = make("label", {}, `${data.names[0]} with `), select = make("select");
      group.pairs.forEach((_, place) => {
        const option = make("option", {value: place}, data.names[place + 1]);
        option.selected = place === other;
        select.append(option);
      });
      select.addEventListener("change", () => { other = Number(select.value); show(current, false); });
      label.append(select);
      row.append(label);
    }
    const partner = data.names[Math.min(other, group.pairs.length - 1) + 1];
    const rest = pair.paired < pair.units ? "; the others were merged inside their own model, or kept apart" : "";
    row.append(make("span", {}, `${pair.paired} of ${pair.units} units have a partner in ${partner}${rest}`));
    panel.append(row);
    const charts = make("div", {class: "charts"});
    if (pair.weights) charts.append(histogram("Similarity of weights", pair.weights));
    if (pair.activations) charts.append(histogram("Similarity of activations", pair.activations));
    if (pair.points) charts.append(scatter(pair));
    if (pair.outer) charts.append(matrix(pair));
    if (!charts.childElementCount) charts.append(make("p", {}, "Nothing was measured of this group."));
    panel.append(charts);
    for (const each of document.querySelectorAll("tr.chosen")) each.classList.remove("chosen");
    const line = document.getElementById(`group-${group.id}`);
    if (line) line.classList.add("chosen");
    if (focus) { panel.scrollIntoView({block: "nearest"}); panel.focus({preventScroll: true}); }
  };

  const go = () => {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const index = data.groups.findIndex((group) => `group-${group.id}` === id);
    if (index >= 0) show(index, true);
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#group-']");
    if (link && (link.getAttribute("href") || "") === location.hash) go();
  });
  addEventListener("hashchange", go);
  if (location.hash.startsWith("#group-")) go(); else show(0, false);
})();
