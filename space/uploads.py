"""The tab File: predict the rows of a table or FASTA."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from modeling_macaron.analysis.command_line import plural
from modeling_macaron.analysis.files import PROBLEM, FileOptions
from modeling_macaron.analysis.predict import PREDICTION, predict_file
from modeling_macaron.dna import string_buffers
from modeling_macaron.io.parts import parts_folder
from modeling_macaron.io.tables import PromoterTable, open_table
from tokenization import TOKENIZER_SETTINGS, KmerTokenizer, StrandBatch
from tokenization.tokenization_kmer import N_ID

from .answers import Answers
from .reading import BadInput, Limits, cut_lone_flank, is_mostly_unknown, shorten, to_sentence

SHOWN_PROBLEMS, SHOWN_ROWS, SHOWN_LINES = 10, 5, 3
BATCH_SIZE = 32  # small, for frequent progress
OUTPUT_FORMATS = ("csv", "parquet")


class PredictedFile(NamedTuple):
    """A file with its predictions, counts of rows by kind, and the first rows of each kind (numbered from 1)."""

    name: str
    content: bytes  # CSV or Parquet
    num_rows: int
    num_problems: int  # rows without a prediction
    num_malformed: int  # lines that are not rows
    num_cut: int  # rows cut to their middle
    num_unknown: int  # predicted rows that are mostly N
    num_flanked: int  # predicted rows with one constant flank
    values: np.ndarray  # (predicted rows,) in assay units
    label: str  # name of the first column
    preview: tuple[tuple[int, str, float], ...]  # row, first column, prediction
    problems: tuple[tuple[int, str], ...]
    malformed: tuple[tuple[int, str], ...]
    num_unlike: int = 0  # predicted rows unlike the training rows


class _MiddleTokenizer(KmerTokenizer):
    """Tokenizer that cuts long sequences to their middle."""

    def encode_strands(self, letters: np.ndarray, offsets: np.ndarray, truncation: bool = True) -> StrandBatch:
        """Encode strands with truncation."""
        return super().encode_strands(letters, offsets, truncation=True)


class FileProgress(NamedTuple):
    """Progress of a file in rows."""

    num_done: int
    num_rows: int


def predict_upload(
    answers: Answers,
    name: str,
    content: bytes,
    column: str = "",
    output_format: str = "csv",
    keep_middle: bool = False,
) -> Iterator[FileProgress | PredictedFile]:
    """Predict every row of a table or FASTA. Yields progress, then the file.

    An empty `column` finds the DNA by name or content. With `keep_middle`, sequences that are too long are cut to their
    middle. Raises `BadInput` if the file is too large, of another type, or has no sequences.
    """
    suffix = _check_file(name, content, output_format, answers.limits)
    column = column.strip() or None
    kind = _MiddleTokenizer if keep_middle else KmerTokenizer
    tokenizer = kind(**{setting: getattr(answers.tokenizer, setting) for setting in TOKENIZER_SETTINGS})
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as executor:
        source, output = Path(folder, f"upload{suffix}"), Path(folder, f"predictions.{output_format}")
        source.write_bytes(content)
        try:
            table, num_rows = _check_rows(source, column, answers.limits)
            predictor = replace(answers.predictor, tokenizer=tokenizer, batch_size=BATCH_SIZE)
            options = FileOptions(sequence_column=column)
            work = executor.submit(predict_file, predictor, source, output, deduplicate=True, options=options)
            num_done = 0
            while not wait([work], timeout=0.3).done:  # joining removes the parts
                num_done = max(num_done, min(_count_parts(output) * 16 * BATCH_SIZE, num_rows))
                yield FileProgress(num_done, num_rows)
            counts = work.result()
        except (ValueError, OSError) as error:
            raise BadInput(_explain(str(error), source)) from error
        shown = _read_output(output, table.columns.sequence, tokenizer)
        done = output.read_bytes()
    name = f"{Path(name).stem}_predicted.{output_format}"
    numbers = (counts.num_rows, counts.num_problems, counts.num_malformed)
    malformed = tuple(table.malformed[:SHOWN_LINES])
    yield PredictedFile(name, done, *numbers, *shown, malformed, int(counts.details["num_unlike"]))


def _count_parts(output: Path) -> int:
    """Count the finished parts of an output. A part has up to 16 batches."""
    return sum(1 for _ in parts_folder(output).glob("*.arrow"))


def _explain(message: str, source: Path) -> str:
    """Reword an error of the library for users who see neither paths nor options."""
    message = message.replace(str(source), "the file").replace(f"{source.parent}/", "")
    return to_sentence(message.replace("Pass --sequence_column", "Write its name into “Column of the DNA”"))


def _check_file(name: str, content: bytes, output_format: str, limits: Limits) -> str:
    """Return the suffix of a valid upload."""
    suffix = Path(name).suffix.lower()
    if output_format not in OUTPUT_FORMATS:
        raise BadInput("Predictions are written as CSV or Parquet.")
    if suffix in (".gz", ".zst", ".zip", ".bz2", ".xz"):
        raise BadInput("Unpack the file first: the demo reads plain TSV, CSV and FASTA.")
    if suffix in (".xlsx", ".xls", ".ods", ".numbers"):
        raise BadInput("That is a spreadsheet: save it as CSV first.")
    if suffix not in (".tsv", ".txt", ".csv", ".fa", ".fasta", ".fna"):
        raise BadInput("The demo reads TSV (.tsv, .txt), CSV (.csv) and FASTA (.fa, .fasta, .fna).")
    if len(content) > limits.file_bytes:
        raise BadInput(
            f"The file has {len(content) / 1e6:.1f} MB; at most {limits.file_bytes / 1e6:.0f} MB can be "
            "uploaded. With the package installed, scripts/predict.py reads files of any size."
        )
    if not content.strip():
        raise BadInput("The file is empty.")
    if not _is_text(content):
        raise BadInput("The file is not plain text in UTF-8. In a spreadsheet, save it as “CSV UTF-8”.")
    return suffix


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _check_rows(source: Path, column: str | None, limits: Limits) -> tuple[PromoterTable, int]:
    """Read a table to its end and count its rows. Raises if there are too many."""
    num_rows, table = 0, open_table(source, sequence_column=column, batch_rows=1_000)
    for batch in table:
        num_rows += batch.table.num_rows
        if num_rows > limits.file_rows:
            raise ValueError(
                f"the file has more than {plural(limits.file_rows, 'row')}. Split it, or install the package: "
                "scripts/predict.py reads files of any size"
            )
    return table, num_rows


def _read_output(output: Path, sequence_column: str, tokenizer: KmerTokenizer) -> tuple:
    """Read the fields `num_cut` to `problems` of `PredictedFile` from an output."""
    if output.suffix == ".parquet":
        table = pyarrow.parquet.read_table(output)
    else:
        with pa.csv.open_csv(output) as reader:
            names = reader.schema.names
        types = {name: pa.string() for name in names if name != PREDICTION}
        table = pa.csv.read_csv(output, convert_options=pa.csv.ConvertOptions(column_types=types))
    sequences, values = table.column(sequence_column).to_pylist(), table.column(PREDICTION).to_pylist()
    labels, problems = table.column(0).to_pylist(), table.column(PROBLEM).to_pylist()
    fine = [row for row, value in enumerate(values) if value is not None]
    strands = tokenizer.encode_strands(*string_buffers(table.column(sequence_column)))
    num_cut = int((strands.lengths[fine] > tokenizer.strand_length).sum())
    num_unknown = int(is_mostly_unknown((strands.ids[fine] != N_ID).sum(axis=1), tokenizer.strand_length).sum())
    num_flanked = sum(bool(cut_lone_flank(sequences[row] or "", tokenizer)[1]) for row in fine)
    preview = tuple((row + 1, shorten(str(labels[row])), values[row]) for row in fine[:SHOWN_ROWS])
    wrong = tuple((row, problem) for row, problem in enumerate(problems, start=1) if problem)[:SHOWN_PROBLEMS]
    return (
        num_cut,
        num_unknown,
        num_flanked,
        np.array([values[row] for row in fine]),
        table.column_names[0],
        preview,
        wrong,
    )
