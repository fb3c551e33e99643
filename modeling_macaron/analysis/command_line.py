"""Shared command-line options and summaries."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils.logging import disable_progress_bar

from modeling_macaron.machine import keep_freed_memory

from .design_file import FileDesign
from .predict import FilePrediction
from .row_figures import FIGURE_FORMATS
from .row_lines import FileLines


def prepare_process() -> None:
    """Prepare the process of a command: memory, messages about chosen columns, progress bars of downloads only."""
    if not torch.cuda.is_available():
        keep_freed_memory()
    _show_choices()
    hidden = are_progress_bars_disabled()
    with warnings.catch_warnings():  # an environment variable takes precedence, with a warning
        warnings.simplefilter("ignore")
        disable_progress_bar()
        if not hidden:
            enable_progress_bars()


def _show_choices() -> None:
    """Write each message of `tables` to stderr once, on the main process only."""
    logger, handler, shown = logging.getLogger("modeling_macaron.io.tables"), logging.StreamHandler(), set()
    handler.addFilter(lambda record: not (record.getMessage() in shown or shown.add(record.getMessage())))
    logger.handlers[:] = [handler]  # of this call's stderr
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)


def plural(count: int, noun: str) -> str:
    """Write a count with its noun, such as `1 row` or `1,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def add_files(parser: argparse.ArgumentParser, source: str = "file with sequences") -> None:
    """Add `model`, `source`, `output` and `overwrite`."""
    parser.add_argument("model", help="checkpoint folder or name on the Hub")
    parser.add_argument("source", type=Path, metavar="input", help=source)
    parser.add_argument("output", type=Path, help="file to write: .parquet, .csv or .tsv")
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add `overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")


def add_rows(parser: argparse.ArgumentParser, strict: str = "stop at a row that cannot be predicted") -> None:
    """Add `sequence_column` and `strict`."""
    parser.add_argument(
        "--sequence_column", help="column of the DNA; a file without header has the columns 0, 1, 2, ..."
    )
    parser.add_argument("--strict", action="store_true", help=strict)


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add `name_column`."""
    parser.add_argument("--name_column", help="column with names of the rows; default: the records' names in FASTA")


def add_figures(parser: argparse.ArgumentParser, of: str = "sequences", same_scale: bool = False) -> None:
    """Add `plots`, `num_plots`, `plot_format` and optionally `same_scale`."""
    parser.add_argument("--plots", type=Path, metavar="DIR", help=f"folder for figures of the first {of}")
    parser.add_argument("--num_plots", type=int, default=10, metavar="N", help="number of figures (%(default)s)")
    parser.add_argument("--plot_format", choices=FIGURE_FORMATS, default="png", help="(%(default)s)")
    if same_scale:
        parser.add_argument("--same_scale", action="store_true", help="draw all figures to one scale")


def add_batches(parser: argparse.ArgumentParser, batch_size: int = 256, of: str = "sequences") -> None:
    """Add `batch_size` and `device`."""
    parser.add_argument("--batch_size", type=int, default=batch_size, help=f"{of} per forward pass (%(default)s)")
    parser.add_argument("--device", help="for example cuda:1 or cpu; default: a GPU if there is one")


def add_speed(parser: argparse.ArgumentParser, dtype: str = "convert the weights") -> None:
    """Add `merged`, `dtype` and `compile_model`."""
    parser.add_argument("--merged", action="store_true", help="merge the attention's projections: same numbers, faster")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), help=dtype)
    compiling = "compile the model, for large files: slower start, then faster"
    parser.add_argument("--compile", dest="compile_model", action="store_true", help=compiling)


def report_lines(result: FileLines, source: Path, output: Path) -> None:
    """Print how many lines and problems were written."""
    print(f"{plural(result.num_lines, 'line')} for {plural(result.num_rows, 'row')} written to {output}")
    if result.num_problems:
        print(f"{plural(result.num_problems, 'row')} could not be predicted: the column `problem` says why")
    report_malformed(result, source)


def report_malformed(result: FileDesign | FileLines | FilePrediction, source: Path | None) -> None:
    """Print which lines of a file were left out as malformed."""
    if not result.num_malformed:
        return
    numbers = ", ".join(f"{number:,}" for number, _ in result.malformed)
    numbers += ", ..." if result.num_malformed > len(result.malformed) else ""
    are = "is malformed and was" if result.num_malformed == 1 else "are malformed and were"
    print(f"{plural(result.num_malformed, 'line')} of {source} {are} left out: {numbers}")
    print("line {:,}: {}".format(*result.malformed[0]))
