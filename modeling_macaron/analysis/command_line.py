"""Shared command-line options, errors and summaries."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils.logging import disable_progress_bar

from modeling_macaron.analysis.figures import FIGURE_FORMATS, RowFigures
from modeling_macaron.analysis.files import FileOptions, FileResult, check_files
from modeling_macaron.io.parts import parts_folder
from modeling_macaron.machine import keep_freed_memory
from modeling_macaron.predictor import Predictor

Result = TypeVar("Result")


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Make a parser with the docstring of a script."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def run(work: Callable[[], Result]) -> Result:
    """Prepare the process and run a command. Expected errors exit with a one-line message."""
    prepare_process()
    try:
        return work()
    except (ValueError, OSError, MemoryError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; if rows are finished, --resume continues with the others")


def is_main_process() -> bool:
    """Whether this is the main process of `accelerate launch`."""
    return os.environ.get("RANK", "0") == "0"


def prepare_process() -> None:
    """Configure memory, messages about chosen columns, and progress bars (of downloads only)."""
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
    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)


def plural(count: int, noun: str) -> str:
    """Write a count with its noun, such as `1 row` or `1,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def add_files(parser: argparse.ArgumentParser, source: str = "file with sequences") -> None:
    """Add `model`, `source` and `output`."""
    parser.add_argument("model", help="checkpoint folder or name on the Hub")
    parser.add_argument("source", type=Path, metavar="input", help=source)
    parser.add_argument("output", type=Path, help="file to write: .parquet, .csv or .tsv")


def add_run(
    parser: argparse.ArgumentParser,
    strict: str = "stop at a malformed line or a row that cannot be predicted",
    sequence_column: bool = True,
    name_column: bool = True,
) -> None:
    """Add the options of `FileOptions`."""
    if sequence_column:
        parser.add_argument("--sequence_column", help="column of the DNA; without a header columns are 0, 1, 2, ...")
    if name_column:
        parser.add_argument("--name_column", help="column of row names (default: the record names of a FASTA file)")
    parser.add_argument("--strict", action="store_true", help=strict)
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")


def file_options(args: argparse.Namespace) -> FileOptions:
    """Make the `FileOptions` of a command line, and report if there is nothing to resume."""
    is_interrupted = parts_folder(args.output).is_dir() or os.path.exists(args.output)
    if args.resume and is_main_process() and not is_interrupted:
        print(f"no interrupted run of {args.output} was found: starting from the beginning")
    given = {name: value for name, value in vars(args).items() if name in FileOptions.__dataclass_fields__}
    return FileOptions(**given, verbose=True)


def add_figures(parser: argparse.ArgumentParser, of: str = "sequences") -> None:
    """Add the options of `RowFigures`."""
    parser.add_argument("--plots", type=Path, metavar="DIR", help=f"folder for figures of the first {of}")
    parser.add_argument("--num_plots", type=int, default=10, metavar="N", help="number of figures (%(default)s)")
    parser.add_argument("--plot_format", choices=FIGURE_FORMATS, default="png", help="(%(default)s)")


def figures_of(args: argparse.Namespace, kind: type = RowFigures, **options):
    """Make the folder of figures of a command line; None without `--plots`."""
    if args.plots is None:
        return None
    return kind(args.plots, args.num_plots, plot_format=args.plot_format, overwrite=args.overwrite, **options)


def add_model(parser: argparse.ArgumentParser, dtype: str = "convert the weights") -> None:
    """Add the options of `Predictor.from_pretrained`."""
    parser.add_argument("--batch_size", type=int, default=256, help="sequences per forward pass (%(default)s)")
    parser.add_argument("--device", help="for example cuda:1 or cpu; default: a GPU if there is one")
    parser.add_argument("--merged", action="store_true", help="merge attention projections: same predictions, faster")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), help=dtype)
    compiling = "compile the model: slower start, then faster; for large files"
    parser.add_argument("--compile", action="store_true", help=compiling)


def load_predictor(args: argparse.Namespace, *inputs: object) -> Predictor:
    """Check the files of a command line, then load its model."""
    inputs = [path for path in (getattr(args, "source", None), *inputs) if path is not None]
    for path in inputs:
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no file {path}")
    check_files(args.output, FileOptions(overwrite=args.overwrite, resume=args.resume), (args.model, *inputs))
    options = {name: getattr(args, name) for name in ("batch_size", "device", "merged", "dtype", "compile")}
    return Predictor.from_pretrained(args.model, **options)


def report_lines(result: FileResult, source: Path, output: Path) -> None:
    """Print how many lines and problems were written."""
    if not is_main_process():
        return
    print(f"{plural(result.num_lines, 'line')} for {plural(result.num_rows, 'row')} written to {output}")
    if result.num_problems:
        print(f"{plural(result.num_problems, 'row')} could not be predicted: the column `problem` gives the reason")
    report_malformed(result, source)


def report_malformed(result: FileResult, source: Path | None) -> None:
    """Print the malformed lines of a file, which were left out."""
    if not result.num_malformed:
        return
    numbers = ", ".join(f"{number:,}" for number, _ in result.malformed)
    numbers += ", ..." if result.num_malformed > len(result.malformed) else ""
    are = "is malformed and was" if result.num_malformed == 1 else "are malformed and were"
    print(f"{plural(result.num_malformed, 'line')} of {source} {are} left out: {numbers}")
    print("line {:,}: {}".format(*result.malformed[0]))
