import gzip
from itertools import pairwise

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_macaron.dna import string_buffers
from modeling_macaron.io import delimited
from modeling_macaron.io.tables import open_table

DNA = st.text("ACGTNacgtu", min_size=4, max_size=20)
NUMBER = st.floats(-100, 100).map(repr)
LINE = st.one_of(
    st.tuples(DNA, NUMBER).map("\t".join),
    st.just(""),
    st.just("\t"),
    st.sampled_from(["alone", "A\tB\tC", "one\ttwo\tthree\tfour"]),
)


def read(table):
    """All rows as (number, *fields) tuples."""
    return [
        (number, *row.values())
        for batch in table
        for number, row in zip(batch.numbers.tolist(), batch.table.to_pylist(), strict=True)
    ]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@settings(deadline=None, max_examples=150)
@given(
    lines=st.lists(LINE, max_size=60),
    newline=st.sampled_from(["\n", "\r\n"]),
    newline_at_end=st.booleans(),
    bom=st.booleans(),
    header=st.booleans(),
    leading_blank=st.integers(0, 3),
    batch_rows=st.integers(1, 7),
)
def test_line_numbers_match_a_slow_reader(
    tmp_path_factory, lines, newline, newline_at_end, bom, header, leading_blank, batch_rows
):
    first = "sequence\texpression" if header else "ACGTACGT\t1.5"
    lines = [""] * leading_blank + [first, *lines]
    path = tmp_path_factory.mktemp("tsv") / "table.tsv"
    write(path, ("\ufeff" if bom else "") + newline.join(lines) + newline * newline_at_end)
    expected = [(number, *line.split("\t")) for number, line in enumerate(lines, start=1)]
    malformed = [number for number, *fields in expected if len(fields) != 2 and fields != [""]]
    good = [row for row in expected if len(row) == 3 and any(row[1:]) and row[0] > leading_blank + header]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK_BYTES", 128)
        table = open_table(
            path, sequence_column=None if header else "0", value_column=None if header else "1", batch_rows=batch_rows
        )
        rows = read(table)
        again = read(table)
    assert rows == good
    assert again == rows
    assert [number for number, _ in table.malformed] == malformed
    assert table.num_malformed == len(malformed)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["tsv", "csv", "txt", "fasta"])
def test_formats_and_compressions_agree(tmp_path, kind, suffix):
    rows = [("ACGTTT", "1.5"), ("GGGNAC", "-2"), ("acgu", "3e1")]
    delimiter = "," if kind == "csv" else "\t"
    parts = [
        f">r{i} expression={value}\n{sequence}\n" if kind == "fasta" else f"{sequence}{delimiter}{value}\n"
        for i, (sequence, value) in enumerate(rows)
    ]
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path = tmp_path / f"Table.{kind.upper()}{suffix}"
    if suffix == ".gz":  # of several members
        path.write_bytes(b"".join(compress(part.encode()) for part in parts))
    else:
        path.write_bytes(compress("".join(parts).encode()))
    assert [row[-2:] for row in read(open_table(path, require_value=True))] == rows


def test_spreadsheets_are_read_like_text(tmp_path):
    rows = [[None, None, None], ["name", "sequence", "expression"], ["a", "1 acgtac\n7 gtac", 1.5], [None] * 3]
    rows += [["b", "ACGT", "NA"], ["c,d", None, 2]]
    for header in (True, False):
        book = openpyxl.Workbook()
        for row in rows if header else rows[2:]:
            book.active.append(row)
        book.create_sheet("other").append(["no", "table"])
        book.save(tmp_path / "Table.XLSX")
        table = open_table(tmp_path / "Table.XLSX", batch_rows=2)
        assert table.columns == (("sequence", "expression", None) if header else ("1", "2", None))
        expected = [(3, "a", "1 acgtac 7 gtac", "1.5"), (5, "b", "ACGT", "NA"), (6, "c,d", "", "2")]
        assert read(table) == [(number - 2 * (not header), *fields) for number, *fields in expected]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_spreadsheets_give_one_clear_error(tmp_path):
    path, random = tmp_path / "t.xlsx", np.random.default_rng(0)
    pd.DataFrame({"sequence": ["ACGTACGT", "GGGGTTTT"], "value": [1.5, 2]}).to_excel(path, index=False)
    content, num_errors = path.read_bytes(), 0
    for place in random.integers(len(content), size=40).tolist():
        path.write_bytes(
            content[:place] + bytes([content[place] ^ int(random.integers(1, 256))]) + content[place + 1 :]
        )
        try:
            read(open_table(path))
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            num_errors += 1
    assert num_errors > 10


