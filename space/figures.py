"""Figures of the demo as SVG and HTML, without external scripts.

Sequences are drawn in blocks of 20 positions, which wrap on narrow screens.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from modeling_macaron.analysis.command_line import plural
from modeling_macaron.analysis.design import Design
from modeling_macaron.analysis.mutagenesis import Mutagenesis, base_importance
from modeling_macaron.dna import BASES, Difference
from modeling_macaron.reference import Reference

from .answers import ComparedAlleles, MutatedPromoter, PredictedPromoter
from .searching import DesignedPromoters
from .uploads import PredictedFile

BLOCK = 20  # positions
_CELL, _MARGIN = 16, 18  # user units of a cell, and of the margin with row labels
_LOGO_HEIGHT = 64

# Paths in a box of 1 x 1, y downwards.
_GLYPHS = {
    "A": "M0 1 .38 0H.62L1 1H.78L.71 .78H.29L.22 1ZM.355 .59H.645L.5 .19Z",
    "C": "M.99 .33C.93 .12 .76 0 .53 0 .21 0 0 .2 0 .5S.21 1 .53 1C.76 1 .93 .88 .99 .67L.77 .61C.73 .74 .65 .81"
    " .53 .81 .34 .81 .22 .7 .22 .5S.34 .19 .53 .19C.65 .19 .73 .26 .77 .39Z",
    "G": "M.97 .31C.91 .11 .75 0 .53 0 .21 0 0 .2 0 .5S.21 1 .54 1C.73 1 .89 .93 1 .81V.46H.52V.64H.79V.73"
    "C.72 .79 .64 .81 .54 .81 .34 .81 .22 .7 .22 .5S.34 .19 .53 .19C.64 .19 .72 .25 .76 .36Z",
    "T": "M0 0H1V.2H.61V1H.39V.2H0Z",
}


def signed(value: float, digits: int = 2) -> str:
    """Write a difference with its sign."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text  # noqa: RUF001


