import io
import tempfile

import pandas as pd
import pytest

from modeling_macaron.predictor import Predictor
from space import uploads
from space.reading import BadInput, Limits
from space.uploads import FileProgress, predict_upload


def upload(*arguments):
    """Return the final file."""
    *progress, last = predict_upload(*arguments)
    assert all(0 <= one.num_done <= one.num_rows for one in progress)
    return last


TABLE = "name\tdna\tnote\none\tACGTACGT\tx\ntwo\tACXT\ty\nthree\tTTTATATAAGGC\t\n"


@pytest.mark.parametrize("output_format", ["csv", "parquet"])
def test_rows_keep_their_place_and_columns(answers, tiny_folder, output_format, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = upload(answers, "my table.TSV", TABLE.encode(), "dna", output_format)
    assert found.name == f"my table_predicted.{output_format}"
    assert (found.num_rows, found.num_problems, found.num_malformed) == (3, 1, 0)
    ((row, problem),) = found.problems
    assert row == 2 and "not DNA" in problem
    read = pd.read_csv if output_format == "csv" else pd.read_parquet
    table = read(io.BytesIO(found.content))
    assert list(table.columns) == ["name", "dna", "note", "predicted_expression", "problem"]
    assert table["dna"].tolist() == ["ACGTACGT", "ACXT", "TTTATATAAGGC"]
    expected = Predictor.from_pretrained(tiny_folder).predict(["ACGTACGT", "TTTATATAAGGC"])
    assert table["predicted_expression"].dropna().tolist() == pytest.approx(expected, rel=1e-5)
    assert found.values.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.label == "name" and [one[:2] for one in found.preview] == [(1, "one"), (3, "three")]
    assert list(tmp_path.iterdir()) == []


def test_progress_is_reported(answers, monkeypatch):
    monkeypatch.setattr(uploads, "BATCH_SIZE", 1)
    monkeypatch.setattr(answers, "limits", Limits())
    content = "sequence\n" + "".join(f"{row:08b}\n".replace("0", "A").replace("1", "T") for row in range(600))
    *progress, last = predict_upload(answers, "many.csv", content.encode())
    assert progress and all(isinstance(one, FileProgress) and one.num_rows == 600 for one in progress)
    done = [one.num_done for one in progress]
    assert done == sorted(done) and last.num_rows == 600 and len(last.values) == 600 and len(last.preview) == 5


def test_mostly_unknown_rows_are_counted(answers):
    content = b"sequence\nNNNNNNNNNNNNNNNNNNNN\nA\nACGTACGTAC\nACGTACGTACNNNNNNNNNN\nAX\n"
    assert upload(answers, "a.csv", content).num_unknown == 1


def test_rows_with_one_flank_are_counted(answers):
    found = upload(answers, "a.csv", b"sequence\nACCATTTT\nTTTTGGT\nACCATTTTGGT\nTTTT\nACCAX\n")
    assert (found.num_rows, found.num_problems, found.num_flanked) == (5, 1, 2)


def test_long_rows_are_cut_on_request(answers, tiny_folder):
    content = b"sequence\nGACGTTTATATAAGGCACGTAC\nACGT\nACCA" + b"T" * 22 + b"GGT\n"
    found = upload(answers, "a.csv", content)
    assert (found.num_problems, found.num_cut) == (2, 0)
    found = upload(answers, "a.csv", content, "", "csv", True)
    assert (found.num_problems, found.num_cut) == (0, 2)
    assert found.values.tolist() == pytest.approx(
        Predictor.from_pretrained(tiny_folder).predict(["ACGTTTATATAAGGCACGTA", "ACGT", "T" * 20])
    )


def test_fasta_and_malformed_lines(answers):
    found = upload(answers, "promoters.fa", b">a\nACGT\nAC\n>b\nTTTT\n")
    assert (found.num_rows, found.num_problems) == (2, 0)
    found = upload(answers, "promoters.csv", b"sequence,value\nACGT,1\nACGT,1,2\nACXT,3\n")
    assert (found.num_rows, found.num_malformed) == (2, 1)
    assert [row for row, _ in found.problems] == [2]
    assert found.malformed == ((3, "3 columns instead of 2: 'ACGT,1,2'"),)


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.tsv", b"", "", "The file is empty"),
        ("a.tsv", b" \n \n", "", "The file is empty"),
        ("a.xlsx", b"PK", "", "save it as CSV first"),
        ("a.fa.gz", b"\x1f\x8b", "", "Unpack the file first"),
        ("a.parquet", b"PAR1", "", "reads TSV"),
        ("a", b"ACGT", "", "reads TSV"),
        ("../../a.tsv/", b"ACGT", "dna", "no column|not found|dna"),
        ("a.csv", b"A" * 20_001, "", "at most 0 MB"),
        ("a.csv", b"sequence\n" + b"ACGT\n" * 51, "", "more than 50 rows"),
        ("a.csv", b"name,value\none,1\n", "", "columns are 'name', 'value'. Write its name into “Column of the DNA”"),
        ("a.csv", b"name,sequence\none,ACGT\n", "dna", "dna"),
        ("a.fa", b"ACGT\n", "", "."),
        ("a.csv", bytes(range(256)), "", "not plain text in UTF-8. In a spreadsheet, save it as “CSV UTF-8”"),
        ("a.csv", "sequence\nACGT\n".encode("utf-16"), "", "not plain text in UTF-8"),
        ("a.csv", "sequence\nACGT\n".encode("utf-16-le"), "", "not plain text in UTF-8"),
        ("a.csv", b"sequence,name\nACGT,caf\xe9\n", "", "not plain text in UTF-8"),
    ],
)
def test_invalid_files(answers, name, content, column, message, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BadInput, match=message) as caught:
        upload(answers, name, content, column)
    told = str(caught.value)
    assert str(tmp_path) not in told and "upload." not in told and told[0].isupper() and told.endswith(".")
    assert list(tmp_path.iterdir()) == []


def test_unknown_output_formats(answers):
    with pytest.raises(BadInput, match="CSV or Parquet"):
        upload(answers, "a.tsv", TABLE.encode(), "dna", "xlsx")
