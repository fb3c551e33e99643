"""From what people paste to promoters, or to a sentence that says what is wrong with it."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from modeling_macaron.analysis.command_line import plural
from modeling_macaron.io.tables import string_buffers
from tokenization import KmerTokenizer, strip_marks
from tokenization.tokenization_kmer import MISSING, N_ID, NO_BASE, TOO_LONG, TOO_SHORT

_AMBIGUOUS = "NRYSWKMBDHV"
_LETTERS = frozenset("ACGTU" + _AMBIGUOUS + ("ACGTU" + _AMBIGUOUS).lower())
_CHANGES = tuple(
    re.compile(kind, re.IGNORECASE)
    for kind in (
        r"(?P<before>[ACGTU]+)(?P<position>\d+)>?(?P<after>[ACGTU]+)",
        r"(?P<position>\d+)(?P<before>[ACGTU]+)>(?P<after>[ACGTU]+)",
        r"(?P<before>[ACGTU]+)(?P<position>\d+)del(?P<after>)",
        r"(?P<position>\d+)del(?P<before>[ACGTU]+)(?P<after>)",
    )
)
_LONGEST_CHANGE = 40  # characters of what may have been meant as one
_AMINO_ACIDS = frozenset("ACDEFGHIKLMNPQRSTVWY")
_LEAST_DNA = 0.7  # share of A, C, G, T, U and N in what is taken for DNA with a wrong letter


class Limits(NamedTuple):
    """How much one request may ask for."""

    characters: int = 20_000
    promoters: int = 100
    file_bytes: int = 5_000_000
    file_rows: int = 10_000
    edits: int = 10
    designs: int = 3
    design_seconds: float = 120.0


class BadInput(ValueError):
    """What a person gave and cannot be used; the message is a sentence for that person.

    Parameters
    ----------
    message : str
        The sentence.
    field : str
        Which of several fields it is about.
    """

    def __init__(self, message: str, field: str = ""):
        super().__init__(message)
        self.field = field


class Pasted(NamedTuple):
    """A sequence as it was pasted, without spaces: `name` is empty where it has none, `line` counts from 1."""

    name: str
    sequence: str
    line: int


class Promoter(NamedTuple):
    """A promoter that the model can read.

    Attributes
    ----------
    name : str
        As it was pasted, or empty.
    sequence : str
        Variable part: upper case, U as T, ambiguity letters as N, without flanks.
    notes : tuple of str
        What was trimmed, padded or read as something else.
    warnings : tuple of str
        Why its prediction is not to be trusted.
    """

    name: str
    sequence: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def to_sentence(text: str) -> str:
    """Take the first line of a message, begin it with a capital letter, and end it with a full stop."""
    text = text.strip().splitlines()[0]
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def read_pasted(text: str | None, limits: Limits) -> list[Pasted]:
    """Take apart what was pasted: FASTA where its first letter is `>`, else a sequence a line.

    Parameters
    ----------
    text : str or None
        What stands in the field.
    limits : Limits
        Most characters and promoters.

    Returns
    -------
    list of Pasted
        At least one; what `strip_marks` removes is gone.

    Raises
    ------
    BadInput
        If there is nothing, too much, or FASTA without names or sequences.
    """
    text = (text or "").replace("\ufeff", "").replace("\u200b", "")
    if len(text) > limits.characters:
        raise BadInput(
            f"That is {len(text):,} characters; at most {limits.characters:,} can be pasted. For more use the tab File."
        )
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise BadInput("Paste a promoter first: its DNA, in the letters A, C, G and T.")
    pasted = _read_fasta(lines) if lines[0][1].startswith(">") else [_read_line(*line) for line in lines]
    if len(pasted) > limits.promoters:
        raise BadInput(
            f"These are {len(pasted):,} promoters; at most {limits.promoters} can be pasted. For more use the tab File."
        )
    return pasted


def _read_line(number: int, line: str) -> Pasted:
    """One sequence of a line that is not FASTA."""
    if line.startswith(">"):
        raise BadInput(
            f"Line {number} begins with >, as in FASTA, and the first line does not. "
            "Give every promoter a line with > and its name, or none."
        )
    return Pasted("", strip_marks(line), number)


def _read_fasta(lines: list[tuple[int, str]]) -> list[Pasted]:
    """Take apart FASTA; a sequence may go over several lines."""
    records: list[tuple[str, list[str], int]] = []
    for number, line in lines:
        if line.startswith(">"):
            records.append((line[1:].strip(), [], number))
        else:
            records[-1][1].append(line)
    for name, pieces, number in records:
        if not pieces:
            raise BadInput(f"The record “{shorten(name)}” (line {number}) has a name and no sequence.")
    return [Pasted(name, strip_marks(" ".join(pieces)), number) for name, pieces, number in records]


def shorten(text: str, length: int = 40) -> str:
    """Cut a long text."""
    return text if len(text) <= length else text[: length - 1] + "…"


def read_promoters(
    tokenizer: KmerTokenizer, pasted: list[Pasted], keep_middle: bool = False
) -> list[Promoter | BadInput]:
    """Read pasted sequences as the model does.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        The model's.
    pasted : list of Pasted
        (promoters,) sequences.
    keep_middle : bool
        Cut what is too long to its middle instead of refusing it.

    Returns
    -------
    list of Promoter or BadInput
        (promoters,), the error in the place of what cannot be read. Nothing is raised.
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
    """Cut a constant flank that stands without the other one; the tokenizer trims the two together alone.

    Parameters
    ----------
    sequence : str
        DNA.
    tokenizer : KmerTokenizer
        It knows the flanks.

    Returns
    -------
    str
        The sequence without that flank.
    str
        Sentence about it; empty where nothing was cut.
    """
    left, right = tokenizer.flank5, tokenizer.flank3
    spelt = sequence.upper().replace("U", "T")
    begins, ends = bool(left) and spelt.startswith(left), bool(right) and spelt.endswith(right)
    if tokenizer.trimming != "auto" or begins == ends:
        return sequence, ""
    told = "The constant {} flank was trimmed ({} nt); the {} flank is not there."
    if begins:
        return sequence[len(left) :], told.format("5'", len(left), "3'")
    return sequence[: -len(right)], told.format("3'", len(right), "5'")