@pytest.mark.parametrize(
    ("kind", "header", "values", "expected"),
    [
        ("tsv", True, ["1,5", "NA", "2"], ["1.5", "NA", "2"]),
        ("xlsx", True, ["1,5", "n.d.", "2"], ["1.5", "n.d.", "2"]),
        ("csv", True, ["1", "2", "3,5"], ["1", "2", "3.5"]),
        ("csv", False, ["1,5", "-2", "NA"], ["1.5", "-2", "NA"]),
        ("csv", True, ["1,134.5", "20.5", "2,000"], None),
        ("tsv", True, ["1,134.5", "20.5", "2,000"], None),
        ("tsv", True, ["1", "2", "3"], None),
    ],
)
def test_decimal_commas_are_found_by_column(tmp_path, kind, header, values, expected):
    frame = pd.DataFrame({"id": ["a1"] * 3, "sequence": ["ACGTACGT"] * 3, "expression": values})
    path = tmp_path / f"t.{kind}"
    if kind == "xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, sep="\t" if kind == "tsv" else ";", index=False, header=header)
    table = open_table(path, require_value=True)
    assert table.columns == (("sequence", "expression", None) if header else ("1", "2", None))
    assert [value for batch in table for value in table.values_of(batch.table).to_pylist()] == (expected or values)
    assert ("decimal commas" in table.columns_found_by) == (expected is not None)


@pytest.mark.parametrize(("name", "text"), [("t.csv", "sequence\tvalue\nACGT\t1,5\n"), ("t.txt", "ACGT,1\nTTTT,2\n")])
def test_delimiters_other_than_the_suffix(tmp_path, name, text):
    table = open_table(write(tmp_path / name, text), require_value=True)
    assert [len(row) for row in read(table)] == [3] * (len(text.splitlines()) - (name == "t.csv"))
    assert table.decimal_comma == (("value",) if name == "t.csv" else ())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_content_decides_between_several_names(tmp_path, kind, caplog):
    frame = pd.DataFrame(
        {
            "promoter": ["pTDH3", "pGAL1"],
            "sequence": ["ACGTAC", None],
            "label": ["high", "low"],
            "value": [1.5, 2],
        }
    )
    path = tmp_path / f"t.{kind}"
    frame.to_csv(path, index=False, na_rep="NA") if kind == "csv" else frame.to_parquet(path)
    with caplog.at_level("INFO"):
        table = open_table(path, require_value=True)
    assert table.columns == ("sequence", "value", None)
    assert "the sequence is column 'sequence', chosen among 'promoter', 'sequence'" in caplog.text


@pytest.mark.parametrize(
    ("text", "options", "columns", "num_rows"),
    [
        ("x1\t0.5\tACGTACGT\nx2\t0.7\tGGGGTTTT\n", {}, ("2", "1", None), 2),
        ("NA\tnone\n" * 60 + "ACGTACGT\t1.5\n" * 3 + "ACGTACGT\tND\n" * 50, {}, ("0", "1", None), 113),
        ("ACGT\t0\nACGT\t1\n", {"sequence_column": "0", "value_column": "1"}, ("0", "1", None), 2),
        ("ACGTACGT\nGGGG\n\nTTTT", {}, ("0", None, None), 3),
        ("sequence\texpression\n", {}, ("sequence", "expression", None), 0),
        ('"id"\t"Activity"\t"split"\t"Seq"\n"a\tb"\t"1.5"\t"train"\t"ACGT"\n', {"split_column": "split"},
         ("Seq", "Activity", "split"), 1),
    ],
)  # fmt: skip
def test_columns_with_and_without_header(tmp_path, text, options, columns, num_rows):
    table = open_table(write(tmp_path / "t.tsv", text), **options)
    assert table.columns == columns and len(read(table)) == num_rows


@pytest.mark.parametrize(("text", "is_dna"), [("1 acgtac gtacgt 13 a", True), ("GATA4321", False), ("1234", False)])
def test_detection_of_dna(text, is_dna):
    assert delimited.looks_like_dna(text) == is_dna


