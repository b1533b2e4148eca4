"""A page that stands alone and can be printed: what reports are made of."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


def page(name: str, subtitle: str, above: str, pictures: Iterable[str], tables: Iterable[str]) -> str:
    """The page, of a name in plain text and parts in HTML: `above` stands over the pictures, and they over the tables."""
    template = Template(files("lattice_sim").joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        name=escape(name), subtitle=subtitle, above=above, pictures="\n".join(pictures), tables="\n".join(tables)
    )


def figure(number: int, title: str, svg: bytes, caption: str) -> str:
    """A picture with its caption, which is HTML."""
    data = b64encode(svg).decode()
    return (
        f'<figure><img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption><strong>{number}. {escape(title)}.</strong> {caption}</figcaption></figure>"
    )


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], marked_up: bool = False) -> str:
    """A table of plain text, or of HTML if it is `marked_up`."""
    body = "".join(
        f"<tr>{''.join(f'<td>{cell if marked_up else escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows
    )  # fmt: skip
    head = f"<tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>" if any(heads) else ""
    columns = f'style="--columns: {len(heads)}"'  # by which a printed page, which cannot scroll, chooses the letters' size
    return (
        f"<h2>{escape(title)}</h2>\n"
        f'<div class="wide"><table {columns}>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody></table></div>'
    )


def percent(share: float | None) -> str:
    return "–" if share is None or share != share else f"{share:.2%}"


def number(value: float | None) -> str:
    """Four significant digits, and no exponent where one can do without."""
    if value is None or value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
