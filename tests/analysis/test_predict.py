"""Prediction of files: formats, rows without a prediction, duplicates, and intervals of a genome."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_macaron.analysis import files
from modeling_macaron.analysis.files import FileResult
from modeling_macaron.analysis.predict import predict_file
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import error_of, names_in, read, run_script, slow_reverse_complement, write
from tokenization import KmerTokenizer

SEQUENCES = ["ACGTACGTAC", "acgu" * 4, "GGGG", "ACCATTTTGGT", "NRYACG"]
TOO_LONG = "nt are more than the 20 that the model reads"


def frame_of(sequences):
    return pd.DataFrame({"name": [f"p{i}" for i in range(len(sequences))], "sequence": sequences})


@pytest.mark.parametrize(
    ("source", "output"),
    [("in.tsv", "out.parquet"), ("in.csv", "out.csv"), ("in.tsv.gz", "out.tsv"), ("in.parquet", "out.csv"),
     ("in.fa", "out.parquet")],
)  # fmt: skip
def test_files_keep_their_order_and_columns(predictor, explicit, tmp_path, source, output):
    path = write(frame_of(SEQUENCES), tmp_path / source)
    result = predict_file(replace(predictor, batch_size=2), path, tmp_path / output)
    assert result == FileResult(5, 5, 0, details={"num_unlike": 0})
    table = read(tmp_path / output)
    assert table["name"].tolist() == [f"p{i}" for i in range(5)]
    assert table["sequence"].tolist() == SEQUENCES
    np.testing.assert_allclose(table["predicted_expression"], [explicit(text) for text in SEQUENCES], rtol=1e-5)


def test_rows_without_a_prediction_keep_their_place(predictor, tmp_path):
    sequences = ["ACGT", "AC!T", "A" * 21, "", "GGGG", "AC[MASK]XT", "CAFÉ"]
    write(frame_of(sequences), tmp_path / "in.parquet")
    result = predict_file(predictor, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert result[:3] == (7, 7, 5)
    assert result.reasons[0] == ("letter ... at position ... is not DNA", 3)
    table = read(tmp_path / "out.parquet")
    assert table["sequence"].tolist() == sequences
    bases = [f"letter {base!r} at position 3 (counted from 1) is not DNA" for base in "![F"]
    assert table["problem"].tolist() == ["", bases[0], f"21 {TOO_LONG}", "empty sequence", "", *bases[1:]]
    assert (table["predicted_expression"].isna() == (table["problem"] != "")).all()
    np.testing.assert_allclose(table["predicted_expression"].dropna(), predictor.predict(["ACGT", "GGGG"]), rtol=1e-9)


@pytest.mark.parametrize("kind", ["binary", "fixed", "dictionary"])
def test_sequences_of_every_type(predictor, tmp_path, kind):
    sequences = [b"ACGT", b"ACXT", None]
    column = {
        "binary": pa.array(sequences, pa.binary()), "fixed": pa.array(sequences, pa.binary(4)),
        "dictionary": pa.array(["ACGT", "ACXT", None]).dictionary_encode(),
    }[kind]  # fmt: skip
    pq.write_table(pa.table({"sequence": column}), tmp_path / "in.parquet")
    predict_file(predictor, tmp_path / "in.parquet", tmp_path / "out.parquet")
    problems = read(tmp_path / "out.parquet")["problem"].tolist()
    assert problems == ["", "letter 'X' at position 3 (counted from 1) is not DNA", "empty sequence"]


def test_equal_sequences_are_computed_once(predictor, forwards, tmp_path):
    # Without the flanks ACCA and GGT, two of these equal the first; one has a problem.
    sequences = ["ACGTACGTAC", "GGGG", "acgtacgtac", "AC!T", "ACCAACGTACGTACGGT", "TTTT"] * 20
    write(frame_of(sequences), tmp_path / "in.parquet")
    tables = []
    for deduplicate, rows in ((False, 100), (True, 3)):
        forwards.clear()
        output = tmp_path / f"{deduplicate}.parquet"
        predict_file(replace(predictor, batch_size=2), tmp_path / "in.parquet", output, deduplicate=deduplicate)
        assert sum(forwards) == rows
        tables.append(read(output))
    pd.testing.assert_frame_equal(*tables, rtol=1e-9)


def test_text_has_quotes_only_where_needed(predictor, tmp_path):
    frame = pd.DataFrame({"name": ["a", 'b "x"', "c,d"], "sequence": ["ACGT"] * 3, "a,b": ["1", "", "3"]})
    write(frame, tmp_path / "in.parquet")
    predict_file(predictor, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith('name,sequence,"a,b",predicted_expression,problem\n')
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, dtype={"a,b": str})
    pd.testing.assert_frame_equal(table[list(frame)], frame)
    write(frame_of(["ACGT", "AC!T"]), tmp_path / "in.parquet")
    predict_file(predictor, tmp_path / "in.parquet", tmp_path / "plain.csv")
    assert '"' not in (tmp_path / "plain.csv").read_text()


def test_columns_that_text_cannot_hold_are_rejected(predictor, tmp_path):
    write(frame_of(SEQUENCES).assign(sites=[[1, 2]] * len(SEQUENCES)), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=r"text cannot hold the column 'sites' .*name a \.parquet file"):
        predict_file(predictor, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert names_in(tmp_path) == ["in.parquet"]
    assert predict_file(predictor, tmp_path / "in.parquet", tmp_path / "out.parquet").num_rows == len(SEQUENCES)


def test_parts_are_joined_to_larger_groups(predictor, tmp_path, monkeypatch):
    write(frame_of(["ACGT"] * 250), tmp_path / "in.tsv")
    monkeypatch.setattr(files, "_JOINED_ROWS", 100)
    predict_file(replace(predictor, batch_size=2), tmp_path / "in.tsv", tmp_path / "out.parquet")
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [128, 122]


GENOME = "".join(np.random.default_rng(3).choice(list("ACGT"), 200))
BED = [
    ("chr1", 10, 28, "plus", "0", "+"), ("chr1", 10, 28, "minus", "1.5", "-", "more"),
    ("chr1", 190, 201, ".", ".", "+"),
    ("chr2", 0, 9, "absent", "0", "-"), ("chr1", 20, 50, "long", "0", "+"), ("chr1", 30, 37, "short", "0", "-"),
]  # fmt: skip


@pytest.fixture
def intervals(tmp_path, monkeypatch):
    (tmp_path / "g.fa").write_text(f">chr1 made\n{GENOME}\n")
    (tmp_path / "p.bed").write_text("track\n" + "".join("\t".join(map(str, row)) + "\n" for row in BED))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("batch_size", "output"), [(1, "out.tsv"), (256, "out.parquet")])
def test_intervals_of_a_genome(tiny_folder, explicit, tmp_path, intervals, capsys, batch_size, output):
    run_script("predict", tiny_folder, "p.bed", output, "--genome", "g.fa", "--batch_size", batch_size)
    assert capsys.readouterr().out.startswith("6 rows written to")
    table = read(tmp_path / output)
    names = ["chrom", "start", "end", "name", "score", "strand", "column_7"]
    assert table.columns.tolist() == [*names, "predicted_expression", "problem"]
    expected = [tuple(map(str, row)) + ("",) * (7 - len(row)) for row in BED]
    assert [tuple(map(str, row)) for row in table[names].fillna("").itertuples(index=False)] == expected
    assert table["problem"].tolist() == [
        "", "", "the promoter reaches beyond the end of its contig", "the FASTA lacks the contig", f"30 {TOO_LONG}", "",
    ]  # fmt: skip
    minus = [slow_reverse_complement(GENOME[start:end]) for start, end in ((10, 28), (30, 37))]
    expected = [explicit(text) for text in (GENOME[10:28], *minus)]
    np.testing.assert_allclose(table["predicted_expression"][[0, 1, 5]].astype(float), expected, rtol=1e-5)
    assert len(set(np.round(expected, 3))) == 3


def test_long_intervals_have_one_reason(tiny_folder, intervals, tmp_path, capsys):
    (tmp_path / "g.fa").write_text(f">c\n{'ACGT' * 5_000}\n")
    (tmp_path / "p.bed").write_text("".join(f"c\t0\t{10_001 + index}\tp\t0\t+\n" for index in range(40)))
    run_script("predict", tiny_folder, "p.bed", "out.csv", "--genome", "g.fa")
    reason = "40 x ... nt are more than the ... that a model can read"
    assert f"40 of them could not be predicted ({reason}): see" in capsys.readouterr().out


def test_intervals_are_not_trimmed(tiny_folder, tmp_path):
    """The interval begins and ends with the flanks."""
    interval = "ACCATGTGTCAGGT"
    (tmp_path / "g.fa").write_text(f">c\nTTT{interval}TTT\n")
    (tmp_path / "p.bed").write_text("c\t3\t17\tp\t0\t+\n")
    predict_file(tiny_folder, tmp_path / "p.bed", tmp_path / "out.csv", genome=tmp_path / "g.fa")
    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20, trimming="never")
    expected = Predictor.from_pretrained(tiny_folder, tokenizer=tokenizer).predict([interval])
    np.testing.assert_allclose(read(tmp_path / "out.csv")["predicted_expression"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["p.bed", "out.csv"], "p.bed holds intervals, not sequences: pass --genome"),
        (["p.bed", "out.csv", "--genome", "absent.fa"], "there is no file absent.fa"),
        (["absent.bed", "out.csv", "--genome", "g.fa"], "there is no file absent.bed"),
        (["bad.bed", "out.csv", "--genome", "g.fa"], "bad.bed, line 2: 3 columns"),
        (["p.bed", "out.csv", "--genome", "p.bed"], "p.bed cannot be read as FASTA"),
        (["p.bed", "out.csv", "--genome", "g.fa", "--sequence_column", "0"], "--sequence_column is for a table"),
        (["p.bed", "out.csv", "--genome", "g.fa", "--strict"], "p.bed, line 4: the promoter reaches beyond the end"),
    ],
)
def test_mistakes_with_intervals(tiny_folder, tmp_path, intervals, capfd, arguments, message):
    (tmp_path / "bad.bed").write_text("chr1\t1\t9\tp\t0\t+\nchr1\t1\t9\n")
    assert message in error_of("predict", tiny_folder, *arguments)
    assert "[E::" not in capfd.readouterr().err, "htslib is silent"
    assert set(names_in(tmp_path)) - {"g.fa.fai"} == {"bad.bed", "g.fa", "p.bed"}
