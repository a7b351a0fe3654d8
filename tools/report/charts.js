// Draws the charts. Every figure holds its numbers as JSON, from which come the drawing (Chart.js, where this page has
// it) and the table below it. A chart is drawn when it comes near the window, so that a page of many opens at once.
'use strict';
(() => {
  const marks = ['circle', 'rect', 'triangle', 'rectRot', 'star', 'crossRot', 'rectRounded', 'cross'];
  const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2]];
  const variable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // A series that is an expert has the expert's colour and dashes; `quiet` and `bound` are for what others are read against.
  const styles = {
    full: {colour: () => `rgb(${variable('--full')})`, dash: []},
    linear: {colour: () => `rgb(${variable('--linear')})`, dash: [2, 3]},
    local: {colour: () => `rgb(${variable('--local')})`, dash: [8, 4]},
    quiet: {colour: () => variable('--soft'), dash: [], width: 1},
    bound: {colour: () => variable('--ink'), dash: [6, 4]},
  };
  const styleOf = (series, index) => styles[series.style] ||
      {colour: () => variable(`--series-${index % 8}`), dash: dashes[Math.floor(index / 8 + index) % dashes.length]};

  const compact = new Intl.NumberFormat('en', {notation: 'compact', maximumSignificantDigits: 3});
  // Eight colours and eight marks; the ninth series has the first colour, and another mark.
  const markOf = index => marks[(index + Math.floor(index / 8)) % marks.length];

  const digits = value => typeof value !== 'number' ? value :
      value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) :
      Math.abs(value) >= 1e5 ? compact.format(value) : String(+value.toPrecision(5));
  // Of a logarithmic axis 1, 2 and 5 times a power of ten, if there are any.
  const roundTicks = axis => {
    const round = axis.ticks.filter(tick => /^[125](\.0*)?e/.test(tick.value.toExponential()));
    if (round.length > 1) axis.ticks = round;
  };
  const full = (series, point) => {
    const details = [series.detail, point.label].filter(Boolean).join(', ');
    return series.name + (details ? ` (${details})` : '');
  };
  // "ours: 1.234 [1.2, 1.3]; attention FLOPs 12"
  const pointText = (spec, series, point) => {
    const interval = point.low === undefined ? '' : ` [${digits(point.low)}, ${digits(point.high)}]`;
    const value = spec.errors === 'x' ? point.x : point.y, other = spec.errors === 'x' ? point.y : point.x;
    return `${full(series, point)}: ${digits(value)}${interval}; ` +
        `${spec.errors === 'x' ? '' : spec.x.title + ' '}${digits(other)}`;
  };

  // Intervals as bars through their points: Chart.js has none of its own.
  const intervals = {
    id: 'intervals',
    afterDatasetsDraw(chart) {
      const {ctx, scales} = chart, along = chart.options.errors;
      chart.data.datasets.forEach((dataset, d) => {
        if (!chart.isDatasetVisible(d)) return;
        ctx.save();
        ctx.strokeStyle = dataset.borderColor;
        ctx.lineWidth = 1.5;
        ctx.beginPath();
        chart.getDatasetMeta(d).data.forEach((mark, i) => {
          const {low, high} = dataset.data[i];
          if (low === undefined) return;
          const [a, b] = [low, high].map(value => scales[along].getPixelForValue(value));
          if (along === 'x') { ctx.moveTo(a, mark.y); ctx.lineTo(b, mark.y); } else { ctx.moveTo(mark.x, a); ctx.lineTo(mark.x, b); }
        });
        ctx.stroke();
        ctx.restore();
      });
    },
  };

  const axisOptions = axis => ({
    type: axis.labels ? 'category' : axis.scale, title: {display: true, text: axis.title, color: variable('--soft')},
    ...(axis.labels ? {labels: axis.labels, offset: true} : {}), grid: {color: variable('--rule')},
    ticks: axis.labels ? {autoSkip: false, color: variable('--soft')} : {maxTicksLimit: 8, maxRotation: 0, color: variable('--soft'), callback: digits},
    ...(axis.scale === 'logarithmic' ? {afterBuildTicks: roundTicks} : {}),
  });

  function make(canvas, spec) {
    // Series of one name share their colour and mark, and one entry of the legend.
    const names = [...new Set(spec.series.map(series => series.name))];
    const kinds = spec.series.map(series => names.indexOf(series.name));
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    Object.assign(Chart.defaults, {color: variable('--ink'), borderColor: variable('--rule')});
    return new Chart(canvas, {
      type: 'line',
      data: {datasets: spec.series.map((series, s) => {
        const style = styleOf(series, kinds[s]), colour = style.colour();
        return {
          label: series.name, data: series.points, showLine: series.line, pointStyle: series.style === 'bound' ? 'line' : markOf(kinds[s]),
          pointRadius: !series.line ? 5 : series.points.length > 30 || series.style === 'bound' ? 0 : 3, pointHoverRadius: 8,
          pointHitRadius: 8, borderColor: colour, backgroundColor: colour, borderWidth: style.width || 2,
          borderDash: series.line ? style.dash : [], pointBorderWidth: 2,
        };
      })},
      options: {
        animation: still ? false : {duration: 200}, maintainAspectRatio: false, parsing: false, normalized: true,
        errors: spec.errors, interaction: {mode: 'nearest', intersect: false},
        scales: {x: axisOptions(spec.x), y: axisOptions(spec.y)},
        plugins: {
          legend: {display: names.length > 1, position: 'bottom', labels: {
            usePointStyle: true, boxHeight: 7, filter: item => kinds.indexOf(kinds[item.datasetIndex]) === item.datasetIndex}},
          tooltip: {callbacks: {title: () => '', label: at => pointText(spec, spec.series[at.datasetIndex], at.raw)}},
        },
      },
      plugins: [intervals],
    });
  }

  function draw(figure, spec) {
    const canvas = figure.querySelector('canvas'), said = figure.querySelector('output');
    // A line for every name on the vertical axis.
    if (spec.y.labels) canvas.parentElement.style.height = `${Math.max(18, 7 + 1.4 * spec.y.labels.length)}rem`;
    let chart = make(canvas, spec);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      chart.destroy();
      chart = make(canvas, spec);
    });

    // Left and right walk along a series, up and down go to the next one.
    let series = 0, point = -1;
    canvas.addEventListener('keydown', event => {
      const move = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key];
      if (!move) return;
      event.preventDefault();
      series = (series + move[0] + spec.series.length) % spec.series.length;
      point = Math.max(0, Math.min(point + move[1], spec.series[series].points.length - 1));
      const active = [{datasetIndex: series, index: point}], mark = chart.getDatasetMeta(series).data[point];
      chart.setActiveElements(active);
      chart.tooltip.setActiveElements(active, {x: mark.x, y: mark.y});
      chart.update('none');
      said.textContent = pointText(spec, spec.series[series], spec.series[series].points[point]);
    });
    figure.dataset.drawn = 'true';
  }

  // Built when it is opened first: a long curve makes a long table.
  function fillTable(details, spec) {
    const table = details.querySelector('table');
    if (table.rows.length) return;
    const ranged = spec.series.some(series => series.points.some(point => point.low !== undefined));
    const row = (section, cell, values) => {
      const tr = section.insertRow();
      for (const value of values) tr.appendChild(document.createElement(cell)).textContent = value === undefined ? '' : digits(value);
    };
    row(table.createTHead(), 'th', ['series', spec.x.title, spec.y.title, ...(ranged ? ['low', 'high'] : [])]);
    const body = table.createTBody();
    for (const series of spec.series) {
      for (const point of series.points) {
        row(body, 'td', [full(series, point), point.x, point.y, ...(ranged ? [point.low, point.high] : [])]);
      }
    }
  }

  const named = (series, names) => series.points.map(([x, y, low, high, label]) => ({
    x: names.x ? names.x[x] : x, y: names.y ? names.y[y] : y,
    ...(low === undefined || low === null ? {} : {low, high}), ...(label ? {label} : {}),
  }));

  const drawable = typeof Chart !== 'undefined';
  const seen = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target, target.spec);
    }
  }, {rootMargin: '600px'});
  for (const figure of document.querySelectorAll('figure.chart')) {
    const spec = JSON.parse(figure.querySelector('script').textContent);
    for (const series of spec.series) series.points = named(series, {x: spec.x.labels, y: spec.y.labels});
    figure.spec = spec;
    const details = figure.querySelector('details');
    details.addEventListener('toggle', () => fillTable(details, spec));
    if (drawable) {
      seen.observe(figure);
    } else {  // the tables say it all
      figure.querySelector('.canvas').remove();
      details.open = true;
    }
  }
})();
