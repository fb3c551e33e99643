"""Run every command with the repository's checkpoint on held-out promoters of the library.

    python -m benchmarks.tour --table measured_library.parquet --pairs pairs.parquet

Runs the commands on split `validation` and compares predicted with measured differences. Draws figures into
`docs/tour/`, writes `results/tour/library.json` and renders the tour of `README.md`. Without a table it renders the
committed results.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.checkpoint import CHECKPOINT, README, SPLIT, parse_library
from benchmarks.figures import RESULTS, ROOT, describe_machine, make_parser, run_script, write_json
from benchmarks.pages import replace_block, table
from modeling_macaron.analysis.plots import variant_effect_plot
from modeling_macaron.dna import encode_sequences, spell, variable_parts, where_they_differ
from modeling_macaron.evaluation.plots import scatter_with_density
from modeling_macaron.evaluation.report import TITLES
from modeling_macaron.plots import save_figure
from tokenization import KmerTokenizer

FIGURES = ROOT / "docs" / "tour"
RESULT = RESULTS / "tour" / "library.json"
BLOCK = "tour"
NUM_DESIGNED = 20
MAX_EDITS = 5
SUBSTITUTIONS = "SNVs"


class Tour(NamedTuple):
    """Where a tour reads and writes."""

    checkpoint: Path
    work: Path  # inputs and outputs of the command lines
    figures: Path

    def run(self, script: str, *arguments: str) -> dict:
        """Run a command in the working folder. Returns the command and its seconds with Python's start."""
        seconds, _ = run_script(script, self.checkpoint.resolve(), *arguments, folder=self.work)
        shown = f"python scripts/{script}.py checkpoints/{self.checkpoint.name} {' '.join(arguments)}"
        return {"command": shown, "seconds": seconds}


