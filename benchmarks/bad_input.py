"""Give every command line what people get wrong, and write down what they see.

    python -m benchmarks.bad_input

Each case is a process of its own. It must end with a code other than 0, one line that begins with `error:` or names the
option, no traceback, no output file, and the files that were there unchanged. Writes JSON into `results/reliability/`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet
import torch
from safetensors.torch import load_file, save

from benchmarks.figures import RESULTS, Results, describe_machine
from benchmarks.memory import make_checkpoint
from benchmarks.peak_memory import ROOT
from modeling_macaron.training.data import prepare_dataset
from modeling_macaron.training.sources import open_source

OUTPUT = RESULTS / "reliability" / "bad_input.json"
FINE = "name,sequence\na,ACGTACGT\nb,TTGACC\n"
MEASURED = "row_id,sequence,value\n1,ACGTACGT,2\n2,TTGACC,3\n3,GGTACC,5\n"


class Case(NamedTuple):
    """What is wrong, the files that are there (None: are not), and the command line behind `scripts/`."""

    what: str
    files: dict[str, bytes | str | Callable[[Path], bytes] | None]
    command: str


def predict(what: str, name: str, content: bytes | str, options: str = "") -> Case:
    """Make a case of `predict.py` on a file."""
    return Case(what, {name: content}, f"predict.py model {name} out.csv {options}")


def stream(what: str, files: dict[str, bytes | str], options: str) -> Case:
    """Make a case of training from a stream, on a small data set in `data`."""
    command = "train.py {root}/configs/cpu_tiny.yaml --dataset data --output_dir out --disable_tqdm true --stream "
    return Case(what, files, command + options)


def parquet(**columns: list) -> bytes:
    """Make a Parquet file of these columns."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def make_data(folder: Path) -> None:
    """Simulate and prepare forty promoters."""
    prepare_dataset(open_source("simulate", num_sequences=40, seed=0), folder, validation_fraction=0.2)


def changed_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], bytes]:
    """Make a file of weights from the one that is there."""

    def make(path: Path) -> bytes:
        weights = load_file(path)
        change(weights)
        return save(weights, metadata={"format": "pt"})

    return make