def doubt_lines(text: str | None, limits: Limits, tokenizer: KmerTokenizer) -> str:
    """Warn where lines that were read as promoters may be one sequence that goes over several lines.

    Parameters
    ----------
    text : str or None
        What stands in the field; `read_pasted` takes it.
    limits : Limits
        Most characters and promoters.
    tokenizer : KmerTokenizer
        The model's.

    Returns
    -------
    str
        The warning; empty where there is one line, where the lines have names, or where they are too long for one.
    """
    pasted = read_pasted(text, limits)
    if len(pasted) < 2 or (text or "").lstrip().startswith(">"):
        return ""
    (whole,) = read_promoters(tokenizer, [Pasted("", strip_marks("".join(one.sequence for one in pasted)), 1)])
    if isinstance(whole, BadInput):
        return ""
    return (
        f"Each of the {len(pasted)} lines was read as a promoter of its own. If they are one sequence, put a line with "
        "> and a name before them."
    )


def read_one(tokenizer: KmerTokenizer, text: str | None, limits: Limits, field: str = "") -> Promoter:
    """Read a field that holds one promoter.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        The model's.
    text : str or None
        What stands in the field.
    limits : Limits
        Most characters.
    field : str
        Its name.

    Returns
    -------
    Promoter

    Raises
    ------
    BadInput
        If it does not; with `field`.
    """
    try:
        pasted = read_pasted(text, limits)
    except BadInput as error:
        raise BadInput(str(error), field) from error
    if len(pasted) > 1:
        raise BadInput(
            f"One promoter, please: here are {len(pasted)} (each line counts as one; a sequence over several lines "
            "needs a first line with > and a name).",
            field,
        )
    (promoter,) = read_promoters(tokenizer, pasted)
    if isinstance(promoter, BadInput):
        raise BadInput(str(promoter), field)
    return promoter


