"""Figures along a sequence show the given values."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch

from modeling_macaron.analysis.mutagenesis import Mutagenesis, WindowScan
from modeling_macaron.analysis.plots import (
    BASE_COLORS,
    mutagenesis_heatmap,
    mutagenesis_logo,
    sequence_logo,
    window_profile,
)
from modeling_macaron.plots import COLUMN_WIDTH, save_figure


def made(length=50, seed=0):
    """Mutagenesis of a random sequence with an N in the middle."""
    random = np.random.default_rng(seed)
    bases = random.choice(list("ACGT"), length)
    deltas = np.where(bases[:, None] == np.array(list("ACGT")), 0, random.normal(size=(length, 4)))
    bases[length // 2] = "N"
    deltas[length // 2] = 0.25
    return Mutagenesis("".join(bases), 11.0, deltas)


def meshes(figure):
    """Heat map of each line, without the color bar."""
    found = [mesh for axes in figure.axes for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    return [mesh for mesh in found if mesh.get_array().shape[0] == 4]


def test_heatmap_shows_the_deltas():
    result = made(50)
    figure = mutagenesis_heatmap(result, title="Row 7")
    assert figure.get_figwidth() == COLUMN_WIDTH
    shown = meshes(figure)
    assert [mesh.get_array().shape for mesh in shown] == [(4, 40), (4, 10)]
    np.testing.assert_array_equal(np.hstack([mesh.get_array() for mesh in shown]), result.deltas.T)
    largest = np.abs(result.deltas).max()
    for mesh in shown:
        assert (mesh.norm.vmin, mesh.norm.vmax) == pytest.approx((-largest, largest))
        assert mesh.cmap(mesh.norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.05), "0 is white"
    assert figure.axes[0].get_title(loc="left") == "Row 7"
    assert figure.axes[-1].get_xlabel() == "Change of predicted expression (assay units)"


def test_heatmap_writes_the_sequence():
    result = made(50)
    panels = mutagenesis_heatmap(result).axes[:2]
    texts = sorted((*text.get_position(), text.get_text()) for axes in panels for text in axes.texts)
    rows = {"A": 0, "C": 1, "G": 2, "T": 3, "N": 1.5}
    assert texts == [(i, rows[base], base) for i, base in enumerate(result.sequence)]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list("ACGT")
    assert panels[0].get_ylim() == (3.5, -0.5), "A above, T below"


@pytest.mark.parametrize(
    ("result", "limit", "expected"), [(made(20), 2.5, 2.5), (Mutagenesis("ACGT", 0.0, np.zeros((4, 4))), None, 1)]
)
def test_scale_of_heatmaps(result, limit, expected):
    (mesh,) = meshes(mutagenesis_heatmap(result, limit=limit))
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-expected, expected)


def glyphs(axes):
    """Middle, bottom, top and color of each drawn base from left to right."""
    found = []
    for patch in axes.patches:
        assert isinstance(patch, PathPatch)
        box = patch.get_path().get_extents()
        found.append(((box.x0 + box.x1) / 2, box.y0, box.y1, to_hex(patch.get_facecolor()).upper()))
    return sorted(found)


def test_heights_of_a_logo():
    heights = np.array([1.0, -2.0, 0.5, 0.25, 9.0])
    (axes,) = sequence_logo("ACGTN", heights).axes
    shown = glyphs(axes)
    assert [color for *_, color in shown] == [BASE_COLORS[base] for base in "ACGT"], "N is not drawn"
    for position, (height, (middle, bottom, top, _)) in enumerate(zip(heights, shown, strict=False)):
        assert middle == pytest.approx(position, abs=0.05)
        assert (bottom, top) == pytest.approx(sorted((0.0, height)), abs=0.03 * abs(height))
    low, high = axes.get_ylim()
    assert -2.3 < low < -2 and 1 < high < 1.3, "N does not change the scale"


def test_logo_has_one_scale_for_all_lines():
    heights = np.r_[np.full(40, 0.1), np.full(25, -0.7)]
    figure = sequence_logo("A" * 65, heights)
    panels = figure.axes
    assert figure.get_figwidth() == COLUMN_WIDTH
    assert len(panels) == 2
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert [axes.get_xlim() for axes in panels] == [(-0.5, 39.5), (39.5, 79.5)]
    assert [round(middle) for middle, *_ in glyphs(panels[1])] == list(range(40, 65))


def test_height_in_mutagenesis_is_minus_the_mean_delta():
    deltas = np.array([[0, -3, -6, -3.0], [1, 2, 3, 4], [0.5, 0.5, 0, 0.5]])
    (axes,) = mutagenesis_logo(Mutagenesis("ANG", 10.0, deltas)).axes
    (_, bottom, top, color), (_, low, high, other) = glyphs(axes)
    assert (bottom, top, color) == (pytest.approx(0, abs=0.1), pytest.approx(4, rel=0.03), BASE_COLORS["A"])
    assert (low, high, other) == (pytest.approx(-0.5, rel=0.03), pytest.approx(0, abs=0.02), BASE_COLORS["G"])


@pytest.mark.parametrize(("sequence", "heights"), [("", []), ("AC", [1.0]), ("AC", [1.0, np.nan])])
def test_logo_needs_a_height_for_each_base(sequence, heights):
    with pytest.raises(ValueError, match="a finite height for each base"):
        sequence_logo(sequence, np.array(heights))


def test_profile_is_at_the_middle_of_the_windows():
    scan = WindowScan("ACGTACGT", 11.0, 4, np.array([0, 2, 4]), np.array([-1.0, 0.5, 2.0]))
    (axes,) = window_profile(scan).axes
    x, y = max((line.get_data() for line in axes.lines), key=lambda data: len(data[0]))
    np.testing.assert_array_equal(x, [1.5, 3.5, 5.5])
    np.testing.assert_array_equal(y, scan.deltas)
    assert axes.get_xlim() == (-0.5, 7.5)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_figures_are_saved_in_every_format(tmp_path, suffix):
    for name, figure in (("heatmap", mutagenesis_heatmap(made(100))), ("logo", mutagenesis_logo(made(100)))):
        assert save_figure(figure, tmp_path / f"{name}{suffix}").stat().st_size > 1000


def test_ticks_count_positions_from_1():
    axes = sequence_logo("ACGTA" * 11, np.ones(55)).axes
    labels = [[tick.get_text() for tick in one.get_xticklabels()] for one in axes]
    assert labels == [["1", "10", "20", "30", "40"], ["50"]]
    for one, texts in zip(axes, labels, strict=True):
        assert [int(text) - 1 for text in texts] == list(one.get_xticks())
    assert "from 1" in axes[-1].get_xlabel()


def test_limits():
    figures = [mutagenesis_logo(made(50), limit=1.5), sequence_logo("ACGT", np.arange(4.0), limit=1.5)]
    assert all(axes.get_ylim() == (-1.5, 1.5) for figure in figures for axes in figure.axes)
    for limit in (0, -1, np.nan):
        with pytest.raises(ValueError, match="limit must be more than 0"):
            sequence_logo("ACGT", np.arange(4.0), limit=limit)
    with pytest.raises(ValueError, match="limit must be more than 0"):
        mutagenesis_heatmap(made(20), limit=0)
