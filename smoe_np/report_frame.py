"""The fixed parts of the page of ``report``: HTML frame, style sheet and script."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{subtitle}</p></header>
<main>
{parts}
</main>
<footer>smoe_np {version}</footer>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5f6973; --rule: #d9dee3;
  --page: #f6f7f9; --card: #ffffff; --accent: #1f6fb4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --soft: #9aa4ae; --rule: #343b43; --page: #14171a; --card: #1e2226;
    --accent: #6fb1ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 24px; max-width: 1128px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 28px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 10px; font-size: 15px; }
header p, figcaption, footer, small, .tiles p { color: var(--soft); }
header p { margin: 4px 0 0; }
main { display: grid; grid-template-columns: minmax(0, 1fr); gap: 20px; margin: 24px 0; }
.lists { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 20px; }
.lists > div { padding: 18px 20px; border: 1px solid var(--rule); border-radius: 10px;
  background: var(--card); min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tiles div { padding: 12px 16px; border: 1px solid var(--rule); border-radius: 10px;
  background: var(--card); }
.tiles h2 { margin: 0; color: var(--soft); font-size: 13px; font-weight: 500; }
.tiles p { margin: 0; font-size: 12.5px; line-height: 1.4; }
.tiles b { color: var(--ink); font-size: 24px; font-weight: 600; }
.compare, .picture { position: relative; overflow: hidden; border-radius: 10px;
  background: var(--rule); aspect-ratio: var(--ratio); }
.compare { justify-self: center; width: min(100%, 82vh * var(--ratio)); --at: 50%;
  touch-action: pan-y; }
.compare img, .picture img, .picture svg { position: absolute; inset: 0; width: 100%;
  height: 100%; }
[data-small] img { image-rendering: pixelated; }
.before { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.bar { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 4px rgb(0 0 0 / 60%); }
.bar::after { content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 36px;
  height: 36px; border-radius: 50%; background: #fff; color: #1b1f24; font-size: 20px;
  line-height: 35px; text-align: center; transform: translate(-50%, -50%);
  box-shadow: 0 1px 5px rgb(0 0 0 / 50%); }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; }
.compare:focus-within { outline: 3px solid var(--accent); outline-offset: 2px; }
.tag { position: absolute; top: 12px; padding: 2px 10px; border-radius: 20px; color: #fff;
  background: rgb(0 0 0 / 62%); font-size: 13px; }
.left { left: 12px; } .right { right: 12px; }
.figures, .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
  gap: 20px; }
figure { margin: 0; min-width: 0; }
figcaption { padding-top: 6px; font-size: 13px; line-height: 1.45; }
figcaption b, table { color: var(--ink); }
.picture { cursor: zoom-in; }
.wide { grid-column: 1 / -1; justify-self: center; width: min(100%, 82vh * var(--ratio)); }
.wide .picture { cursor: zoom-out; }
.picture circle { fill: currentColor; fill-opacity: 0.25; stroke: currentColor;
  stroke-width: 1.2px; vector-effect: non-scaling-stroke; }
.scale { white-space: nowrap; }
.scale i { display: inline-block; width: 56px; height: 9px; border-radius: 3px; }
.charts figure { padding: 14px 16px 8px; border: 1px solid var(--rule); border-radius: 10px;
  background: var(--card); }
.charts figcaption { padding: 0 0 6px; }
.charts svg { display: block; width: 100%; overflow: visible; }
.charts line { stroke: var(--rule); stroke-width: 1; }
.charts text { fill: var(--soft); font-size: 11.5px; }
.charts .end { text-anchor: end; } .charts .middle { text-anchor: middle; }
.charts polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.charts circle { fill: currentColor; stroke: transparent; stroke-width: 9; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px; }
th, td { padding: 4px 0; border-top: 1px solid var(--rule); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; }
th { width: 45%; padding-right: 12px; color: var(--soft); font-weight: 400; }
.group { padding-top: 14px; color: var(--ink); font-weight: 600; }
ul { margin: 0; padding: 0; list-style: none; font-size: 13.5px; }
li, summary { padding: 3px 0; overflow-wrap: anywhere; }
details ul { padding-left: 18px; }
summary { cursor: pointer; font-size: 13.5px; }
a { color: var(--accent); }
footer { font-size: 13px; }
@media (max-width: 760px) { body { padding: 20px 14px; } }
"""

SCRIPT = """
const compare = document.getElementById("compare");
if (compare) {
  const slider = compare.querySelector("input");
  const show = () => compare.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", show);
  show();
}
for (const picture of document.querySelectorAll(".figures .picture"))
  picture.addEventListener("click", () => picture.parentElement.classList.toggle("wide"));
"""
