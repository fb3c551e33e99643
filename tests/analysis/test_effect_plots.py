"""Plots of variant effects along a sequence."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from modeling_macaron.analysis.plots import BASE_COLORS, variant_effect_plot


def marks(axes):
    """Position, height and color of the filled and of the open marks."""
    filled, opened = [], []
    for points in axes.collections:
        if hasattr(points, "get_sizes"):
            faces, edges = points.get_facecolors(), points.get_edgecolors()
            target, colors = (filled, faces) if len(faces) else (opened, edges)
            offsets = points.get_offsets()
            target += [(x, y, to_hex(color).upper()) for (x, y), color in zip(offsets.tolist(), colors, strict=False)]
    return sorted(filled), sorted(opened)


def test_marks_of_substitutions():
    figure = variant_effect_plot(
        "ACGT" * 12, [0, 5, 47, 7], ["C", "TT", "A", "T"], [0.5, -1.0, 2.0, 0.1], measured=[0.25, np.nan, 1.5, 0.0]
    )
    first, second = figure.axes
    filled, opened = marks(first)
    assert filled == [(0, 0.5, BASE_COLORS["C"]), (5, -1, "#6E6E6E"), (7, 0.1, BASE_COLORS["T"])]
    assert opened == [(0, 0.25, BASE_COLORS["C"]), (7, 0.0, BASE_COLORS["T"])]
    assert marks(second)[0] == [(47, 2, BASE_COLORS["A"])]
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] < -1 and first.get_ylim()[1] > 2
    assert "".join(text.get_text() for axes in figure.axes for text in axes.texts) == "ACGT" * 12
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "C", "T", "other", "measured"]


def test_marks_of_indels_and_of_bases_at_one_position():
    figure = variant_effect_plot(
        "ACGTACGTAC",
        [2, 2, 2, 4, 7, 10, 8],
        ["A", "C", "T", "", "GG", "T", "TT"],
        [0.1, 0.2, 0.3, -0.5, 0.6, 0.7, 0.8],
        references=["G", "G", "G", "ACG", "", "", "AC"],
    )
    (axes,) = figure.axes
    assert [(round(x, 3), y) for x, y, _ in marks(axes)[0]] == [
        (1.73, 0.1), (1.91, 0.2), (2.27, 0.3), (5, -0.5), (6.5, 0.6), (8.5, 0.8), (9.5, 0.7)
    ]  # fmt: skip
    spans = [segment.tolist() for lines in axes.collections[:2] for segment in lines.get_segments()]
    wide = [[start, end] for start, end in spans if end[0] > start[0]]
    assert wide == [[[4, -0.5], [6, -0.5]], [[8, 0.8], [9, 0.8]]]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["A", "C", "T", "other", "deletion", "insertion"]


@pytest.mark.parametrize(
    ("positions", "references", "deltas", "message"),
    [
        ([3, 4], ["T", ""], [0.1, 0.2], None),
        ([], [], [], "needed for each variant"),
        ([1], ["C"], [0.1, 0.2], "needed for each variant"),
        ([4], ["T"], [0.1], "do not lie in 4 nucleotides"),
        ([5], [""], [0.1], "do not lie in 4 nucleotides"),
        ([3], ["TA"], [0.1], "do not lie in 4 nucleotides"),
        ([-1], [""], [0.1], "do not lie in 4 nucleotides"),
    ],
)
def test_variants_must_lie_in_the_sequence(positions, references, deltas, message):
    def draw():
        return variant_effect_plot("ACGT", positions, ["GG"] * len(positions), deltas, references=references)

    if message is None:
        draw()
    else:
        with pytest.raises(ValueError, match=message):
            draw()
