import gzip
import io
import re
import sys
import zipfile
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

from modeling_macaron.io import delimited
from modeling_macaron.io.tables import open_table, string_buffers

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
    text = "".join(
        f">r{i} expression={value}\n{sequence}\n" if kind == "fasta" else f"{sequence}{delimiter}{value}\n"
        for i, (sequence, value) in enumerate(rows)
    )
    data = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix](text.encode())
    path = tmp_path / f"Table.{kind.upper()}{suffix}"
    path.write_bytes(data)
    table = open_table(path, require_value=True)
    got = [row[-2:] for row in read(table)]
    assert got == rows


def test_a_spreadsheet_is_read_as_text_is(tmp_path):
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


def damaged_sheets(path):
    """Contents of a spreadsheet with one byte changed, or with one of its files cut off."""
    content, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(len(content), size=40).tolist():
        yield content[:place] + bytes([content[place] ^ int(random.integers(1, 256))]) + content[place + 1 :]
    with zipfile.ZipFile(path) as book:
        members = {name: book.read(name) for name in book.namelist()}
    for damaged in ("xl/workbook.xml", "xl/worksheets/sheet1.xml"):
        for length in (0, len(members[damaged]) // 2):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as book:
                for name, text in members.items():
                    book.writestr(name, text[:length] if name == damaged else text)
            yield file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_spreadsheet_is_one_clear_error(tmp_path):
    book, path = openpyxl.Workbook(), tmp_path / "t.xlsx"
    for row in [("sequence", "value"), ("ACGTACGT", 1.5), ("GGGGTTTT", 2)]:
        book.active.append(row)
    book.save(path)
    reasons = []
    for content in list(damaged_sheets(path)):
        path.write_bytes(content)
        try:
            read(open_table(path))
        except ValueError as error:
            reasons.append(str(error).removeprefix(f"{path} "))
    unreadable = [reason for reason in reasons if reason.startswith("cannot be read as .xlsx: ")]
    assert len(unreadable) > 10 and "\n" not in "".join(reasons)
    assert any("decompress" in reason for reason in unreadable) and any("no element" in one for one in unreadable)


def test_a_spreadsheet_without_openpyxl_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"t.xlsx: reading .xlsx needs openpyxl \(pip install openpyxl\)"):
        open_table(write(tmp_path / "t.xlsx", "PK"))


@pytest.mark.parametrize("header", ["name;sequence;expression\n", ""])
def test_semicolons_and_decimal_commas(tmp_path, header):
    path = write(tmp_path / "t.csv", header + "a;ACGTAC;1,5\nb;GGTTAA;-2\nc;GGGG;NA\n")
    table = open_table(path, require_value=True)
    assert table.columns == (("sequence", "expression", None) if header else ("1", "2", None))
    assert [row[-1] for row in read(table)] == ["1,5", "-2", "NA"]
    assert [value for batch in table for value in table.values_of(batch.table).to_pylist()] == ["1.5", "-2", "NA"]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("tsv", ["1,5", "NA", "2"], ["1.5", "NA", "2"]),
        ("xlsx", ["1,5", "n.d.", "2"], ["1.5", "n.d.", "2"]),
        ("csv", ["1", "2", "3,5"], ["1", "2", "3.5"]),
        ("csv", ["1,134.5", "20.5", "2,000"], None),
        ("tsv", ["1,134.5", "20.5", "2,000"], None),
        ("tsv", ["1", "2", "3"], None),
    ],
)
def test_decimal_commas_are_found_by_column(tmp_path, kind, values, expected):
    frame = pd.DataFrame({"id": ["1.2"] * 3, "sequence": ["ACGTACGT"] * 3, "expression": values})
    path = tmp_path / f"t.{kind}"
    if kind == "xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, sep="\t" if kind == "tsv" else ";", index=False)
    table = open_table(path, require_value=True)
    assert [value for batch in table for value in table.values_of(batch.table).to_pylist()] == (expected or values)
    assert ("decimal commas" in table.columns_found_by) == (expected is not None)


@pytest.mark.parametrize(("name", "text"), [("t.csv", "sequence\tvalue\nACGT\t1,5\n"), ("t.txt", "ACGT,1\nTTTT,2\n")])
def test_another_delimiter_than_the_suffix_says(tmp_path, name, text):
    table = open_table(write(tmp_path / name, text), require_value=True)
    assert [len(row) for row in read(table)] == [3] * (len(text.splitlines()) - (name == "t.csv"))
    assert table.decimal_comma == (("value",) if name == "t.csv" else ())


