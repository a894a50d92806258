"""report.html: one file, pictures inside, readable on any screen and printable.

It asks nothing of the network and runs nothing; its content security policy forbids both, should a
text ever slip through. Every text is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape

from apps.medical.report.contents import Contents, Pairs, Table
from apps.medical.report.figures import Picture

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0; --warn: #8a4b00; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: #fff; margin: 0 auto; padding: 24px 20px 40px; max-width: 960px; }
h1 { font-size: 24px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 30px 0 8px; border-bottom: 1px solid var(--line); padding-bottom: 4px; }
.sub { color: var(--soft); margin: 0 0 14px; }
.use { border: 1px solid var(--ink); padding: 7px 12px; font-weight: 600; margin: 12px 0; }
.warn { border-left: 5px solid #e08a00; background: #fff6e6; color: var(--warn);
  padding: 8px 14px; margin: 12px 0; }
.warn ul { margin: 4px 0 0; padding-left: 18px; }
.fine { border-left: 5px solid #4a9d6f; background: #eef8f2; padding: 8px 14px; margin: 12px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.swatch { display: inline-block; width: 12px; height: 12px; margin-right: 7px; border-radius: 2px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 14px 0; } figure img { width: 100%; height: auto; display: block; }
figcaption, .note { color: var(--soft); font-size: 13px; margin: 6px 0 0; }
.half { display: grid; grid-template-columns: minmax(0, 1fr) 270px; gap: 22px; align-items: start; }
footer { margin-top: 34px; border-top: 1px solid var(--line); padding-top: 8px; color: var(--soft);
  font-size: 13px; }
@media (max-width: 700px) { .half { grid-template-columns: 1fr; } .half figure { max-width: 270px; } }
@media print { body { max-width: none; padding: 0; font-size: 11px; } h2 { break-after: avoid; }
  figure, table, .warn { break-inside: avoid; }
  .swatch, .warn, .fine { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(contents: Contents) -> str:
    """The whole page."""
    c = contents
    trust = "".join(f"<p>{escape(text)}</p>" for text in c.trust_text)
    table = _table(c.trust) if c.trust else ""
    if c.reliability is not None:
        trust = f'<div class="half"><div>{trust}</div>{_picture(c.reliability)}</div>'
    parts = [
        f"<h1>{escape(c.case)}</h1>",
        f'<p class="sub">Automatic {escape(c.subject)} by {escape(c.model_name)}, '
        f"{escape(c.created.replace('T', ' ').replace('+00:00', ' UTC'))}</p>",
        f'<p class="use">{escape(c.disclaimer)}</p>',
        _pairs(c.identity) if c.identity else "",
        _warnings(c.warnings),
        "<h2>Measurements</h2>",
        _table(c.findings),
        "<h2>Image</h2>",
        _pairs(c.image),
        "<h2>Pictures</h2>",
        *(_picture(picture) for picture in c.pictures),
        "<h2>How far to trust this model</h2>",
        trust,
        table,
        "<h2>Model</h2>",
        _pairs(c.model),
        f"<footer>{escape(c.disclaimer)} Numbers and settings of this run are in "
        f"{escape(c.numbers)} and manifest.json beside this report.</footer>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(c.case)}: {escape(c.subject)} report</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _warnings(warnings: list[str]) -> str:
    if not warnings:
        return '<div class="fine">Nothing unusual was noticed about this image.</div>'
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<div class="warn" role="alert"><strong>Read this first</strong><ul>{items}</ul></div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header)
    rows = []
    for i, row in enumerate(table.rows):
        cells = [escape(text).replace("\n", "<br>") for text in row]
        if table.colours:
            cells[0] = (
                f'<span class="swatch" style="background:{table.colours[i]}"></span>{cells[0]}'
            )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in table.notes)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{notes}"
    )


def _pairs(pairs: Pairs) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{items}</dl>"


def _picture(picture: Picture) -> str:
    data = b64encode(picture.png).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
