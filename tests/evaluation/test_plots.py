"""Plots of predicted against measured values, and learning curves."""

import math

import numpy as np
import pytest
from matplotlib.image import imread

from modeling_macaron.evaluation.plots import plot_categories, point_density, scatter_with_density
from modeling_macaron.evaluation.score import score
from modeling_macaron.plots import learning_curves, save_figure
from tests.evaluation.tables import load_tables, make_tables


def test_scatter_plot_of_each_category(tmp_path):
    make_tables(tmp_path)
    predictions, measurements = load_tables(tmp_path)
    files = plot_categories(predictions, measurements, score(predictions, measurements), tmp_path / "plots")
    assert [path.name for path in files] == ["all.png", "random.png", "SNVs.png"]
    for path in files:
        image = imread(path)
        assert image.shape[1] == 670  # one column of 3.35 inches at 200 dpi
        assert image[..., :3].std() > 0.05


def test_correlations_are_written():
    figure = scatter_with_density(np.arange(5.0), np.ones(5), pearson_r=math.nan, spearman_rho=-0.25, title="Five")
    text = figure.axes[0].texts[0].get_text()
    assert "undefined" in text
    assert "\N{MINUS SIGN}0.250" in text
    assert figure.axes[0].get_title(loc="left") == "Five"


def test_density_is_highest_in_the_middle():
    x, y = np.random.default_rng(0).normal(size=(2, 4000))
    density = point_density(x, y)
    distance = np.hypot(x, y)
    assert density[distance < 0.3].min() > density[distance > 2].max() >= 0


def test_learning_curves(tmp_path):
    history = [
        {"loss": 2.0, "epoch": 0.5}, {"loss": 1.0, "epoch": 1.0},
        {"eval_loss": 1.5, "eval_pearson_r": 0.6, "eval_spearman_rho": 0.5, "epoch": 1.0},
        {"eval_loss": 1.2, "eval_pearson_r": 0.7, "eval_spearman_rho": 0.6, "epoch": 2.0},
        {"train_loss": 1.3, "train_runtime": 5.0, "epoch": 2.0},
    ]  # fmt: skip
    losses, correlations = learning_curves(history).axes
    training, validation = losses.lines
    np.testing.assert_array_equal(training.get_xydata(), [[0.5, 2.0], [1.0, 1.0]])
    np.testing.assert_array_equal(validation.get_xydata(), [[1.0, 1.5], [2.0, 1.2]])
    assert "0.700 at epoch 2" in correlations.get_title(loc="right")
    assert len(learning_curves(history[:2]).axes) == 1
    with pytest.raises(ValueError, match="no loss"):
        learning_curves([])
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        assert save_figure(learning_curves(history), tmp_path / f"curves{suffix}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match="not supported"):
        save_figure(learning_curves(history), tmp_path / "curves.doc")
    assert len(list(tmp_path.iterdir())) == 3
