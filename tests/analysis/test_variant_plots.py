"""Figures of variants along promoters."""

import numpy as np
import pandas as pd
import pytest
from variant_cases import script_main

from modeling_macaron.analysis import variant_plots
from modeling_macaron.analysis.effect_plots import variant_effect_plot
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
