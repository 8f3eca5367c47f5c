"""The style sheet of a report's page."""

from __future__ import annotations

STYLE = """
:root {
  --paper: #fbfaf8; --card: #fff; --ink: #1c1d20; --quiet: #666a73; --hair: #e4e2dd; --accent: #1d5fa8;
  --tint: #bcd3ec;
  --s0: #1d5fa8; --s1: #c8562b; --s2: #2f8a5b; --s3: #8a4fa3; --s4: #a8861d; --s5: #5c6570;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1c1f23; --ink: #e8e6e1; --quiet: #9aa0aa; --hair: #2e3238;
    --accent: #7db4ef; --tint: #2d4f75;
    --s0: #7db4ef; --s1: #f0936b; --s2: #6cc795; --s3: #c69be0; --s4: #dcc06a; --s5: #a3abb6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 62rem; padding: 3.5rem 1.5rem 5rem; background: var(--paper); color:
  var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 {
  font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; font-weight: 650; margin: 0; text-wrap:
  balance;
}
h2 { font-size: 1.2rem; line-height: 1.3; letter-spacing: -.01em; font-weight: 650; margin: 0 0 .25rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 0; }
section { margin-top: 3.25rem; }
.note { color: var(--quiet); font-size: .875rem; margin: 0 0 1.1rem; max-width: 44rem; }
small { display: block; color: var(--quiet); font-size: .8rem; font-weight: 400; line-height: 1.4; }

table { width: 100%; border-collapse: collapse; }
th, td {
  text-align: left; vertical-align: top; padding: .6rem 1rem .6rem 0; border-bottom: 1px solid
  var(--hair);
}
thead th {
  color: var(--quiet); font-size: .8rem; font-weight: 400; padding-bottom: .35rem; white-space:
  nowrap;
}
tbody th { font-weight: 500; }
tbody th[colspan] { padding-top: 1.6rem; font-weight: 650; }
td { white-space: nowrap; color: var(--quiet); }
td:nth-child(3) { width: 42%; white-space: normal; }
.wide { overflow-x: auto; }
td.value { color: var(--ink); font-weight: 650; }
.n, td:nth-child(4), thead th:nth-child(4) { text-align: right; }
.wide td:nth-child(n), .wide thead th:nth-child(n) {
  width: auto; text-align: left; white-space: normal; overflow-wrap: normal; font-size: .8rem;
  padding-right: .8rem;
}
.n { padding-right: 0; }
.bar { display: block; width: 100%; height: 12px; margin: .4rem 0 .25rem; }
.track { fill: var(--hair); }
.range { fill: var(--tint); }
.mark { fill: var(--accent); }
.chance { fill: var(--quiet); }

figure { margin: 0; }
.plots { display: grid; gap: 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.plots ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .2rem 0 .5rem;
  padding: 0; font-size: .8rem; color: var(--quiet);
}
.plots li b { color: var(--ink); font-weight: 600; }
.plots i {
  display: inline-block; width: .7rem; height: .2rem; border-radius: .1rem; background: var(--c);
  margin-right: .4rem; vertical-align: middle;
}
.plot { display: block; width: 100%; height: auto; }
.plot text { fill: var(--quiet); font-size: 11px; }
.plot .axis { font-style: italic; }
.grid { stroke: var(--hair); stroke-width: 1; }
.line {
  fill: none; stroke: var(--c); stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke;
}
.again { stroke-dasharray: 5 4; }
.s0 { --c: var(--s0); }
.s1 { --c: var(--s1); }
.s2 { --c: var(--s2); }
.s3 { --c: var(--s3); }
.s4 { --c: var(--s4); }
.s5 { --c: var(--s5); }

.gallery {
  display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem),
  1fr));
}
.gallery figure {
  background: var(--card); border: 1px solid var(--hair); border-radius: .6rem; overflow: hidden;
}
.gallery img {
  display: block; width: 100%; height: auto; max-height: 18rem; object-fit: contain; background: var(--hair);
}
.gallery img.patch { aspect-ratio: 1; image-rendering: pixelated; }
.gallery:has(.patch) { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.gallery figcaption { padding: .7rem .85rem .85rem; font-size: .875rem; line-height: 1.45; }
.gallery h3 { font-size: .9rem; margin-bottom: .25rem; }
.gallery p { margin: .2rem 0 0; color: var(--quiet); }
.missing {
  color: var(--quiet); font-style: italic; font-size: .875rem; margin: 0; padding: 1rem .85rem;
  border: 1px dashed var(--hair); border-radius: .4rem;
}
section > ul { margin: .5rem 0 0; padding-left: 1.1rem; max-width: 44rem; }
section > ul li { margin: .3rem 0; }

dl { margin: .6rem 0 0; }
dl div {
  display: grid; grid-template-columns: 11rem 1fr; gap: 1rem; padding: .5rem 0; border-top: 1px
  solid var(--hair);
}
dt { color: var(--quiet); font-size: .875rem; } dd { margin: 0; font-size: .9rem; }
code { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }

@media (max-width: 40rem) {
  body { padding: 2rem 1.1rem 3rem; }
  h1 { font-size: 1.55rem; }
  section { margin-top: 2.5rem; }
  .n { display: none; }
  th, td { padding-right: .7rem; }
  td:nth-child(3) { width: 40%; }
  tbody th { overflow-wrap: normal; }
  td:nth-child(4), thead th:nth-child(4) { padding-right: 0; }
  dl div { grid-template-columns: 1fr; gap: 0; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: .8rem; }
}
@media print { section { break-inside: avoid; } }
"""
