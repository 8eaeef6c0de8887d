"""The report's style sheet: light and dark, wide and narrow; nothing is fetched from anywhere."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f6f7f9; --text: #1b1f24;
  --faint: #5b6470; --rule: #d9dde3; --fault: #e0453a; --good: #14713c; --bad: #b3261e;
  --c1: #2460c7; --c2: #b35c00; --c3: #14713c; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --panel: #1d2126;
  --text: #e8eaed; --faint: #a3acb8; --rule: #363c45; --fault: #ff7a70; --good: #5fd08c;
  --bad: #ff8a80; --c1: #7fabff; --c2: #f0a355; --c3: #5fd08c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 54rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.2rem; }
p { margin: .4rem 0 .8rem; max-width: 44rem; }
p.about, figcaption, .note { color: var(--faint); }
figure { margin: .6rem 0 1.2rem; }
figcaption { font-size: .9rem; }
.verdict { display: inline-block; margin: .8rem 0; padding: .15rem .7rem; border-radius: 1rem;
  border: 1.5px solid currentColor; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr));
  gap: .6rem; margin: .8rem 0; padding: 0; list-style: none; }
.tiles li { padding: .6rem .8rem; border-radius: .5rem; background: var(--panel); }
.tiles b { display: block; font-size: 1.35rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.tiles span { color: var(--faint); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; color: var(--faint); padding-bottom: .3rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
td.figure, th.figure { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td b { white-space: nowrap; } .scroll + .scroll { margin-top: 1.2rem; }
pre { padding: .8rem; border-radius: .5rem; background: var(--panel); overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--faint); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0; padding: 0;
  list-style: none; font-size: .9rem; }
.legend i { display: inline-block; width: 1.4rem; height: .25rem; margin-right: .45rem;
  border-radius: 2px; vertical-align: middle; background: currentColor; }
.legend i.shade { height: .8rem; opacity: .25; background: var(--fault); }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg.narrow { display: none; }
svg .label { fill: var(--faint); } svg .number { fill: var(--fault); font-weight: 600; }
svg .grid { stroke: var(--rule); fill: none; } svg .axis { stroke: var(--faint); fill: none; }
svg .line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
svg .band { fill: currentColor; stroke: none; opacity: .18; }
svg .bar { fill: currentColor; } svg .hint { fill: transparent; }
svg .hint:hover { fill: var(--faint); opacity: .2; }
svg .fault { fill: var(--fault); opacity: .1; } svg .turn { fill: var(--fault); opacity: .75; }
svg .mark { stroke: var(--faint); stroke-dasharray: 5 4; fill: none; }
.c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.legend li.c1, .legend li.c2, .legend li.c3 { color: var(--text); }
.legend li.c1 i { background: var(--c1); } .legend li.c2 i { background: var(--c2); }
.legend li.c3 i { background: var(--c3); }
@media (max-width: 38rem) { svg.wide { display: none; } svg.narrow { display: block; }
  body { padding-top: 1rem; } h1 { font-size: 1.35rem; } }
@media print { body { max-width: none; } details > * { display: block; } }
""".strip()
