"""Prediction of files: every format, resumed after a crash, by several processes."""

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis import predict_file as predict_file_module
from modeling_macaron.analysis.predict import predict
from modeling_macaron.analysis.predict_file import predict_file
from modeling_macaron.io.parts import TableParts
from scripts.predict import main
from tests.launching import free_port
from tokenization import KmerTokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"
SEQUENCES = ["ACGTACGTAC", "acgu" * 4, "GGGG", "ACCATTTTGGT", "NRYACG"]


def frame_of(sequences):
    return pd.DataFrame({"name": [f"p{i}" for i in range(len(sequences))], "sequence": sequences})


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.tsv"])
@pytest.mark.parametrize("source", ["in.tsv", "in.csv", "in.tsv.gz", "in.parquet", "in.fa"])
def test_files_keep_their_order_and_columns(tiny_folder, tmp_path, source, output):
    frame = frame_of(SEQUENCES)
    path = tmp_path / source
    if source.endswith(".fa"):
        path.write_text("".join(f">{row['name']}\n{row['sequence']}\n" for row in frame.to_dict("records")))
    elif source.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if ".csv" in source else "\t", index=False)
    result = predict_file(tiny_folder, path, tmp_path / output, batch_size=2)
    assert result[:4] == (len(SEQUENCES), 0, 0, ())
    written = tmp_path / output
    separator = "\t" if output.endswith(".tsv") else ","
    got = pd.read_parquet(written) if output.endswith(".parquet") else pd.read_csv(written, sep=separator)
    assert got["name"].tolist() == frame["name"].tolist()
    assert got["sequence"].tolist() == SEQUENCES
    np.testing.assert_allclose(got["predicted_expression"], predict(tiny_folder, SEQUENCES), rtol=1e-6)


def test_rows_that_cannot_be_predicted_keep_their_place(tiny_folder, tmp_path):
    sequences = ["ACGT", "AC!T", "A" * 21, "", "GGGG", "AC[MASK]XT", "CAFÉ"]
    frame_of(sequences).to_parquet(tmp_path / "in.parquet")
    result = predict_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert result[:4] == (7, 5, 0, ())
    got = pd.read_parquet(tmp_path / "out.parquet")
    assert got["sequence"].tolist() == sequences
    assert got["predicted_expression"].isna().tolist() == [False, True, True, True, False, True, True]
    letters = [
        f"letter {at} (counted from 1) is not DNA"
        for at in ("'!' at position 3", "'[' at position 3", "'F' at position 3")
    ]
    too_long = "21 nt are more than the 20 that the model reads"
    assert got["problem"].tolist() == ["", letters[0], too_long, "empty sequence", "", *letters[1:]]
    expected = predict(tiny_folder, ["ACGT", "GGGG"])
    np.testing.assert_allclose(got["predicted_expression"].dropna(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["binary", "fixed", "text", "dictionary"])
def test_problems_of_sequences_of_every_type(tiny_folder, tmp_path, kind):
    sequences, text = [b"ACGT", b"ACXT", None], pa.array(["ACGT", "ACXT", None])
    column = {
        "binary": pa.array(sequences, pa.binary()), "fixed": pa.array(sequences, pa.binary(4)),
        "text": text, "dictionary": text.dictionary_encode(),
    }[kind]  # fmt: skip
    pq.write_table(pa.table({"sequence": column}), tmp_path / "in.parquet")
    predict_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "out.parquet")
    problems = pd.read_parquet(tmp_path / "out.parquet")["problem"].tolist()
    assert problems == ["", "letter 'X' at position 3 (counted from 1) is not DNA", "empty sequence"]


def test_equal_sequences_are_computed_once(tiny_folder, tmp_path):
    # After trimming the flanks ACCA and GGT, two of these are the same as the first; one cannot be predicted.
    sequences = ["ACGTACGTAC", "GGGG", "acgtacgtac", "AC!T", "ACCAACGTACGTACGGT", "TTTT"] * 20
    frame_of(sequences).to_parquet(tmp_path / "in.parquet")
    model, computed = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []
    model.register_forward_hook(lambda _, inputs, __: computed.append(len(inputs[0])))
    outputs = []
    for deduplicate, rows in ((False, 100), (True, 3)):
        computed.clear()
        options = {"batch_size": 2, "deduplicate": deduplicate, "overwrite": True}
        assert predict_file(model, tmp_path / "in.parquet", tmp_path / "out.parquet", **options)[:4] == (120, 20, 0, ())
        assert sum(computed) == rows
        outputs.append(pd.read_parquet(tmp_path / "out.parquet"))
    pd.testing.assert_frame_equal(outputs[0], outputs[1], rtol=1e-5)


