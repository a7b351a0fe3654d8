// The fixed parts of the report page: its style and its only script.
#pragma once

namespace dirigo::tools {

// Colours of the experts are Okabe and Ito's, which colour-blind people can tell apart; a line above the text
// marks the expert without colour. Text keeps the page's ink on a translucent ground, so that it stays
// legible.
inline constexpr const char* report_style = R"css(
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --panel: #f6f8fa;
  --accent: #0b62c4; --full: 213 94 0; --linear: 0 114 178; --local: 0 158 115; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0f1318; --ink: #e6edf3; --soft: #9aa4af; --rule: #30363d; --panel: #171c23; --accent: #6cb0ff;
    --full: 240 130 50; --linear: 70 150 230; --local: 40 190 145; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin-top: 1.8rem; }
.note { border-left: 4px solid var(--accent); background: var(--panel); padding: .6rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; white-space: normal; overflow-wrap: normal; max-width: 8rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tr.null { font-style: italic; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0; }
@media (max-width: 40rem) { th:first-child, td:first-child { white-space: normal; min-width: 8rem; max-width: 9rem; }
  dl { display: block; } dd { margin: 0 0 .5rem 1rem; } }
.facts { color: var(--soft); }
.chart { width: 100%; max-width: 45rem; height: auto; display: block; }
.chart text { fill: var(--soft); font-size: 12px; }
@media (max-width: 40rem) { .chart text { font-size: 19px; } }
.chart line, .chart polyline { fill: none; stroke: var(--rule); }
.chart .grid { stroke-width: .5; } .chart .axis { stroke: var(--soft); }
.chart .train { stroke: var(--soft); stroke-width: 1.2; }
.chart .valid { stroke: var(--accent); stroke-width: 2.5; }
.chart .floor { stroke: var(--ink); stroke-dasharray: 6 4; }
.legend { font-size: .9rem; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; align-items: center; }
.key { display: inline-block; width: 1.6rem; border-top: 2px solid var(--soft); margin-right: .4rem; vertical-align: middle; }
.key.valid { border-color: var(--accent); border-top-width: 3px; } .key.floor { border-color: var(--ink); border-top-style: dashed; }
.reader label { margin-right: .3rem; padding: .2rem .6rem; border: 1px solid var(--rule); border-radius: .3rem; cursor: pointer; }
.reader input { margin: 0 .2rem 0 .6rem; }
.reader input:checked + label { border-color: var(--accent); background: var(--panel); font-weight: 600; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: .95rem/2 ui-monospace, monospace; margin: .6rem 0;
  padding: .6rem; border: 1px solid var(--rule); border-radius: .3rem; }
.text:focus-visible, .reader input:focus-visible, .scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.sample { display: inline-block; min-width: 1.4em; text-align: center; font-family: ui-monospace, monospace; }
.text b, .sample { font-weight: inherit; padding: .1em 0; border-top: 2px solid transparent; }
.text b.now { outline: 2px solid var(--ink); }
.need-far { text-decoration: underline 3px; text-underline-offset: .25em; }
.need-near { text-decoration: underline 2px dashed; text-underline-offset: .25em; }
.need-first { text-decoration: underline 2px wavy; text-underline-offset: .25em; }
.is-full { background: rgb(var(--full) / .55); border-top: 2px solid rgb(var(--full)); }
.is-linear { background: rgb(var(--linear) / .55); border-top: 2px dotted rgb(var(--linear)); }
.is-local { background: rgb(var(--local) / .55); }
.break { display: block; color: var(--soft); font: .8rem/2 system-ui, sans-serif; user-select: none; }
.detail { display: block; position: sticky; bottom: 0; background: var(--panel); border: 1px solid var(--rule); border-radius: .3rem;
  padding: .4rem .8rem; font: .85rem/1.5 ui-monospace, monospace; white-space: pre-wrap; min-height: 2.2rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
)css";

// The text is one stop for the keyboard; arrow keys, Home and End move inside it, and a tap selects. What
// hovering shows is then shown below the text too, where a phone or a screen reader finds it.
inline constexpr const char* report_script = R"js(
for (const text of document.querySelectorAll('.text')) {
  const bytes = [...text.querySelectorAll('b')], detail = text.parentElement.querySelector('.detail');
  let now = -1;
  const select = i => {
    if (!bytes.length) return;
    if (now >= 0) bytes[now].classList.remove('now');
    now = Math.max(0, Math.min(i, bytes.length - 1));
    bytes[now].classList.add('now');
    bytes[now].scrollIntoView({block: 'nearest'});
    detail.textContent = bytes[now].title;
  };
  text.addEventListener('click', event => { const b = event.target.closest('b'); if (b) select(bytes.indexOf(b)); });
  text.addEventListener('keydown', event => {
    const to = {ArrowRight: now + 1, ArrowLeft: now - 1, ArrowDown: now + 40, ArrowUp: now - 40, Home: 0,
                End: bytes.length - 1}[event.key];
    if (to !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); select(to); }
  });
}
)js";

}  // namespace dirigo::tools
