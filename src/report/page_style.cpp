#include "report/page_style.h"

namespace surgery {

const char* const kPageStyle = R"css(
:root {
  color-scheme: light dark;
  --bg: #f6f7f9; --card: #ffffff; --ink: #1b2026; --muted: #626c78; --line: #dfe3e8; --soft: #eef1f5;
  --accent: #2b59c3; --heat: #e8793a; --warn: #fff4e0; --warn-line: #e0a33a;
  --c0: #2b59c3; --c1: #d9772b; --c2: #1b8f6b; --c3: #bf3a68; --c4: #7550bf; --c5: #55801c; --c6: #0c8ca3; --c7: #86683a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #121518; --card: #1a1e23; --ink: #e5e8ec; --muted: #98a3b0; --line: #2e353d; --soft: #222830;
    --accent: #86a9ff; --heat: #d9682c; --warn: #33291a; --warn-line: #a77a2b;
    --c0: #86a9ff; --c1: #f2a662; --c2: #4fcfa4; --c3: #f283a8; --c4: #b79bf7; --c5: #a5cf5c; --c6: #57d0e4; --c7: #cdb07c;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 48px 28px 96px; }
header h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 8px; }
header p { margin: 0; max-width: none; color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: 8px; margin: 24px 0 0; }
nav a {
  color: var(--ink); text-decoration: none; font-size: 0.875rem; padding: 4px 12px; border-radius: 999px;
  background: var(--card); border: 1px solid var(--line);
}
nav a:hover { border-color: var(--accent); color: var(--accent); }
section { margin-top: 52px; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 0 0 14px; padding-bottom: 8px; border-bottom: 1px solid var(--line); }
p { max-width: 76ch; margin: 0 0 16px; white-space: pre-line; }
.notice { background: var(--warn); border-left: 4px solid var(--warn-line); padding: 10px 16px; border-radius: 0 8px 8px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 14px; margin: 0 0 20px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.tile .label { color: var(--muted); font-size: 0.85rem; }
.tile .value { font-size: 1.75rem; font-weight: 650; letter-spacing: -0.02em; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile .note { color: var(--muted); font-size: 0.8rem; line-height: 1.4; }
figure { margin: 0 0 20px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 18px 14px; min-width: 0; }
figcaption { color: var(--muted); font-size: 0.875rem; margin-top: 10px; line-height: 1.45; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 18px; margin-bottom: 20px; }
.pair figure { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wrap { white-space: normal; min-width: 16ch; }
thead th { color: var(--muted); font-weight: 600; font-size: 0.82rem; }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr:hover { background: var(--soft); }
tbody th { font-weight: 500; }
tr.strong td { font-weight: 650; }
.right { text-align: right; }
table.heat { width: auto; min-width: 50%; border-collapse: separate; border-spacing: 2px; }
table.heat th, table.heat td { border: 0; padding: 4px 12px; border-radius: 5px; }
table.heat td { background: color-mix(in srgb, var(--heat) calc(var(--v, 0%) * 0.72), var(--soft)); min-width: 76px; }
table.heat td.marked { box-shadow: inset 0 0 0 2px var(--accent); font-weight: 650; }
svg.chart { display: block; width: 100%; max-width: 860px; margin: 0 auto; height: auto; font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
.chart text { fill: var(--muted); font-variant-numeric: tabular-nums; }
.chart .axis, .chart .legend, .chart .number { fill: var(--ink); }
.chart .note { fill: var(--ink); font-size: 11px; }
.chart .number { font-size: 11px; }
.chart .grid { stroke: var(--line); }
.chart .base, .chart .notch { stroke: var(--muted); }
.chart .reference { stroke: var(--muted); stroke-dasharray: 5 4; stroke-width: 1.25; }
.chart .curve { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .fine { stroke-width: 1.2; }
.chart .dashed { stroke-dasharray: 6 5; }
.chart .dot { fill: currentColor; stroke: var(--card); stroke-width: 1.5; }
.chart .bar { fill: currentColor; opacity: 0.9; }
.chart .bar:hover, .chart .dot:hover { opacity: 0.7; }
.chart .interval { fill: none; stroke: var(--ink); stroke-width: 1.25; opacity: 0.75; }
.s0 { color: var(--c0); } .s1 { color: var(--c1); } .s2 { color: var(--c2); } .s3 { color: var(--c3); }
.s4 { color: var(--c4); } .s5 { color: var(--c5); } .s6 { color: var(--c6); } .s7 { color: var(--c7); }
.videos { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px 16px; margin: 0 0 16px; }
.videos .head { display: flex; justify-content: space-between; align-items: center; gap: 12px; margin-bottom: 10px; }
.videos .head span { font-weight: 600; }
.videos button {
  font: inherit; font-size: 0.82rem; color: var(--accent); background: none; border: 1px solid var(--line); border-radius: 999px;
  padding: 2px 14px; cursor: pointer; white-space: nowrap;
}
.videos button:hover { border-color: var(--accent); }
.videos .cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; }
.videos .cell { font-size: 0.85rem; color: var(--muted); }
.videos video, .videos .absent { display: block; width: 100%; border-radius: 8px; background: var(--soft); margin-bottom: 5px; }
.videos .absent { aspect-ratio: 5 / 4; display: grid; place-items: center; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; overflow-x: auto; font: 0.83rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; margin: 0 0 16px; }
details { margin: 0 0 16px; }
summary { cursor: pointer; color: var(--accent); margin-bottom: 10px; }
@media (max-width: 640px) { main { padding: 28px 16px 64px; } header h1 { font-size: 1.6rem; } }
@media print { nav, .videos button { display: none; } figure, .videos, .tile { break-inside: avoid; } }
)css";

const char* const kVideoScript = R"js(
for (const row of document.querySelectorAll('.videos')) {
  const videos = [...row.querySelectorAll('video')], button = row.querySelector('button');
  const play = () => { for (const v of videos) { v.currentTime = 0; v.play(); } button.textContent = 'Pause'; };
  const pause = () => { for (const v of videos) v.pause(); button.textContent = 'Play together'; };
  button.addEventListener('click', () => videos.some(v => !v.paused) ? pause() : play());
  // Plays while in view only: dozens of clips at once would be too much for a small machine.
  new IntersectionObserver(seen => seen.forEach(s => s.isIntersecting ? play() : pause()), {threshold: 0.5}).observe(row);
}
)js";

}  // namespace surgery