def read_change(text: str) -> tuple[str, int, str] | None:
    """Read a change of a promoter.

    Parameters
    ----------
    text : str
        Such as `A12G`, `CG4C` or `C4CG`; also `12A>G`, `A12>G`, `A12del` and `12delA`.

    Returns
    -------
    tuple of (str, int, str) or None
        Reference allele, position from 1 and alternative allele, which is empty for `del`; None if it is no change,
        but may be a sequence.

    Raises
    ------
    BadInput
        If it was meant as a change, and is none.
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
            f"“{text}” is no change that is understood here. Write one change, with the bases before and after it: "
            "A12G, C4CG or CG4C (or 12A>G, A12del), counted from 1 without flanks. Or paste the other sequence.",
            "alternative",
        )
    return None


def _to_promoter(pasted: Pasted, note: str, ids: np.ndarray, length: int, tokenizer: KmerTokenizer) -> Promoter:
    """Say what the model reads of a sequence, and what became of the rest; `length` is that before it is cut."""
    kept = min(length, tokenizer.strand_length)
    left = (tokenizer.strand_length - kept) // 2
    letters = "".join("ACGTN"[letter] for letter in ids[left : left + kept])
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
    notes += _note_letters(raw, int((ids[left : left + kept] == N_ID).sum()), length > kept)
    return Promoter(pasted.name, letters, tuple(notes), _warn_of_unknown(letters, tokenizer.strand_length))


def is_mostly_unknown(num_known: int | np.ndarray, length: int) -> bool | np.ndarray:
    """Whether most of what the model reads, `length` nt, is not known; for one promoter, or an array of them."""
    return 2 * num_known < length


def _warn_of_unknown(letters: str, length: int) -> tuple[str, ...]:
    """Warn of a promoter that is mostly unknown."""
    known = len(letters) - letters.count("N")
    if not is_mostly_unknown(known, length):
        return ()
    return (f"Only {known} of the {length} nt that the model reads are known: do not trust this prediction.",)


def _note_letters(raw: str, num_unknown: int, is_cut: bool) -> list[str]:
    """Say which letters were read as another."""
    notes, upper = [], raw.upper()
    if num_unknown:
        others = sorted({letter for letter in upper if letter in _AMBIGUOUS and letter != "N"})
        what = f" ({', '.join(others)} among them)" if others and not is_cut else ""
        notes.append(f"{plural(num_unknown, 'ambiguous letter')} read as N{what}.")
    if "U" in upper:
        notes.append("U was read as T.")
    return notes


def _explain(text: str, problem: int, length: int, tokenizer: KmerTokenizer) -> str:
    """Sentence on why a sequence cannot be read."""
    wrong = next((i for i, letter in enumerate(text) if letter not in _LETTERS), None)
    if wrong is not None and problem != MISSING:
        return _explain_letter(text, wrong)
    if problem == TOO_LONG:
        return f"{length} nt are too many: {what_is_read(tokenizer)}"
    if problem == TOO_SHORT:
        return f"{length} nt are too few: the constant flanks alone have more."
    if problem == MISSING:
        return f"“{text}” marks a missing value; paste a DNA sequence."
    return "There is no A, C, G or T in it." if problem == NO_BASE else "There is no DNA in it."


def what_is_read(tokenizer: KmerTokenizer) -> str:
    """Sentence on how long a promoter may be, and on its flanks."""
    told = f"the model reads up to {tokenizer.strand_length} nt"
    flanks = [f"{len(flank)} nt {flank}" for flank in (tokenizer.flank5, tokenizer.flank3) if flank]
    if tokenizer.trimming == "never" or not flanks:
        return f"{told}."
    given = "must" if tokenizer.trimming == "always" else "may"
    return f"{told} between the constant flanks ({' and '.join(flanks)}), which {given} be pasted too."


def _explain_letter(text: str, position: int) -> str:
    """Sentence on a letter (index from 0) that is not DNA."""
    letter, where = text[position], f"at position {position + 1}"
    if len(text) > 3 and text.isalpha() and sum(one in "ACGTUN" for one in text.upper()) < _LEAST_DNA * len(text):
        kind = (
            "looks like a protein, and not like DNA" if set(text.upper()) <= _AMINO_ACIDS else "does not look like DNA"
        )
        return f"This {kind}: {_list_wrong(text)}."
    if letter in ",;|":
        return f"There is a “{letter}” {where}: paste the DNA alone, or a whole table in the tab File."
    if letter.isdigit():
        return f"There is a number {where}: paste the letters without position numbers."
    if letter in "-.*?":
        return f"There is a “{letter}” {where}: write N for an unknown nucleotide, and leave gaps out."
    return (
        f"The letter “{letter}” {where} is not DNA; A, C, G, T and U are, and N and IUPAC's others for what is unknown."
    )


def _list_wrong(text: str, most: int = 4) -> str:
    """Name the letters that are not DNA."""
    wrong = sorted({letter.upper() for letter in text if letter not in _LETTERS})
    return f"it has {', '.join(wrong[:most])}{' and others' if len(wrong) > most else ''}"


def read_sites(text: str | None) -> tuple[str, ...]:
    """Read sites between commas or spaces, such as `GAATTC, GGTCTC`."""
    return tuple(site.upper() for site in re.split(r"[\s,;]+", text or "") if site)


def read_positions(text: str | None, length: int) -> tuple[int, ...]:
    """Read positions that count from 1, such as `1-10, 35`.

    Parameters
    ----------
    text : str or None
        Positions and ranges with both ends, between commas or spaces.
    length : int
        Most that a promoter has.

    Returns
    -------
    tuple of int
        Indices from 0, in order.

    Raises
    ------
    BadInput
        If it is something else, or beyond `length`.
    """
    found: set[int] = set()
    for piece in re.split(r"[\s,;]+", re.sub(r"\s*[-–]\s*", "-", text or "")):  # noqa: RUF001
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", piece)
        if piece and not match:
            raise BadInput(f"“{shorten(piece)}” is no position: write 12, or 1-10, counted from 1.", "positions")
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                raise BadInput(f"{piece} runs backwards: write {last}-{first}.", "positions")
            if not 1 <= first <= last <= length:
                raise BadInput(f"{piece} does not lie within 1 to {length}.", "positions")
            found.update(range(first - 1, last))
    return tuple(sorted(found))
