// Draws every figure of the page with plotly, in the colours of the reader's scheme; several in one place get tabs.
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)"), fine = matchMedia("(pointer: fine)");
const options = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };

function theme() {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), tickcolor: colour("--line"), tickfont: { color: colour("--muted"), size: 11 },
    title: { font: { color: colour("--muted"), size: 12 } } };
  const bar = { colorbar: { tickfont: { color: colour("--muted"), size: 11 } } };
  return {
    layout: {
      font: { family: getComputedStyle(document.body).fontFamily, color: colour("--text"), size: 12 },
      paper_bgcolor: "transparent", plot_bgcolor: "transparent", xaxis: axis, yaxis: axis,
      modebar: { bgcolor: "transparent", color: colour("--muted"), activecolor: colour("--text") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text"), size: 12 }, align: "left" },
    },
    data: { heatmap: [bar] },
  };
}

function draw(plot) {
  const { data, layout } = plot.figures[plot.shown];
  return Plotly.react(plot.canvas, data, { ...layout, template: theme(), autosize: true, dragmode: fine.matches ? "zoom" : false }, options);
}

function set_up(place) {
  const figures = JSON.parse(place.querySelector("script").textContent), names = Object.keys(figures);
  const plot = { figures, shown: names[0], canvas: Object.assign(document.createElement("div"), { className: "canvas" }) };
  if (names.length > 1) {
    const tabs = Object.assign(document.createElement("div"), { className: "tabs" });
    for (const name of names) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.setAttribute("aria-pressed", name === plot.shown);
      button.onclick = () => {
        plot.shown = name;
        for (const other of tabs.children) other.setAttribute("aria-pressed", other === button);
        draw(plot);
      };
      tabs.append(button);
    }
    place.append(tabs);
  }
  place.append(plot.canvas);
  return plot;
}

// A pause before each figure keeps the page alive while many are drawn.
(async () => {
  const plots = [...document.querySelectorAll(".chart")].map(set_up);
  dark.addEventListener("change", () => plots.forEach(draw));
  for (const plot of plots) {
    await new Promise(resume => setTimeout(resume));
    await draw(plot);
  }
  document.documentElement.dataset.drawn = plots.length;
})();
