"""The tab File: a table or FASTA in, the same rows with their predictions out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from modeling_macaron.analysis.predict_file import PROBLEM, predict_file
from modeling_macaron.tables import open_table

from .answers import Answers
from .reading import BadInput, Limits, plural, to_sentence

SHOWN_PROBLEMS = 10
OUTPUT_FORMATS = ("csv", "parquet")


class PredictedFile(NamedTuple):
    """A file with its predictions.

    Attributes
    ----------
    name : str
        File name for the download.
    content : bytes
        CSV or Parquet.
    num_rows, num_problems, num_malformed : int
        Rows, rows among them without a prediction, and lines of the upload that are no rows.
    problems : tuple of (int, str)
        The first rows (from 1) without a prediction, and why.
    """

    name: str
    content: bytes
    num_rows: int
    num_problems: int
    num_malformed: int
    problems: tuple[tuple[int, str], ...]


def predict_upload(
    answers: Answers, name: str, content: bytes, column: str = "", output_format: str = "csv"
) -> PredictedFile:
    """Predict every row of a table or FASTA.

    Parameters
    ----------
    answers : Answers
        The model and its limits.
    name : str
        File name, which tells the kind.
    content : bytes
        Plain text.
    column : str
        Name of the column with the DNA, or empty where it finds itself.
    output_format : str
        `"csv"` or `"parquet"`.

    Returns
    -------
    PredictedFile

    Raises
    ------
    BadInput
        If the file is too large or of another kind, or holds no sequences.
    """
    suffix = _check_file(name, content, output_format, answers.limits)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, f"upload{suffix}"), Path(folder, f"predictions.{output_format}")
        source.write_bytes(content)
        try:
            _check_rows(source, column.strip() or None, answers.limits)
            counts = predict_file(
                answers.model, source, output, tokenizer=answers.tokenizer, sequence_column=column.strip() or None,
                deduplicate=True,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            raise BadInput(_explain(str(error), source)) from error
        problems = _problems_of(output)
        done = output.read_bytes()
    return PredictedFile(f"{Path(name).stem}_predicted.{output_format}", done, *counts[:3], problems)


def _explain(message: str, source: Path) -> str:
    """Word an error of the library for somebody who sees neither paths nor options."""
    message = message.replace(str(source), "the file").replace(f"{source.parent}/", "")
    return to_sentence(message.replace("Pass --sequence_column", "Write its name into “Column of the DNA”"))


def _check_file(name: str, content: bytes, output_format: str, limits: Limits) -> str:
    """Suffix of an upload that may be read."""
    suffix = Path(name).suffix.lower()
    if output_format not in OUTPUT_FORMATS:
        raise BadInput("The predictions come as CSV or Parquet.")
    if suffix in (".gz", ".zst", ".zip", ".bz2", ".xz"):
        raise BadInput("Unpack the file first: this page reads plain TSV, CSV and FASTA.")
    if suffix in (".xlsx", ".xls", ".ods", ".numbers"):
        raise BadInput("That is a spreadsheet: save it as CSV first.")
    if suffix not in (".tsv", ".txt", ".csv", ".fa", ".fasta", ".fna"):
        raise BadInput("This page reads TSV (.tsv, .txt), CSV (.csv) and FASTA (.fa, .fasta, .fna).")
    if len(content) > limits.file_bytes:
        raise BadInput(
            f"The file has {len(content) / 1e6:.1f} MB; at most {limits.file_bytes / 1e6:.0f} MB can be "
            "uploaded. With the package installed, scripts/predict.py reads files of any size."
        )
    if not content.strip():
        raise BadInput("The file is empty.")
    return suffix


def _check_rows(source: Path, column: str | None, limits: Limits) -> None:
    """Refuse a file with too many rows before any is predicted."""
    num_rows = 0
    for batch in open_table(source, sequence_column=column, batch_rows=1_000):
        num_rows += batch.table.num_rows
        if num_rows > limits.file_rows:
            raise ValueError(
                f"the file has more than {plural(limits.file_rows, 'row')}. Split it, or install the package: "
                "scripts/predict.py reads files of any size"
            )


def _problems_of(output: Path) -> tuple[tuple[int, str], ...]:
    """List the first rows, from 1, that have no prediction, and why."""
    if output.suffix == ".parquet":
        column = pyarrow.parquet.read_table(output, columns=[PROBLEM]).column(PROBLEM)
    else:
        options = pa.csv.ConvertOptions(include_columns=[PROBLEM], column_types={PROBLEM: pa.string()})
        column = pa.csv.read_csv(output, convert_options=options).column(PROBLEM)
    column = pc.fill_null(column, "")
    rows = pc.indices_nonzero(pc.not_equal(column, "")).to_pylist()[:SHOWN_PROBLEMS]
    return tuple((row + 1, column[row].as_py()) for row in rows)