def test_empty_columns_without_a_name_are_left_out(tmp_path):
    expected = [(2, "ACGT", "1"), (3, "GGGG", "2")]
    for end in ("", "\t\t", "\t"):
        path = write(tmp_path / "t.tsv", f"sequence\texpression\t\t\nACGT\t1{end}\nGGGG\t2{end}\n")
        assert read(open_table(path)) == expected
    lines = "ACGT\t1\t\n" * 200 + "ACGT\t1\tlost\n"
    with pytest.raises(ValueError, match=r"t.tsv, line 202: 'lost' is in a column without a name; name it"):
        read(open_table(write(tmp_path / "t.tsv", "sequence\texpression\t\n" + lines)))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_among_several_names_the_content_decides(tmp_path, kind):
    columns = {
        "promoter": ["pTDH3", "pGAL1"],
        "sequence": ["ACGTAC", None],
        "label": ["high", "low"],
        "value": [1.5, 2],
    }
    if kind == "csv":
        rows = zip(*columns.values(), strict=True)
        text = "".join(",".join("NA" if cell is None else str(cell) for cell in row) + "\n" for row in rows)
        write(tmp_path / "t.csv", ",".join(columns) + "\n" + text)
    else:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = open_table(tmp_path / f"t.{kind}", require_value=True)
    assert table.columns == ("sequence", "value", None)
    found_by = "by its name, and among several by what it holds"
    assert table.columns_found_by == f"sequence 'sequence' ({found_by}), value 'value' ({found_by})"


def test_words_for_a_missing_value_do_not_change_the_layout(tmp_path):
    path = write(tmp_path / "t.tsv", "NA\tnone\n" * 60 + "ACGTACGT\t1.5\n" * 3 + "ACGTACGT\tND\n" * 50)
    table = open_table(path, require_value=True)
    assert table.columns == ("0", "1", None) and len(read(table)) == 113


def test_line_numbers_are_part_of_dna_and_digits_of_a_name_are_not():
    assert [delimited.looks_like_dna(text) for text in ("1 acgtac gtacgt 13 a", "GATA4321", "1234")] == [
        True,
        False,
        False,
    ]


def test_problems_stop_at_the_first_fault(tmp_path):
    table = open_table(write(tmp_path / "t.tsv", "ACGTACGT\t1\n" * 5 + "x\nACGTACGT\t1\n"))
    read(table)
    table.refuse_problems(np.arange(1, 6), [""] * 5)
    with pytest.raises(ValueError, match="line 5: bad"):
        table.refuse_problems(np.arange(1, 6), [""] * 4 + ["bad"])
    with pytest.raises(ValueError, match="line 6: 1 column instead of 2"):
        table.refuse_problems(np.array([5, 7]), ["", "bad"])


def test_two_gzip_members_are_one_file(tmp_path):
    path = tmp_path / "table.tsv.gz"
    path.write_bytes(gzip.compress(b"ACGT\t1\n") + gzip.compress(b"GGGG\t2\n"))
    assert read(open_table(path)) == [(1, "ACGT", "1"), (2, "GGGG", "2")]


@pytest.mark.parametrize(
    ("header", "name", "value"),
    [
        ("a\t1.5", "a", "1.5"),
        ("a\texpression=1.5\tnote", "a", "1.5"),
        ("a;1.5", "a", "1.5"),
        ("a;expression=1.5;n=3", "a;n=3", "1.5"),
        ("a; expression = 1.5", "a", "1.5"),
        ("a | 1.5", "a", "1.5"),
        ("a Expression: 1.5", "a", "1.5"),
        ("a|expression=1.5|x", "a|x", "1.5"),
        ("a label: high", "a", ""),
        ("a expression=1,5", "a", "1,5"),
        ("a\u00a01.5", "a", "1.5"),
        ("", "", ""),
    ],
)
def test_separators_in_fasta_headers(tmp_path, header, name, value):
    assert read(open_table(write(tmp_path / "a.fa", f">{header}\nACGT\n"))) == [(1, name, "ACGT", value)]


def test_fasta_headers(tmp_path):
    text = (
        "\n>a expression=1\nAC\nGT\n\n>b|2.5\nAC\n>c 3\n>d note\nA\n>sp|P1|G 4\nT\n>two 5 6\nT\n"
        ">e length=80 Activity=-1e2 note\nT\n>f upstream of gene 7\nT\n>g 1.5 strand=+\nT\n>h|chr1|100\nT\n"
    )
    table = open_table(write(tmp_path / "a.fa", text), batch_rows=2)
    assert table.unit == "record"
    assert read(table) == [
        (1, "a", "ACGT", "1"),
        (2, "b", "AC", "2.5"),
        (3, "c", "", "3"),
        (4, "d", "A", ""),
        (5, "sp|P1|G", "T", "4"),
        (6, "two", "T", ""),
        (7, "e", "T", "-1e2"),
        (8, "f", "T", ""),  # a number among words may count anything
        (9, "g", "T", "1.5"),
        (10, "h|chr1|100", "T", ""),
    ]
    keyed = open_table(write(tmp_path / "b.fa", ">a 5 tpm=7\nACGT\n>b 5\nACGT\n"), value_column="tpm")
    assert [row[-1] for row in read(keyed)] == ["7", ""]


