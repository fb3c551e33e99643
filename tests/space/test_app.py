"""The demo describes the loaded model, and its command reports errors in one line."""

import json
import shutil
import socket

import pytest

from modeling_macaron.reference import REFERENCE
from space.answers import Answers
from space.app import build_page, main
from space.build import ROOT
from tokenization import KmerTokenizer

CLAIMS = ("measured", "cerevisiae", "yeast", "DREAM", "rained on 5", "designed", "validation")


def shown(answers):
    """Return all texts of the demo."""
    return json.dumps(build_page(answers).get_config_file()["components"], ensure_ascii=False, default=str)


@pytest.fixture
def saved(tmp_path, make_model):
    """Save a tiny model and its tokenizer, with optional fields of both."""

    def save(trimming="auto", flanks=("ACCA", "GGT"), reference=None, **fields):
        folder = tmp_path / "model"
        model = make_model(**fields)
        model.save_pretrained(folder)
        length = model.config.strand_length
        tokenizer = KmerTokenizer(5, length, flank5=flanks[0], flank3=flanks[1], trimming=trimming)
        tokenizer.save_pretrained(folder)
        if reference is not None:
            (folder / REFERENCE).write_text(json.dumps(reference))
        return folder

    return save


OWN = {
    "data": "<b>mine_1.tsv</b>", "split": "training", "edges": [1000.5, 1100, 1200], "counts": [3, 4],
    "percentiles": [1000.5 + 2 * one for one in range(101)],
    "examples": [{"description": "<i>low</i>", "sequence": "ACGTTTATATAAGGC", "measured": 1010.25}],
}  # fmt: skip


def test_without_a_reference_no_data_are_described(answers):
    assert answers.reference is None
    text = shown(answers)
    assert [claim for claim in CLAIMS if claim in text] == [] and "up to 20 nt of their DNA" in text
    (example,) = answers.examples
    assert example.description == "random sequence" and len(example.sequence) == 20
    assert example.sequence in text and "random sequence" in text
    (found,) = answers.predict(example.sequence)
    assert (found.percentile, found.measured) == (None, None)


def test_a_model_shows_its_own_reference(saved):
    answers = Answers(saved(reference=OWN, expression_mean=1100.0, expression_std=120.0))
    text = shown(answers)
    assert "Trained on 7 promoters of &lt;b&gt;mine_1.tsv&lt;/b&gt;, measured at 1000 to 1200." in text
    assert "cerevisiae" not in text and '"value": 1100.0' in text
    (found,) = answers.predict("ACGTTTATATAAGGC")
    assert found.measured == 1010.25 and 0 <= found.percentile <= 100
    answers = Answers(saved(reference=OWN | {"split": "validation"}))
    assert "Validated on 7 promoters" in shown(answers)


def test_without_measured_examples_a_random_sequence_is_offered(saved):
    answers = Answers(saved(reference=OWN | {"examples": []}))
    (example,) = answers.examples
    text = shown(answers)
    assert (example.description, example.measured) == ("random sequence", None)
    assert "Trained on 7 promoters" in text and "Or an example:" in text and "measured promoter" not in text
    (found,) = answers.predict(example.sequence)
    assert found.measured is None and 0 <= found.percentile <= 100


@pytest.mark.parametrize("content", ["{", json.dumps(OWN | {"counts": [-3, 4]})])
def test_a_damaged_reference_is_left_out(saved, caplog, content):
    folder = saved()
    (folder / REFERENCE).write_text(content)
    answers = Answers(folder)
    assert answers.reference is None and answers.examples[0].measured is None
    assert [REFERENCE in one.getMessage() for one in caplog.records] == [True]


