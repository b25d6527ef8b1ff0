"""One self-contained HTML page: tables, figures and notes, with no script and nothing loaded from anywhere.

What comes from files is text and is escaped, so that no file can put markup into the page; a policy in its head forbids
scripts and the network besides.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scmap_cli.plots.canvas import safely

_STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --shade: #f6f8fa; --blue: #0072b2; --warn: #8a4b00; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; padding-bottom: 0.25rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
p { margin: 0.4rem 0; } .soft, figcaption { color: var(--soft); font-size: 0.875rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; margin: 0.6rem 0; } a { color: var(--blue); }
.scroll { overflow-x: auto; margin: 0.5rem 0; background: linear-gradient(90deg, #fff 40%, #fff0) 0 0 / 3rem 100%,
  linear-gradient(270deg, #fff 40%, #fff0) 100% 0 / 3rem 100%, linear-gradient(90deg, #0003, #0000) 0 0 / 0.6rem 100%,
  linear-gradient(270deg, #0003, #0000) 100% 0 / 0.6rem 100%; background-repeat: no-repeat;
  background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: 0.875rem; overflow-wrap: normal; }
th, td { padding: 0.3rem 0.7rem 0.3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; vertical-align: bottom; } td.number, th.number { text-align: right; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; } td.best { font-weight: 700; }
td.text { max-width: 26rem; overflow-wrap: break-word; } td.long { min-width: 20rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; }
figure.wide .scroll img { min-width: 44rem; mix-blend-mode: multiply; }
@media screen and (max-width: 46rem) { td.long { min-width: 18rem; max-width: 18rem; }
  figure.wide figcaption::after { content: " (scrolls sideways)"; } }
img { display: block; max-width: 100%; height: auto; }
.notes { margin: 0.6rem 0; padding: 0.6rem 0.9rem 0.6rem 2rem; background: #fff8eb; border-left: 4px solid #e69f00; }
.notes.none { padding-left: 0.9rem; background: var(--shade); border-color: #009e73; }
details { margin: 0.2rem 0; } summary { cursor: pointer; color: var(--blue); }
code { font-size: 0.85em; background: var(--shade); padding: 0 0.2em; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  figure, tr, .notes { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; background: none; }
  figure.wide .scroll img { min-width: 0; } table { font-size: 8pt; } a { color: inherit; } @page { margin: 15mm; } }
"""

# Text beyond so many characters gets room enough not to become a column of single words.
_LONG = 40


@dataclass
class Section:
    """A part of the page: its title, and pieces of HTML that the functions of this module made."""

    title: str
    pieces: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Name for links within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "part"


def text(value: str, soft: bool = False) -> str:
    """A paragraph."""
    return f"<p{' class=soft' if soft else ''}>{escape(value)}</p>"


def heading(value: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(value)}</h3>"


def number(value: Any, digits: int = 4) -> str:
    """A value for people: floats to a few digits, whole numbers with a separator, None as a dash, pairs as x ± y."""
    if isinstance(value, tuple):
        mean, spread = value
        return number(mean, digits) + ("" if spread is None else f" ± {number(spread, 2)}")
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], best: Sequence[str] = ()) -> str:
    """A table that scrolls sideways where the screen is narrow; in columns of ``best`` the largest number is bold.

    A pair is a mean and its standard deviation, which may be None.
    """
    numeric = [
        all(isinstance(row[i], int | float | tuple | None) for row in rows) and any(row[i] is not None for row in rows)
        for i in range(len(header))
    ]
    tops = [
        max((row[i] for row in rows if row[i] is not None), default=None)
        if name in best and numeric[i] and len(rows) > 1
        else None
        for i, name in enumerate(header)
    ]
    long = [any(len(number(row[i])) > _LONG for row in rows) for i in range(len(header))]
    head = "".join(f"<th{_kind(numeric[i])} scope=col>{escape(name)}</th>" for i, name in enumerate(header))
    body = []
    for row in rows:
        cells = [
            f"<td{_kind(numeric[i], tops[i] is not None and cell == tops[i], long[i])}>{escape(number(cell))}</td>"
            for i, cell in enumerate(row)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def _kind(is_number: bool, is_best: bool = False, is_long: bool = False) -> str:
    words = ["number", "best" if is_best else ""] if is_number else ["text", "long" if is_long else ""]
    return f' class="{" ".join(filter(None, words))}"'


def notes(lines: Sequence[str]) -> str:
    """Warnings, or a line that there are none."""
    if not lines:
        return '<p class="notes none">Nothing stands out.</p>'
    return f"<ul class=notes>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def details(summary: str, inner: str) -> str:
    """What is folded away until asked for."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def grid(figures: Sequence[str]) -> str:
    """Figures beside each other where the screen is wide enough."""
    return f"<div class=grid>{''.join(figures)}</div>" if any(figures) else ""


def figure(caption: str, draw: Callable[..., None], *args: Any, wide: bool = False, **options: Any) -> str:
    """A figure drawn by ``draw`` (``args``, a path to write to, ``options``) as part of the page.

    One that cannot be drawn is warned of and leaves a line in its place.
    """
    with TemporaryDirectory(prefix="scmap-") as folder:
        path = Path(folder) / "figure.png"
        if not safely(caption, draw, *args, path, **options):
            return f"<figure><figcaption>{escape(caption)}: could not be drawn.</figcaption></figure>"
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    inner = f"<div class=scroll>{image}</div>" if wide else image
    return f"<figure{' class=wide' if wide else ''}>{inner}<figcaption>{escape(caption)}</figcaption></figure>"


def page(title: str, lead: str, sections: Sequence[Section], foot: str) -> str:
    """The whole page; sections without content are left out."""
    kept = [section for section in sections if any(section.pieces)]
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in kept)
    parts = "".join(
        f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>{"".join(section.pieces)}</section>'
        for section in kept
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>{text(lead, soft=True)}<nav>{links}</nav></header>\n"
        f"<main>{parts}</main>\n<footer>{text(foot, soft=True)}</footer></body></html>\n"
    )