def test_quoted_csv_and_columns_in_any_order(tmp_path):
    path = write(tmp_path / "t.csv", '"id","Activity","split","Seq"\n"a,b","1.5","train","ACGT"\n')
    table = open_table(path, split_column="split")
    assert table.columns == ("Seq", "Activity", "split")
    assert "by its name" in table.columns_found_by and "given" in table.columns_found_by
    assert read(table) == [(2, "a,b", "1.5", "train", "ACGT")]


def test_columns_without_header_are_found_by_what_they_hold(tmp_path):
    path = write(tmp_path / "t.tsv", "x1\t0.5\tACGTACGT\nx2\t0.7\tGGGGTTTT\n")
    table = open_table(path, require_value=True)
    assert table.columns == ("2", "1", None)
    assert "no header" in table.columns_found_by


def test_column_given_by_position_is_no_header_name(tmp_path):
    table = open_table(write(tmp_path / "t.tsv", "ACGT\t0\nACGT\t1\n"), sequence_column="0", value_column="1")
    assert len(read(table)) == 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("\n \n\r\n", {}, "is empty"),
        ("sequence\texpression\tactivity\nACGT\t1\t2\n", {}, "more than one column may be the value.*--value_column"),
        ("sequence\tseq\texpression\nACGT\tACGT\t2\n", {}, "more than one column may be the sequence"),
        ("ACGTACGT\t1\t2\n", {}, "more than one column may be the value.*'0', '1', '2'"),
        ("alpha\tbeta\nACGTACGT\t1\n", {}, "no column is known to be the sequence.*'alpha', 'beta'"),
        ("sequence\texpression\nACGT\t1\n", {"value_column": "tpm"}, "has no column 'tpm'.*'sequence', 'expression'"),
        ("sequence\tx\tx\nACGT\t1\t2\n", {"value_column": "x"}, "more than one column is called 'x'"),
        ("sequence\texpression\nACGT\t1\n", {"value_column": "sequence"}, "cannot be two things"),
        ('ACGTAA\t1\nACGTAA\t2\n"ACGT\t3\nACGT\t4\n', {}, "line 3: a field in quotes"),
        ('sequence,expression\nACGT,1\n"ACGT\nAC",4\n', {"suffix": ".csv"}, "line 3: a field in quotes"),
        ("ACGTACGT\t1\nACGTACGT\t\xff\n", {"encoding": "latin-1"}, "line 2: not UTF-8 text"),
        ("A" * 200_000, {}, "cannot be read as a table"),
        ("ACGTACGT\t1\n" + "A" * 9_000_000, {}, "line of more than"),
        ("ACGT\n", {"suffix": ".fa"}, "line 1: a FASTA record begins with '>'"),
        ("", {"suffix": ".fa"}, "is empty"),
        (">a\nACGT\n", {"suffix": ".fa", "split_column": "x"}, "FASTA .*no columns"),
        ("ACGT\t1\n", {"suffix": ".xlsx"}, "cannot be read as .xlsx"),
        ("ACGT\t1\n", {"suffix": ".xlsx.gz"}, "unknown kind of file"),
        ("sequence\t\t\nACGT\t1\t2\n", {}, "more than one column has no name"),
        ("not parquet", {"suffix": ".parquet"}, "cannot be read"),
        ("ACGT\t1\n", {"suffix": ".tsv.gz"}, "cannot be read"),
        ("ACGT\t1\n", {"suffix": ".xls"}, "unknown kind of file"),
    ],
)
def test_bad_files_give_one_clear_error(tmp_path, text, options, message):
    path = write(tmp_path / f"t{options.pop('suffix', '.tsv')}", text, options.pop("encoding", "utf-8"))
    with pytest.raises(ValueError, match=message) as error:
        read(open_table(path, **options, require_value=True))
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_file_is_an_error_and_no_short_table(tmp_path, suffix):
    rng = np.random.default_rng(0)
    text = "".join(f"{''.join(rng.choice(list('ACGT'), 80))}\t{i}\n" for i in range(3000)).encode()
    data = gzip.compress(text) if suffix == ".gz" else zstandard.compress(text)
    path = tmp_path / f"t.tsv{suffix}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"t\.tsv.* cannot be read: Truncated"):
        read(open_table(path))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*x\.tsv"):
        open_table(tmp_path / "x.tsv")
    with pytest.raises(ValueError, match="is a folder"):
        open_table(tmp_path)