@pytest.mark.parametrize("length", [6, 150])
@pytest.mark.parametrize(
    ("trimming", "flanks", "told"),
    [
        (
            "auto",
            ("ACCA", "GGTTAG"),
            "between the constant flanks (4 nt ACCA and 6 nt GGTTAG), which may be pasted too.",
        ),
        ("always", ("ACCA", ""), "between the constant flanks (4 nt ACCA), which must be pasted too."),
        ("never", ("ACCA", "GGT"), "The model reads up to {} nt."),
        ("auto", ("", ""), "The model reads up to {} nt."),
    ],
)
def test_examples_and_messages_follow_length_and_flanks(saved, length, trimming, flanks, told):
    own = OWN | {"examples": [OWN["examples"][0] | {"sequence": "ANGTNA"}]}
    for reference in (None, own):
        answers = Answers(saved(trimming, flanks, reference, strand_length=length))
        assert told.format(length) in shown(answers)
        example = answers.examples[0]
        (found,) = answers.predict(example.sequence)
        assert found.promoter.sequence == (own["examples"][0]["sequence"] if reference else example.sequence[-length:])
        assert found.measured == (1010.25 if reference else None)


def test_examples_that_the_model_does_not_read_are_left_out(saved):
    unread = ("A" * 21, "", "NNN", "<b>", "acgt", "ACGT[MASK]", "ACCAGGT", "ACCATTGGT", "ACCATT")
    examples = [OWN["examples"][0] | {"sequence": sequence} for sequence in (*unread, "ACGT")]
    assert [one.sequence for one in Answers(saved(reference=OWN | {"examples": examples})).examples] == ["ACGT"]
    answers = Answers(saved(reference=OWN | {"examples": examples[:-1]}))
    assert [one.description for one in answers.examples] == ["random sequence"] and "rained on 7" in shown(answers)


def test_example_changes_can_be_made(answers):
    from space.answers import example_changes

    for sequence in ("A", "NNAC", "ACNNN", "ACGTTTATATAAGGCACGTA"):
        substitution, deletion, insertion = example_changes(sequence)
        for change in (substitution, *([deletion] if len(sequence.strip("N")) > 1 else [])):
            assert answers.compare(sequence, change).num_cut == 0
        assert answers.compare(sequence, insertion, cut=True).difference[2] == "C"


def test_numbers_keep_their_meaning_on_other_scales(saved):
    digits = [Answers(saved(expression_std=std)).digits for std in (0.76, 2.5, 0.004, 500.0, 1e-300)]
    assert digits == [2, 2, 4, 0, 12]


@pytest.fixture
def taken_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


def ending(capsys, *arguments):
    """Return the last line of a command that cannot start."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    if caught.value.code == 2:  # argparse
        return capsys.readouterr().err.splitlines()[-1]
    assert isinstance(caught.value.code, str) and "\n" not in caught.value.code
    return caught.value.code


def test_used_ports_are_reported_in_one_line(capsys, taken_port, tiny_folder):
    told = ending(capsys, "--checkpoint", str(tiny_folder), "--port", str(taken_port))
    assert told.startswith(f"error: port {taken_port} cannot be used (Address already in use): choose another")


@pytest.mark.parametrize("port", ["0", "-1", "70000", "http"])
def test_invalid_ports(capsys, port):
    assert "--port" in ending(capsys, "--port", port)


def test_invalid_checkpoints(capsys, tmp_path, tiny_folder):
    assert "there is no checkpoint folder" in ending(capsys, "--checkpoint", str(tmp_path / "absent"))
    assert "there is no checkpoint folder" in ending(capsys, "--checkpoint", str(ROOT / "README.md"))
    assert "config.json is missing" in ending(capsys, "--checkpoint", str(tmp_path))
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    assert "is a model of type 'bert'" in ending(capsys, "--checkpoint", str(folder))
    (folder / "config.json").write_text("{")
    assert "error:" in ending(capsys, "--checkpoint", str(folder))


def test_hub_errors_are_reported_in_one_line(capsys, monkeypatch):
    def fail(name):
        raise OSError("cannot connect\nCheck the connection")

    monkeypatch.setattr("space.answers.Predictor.from_pretrained", fail)
    assert ending(capsys, "--checkpoint", "me/none") == "error: cannot connect Check the connection"