def random_table(path, rows, seed=0):
    """Write a table of random sequences, some of which cannot be predicted and some of which come twice."""
    letters = np.random.default_rng(seed).choice(list("ACGT"), (rows, 12))
    sequences = ["".join(row) for row in letters]
    sequences[3::17] = ["ACGT!"] * len(sequences[3::17])
    sequences[5::7] = sequences[: len(sequences[5::7])]
    frame_of(sequences).to_csv(path, sep="\t", index=False)


def failing_at(folder, call, error):
    """Load the model of a folder, which raises at a forward pass."""
    model, calls = MacaronForExpressionPrediction.from_pretrained(folder), []

    def fail(*_):
        calls.append(1)
        if len(calls) == call:
            raise error

    model.register_forward_hook(fail)
    return model


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"deduplicate": True}])
@pytest.mark.parametrize("output", ["out.parquet", "out.csv"])
def test_error_of_the_model_loses_nothing(tiny_folder, tmp_path, output, options):
    random_table(tmp_path / "in.tsv", 250)
    options = {"batch_size": 2, **options}
    undisturbed = predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / f"whole_{output}", **options)
    assert undisturbed.num_rows == 250 and undisturbed.num_problems > 10
    for call in (40, 20):  # fails in the third part, then two parts later
        model = failing_at(tiny_folder, call, RuntimeError("out of memory"))
        with pytest.raises(RuntimeError, match="out of memory"):
            predict_file(model, tmp_path / "in.tsv", tmp_path / output, resume=True, **options)
        assert names_in(tmp_path) == sorted(["in.tsv", f"{output}.parts", f"whole_{output}"])
    with pytest.raises(FileExistsError, match=r"parts: pass --resume .* or --overwrite"):
        predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / output, **options)
    model, computed = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []
    model.register_forward_hook(lambda _, inputs, __: computed.append(len(inputs[0])))
    resumed = predict_file(model, tmp_path / "in.tsv", tmp_path / output, resume=True, **options)
    assert resumed == undisturbed
    assert sum(computed) < 170, "finished parts are not computed again"
    assert (tmp_path / output).read_bytes() == (tmp_path / f"whole_{output}").read_bytes()
    assert names_in(tmp_path) == sorted(["in.tsv", output, f"whole_{output}"])


def test_error_before_anything_is_done_leaves_nothing(tiny_folder, tmp_path):
    random_table(tmp_path / "in.tsv", 250)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_file(
            failing_at(tiny_folder, 1, RuntimeError("out of memory")), tmp_path / "in.tsv", tmp_path / "out.csv"
        )
    assert names_in(tmp_path) == ["in.tsv"]


def interrupted(folder, tmp_path):
    """Leave the parts of an interrupted run."""
    random_table(tmp_path / "in.tsv", 250)
    with pytest.raises(KeyboardInterrupt):
        model = failing_at(folder, 40, KeyboardInterrupt())
        predict_file(model, tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=2)


@pytest.mark.parametrize("changed", ["batch_size", "source", "weights", "deduplicate", "tokenizer"])
def test_parts_of_another_request_are_not_joined(tiny_folder, tiny_tokenizer, make_model, tmp_path, changed):
    interrupted(tiny_folder, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "out.csv.parts").iterdir()}
    options = {"batch_size": 3 if changed == "batch_size" else 2, "deduplicate": changed == "deduplicate"}
    model = make_model(seed=1) if changed == "weights" else MacaronForExpressionPrediction.from_pretrained(tiny_folder)
    if changed == "source":
        random_table(tmp_path / "in.tsv", 250, seed=1)
    if changed == "tokenizer":
        tiny_tokenizer = type(tiny_tokenizer)(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GG")
    with pytest.raises(ValueError, match=f"had other values of {changed}: repeat it"):
        predict_file(model, tmp_path / "in.tsv", tmp_path / "out.csv", tokenizer=tiny_tokenizer, resume=True, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "out.csv.parts").iterdir()} == before