def variant_table(library: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Collect the pairs within a library and their measured differences."""
    rows = library.set_index("row_id")
    pairs = pairs[pairs.alt_row_id.isin(rows.index) & pairs.ref_row_id.isin(rows.index)]
    references, alternatives = rows.loc[pairs.ref_row_id], rows.loc[pairs.alt_row_id]
    return pd.DataFrame({
        "kind": pairs.kind.to_numpy(),
        "reference_sequence": references.sequence.to_numpy(),
        "alternative_sequence": alternatives.sequence.to_numpy(),
        "measured_delta": alternatives.activity.to_numpy() - references.activity.to_numpy(),
    })  # fmt: skip


def predict_promoters(tour: Tour, library: pd.DataFrame) -> dict:
    """Predict all promoters of a library."""
    library[["row_id", "sequence", "activity"]].to_csv(tour.work / "library.tsv", sep="\t", index=False)
    facts = tour.run("predict", "library.tsv", "predictions.parquet")
    rows = pd.read_parquet(tour.work / "predictions.parquet")
    return facts | {"rows": len(rows), "pearson_r": rows.predicted_expression.corr(rows.activity.astype(float))}


def score_variants(tour: Tour, variants: pd.DataFrame) -> dict:
    """Predict pairs, correlate predicted with measured differences, and draw the single substitutions."""
    variants.to_parquet(tour.work / "substitutions_and_motifs.parquet")
    facts = tour.run("variants", "substitutions_and_motifs.parquet", "effects.parquet")
    effects = pd.read_parquet(tour.work / "effects.parquet")
    kinds = {
        kind: {
            "n": len(some),
            "pearson_r": some.delta.corr(some.measured_delta),
            "spearman_rho": some.delta.corr(some.measured_delta, method="spearman"),
        }
        for kind, some in effects.groupby("kind", sort=False)
    }
    substitutions = effects[effects.kind == SUBSTITUTIONS]
    measures = {name: kinds[SUBSTITUTIONS][name] for name in ("pearson_r", "spearman_rho")}
    figure = scatter_with_density(
        substitutions.measured_delta, substitutions.delta, **measures, title="Single substitutions", zero_lines=True,
        xlabel="Measured change of expression", ylabel="Predicted change",
    )  # fmt: skip
    save_figure(figure, tour.figures / "substitutions.png")
    _draw_one_promoter(tour, substitutions)
    return facts | {"rows": len(variants), "kinds": kinds}


def _draw_one_promoter(tour: Tour, substitutions: pd.DataFrame) -> None:
    """Draw predicted and measured effects along the promoter with most substitutions. Writes it for `mutate`."""
    reference = substitutions.reference_sequence.value_counts().idxmax()
    some = substitutions[substitutions.reference_sequence == reference]
    texts = [reference, *some.alternative_sequence]
    tokenizer = KmerTokenizer.from_pretrained(tour.checkpoint)
    reference, *alternatives = map(spell, variable_parts(encode_sequences(tokenizer, texts)))
    positions, removed, inserted = zip(*(where_they_differ(reference, other) for other in alternatives), strict=True)
    figure = variant_effect_plot(
        reference, positions, inserted, some.delta, references=removed, measured=some.measured_delta,
        title="Substitutions of one promoter",
    )  # fmt: skip
    save_figure(figure, tour.figures / "variants.png")
    (tour.work / "promoter.fa").write_text(f">promoter\n{reference}\n", encoding="utf-8")


def mutate(tour: Tour) -> dict:
    """Mutate the promoter that `score_variants` drew."""
    facts = tour.run("mutagenesis", "promoter.fa", "mutants.parquet", "--plots", "plots")
    for name in ("heatmap", "logo"):
        shutil.copyfile(tour.work / "plots" / f"row_1_{name}.png", tour.figures / f"{name}.png")
    return facts | {"mutants": len(pd.read_parquet(tour.work / "mutants.parquet"))}


def attribute(tour: Tour) -> dict:
    """Attribute the expression of the same promoter to its bases."""
    facts = tour.run("attribution", "promoter.fa", "attributions.parquet", "--plots", "logos")
    lines = pd.read_parquet(tour.work / "attributions.parquet")
    mutants = pd.read_parquet(tour.work / "mutants.parquet")
    importance = -mutants.groupby("position").delta.mean().reset_index(drop=True)
    difference = lines.predicted_expression[0] - lines.predicted_baseline[0]
    return facts | {
        "bases": len(lines),
        "completeness_error": abs(float(lines.attribution.sum() / difference) - 1),
        "pearson_r_with_mutants": lines.attribution.corr(importance),
    }


def design_promoters(tour: Tour, library: pd.DataFrame, training: pd.DataFrame) -> dict:
    """Raise the expression of some promoters by a few substitutions."""
    starts = library.iloc[np.linspace(0, len(library) - 1, NUM_DESIGNED).astype(int)]
    starts[["row_id", "sequence"]].to_csv(tour.work / "starts.tsv", sep="\t", index=False)
    training[["sequence"]].to_csv(tour.work / "training.tsv", sep="\t", index=False)
    facts = tour.run(
        "design", "designs.tsv", "--starts", "starts.tsv", "--target", "higher", "--max_edits", str(MAX_EDITS),
        "--forbid", "GAATTC", "--training", "training.tsv",
    )  # fmt: skip
    designs = pd.read_csv(tour.work / "designs.tsv", sep="\t")
    gain = (designs.expression - designs.start_expression).median()
    return facts | {
        "rows": len(starts), "median_gain": float(gain), "out_of_range": int(designs.out_of_range.sum()),
    }  # fmt: skip


def take_tour(tour: Tour, table: Path, pairs: Path) -> dict:
    """Run all commands. Returns the command, seconds and figures of each."""
    frame = pd.read_parquet(table)
    library, training = frame[frame.split == SPLIT], frame[frame.split == "train"]
    return {
        "checkpoint": tour.checkpoint.name,
        "weights": weights_of(tour.checkpoint),
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.tour --table {table.name} --pairs {pairs.name}",
        "machine": describe_machine(),
        "predict": predict_promoters(tour, library),
        "variants": score_variants(tour, variant_table(library, pd.read_parquet(pairs))),
        "mutagenesis": mutate(tour),
        "attribution": attribute(tour),
        "design": design_promoters(tour, library, training),
        "export": tour.run("export_onnx", "promoter.onnx")
        | {"size_mb": (tour.work / "promoter.onnx").stat().st_size / 1e6},
    }


def weights_of(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weights."""
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


def render_tour(result: dict) -> str:
    """Render the tour of the README as Markdown."""
    kinds = "; ".join(
        f"{TITLES[kind].lower()} ({figures['n']:,}) r {figures['pearson_r']:.3f}, rho {figures['spearman_rho']:.3f}"
        for kind, figures in result["variants"]["kinds"].items()
    )
    designed, attributed = result["design"], result["attribution"]
    came_out = {
        "predict": f"{result['predict']['rows']:,} promoters, r {result['predict']['pearson_r']:.3f}",
        "variants": f"predicted against measured differences: {kinds}",
        "mutagenesis": f"{result['mutagenesis']['mutants']:,} mutants of one promoter, heat map and logo",
        "attribution": f"integrated gradients of its {attributed['bases']} bases and their logo; their sum misses the "
        f"difference from the baseline by {attributed['completeness_error']:.1%}; r "
        f"{attributed['pearson_r_with_mutants']:.2f} with the mean effect of the mutants",
        "design": f"{designed['rows']} promoters, at most {MAX_EDITS} edits each: {designed['median_gain']:+.2f} "
        f"predicted in the median; {designed['out_of_range']} beyond the range of the training data",
        "export": f"{result['export']['size_mb']:.1f} MB",
    }
    rows = [[f"`{result[name]['command']}`", text, f"{result[name]['seconds']:.0f}"] for name, text in came_out.items()]
    folder = FIGURES.relative_to(ROOT).as_posix()
    return (
        f"Promoters of the challenge's library from clusters that the checkpoint was not trained on (split `{SPLIT}`), "
        f"on {result['machine']['name']}, Python's start included:\n\n"
        + table([["command", "result", "seconds"], *rows], ["---", "---", "---:"])
        + "\n| | |\n| --- | --- |\n"
        f"| ![Predicted against measured changes by single substitutions]({folder}/substitutions.png) "
        f"| ![Predicted and measured effects along one promoter]({folder}/variants.png) |\n"
        f"| ![Heat map of all substitutions of the same promoter]({folder}/heatmap.png) "
        f"| ![Logo of the same promoter]({folder}/logo.png) |\n\n"
        "Top left: all substitutions with measured effects. The other three show the promoter that has most of them "
        f"(open circles: measured). Made by `{result['command']}`.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Take the tour if a table is given, and render it."""
    parser = make_parser("tour", __doc__)
    args = parse_library(parser, argv)
    if args.table is not None:
        with tempfile.TemporaryDirectory() as work:
            write_json(take_tour(Tour(CHECKPOINT, Path(work), FIGURES), args.table, args.pairs), RESULT)
    replace_block(README, BLOCK, render_tour(json.loads(RESULT.read_text(encoding="utf-8"))))
    print(f"rendered {README.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