def number(value: float, digits: int = 2) -> str:
    """Write a value with a minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")  # noqa: RUF001


def change(before: float, after: float, digits: int = 2) -> str:
    """Write the difference of two rounded values."""
    return signed(round(after, digits) - round(before, digits), digits)


def problem(text: str) -> str:
    """Make the message about a problem of an input."""
    return f'<p class="problem" role="alert">{escape(text)}</p>' if text else ""


def download(label: str, name: str, content: bytes, kind: str) -> str:
    """Make a link that contains a file, so the server keeps none."""
    address = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<a class="download" download="{escape(name)}" href="{address}">{escape(label)}</a>'


def table(
    names: Sequence[str], rows: Sequence[Sequence[str]], caption: str, details: Sequence[str] | None = None
) -> str:
    """Make a table of HTML cells; `details` add a line below each row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = ""
    for row, detail in zip(rows, details or [""] * len(rows), strict=True):
        body += f'<tr class="{"leads" * bool(detail)}">{"".join(f"<td>{cell}</td>" for cell in row)}</tr>'
        if detail:
            body += f'<tr><td class="detail" colspan="{len(names)}">{detail}</td></tr>'
    return (
        f'<div class="scroll" tabindex="0"><table class="answer"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def notes(lines: Sequence[str]) -> str:
    """List what was trimmed, padded or replaced."""
    return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def warnings(lines: Sequence[str]) -> str:
    """Make paragraphs of warnings."""
    return "".join(f'<p class="warning">{escape(line)}</p>' for line in lines if line)


def blocks_of(length: int) -> list[range]:
    """Split positions into blocks."""
    return [range(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def in_blocks(sequence: str) -> str:
    """Write a sequence with possible line breaks after every ten bases."""
    return "<wbr>".join(escape(sequence[start : start + 10]) for start in range(0, len(sequence), 10))


# Predict


_MOST_MARKS = 100  # more values are drawn as a histogram


def histogram(reference: Reference | None, values: Sequence[float], digits: int = 2) -> str:
    """Draw the measured distribution, with a mark for each value or the distribution of many values."""
    if reference is None:
        return ""
    width, height, base = 480, 120, 100
    low, high = float(reference.edges[0]), float(reference.edges[-1])

    def place(value: float) -> float:
        return 10 + (width - 20) * (min(max(value, low), high) - low) / (high - low)

    bars = _bars(reference.counts, reference.edges, place, base)
    if len(values) > _MOST_MARKS:
        marks = _outline(np.histogram(np.clip(values, low, high), reference.edges)[0], reference.edges, place, base)
        text = f"line: distribution of the {len(values):,} predictions"
    else:
        names = [number(value, digits) for value in values]
        marks = "".join(
            f'<path class="mark" d="M{place(value):.1f} {base}V10m-4 0h8l-4 7z"><title>{name}</title></path>'
            for value, name in zip(values, names, strict=True)
        )
        text = f"marked: {', '.join(names)}"
    ticks = "".join(
        f'<text class="tick" x="{place(tick):.1f}" y="{base + 16}" text-anchor="middle">{name}</text>'
        for tick, name in _ticks(low, high)
    )
    label = f"Measured expression of {reference.num_promoters:,} {reference.split} promoters (assay units)"
    caption = f"{label}; {text}" if len(values) > _MOST_MARKS else label
    return (
        f'<figure class="histogram"><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(f"{label}; {text}")}">{bars}<path class="axis" d="M10 {base}H{width - 10}"/>'
        f"{ticks}{marks}</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _ticks(low: float, high: float, most: int = 7) -> list[tuple[float, str]]:
    """Choose round values between two limits, with labels."""
    power = math.floor(math.log10((high - low) / most))
    step = next(step for factor in (1, 2, 5, 10) if (step := factor * 10.0**power) * most >= high - low)
    digits = max(0, -math.floor(math.log10(step)))
    return [(tick, number(tick, digits)) for tick in np.arange(math.ceil(low / step) * step, high, step).tolist()]


def _bars(counts: np.ndarray, edges: np.ndarray, place: Callable[[float], float], base: float) -> str:
    return "".join(
        f'<rect class="bar" x="{place(left):.1f}" y="{base - 84 * count / counts.max():.1f}" '
        f'width="{place(right) - place(left) - 0.8:.1f}" height="{84 * count / counts.max():.1f}"/>'
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _outline(counts: np.ndarray, edges: np.ndarray, place: Callable[[float], float], base: float) -> str:
    """Outline of a histogram."""
    steps = "".join(
        f"V{base - 84 * count / counts.max():.1f}H{place(right):.1f}"
        for right, count in zip(edges[1:], counts, strict=True)
    )
    return f'<path class="outline" d="M{place(edges[0]):.1f} {base}{steps}V{base}"/>'


def _where(percentile: float, split: str) -> str:
    """Compare a prediction with the measured promoters of a split."""
    if 0 < percentile < 100:
        return f", higher than {percentile:.0f} % of the {split} promoters"
    return f", {'below' if percentile <= 0 else 'above'} all {split} promoters: an extrapolation"


def predicted_one(answer: PredictedPromoter, reference: Reference | None, digits: int = 2) -> str:
    """Show the prediction of one sequence."""
    where = "" if reference is None or answer.promoter.warnings else _where(answer.percentile, reference.split)
    measured = ""
    if answer.measured is not None:
        measured = f'<p class="measured">Measured: <strong>{number(answer.measured, digits)}</strong></p>'
    name = f"<h3>{escape(answer.name)}</h3>" if answer.name else ""
    value = number(answer.expression, digits)
    return (
        f'<div class="card" aria-live="polite">{name}<p class="value"><output>{value}</output>'
        f"<span>assay units{where}</span></p>{warnings(answer.promoter.warnings)}{measured}"
        f"{histogram(reference, [answer.expression], digits)}"
        f'<p class="sequence" title="sequence that the model read">{in_blocks(answer.promoter.sequence)}</p>'
        f"{notes(answer.promoter.notes)}</div>"
    )


def predicted_many(
    answers: Sequence[PredictedPromoter], reference: Reference | None, doubt: str = "", digits: int = 2
) -> str:
    """Show the predictions of several sequences. `doubt` is a warning about the input."""
    fine = [answer for answer in answers if answer.promoter is not None]
    names = ("Promoter", "Predicted", "Percentile")[: 2 if reference is None else 3]
    rows, details = [], []
    for count, answer in enumerate(answers, start=1):
        name = escape(answer.name or str(count))
        if answer.promoter is None:
            rows.append((name, "", "")[: len(names)])
            details.append(f'<span class="problem">{escape(answer.problem)}</span>')
        else:
            rows.append((name, f"<output>{number(answer.expression, digits)}</output>"))
            rows[-1] += () if reference is None else (f"{answer.percentile:.0f} %",)
            warned = "".join(f'<span class="problem">{escape(one)}</span> ' for one in answer.promoter.warnings)
            details.append(warned + escape(" ".join(answer.promoter.notes)))
    failed = len(answers) - len(fine)
    summary = f"{len(fine)} of {len(answers)} promoters predicted" + (f", {failed} not" if failed else "")
    lines = [("name", "sequence", "predicted_expression", "problem")] + [
        (one.name or count, one.promoter.sequence if one.promoter else "", _exact(one.expression), one.problem)
        for count, one in enumerate(answers, start=1)
    ]
    return (
        f'<div class="card" aria-live="polite"><p>{summary}, in assay units.</p>{warnings([doubt])}'
        f"{histogram(reference, [answer.expression for answer in fine], digits)}"
        f"{table(names, rows, 'Predictions', details)}"
        f"{download('Download CSV', 'predictions.csv', to_csv(lines), 'text/csv')}</div>"
    )


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def to_csv(lines: Sequence[Sequence[object]]) -> bytes:
    """Write CSV. An apostrophe keeps spreadsheets from reading text as a formula."""
    text = io.StringIO()
    safe = [
        [f"'{cell}" if isinstance(cell, str) and cell[:1] in "=@" and cell else cell for cell in line] for line in lines
    ]
    csv.writer(text, lineterminator="\n").writerows(safe)
    return text.getvalue().encode()


# Mutagenesis


def mutation_map(result: Mutagenesis, digits: int = 2) -> str:
    """Draw a logo and a heat map of all substitutions."""
    limit = max(float(np.abs(result.deltas).max()), 1e-9)
    importance = base_importance(result)
    highest = max(float(np.abs(importance).max()), 1e-9)
    drawn = "".join(
        _map_block(result, importance, positions, limit, highest, digits)
        for positions in blocks_of(len(result.sequence))
    )
    return (
        '<div class="map" tabindex="0" role="application" aria-label="Heat map of all substitutions; move with the '
        f'arrow keys"><div class="stretches">{drawn}</div></div>'
        '<p class="readout" aria-live="polite">Point at a cell, tap it, or move with the arrow keys.</p>'
        f'<p class="legend"><span>{signed(-limit, digits)}</span><i></i><span>{signed(limit, digits)}</span> '
        "change of the prediction, in assay units; a dot marks the promoter's own base</p>"
    )


def _map_block(
    result: Mutagenesis, importance: np.ndarray, positions: range, limit: float, highest: float, digits: int
) -> str:
    """Draw the logo and cells of a block."""
    top = _LOGO_HEIGHT + _CELL
    parts = [
        f'<text class="row" x="{_MARGIN - 6}" y="{top + (row + 0.75) * _CELL:.0f}" text-anchor="end">{base}</text>'
        for row, base in enumerate(BASES)
    ]
    middle = _LOGO_HEIGHT / 2
    for column, position in enumerate(positions):
        x, letter = _MARGIN + column * _CELL, result.sequence[position]
        height = abs(importance[position]) / highest * middle
        if letter in _GLYPHS and height > 0.5:
            y = middle - height if importance[position] > 0 else middle
            parts.append(_glyph(letter, x + 1, y, _CELL - 2, height))
        parts.append(_letter(letter, x, _LOGO_HEIGHT + _CELL * 0.75))
        parts += [_map_cell(result, position, row, x, top + row * _CELL, limit, digits) for row in range(len(BASES))]
        if position == positions.start or (position + 1) % 10 == 0:
            parts.append(_tick(position, x, top + len(BASES) * _CELL + 11))
    parts.append(f'<path class="axis" d="M{_MARGIN} {middle}h{len(positions) * _CELL}"/>')
    return _block(parts, top + len(BASES) * _CELL + 16)


def _map_cell(result: Mutagenesis, position: int, row: int, x: float, y: float, limit: float, digits: int) -> str:
    """Draw a cell colored by its delta. The base of the sequence has a dot."""
    base, letter, delta = BASES[row], result.sequence[position], float(result.deltas[position, row])
    place = f'x="{x}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}" data-row="{row}" data-column="{position}"'
    if base == letter:
        text = f"{letter} at position {position + 1}: no change, prediction {number(result.reference, digits)}"
        dot = f'<circle class="own" cx="{x + (_CELL - 1) / 2}" cy="{y + (_CELL - 1) / 2}" r="2"/>'
        return f'<rect class="cell same" {place} data-told="{text}"><title>{text}</title></rect>{dot}'
    text = f"{letter} to {base} at position {position + 1}: {signed(delta, digits)}"
    strength = round(100 * abs(delta) / limit)
    kind = "up" if delta > 0 else "down"
    shade = f'class="cell {kind}" style="--strength:{strength}%"'
    return f'<rect {shade} {place} data-told="{text}"><title>{text}</title></rect>'


def _glyph(letter: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<path class="base {letter}" fill-rule="evenodd" d="{_GLYPHS[letter]}" '
        f'transform="translate({x:.1f} {y:.1f}) scale({width:.1f} {height:.2f})"/>'
    )


def _letter(letter: str, x: float, y: float, kind: str = "") -> str:
    return f'<text class="letter {letter} {kind}" x="{x + _CELL / 2}" y="{y:.1f}" text-anchor="middle">{letter}</text>'


def _tick(position: int, x: float, y: float) -> str:
    return f'<text class="tick" x="{x + _CELL / 2}" y="{y}" text-anchor="middle">{position + 1}</text>'


def _block(parts: Sequence[str], height: float) -> str:
    """Make the SVG of a block. All blocks have the same width."""
    width = _MARGIN + BLOCK * _CELL
    return f'<svg class="stretch" viewBox="0 0 {width} {height:.0f}" aria-hidden="true">{"".join(parts)}</svg>'


def mutated(answer: MutatedPromoter, digits: int = 2) -> str:
    """Show the substitutions of a promoter."""
    rows = [(str(one.position), one.reference, one.alternative, signed(one.delta, digits)) for one in answer.strongest]
    lines = [("position", "reference", "alternative", "delta")]
    lines += [(one.position, one.reference, one.alternative, f"{one.delta:.6g}") for one in answer.substitutions]
    return (
        f'<div class="card"><p>Prediction <output>{number(answer.result.reference, digits)}</output> in assay units. '
        "Logo: how much each base adds (above the line) or subtracts (below). Cells: changes by substitutions."
        "</p>"
        f"{warnings(answer.promoter.warnings)}{notes(answer.promoter.notes)}{mutation_map(answer.result, digits)}"
        f"{table(('Position', 'From', 'To', 'Change'), rows, 'The strongest')}"
        f"{download('Download CSV', 'substitutions.csv', to_csv(lines), 'text/csv')} "
        f'<span class="hint">all {len(answer.substitutions)} substitutions</span></div>'
    )


# Variant


def alignment(reference: str, difference: Difference, num_cut: int = 0) -> str:
    """Draw both sequences and mark their difference. Positions are those of the reference."""
    start, before, after = difference
    width = max(len(before), len(after))
    tail = reference[start + len(before) :]
    first = reference[:start] + before.ljust(width, "-") + tail
    second = reference[:start] + after.ljust(width, "-") + tail
    kept = [column for column, letter in enumerate(second) if letter != "-"][num_cut:]
    second = "-" * kept[0] + second[kept[0] :] if num_cut else second
    drawn = []
    for columns in blocks_of(len(first)):
        parts = [
            f'<text class="row" x="{_MARGIN - 5}" y="{12 + row * 20}" text-anchor="end">{name}</text>'
            for row, name in enumerate(("ref", "alt"))
        ]
        for place, column in enumerate(columns):
            x, pair = _MARGIN + place * _CELL, (first[column], second[column])
            kind = "" if pair[0] == pair[1] else "changed"
            if kind:
                parts.append(f'<rect class="changed" x="{x}" y="0" width="{_CELL}" height="36" rx="3"/>')
            parts += [_letter(letter, x, 12 + row * 20, kind) for row, letter in enumerate(pair)]
            position = column - first[:column].count("-")
            if pair[0] != "-" and (place == 0 or (position + 1) % 10 == 0):
                parts.append(_tick(position, x, 48))
        drawn.append(_block(parts, 52))
    text = f"From position {start + 1}: {before or 'nothing'} in the reference, {after or 'nothing'} in the alternative"
    return f'<div class="stretches" role="img" aria-label="{text}">{"".join(drawn)}</div>'


def compared(answer: ComparedAlleles, digits: int = 3) -> str:
    """Show the effect of a variant."""
    rows = []
    pairs = {"as pasted": answer.forward, "reverse complement": answer.reversed}
    pairs["mean of both"] = tuple(np.mean([answer.forward, answer.reversed], axis=0).tolist())
    for name, (before, after) in pairs.items():
        shown = f"<output>{change(before, after, digits)}</output>"
        rows.append((name, number(before, digits), number(after, digits), shown))
    names = {"Reference": answer.reference, "Alternative": answer.alternative}
    lines = [f"{name}: {note}" for name, promoter in names.items() for note in promoter.notes]
    warned = [f"{name}: {warning}" for name, promoter in names.items() for warning in promoter.warnings]
    if answer.num_cut:
        lines.append(f"Alternative: {answer.num_cut} nt were cut off at the 5' end, to fit the model.")
    return (
        f'<div class="card"><p class="value"><output>{change(*answer.forward, digits)}</output><span>assay units: '
        f"alternative minus reference</span></p>{warnings(warned)}"
        f"{alignment(answer.reference.sequence, answer.difference, answer.num_cut)}"
        f"{table(('Orientation', 'Reference', 'Alternative', 'Change'), rows, 'Predictions in both orientations')}"
        f"{notes(lines)}</div>"
    )


# Design


def waiting() -> str:
    """Show that a request waits."""
    return '<p class="progress" role="status">Waiting for its turn.</p>'


def progressing(text: str, done: int | None = None, most: int | None = None) -> str:
    """Show progress: `done` of `most`, if they are known."""
    share = "" if most is None else f' max="{most}" value="{done}"'
    return f'<p class="progress"><progress{share}></progress> {escape(text)}</p>'


def ended(reason: str) -> str:
    """Explain why a search found nothing."""
    return f'<div class="card" role="status"><p>{escape(reason)}</p></div>'


def designed(answer: DesignedPromoters, digits: int = 2) -> str:
    """Show the designs."""
    if not answer.designs:
        return ended(answer.reason or "No design was found that keeps the rules and is closer to the target.")
    text = f"{answer.reason} Below is the best so far." if answer.reason else ""
    if not any(one.edits for one in answer.designs):
        text = f"{answer.reason} No edit was found that keeps the rules and brings the start closer to the target."
    rows = [_design_cells(rank, one, digits) for rank, one in enumerate(answer.designs, start=1)]
    details = [_marked(one) for one in answer.designs]
    first = answer.designs[0]
    records = [f">start predicted={first.start_expression:.{digits + 2}f}\n{first.start}\n"] + [
        f">design_{rank} predicted={one.expression:.{digits + 2}f} edits={_edits(one, ',')}\n{one.sequence}\n"
        for rank, one in enumerate(answer.designs, start=1)
    ]
    origin = "The start" if answer.start else "A random start"
    status = f'<p role="status"><strong>{escape(text.strip())}</strong></p>' if text else ""
    return (
        f'<div class="card">{status}{warnings(answer.warnings)}'
        f"<p>{origin} is predicted at <output>{number(first.start_expression, digits)}</output>:</p>"
        f'<p class="sequence">{in_blocks(first.start)}</p>{notes(answer.start.notes if answer.start else ())}'
        f"{table(('', 'Predicted', 'Change', 'Edits'), rows, 'Designs, best first', details)}"
        f"{download('Download FASTA', 'designs.fasta', ''.join(records).encode(), 'text/plain')}"
        '<p class="hint">A search may exploit errors of the model: make few edits, and measure the designs.</p>'
        "</div>"
    )


def _edits(one: Design, between: str = " ") -> str:
    return between.join(f"{before}{position + 1}{after}" for position, before, after in one.edits) or "none"


def _marked(one: Design) -> str:
    """Mark the edits of a sequence."""
    edited = {position for position, _, _ in one.edits}
    marked = "".join(
        (f"<mark>{letter}</mark>" if position in edited else letter) + ("<wbr>" if position % 10 == 9 else "")
        for position, letter in enumerate(one.sequence)
    )
    return f'<span class="sequence">{marked}</span>'


def _design_cells(rank: int, one: Design, digits: int) -> tuple[str, ...]:
    far = ' <span class="problem">far outside the training data</span>' if one.out_of_range else ""
    difference = change(one.start_expression, one.expression, digits)
    return str(rank), f"<output>{number(one.expression, digits)}</output>{far}", difference, _edits(one)


# File

_KINDS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def predicted_file(answer: PredictedFile, reference: Reference | None, digits: int = 2) -> str:
    """Show the predictions of a file."""
    fine = answer.num_rows - answer.num_problems
    parts = [f"<p><strong>{fine:,}</strong> of {plural(answer.num_rows, 'row')} predicted.</p>"]
    if answer.num_malformed:
        first, reason = answer.malformed[0]
        more = "".join(f", {other:,}" for other, _ in answer.malformed[1:])
        more += ", …" if answer.num_malformed > len(answer.malformed) else ""
        left_out = "is malformed and was left out" if answer.num_malformed == 1 else "are malformed and were left out"
        parts.append(
            f'<p class="warning">{plural(answer.num_malformed, "line")} of the file {left_out}. '
            f"Line {first:,}: {escape(reason)}{f' (and lines {more[2:]})' if more else ''}.</p>"
        )
    if answer.num_cut:
        parts.append(notes([f"{plural(answer.num_cut, 'row')} too long: only the middle was read."]))
    for count, text in (
        (answer.num_unknown, "with less than half of the promoter known: do not trust these predictions."),
        (answer.num_flanked, "with only one constant flank, which was read as promoter: cut it, or add the other."),
        (answer.num_unlike, "unlike the promoters of the training data: these predictions are extrapolations."),
    ):
        if count:
            parts.append(warnings([f"{plural(count, 'row')} {text}"]))
    kind = _KINDS[answer.name.rsplit(".", 1)[1]]
    parts.append(download(f"Download {answer.name}", answer.name, answer.content, kind))
    if fine:
        rows = [(f"{row:,}", escape(label), number(value, digits)) for row, label, value in answer.preview]
        parts += [
            histogram(reference, answer.values, digits),
            table(("Row", answer.label, "Predicted"), rows, "The first rows"),
        ]
    if answer.problems:
        rows = [(f"{row:,}", escape(reason)) for row, reason in answer.problems]
        caption = f"Rows without a prediction ({answer.num_problems:,})"
        if answer.num_problems > len(rows):
            caption = f"The first {len(rows)} of {plural(answer.num_problems, 'row')} without a prediction"
        parts.append(table(("Row", "Why"), rows, caption))
    return f'<div class="card" aria-live="polite">{"".join(parts)}</div>'
