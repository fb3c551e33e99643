"""Feed mutated input to everything that reads a stranger's bytes, guided by coverage (atheris, libFuzzer).

    pip install atheris
    python -m benchmarks.fuzz --minutes 10

Each target runs in a process of its own: tokenizer, promoter tables, VCF, config and checkpoint folders. An error that
is not documented, an input that takes longer than ten seconds or more than 2 GB at once, or a wrong answer ends it, and
the input is kept. Writes JSON into `results/reliability/`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from safetensors.torch import load

from benchmarks.figures import RESULTS, Results, describe_machine
from benchmarks.peak_memory import ROOT

OUTPUT = RESULTS / "reliability" / "fuzz.json"
MODULES = ("modeling_macaron", "tokenization")  # whose branches guide the mutations
SUFFIXES = (".csv", ".tsv", ".fa", ".csv.gz", ".tsv.gz", ".fa.gz", ".csv.zst", ".fa.zst", ".parquet")
COMPRESS = {
    ".gz": lambda content: gzip.compress(content, 1),
    ".zst": lambda content: pa.compress(content, "zstd", True),
}
DOCUMENTED = (ValueError, OSError)
GENOME = ">chr1\n" + "ACGTTGCAGGTTCA" * 20 + "\n>chr2\n" + "TTGACCATGA" * 10 + "\n"
BED = "chr1\t10\t28\tP1\t0\t+\nchr1\t40\t55\tP2\t0\t-\nchr2\t5\t20\tP3\t0\t+\n"
VCF = (
    "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n##contig=<ID=chr2>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    "chr1\t12\tv1\tC\tG,T\t.\t.\t.\nchr1\t45\t.\tTG\tT\t.\t.\t.\nchr2\t8\tv3\tC\t<DEL>\t.\t.\t.\n"
)


def make_tiny(folder: Path) -> None:
    """Save a model of a few hundred parameters with its tokenizer.

    Parameters
    ----------
    folder : Path
        It is made.
    """
    from benchmarks.memory import make_checkpoint

    make_checkpoint(folder)


def target_tokenizer(folder: Path) -> Callable[[bytes], None]:
    """Tokenize any text; what is accepted has the right shape, and equals what the reader of files gives.

    Parameters
    ----------
    folder : Path
        For files, as of every target.

    Returns
    -------
    callable
        `try_one(data)` raises where the program does not keep its word.
    """
    from modeling_macaron.tables import string_buffers
    from tokenization import KmerTokenizer, reverse_complement

    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GGT")

    def try_one(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        strands = tokenizer.encode_strands(*string_buffers(pa.array([text], pa.large_string())))
        try:
            ids = np.array(tokenizer(text)["input_ids"])
        except DOCUMENTED:
            assert strands.problem[0] or "[MASK]" in text
            return
        assert len(ids) == 40 and (ids[20:] == reverse_complement(ids[:20].astype(np.uint8))).all()
        assert "[MASK]" in text or (not strands.problem[0] and (strands.ids[0] == ids[:20]).all())

    return try_one


def known_rows(content: bytes, suffix: str) -> list[tuple[int, list[str]]] | None:
    """Read a table the slow and obvious way, where it is plain enough for its rows to be beyond doubt.

    Parameters
    ----------
    content : bytes
        What stands in the file, not compressed.
    suffix : str
        `.csv`, `.tsv` or `.fa`.

    Returns
    -------
    list of (int, list of str) or None
        Number and fields of each row; None where the text has more than printable ASCII, or a table has quotes, no
        header that names a column `sequence` and the last one, blank lines or rows of another length.
    """
    if not re.fullmatch(rb"[\n\t -~]*", content) or len(content) > 4096:
        return None
    lines = content.decode().split("\n")
    if suffix == ".fa":
        text = [line.strip() for line in lines]
        starts = [number for number, line in enumerate(text) if line.startswith(">")]
        if not starts or any(text[: starts[0]]):
            return None
        ends = [*starts[1:], len(text)]
        return [
            (record, ["".join(text[start + 1 : end])])
            for record, (start, end) in enumerate(zip(starts, ends, strict=True), 1)
        ]
    lines = lines[:-1] if lines[-1] == "" else lines
    rows = list(csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ","))
    plain = '"' not in content.decode() and rows and all(line.strip() for line in lines) and rows[0][-1].strip()
    if not plain or rows[0].count("sequence") != 1 or any(len(row) != len(rows[0]) for row in rows):
        return None
    return [(number, row) for number, row in enumerate(rows[1:], start=2) if any(row)]


def target_tables(folder: Path) -> Callable[[bytes], None]:
    """Read any bytes as any kind of table; rows have numbers in order, and those of plain tables are what they are.

    Parameters
    ----------
    folder : Path
        For files.

    Returns
    -------
    callable
        See `target_tokenizer`.
    """
    from modeling_macaron.tables import open_table

    def try_one(data: bytes) -> None:
        if not data:
            return
        suffix, content = SUFFIXES[data[0] % len(SUFFIXES)], data[1:]
        kind, _, compression = suffix[1:].partition(".")
        whole = not compression or data[0] >= 128
        path = folder / f"table{suffix}"
        path.write_bytes(COMPRESS[f".{compression}"](content) if compression and whole else content)
        found: list[tuple[int, list[str]]] = []
        try:
            for batch in open_table(path, batch_rows=7):
                numbers = batch.numbers.tolist()
                assert numbers == sorted(set(numbers)) and len(numbers) == batch.table.num_rows
                assert not numbers or not found or numbers[0] > found[-1][0]
                columns = batch.table.select(["sequence"]) if kind == "fa" else batch.table
                rows = zip(*(column.to_pylist() for column in columns.columns), strict=True)
                found += zip(numbers, map(list, rows), strict=True)
        except DOCUMENTED:
            return
        known = known_rows(content, f".{kind}") if whole and kind != "parquet" else None
        assert known is None or found == known, (known, found)

    return try_one


def target_vcf(folder: Path) -> Callable[[bytes], None]:
    """Read any bytes as VCF; whatever comes out has a line for each variant, and finite effects or a problem.

    Parameters
    ----------
    folder : Path
        For files.

    Returns
    -------
    callable
        See `target_tokenizer`.
    """
    import pandas as pd

    from modeling_macaron.analysis.genome_variants import vcf_file
    from modeling_macaron.analysis.predict import load_model

    make_tiny(folder / "model")
    model, tokenizer = load_model(folder / "model")
    for name, text in (("genome.fa", GENOME), ("promoters.bed", BED)):
        (folder / name).write_text(text)

    def try_one(data: bytes) -> None:
        (folder / "variants.vcf").write_bytes(data)
        try:
            result = vcf_file(
                model, folder / "variants.vcf", folder / "genome.fa", folder / "promoters.bed", folder / "out.tsv",
                tokenizer=tokenizer, overwrite=True,
            )  # fmt: skip
        except DOCUMENTED:
            return
        table = pd.read_csv(folder / "out.tsv", sep="\t", keep_default_na=False, quoting=0)
        assert len(table) == result.num_rows
        assert ((table["delta"] == "") == (table["problem"] != "")).all()
        assert np.isfinite(pd.to_numeric(table["delta"][table["problem"] == ""])).all()

    return try_one


def target_config(folder: Path) -> Callable[[bytes], None]:
    """Read any JSON object as config; what is accepted can be built, as long as it is small.

    Parameters
    ----------
    folder : Path
        Not used.

    Returns
    -------
    callable
        See `target_tokenizer`.
    """
    from huggingface_hub.errors import StrictDataclassError

    from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction

    def try_one(data: bytes) -> None:
        try:
            fields = json.loads(data)
            config = MacaronConfig.from_dict(fields) if isinstance(fields, dict) else None
        except (*DOCUMENTED, StrictDataclassError):
            return
        if config is None:
            return  # `checkpoint` reads such files
        if config.num_hidden_layers <= 3:
            with torch.device("meta"):
                assert MacaronForExpressionPrediction(config).num_parameters() > 0

    return try_one


def settings_of(model, tokenizer) -> tuple:
    """Collect all but the weights that decides what a model predicts.

    Parameters
    ----------
    model : MacaronForExpressionPrediction
        The model.
    tokenizer : KmerTokenizer
        Its tokenizer.

    Returns
    -------
    tuple
        Fields of the config, settings of the tokenizer, and the number format.
    """
    from modeling_macaron import MacaronConfig
    from modeling_macaron.analysis.predict import TOKENIZER_SETTINGS

    fields = tuple(getattr(model.config, name) for name in MacaronConfig.__annotations__)
    return fields, tuple(getattr(tokenizer, name) for name in TOKENIZER_SETTINGS), model.dtype


def target_checkpoint(folder: Path) -> Callable[[bytes], None]:
    """Change bytes of a file of a checkpoint, and load it; what is accepted predicts a finite number.

    Its weights are those of the file, and where they and the settings are what they were, so is the number.

    Parameters
    ----------
    folder : Path
        For files.

    Returns
    -------
    callable
        See `target_tokenizer`.
    """
    from modeling_macaron.analysis.predict import load_model, predict

    make_tiny(folder / "whole")
    names = ("model.safetensors", "config.json", "tokenizer_config.json")
    whole = {name: (folder / "whole" / name).read_bytes() for name in names}
    shutil.copytree(folder / "whole", folder / "changed")
    model, tokenizer = load_model(folder / "whole")
    settings, weights = settings_of(model, tokenizer), model.state_dict()
    (expected,) = predict(model, ["ACGTACGT"], tokenizer=tokenizer)

    def try_one(data: bytes) -> None:
        if len(data) < 4:
            return
        name, place = names[data[0] % 3], int.from_bytes(data[1:3], "little")
        content = whole[name]
        place %= len(content) + 1
        if data[3] % 3 == 0:
            changed = content[:place] + data[4:] + content[place + len(data) - 4 :]
        elif data[3] % 3 == 1:
            changed = content[:place] + data[4:] + content[place:]
        else:
            changed = content[:place]
        for other in names:
            (folder / "changed" / other).write_bytes(changed if other == name else whole[other])
        try:
            model, tokenizer = load_model(folder / "changed")
            (number,) = predict(model, ["ACGTACGT"], tokenizer=tokenizer)
        except DOCUMENTED:
            return
        assert np.isfinite(number), f"predicts {number}"
        stored, found = load(changed if name == names[0] else whole[names[0]]), model.state_dict()
        assert all(torch.equal(tensor, stored[key].to(tensor.dtype)) for key, tensor in found.items()), "other weights"
        if settings_of(model, tokenizer) == settings and all(torch.equal(weights[key], found[key]) for key in weights):
            assert np.isclose(number, expected, rtol=1e-5), f"predicts {number}, not {expected}"

    return try_one


TARGETS = {
    "tokenizer": target_tokenizer, "tables": target_tables, "vcf": target_vcf, "config": target_config,
    "checkpoint": target_checkpoint,
}  # fmt: skip


def write_seeds(target: str, folder: Path) -> None:
    """Write inputs to begin with.

    Parameters
    ----------
    target : str
        Of `TARGETS`.
    folder : Path
        It is made.
    """
    folder.mkdir(parents=True)
    parquet = io.BytesIO()
    pa.parquet.write_table(pa.table({"sequence": ["ACGT"], "value": [1.0]}), parquet)
    table = b"name,sequence,value\none,ACGT,1\ntwo,TTNN,2.5\n"
    seeds = {
        "tokenizer": [b"ACGT", b"ACCAACGTNGGT", b"ac[MASK]gu", "ACÅT".encode()],
        "tables": [
            b"\0" + table, b"\1" + table.replace(b",", b"\t"), b"\2>one 1.5\nACGT\nAC\n>two\nTT\n",
            b'\0sequence,value\n"ACGT",1\n', b"\x08" + parquet.getvalue(),
            # 0x81 to 0x85 are the kinds that are compressed here.
            b"\x81" + table, b"\x82" + table.replace(b",", b"\t"),
            b"\x83>a\nACGT\n", b"\x84" + table, b"\x85>a\nACGT\n",
        ],
        "vcf": [VCF.encode()],
        "config": [b'{"model_type": "macaron", "hidden_size": 8, "num_hidden_layers": 1, "head_dim": 8}'],
        "checkpoint": [b"\0\x08\0\0abc", b"\1\x40\0\1,,", b"\2\x20\0\2xx", b"\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f"],
    }  # fmt: skip
    for index, seed in enumerate(seeds[target]):
        (folder / str(index)).write_bytes(seed)


def fuzz_here(target: str, folder: Path, libfuzzer: list[str]) -> None:
    """Fuzz a target in this process, which does not return.

    Parameters
    ----------
    target : str
        Of `TARGETS`.
    folder : Path
        For its files.
    libfuzzer : list of str
        Options.
    """
    import atheris

    with atheris.instrument_imports(include=list(MODULES)):
        try_one = TARGETS[target](folder)
    atheris.Setup([sys.argv[0], *libfuzzer], try_one)
    atheris.Fuzz()


def fuzz(results: Results, target: str, seconds: float, artifacts: Path) -> None:
    """Fuzz a target in a process of its own, and count what it tried.

    Parameters
    ----------
    results : Results
        Gets a row.
    target : str
        Of `TARGETS`.
    seconds : float
        How long.
    artifacts : Path
        Folder for the input that was too much.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_seeds(target, Path(folder) / "seeds")
        artifacts.mkdir(parents=True, exist_ok=True)
        options = [
            f"-max_total_time={seconds:.0f}", "-timeout=10", "-malloc_limit_mb=2048", "-rss_limit_mb=4096",
            "-max_len=4096", "-print_final_stats=1", f"-artifact_prefix={artifacts}/{target}-",
            str(Path(folder) / "seeds"),
        ]  # fmt: skip
        began = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.fuzz", "--here", target, "--folder", folder, "--", *options],
            cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    told = process.stdout + process.stderr
    tried = re.search(r"stat::number_of_executed_units:\s*(\d+)", told)
    covered = re.findall(r"cov: (\d+)", told)
    results.row(
        "fuzz", target=target, seconds=round(time.monotonic() - began), inputs=int(tried[1]) if tried else 0,
        branches=int(covered[-1]) if covered else 0, exit_code=process.returncode,
    )  # fmt: skip
    results.check(f"{target}: inputs that were too much for it", float(process.returncode != 0), 0.0)
    if process.returncode:
        print(told[-3000:])


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 1 where a target failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together (%(default)s)")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="by default all")
    parser.add_argument("--artifacts", type=Path, default=Path("fuzz-artifacts"), help="folder for inputs that fail")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    parser.add_argument("--here", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("libfuzzer", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        fuzz_here(args.here, args.folder, args.libfuzzer)
    results = Results("fuzz", describe_machine())
    for target in args.targets:
        fuzz(results, target, args.minutes * 60 / len(args.targets), args.artifacts.absolute())
    results.save(args.output)
    print(f"\nwritten to {args.output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
