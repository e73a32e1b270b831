// Draws the charts of a report with uPlot, from the figures in the page; in the colours of the page's scheme.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const HEIGHT = 240;
  const charts = [];

  const axis = (label, values, size) => ({
    label, values, size, labelSize: 22, labelGap: 2,
    stroke: () => colour("--soft"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { stroke: () => colour("--line"), width: 1 },
  });
  const line = (label, number, more) => ({
    label, width: 1.6, points: { show: false }, stroke: () => colour(`--c${number % 7}`), ...more,
  });
  const unit = (divisor, digits) => (_, splits) => splits.map((v) => (v == null ? "" : (v / divisor).toFixed(digits)));
  const shown = (divisor, digits, word) => (_, v) => (v == null ? "–" : `${(v / divisor).toFixed(digits)}${word}`);
  const seconds = (_, v) => (v == null ? "–" : `${v.toFixed(2)} s`);
  const digits = (most, divisor) => (most / divisor >= 20 ? 0 : most / divisor >= 2 ? 1 : 2);
  const MIB = 1048576;
  const inMib = (list) => list.map((v) => (v == null ? v : v / MIB));
  const most = (...lists) => Math.max(1e-9, ...lists.flat().filter(Number.isFinite));

  function draw(id, options, data) {
    const place = document.getElementById(id);
    if (!place) return;
    const width = () => Math.max(200, place.clientWidth);
    const chart = new uPlot({
      width: width(), height: HEIGHT, padding: [12, 14, 0, 0], cursor: { drag: { x: true, y: false } }, ...options,
    }, data, place);
    charts.push(() => chart.setSize({ width: width(), height: HEIGHT }));
  }

  // Each sample is of the time before it: so the first value holds from the beginning on.
  const t = [0, ...figures.t];
  const from0 = (list) => [list[0], ...list];
  const time = (label, value) => ({ label, value });
  const timeAxis = axis("seconds", unit(1, digits(most(t), 1)), 44);
  const overTime = (y, series) => ({
    scales: { x: { time: false }, y },
    axes: [timeAxis, ...series.axes],
    series: [time("at", seconds), ...series.lines],
  });

  if (figures.t.length > 1) {
    const rates = from0(inMib(figures.rate));
    draw("throughput", overTime({ range: [0, most(rates) * 1.08] }, {
      axes: [axis("MiB/s", unit(1, digits(most(rates), 1)), 58)],
      lines: [line("content", 0, { value: shown(1, 1, " MiB/s"), fill: () => `${colour("--c0")}22` })],
    }), [t, rates]);
    const share = { range: [0, 1.02] };
    const percent = axis("%", unit(0.01, 0), 50);
    const colours = new Map(figures.stages.map((stage, number) => [stage.name, number]));
    for (const [id, key] of [["utilization", "utilization"], ["queues", "queue"]]) {
      const stages = figures.stages.filter((stage) => stage[key]);
      draw(id, overTime(share, {
        axes: [percent],
        lines: stages.map((stage) => line(stage.name, colours.get(stage.name), { value: shown(0.01, 0, " %") })),
      }), [t, ...stages.map((stage) => from0(stage[key]))]);
    }
    const limits = [];
    if (figures.budget) limits.push(["buffers at most", figures.budget / MIB, 1]);
    if (figures.planned) limits.push(["planned peak", figures.planned / MIB, 0]);
    const memory = from0(inMib(figures.memory));
    const value = shown(1, 0, " MiB");
    draw("memory", overTime({ range: [0, most(memory, limits.map(([, at]) => at)) * 1.08] }, {
      axes: [axis("MiB", unit(1, 0), 58)],
      lines: [
        line("resident", 0, { value }),
        line("buffers", 1, { value }),
        ...limits.map(([label, , number]) => line(label, number, { value, dash: [6, 5] })),
      ],
    }), [t, memory, from0(inMib(figures.buffers)), ...limits.map(([, at]) => t.map(() => at))]);
  }

  // HdrHistogram's plot: the x axis is 1 / (1 - percentile), logarithmic.
  if (figures.curves.length > 0) {
    const xs = [...new Set(figures.curves.flatMap((curve) => curve.at))].sort((a, b) => a - b);
    const highest = most(xs);
    const ys = figures.curves.map((curve) => {
      const known = new Map(curve.at.map((at, i) => [at, curve.us[i]]));
      return xs.map((x) => (known.has(x) ? Math.max(known.get(x), 1e-3) : undefined));
    });
    const percentile = (x) => {
      const p = 100 - 100 / x;
      return p === 0 ? "0" : p.toFixed(Math.max(0, Math.min(6, Math.ceil(Math.log10(x)) - 2)));
    };
    const micros = (v) => (v >= 1e6 ? `${v / 1e6} s` : v >= 1e3 ? `${v / 1e3} ms` : v >= 1 ? `${v} µs` : `${v * 1e3} ns`);
    const powers = (low, high) => {
      const splits = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) splits.push(10 ** e);
      return splits;
    };
    const values = ys.flat().filter(Number.isFinite);
    const low = 10 ** Math.floor(Math.log10(Math.min(...values)));
    const high = Math.max(low * 10, 10 ** Math.ceil(Math.log10(Math.max(...values))));
    draw("latency", {
      scales: { x: { time: false, distr: 3, range: [1, Math.max(10, highest)] }, y: { distr: 3, range: [low, high] } },
      axes: [
        { ...axis("percentile", (_, splits) => splits.map((x) => (x == null ? "" : `${percentile(x)} %`)), 44),
          splits: () => powers(1, Math.max(10, highest)).filter((x) => x <= Math.max(10, highest)) },
        { ...axis("", (_, splits) => splits.map((v) => (v == null ? "" : micros(Number(v.toPrecision(3))))), 62),
          splits: () => powers(low, high) },
      ],
      series: [
        time("percentile", (_, x) => (x == null ? "–" : `${percentile(x)} %`)),
        ...figures.curves.map((curve) => line(curve.name, figures.stages.findIndex((s) => s.name === curve.name), {
          spanGaps: true, value: (_, v) => (v == null ? "–" : micros(Number(v.toPrecision(3)))),
        })),
      ],
    }, [xs, ...ys]);
  }

  // The sweep: speed by size; the front is a line.
  if (figures.sweep.length > 0) {
    const points = figures.sweep.map((p) => ({ ...p, rate: p.rate && p.rate / MIB, predicted: p.predicted / MIB })).sort((a, b) => a.size - b.size || a.rate - b.rate);
    const xs = points.map((p) => p.size * 100);
    const front = points.filter((p) => p.pareto);
    const dots = (label, number, more) => line(label, number, {
      value: shown(1, 1, " MiB/s"), paths: () => null,
      points: { show: true, size: 7, fill: () => colour(`--c${number}`) }, ...more,
    });
    const rates = points.flatMap((p) => [p.rate, p.predicted]);
    draw("pareto", {
      scales: { x: { time: false }, y: { range: [0, most(rates) * 1.08] } },
      axes: [axis("% of the content's size", unit(1, 1), 44), axis("MiB/s", unit(1, 0), 58)],
      series: [
        time("size", (_, v) => (v == null ? "–" : `${v.toFixed(1)} %`)),
        dots("measured", 1),
        line("best", 0, { spanGaps: true, value: shown(1, 1, " MiB/s"), points: { show: true, size: 9 } }),
        dots("predicted", 4, { points: { show: true, size: 5, stroke: () => colour("--c4") } }),
      ],
    }, [xs, points.map((p) => p.rate), points.map((p) => (front.includes(p) ? p.rate : undefined)),
      points.map((p) => p.predicted)]);
  }

  addEventListener("resize", () => charts.forEach((resize) => resize()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((resize) => resize()));
})();
