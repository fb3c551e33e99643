"""Measure a checkpoint of this repository, and render its card from the figures.

    python -m benchmarks.checkpoint --table measured_library.parquet --pairs pairs.parquet

Scores the checkpoint, with intervals, and ridge regression. Writes `evaluation.json` and a plot into the folder and
renders its `README.md`, and `model_card.md` for the committed checkpoint. Without a table it renders the committed
figures. Replaces the folder's code with that of the repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from benchmarks.figures import ROOT, make_parser
from benchmarks.pages import replace_block, table
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.atomic import new_file
from modeling_macaron.evaluation.report import TITLES, write_result
from modeling_macaron.evaluation.score import EvaluationOptions, evaluate_files
from modeling_macaron.predictor import Predictor
from modeling_macaron.training.model_card import TRAINING_FACTS, training_table
from tokenization import KmerTokenizer

CHECKPOINT = ROOT / "checkpoints" / "macaron-promoter-library"
MODEL_CARD, README = ROOT / "model_card.md", ROOT / "README.md"
BLOCK = "checkpoint"
EVALUATION = "evaluation.json"
PLOT = "validation.png"
TEMPLATE = Path(__file__).parent / "card_template.md"
SPLIT = "validation"
EXAMPLE = "GTCTGCACATGCTTGCATCCGGGTAAGCCGTACCAGTCTTGACCGATTGCAGCTTAGGCATGACTCACTGAACTCGTACG"
_DATASET = "HuggingFaceBio/random-promoter-dream-2022"


def measure(checkpoint: Path, table: Path, pairs: Path, resamples: int) -> None:
    """Score a checkpoint on held-out rows and write the figures and a plot into its folder."""
    with tempfile.TemporaryDirectory() as folder:
        options = EvaluationOptions(baseline_train=table, intervals=resamples, plots=folder, verbose=True)
        output = Path(folder, EVALUATION)
        result = evaluate_files(table, output, model=checkpoint, pairs=pairs, split=SPLIT, options=options)
        shutil.copyfile(Path(folder, "all.png"), checkpoint / PLOT)
    result["run"] |= {"table": table.name, "pairs": pairs.name, "model": checkpoint.name}
    result["baseline"]["trained_on"] = table.name
    result["example"] = {
        "sequence": EXAMPLE,
        "expression": float(Predictor.from_pretrained(checkpoint).predict([EXAMPLE])[0]),
    }
    write_result(result, checkpoint / EVALUATION)


def refresh_code(checkpoint: Path) -> None:
    """Replace a checkpoint's code with the files that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        MacaronForExpressionPrediction.from_pretrained(checkpoint).save_pretrained(folder)
        KmerTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
        for path in checkpoint.glob("*.py"):
            path.unlink()
        for path in Path(folder).glob("*.py"):
            shutil.copyfile(path, checkpoint / path.name)


def results_table(result: dict) -> str:
    """Format the categories of a result as Markdown: number, correlations with intervals, ridge, coverage."""
    has_coverage = "coverage_90" in result["all"]["all"]
    rows = [["category", "n", "Pearson r", "Spearman rho", "ridge r", "ridge rho", *["within 90 %"] * has_coverage]]
    for name, figures in result["all"].items():
        cells = [TITLES[name], f"{figures['n']:,}"]
        for measure in ("pearson_r", "spearman_rho"):
            low, high = figures[f"{measure}_interval"]
            interval = "one cluster" if low is None else f"{low:.3f} to {high:.3f}"
            cells.append(f"**{figures[measure]:.3f}** ({interval})")
        ridge = result["baseline"]["all"][name]
        cells += [f"{ridge['pearson_r']:.3f}", f"{ridge['spearman_rho']:.3f}"]
        if has_coverage:
            cells.append(f"{figures['coverage_90']:.1%}" if "coverage_90" in figures else "-")
        rows.append(cells)
    return table(rows, ["---", *["---:"] * (len(rows[0]) - 1)]).rstrip("\n")


def _metadata(name: str, result: dict) -> ModelCardData:
    """Metadata for the Hub, with the figures of each category."""
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Promoter expression",
            dataset_type=_DATASET,
            dataset_name="Random Promoter DREAM Challenge 2022, designed library, held-out clusters",
            dataset_split=SPLIT,
            metric_type=metric_type,
            metric_name=f"{metric_name}, {TITLES[category].lower()}",
            metric_value=figures[measure],
        )
        for category, figures in result["all"].items()
        for measure, metric_type, metric_name in (
            ("pearson_r", "pearsonr", "Pearson r"),
            ("spearman_rho", "spearmanr", "Spearman rho"),
        )
    ]
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["biology", "genomics", "promoter", "gene-expression", "yeast", "macaron"],
        datasets=[_DATASET],
        metrics=["pearsonr", "spearmanr"],
        model_name=name,
        eval_results=results,
    )


