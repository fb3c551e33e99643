"""Mutated input: readers of untrusted files give a correct result or a documented error in time."""

import csv
import gzip
import io
import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.analysis.files import FileOptions
from modeling_macaron.analysis.genome_variants import vcf_file
from modeling_macaron.dna import string_buffers
from modeling_macaron.io.tables import open_table
from modeling_macaron.predictor import Predictor
from tokenization import TOKENIZER_SETTINGS, reverse_complement

pytestmark = pytest.mark.timeout(3600)

EXAMPLES = int(os.environ.get("STRESS_EXAMPLES", "10000"))
DOCUMENTED = (ValueError, OSError, StrictDataclassError)
SUFFIXES = (".csv", ".tsv", ".fa", ".csv.gz", ".tsv.gz", ".fa.gz", ".csv.zst", ".fa.zst", ".parquet")
COMPRESS = {"gz": lambda content: gzip.compress(content, 1), "zst": lambda content: pa.compress(content, "zstd", True)}
PIECES = (
    b"\n",
    b"\r\n",
    b"\t",
    b",",
    b'"',
    b">",
    b"#",
    b"\0",
    b"\xff",
    b"N",
    b"ACGT",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 40,
)
GENOME = ">chr1\n" + "ACGTTGCAGGTTCA" * 20 + "\n>chr2\n" + "TTGACCATGA" * 10 + "\n"
BED = "chr1\t10\t28\tP1\t0\t+\nchr1\t40\t55\tP2\t0\t-\nchr2\t5\t20\tP3\t0\t+\n"
VCF_HEADER = (
    b"##fileformat=VCFv4.2\n##contig=<ID=chr1>\n##contig=<ID=chr2>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
)
VARIANTS = (
    b"chr1\t12\tv1\tC\tG,T\t.\t.\t.\nchr1\t45\t.\tTG\tT\t.\t.\t.\nchr2\t8\tv3\tC\t<DEL>\t.\t.\t.\n",
    b"chr2\t8\tv3\tC\tG\t.\t.\t.\n",
)
TABLE = b"name,sequence,value\none,ACGT,1\ntwo,TTNN,2.5\n"
TABLES = {
    "csv": (TABLE, b'sequence,value\n"ACGT",1\n'),
    "tsv": (TABLE.replace(b",", b"\t"),),
    "fa": (b">one 1.5\nACGT\nAC\n>two\nTT\n",),
}
CONFIG = b'{"model_type": "macaron", "hidden_size": 8, "num_hidden_layers": 1, "head_dim": 8, "kmer_size": 3}'


