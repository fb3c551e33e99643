"""Sequences unlike the training rows are flagged by every way of predicting."""

import json

import numpy as np
import pandas as pd
import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import pipeline

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction, PromoterExpressionPipeline
from modeling_macaron.configuration_macaron import count_trimers
from modeling_macaron.training.metrics import trimer_settings
from scripts import evaluate as evaluate_script
from scripts import predict as predict_script
from space.answers import UNLIKE_TRAINING, Answers
from space.figures import predicted_one
from space.uploads import predict_upload
from tests.training.runs import SHORT, run

USUAL = ["ACGTTGCATCAGGATCCATG", "TTGACCATGCAAGCTTGGAC", "GATCCATTGCAACGGTTAGC"]
REPEAT = "A" * 20


def to_ids(sequences):
    return np.array([["ACGTN".index(base) for base in text] for text in sequences], np.uint8)


@pytest.fixture(scope="module")
def settings():
    random = np.random.default_rng(0)
    return trimer_settings(*(random.integers(0, 4, (rows, 20)).astype(np.uint8) for rows in (3000, 1000)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_model, tiny_tokenizer, settings):
    folder = tmp_path_factory.mktemp("composition") / "tiny-composition"
    make_model(**settings).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_chi_square_counts_both_strands(settings):
    def turned(text):
        return text[::-1].translate(str.maketrans("ACGT", "TGCA"))

    words = sorted({min(word, turned(word)) for word in (a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT")})
    text = "NACGTTGCATNCAGGATAAAAN"
    found = [text[i : i + 3] for i in range(len(text) - 2) if "N" not in text[i : i + 3]]
    counts = np.array([sum(min(one, turned(one)) == word for one in found) for word in words])
    np.testing.assert_array_equal(count_trimers(to_ids([text])), [counts])
    expected = counts.sum() * np.array(settings["trimer_shares"])
    chi_square = ((counts - expected) ** 2 / expected).sum()
    for limit, is_unlike in ((chi_square * 1.001, False), (chi_square * 0.999, True)):
        config = MacaronConfig(trimer_shares=settings["trimer_shares"], trimer_limit=limit)
        assert (
            config.unlike_training(to_ids([text, turned(text.strip("N")).center(22, "N")])).tolist() == [is_unlike] * 2
        )
    assert not MacaronConfig(**settings).unlike_training(to_ids(["NNNNNN", "ACNNNN"])).any()
    assert MacaronConfig(**settings).unlike_training(to_ids(["AC"])).tolist() == [False]
    assert MacaronConfig().unlike_training(to_ids([text])) is None


def test_limit_is_a_percentile_of_held_out_rows(settings):
    random = np.random.default_rng(1)
    strands = random.integers(0, 4, (20_000, 20)).astype(np.uint8)
    assert 0.002 < MacaronConfig(**settings).unlike_training(strands).mean() < 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trimer_limit": None}, "must be given together"),
        ({"trimer_limit": -1.0}, "`trimer_limit` must be in"),
        ({"trimer_shares": [0.5, 0.5]}, "must be 32 positive numbers that add up to 1"),
        ({"trimer_shares": [0.5] * 32}, "must be 32 positive numbers that add up to 1"),
    ],
)
def test_impossible_fields(settings, fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        MacaronConfig(**{**settings, **fields})


def test_pipeline(folder, make_model, tiny_tokenizer):
    predictor = pipeline("promoter-expression", model=str(folder), trust_remote_code=True, device="cpu")
    found = predictor([*USUAL, REPEAT], batch_size=3)
    assert [one["unlike_training"] for one in found] == [False, False, False, True]
    plain = PromoterExpressionPipeline(model=make_model(), tokenizer=tiny_tokenizer, device="cpu")
    assert "unlike_training" not in plain(REPEAT)


@pytest.mark.parametrize("options", [[], ["--deduplicate"]])
def test_file(folder, tmp_path, capsys, options):
    pd.DataFrame({"sequence": [REPEAT, *USUAL, "ACGTX", REPEAT]}).to_csv(tmp_path / "in.csv", index=False)
    predict_script.main([str(folder), str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"), *options])
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table.columns) == ["sequence", "predicted_expression", "unlike_training", "problem"]
    assert table["unlike_training"].tolist() == [True, False, False, False, None, True]
    assert "2 rows are unlike the model's training rows" in capsys.readouterr().out


def test_demo_warns(folder):
    answers = Answers(folder)
    usual, repeat = answers.predict("\n".join([USUAL[0], REPEAT]))
    assert UNLIKE_TRAINING in predicted_one(repeat, None) and UNLIKE_TRAINING not in predicted_one(usual, None)
    assert answers.mutate(REPEAT).promoter.warnings == (UNLIKE_TRAINING,)
    compared = answers.compare(REPEAT, USUAL[0])
    assert compared.reference.warnings == (UNLIKE_TRAINING,) and not compared.alternative.warnings
    *_, done = predict_upload(answers, "p.csv", f"sequence\n{REPEAT}\n{USUAL[0]}\n".encode(), "", "csv")
    assert done.num_unlike == 1


@pytest.mark.slow
def test_training_and_calibration_write_the_fields(prepared, tmp_path):
    final = run(prepared, tmp_path / "run", *SHORT)
    path = final / "config.json"
    fields = json.loads(path.read_text())
    config = MacaronForExpressionPrediction.from_pretrained(final).config
    assert len(config.trimer_shares) == 32 and config.trimer_limit > 0
    assert config.unlike_training(to_ids(["A" * 80])).tolist() == [True]
    without = {name: value for name, value in fields.items() if not name.startswith("trimer")}
    path.write_text(json.dumps(without))
    command = ["--model", str(final), "--table", str(prepared), "--split", "validation", "--calibrate"]
    evaluate_script.main([*command, "--output", str(tmp_path / "score.json")])
    again = json.loads(path.read_text())
    assert again["trimer_limit"] == pytest.approx(fields["trimer_limit"], rel=0.2)
    path.write_text(json.dumps(fields))
    evaluate_script.main([*command, "--output", str(tmp_path / "score.json"), "--overwrite"])
    assert json.loads(path.read_text())["trimer_shares"] == fields["trimer_shares"]
