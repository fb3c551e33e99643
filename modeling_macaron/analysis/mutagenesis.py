"""Mutagenesis in silico: every single substitution of a promoter, and windows of it knocked out.

Deltas are differences of predictions, mutant minus sequence, in assay units (Alipanahi et al. 2015, Nat Biotechnol
33:831, mutation maps; Zhou & Troyanskaya 2015, Nat Methods 12:931, in silico mutagenesis). Rounding stays in a delta:
on two small trained models whose deltas were 0.16 and 0.18 standard deviations of expression (root mean square), its
error was below 2e-7 in float32 and 0.002 to 0.006 in bfloat16, which hides small effects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.overlap import read_ahead, write_behind
from modeling_macaron.table_writer import write_table
from modeling_macaron.tables import PromoterTable, open_table, string_buffers
from tokenization import PROBLEMS, KmerTokenizer, StrandBatch

from .mutants import BASES, NUM_BASES, Edits, MutantStrands, Substitutions, WindowEdits
from .predict import check_batch_size, check_request, load_model, predict_strands

_LETTER_BYTES = np.frombuffer(b"ACGTN", np.uint8)
_TOO_SHORT = len(PROBLEMS)
_PROBLEMS = (*PROBLEMS, "too short for the window")
_SUBSTITUTION_SCHEMA = pa.schema([
    ("row", pa.int64()), ("position", pa.int64()), ("ref", pa.string()), ("alt", pa.string()),
    ("predicted_reference", pa.float64()), ("delta", pa.float64()), ("problem", pa.string()),
])  # fmt: skip
_WINDOW_SCHEMA = pa.schema([
    ("row", pa.int64()), ("start", pa.int64()), ("end", pa.int64()), ("letters", pa.string()),
    ("predicted_reference", pa.float64()), ("delta", pa.float64()), ("problem", pa.string()),
])  # fmt: skip


class Mutagenesis(NamedTuple):
    """Effect of every single substitution in a sequence.

    Attributes
    ----------
    sequence : str
        The variable part: flanks trimmed, upper case, U as T, ambiguity letters as N.
    reference : float
        Its prediction, in assay units.
    deltas : numpy.ndarray
        (length, 4) float64, prediction of the mutant minus `reference`, in assay units, for A, C, G and T; 0 at the
        base that stands there. At an N all four are differences from the prediction with N.
    """

    sequence: str
    reference: float
    deltas: np.ndarray


class WindowScan(NamedTuple):
    """Effect of knocking out windows of a sequence.

    Attributes
    ----------
    sequence, reference
        As in `Mutagenesis`.
    window : int
        Length of a window in nucleotides.
    starts : numpy.ndarray
        (windows,) int64 first position of each window, from 0.
    deltas : numpy.ndarray
        (windows,) float64, prediction without the window (mean over the shuffles) minus `reference`, in assay units.
    """

    sequence: str
    reference: float
    window: int
    starts: np.ndarray
    deltas: np.ndarray


class FileMutagenesis(NamedTuple):
    """What became of a file.

    Attributes
    ----------
    num_rows : int
        Rows of the source.
    num_lines : int
        Lines of the output.
    num_problems : int
        Rows among them without a prediction; the column `problem` of their one line says why.
    num_malformed : int
        Lines of the source that are no row and were left out.
    """

    num_rows: int
    num_lines: int
    num_problems: int
    num_malformed: int


def saturation_mutagenesis(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    *,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    verbose: bool = False,
) -> Iterator[Mutagenesis]:
    """Predict every single substitution of sequences: 3 x length + 1 forwards each (one more for each N).

    Batches are full, whatever sequences their mutants come from, and no more than two of them are held in memory.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
        See `load_model`.
    sequences : sequence of str
        DNA, with or without the constant flanks, which are not mutated.
    batch_size : int
        Mutants that go through the model at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    iterator of Mutagenesis
        In the order of `sequences`, each as soon as it is computed; where all are equally long,
        `np.stack([result.deltas for result in results])` is (sequences, length, 4).

    Raises
    ------
    ValueError
        On a sequence that is no DNA, masked, empty or too long (the message tells which), at once.

    Examples
    --------
    >>> results = list(saturation_mutagenesis("runs/mine/final", ["TTTATATAAGGC"]))  # doctest: +SKIP
    >>> results[0].deltas.shape  # doctest: +SKIP
    (12, 4)
    """
    check_batch_size(batch_size)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)
    letters = _variable_parts(_encode_sequences(tokenizer, sequences))
    return _results(model, letters, Substitutions(), batch_size, verbose)


def window_scan(
    model: str | Path | MacaronForExpressionPrediction,
    sequences: Sequence[str],
    *,
    window: int,
    step: int = 1,
    method: str = "shuffle",
    num_shuffles: int = 10,
    seed: int = 0,
    tokenizer: KmerTokenizer | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    verbose: bool = False,
) -> Iterator[WindowScan]:
    """Knock out windows of sequences, one at a time (occlusion: Zeiler & Fergus 2014, ECCV, 818).

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model, batch_size, verbose
        See `saturation_mutagenesis`.
    sequences : sequence of str
        DNA, with or without the constant flanks, which stay as they are.
    window, step : int
        Length of a window and distance between the starts of two, in nucleotides. Only whole windows are taken.
    method : str
        `"shuffle"`: the letters of the window in random order, which keeps its composition; `"n"`: N in their place;
        `"delete"`: the window is cut out, and the shorter sequence padded as the tokenizer does.
    num_shuffles : int
        Shuffles of each window, whose mean is taken; a forward each.
    seed : int
        Seed of the shuffles. A sequence is shuffled in the same ways whatever the batch size and its neighbours.

    Returns
    -------
    iterator of WindowScan
        In the order of `sequences`, each as soon as it is computed.

    Raises
    ------
    ValueError
        As `saturation_mutagenesis`; and on options that make no window, or a sequence too short for one.
    """
    check_batch_size(batch_size)
    edits = WindowEdits(window, step, method, num_shuffles, seed)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)
    strands = _encode_sequences(tokenizer, sequences)
    too_short = np.flatnonzero(strands.lengths < edits.min_length)
    if too_short.size:
        index, length = too_short[0], strands.lengths[too_short[0]]
        raise ValueError(f"sequence {index} of the batch: {length} nt are too few for a window of {window} ({method})")
    return _results(model, _variable_parts(strands), edits, batch_size, verbose)


def base_importance(result: Mutagenesis) -> np.ndarray:
    """Minus the mean delta of the three substitutions at each base, in assay units.

    Parameters
    ----------
    result : Mutagenesis
        Of one sequence.

    Returns
    -------
    numpy.ndarray
        (length,) float64: positive where the base raises the prediction; 0 at N, where there is no base to lose.
    """
    is_base = np.array([letter in BASES for letter in result.sequence], dtype=bool)
    return np.where(is_base, -result.deltas.sum(axis=1) / (NUM_BASES - 1), 0.0)


def mutagenesis_file(
    model: str | Path | MacaronForExpressionPrediction,
    source: str | Path,
    output: str | Path,
    *,
    window: int | None = None,
    step: int = 1,
    method: str = "shuffle",
    num_shuffles: int = 10,
    seed: int = 0,
    plots: str | Path | None = None,
    num_plots: int = 10,
    tokenizer: KmerTokenizer | None = None,
    sequence_column: str | None = None,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    merged: bool = False,
    dtype: str | torch.dtype | None = None,
    compile_model: bool = False,
    verbose: bool = False,
) -> FileMutagenesis:
    """Mutate every row of a file in a stream and write one line for each mutant.

    As many rows as a batch has sequences are read and written at a time, so memory does not grow with the file.

    Parameters
    ----------
    model, tokenizer, device, merged, dtype, compile_model
        See `load_model`.
    source : str or Path
        TSV, CSV, FASTA or Parquet; see `modeling_macaron.tables.open_table`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (from 0, as `predict_file` writes the rows), `position`
        (from 0 in the variable part), `ref`, `alt`, `predicted_reference`, `delta` (both in assay units) and `problem`:
        a row without a prediction has one line that says why. With `window`, `start`, `end` (not part of the window)
        and `letters` stand in the place of `position`, `ref` and `alt`. It appears under its name when it is complete.
    window, step, method, num_shuffles, seed
        See `window_scan`; without `window` every single substitution is made.
    plots : str or Path, optional
        Folder for figures of the first `num_plots` rows that have a prediction, drawn at the end.
    sequence_column, overwrite
        See `predict_file`.
    batch_size : int
        Mutants that go through the model at once.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    FileMutagenesis

    Raises
    ------
    ValueError
        If the source, the kind of output or an option is not understood.
    OSError
        If a file cannot be read or written, or there is no such checkpoint.
    """
    check_request(output, overwrite, batch_size)
    edits = Substitutions() if window is None else WindowEdits(window, step, method, num_shuffles, seed)
    if plots is not None:
        check_plots(plots, overwrite, "row_*.png")
    table = open_table(source, sequence_column=sequence_column, batch_rows=batch_size)
    model, tokenizer = load_model(model, tokenizer, device, merged=merged, dtype=dtype, compile_model=compile_model)
    num_rows = num_lines = num_problems = 0
    drawn: list[tuple[int, Mutagenesis | WindowScan]] = []
    with (
        write_table(output) as write,
        write_behind(write) as put,
        tqdm(total=table.num_rows, unit=" sequences", unit_scale=True, disable=not verbose) as progress,
    ):
        for strands in read_ahead(_encode_batches(table, tokenizer, edits)):
            results = _row_results(model, strands, edits, batch_size, progress)
            lines = pa.concat_tables(
                _lines(num_rows + index, result, edits, _PROBLEMS[problem])
                for index, (result, problem) in enumerate(zip(results, strands.problem, strict=True))
            )
            put(lines.combine_chunks())
            predicted = [(num_rows + index, result) for index, result in enumerate(results) if result is not None]
            drawn += predicted[: max(num_plots - len(drawn), 0)] if plots is not None else []
            num_rows += len(results)
            num_lines += len(lines)
            num_problems += len(results) - len(predicted)
        if not num_rows:
            raise ValueError(f"{source} has no rows")
    _draw(drawn, plots)
    return FileMutagenesis(num_rows, num_lines, num_problems, table.num_malformed)


def check_plots(plots: str | Path, overwrite: bool, pattern: str) -> None:
    """Refuse figures that are there, or that cannot be drawn, before any work is done.

    Parameters
    ----------
    plots : str or Path
        Folder for the figures.
    overwrite : bool
        Whether figures may be replaced.
    pattern : str
        Which files of the folder are such figures.

    Raises
    ------
    FileExistsError
        If the folder is a file, or holds figures that may not be replaced.
    ValueError
        If what draws is not installed.
    """
    if Path(plots).exists() and not Path(plots).is_dir():
        raise FileExistsError(f"{plots} is no folder: give one for the figures")
    if not overwrite and any(Path(plots).glob(pattern)):
        raise FileExistsError(f"{plots} holds figures already; choose another folder or pass --overwrite")
    try:
        from . import sequence_plots  # noqa: F401
    except ImportError as error:
        raise ValueError(f"figures need the extra `analysis` of this package ({error})") from error


def _encode_sequences(tokenizer: KmerTokenizer, sequences: Sequence[str]) -> StrandBatch:
    """Encode sequences that must all be fine."""
    if isinstance(sequences, str):
        raise ValueError("`sequences` must be a list of sequences, got one str")
    sequences = list(sequences)
    if not all(isinstance(sequence, str) for sequence in sequences):
        tokenizer(sequences)  # raises
    strands = tokenizer.encode_strands(*string_buffers(pa.array(sequences, pa.large_string())))
    if strands.problem.any():
        tokenizer(sequences)  # raises, with the letter and its position
        index = int(np.flatnonzero(strands.problem)[0])
        raise ValueError(f"sequence {index} of the batch: a masked letter has no mutants; write N")
    return strands


def _encode_batches(table: PromoterTable, tokenizer: KmerTokenizer, edits: Edits) -> Iterator[StrandBatch]:
    """Strands of the rows of a table; `problem` is an index into `_PROBLEMS`."""
    for batch in table:
        strands = tokenizer.encode_strands(*string_buffers(batch.table.column(table.columns.sequence)))
        strands.problem[(strands.problem == 0) & (strands.lengths < edits.min_length)] = _TOO_SHORT
        yield strands


def _variable_parts(strands: StrandBatch) -> list[np.ndarray]:
    """Letters (length,) of each row that has no problem, without the padding."""
    starts = (strands.ids.shape[1] - strands.lengths) // 2
    fine = np.flatnonzero(strands.problem == 0)
    return [strands.ids[row, starts[row] : starts[row] + strands.lengths[row]] for row in fine]


def _results(
    model: MacaronForExpressionPrediction, letters: Sequence[np.ndarray], edits: Edits, batch_size: int, verbose: bool
) -> Iterator[Mutagenesis | WindowScan]:
    """Give the result of each sequence (length,) as soon as the last of its mutants is predicted."""
    strands = MutantStrands(letters, edits, model.config.strand_length)
    waiting, done = np.empty(0), 0
    with tqdm(total=len(strands), unit=" predictions", unit_scale=True, disable=not verbose) as progress:
        for batch in predict_strands(model, strands, batch_size=batch_size):
            progress.update(len(batch))
            waiting = np.concatenate([waiting, batch])
            while done < len(letters) and len(waiting) >= strands.sizes[done]:
                values, waiting = np.split(waiting, strands.sizes[done : done + 1])
                yield _result(letters[done], values, edits)
                done += 1


def _result(letters: np.ndarray, values: np.ndarray, edits: Edits) -> Mutagenesis | WindowScan:
    """Make the result of one sequence from its prediction and those of its mutants, (1 + mutants,)."""
    sequence = _LETTER_BYTES[letters].tobytes().decode()
    reference, deltas = float(values[0]), values[1:] - values[0]
    if isinstance(edits, WindowEdits):
        starts = edits.starts(len(letters))
        return WindowScan(sequence, reference, edits.window, starts, deltas.reshape(len(starts), -1).mean(axis=1))
    matrix = np.zeros((len(letters), NUM_BASES))
    matrix[edits.places(letters)] = deltas
    return Mutagenesis(sequence, reference, matrix)


def _row_results(
    model: MacaronForExpressionPrediction, strands: StrandBatch, edits: Edits, batch_size: int, progress: tqdm
) -> list[Mutagenesis | WindowScan | None]:
    """Results of the rows of a table, None where a row has a problem."""
    results = _results(model, _variable_parts(strands), edits, batch_size, verbose=False)
    found = []
    for problem in strands.problem:
        found.append(None if problem else next(results))
        progress.update()
    return found


def _lines(row: int, result: Mutagenesis | WindowScan | None, edits: Edits, problem: str) -> pa.Table:
    """Lines of one row: one for each mutant, or one with the problem."""
    schema = _WINDOW_SCHEMA if isinstance(edits, WindowEdits) else _SUBSTITUTION_SCHEMA
    if result is None:
        return pa.Table.from_pylist([{"row": row, "problem": problem}], schema)
    if isinstance(edits, WindowEdits):
        ends = result.starts + edits.window
        windows = [result.sequence[start:end] for start, end in zip(result.starts, ends, strict=True)]
        columns = {"start": result.starts, "end": ends, "letters": windows, "delta": result.deltas}
    else:
        letters = np.array(list(result.sequence))
        positions, bases = np.nonzero(letters[:, None] != np.array(list(BASES)))
        columns = {
            "position": positions,
            "ref": letters[positions],
            "alt": np.array(list(BASES))[bases],
            "delta": result.deltas[positions, bases],
        }
    same = {"row": row, "predicted_reference": result.reference, "problem": problem}
    columns |= {name: [value] * len(columns["delta"]) for name, value in same.items()}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _draw(drawn: Sequence[tuple[int, Mutagenesis | WindowScan]], plots: str | Path | None) -> None:
    """Save the figures of some rows."""
    if plots is None:
        return
    from .plots import save_figure
    from .sequence_plots import mutagenesis_heatmap, mutagenesis_logo, window_profile

    for row, result in drawn:
        title, folder = f"Row {row}", Path(plots)
        if isinstance(result, WindowScan):
            save_figure(window_profile(result, title=title), folder / f"row_{row}_windows.png")
        else:
            save_figure(mutagenesis_heatmap(result, title=title), folder / f"row_{row}_heatmap.png")
            save_figure(mutagenesis_logo(result, title=title), folder / f"row_{row}_logo.png")
