"""Blocks of Markdown pages between two markers, rendered from measured figures."""

from __future__ import annotations

from pathlib import Path

from modeling_macaron.atomic import new_file


def render_block(name: str, text: str) -> str:
    """Put Markdown that ends with a newline between the markers of a block."""
    return f"<!-- {name}: begin -->\n{text}<!-- {name}: end -->\n"


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace the text between the markers of a block. Raises a ValueError unless the page has both once."""
    content = page.read_text(encoding="utf-8")
    begin, end = render_block(name, "").splitlines(keepends=True)
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{page.name} must have the lines {begin.strip()} and {end.strip()} once each")
    before, rest = content.split(begin)
    with new_file(page) as partial:
        partial.write_text(before + render_block(name, text) + rest.split(end)[1], encoding="utf-8")


def table(rows: list[list[object]], alignment: list[str]) -> str:
    """Make a Markdown table of a header and rows. `alignment` has `---` or `---:` for each column."""
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in (rows[0], alignment, *rows[1:]))


def signed(value: float) -> str:
    """Format a change with its sign and four decimals."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")