def test_overwrite_begins_anew(tiny_folder, tmp_path):
    interrupted(tiny_folder, tmp_path)
    predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=3, overwrite=True)
    assert names_in(tmp_path) == ["in.tsv", "out.csv"]
    expected = predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "again.csv", batch_size=3)
    assert expected.num_rows == 250
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_is_not_ours_stays(tiny_folder, tmp_path, overwrite):
    random_table(tmp_path / "in.tsv", 10)
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="is in the way"):
        predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.csv", resume=True, overwrite=overwrite)
    assert names_in(tmp_path / "out.csv.parts") == ["thesis.tex"]


SLOWLY = """
import sys, time
from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.predict_file import predict_file
model = MacaronForExpressionPrediction.from_pretrained(sys.argv[1])
model.register_forward_hook(lambda *_: time.sleep(0.02))
predict_file(model, "in.tsv", "out.parquet", batch_size=2, resume=True)
"""


def test_killed_twice_and_resumed(tiny_folder, tmp_path):
    random_table(tmp_path / "in.tsv", 500)
    undisturbed = predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "whole.parquet", batch_size=2)
    generator = np.random.default_rng()
    finished = 0
    for _ in range(2):
        wanted = finished + int(generator.integers(1, 5))
        process = subprocess.Popen([sys.executable, "-c", SLOWLY, str(tiny_folder)], cwd=tmp_path)
        while len(list(tmp_path.glob("out.parquet.parts/*.arrow"))) < wanted:
            assert process.poll() is None, "it was to be killed before it ends"
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        finished = len(list(tmp_path.glob("out.parquet.parts/*.arrow")))
        assert not (tmp_path / "out.parquet").exists()
    assert predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.parquet", batch_size=2, resume=True) == (
        undisturbed
    )
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert names_in(tmp_path) == ["in.tsv", "out.parquet", "whole.parquet"]


