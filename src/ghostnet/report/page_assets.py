"""Style and script of the page of all exhibits: inlined, so that the page needs no other file and no network."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c1e21;--line:#8885;--soft:#8882;--done:#2e8b57;--partly:#b8860b;
--missing:#a33}
@media(prefers-color-scheme:dark){:root{--page:#16181b;--ink:#e6e6e6;--done:#58c08a;--partly:#e0b04a;--missing:#f08080}
.mark,.swatch{filter:brightness(1.5)}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;background:var(--page);color:var(--ink);max-width:72rem;margin:0 auto;
padding:1rem}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:0 0 .4rem}
nav{display:flex;flex-wrap:wrap;gap:.4rem;margin:1rem 0}
nav a{border:1px solid var(--line);border-radius:1rem;padding:.15rem .7rem;text-decoration:none;color:inherit}
section{border-top:1px solid var(--line);padding:1.4rem 0 .4rem;scroll-margin-top:.5rem}
.wide{overflow-x:auto;margin:.6rem 0;background:linear-gradient(to left,var(--page) 40%,transparent) right/3rem 100%
no-repeat local,linear-gradient(to left,#8888,transparent) right/1rem 100% no-repeat scroll}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
caption{text-align:left;overflow-wrap:anywhere;font-weight:600;padding:.3rem 0}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{vertical-align:bottom;white-space:normal;min-width:4rem}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
td.words,th.words{text-align:left}td.words{white-space:normal;min-width:6rem}
td.words:first-child{min-width:9rem}td.words:last-child:not(:first-child){overflow-wrap:anywhere}
.missing{color:var(--missing)}
.state{font-size:.85rem;font-weight:600}.done{color:var(--done)}.partly{color:var(--partly)}
.none{color:var(--missing)}
svg.plot{width:100%;max-width:56rem;height:auto;touch-action:manipulation}
svg text{font:13px system-ui,sans-serif;fill:currentColor}svg .grid{stroke:var(--line)}
svg .front{pointer-events:none}
svg .dot{cursor:pointer;outline:none}svg .dot:hover circle,svg .dot:focus circle{stroke:currentColor;stroke-width:3}
.off{display:none}
.filters{display:flex;flex-wrap:wrap;gap:.3rem .9rem;margin:.4rem 0;font-size:.9rem}
.filters label{display:inline-flex;align-items:center;gap:.3rem}
.swatch{width:.8rem;height:.8rem;border-radius:50%;display:inline-block}
.told{min-height:1.6em;font-weight:600}.hint{font-weight:400}
figure{margin:.6rem 0}img{max-width:100%;height:auto;background:#fff;border-radius:4px}
figcaption,.note{font-size:.88rem;opacity:.85;margin:.2rem 0;overflow-wrap:anywhere}
details{margin:.5rem 0}dt{font-weight:600}dd{margin:0 0 .3rem;overflow-wrap:anywhere}
code{overflow-wrap:anywhere}
@media(max-width:40rem){body{padding:.7rem;font-size:15px}th,td{padding:.25rem .3rem}th{min-width:2.4rem}
table{font-size:.85rem}td:first-child,td.words:first-child{white-space:normal;min-width:7rem}
td.words:first-child{overflow-wrap:anywhere}td.words:last-child:not(:first-child){min-width:11rem}
svg text{font-size:17px}}
"""

SCRIPT = """
// the front of the points that are shown: stairs that climb where a dearer point is more accurate
const climb = (front, plot) => {
  const shown = [...plot.querySelectorAll('.dot:not(.off)')].filter(dot => dot.dataset.kind === front.dataset.kind);
  const places = shown.map(dot => ['cx', 'cy'].map(side => Number(dot.lastElementChild.getAttribute(side))));
  let height = Infinity; const path = [];
  for (const [x, y] of places.sort((one, other) => one[0] - other[0] || one[1] - other[1])) {
    if (y >= height) continue;
    if (path.length) path.push(x + ',' + height);
    path.push(x + ',' + y); height = y;
  }
  if (path.length) path.push(front.dataset.right + ',' + height);
  front.setAttribute('points', path.join(' '));
};
for (const plot of document.querySelectorAll('.interactive')) {
  const told = plot.querySelector('.told');
  for (const dot of plot.querySelectorAll('.dot')) {
    const tell = () => { told.textContent = dot.dataset.name; };
    for (const happening of ['mouseenter', 'focus', 'click']) dot.addEventListener(happening, tell);
  }
  const boxes = [...plot.querySelectorAll('input')];
  const apply = () => {
    const off = kind => new Set(boxes.filter(box => box.name === kind && !box.checked).map(box => box.value));
    const families = off('family'), kinds = off('kind');
    for (const mark of plot.querySelectorAll('.mark')) {
      mark.classList.toggle('off', families.has(mark.dataset.family) || kinds.has(mark.dataset.kind));
    }
    for (const front of plot.querySelectorAll('.front')) climb(front, plot);
  };
  for (const box of boxes) box.addEventListener('change', apply);
  apply();
}
"""
