"""Blocks of Markdown pages that are rendered from measured figures, between two markers."""

from __future__ import annotations

from pathlib import Path

from modeling_macaron.atomic import new_file


def render_block(name: str, text: str) -> str:
    """Put text between the markers of a block.

    Parameters
    ----------
    name : str
        Name of the block.
    text : str
        Markdown, ending with a newline.

    Returns
    -------
    str
    """
    return f"<!-- {name}: begin -->\n{text}<!-- {name}: end -->\n"


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a block.

    Parameters
    ----------
    page : Path
        Markdown file.
    name, text : str
        See `render_block`.

    Raises
    ------
    ValueError
        If the page does not hold both markers once each.
    """
    content = page.read_text(encoding="utf-8")
    begin, end = render_block(name, "").splitlines(keepends=True)
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{page.name} must hold the lines {begin.strip()} and {end.strip()} once each")
    before, rest = content.split(begin)
    with new_file(page) as partial:
        partial.write_text(before + render_block(name, text) + rest.split(end)[1], encoding="utf-8")


def table(names: list[str], rows: list[list[object]]) -> str:
    """Make a Markdown table.

    Parameters
    ----------
    names : list of str
        (columns,) the header.
    rows : list of list
        (rows, columns) the cells.

    Returns
    -------
    str
        Lines, each with its end.
    """
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