def launch(tmp_path, *arguments, processes=2):
    """Start `accelerate launch scripts/predict.py` on the CPU."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", free_port()),
        *("--num_processes", str(processes), str(SCRIPT), *map(str, arguments), "--device", "cpu"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)


def test_two_processes_write_what_one_does(tiny_folder, tmp_path):
    random_table(tmp_path / "in.tsv", 250)
    expected = predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "whole.csv", batch_size=2)
    interrupted(tiny_folder, tmp_path)  # what two processes also go on with
    result = launch(tmp_path, tiny_folder, "in.tsv", "out.csv", "--batch_size", 2, "--resume")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("250 rows written to out.csv") == 1
    assert result.stdout.count(f"{expected.num_problems} of them could not be predicted") == 1
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert names_in(tmp_path) == ["in.tsv", "out.csv", "whole.csv"]
    strict = launch(tmp_path, tiny_folder, "in.tsv", "strict.csv", "--batch_size", 2, "--strict")
    assert strict.returncode != 0
    # Each process stops at its first bad row; the launcher ends the other one, perhaps before it reached its own.
    assert re.search(r"in\.tsv, line (5|39): letter '", strict.stderr), strict.stderr
    assert names_in(tmp_path) == ["in.tsv", "out.csv", "whole.csv"]


def test_parts_without_their_request_are_not_joined(tiny_folder, make_model, tmp_path):
    interrupted(tiny_folder, tmp_path)
    (tmp_path / "out.csv.parts" / "request.json").unlink()
    predict_file(make_model(seed=1), tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=2, resume=True)
    predict_file(make_model(seed=1), tmp_path / "in.tsv", tmp_path / "other.csv", batch_size=2)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


def test_killed_when_the_output_has_its_name(tiny_folder, tmp_path, monkeypatch):
    """The parts are still there, and the output too: going on gives the same output and removes them."""
    random_table(tmp_path / "in.tsv", 250)
    with monkeypatch.context() as patch:
        patch.setattr(TableParts, "remove", lambda self: None)
        expected = predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=2)
    before = (tmp_path / "out.csv").read_bytes()
    assert names_in(tmp_path) == ["in.tsv", "out.csv", "out.csv.parts"]
    assert predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=2, resume=True) == expected
    assert (tmp_path / "out.csv").read_bytes() == before
    assert names_in(tmp_path) == ["in.tsv", "out.csv"]
    with pytest.raises(FileExistsError, match="exists already"):
        predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=2, resume=True)


def test_strict_loses_no_part_of_an_earlier_run(tiny_folder, tmp_path):
    interrupted(tiny_folder, tmp_path)
    before = names_in(tmp_path / "out.csv.parts")
    with pytest.raises(ValueError, match="is not DNA"):
        predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=2, resume=True, strict=True)
    assert set(before) <= set(names_in(tmp_path / "out.csv.parts"))


@pytest.mark.parametrize(("error", "stays"), [(OSError(116, "Stale file handle"), True), (OSError("damaged"), False)])
def test_parts_outlive_a_failing_disk_but_no_damaged_file(tiny_folder, tmp_path, monkeypatch, error, stays):
    random_table(tmp_path / "in.tsv", 250)
    encode, calls = KmerTokenizer.encode_strands, []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            try:
                raise error
            except OSError as cause:
                raise ValueError("in.tsv cannot be read") from cause
        return encode(self, *arguments)

    monkeypatch.setattr(KmerTokenizer, "encode_strands", failing)
    with pytest.raises(ValueError, match="cannot be read"):
        predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.csv", batch_size=2)
    assert names_in(tmp_path) == ["in.tsv"] + ["out.csv.parts"] * stays


def test_columns_that_text_cannot_hold_are_refused_before_any_work(tiny_folder, tmp_path):
    frame_of(SEQUENCES).assign(sites=[[1, 2]] * len(SEQUENCES)).to_parquet(tmp_path / "in.parquet")
    model = failing_at(tiny_folder, 1, AssertionError("it was to be refused before"))
    with pytest.raises(ValueError, match=r"text cannot hold the column 'sites' .*name a \.parquet file"):
        predict_file(model, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert names_in(tmp_path) == ["in.parquet"]
    assert predict_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "out.parquet").num_rows == len(SEQUENCES)


def test_strict_stops_at_a_line_that_is_no_row(tiny_folder, tmp_path):
    (tmp_path / "in.csv").write_text("name,sequence\na,ACGT\nb,ACGT,more\nc,ACGT\n")
    with pytest.raises(ValueError, match=r"in\.csv, line 3: 3 columns instead of 2"):
        predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", strict=True)
    assert names_in(tmp_path) == ["in.csv"]
    assert predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv").num_malformed == 1


def test_text_has_quotes_only_where_it_needs_them(tiny_folder, tmp_path):
    frame = pd.DataFrame({"name": ["a", 'b "x"', "c,d"], "sequence": ["ACGT"] * 3, "a,b": ["1", "", "3"]})
    frame.to_parquet(tmp_path / "in.parquet")
    predict_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == 'name,sequence,"a,b",predicted_expression,problem'
    back = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, dtype={"a,b": str})
    pd.testing.assert_frame_equal(back[list(frame)], frame)
    frame_of(["ACGT", "AC!T"]).to_parquet(tmp_path / "in.parquet")
    predict_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "out.csv", overwrite=True)
    assert '"' not in (tmp_path / "out.csv").read_text()


def test_parts_are_joined_to_larger_groups(tiny_folder, tmp_path, monkeypatch):
    random_table(tmp_path / "in.tsv", 250)
    monkeypatch.setattr(predict_file_module, "JOINED_ROWS", 100)
    predict_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.parquet", batch_size=2)
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [128, 122]


def test_strict_stops_at_the_first_row_with_a_problem(tiny_folder, tmp_path):
    frame_of(["ACGT"] * 9 + ["AC!T", ""]).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(ValueError, match=r"in\.csv, line 11: letter '!' at position 3 \(counted from 1\) is not DNA$"):
        predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", strict=True)
    assert names_in(tmp_path) == ["in.csv"]
    frame_of(["ACGT"] * 9).to_csv(tmp_path / "in.csv", index=False)
    assert predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", strict=True)[:4] == (9, 0, 0, ())


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("absent.tsv", "out.tsv", "there is no file"),
        ("in.xyz", "out.tsv", "unknown kind of file"),
        ("in.tsv", "out.xyz", "unknown kind of output"),
        ("empty.tsv", "out.tsv", "empty"),
        ("broken.tsv.gz", "out.tsv", "cannot be read"),
        (
            "done.tsv",
            "out.tsv",
            "done.tsv already has the column predicted_expression, which the output adds: rename it in",
        ),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tiny_folder, tmp_path, source, output, message):
    frame = frame_of(SEQUENCES)
    frame.to_csv(tmp_path / "in.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "in.xyz", sep="\t", index=False)
    frame.assign(predicted_expression=1.0).to_csv(tmp_path / "done.tsv", sep="\t", index=False)
    (tmp_path / "empty.tsv").write_text("")
    compressed = gzip.compress("".join(f"{s}\t1\n" for s in np.random.default_rng(0).choice(SEQUENCES, 5000)).encode())
    (tmp_path / "broken.tsv.gz").write_bytes(compressed[: len(compressed) // 2])
    before = {path.name for path in tmp_path.iterdir()}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tiny_folder), source, output], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == before


def test_script_reports_rows_without_a_prediction(tiny_folder, tmp_path):
    frame_of(["ACGT", "XXXX"]).to_csv(tmp_path / "in.csv", index=False)
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "in.csv", "out.tsv"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "2 rows written to out.tsv" in result.stdout
    options = ["--merged", "--dtype", "float32", "--deduplicate", "--overwrite"]
    again = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert again.stdout == result.stdout, again.stderr
    assert "1 of them could not be predicted" in result.stdout


def test_script_says_that_there_is_nothing_to_resume_and_what_most_problems_may_be(tiny_folder, tmp_path):
    frame_of(["A" * 30, "C" * 30, "ACGT"]).to_csv(tmp_path / "in.csv", index=False)
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "in.csv", "OUT.CSV", "--resume"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "no interrupted run of OUT.CSV was found" in result.stdout
    assert "2 of them could not be predicted (2 longer than strand_length)" in result.stdout
    assert "The model removes the constant flanks of its own construct only" in result.stdout
    too_long = "30 nt are more than the 20 that the model reads"
    assert pd.read_csv(tmp_path / "OUT.CSV")["problem"].fillna("").tolist() == [too_long] * 2 + [""]


def test_existing_output_is_replaced_only_when_asked(tiny_folder, tmp_path):
    frame_of(SEQUENCES).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"
    predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", overwrite=True)
    assert len(pd.read_csv(tmp_path / "out.csv")) == len(SEQUENCES)


def test_batch_size_of_zero_is_refused(tiny_folder, tmp_path):
    frame_of(SEQUENCES).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", batch_size=0)


def test_source_with_old_times_is_another_source(tiny_folder, tmp_path):
    """As after `cp -p` of a table with as many bytes; a table that is only touched is the same."""
    interrupted(tiny_folder, tmp_path)
    source, text = tmp_path / "in.tsv", (tmp_path / "in.tsv").read_text()
    times = (source.stat().st_atime_ns, source.stat().st_mtime_ns)
    source.write_text(text.replace("A", "C", 1) if "\nA" in text else text.replace("C", "A", 1))
    os.utime(source, ns=times)
    with pytest.raises(ValueError, match="had other values of source"):
        predict_file(tiny_folder, source, tmp_path / "out.csv", batch_size=2, resume=True)
    source.write_text(text)
    assert predict_file(tiny_folder, source, tmp_path / "out.csv", batch_size=2, resume=True).num_rows == 250


GENOME_SEQUENCE = "".join(np.random.default_rng(3).choice(list("ACGT"), 200))
BED = [
    ("chr1", 10, 28, "plus", "0", "+"), ("chr1", 10, 28, "minus", "1.5", "-", "more"),
    ("chr1", 190, 201, ".", ".", "+"),
    ("chr2", 0, 9, "absent", "0", "-"), ("chr1", 20, 50, "long", "0", "+"), ("chr1", 30, 37, "short", "0", "-"),
]  # fmt: skip


def write_intervals(folder):
    (folder / "g.fa").write_text(f">chr1 made\n{GENOME_SEQUENCE}\n")
    (folder / "p.bed").write_text("track\n" + "".join("\t".join(map(str, row)) + "\n" for row in BED))


@pytest.mark.parametrize("batch_size", [1, 256])
@pytest.mark.parametrize("output", ["out.tsv", "out.parquet"])
def test_intervals_of_a_genome_are_rows(tiny_folder, tmp_path, monkeypatch, capsys, output, batch_size):
    monkeypatch.setattr(predict_file_module, "JOINED_ROWS", 2)
    write_intervals(tmp_path)
    arguments = [str(tiny_folder), str(tmp_path / "p.bed"), str(tmp_path / output), "--genome", str(tmp_path / "g.fa")]
    main([*arguments, "--batch_size", str(batch_size)])
    assert capsys.readouterr().out.startswith("6 rows written to")
    path = tmp_path / output
    read = pd.read_parquet if output.endswith(".parquet") else partial(pd.read_csv, sep="\t", keep_default_na=False)
    got = read(path)
    names = ["chrom", "start", "end", "name", "score", "strand", "column_7"]
    assert got.columns.tolist() == [*names, "predicted_expression", "problem"]
    expected = [tuple(map(str, row)) + ("",) * (7 - len(row)) for row in BED]
    assert [tuple(map(str, row)) for row in got[names].itertuples(index=False)] == expected
    assert got["problem"].tolist() == [
        "", "", "the promoter reaches beyond the end of its contig", "the FASTA lacks the contig",
        "30 nt are more than the 20 that the model reads", "",
    ]  # fmt: skip
    minus = [
        GENOME_SEQUENCE[start:end].translate(str.maketrans("ACGT", "TGCA"))[::-1] for start, end in ((10, 28), (30, 37))
    ]
    values = predict(tiny_folder, [GENOME_SEQUENCE[10:28], *minus])
    np.testing.assert_allclose(got["predicted_expression"][[0, 1, 5]].astype(float), values, rtol=1e-5)
    assert len(set(np.round(values, 3))) == 3


def test_long_intervals_are_one_reason(tiny_folder, tmp_path, capsys):
    (tmp_path / "g.fa").write_text(f">c\n{'ACGT' * 5_000}\n")
    (tmp_path / "p.bed").write_text("".join(f"c\t0\t{10_001 + index}\tp\t0\t+\n" for index in range(40)))
    main([str(tiny_folder), str(tmp_path / "p.bed"), str(tmp_path / "o.csv"), "--genome", str(tmp_path / "g.fa")])
    reason = "40 ... nt are more than the ... that a model may read"
    assert f"40 of them could not be predicted ({reason}): see" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "o.csv")["problem"].str.startswith("10001 nt are more than the 10,000").sum() == 1


def test_intervals_are_not_trimmed(tiny_folder, tmp_path):
    """They begin and end with letters of the flanks, which stand for themselves there."""
    interval = "ACCATGTGTCAGGT"
    (tmp_path / "g.fa").write_text(f">c\nTTT{interval}TTT\n")
    (tmp_path / "p.bed").write_text("c\t3\t17\tp\t0\t+\n")
    predict_file(tiny_folder, tmp_path / "p.bed", tmp_path / "out.csv", genome=tmp_path / "g.fa")
    settings = {"kmer_size": 5, "strand_length": 20, "trimming": "never"}
    expected = predict(tiny_folder, [interval], tokenizer=KmerTokenizer(**settings))
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv")["predicted_expression"], expected, rtol=1e-5)


@pytest.mark.parametrize("changed", ["genome", "source"])
def test_parts_of_another_genome_are_not_joined(tiny_folder, tmp_path, changed):
    write_intervals(tmp_path)
    lines = [f"chr1\t{i % 150}\t{i % 150 + 12}\tp\t0\t{'+-'[i % 2]}\n" for i in range(250)]
    (tmp_path / "p.bed").write_text("".join(lines))
    call = {"genome": tmp_path / "g.fa", "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        predict_file(failing_at(tiny_folder, 40, KeyboardInterrupt()), tmp_path / "p.bed", tmp_path / "out.csv", **call)
    before = (tmp_path / "g.fa").read_text(), "".join(lines)
    if changed == "genome":
        (tmp_path / "g.fa").write_text(before[0].replace(GENOME_SEQUENCE[:50], GENOME_SEQUENCE[50:100]))
    else:
        (tmp_path / "p.bed").write_text(before[1].replace("-", "+", 1))
    with pytest.raises(ValueError, match=f"had other values of {changed}"):
        predict_file(tiny_folder, tmp_path / "p.bed", tmp_path / "out.csv", resume=True, **call)
    (tmp_path / "g.fa").write_text(before[0])
    (tmp_path / "p.bed").write_text(before[1])
    predict_file(tiny_folder, tmp_path / "p.bed", tmp_path / "out.csv", resume=True, **call)
    predict_file(tiny_folder, tmp_path / "p.bed", tmp_path / "whole.csv", **call)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


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
def test_mistakes_with_intervals_are_reported_in_one_line(
    tiny_folder, tmp_path, monkeypatch, capfd, arguments, message
):
    write_intervals(tmp_path)
    (tmp_path / "bad.bed").write_text("chr1\t1\t9\tp\t0\t+\nchr1\t1\t9\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([str(tiny_folder), *arguments])
    assert str(stop.value.code).startswith("error: ") and message in stop.value.code and "\n" not in stop.value.code
    assert "[E::" not in capfd.readouterr().err
    assert set(names_in(tmp_path)) - {"g.fa.fai"} == {"bad.bed", "g.fa", "p.bed"}
