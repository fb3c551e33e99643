"""Figures of variants along promoters."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from variant_cases import script_main

from modeling_macaron.analysis import variant_plots
from modeling_macaron.analysis.sequence_plots import BASE_COLORS, variant_effect_plot
from modeling_macaron.analysis.variant_plots import VariantPlots, where_they_differ
from modeling_macaron.analysis.variants import variant_effects, variants_file


@pytest.mark.parametrize(
    ("reference", "alternative", "expected"),
    [
        ("ACGT", "TCGT", (0, "T")),
        ("ACGT", "ACGA", (3, "A")),
        ("ACGT", "ATTT", (1, "TT")),
        ("ACGT", "ACGT", (3, "")),
        ("AAAA", "AAA", (3, "indel")),
        ("ACGT", "ACGTT", (3, "indel")),
        ("ACGT", "AGCGT", (1, "indel")),
        ("ACGT", "CGT", (0, "indel")),
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
        "ACGT" * 12, [0, 5, 47, 7], ["C", "indel", "A", "T"], [0.5, -1.0, 2.0, 0.1], measured=[0.25, np.nan, 1.5, 0.0]
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
        ([], [], [], "an effect and an allele are needed for each variant"),
        ([1], ["A"], [0.1, 0.2], "got 1 positions, 1 alleles, 2 effects"),
        ([4], ["A"], [0.1], "positions 4 to 4 do not lie in 4 nucleotides"),
        ([-1], ["A"], [0.1], "do not lie in 4 nucleotides"),
    ],
)
def test_variants_that_cannot_be_drawn(positions, alleles, deltas, message):
    with pytest.raises(ValueError, match=message):
        variant_effect_plot("ACGT", np.array(positions), alleles, np.array(deltas))


def table_of(path, promoters=3):
    """Two variants of each promoter, the first with flanks that are cut and one that has no effect."""
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
        "modeling_macaron.analysis.sequence_plots.variant_effect_plot",
        lambda *arguments, **options: drawn.append(arguments) or variant_effect_plot(*arguments, **options),
    )
    options = {"plots": tmp_path / "plots", "num_plots": 4, "batch_size": 1}
    result = variants_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "out.tsv", **options)
    assert result.num_problems == 3
    assert [(sequence, positions, alleles) for sequence, positions, alleles, _ in drawn] == [
        ("ACGTACGTAA", (1, 9), ("G", "G")),
        ("ACGTACGTAC", (1, 9), ("G", "G")),
        ("ACGTACGTAG", (1, 9), ("G", "")),
        ("TTTTCC", (0,), ("A",)),
    ]
    expected = variant_effects(tiny_folder, ["TTTTCC"], ["ATTTCC"]).delta
    np.testing.assert_allclose(drawn[-1][3], expected, rtol=1e-5)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [f"promoter_{i}.png" for i in (1, 2, 3, 4)]
    with pytest.raises(FileExistsError, match="holds figures already"):
        variants_file(tiny_folder, tmp_path / "in.tsv", tmp_path / "again.tsv", **options)
    assert not (tmp_path / "again.tsv").exists()


def test_number_of_figures_and_variants_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(variant_plots, "MAX_VARIANTS", 2)
    plots = VariantPlots(tmp_path, 1, overwrite=False)
    plots.add(["AAAA"] * 3 + ["CCCC"], ["CAAA", "ACAA", "AACA", "CCCA"], np.arange(4.0))
    assert plots._effects == {"AAAA": [(0, "C", 0.0), (1, "C", 1.0)]}


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
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["promoter_1.png"]
