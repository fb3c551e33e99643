"""Rows that are no promoter, the same way in every command."""

import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest

from modeling_macaron.analysis.attribution_file import attribution_file
from modeling_macaron.analysis.baselines import encode_constructs
from modeling_macaron.analysis.design import SearchOptions
from modeling_macaron.analysis.design_file import design_file
from modeling_macaron.analysis.evaluation import evaluate_files
from modeling_macaron.analysis.measurements import load_measurements, read_frame
from modeling_macaron.analysis.mutagenesis_file import mutagenesis_file
from modeling_macaron.analysis.predict_file import predict_file
from modeling_macaron.analysis.variants import variant_effects, variants_file
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.io.tables import open_table

ROOT = Path(__file__).resolve().parents[2]
MISSING = ["NA", "N/A", "nan", "NaN", "none", "NULL", "nd", "-", "."]
PROBLEMS = {word: f"missing sequence '{word}'" for word in MISSING} | {
    "NNNN": "no A, C, G or T in the sequence",
    "": "empty sequence",
    "acgX": "letter 'X' at position 4 (counted from 1) is not DNA",
}


def design(model, source, output, strict=False):
    options = SearchOptions(num_designs=1, max_edits=1)
    design_file(model, output, starts=source, strict=strict, options=options)


def variants(model, source, output, strict=False):
    columns = {"reference_column": "sequence", "alternative_column": "other"}
    variants_file(model, source, output, batch_size=1, strict=strict, **columns)


def predicted(model, source, output, strict=False):
    predict_file(model, source, output, batch_size=1, strict=strict)


COMMANDS = [predicted, mutagenesis_file, attribution_file, design, variants]


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_sequences_are_problems_of_their_rows(tiny_folder, tmp_path, command):
    rows = ["ACGTACGT", *PROBLEMS, " 1 acgtac gtacgt\t13 acg "]
    text = "".join(f"{index},{sequence},ACGA\n" for index, sequence in enumerate(rows))
    (tmp_path / "in.csv").write_text("name,sequence,other\n" + text)
    command(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv")
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    problems = [one.removeprefix("reference sequence: ") for one in written["problem"] if one]
    assert problems == list(PROBLEMS.values())


@pytest.mark.parametrize("command", [*COMMANDS, "prepare"])
def test_strict_names_the_first_fault_in_file_order(tiny_folder, tiny_tokenizer, tmp_path, command):
    lines = ["sequence,other,expression", *(f"ACGTACG{'ACGT'[i % 4]},ACGA,{i}" for i in range(400))]
    lines[349] = "ACGT,ACGA"  # read ahead, long before the row above it is encoded
    for number, fault in ((350, "2 columns instead of 3"), (300, "letter that is not DNA|letter 'X'")):
        (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=rf"in.csv, line {number}: .*({fault})"):
            if command == "prepare":
                table = open_table(tmp_path / "in.csv", batch_rows=16)
                prepare_dataset(table, tmp_path / "out", tokenizer=tiny_tokenizer, strict=True)
            else:
                command(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", strict=True)
        assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".parts")] == ["in.csv"]
        shutil.rmtree(tmp_path / "out.csv.parts", ignore_errors=True)
        lines[299] = "ACGX,ACGA,5"


def test_positions_are_counted_without_spaces(tiny_folder, tmp_path):
    text = "sequence,position,ref,alt\n1 acg tac,4,T,A\nACGTAC,4,T,NA\nacgtac,4,T, A \nNA,1,N,A\n"
    (tmp_path / "in.csv").write_text(text)
    variants_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv")
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert written["problem"].astype(bool).tolist() == [False, True, False, True]
    assert written["problem"].tolist()[1::2] == ["missing allele", "missing sequence 'NA'"]
    assert written["delta"][0] == written["delta"][2] != ""
    for pair in ((["AC GT"], ["NA"]), (["ACGT"], [None])):
        with pytest.raises(ValueError, match=r"pair 0 .*alternative sequence: (missing sequence 'NA'|empty sequence)"):
            variant_effects(tiny_folder, *pair)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "other.csv"])
def test_evaluation_names_rows_that_cannot_be_used(tiny_folder, tmp_path, kind):
    rows = {"row_id": list("abcde"), "sequence": ["ACGT", "", "NA", "-", "ACGX"], "activity": range(5)}
    frame = pd.DataFrame(rows).rename(columns={"sequence": "tested"} if kind == "other.csv" else {})
    path = tmp_path / f"t.{kind}"
    frame.replace("", None).to_parquet(path) if kind == "parquet" else frame.to_csv(
        path, sep="\t" if kind == "tsv" else ",", index=False
    )
    column = "tested" if kind == "other.csv" else None
    for options in ({"model": tiny_folder}, {"predictions": path, "baseline_train": path}):
        frame.assign(prediction=1.0).to_csv(tmp_path / "p.csv", index=False)
        options |= {"predictions": tmp_path / "p.csv"} if "predictions" in options else {}
        with pytest.raises(ValueError) as caught:
            evaluate_files(path, tmp_path / "s.json", sequence_column=column, **options)
        assert str(caught.value) == (
            "4 of 5 sequences of the table cannot be used (row_id b: empty sequence, row_id c: missing sequence 'NA', "
            "row_id d: missing sequence '-')"
        )
        assert not (tmp_path / "s.json").exists()


def test_evaluation_names_a_missing_sequence(tiny_folder, tmp_path):
    (tmp_path / "in.csv").write_text("sequence;expression\nACGT;1,5\nNA;2\n")
    measured = load_measurements(tmp_path / "in.csv")
    assert measured.rows["activity"].tolist() == [1.5, 2]
    assert measured.rows["sequence"].tolist() == ["ACGT", "NA"]
    _, problems = encode_constructs(pd.array(["ACGTA", "NA", "NNNN"], "string").__arrow_array__())
    assert problems == ["", "missing sequence 'NA'", "no A, C, G or T in the sequence"]


def test_spreadsheets_are_read_everywhere(tiny_folder, tmp_path):
    frame = pd.DataFrame({"reference_sequence": ["ACGT"], "alternative_sequence": ["ACGA"], "row_id": [3]})
    frame.to_excel(tmp_path / "in.xlsx", index=False)
    assert variants_file(tiny_folder, tmp_path / "in.xlsx", tmp_path / "out.csv").num_problems == 0
    pd.testing.assert_frame_equal(read_frame(tmp_path / "in.xlsx", ("row_id",)), frame)


def test_predict_says_why_rows_have_no_prediction(tiny_folder, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "scripts/predict.py"))["main"]
    (tmp_path / "in.csv").write_text("sequence\nACGT\nNA\nnone\nACGX\n" + "A" * 30 + "\n")
    main([str(tiny_folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")])
    told = capsys.readouterr().out
    reasons = "2 missing sequence, 1 letter that is not DNA, 1 longer than strand_length"
    assert f"4 of them could not be predicted ({reasons}): see the column `problem`" in told
    assert "flanks" not in told
