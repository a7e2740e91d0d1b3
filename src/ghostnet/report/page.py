"""The demo's page: one HTML file with everything inside it, readable on a phone and without a network.

Shows the table, the training curves, feature maps of both networks, and what the numbers depend on.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnet.errors import InputError
from ghostnet.files import atomic_write
from ghostnet.report.chart import line_chart
from ghostnet.report.results import check_demo, read_result
from ghostnet.report.tables import DEMO_HEADER, demo_rows, speedup_line

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:currentColor}
svg .grid{stroke:#8884}
figure{margin:0 0 1rem}img{max-width:100%;height:auto;image-rendering:pixelated}
.maps{display:flex;flex-wrap:wrap;gap:1rem}.maps figure{flex:1 1 18rem}
dt{font-weight:600}dd{margin:0 0 .4rem;overflow-wrap:anywhere}
code{overflow-wrap:anywhere}
"""


def demo_page(source: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a finished demo.

    Args:
        source: the demo's `demo.json`; pictures are looked for beside it.
        path: of the page; None gives the source's name with the ending `.html`.

    Returns:
        The page's path.

    Raises:
        InputError: the source is missing or lacks something, or a picture is not a PNG.

    Example:
        >>> demo_page("runs/demo/demo.json")  # doctest: +SKIP
        PosixPath('runs/demo/demo.html')
    """
    result_path = Path(source)
    target = result_path.with_suffix(".html") if path is None else Path(path)
    text = render_demo_page(read_result(result_path), result_path.parent)
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def render_demo_page(result: Mapping[str, Any], folder: str | os.PathLike[str]) -> str:
    """Return the page's HTML.

    Args:
        result: the record in `demo.json`.
        folder: that the pictures' names are relative to.

    Raises:
        InputError: something is missing, or a picture is not a PNG.
    """
    check_demo(dict(result), "the demo's result")
    title = f"A Ghost network from {result['model']}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        "<p>A trained network, converted with ratio 2 from its own weights, fine-tuned briefly, and timed "
        "beside the original. Accuracy is on all 10,000 test images of CIFAR-10.</p>",
        _table(result),
        f"<p>{_text(speedup_line(result))}.</p>",
        "<h2>Fine-tuning</h2>",
        *_curves(result.get("curves") or {}),
        "<h2>Feature maps</h2>",
        _feature_maps(result.get("feature_maps") or {}, Path(folder)),
        "<h2>How these numbers came about</h2>",
        _facts(result),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(result: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in DEMO_HEADER)
    rows = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in demo_rows(result)]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _curves(curves: Mapping[str, Any]) -> list[str]:
    """Draw one chart for each value (loss, top1, …) that the points of the curves hold beside their step."""
    keys = sorted(
        {key for points in curves.values() for point in points for key in point} - {"step", "epoch"}
    )
    wanted = [key for key in keys if key in ("loss", "top1")]
    charts = []
    for key in wanted:
        series = {
            name: [(point["step"], point[key]) for point in points if point.get(key) is not None]
            for name, points in curves.items()
        }
        label = "top-1 in %" if key == "top1" else "training loss"
        charts.append(f"<figure>{line_chart(series, x_label='step', y_label=label)}</figure>")
    return charts or ["<p>No curves were recorded.</p>"]


def _feature_maps(pictures: Mapping[str, str], folder: Path) -> str:
    figures = [_figure(name, folder / file) for name, file in pictures.items()]
    return (
        f'<div class="maps">{"".join(figures)}</div>' if figures else "<p>No feature maps were recorded.</p>"
    )


def _figure(name: str, picture: Path) -> str:
    if not picture.is_file():
        return f"<figure><figcaption>{_text(name)}: {_text(picture.name)} is not there</figcaption></figure>"
    content = picture.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{picture} is not a PNG picture; run `ghostnet demo` again")
    source = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    label = _text(name)
    return (
        f'<figure><img src="{source}" alt="feature maps of {label}"><figcaption>{label}</figcaption></figure>'
    )


def _facts(result: Mapping[str, Any]) -> str:
    facts = {
        "command": result["command"],
        "seed": result["seed"],
        "commit": result.get("commit") or "unknown",
        "seconds": result.get("seconds", "unknown"),
        **{f"seconds: {stage}": value for stage, value in (result.get("stages_seconds") or {}).items()},
        **{key: value for key, value in result["environment"].items() if value is not None},
    }
    items = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    return f"<dl>{items}</dl>"
