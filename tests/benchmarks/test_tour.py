"""The tour of the commands, on a small library and a tiny model."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import tour as module
from benchmarks.pages import render_block
from modeling_macaron.predictor import Predictor


@pytest.fixture(scope="module")
def library():
    """Promoters of 10 nt, each with a substitution of it in the same split; the last pair is not in the library."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(12):
        reference = "".join(generator.choice(list("ACGT"), 10))
        place = int(generator.integers(10))
        alternative = reference[:place] + "ACGT"["CGTA".index(reference[place])] + reference[place + 1 :]
        split = "validation" if index < 8 else "train"
        rows += [(2 * index, reference, split), (2 * index + 1, alternative, split)]
    frame = pd.DataFrame(rows, columns=["row_id", "sequence", "split"])
    frame["activity"] = generator.normal(size=len(frame))
    pairs = pd.DataFrame({"kind": "SNVs", "alt_row_id": range(1, 24, 2), "ref_row_id": range(0, 24, 2)})
    pairs = pd.concat(
        [pairs, pd.DataFrame({"kind": ["motif_tiling"] * 3, "alt_row_id": [0, 2, 4], "ref_row_id": [6, 8, 10]})]
    )
    return frame, pd.concat([pairs, pd.DataFrame({"kind": ["SNVs"], "alt_row_id": [1], "ref_row_id": [999]})])


@pytest.mark.slow
def test_tour_of_a_small_library(tiny_folder, tmp_path, library):
    frame, pairs = library
    frame.to_parquet(tmp_path / "library.parquet")
    pairs.to_parquet(tmp_path / "pairs.parquet")
    (tmp_path / "work").mkdir()
    tour = module.Tour(tiny_folder, tmp_path / "work", tmp_path / "figures")
    result = module.take_tour(tour, tmp_path / "library.parquet", tmp_path / "pairs.parquet")
    json.dumps(result, allow_nan=False)

    values = dict(
        zip(frame.row_id, Predictor.from_pretrained(tiny_folder).predict(frame.sequence.tolist()), strict=True)
    )
    measured = dict(zip(frame.row_id, frame.activity, strict=True))
    held_out = range(16)
    expected = np.corrcoef([values[row] for row in held_out], [measured[row] for row in held_out])[0, 1]
    assert result["predict"]["rows"] == 16
    assert result["predict"]["pearson_r"] == pytest.approx(expected, abs=1e-6)
    differences = [[source[row + 1] - source[row] for row in held_out[::2]] for source in (values, measured)]
    substitutions = result["variants"]["kinds"]["SNVs"]
    assert substitutions["n"] == 8, "pairs of the training rows, and of rows that are not there, do not count"
    assert substitutions["pearson_r"] == pytest.approx(np.corrcoef(differences)[0, 1], abs=1e-6)
    assert result["variants"]["kinds"]["motif_tiling"]["n"] == 3
    assert result["mutagenesis"]["mutants"] == 30
    assert result["attribution"]["bases"] == 10 and result["attribution"]["completeness_error"] < 0.1
    assert result["design"]["rows"] == module.NUM_DESIGNED
    assert result["design"]["median_gain"] > 0
    assert result["export"]["size_mb"] > 0.001
    names = ["heatmap.png", "logo.png", "substitutions.png", "variants.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    text = module.render_tour(result)
    assert str(tmp_path) not in text and str(tmp_path) not in json.dumps(result)
    assert f"r {substitutions['pearson_r']:.3f}, rho {substitutions['spearman_rho']:.3f}" in text


def test_a_command_that_fails_is_reported(tiny_folder, tmp_path):
    with pytest.raises(RuntimeError, match=r"predict\.py failed: .*there is no file absent\.tsv"):
        module.Tour(tiny_folder, tmp_path, tmp_path).run("predict.py", "absent.tsv", "out.csv")


def test_tour_of_the_readme_is_that_of_the_checkpoint():
    result = json.loads(module.RESULT.read_text(encoding="utf-8"))
    assert result["weights"] == module.weights_of(module.CHECKPOINT), "take the tour again: python -m benchmarks.tour"
    block = render_block(module.BLOCK, module.render_tour(result))
    assert block in module.README.read_text(encoding="utf-8")
    evaluation = json.loads((module.CHECKPOINT / "evaluation.json").read_text(encoding="utf-8"))["all"]
    for kind, figures in result["variants"]["kinds"].items():
        assert figures["n"] == evaluation[kind]["n"]
        assert figures["pearson_r"] == pytest.approx(evaluation[kind]["pearson_r"], abs=1e-5)
    assert result["predict"]["pearson_r"] == pytest.approx(evaluation["all"]["pearson_r"], abs=1e-6)
