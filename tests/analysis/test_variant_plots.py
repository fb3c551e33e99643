"""Figures of variants along promoters."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from variant_cases import script_main

from modeling_macaron.analysis import variant_plots
from modeling_macaron.analysis.effect_plots import variant_effect_plot
from modeling_macaron.analysis.sequence_plots import BASE_COLORS
from modeling_macaron.analysis.variant_plots import VariantPlots, where_they_differ
from modeling_macaron.analysis.variants import variant_effects, variants_file


@pytest.mark.parametrize(
    ("reference", "alternative", "expected"),
    [
        ("ACGT", "TCGT", (0, "A", "T")),
        ("ACGT", "ACGA", (3, "T", "A")),
        ("ACGT", "ATTT", (1, "CG", "TT")),
        ("ACGT", "ACGT", (4, "", "")),
        ("AAAA", "AAA", (3, "A", "")),
        ("ACGT", "ACGTT", (4, "", "T")),
        ("ACGT", "AGCGT", (1, "", "G")),
        ("ACGT", "CGT", (0, "A", "")),
        ("ACGT", "ATTTT", (1, "CG", "TTT")),
    ],
)
def test_where_two_sequences_differ(reference, alternative, expected):
    assert where_they_differ(reference, alternative) == expected


def marks(axes):
    """Position, height and colour of what is drawn as filled and as open marks."""
    filled, opened = [], []
    for points in axes.collections:
        offsets, faces = np.ma.filled(points.get_offsets(), np.nan), points.get_facecolors()
        if points.get_paths() and hasattr(points, "get_sizes"):
            edges = points.get_edgecolors()
            for i, (x, y) in enumerate(offsets):
                target, colors = (filled, faces) if len(faces) else (opened, edges)
                target.append((float(x), float(y), to_hex(colors[i % len(colors)]).upper()))
    return sorted(filled), sorted(opened)


def test_marks_stand_where_the_variants_are():
    figure = variant_effect_plot(
        "ACGT" * 12, [0, 5, 47, 7], ["C", "TT", "A", "T"], [0.5, -1.0, 2.0, 0.1], measured=[0.25, np.nan, 1.5, 0.0]
    )
    first, second = figure.axes
    filled, opened = marks(first)
    other = "#6E6E6E"
    assert filled == [(0, 0.5, BASE_COLORS["C"]), (5, -1, other), (7, 0.1, BASE_COLORS["T"])]
    assert [mark for mark in opened if np.isfinite(mark[1])] == [
        (0, 0.25, BASE_COLORS["C"]),
        (7, 0.0, BASE_COLORS["T"]),
    ]
    assert marks(second)[0] == [(47, 2, BASE_COLORS["A"])]
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] < -1 and first.get_ylim()[1] > 2
    assert "".join(text.get_text() for axes in figure.axes for text in axes.texts) == "ACGT" * 12
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "C", "T", "other", "measured"]


@pytest.mark.parametrize(
    ("positions", "alleles", "deltas", "message"),
    [
        ([], [], [], "an effect and alleles are needed for each variant"),
        ([1], ["A"], [0.1, 0.2], "1 positions, 1 reference and 1 alternative alleles, 2 effects"),
        ([4], ["A"], [0.1], "positions 4 to 4 do not lie in 4 nucleotides"),
        ([-1], ["A"], [0.1], "do not lie in 4 nucleotides"),
    ],
)
def test_variants_that_cannot_be_drawn(positions, alleles, deltas, message):
    with pytest.raises(ValueError, match=message):
        variant_effect_plot("ACGT", np.array(positions), alleles, np.array(deltas))


def table_of(path, promoters=3):
    """Two variants of each promoter, the first with the same base put for itself, and one with flanks that are cut."""
    rows = []
    for index in range(promoters):
        reference = "ACGTACGTA" + "ACGT"[index]
        rows += [(reference, 2, "C", "G"), (reference, 10, "ACGT"[index], "G"), (reference, 1, "T", "A")]
    rows.append(("ACCA" + "TTTTCC" + "GGT", 5, "T", "A"))
    pd.DataFrame(rows, columns=["sequence", "position", "ref", "alt"]).to_csv(path, sep="\t", index=False)


def test_first_promoters_of_a_table_are_drawn(tiny_folder, tmp_path, monkeypatch):
    table_of(tmp_path / "in.tsv")
    drawn = []
    monkeypatch.setattr(
        "modeling_macaron.analysis.effect_plots.variant_effect_plot",
        lambda *arguments, **options: drawn.append(arguments) or variant_effect_plot(*arguments, **options),
    )
    options = {"plots": tmp_path / "plots", "num_plots": 4, "batch_size": 1}
    result = variants_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.tsv", **options)
    assert result.num_problems == 4  # three other reference bases, one base put for itself
    assert [(sequence, positions, alleles) for sequence, positions, alleles, _ in drawn] == [
        ("ACGTACGTAA", (1, 9), ("G", "G")),
        ("ACGTACGTAC", (1, 9), ("G", "G")),
        ("ACGTACGTAG", (1,), ("G",)),
        ("TTTTCC", (0,), ("A",)),
    ]
    expected = variant_effects(tiny_folder, ["TTTTCC"], ["ATTTCC"]).delta
    np.testing.assert_allclose(drawn[-1][3], expected, rtol=1e-5)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        f"promoter_{i}_variants.png" for i in (1, 2, 3, 4)
    ]
    with pytest.raises(FileExistsError, match="holds figures already"):
        variants_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "again.tsv", **options)
    assert not (tmp_path / "again.tsv").exists()


def test_number_of_figures_and_variants_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(variant_plots, "MAX_VARIANTS", 2)
    plots = VariantPlots(tmp_path, 1)
    plots.add(["AAAA"] * 3 + ["CCCC"], ["CAAA", "ACAA", "AACA", "CCCA"], np.arange(4.0), [""] * 4)
    assert plots._effects == {"AAAA": [((0, "A", "C"), 0.0), ((1, "A", "C"), 1.0)]}


def test_script_draws(tiny_folder, tmp_path):
    table_of(tmp_path / "in.tsv")
    arguments = [
        tiny_folder,
        tmp_path / "in.tsv",
        tmp_path / "out.csv",
        "--plots",
        tmp_path / "plots",
        "--num_plots",
        1,
    ]
    script_main()([str(argument) for argument in arguments])
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["promoter_1_variants.png"]


def test_indels_have_marks_and_bases_at_one_position_stand_apart():
    figure = variant_effect_plot(
        "ACGTACGTAC",
        [2, 2, 2, 4, 7, 10, 8],
        ["A", "C", "T", "", "GG", "T", "TT"],
        [0.1, 0.2, 0.3, -0.5, 0.6, 0.7, 0.8],
        references=["G", "G", "G", "ACG", "", "", "AC"],
    )
    (axes,) = figure.axes
    filled, _ = marks(axes)
    assert [(round(x, 3), y) for x, y, _ in filled] == [
        (1.73, 0.1), (1.91, 0.2), (2.27, 0.3), (5, -0.5), (6.5, 0.6), (8.5, 0.8), (9.5, 0.7)
    ]  # fmt: skip
    lines = [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]
    spans = [line for line in lines if len(line[0]) == 2 and line[0][0] != 0]
    assert spans == [([4, 6], [-0.5, -0.5]), ([8, 9], [0.8, 0.8])], "what is taken away"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["A", "C", "T", "other", "deletion", "insertion"]


@pytest.mark.parametrize(
    ("position", "removed", "fits"), [(3, "T", True), (4, "", True), (5, "", False), (3, "TA", False), (-1, "", False)]
)
def test_variants_must_lie_in_the_sequence(position, removed, fits):
    def draw():
        return variant_effect_plot("ACGT", [position], ["GG"], [0.5], references=[removed])

    if fits:
        draw()
    else:
        with pytest.raises(ValueError, match="do not lie in 4 nucleotides"):
            draw()
