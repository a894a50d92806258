"""report.pdf: the report on A4, by reportlab; the disclaimer and the case stand on every page."""

from __future__ import annotations

from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

from apps.medical.report.contents import Contents, Pairs, Table
from apps.medical.report.figures import Picture

MARGIN = 14  # mm
SMALLEST = 0.7  # of its own size may a picture get to stay on a page
INK, SOFT, LINE = "#1b1f24", "#57606a", "#d5dae0"


def render(contents: Contents) -> bytes:
    """The whole document. The same contents give the same bytes."""
    from reportlab import rl_config
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import Image, Paragraph, SimpleDocTemplate, Spacer
    from reportlab.platypus import Table as Grid

    rl_config.useA85 = (
        0  # pictures as bytes: as text they take a third of a second and a quarter more
    )
    fonts = _fonts()
    style = _styles(fonts)
    width = A4[0] - 2 * MARGIN * mm - 12  # a frame keeps 6 points free on each side

    def text(value: str, kind: str = "body") -> Any:
        return Paragraph(escape(value).replace("\n", "<br/>"), style[kind])

    def pairs(found: Pairs) -> Any:
        cells = [[text(name, "soft"), text(value)] for name, value in found]
        if any(len(value) > 44 for _, value in found):
            return _grid(cells, [34 * mm, width - 34 * mm])
        half = -(-len(cells) // 2)  # short ones stand in two columns
        rows = [[*a, *b] for a, b in zip(cells[:half], [*cells[half:], ["", ""]])]
        return _grid(rows, [34 * mm, width / 2 - 34 * mm] * 2)

    c = contents
    story: list[Any] = [
        text(c.case, "title"),
        text(
            f"Automatic {c.subject} by {c.model_name}, "
            f"{c.created.replace('T', ' ').replace('+00:00', ' UTC')}",
            "soft",
        ),
        Spacer(1, 2 * mm),
        _box([text(c.disclaimer, "use")], width, INK, None),
        Spacer(1, 2 * mm),
    ]
    if c.identity:
        story += [pairs(c.identity), Spacer(1, 2 * mm)]
    if c.warnings:
        said = [text("Read this first", "warn_head")]
        said += [text(f"\N{BULLET} {warning}", "warn") for warning in c.warnings]
        story.append(_box(said, width, "#e08a00", "#fff6e6"))
    else:
        said = [text("Nothing unusual was noticed about this image.")]
        story.append(_box(said, width, "#4a9d6f", "#eef8f2"))
    story += [text("Measurements", "head"), *_table(c.findings, width, style, text)]
    story += [text("Image", "head"), pairs(c.image)]
    for number, shown in enumerate(c.pictures):
        head = text("Pictures", "head") if number == 0 else None
        story += [_fitting(shown, head, text(shown.caption, "note")), Spacer(1, 3 * mm)]
    story.append(text("How far to trust this model", "head"))
    words: list[Any] = []
    for value in c.trust_text:
        words += [text(value), Spacer(1, 1.5 * mm)]
    if c.reliability is not None:
        side = 44 * mm
        image = Image(BytesIO(c.reliability.png), width=side, height=side)
        right = [image, text(c.reliability.caption, "note")]
        story.append(Grid([[words, right]], [width - side - 4 * mm, side + 4 * mm], style=_TOP))
    else:
        story += words
    if c.trust is not None:
        story += _table(c.trust, width, style, text)
    story += [text("Model", "head"), pairs(c.model)]

    stream = BytesIO()
    document = SimpleDocTemplate(
        stream, pagesize=A4, leftMargin=MARGIN * mm, rightMargin=MARGIN * mm,
        topMargin=MARGIN * mm, bottomMargin=18 * mm, title=f"{c.case}: {c.subject} report",
        author="Triptych", subject=c.disclaimer, creator="Triptych", invariant=1,
    )  # fmt: skip

    def footer(canvas: Any, _: Any) -> None:
        canvas.saveState()
        canvas.setFont(fonts[0], 7.5)
        canvas.setFillColor(SOFT)
        canvas.drawString(MARGIN * mm + 6, 10 * mm, c.disclaimer)
        where = f"{c.case[:60]}  ·  page {canvas.getPageNumber()}"
        canvas.drawRightString(A4[0] - MARGIN * mm - 6, 10 * mm, where)
        canvas.restoreState()

    document.build(story, onFirstPage=footer, onLaterPages=footer)
    return stream.getvalue()


def _fitting(shown: Picture, head: Any, caption: Any) -> Any:
    """A picture with its heading and caption, a little smaller where that saves a page."""
    from reportlab.lib.units import inch
    from reportlab.lib.utils import ImageReader
    from reportlab.platypus.flowables import Flowable

    class Fitting(Flowable):
        def wrap(self, width: float, height: float) -> tuple[float, float]:
            natural = min(1.0, width / (shown.width * inch))
            around = caption.wrap(width, height)[1] + 4
            around += head.wrap(width, height)[1] + 10 if head is not None else 0
            room = (height - around) / (shown.height * inch)
            self.scale = min(natural, room) if room >= SMALLEST * natural else natural
            self.width, self.height = width, around + shown.height * inch * self.scale
            return self.width, self.height

        def draw(self) -> None:
            top = self.height
            if head is not None:
                top -= head.height + 6
                head.drawOn(self.canv, 0, top)
                top -= 4
            wide, tall = shown.width * inch * self.scale, shown.height * inch * self.scale
            left = (self.width - wide) / 2
            self.canv.drawImage(ImageReader(BytesIO(shown.png)), left, top - tall, wide, tall)
            caption.drawOn(self.canv, 0, 0)

    return Fitting()


_TOP = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]


