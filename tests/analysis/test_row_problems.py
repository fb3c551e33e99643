"""Rows that are no promoter, the same way in every command."""

import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest

from modeling_macaron.analysis.attribution_file import attribution_file
from modeling_macaron.analysis.design import SearchOptions
from modeling_macaron.analysis.design_file import design_file
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


def test_spreadsheets_are_read_everywhere(tiny_folder, tmp_path):
    frame = pd.DataFrame({"reference_sequence": ["ACGT"], "alternative_sequence": ["ACGA"]})
    frame.to_excel(tmp_path / "in.xlsx", index=False)
    assert variants_file(tiny_folder, tmp_path / "in.xlsx", tmp_path / "out.csv").num_problems == 0


def test_predict_says_why_rows_have_no_prediction(tiny_folder, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "scripts/predict.py"))["main"]
    (tmp_path / "in.csv").write_text("sequence\nACGT\nNA\nnone\nACGX\n" + "A" * 30 + "\n")
    main([str(tiny_folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")])
    told = capsys.readouterr().out
    reasons = "2 missing sequence, 1 letter that is not DNA, 1 longer than strand_length"
    assert f"4 of them could not be predicted ({reasons}): see the column `problem`" in told
    assert "flanks" not in told