TABLE = "name,sequence\nµ,ACGTACGT\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", TABLE.encode("utf-16"), "is text in UTF-16 (Excel's 'Unicode Text'): save it as text in UTF-8"),
        ("t.csv", TABLE.encode("utf-16-be"), "is a binary file, not text: save it as text in UTF-8"),
        ("t.csv", b"PK\x03\x04\x14\x00\x06\x00\n\x00", "is a binary file, not text"),
        ("t.csv", TABLE.encode("latin-1"), "t.csv, line 2: not UTF-8 text; save it as text in UTF-8"),
        ("t.csv", b"name,sequence\n" + b"a,ACGT\n" * 200_000 + b"\xb5,ACGT\n", "is not UTF-8 text throughout"),
        ("t.fa", ">a\nACGT\n".encode("utf-16"), "is text in UTF-16"),
        ("t.fa", b"\x89PNG\x00\x00", "is a binary file, not text"),
    ],
)
def test_other_encodings_and_binary_files_are_told_as_such(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(open_table(tmp_path / name))
    assert len(str(error.value).replace(str(tmp_path), "")) < 120 and "\n" not in str(error.value)


def test_utf8_at_the_end_of_what_is_looked_at_first(tmp_path):
    """A letter of two bytes that a megabyte's end cuts, on a line without end, is no other encoding."""
    (tmp_path / "t.tsv").write_bytes(b"ACGT\t1" + (b"\t" + "µ".encode() * 50_000) * 12)
    assert open_table(tmp_path / "t.tsv").columns.sequence == "0"


def test_all_lines_malformed_is_not_called_a_table_without_rows(tmp_path):
    table = open_table(write(tmp_path / "t.csv", "name,sequence\na,ACGT,1\nb\nc\n"))
    assert read(table) == []
    message = "t.csv has no row that can be read; line 2: 3 columns instead of 2: 'a,ACGT,1' (and 2 more)"
    assert str(table.no_rows()).endswith(message)
    assert table.first_malformed[0] == (2, "3 columns instead of 2: 'a,ACGT,1'") and len(table.first_malformed) == 3


def test_header_and_nothing_below_it(tmp_path):
    assert read(open_table(write(tmp_path / "t.tsv", "sequence\texpression\n"))) == []


def test_value_is_optional(tmp_path):
    table = open_table(write(tmp_path / "t.tsv", "ACGTACGT\nGGGG\n\nTTTT"))
    assert table.columns.value is None
    assert read(table) == [(1, "ACGTACGT"), (2, "GGGG"), (4, "TTTT")]


def test_parquet_keeps_types_and_numbers(tmp_path):
    content = pa.table({"n": range(10), "sequence": ["ACGT"] * 10, "activity": np.arange(10) / 3})
    pq.write_table(content, tmp_path / "t.parquet", row_group_size=4)
    table = open_table(tmp_path / "t.parquet", batch_rows=3)
    assert table.num_rows == 10 and table.unit == "row"
    assert pa.concat_tables(batch.table for batch in table).equals(content)
    assert np.concatenate([batch.numbers for batch in table]).tolist() == list(range(1, 11))


def test_malformed_lines_are_counted_when_they_are_no_longer_remembered(tmp_path):
    table = open_table(write(tmp_path / "t.tsv", "ACGTACGT\t1\n" + "x\n" * 1500 + "ACGTAC\t2\n"))
    assert [row[0] for row in read(table)] == [1, 1502]
    assert table.num_malformed == 1500
    assert len(table.malformed) == 1000
    assert table.malformed[0] == (2, "1 column instead of 2: 'x'")


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
        letters, offsets = string_buffers(column)
        got = [bytes(letters[a:b]).decode() for a, b in pairwise(offsets)]
        assert got == [text or "" for text in column.to_pylist()]


def test_challenge_sample(shared):
    table = open_table(shared / "data/dream2022/train_sample.tsv", require_value=True)
    rows = read(table)
    assert table.columns == ("0", "1", None)
    assert [number for number, *_ in rows] == list(range(1, 6371))
    assert sum("N" in sequence for _, sequence, _ in rows) == 25
    assert {min(len(row[1]) for row in rows), max(len(row[1]) for row in rows)} == {87, 135}


def test_measured_library(shared):
    table = open_table(shared / "data/dream2022/measured_library.parquet", split_column="split", require_value=True)
    assert table.columns == ("sequence", "activity", "split")
    assert sum(len(batch.numbers) for batch in table) == table.num_rows == 63_433
