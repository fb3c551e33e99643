"""In silico mutagenesis: all single substitutions of a promoter, and knock-outs of windows.

Deltas are predictions of the mutant minus the sequence, in assay units (Alipanahi et al. 2015, Nat Biotechnol 33:831;
Zhou & Troyanskaya 2015, Nat Methods 12:931). In two small trained models, the root mean square delta was 0.16 and 0.18
standard deviations of expression. Rounding errors were below 2e-7 in float32 and 0.002 to 0.006 in bfloat16, which
hides small effects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from modeling_macaron.analysis.figures import RowFigures
from modeling_macaron.analysis.files import ROWS_AT_ONCE, FileOptions, FileResult, LineTask, check_files, run_task
from modeling_macaron.analysis.mutants import Edits, MutantStrands, Substitutions, WindowEdits
from modeling_macaron.dna import BASES, NUM_BASES, encode_sequences, spell, variable_parts
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import PromoterTable, open_table
from modeling_macaron.predictor import Predictor, PredictorLike, as_predictor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Mutagenesis(NamedTuple):
    """Effect of every single substitution in a sequence.

    Attributes
    ----------
    sequence : str
        Variable part in upper case, without flanks, with U as T and other IUPAC codes as N.
    reference : float
        Its prediction, in assay units.
    deltas : numpy.ndarray
        (length, 4) float64 predictions of the mutants minus `reference`, in assay units, with columns A, C, G, T. Zero
        for the base of the sequence.
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
        (windows,) int64 first positions, from 0.
    deltas : numpy.ndarray
        (windows,) float64 predictions without the window (mean over shuffles) minus `reference`, in assay units.
    """

    sequence: str
    reference: float
    window: int
    starts: np.ndarray
    deltas: np.ndarray


def saturation_mutagenesis(
    predictor: PredictorLike,
    sequences: Sequence[str],
    *,
    verbose: bool = False,
) -> Iterator[Mutagenesis]:
    """Predict every single substitution of sequences.

    This takes 3 x length + 1 predictions per sequence, and one more for each N. Batches are filled across sequences,
    and at most two are held in memory.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    sequences : sequence of str
        DNA, with or without the constant flanks, which are not mutated.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    iterator of Mutagenesis
        In the order of `sequences`, each as soon as it is computed.

    Raises
    ------
    ValueError
        If a sequence is not DNA, masked, empty or too long. Raised before the first result; the message names the
        sequence.

    Examples
    --------
    >>> results = list(saturation_mutagenesis("runs/mine/final", ["TTTATATAAGGC"]))  # doctest: +SKIP
    >>> results[0].deltas.shape  # doctest: +SKIP
    (12, 4)
    """
    predictor = as_predictor(predictor)
    parts = variable_parts(encode_sequences(predictor.tokenizer, sequences))
    return mutate(predictor, parts, Substitutions(), verbose=verbose)


def window_scan(
    predictor: PredictorLike,
    sequences: Sequence[str],
    *,
    window: int,
    step: int = 1,
    method: str = "shuffle",
    num_shuffles: int = 10,
    seed: int = 0,
    verbose: bool = False,
) -> Iterator[WindowScan]:
    """Knock out windows of sequences, one at a time (occlusion: Zeiler & Fergus 2014, ECCV, 818).

    Parameters
    ----------
    predictor, sequences, verbose
        See `saturation_mutagenesis`.
    window, step : int
        Length of a window, and distance between the starts of windows, in nucleotides.
    method : str
        `"shuffle"`: shuffle the bases of the window. `"n"`: replace them by N. `"delete"`: delete the window.
    num_shuffles : int
        Shuffles per window. Their predictions are averaged.
    seed : int
        Seed of the shuffles, which do not depend on the batch size or on other sequences.

    Returns
    -------
    iterator of WindowScan
        In the order of `sequences`, each as soon as it is computed.

    Raises
    ------
    ValueError
        As `saturation_mutagenesis`, or if an option is invalid or a sequence is shorter than a window.
    """
    edits = WindowEdits(window, step, method, num_shuffles, seed)
    predictor = as_predictor(predictor)
    parts = variable_parts(encode_sequences(predictor.tokenizer, sequences))
    for index, part in enumerate(parts):
        if problem := edits.explain(part):
            raise ValueError(f"sequence {index} of the batch: {problem}")
    return mutate(predictor, parts, edits, verbose=verbose)


def base_importance(result: Mutagenesis) -> np.ndarray:
    """Compute the importance of each base: minus the mean delta of its three substitutions.

    Parameters
    ----------
    result : Mutagenesis
        Result for one sequence.

    Returns
    -------
    numpy.ndarray
        (length,) float64 in assay units. Positive if the base raises the prediction; 0 at N.
    """
    is_base = np.array([base in BASES for base in result.sequence], dtype=bool)
    return np.where(is_base, -result.deltas.sum(axis=1) / (NUM_BASES - 1), 0.0)


def mutate(
    predictor: Predictor, parts: Sequence[np.ndarray], edits: Edits, *, verbose: bool = False
) -> Iterator[Mutagenesis | WindowScan]:
    """Yield the result of each variable part (length,), as soon as the last of its mutants is predicted."""
    strands = MutantStrands(parts, edits, predictor.config.strand_length)
    waiting, done = np.empty(0), 0
    with progress_bar("predictions", len(strands), verbose=verbose) as progress:
        for batch in predictor.predict_batches(strands):
            progress.update(len(batch))
            waiting = np.concatenate([waiting, batch[:, 0]])
            while done < len(parts) and len(waiting) >= strands.sizes[done]:
                values, waiting = np.split(waiting, strands.sizes[done : done + 1])
                deltas = values[1:] - values[0]
                if isinstance(edits, WindowEdits):
                    deltas = deltas.reshape(-1, edits.repeats).mean(axis=1)
                yield _to_result(parts[done], float(values[0]), deltas, edits)
                done += 1


def _to_result(ids: np.ndarray, reference: float, deltas: np.ndarray, edits: Edits) -> Mutagenesis | WindowScan:
    """Make the result of a sequence from the deltas of its substitutions or windows, in order."""
    if isinstance(edits, WindowEdits):
        return WindowScan(spell(ids), reference, edits.window, edits.starts(len(ids)), deltas)
    matrix = np.zeros((len(ids), NUM_BASES))
    matrix[edits.places(ids)] = deltas
    return Mutagenesis(spell(ids), reference, matrix)


def mutagenesis_file(
    predictor: PredictorLike,
    source: str | Path,
    output: str | Path,
    *,
    windows: WindowEdits | None = None,
    figures: RowFigures | None = None,
    options: FileOptions | None = None,
) -> FileResult:
    """Mutate every row of a file in a stream, with one output line per mutant; see `predict_file`.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts.
    source : str or Path
        TSV, CSV, XLSX, FASTA or Parquet; see `open_table`.
    output : str or Path
        `.parquet`, `.csv` or `.tsv`, with the columns `row` (from 1), `name` (if rows have names), `position` (from 1
        in the variable part), `ref`, `alt`, `predicted_reference`, `delta` (mutant minus original, in assay units) and
        `problem`. With `windows`, the columns `start`, `end` (first and last position, from 1) and `letters` replace
        `position`, `ref` and `alt`. A row without a prediction has one line with the reason.
    windows : WindowEdits, optional
        Windows to knock out, with the parameters of `window_scan`. Default: all single substitutions.
    figures : RowFigures, optional
        Folder for figures of the first rows with a prediction.
    options : FileOptions, optional
        Columns, strictness, overwriting, resuming, progress.

    Returns
    -------
    FileResult

    Raises
    ------
    ValueError, OSError
        As `predict_file`.
    """
    options = options or FileOptions()
    check_files(output, options, (predictor, source))
    predictor = as_predictor(predictor)
    table = open_table(source, sequence_column=options.sequence_column, batch_rows=ROWS_AT_ONCE)
    task = _MutagenesisTask(predictor, table, windows or Substitutions(), options.name_column, figures)
    return run_task(task, predictor, table, output, options, [source])


class _MutagenesisTask(LineTask):
    """One line per substitution, or per window."""

    def __init__(
        self,
        predictor: Predictor,
        table: PromoterTable,
        edits: Edits,
        name_column: str | None,
        figures: RowFigures | None,
    ):
        super().__init__(table, predictor.tokenizer, name_column)
        self.predictor, self.edits, self.figures = predictor, edits, figures
        self.is_of_windows = isinstance(edits, WindowEdits)
        places = {"start": "int64", "end": "int64", "letters": "string"}
        if not self.is_of_windows:
            places = {"position": "int64", "ref": "string", "alt": "string"}
        kinds = places | {"predicted_reference": "float64", "delta": "float64"}
        self.fields = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kinds.items()])
        self.settings = {"columns": [table.columns.sequence, name_column], "edits": repr(edits)}
        self.limits: dict[str, float] = {}

    def explain(self, ids: np.ndarray) -> str:
        return self.edits.explain(ids)

    def results(self, ids: list[np.ndarray]) -> Iterator[Mutagenesis | WindowScan]:
        return mutate(self.predictor, ids, self.edits)

    def columns_of(self, result: Mutagenesis | WindowScan) -> Mapping[str, Any]:
        if self.is_of_windows:
            ends = result.starts + result.window
            spans = zip(result.starts, ends, strict=True)
            columns = {"start": result.starts + 1, "end": ends}
            columns |= {"letters": [result.sequence[start:end] for start, end in spans], "delta": result.deltas}
        else:
            reference, bases = np.array(list(result.sequence)), np.array(list(BASES))
            positions, alternatives = np.nonzero(reference[:, None] != bases)
            columns = {"position": positions + 1, "ref": reference[positions], "alt": bases[alternatives]}
            columns |= {"delta": result.deltas[positions, alternatives]}
        return columns | {"predicted_reference": result.reference}

    def result_from(self, ids: np.ndarray, lines: pa.Table) -> Mutagenesis | WindowScan:
        reference = lines["predicted_reference"][0].as_py()
        return _to_result(ids, reference, lines["delta"].to_numpy(), self.edits)

    def draw(self) -> None:
        results = self.figures.results()
        if self.figures.same_scale and results:
            self.limits["effect"] = max(float(np.abs(result.deltas).max()) for result in results)
            if not self.is_of_windows:
                self.limits["importance"] = max(float(np.abs(base_importance(result)).max()) for result in results)
        super().draw()

    def figures_of(self, result: Mutagenesis | WindowScan, title: str) -> dict[str, Figure]:
        from modeling_macaron.analysis.plots import mutagenesis_heatmap, mutagenesis_logo, window_profile

        effect, importance = (self.limits.get(kind) or None for kind in ("effect", "importance"))
        if self.is_of_windows:
            return {"windows": window_profile(result, title=title, limit=effect)}
        return {
            "heatmap": mutagenesis_heatmap(result, title=title, limit=effect),
            "logo": mutagenesis_logo(result, title=title, limit=importance),
        }
