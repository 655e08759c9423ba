"""The look of a page: one style sheet, no fonts, scripts or pictures from elsewhere."""

__all__ = ["STYLE_SHEET"]

STYLE_SHEET = """
:root {
  color-scheme: light;
  --sans: "Inter", "Segoe UI", "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  --ink: #1c232b; --muted: #5b6670; --line: #dfe3e7; --soft: #f5f7f8; --paper: #ffffff;
  --good: #17693f; --good-soft: #e8f4ed; --doubtful: #8a5a00; --doubtful-soft: #fdf3dd;
  --bad: #a4201a; --bad-soft: #fbeae8;
}
* { box-sizing: border-box; }
html { font: 15px/1.55 var(--sans); color: var(--ink); background: var(--soft); }
body { margin: 0; }
main { max-width: 1720px; margin: 0 auto; padding: 0 clamp(16px, 3vw, 48px) 64px; }
header { max-width: 1720px; margin: 0 auto; padding: 40px clamp(16px, 3vw, 48px) 8px; }
h1 {
  font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -0.012em; margin: 0 0 6px; text-wrap:
  balance;
}
h2 { font-size: 20px; font-weight: 650; letter-spacing: -0.006em; margin: 44px 0 4px; }
h3 { font-size: 15px; font-weight: 650; margin: 0; overflow-wrap: anywhere; }
p { margin: 4px 0; max-width: 88ch; }
.lead { color: var(--muted); font-size: 16px; }
.note { color: var(--muted); font-size: 13.5px; }
.key { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 12px 0 0; padding: 0; list-style: none; }
.key li, .engine { white-space: nowrap; }
.line { display: inline-block; width: 22px; height: 0; margin: 0 7px 4px 0; vertical-align: middle; }
.grid { display: grid; gap: 16px; margin-top: 14px; }
.thirds { grid-template-columns: repeat(auto-fill, minmax(min(350px, 100%), 1fr)); }
.fit { grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); }
.halves { grid-template-columns: minmax(0, 1fr); align-items: start; }
@media (min-width: 1000px) { .halves { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
section > .card { margin-top: 14px; }
@media (min-width: 800px) { .thirds { grid-auto-flow: dense; } .broad { grid-column: span 2; } }
.card {
  background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px; margin: 0;
  min-width: 0;
}
.card svg, .wide svg { display: block; width: 100%; height: auto; }
.wide {
  background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 14px; margin: 14px 0
  0; overflow-x: auto;
}
.wide svg { min-width: 860px; max-width: 1320px; margin: 0 auto; }
.wide h3 { margin: 2px 4px 8px; }
.wide figcaption { max-width: 120ch; margin: 8px 4px 0; }
.natural svg { width: auto; max-width: 100%; min-width: min(860px, 100%); }
.graph { overflow-x: auto; padding: 8px 0; }
.wide .graph svg { width: auto; min-width: 0; max-width: none; height: auto; }
figcaption { color: var(--muted); font-size: 13.5px; margin-top: 6px; }
.verdict {
  border-left: 5px solid var(--line); padding: 14px 20px; background: var(--paper); border-radius: 0 8px 8px
  0; margin-top: 14px;
}
.verdict p { font-size: 16.5px; }
.verdict p + p { font-size: 15px; }
.good { border-color: var(--good); } .doubtful { border-color: #c98a10; } .bad { border-color: var(--bad); }
.badge {
  display: inline-block; font-size: 12.5px; font-weight: 650; border-radius: 99px; padding: 1px 10px;
  white-space: nowrap;
}
.badge.good { color: var(--good); background: var(--good-soft); }
.badge.doubtful { color: var(--doubtful); background: var(--doubtful-soft); }
.badge.bad { color: var(--bad); background: var(--bad-soft); }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: 10px; }
.card ul { margin: 8px 0 0; padding-left: 18px; font-size: 14px; }
.card .key {
  display: grid; grid-template-columns: max-content max-content 1fr; gap: 0 12px; font-size: 13px; margin: 4px
  0 6px; padding: 0;
}
.card .key li { display: contents; }
.card .key .value { text-align: right; }
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 6px -1px 0; }
.links {
  display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 14px 0 0; padding: 0; list-style: none; font-size: 14px;
}
.links a { color: #0b62a8; text-decoration: none; } .links a:hover { text-decoration: underline; }
ul.findings { list-style: none; padding-left: 0; }
.findings li { border-left-width: 3px; border-left-style: solid; padding-left: 10px; margin: 7px 0; }
.advice { color: var(--muted); }
details { margin-top: 6px; } summary { cursor: pointer; color: #0b62a8; font-size: 14px; }
code, pre {
  font-family: "JetBrains Mono", "Cascadia Mono", "Liberation Mono", Menlo, Consolas, monospace; font-size: 12.5px;
}
code { overflow-wrap: anywhere; }
pre {
  margin: 6px 0 2px; padding: 8px 0; background: var(--soft); border-radius: 6px; overflow-x: auto; line-height: 1.5;
}
pre span { display: block; padding: 0 12px; white-space: pre; } pre .marked { background: #fdf0c4; font-weight: 600; }
.facts { margin-top: 14px; }
.facts dl {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 3px 28px;
  margin: 8px 0 0; font-size: 14px;
}
.facts dl > div { display: flex; justify-content: space-between; gap: 12px; }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.scroll {
  overflow-x: auto; background: var(--paper); border: 1px solid var(--line); border-radius: 8px; margin-top:
  14px;
}
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 12px 16px 6px; font-weight: 650; }
th, td { padding: 6px 16px; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { font-size: 12.5px; font-weight: 600; color: var(--muted); border-top: 0; vertical-align: bottom; }
caption + tbody tr:first-child > *, caption + thead th { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; }
.own > *, .own th { font-weight: 650; }
th:first-child, td.text, th.text { text-align: left; }
tbody.group tr:not(:first-child) > * { border-top-color: transparent; padding-top: 1px; }
tbody.group tr:not(:last-child) > * { padding-bottom: 1px; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 12ch; max-width: 46ch; text-align: left; }
td.place { text-align: left; white-space: normal; min-width: 24ch; max-width: 60ch; vertical-align: top; }
td.source { text-align: left; white-space: normal; } td.source details { margin: 0 0 4px; }
td.source summary { font-size: 12.5px; }
@media (max-width: 1150px) { th, td { padding-left: 9px; padding-right: 9px; } }
th.short, td[rowspan] { vertical-align: top; } th.short { font-weight: 650; }
td.sequence { text-align: left; white-space: normal; min-width: 34ch; }
.bar { display: block; height: 12px; border-radius: 2px; background: #7d8b99; min-width: 2px; }
td.barcell { width: 60%; min-width: 160px; }
footer { color: var(--muted); font-size: 13px; margin-top: 40px; }
@media print { html { background: #fff; } .card, .wide, .scroll, .verdict { break-inside: avoid; } }
"""