def _read_figures(checkpoint: Path) -> tuple[dict, dict]:
    """Read the facts of the training and the result of the evaluation."""
    return tuple(json.loads((checkpoint / name).read_text(encoding="utf-8")) for name in (TRAINING_FACTS, EVALUATION))


def render_card(checkpoint: Path, folder: str = "") -> str:
    """Render the card of a checkpoint from its files. `folder` is a prefix of its pictures' names."""
    facts, result = _read_figures(checkpoint)
    tokenizer = KmerTokenizer.from_pretrained(checkpoint)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=_metadata(checkpoint.name, result).to_yaml(),
        name=checkpoint.name,
        location=f"checkpoints/{checkpoint.name}",
        folder=folder,
        config=MacaronConfig.from_pretrained(checkpoint),
        flank5=tokenizer.flank5,
        flank3=tokenizer.flank3,
        size_mb=f"{_megabytes(checkpoint):.1f}",
        facts=facts,
        example=result["example"]["sequence"],
        example_expression=result["example"]["expression"],
        run=result["run"],
        result=result["all"],
        without_interval=[
            TITLES[name].lower() for name, figures in result["all"].items() if figures["pearson_r_interval"][0] is None
        ],
        results=results_table(result),
        training=training_table(facts),
    )


def _megabytes(checkpoint: Path) -> float:
    return (checkpoint / "model.safetensors").stat().st_size / 1e6


def render_summary(checkpoint: Path) -> str:
    """Render the block of the README about the checkpoint."""
    facts, result = _read_figures(checkpoint)
    config, folder = MacaronConfig.from_pretrained(checkpoint), f"checkpoints/{checkpoint.name}"
    sequence, expression = result["example"]["sequence"], result["example"]["expression"]
    standardized = (expression - config.expression_mean) / config.expression_std
    size, variants = _megabytes(checkpoint), result["all"]["SNVs"]["pearson_r"]
    measured, ridge = (part["all"]["all"]["pearson_r"] for part in (result, result["baseline"]))
    return f"""```python
from transformers import pipeline

predict = pipeline("promoter-expression", model="{folder}", trust_remote_code=True)
predict("{sequence}")
# {{'sequence': '{sequence[:8]}...', 'expression': {expression:.3f}, \
'standardized_expression': {standardized:.3f}}}
```

That checkpoint comes with this repository and needs no network: {facts["parameters"]:,} parameters, {size:.1f} MB, \
trained on {facts["training_rows"]:,} accurately measured yeast promoters of the challenge's designed library. On \
{facts["validation_rows"]:,} promoters of other clusters its Pearson r is **{measured:.3f}** (ridge regression on \
k-mer counts: {ridge:.3f}), and {variants:.3f} for the effects of single-nucleotide variants. Its \
[card]({folder}/README.md) describes the results in the nine categories of the challenge, the data, the training and \
the limits. [`docs/ablation.md`](docs/ablation.md) shows which of the method's ideas matter.
"""


def parse_library(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Add the options that name the measured library, and parse."""
    parser.add_argument("--table", type=Path, help="measured library")
    parser.add_argument("--pairs", type=Path, help="pairs of its rows")
    args = parser.parse_args(argv)
    if (args.table is None) != (args.pairs is None):
        parser.error("give both --table and --pairs, or neither")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure if a table is given, and render."""
    parser = make_parser("checkpoint", __doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder to measure and to render")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap over clusters")
    args = parse_library(parser, argv)
    refresh_code(args.checkpoint)
    if args.table is not None:
        measure(args.checkpoint, args.table, args.pairs, args.resamples)
    cards = {args.checkpoint / "README.md": ""}
    if args.checkpoint.resolve() == CHECKPOINT:
        cards[MODEL_CARD] = f"{CHECKPOINT.relative_to(ROOT).as_posix()}/"
        replace_block(README, BLOCK, render_summary(CHECKPOINT))
    for path, folder in cards.items():
        with new_file(path) as partial:
            partial.write_text(render_card(args.checkpoint, folder), encoding="utf-8")
    print(f"rendered {' and '.join(path.name for path in cards)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
