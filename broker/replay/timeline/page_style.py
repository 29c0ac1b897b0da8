"""How a timeline's page looks, light, dark and printed; and what a browser may load for it: nothing."""

from __future__ import annotations

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy of the page."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --zone: #f6f8fa;
  --calls: #0969da; --people: #8250df; --broker: #57606a; --plain: #0969da; --good: #1a7f37; --warn: #9a6700; --bad: #cf222e;
  --good-zone: #dafbe1; --bad-zone: #ffebe9; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --zone: #161b22; --calls: #4493f8; --people: #ab7df8; --broker: #9198a1; --plain: #4493f8; --good: #3fb950; --warn: #d29922;
  --bad: #f85149; --good-zone: #12261e; --bad-zone: #2d1214; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1400px; padding: 1.2rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 .6rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem; }
.mark { padding: .6rem .9rem; border-radius: 6px; border: 1px solid; margin: 0 0 .8rem; }
.mark.sound { background: var(--good-zone); border-color: var(--good); }
.mark.unsound { background: var(--bad-zone); border: 3px solid var(--bad); color: var(--bad); font-size: 1.05rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; margin: .3rem 0 .7rem; }
dt { color: var(--soft); } dd { margin: 0; font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .88em; }
.scroll { overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .35rem 0; padding: .1rem .7rem; }
td details { border: 0; padding: 0; margin: 0; }
summary { cursor: pointer; padding: .25rem 0; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 .6rem; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: .2rem .7rem .2rem 0; border-top: 1px solid var(--line); vertical-align: top; }
tr:target { background: var(--zone); outline: 2px solid var(--plain); }
td:first-child, .time { font-variant-numeric: tabular-nums; white-space: nowrap; color: var(--soft); }
.kind { font-weight: 600; }
.badge { border: 1px solid; border-radius: 4px; padding: 0 .4em; font-size: .85em; font-weight: 600; }
.badge.good { color: var(--good); } .badge.bad { color: var(--bad); } .badge.warn { color: var(--warn); }
.badge.plain { color: var(--plain); }
tr.bad .kind { color: var(--bad); } tr.warn .kind { color: var(--warn); } tr.good .kind { color: var(--good); }
a { color: var(--plain); }
svg { width: 100%; height: auto; font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
svg text { fill: var(--ink); } svg .row { text-anchor: end; } svg .left { text-anchor: start; font-weight: 600; }
svg .time { text-anchor: middle; fill: var(--soft); font-size: 11px; } svg .day { font-weight: 600; }
svg .gap { font-style: italic; } svg .count { font-size: 10px; fill: var(--soft); }
svg .band { fill: var(--page); } svg .band.odd { fill: var(--zone); }
svg .edge, svg .tick { stroke: var(--line); } svg .tick { stroke-dasharray: 1 5; }
svg .pause { stroke: var(--soft); stroke-dasharray: 6 4; }
svg .side.calls { fill: var(--calls); } svg .side.people { fill: var(--people); } svg .side.broker { fill: var(--broker); }
svg .bar { opacity: .35; } svg .bar.plain { fill: var(--plain); } svg .bar.good { fill: var(--good); }
svg .bar.warn { fill: var(--warn); } svg .bar.bad { fill: var(--bad); }
svg .bar.open { fill: none; stroke: var(--bad); stroke-dasharray: 4 3; opacity: 1; }
svg .cause { fill: none; stroke: var(--soft); stroke-width: 1.1; marker-end: url(#tip); opacity: .8; }
svg .cause.faint { stroke-dasharray: 2 3; opacity: .45; } svg .tip { fill: var(--soft); }
svg .dot { stroke-width: 1.8; } svg .dot.plain { stroke: var(--plain); fill: var(--plain); }
svg .dot.good { stroke: var(--good); fill: var(--good); } svg .dot.warn { stroke: var(--warn); fill: var(--warn); }
svg .dot.bad { stroke: var(--bad); fill: var(--bad); }
svg .dot.hollow, svg .dot.empty, svg .dot.ring { fill: var(--page); }
svg .dot.cross, svg .dot.plus { stroke-width: 2.6; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } details { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; } .scroll { overflow: visible; } svg { min-width: 0 !important; } }
"""
"""Its style sheet. Colours have a contrast of at least 4.5 to 1 with what they stand on; shapes say the same again."""
