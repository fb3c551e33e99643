"""Read promoters, changes, sites and positions from user input, or explain problems."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from modeling_macaron.analysis.command_line import plural
from modeling_macaron.dna import spell, string_buffers
from tokenization import KmerTokenizer, strip_marks
from tokenization.tokenization_kmer import MISSING, N_ID, NO_BASE, TOO_LONG, TOO_SHORT

_AMBIGUOUS = "NRYSWKMBDHV"
_CHARACTERS = frozenset("ACGTU" + _AMBIGUOUS + ("ACGTU" + _AMBIGUOUS).lower())
_CHANGES = tuple(
    re.compile(kind, re.IGNORECASE)
    for kind in (
        r"(?P<before>[ACGTU]+)(?P<position>\d+)>?(?P<after>[ACGTU]+)",
        r"(?P<position>\d+)(?P<before>[ACGTU]+)>(?P<after>[ACGTU]+)",
        r"(?P<before>[ACGTU]+)(?P<position>\d+)del(?P<after>)",
        r"(?P<position>\d+)del(?P<before>[ACGTU]+)(?P<after>)",
    )
)
_LONGEST_CHANGE = 40  # characters
_AMINO_ACIDS = frozenset("ACDEFGHIKLMNPQRSTVWY")
_LEAST_DNA = 0.7  # least share of A, C, G, T, U and N in DNA with a wrong character


class Limits(NamedTuple):
    """Limits of one request."""

    characters: int = 20_000
    promoters: int = 100
    file_bytes: int = 5_000_000
    file_rows: int = 10_000
    edits: int = 10
    designs: int = 3
    design_seconds: float = 120.0


class BadInput(ValueError):
    """Invalid input. The message is a sentence for the user; `field` names the input field."""

    def __init__(self, message: str, field: str = ""):
        super().__init__(message)
        self.field = field


class Pasted(NamedTuple):
    """A pasted sequence without spaces; `name` may be empty, `line` counts from 1."""

    name: str
    sequence: str
    line: int


class Promoter(NamedTuple):
    """A promoter as the model reads it: variable part in upper case, with U as T and ambiguous bases as N."""

    name: str
    sequence: str
    notes: tuple[str, ...]  # what was trimmed, padded or replaced
    warnings: tuple[str, ...] = ()


def to_sentence(text: str) -> str:
    """Make a sentence of the first line of a message."""
    text = text.strip().splitlines()[0]
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def read_pasted(text: str | None, limits: Limits) -> list[Pasted]:
    """Split pasted text into sequences: FASTA if it begins with `>`, else one sequence per line."""
    text = (text or "").replace("\ufeff", "").replace("\u200b", "")
    if len(text) > limits.characters:
        raise BadInput(
            f"That is {len(text):,} characters; at most {limits.characters:,} can be pasted. For more use the tab File."
        )
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise BadInput("Paste a promoter first: its DNA as A, C, G and T.")
    pasted = _read_fasta(lines) if lines[0][1].startswith(">") else [_read_line(*line) for line in lines]
    if len(pasted) > limits.promoters:
        raise BadInput(
            f"These are {len(pasted):,} promoters; at most {limits.promoters} can be pasted. For more use the tab File."
        )
    return pasted


def _read_line(number: int, line: str) -> Pasted:
    if line.startswith(">"):
        raise BadInput(
            f"Line {number} begins with >, as in FASTA, but the first line does not. "
            "Write a line with > and a name before every promoter, or before none."
        )
    return Pasted("", strip_marks(line), number)


def _read_fasta(lines: list[tuple[int, str]]) -> list[Pasted]:
    """Parse the lines of FASTA text."""
    records: list[tuple[str, list[str], int]] = []
    for number, line in lines:
        if line.startswith(">"):
            records.append((line[1:].strip(), [], number))
        else:
            records[-1][1].append(line)
    for name, pieces, number in records:
        if not pieces:
            raise BadInput(f"The record “{shorten(name)}” (line {number}) has a name but no sequence.")
    return [Pasted(name, strip_marks(" ".join(pieces)), number) for name, pieces, number in records]


def shorten(text: str, length: int = 40) -> str:
    """Shorten a long text."""
    return text if len(text) <= length else text[: length - 1] + "…"


def read_promoters(
    tokenizer: KmerTokenizer, pasted: list[Pasted], keep_middle: bool = False
) -> list[Promoter | BadInput]:
    """Read pasted sequences (promoters,) as the model does, with a `BadInput` for each that it cannot read.

    With `keep_middle`, sequences that are too long are cut to their middle.
    """
    cut = [cut_lone_flank(one.sequence, tokenizer) for one in pasted]
    column = pa.array([sequence for sequence, _ in cut], pa.large_string())
    strands = tokenizer.encode_strands(*string_buffers(column), truncation=keep_middle)
    rows = zip(pasted, cut, strands.ids, strands.lengths, strands.problem, strict=True)
    return [
        BadInput(_explain(one.sequence, int(problem), int(length), tokenizer))
        if problem or "[MASK]" in one.sequence
        else _to_promoter(one._replace(sequence=sequence), note, ids, int(length), tokenizer)
        for one, (sequence, note), ids, length, problem in rows
    ]


def cut_lone_flank(sequence: str, tokenizer: KmerTokenizer) -> tuple[str, str]:
    """Cut and report a single constant flank, which the tokenizer does not trim."""
    left, right = tokenizer.flank5, tokenizer.flank3
    spelt = sequence.upper().replace("U", "T")
    begins, ends = bool(left) and spelt.startswith(left), bool(right) and spelt.endswith(right)
    if tokenizer.trimming != "auto" or begins == ends:
        return sequence, ""
    message = "The constant {} flank was trimmed ({} nt); the {} flank is missing."
    if begins:
        return sequence[len(left) :], message.format("5'", len(left), "3'")
    return sequence[: -len(right)], message.format("3'", len(right), "5'")


def doubt_lines(text: str | None, limits: Limits, tokenizer: KmerTokenizer) -> str:
    """Warn if lines read as promoters may be one sequence over several lines. Empty if not."""
    pasted = read_pasted(text, limits)
    if len(pasted) < 2 or (text or "").lstrip().startswith(">"):
        return ""
    (whole,) = read_promoters(tokenizer, [Pasted("", strip_marks("".join(one.sequence for one in pasted)), 1)])
    if isinstance(whole, BadInput):
        return ""
    return (
        f"Each of the {len(pasted)} lines was read as a separate promoter. If they are one sequence, put a line with "
        "> and a name before them."
    )


def read_one(tokenizer: KmerTokenizer, text: str | None, limits: Limits, field: str = "") -> Promoter:
    """Read a field that holds one promoter."""
    try:
        pasted = read_pasted(text, limits)
    except BadInput as error:
        raise BadInput(str(error), field) from error
    if len(pasted) > 1:
        raise BadInput(
            f"Enter one promoter, not {len(pasted)}. Each line counts as one; a sequence over several lines needs "
            "a first line with > and a name.",
            field,
        )
    (promoter,) = read_promoters(tokenizer, pasted)
    if isinstance(promoter, BadInput):
        raise BadInput(str(promoter), field)
    return promoter


def read_change(text: str) -> tuple[str, int, str] | None:
    """Read a change such as `A12G`, `CG4C`, `C4CG`, `12A>G`, `A12>G`, `A12del` or `12delA`.

    Returns the reference allele, the position from 1 and the alternative allele (empty for `del`), or None if the text
    may be a sequence. Raises `BadInput` if it looks like an invalid change.
    """
    text = "".join(text.split())
    for kind in _CHANGES:
        match = kind.fullmatch(text)
        if match:
            before, after = (match[name].upper().replace("U", "T") for name in ("before", "after"))
            return before, int(match["position"]), after
    stripped = strip_marks(text)
    if any(letter.isdigit() for letter in stripped) and len(text) <= _LONGEST_CHANGE and not text.startswith(">"):
        raise BadInput(
            f"“{text}” is not a valid change. Write one change, with the bases before and after it: "
            "A12G, C4CG or CG4C (or 12A>G, A12del), counted from 1 without flanks. Or paste the other sequence.",
            "alternative",
        )
    return None


def _to_promoter(pasted: Pasted, note: str, ids: np.ndarray, length: int, tokenizer: KmerTokenizer) -> Promoter:
    """Make a promoter with notes on trimming, cuts and padding. `length` is the length before the cut."""
    kept = min(length, tokenizer.strand_length)
    left = (tokenizer.strand_length - kept) // 2
    letters = spell(ids[left : left + kept])
    trimmed = len(pasted.sequence) - length
    raw = pasted.sequence[len(tokenizer.flank5) :][:length] if trimmed else pasted.sequence
    notes = [note] if note else []
    if trimmed:
        notes.append(
            f"The constant flanks were trimmed: {len(tokenizer.flank5)} nt at the 5' end, {len(tokenizer.flank3)} nt "
            "at the 3' end."
        )
    if length > kept:
        cut = length - kept
        notes.append(f"Too long by {cut} nt: {cut // 2} were cut off at the 5' end and {cut - cut // 2} at the 3' end.")
    elif kept < tokenizer.strand_length:
        right = tokenizer.strand_length - kept - left
        notes.append(f"{kept} nt long: padded to {tokenizer.strand_length} with N, {left} before and {right} after it.")
    notes += _note_replaced(raw, int((ids[left : left + kept] == N_ID).sum()), length > kept)
    return Promoter(pasted.name, letters, tuple(notes), _warn_of_unknown(letters, tokenizer.strand_length))


def is_mostly_unknown(num_known: int | np.ndarray, length: int) -> bool | np.ndarray:
    """Whether less than half of the `length` nt that the model reads are known."""
    return 2 * num_known < length


def _warn_of_unknown(letters: str, length: int) -> tuple[str, ...]:
    known = len(letters) - letters.count("N")
    if not is_mostly_unknown(known, length):
        return ()
    return (f"Only {known} of the {length} nt that the model reads are known: do not trust this prediction.",)


def _note_replaced(raw: str, num_unknown: int, is_cut: bool) -> list[str]:
    """Describe which bases were replaced."""
    notes, upper = [], raw.upper()
    if num_unknown:
        others = sorted({letter for letter in upper if letter in _AMBIGUOUS and letter != "N"})
        what = f" (including {', '.join(others)})" if others and not is_cut else ""
        notes.append(f"{plural(num_unknown, 'ambiguous base')} read as N{what}.")
    if "U" in upper:
        notes.append("U was read as T.")
    return notes


def _explain(text: str, problem: int, length: int, tokenizer: KmerTokenizer) -> str:
    """Explain why a sequence cannot be read."""
    wrong = next((i for i, letter in enumerate(text) if letter not in _CHARACTERS), None)
    if wrong is not None and problem != MISSING:
        return _explain_character(text, wrong)
    if problem == TOO_LONG:
        return f"{length} nt are too many: {what_is_read(tokenizer)}"
    if problem == TOO_SHORT:
        return f"{length} nt are too few: the constant flanks alone are longer."
    if problem == MISSING:
        return f"“{text}” marks a missing value; paste a DNA sequence."
    return "The sequence has no A, C, G or T." if problem == NO_BASE else "The sequence has no DNA."


def what_is_read(tokenizer: KmerTokenizer) -> str:
    """Describe how long a promoter may be, and its flanks."""
    message = f"the model reads up to {tokenizer.strand_length} nt"
    flanks = [f"{len(flank)} nt {flank}" for flank in (tokenizer.flank5, tokenizer.flank3) if flank]
    if tokenizer.trimming == "never" or not flanks:
        return f"{message}."
    given = "must" if tokenizer.trimming == "always" else "may"
    return f"{message} between the constant flanks ({' and '.join(flanks)}), which {given} be pasted too."


def _explain_character(text: str, position: int) -> str:
    """Explain why a character (index from 0) is not DNA."""
    letter, where = text[position], f"at position {position + 1}"
    if len(text) > 3 and text.isalpha() and sum(one in "ACGTUN" for one in text.upper()) < _LEAST_DNA * len(text):
        kind = "looks like a protein, not like DNA" if set(text.upper()) <= _AMINO_ACIDS else "does not look like DNA"
        return f"This {kind}: {_list_wrong(text)}."
    if letter in ",;|":
        return f"There is a “{letter}” {where}: paste the DNA alone, or upload a table in the tab File."
    if letter.isdigit():
        return f"There is a number {where}: paste the bases without position numbers."
    if letter in "-.*?":
        return f"There is a “{letter}” {where}: write N for an unknown nucleotide, and omit gaps."
    return (
        f"The character “{letter}” {where} is not DNA. Use A, C, G, T, U, or N and other IUPAC codes for unknown bases."
    )


def _list_wrong(text: str, most: int = 4) -> str:
    """List the characters that are not DNA."""
    wrong = sorted({letter.upper() for letter in text if letter not in _CHARACTERS})
    return f"it has {', '.join(wrong[:most])}{' and others' if len(wrong) > most else ''}"


def read_sites(text: str | None) -> tuple[str, ...]:
    """Read sites between commas or spaces, such as `GAATTC, GGTCTC`."""
    return tuple(site.upper() for site in re.split(r"[\s,;]+", text or "") if site)


def read_positions(text: str | None, length: int) -> tuple[int, ...]:
    """Read positions and ranges from 1 to `length`, such as `1-10, 35`, as sorted indices from 0."""
    found: set[int] = set()
    for piece in re.split(r"[\s,;]+", re.sub(r"\s*[-–]\s*", "-", text or "")):  # noqa: RUF001
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", piece)
        if piece and not match:
            raise BadInput(f"“{shorten(piece)}” is not a position: write 12, or 1-10, counted from 1.", "positions")
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                raise BadInput(f"{piece} runs backwards: write {last}-{first}.", "positions")
            if not 1 <= first <= last <= length:
                raise BadInput(f"{piece} does not lie within 1 to {length}.", "positions")
            found.update(range(first - 1, last))
    return tuple(sorted(found))
