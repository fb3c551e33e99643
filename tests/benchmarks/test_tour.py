"""The tour of the commands, on a small library and a tiny model."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import tour as module
from modeling_macaron.predictor import Predictor


def make_library():
    """Promoters of 10 nt, each followed by a substitution. The last pairs are not in the library."""
    generator = np.random.default_rng(0)
    references = ["".join(generator.choice(list("ACGT"), 10)) for _ in range(12)]
    pairs = [(text, text[:3] + "CGTA"["ACGT".index(text[3])] + text[4:]) for text in references]
    library = pd.DataFrame({"row_id": range(24), "sequence": np.ravel(pairs), "activity": generator.normal(size=24)})
    library["split"] = np.where(library.row_id < 16, "validation", "train")
    substitutions = pd.DataFrame({"kind": "SNVs", "alt_row_id": range(1, 26, 2), "ref_row_id": range(0, 26, 2)})
    motifs = pd.DataFrame({"kind": "motif_tiling", "alt_row_id": [0, 2, 4], "ref_row_id": [6, 8, 10]})
    return library, pd.concat([substitutions, motifs])


@pytest.mark.slow
def test_tour_of_a_small_library(tiny_folder, tmp_path):
    frame, pairs = make_library()
    frame.to_parquet(tmp_path / "library.parquet")
    pairs.to_parquet(tmp_path / "pairs.parquet")
    (tmp_path / "work").mkdir()
    tour = module.Tour(tiny_folder, tmp_path / "work", tmp_path / "figures")
    result = module.take_tour(tour, tmp_path / "library.parquet", tmp_path / "pairs.parquet")

    held_out = frame[:16]
    values = Predictor.from_pretrained(tiny_folder).predict(held_out.sequence.tolist())
    measured = held_out.activity.to_numpy()
    assert result["predict"]["rows"] == 16
    assert result["predict"]["pearson_r"] == pytest.approx(np.corrcoef(values, measured)[0, 1], abs=1e-6)
    differences = [source[1::2] - source[::2] for source in (values, measured)]
    substitutions = result["variants"]["kinds"]["SNVs"]
    assert substitutions["n"] == 8, "pairs of the training rows, and of rows that are not there, do not count"
    assert substitutions["pearson_r"] == pytest.approx(np.corrcoef(differences)[0, 1], abs=1e-6)
    assert result["variants"]["kinds"]["motif_tiling"]["n"] == 3
    assert result["mutagenesis"]["mutants"] == 30
    assert result["attribution"]["bases"] == 10 and result["attribution"]["completeness_error"] < 0.1
    assert abs(result["attribution"]["pearson_r_with_mutants"]) <= 1
    assert result["design"]["rows"] == module.NUM_DESIGNED and result["design"]["median_gain"] > 0
    assert result["export"]["size_mb"] > 0.001
    names = ["heatmap.png", "logo.png", "substitutions.png", "variants.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    assert str(tmp_path) not in json.dumps(result, allow_nan=False)
    assert f"r {substitutions['pearson_r']:.3f}, rho {substitutions['spearman_rho']:.3f}" in module.render_tour(result)


def test_committed_tour_matches_the_checkpoint():
    result = json.loads(module.RESULT.read_text(encoding="utf-8"))
    assert result["weights"] == module.weights_of(module.CHECKPOINT), "take the tour again: python -m benchmarks.tour"
    evaluation = json.loads((module.CHECKPOINT / "evaluation.json").read_text(encoding="utf-8"))["all"]
    for kind, figures in result["variants"]["kinds"].items():
        assert figures["n"] == evaluation[kind]["n"]
        assert figures["pearson_r"] == pytest.approx(evaluation[kind]["pearson_r"], abs=1e-5)
    assert result["predict"]["pearson_r"] == pytest.approx(evaluation["all"]["pearson_r"], abs=1e-6)