CASES = (
    Case("no such file", {}, "predict.py model absent.csv out.csv"),
    Case("a folder instead of a file", {}, "predict.py model model out.csv"),
    predict("an empty file", "in.csv", ""),
    predict("a header and nothing below it", "in.csv", "name,sequence\n"),
    predict("no column of sequences", "in.csv", "name,value\na,1\n"),
    predict("columns without a name", "in.csv", "name,sequence,,\na,ACGT,1,2\n"),
    predict("a column that is not there", "in.csv", FINE, "--sequence_column dna"),
    predict("a column twice", "in.csv", "sequence,sequence\nACGT,ACGT\n"),
    predict("a column named as the output's", "in.csv", "sequence,problem\nACGT,x\n"),
    predict("a quote that does not end", "in.csv", 'name,sequence\na,"ACGT\nb,ACGT\n'),
    predict("a file of unknown kind", "in.ods", "PK"),
    predict("no spreadsheet behind its name", "in.xlsx", "PK"),
    predict("FASTA without a name", "in.fa", "ACGT\n"),
    predict("a gzip file that is cut off", "in.csv.gz", gzip.compress(FINE.encode() * 1000, mtime=0)[:-40]),
    predict("no gzip file behind its name", "in.csv.gz", FINE),
    predict("no Parquet behind its name", "in.parquet", FINE),
    predict("a letter that is not DNA, with --strict", "in.csv", "name,sequence\na,ACGT\nb,ACXT\n", "--strict"),
    predict("too long, with --strict", "in.csv", "sequence\n" + "ACGT" * 9 + "\n", "--strict"),
    predict("a line with a field too many, with --strict", "in.csv", FINE + "c,ACGT,1\n", "--strict"),
    Case("an output of unknown kind", {"in.csv": FINE}, "predict.py model in.csv out.xlsx"),
    Case("an output that is there", {"in.csv": FINE, "old.csv": "mine"}, "predict.py model in.csv old.csv"),
    Case("a device that is not there", {"in.csv": FINE}, "predict.py model in.csv out.csv --device cuda:9"),
    Case("a batch size of 0", {"in.csv": FINE}, "predict.py model in.csv out.csv --batch_size 0"),
    Case("no such checkpoint", {"in.csv": FINE}, "predict.py absent/folder/x in.csv out.csv"),
    Case("a folder without a model", {"in.csv": FINE, "empty/x": ""}, "predict.py empty in.csv out.csv"),
    Case("weights that are cut off", {"in.csv": FINE, "model/model.safetensors": b"\x10\0\0\0"},
         "predict.py model in.csv out.csv"),
    Case("weights that are no numbers",
         {"in.csv": FINE,
          "model/model.safetensors": changed_weights(lambda w: w["expression_head.bias"].fill_(torch.nan))},
         "predict.py model in.csv out.csv"),
    Case("a weight that is missing",
         {"in.csv": FINE, "model/model.safetensors": changed_weights(lambda w: w.pop("expression_head.bias"))},
         "predict.py model in.csv out.csv"),
    Case("a weight that the config gives no place",
         {"in.csv": FINE, "model/model.safetensors": changed_weights(lambda w: w.update(other=torch.zeros(1)))},
         "predict.py model in.csv out.csv"),
    Case("an index that names a pickle",
         {"in.csv": FINE, "model/model.safetensors": None, "model/evil.bin": "cos\nsystem\n.",
          "model/model.safetensors.index.json": '{"metadata": {}, "weight_map": {"expression_head.bias": "evil.bin"}}'},
         "predict.py model in.csv out.csv"),
    Case("a config that names a kernel of the Hub",
         {"in.csv": FINE, "model/config.json": '{"model_type": "macaron", "attn_implementation": "org/kernel"}'},
         "predict.py model in.csv out.csv"),
    Case("a config with a number that overflows",
         {"in.csv": FINE, "model/config.json": '{"model_type": "macaron", "expression_mean": 1' + "0" * 400 + "}"},
         "predict.py model in.csv out.csv"),
    Case("a config with many labels",
         {"in.csv": FINE, "model/config.json": '{"model_type": "macaron", "num_labels": 1000000000}'},
         "predict.py model in.csv out.csv"),
    Case("a config that is no JSON", {"in.csv": FINE, "model/config.json": "{"}, "predict.py model in.csv out.csv"),
    Case("a huge model", {"in.csv": FINE, "model/config.json": '{"model_type": "macaron", "hidden_size": 999999999}'},
         "predict.py model in.csv out.csv"),
    Case("another model", {"in.csv": FINE, "model/config.json": '{"model_type": "bert"}'},
         "predict.py model in.csv out.csv"),
    Case("a table without alleles", {"in.csv": FINE}, "variants.py model in.csv out.csv"),
    Case("no VCF behind its name",
         {"v.vcf": "hello\n", "g.fa": ">chr1\n" + "ACGT" * 9 + "\n", "p.bed": "chr1\t2\t12\tp\t0\t+\n"},
         "variants.py model v.vcf out.csv --genome g.fa --promoters p.bed"),
    Case("a BED of three columns",
         {"v.vcf": "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n",
          "g.fa": ">chr1\n" + "ACGT" * 9 + "\n", "p.bed": "chr1\t2\t12\n"},
         "variants.py model v.vcf out.csv --genome g.fa --promoters p.bed"),
    Case("a window longer than the sequence, with --strict", {"in.csv": FINE},
         "mutagenesis.py model in.csv out.csv --window 50 --strict"),
    Case("a number of steps of 0", {"in.csv": FINE}, "attribution.py model in.csv out.csv --steps 0"),
    Case("a start with N, with --strict", {"in.csv": "sequence\nACGN\n"},
         "design.py model out.csv --starts in.csv --strict"),
    Case("a site that is no DNA", {"in.csv": FINE}, "design.py model out.csv --starts in.csv --forbid GAAXTC"),
    Case("a target that is no number", {"in.csv": FINE}, "design.py model out.csv --starts in.csv --target up"),
    Case("a table without values", {"in.csv": FINE}, "prepare_data.py --source in.csv --output out"),
    Case("a data set that is not there", {}, "train.py {root}/configs/cpu_tiny.yaml --dataset absent --output_dir out"),
    Case("a recipe that is not there", {}, "train.py absent.yaml --dataset x --output_dir out"),
    stream("a stream of files that are not there", {}, "absent/*.parquet --max_steps 1"),
    stream("a stream that is a folder", {}, "data --max_steps 1"),
    stream("a stream of no Parquet", {"in.parquet": "sequence,value\nACGT,1\n"}, "in.parquet --max_steps 1"),
    stream("a stream without values", {"in.parquet": parquet(sequence=["ACGT"], note=["x"])},
           "in.parquet --max_steps 1"),
    stream("a stream of no promoters", {"in.parquet": parquet(sequence=["ACGX"], value=[1.0])},
           "in.parquet --max_steps 1"),
    stream("a stream without an end", {"in.parquet": parquet(sequence=["ACGT"], value=[1.0])}, "in.parquet"),
    stream("a number of shards that is none", {"in.parquet": parquet(sequence=["ACGT"], value=[1.0])},
           "in.parquet --max_steps 1 --stream_shards 0"),
    Case("a measured table without values", {"in.csv": FINE},
         "evaluate.py --model model --table in.csv --output out.json"),
    Case("a measured value that is no number", {"in.csv": "sequence,value\nACGT,1\nTTGACC,high\n"},
         "evaluate.py --model model --table in.csv --output out.json"),
    Case("predictions of other rows", {"in.csv": MEASURED, "p.csv": "row_id,prediction\n9,1\n"},
         "evaluate.py --predictions p.csv --table in.csv --output out.json"),
    Case("an exported file of another kind", {}, "export_onnx.py model out.pt"),
    Case("an exported file that is there", {"old.onnx": "mine"}, "export_onnx.py model old.onnx"),
    Case("an opset that there is not", {}, "export_onnx.py model out.onnx --opset 3"),
    Case("a folder without a model card, to be pushed", {}, "push_to_hub.py model owner/name"),
    Case("a name that the Hub cannot have", {"model/README.md": "# Mine\n"}, "push_to_hub.py model a/b/c"),
    Case("no way to the Hub", {"model/README.md": "# Mine\n"}, "push_to_hub.py model owner/name --token hf_none"),
    Case("no TensorFlow checkpoint", {}, "convert_tf_checkpoint.py absent out"),
    Case("weights of another model, to be converted", {}, "convert_tf_checkpoint.py model/model.safetensors out"),
    Case("settings of the conversion that are no JSON", {},
         "convert_tf_checkpoint.py model/model.safetensors out --config relu"),
    Case("a simulated table of unknown kind", {}, "simulate.py out.xlsx"),
    Case("a negative number of simulated promoters", {}, "simulate.py out.tsv --num_sequences -1"),
    Case("a negative noise", {}, "simulate.py out.tsv --noise -1"),
)  # fmt: skip


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files in a folder.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    dict of str to bytes
        Contents by name.
    """
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_case(case: Case, folder: Path) -> tuple[int, str, list[str]]:
    """Run a case, without a network.

    Parameters
    ----------
    case : Case
        The case.
    folder : Path
        Of its own; it is made.

    Returns
    -------
    exit_code : int
        Of the process.
    told : str
        What it wrote on its error stream.
    spoilt : list of str
        Output files that are there, and files that are not as they were.
    """
    folder.mkdir()
    make_checkpoint(folder / "model")
    if "--dataset data" in case.command:
        make_data(folder / "data")
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
            continue
        content = content(path) if callable(content) else content
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = read_files(folder)
    script, *options = case.command.format(root=ROOT).split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *options],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    after = read_files(folder)
    spoilt = [name for name, content in before.items() if after.get(name) != content]
    spoilt += [path.name for path in folder.iterdir() if path.name.startswith("out")]
    return done.returncode, done.stderr, sorted(spoilt)


def run(results: Results, folder: Path) -> None:
    """Run all cases.

    Parameters
    ----------
    results : Results
        Gets a row for each.
    folder : Path
        For their files.
    """
    for index, case in enumerate(CASES):
        code, told, spoilt = run_case(case, folder / str(index))
        lines = [line for line in told.strip().splitlines() if "error: " in line]
        line = lines[-1].partition("error: ")[2].replace(str(ROOT), "...") if lines else told[-200:]
        line = line.replace(f"{folder / str(index)}/", "")
        results.row("bad_input", what=case.what, command=case.command.replace("{root}/", ""), exit_code=code, told=line)
        clear = code in (1, 2) and len(lines) == 1 and "Traceback" not in told
        results.check(
            f"{case.what}: one clear line, no output, files as they were", float(not clear or bool(spoilt)), 0.0
        )


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 1 where a case is not told in one clear line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bad_input", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    args = parser.parse_args(argv)
    results = Results("bad_input", describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        run(results, Path(folder))
    results.save(args.output)
    print(f"\nwritten to {args.output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