def test_malformed_lines_are_counted_and_the_first_fault_stops(tmp_path):
    table = open_table(write(tmp_path / "t.tsv", "ACGTACGT\t1\n" * 5 + "x\n" * 1500 + "ACGTACGT\t1\n"))
    assert [row[0] for row in read(table)] == [1, 2, 3, 4, 5, 1506]
    assert table.num_malformed == 1500 and len(table.malformed) == 1000
    assert table.first_malformed[0] == (6, "1 column instead of 2: 'x'") and len(table.first_malformed) == 5
    table.refuse_problems(np.arange(1, 6), [""] * 5)
    with pytest.raises(ValueError, match="line 5: bad"):
        table.refuse_problems(np.arange(1, 6), [""] * 4 + ["bad"])
    with pytest.raises(ValueError, match="line 6: 1 column instead of 2"):
        table.refuse_problems(np.array([5, 7]), ["", "bad"])


def test_a_table_of_malformed_lines_names_the_first(tmp_path):
    table = open_table(write(tmp_path / "t.csv", "name,sequence\na,ACGT,1\nb\nc\n"))
    assert read(table) == []
    assert "has no row that can be read; line 2: 3 columns instead of 2: 'a,ACGT,1'" in str(table.no_rows())


@pytest.mark.parametrize(
    ("header", "name", "value"),
    [
        ("a expression=1", "a", "1"),
        ("a 1.5", "a", "1.5"),
        ("a\t1.5", "a", "1.5"),
        ("a|2.5", "a", "2.5"),
        ("a;1.5", "a", "1.5"),
        ("a | 1.5", "a", "1.5"),
        ("a\u00a01.5", "a", "1.5"),
        ("sp|P1|G 4", "sp|P1|G", "4"),
        ("a\texpression=1.5\tnote", "a", "1.5"),
        ("a;expression=1.5;n=3", "a;n=3", "1.5"),
        ("a; expression = 1.5", "a", "1.5"),
        ("a Expression: 1.5", "a", "1.5"),
        ("a|expression=1.5|x", "a|x", "1.5"),
        ("a length=80 Activity=-1e2 note", "a", "-1e2"),
        ("a expression=1,5", "a", "1,5"),
        ("a label: high", "a", ""),
        ("a note", "a", ""),
        ("a 5 6", "a", ""),  # a number between words may be any count
        ("a upstream of gene 7", "a", ""),
        ("a|chr1|100", "a|chr1|100", ""),
        ("", "", ""),
    ],
)
def test_headers_of_fasta(tmp_path, header, name, value):
    assert read(open_table(write(tmp_path / "a.fa", f">{header}\nACGT\n"))) == [(1, name, "ACGT", value)]


def test_fasta_records(tmp_path):
    table = open_table(write(tmp_path / "a.fa", "\n>a 1\nAC\nGT\n\n>b|2.5\nAC\n>c 3\n>d note\nA\n"), batch_rows=2)
    assert table.unit == "record"
    assert read(table) == [(1, "a", "ACGT", "1"), (2, "b", "AC", "2.5"), (3, "c", "", "3"), (4, "d", "A", "")]
    keyed = open_table(write(tmp_path / "b.fa", ">a 5 tpm=7\nACGT\n>b 5\nACGT\n"), value_column="tpm")
    assert [row[-1] for row in read(keyed)] == ["7", ""]


TABLE = "name,sequence\nµ,ACGTACGT\n"