def _fonts() -> tuple[str, str]:
    """Matplotlib's DejaVu Sans, so that names of structures and cases in any script are shown."""
    from pathlib import Path

    import matplotlib
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFError, TTFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVuSans", "DejaVuSans-Bold")
    try:
        for name in names:
            if name not in pdfmetrics.getRegisteredFontNames():
                pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    except (OSError, TTFError):  # a build of matplotlib without its fonts
        return "Helvetica", "Helvetica-Bold"
    return names


def _styles(fonts: tuple[str, str]) -> dict[str, Any]:
    from reportlab.lib.styles import ParagraphStyle

    plain, bold = fonts
    body = ParagraphStyle("body", fontName=plain, fontSize=8.5, leading=11, textColor=INK)

    def like(name: str, **changes: Any) -> Any:
        return ParagraphStyle(name, parent=body, **changes)

    return {
        "body": body,
        "title": like("title", fontName=bold, fontSize=16, leading=20, splitLongWords=1),
        "head": like(
            "head",
            fontName=bold,
            fontSize=11,
            leading=14,
            spaceBefore=9,
            spaceAfter=3,
            keepWithNext=1,
        ),
        "soft": like("soft", textColor=SOFT),
        "note": like("note", textColor=SOFT, fontSize=7.5, leading=9.5, spaceBefore=2),
        "use": like("use", fontName=bold),
        "warn": like("warn", textColor="#8a4b00"),
        "warn_head": like("warn_head", textColor="#8a4b00", fontName=bold),
        "cell": like("cell", alignment=2),
        "cell_head": like("cell_head", alignment=2, textColor=SOFT, fontSize=7.5, leading=9),
        "first_head": like("first_head", textColor=SOFT, fontSize=7.5, leading=9),
    }


def _box(content: list[Any], width: float, line: str, fill: str | None) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.platypus import Table as Grid

    style: list[Any] = [
        ("LEFTPADDING", (0, 0), (-1, -1), 7),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
    ]
    if fill is None:
        style.append(("BOX", (0, 0), (-1, -1), 0.7, HexColor(line)))
    else:
        style.append(("BACKGROUND", (0, 0), (-1, -1), HexColor(fill)))
        style.append(("LINEBEFORE", (0, 0), (0, -1), 3, HexColor(line)))
    return Grid([[part] for part in content], [width], style=style, hAlign="LEFT")


def _grid(rows: list[list[Any]], widths: list[float], header: bool = False) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.platypus import Table as Grid

    style: list[Any] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 4),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
    ]
    if header:
        style.append(("LINEBELOW", (0, 0), (-1, -1), 0.4, HexColor(LINE)))
        style.append(("VALIGN", (0, 0), (-1, 0), "BOTTOM"))
    return Grid(rows, widths, style=style, repeatRows=1 if header else 0, hAlign="LEFT")


def _table(table: Table, width: float, style: dict[str, Any], text: Any) -> list[Any]:
    from reportlab.platypus import Paragraph

    header = [text(name, "cell_head" if i else "first_head") for i, name in enumerate(table.header)]
    rows = [header]
    for i, row in enumerate(table.rows):
        first = escape(row[0])
        if table.colours:
            square = "\N{BLACK SQUARE}"
            first = f'<font color="{table.colours[i]}" size="9">{square}</font> {first}'
        cells = [text(value, "cell") for value in row[1:]]
        rows.append([Paragraph(first, style["body"]), *cells])
    share = 1.6 if len(header) > 2 else 1.0
    unit = width / (share + len(header) - 1)
    grid = _grid(rows, [share * unit, *[unit] * (len(header) - 1)], header=True)
    return [grid, *(text(note, "note") for note in table.notes)]
