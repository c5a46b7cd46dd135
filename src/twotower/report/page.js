"use strict";
(async () => {
  const place = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(place(id).textContent);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  // The library is packed, which makes the page half as large.
  async function unpack() {
    const bytes = Uint8Array.from(atob(place("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // Plotly would take <b> for bold.
  const plain = (text) =>
    text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

  const short = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

  // Of middle tones, which are seen by day and by night; the last is for none of these.
  const tones = ["#2f7de1", "#d9730d", "#2c9a5b", "#db4b4b", "#9a6ae0", "#1799a3", "#c94f9b",
    "#94712f", "#6f8f1a"];
  const grey = "#7f8996";
  const scale = [[0, "#2f7de1"], [0.5, "#b054c0"], [1, "#d96a14"]];

  function traces(items, colouring, kind, size) {
    const texts = items.about.map((about, n) =>
      `${plain(about || items.ids[n])}<br>${plain(items.ids[n])} · met ${items.met[n]} times`);
    const some = (chosen, marker, more) => ({
      type: kind, mode: "markers", hoverinfo: "text",
      x: chosen.map((n) => items.x[n]), y: chosen.map((n) => items.y[n]),
      text: chosen.map((n) => texts[n]),
      marker: { size, opacity: 0.8, line: { width: 0 }, ...marker }, ...more,
    });
    const every = items.x.map((_, n) => n);
    if (colouring.labels) {
      const names = [...colouring.labels, "others"];
      return names
        .map((name, code) => [name, code, every.filter((n) => colouring.values[n] === code)])
        .filter(([, , chosen]) => chosen.length)
        .sort((one, other) => other[1] - one[1])
        .map(([name, code, chosen]) =>
          some(chosen, { color: tones[code < colouring.labels.length ? code : -1] || grey },
            { name: plain(short(name, 24)), legendrank: code }));
    }
    const there = every.filter((n) => colouring.values[n] !== null);
    const missing = every.filter((n) => colouring.values[n] === null);
    const ticks = colouring.ticks && {
      tickvals: colouring.ticks.map(([value]) => value),
      ticktext: colouring.ticks.map(([, text]) => text),
    };
    return [
      ...(missing.length ? [some(missing, { color: grey }, { showlegend: false })] : []),
      some(there, {
        color: there.map((n) => colouring.values[n]), colorscale: scale,
        cmin: colouring.low, cmax: colouring.high,
        colorbar: { title: { text: plain(short(colouring.name, 24)) }, thickness: 12, outlinewidth: 0,
          orientation: "h", y: 1.01, yanchor: "bottom", len: 0.6, ...ticks },
      }, { showlegend: false }),
    ];
  }

  // Rings with numbers, and what each number is: names would lie on one another.
  function named(items, word) {
    const chosen = items.x.map((_, n) => n).filter((n) =>
      items.ids[n].toLowerCase() === word || items.about[n].toLowerCase().includes(word));
    const shown = chosen.slice(0, 12);
    const names = shown.map((n, k) => `${k + 1} ${items.about[n].split(" · ")[0] || items.ids[n]}`);
    const more = chosen.length > shown.length ? "; …" : "";
    const said = chosen.length ? `${chosen.length} found: ${names.join("; ")}${more}` : "none found";
    return [said, {
      type: "scatter", mode: "markers+text", hoverinfo: "skip", showlegend: false,
      x: shown.map((n) => items.x[n]), y: shown.map((n) => items.y[n]),
      text: shown.map((_, k) => `<b>${k + 1}</b>`), textposition: "top center",
      marker: { size: 14, color: "rgba(0,0,0,0)", line: { width: 2.5, color: "#e2711d" } },
    }];
  }

  function draw(items) {
    const [chart, colour, find] = [place("atlas"), place("colour"), place("find")];
    const canvas = document.createElement("canvas");
    // The faster kind where it pays and is there.
    const many = items.x.length > 3000 && canvas.getContext("webgl");
    const size = Math.max(3, Math.min(8, 14 - 2.4 * Math.log10(items.x.length)));
    const axis = { visible: false };
    const layout = {
      height: Math.max(360, Math.min(640, 0.75 * window.innerHeight, 90 + 0.8 * chart.clientWidth)),
      margin: { l: 0, r: 32, t: 70, b: 10 }, hovermode: "closest", dragmode: "pan",
      modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis,
      yaxis: { ...axis, scaleanchor: "x" }, font: { family: "system-ui, sans-serif", size: 13 },
      hoverlabel: { align: "left" }, showlegend: true,
      legend: { orientation: "h", y: 1.01, yanchor: "bottom", itemsizing: "constant" },
      // What was zoomed stays so when the colours change.
      uirevision: "one",
    };
    const again = () => {
      const drawn = traces(items, items.colourings[Number(colour.value)],
        many ? "scattergl" : "scatter", size);
      const word = find.value.trim().toLowerCase();
      const [said, rings] = word ? named(items, word) : ["", []];
      place("found").textContent = said;
      return Plotly.react(chart, drawn.concat(rings), layout, {
        ...config, displayModeBar: true,
        modeBarButtons: [["zoomIn2d", "zoomOut2d", "pan2d", "resetScale2d", "toImage"]],
      });
    };
    colour.addEventListener("change", again);
    find.addEventListener("input", again);
    find.form.addEventListener("submit", (event) => event.preventDefault());
    return again();
  }

  await unpack();
  const figures = read("figures");
  for (const chart of document.querySelectorAll("[data-figure]")) {
    const { data, layout } = figures[chart.dataset.figure];
    await Plotly.newPlot(chart, data, layout, config);
  }
  const items = read("items");
  if (items) await draw(items);
  place("undrawn").remove();
  document.documentElement.dataset.drawn = "";
})();