@pytest.mark.parametrize(
    ("suffix", "text", "options", "message"),
    [
        (".tsv", "", {}, "is empty"),
        (".tsv", "\n \n\r\n", {}, "is empty"),
        (".tsv", "sequence\texpression\tactivity\nACGT\t1\t2\n", {}, "more than one column may be the value.*--value_"),
        (".tsv", "sequence\tseq\texpression\nACGT\tACGT\t2\n", {}, "more than one column may be the sequence"),
        (".tsv", "ACGTACGT\t1\t2\n", {}, "more than one column may be the value.*'0', '1', '2'"),
        (".tsv", "alpha\tbeta\nACGTACGT\t1\n", {}, "no column is known to be the sequence.*'alpha', 'beta'"),
        (".tsv", "sequence\tvalue\nACGT\t1\n", {"value_column": "tpm"}, "has no column 'tpm'.*'sequence', 'value'"),
        (".tsv", "sequence\tx\tx\nACGT\t1\t2\n", {"value_column": "x"}, "more than one column is called 'x'"),
        (".tsv", "sequence\t\t\nACGT\t1\t2\n", {}, "more than one column is called ''"),
        (".tsv", "sequence\tvalue\nACGT\t1\n", {"value_column": "sequence"}, "cannot have two roles"),
        (".tsv", 'ACGTAA\t1\nACGTAA\t2\n"ACGT\t3\nACGT\t4\n', {}, "line 3: a field in quotes"),
        (".csv", 'sequence,expression\nACGT,1\n"ACGT\nAC",4\n', {}, "line 3: a field in quotes"),
        (".tsv", "A" * 200_000, {}, "cannot be read as a table"),
        (".tsv", "ACGTACGT\t1\n" + "A" * 9_000_000, {}, "line of more than"),
        (".tsv.gz", "ACGT\t1\n", {}, "cannot be read"),
        (".xls", "ACGT\t1\n", {}, "unknown kind of file"),
        (".xlsx.gz", "ACGT\t1\n", {}, "unknown kind of file"),
        (".xlsx", "ACGT\t1\n", {}, "cannot be read as .xlsx"),
        (".parquet", "not parquet", {}, "cannot be read"),
        (".fa", "ACGT\n", {}, "line 1: a FASTA record begins with '>'"),
        (".fa", "", {}, "is empty"),
        (".fa", ">a\nACGT\n", {"split_column": "x"}, "FASTA has no columns"),
        (".csv", TABLE.encode("utf-16"), {}, "is UTF-16 text or a binary file: save it as text in UTF-8"),
        (".csv", TABLE.encode("latin-1"), {}, "line 2: not UTF-8 text"),
        (".csv", b"name,sequence,value\n" + b"a,ACGT,1\n" * 200_000 + b"\xb5,ACGT,1\n", {}, "is not UTF-8 text"),
        (".fa", b"\x89PNG\x00\x00", {}, "is UTF-16 text or a binary file"),
    ],
)
def test_bad_files_give_one_clear_error(tmp_path, suffix, text, options, message):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read(open_table(path, **options, require_value=True))
    assert "\n" not in str(error.value) and path.name in str(error.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*x\.tsv"):
        open_table(tmp_path / "x.tsv")
    with pytest.raises(ValueError, match="is a folder"):
        open_table(tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_files_raise(tmp_path, suffix):
    rng = np.random.default_rng(0)
    text = "".join(f"{''.join(rng.choice(list('ACGT'), 80))}\t{i}\n" for i in range(3000)).encode()
    data = gzip.compress(text) if suffix == ".gz" else zstandard.compress(text)
    path = tmp_path / f"t.tsv{suffix}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"t\.tsv.* cannot be read: Truncated"):
        read(open_table(path))


def test_utf8_at_the_end_of_the_first_block(tmp_path):
    """A two-byte character across the end of a megabyte is valid."""
    (tmp_path / "t.tsv").write_bytes(b"ACGT\t1" + (b"\t" + "µ".encode() * 50_000) * 12)
    assert open_table(tmp_path / "t.tsv").columns.sequence == "0"


def test_parquet_keeps_types_and_numbers(tmp_path):
    content = pa.table({"n": range(10), "sequence": ["ACGT"] * 10, "activity": np.arange(10) / 3})
    pq.write_table(content, tmp_path / "t.parquet", row_group_size=4)
    table = open_table(tmp_path / "t.parquet", batch_rows=3)
    assert table.num_rows == 10 and table.unit == "row"
    assert pa.concat_tables(batch.table for batch in table).equals(content)
    assert np.concatenate([batch.numbers for batch in table]).tolist() == list(range(1, 11))


@given(
    texts=st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=12),
    kind=st.sampled_from([pa.string(), pa.large_string(), "dictionary"]),
    start=st.integers(0, 12),
    length=st.integers(0, 12),
)
def test_string_buffers_of_any_slice(texts, kind, start, length):
    array = pa.array(texts, pa.string())
    array = array.dictionary_encode() if kind == "dictionary" else array.cast(kind)
    for column in (array.slice(start, length), pa.chunked_array([array, array]).slice(start, length)):
        content, offsets = string_buffers(column)
        got = [bytes(content[a:b]).decode() for a, b in pairwise(offsets)]
        assert got == [text or "" for text in column.to_pylist()]


def test_challenge_sample(shared):
    table = open_table(shared / "data/dream2022/train_sample.tsv", require_value=True)
    rows = read(table)
    assert table.columns == ("0", "1", None)
    assert [number for number, *_ in rows] == list(range(1, 6371))
    assert sum("N" in sequence for _, sequence, _ in rows) == 25
    assert {min(len(row[1]) for row in rows), max(len(row[1]) for row in rows)} == {87, 135}