@st.composite
def mutated(draw, seeds):
    """Replace a few bytes of a seed, so many mutants stay readable."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        start, piece = draw(st.integers(0, len(data))), draw(st.sampled_from(PIECES) | st.binary(max_size=4))
        end = start + draw(st.sampled_from((len(piece), len(piece), 0, 1, 100)))
        data[start:end] = piece
    return bytes(data)


def fuzz(*strategies, share=1.0):
    """Try a number of inputs. An input that takes ten seconds fails."""
    quiet = settings(
        max_examples=max(1, int(share * EXAMPLES)), deadline=10_000, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return lambda test: quiet(given(*strategies)(test))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def test_tokenizer(tiny_tokenizer):
    @fuzz(mutated((b"ACGT", b"ACCAACGTNGGT", b"ac[MASK]gu", "ACÅT".encode())))
    def check(data):
        text = data.decode("utf-8", "replace")
        strands = tiny_tokenizer.encode_strands(*string_buffers(pa.array([text], pa.large_string())))
        try:
            ids = np.array(tiny_tokenizer(text)["input_ids"])
        except DOCUMENTED:
            assert strands.problem[0] or "[MASK]" in text
            return
        assert len(ids) == 40 and (ids[20:] == reverse_complement(ids[:20].astype(np.uint8))).all()
        assert "[MASK]" in text or (not strands.problem[0] and (strands.ids[0] == ids[:20]).all())

    check()


def known_rows(content, kind):
    """Number and fields of each row of a simple table that `csv` can read. None for other tables."""
    if not re.fullmatch(rb"[\n\t -~]*", content):
        return None
    lines = content.decode().split("\n")
    if kind == "fa":
        text = [line.strip() for line in lines]
        starts = [number for number, line in enumerate(text) if line.startswith(">")]
        if not starts or any(text[: starts[0]]):
            return None
        ends = [*starts[1:], len(text)]
        return [(row, ["".join(text[start + 1 : end])]) for row, (start, end) in enumerate(zip(starts, ends), 1)]  # noqa: B905
    lines = lines[:-1] if lines[-1] == "" else lines
    rows = list(csv.reader(lines, delimiter="\t" if kind == "tsv" else ","))
    plain = b'"' not in content and rows and all(line.strip() for line in lines) and rows[0][-1].strip()
    if not plain or rows[0].count("sequence") != 1 or any(len(row) != len(rows[0]) for row in rows):
        return None
    return [(number, row) for number, row in enumerate(rows[1:], start=2) if any(row)]


def read_rows(path, kind):
    """Number and fields of each row. Numbers must increase."""
    found = []
    for batch in open_table(path, batch_rows=7):
        columns = batch.table.select(["sequence"]) if kind == "fa" else batch.table
        rows = zip(*(column.to_pylist() for column in columns.columns), strict=True)
        found += zip(batch.numbers.tolist(), map(list, rows), strict=True)
    numbers = [number for number, _ in found]
    assert numbers == sorted(set(numbers))
    return found


def test_tables(folder):
    parquet = io.BytesIO()
    pa.parquet.write_table(pa.table({"sequence": ["ACGT"], "value": [1.0]}), parquet)
    seeds = {**TABLES, "parquet": (parquet.getvalue(), TABLE)}

    def contents(suffix):
        return st.tuples(st.just(suffix), mutated(seeds[suffix.split(".")[1]]))

    @fuzz(st.sampled_from(SUFFIXES).flatmap(contents), st.sampled_from((True, True, True, False)))
    def check(table, compressed):
        suffix, content = table
        kind, _, compression = suffix[1:].partition(".")
        intact = kind != "parquet" and (compressed or not compression)
        path = folder / f"table{suffix}"
        path.write_bytes(COMPRESS[compression](content) if compression and compressed else content)
        try:
            found = read_rows(path, kind)
        except DOCUMENTED:
            return
        known = known_rows(content, kind) if intact else None
        assert known is None or found == known

    check()


@pytest.mark.filterwarnings("ignore")
def test_vcf(tiny_folder, folder):
    predictor = Predictor.from_pretrained(tiny_folder)
    (folder / "genome.fa").write_text(GENOME)
    (folder / "promoters.bed").write_text(BED)
    output = folder / "out.tsv"

    @fuzz(mutated(VARIANTS).map(VCF_HEADER.__add__) | mutated((VCF_HEADER + VARIANTS[0],)), share=0.3)
    def check(content):
        (folder / "variants.vcf").write_bytes(content)
        paths = folder / "variants.vcf", folder / "genome.fa", folder / "promoters.bed", output
        try:
            result = vcf_file(predictor, *paths, options=FileOptions(overwrite=True))
        except DOCUMENTED:
            return
        table = pd.read_csv(output, sep="\t", keep_default_na=False, quoting=0)
        assert len(table) == result.num_rows
        assert ((table["delta"] == "") == (table["problem"] != "")).all()
        assert np.isfinite(pd.to_numeric(table["delta"][table["problem"] == ""])).all()

    check()


def test_config():
    @fuzz(mutated((CONFIG,)))
    def check(content):
        try:
            fields = json.loads(content)
            assume(isinstance(fields, dict))
            config = MacaronConfig.from_dict(fields)
        except DOCUMENTED:
            return
        if config.num_hidden_layers <= 3:
            with torch.device("meta"):
                assert MacaronForExpressionPrediction(config).num_parameters() > 0

    check()


def settings_of(predictor):
    """Settings that a prediction depends on, without the weights."""
    fields = [getattr(predictor.config, name) for name in MacaronConfig.__annotations__]
    return fields, [getattr(predictor.tokenizer, name) for name in TOKENIZER_SETTINGS], predictor.model.dtype


def test_checkpoint(tiny_folder, folder):
    """A changed folder that loads has the weights of its file, and predicts a finite number."""
    names = ("model.safetensors", "config.json", "tokenizer_config.json")
    whole = {name: (tiny_folder / name).read_bytes() for name in names}
    changed = folder / "changed"
    shutil.copytree(tiny_folder, changed)
    predictor = Predictor.from_pretrained(tiny_folder)
    expected_settings, weights = settings_of(predictor), predictor.model.state_dict()
    (expected,) = predictor.predict(["ACGTACGT"])

    def check_loaded(files):
        predictor = Predictor.from_pretrained(changed)
        (number,) = predictor.predict(["ACGTACGT"])
        assert np.isfinite(number)
        stored, found = load(files[names[0]]), predictor.model.state_dict()
        assert all(torch.equal(tensor, stored[name].to(tensor.dtype)) for name, tensor in found.items())
        same_weights = all(torch.equal(weights[name], found[name]) for name in weights)
        if same_weights and settings_of(predictor) == expected_settings:
            assert np.isclose(number, expected, rtol=1e-5)

    @fuzz(st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), mutated((whole[name],)))), share=0.3)
    def check(change):
        files = {**whole, change[0]: change[1]}
        for name, content in files.items():
            (changed / name).write_bytes(content)
        try:
            check_loaded(files)
        except DOCUMENTED:
            return

    check()
