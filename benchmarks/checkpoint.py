"""Measure a checkpoint of this repository, and render its card from the figures.

    python -m benchmarks.checkpoint --table measured_library.parquet --pairs pairs.parquet
    python -m benchmarks.checkpoint --checkpoint checkpoints/macaron-promoter-yeast --table measured_library.parquet \
        --pairs pairs.parquet --train yeast_public.parquet

Scores the folder (of the yeast checkpoint its committed predictions, `PREDICTIONS`), with intervals and ridge
regression beside it. Writes `evaluation.json` and a plot into it, and renders its `README.md` and the README's block
about both checkpoints; of the library's checkpoint, also the repository's `model_card.md`. Without a table it renders
them from the committed figures. The folder's code is replaced by that of the repository.
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
YEAST = ROOT / "checkpoints" / "macaron-promoter-yeast"
PREDICTIONS = ROOT / "benchmarks" / "results" / "yeast" / "dream_test_predictions.parquet"
MODEL_CARD, README = ROOT / "model_card.md", ROOT / "README.md"
BLOCK = "checkpoint"
EVALUATION = "evaluation.json"
SPLIT = "validation"
EXAMPLE = "GTCTGCACATGCTTGCATCCGGGTAAGCCGTACCAGTCTTGACCGATTGCAGCTTAGGCATGACTCACTGAACTCGTACG"
_DATASET = "HuggingFaceBio/random-promoter-dream-2022"


def _is_of_the_library(checkpoint: Path) -> bool:
    """Whether a checkpoint was trained on the measured library, and thus has no score on its other rows."""
    return checkpoint.name != YEAST.name


def measure(checkpoint: Path, table: Path, pairs: Path, train: Path, resamples: int) -> None:
    """Score a checkpoint on rows that it was not trained on, and write the figures and a plot into its folder."""
    split = SPLIT if _is_of_the_library(checkpoint) else None
    with tempfile.TemporaryDirectory() as folder:
        options = EvaluationOptions(baseline_train=train, intervals=resamples, plots=folder, verbose=True)
        output = Path(folder, EVALUATION)
        source = {"model": checkpoint} if split else {"predictions": PREDICTIONS}
        result = evaluate_files(table, output, **source, pairs=pairs, split=split, options=options)
        shutil.copyfile(Path(folder, "all.png"), checkpoint / f"{split or 'test'}.png")
    result["run"] |= {"table": table.name, "pairs": pairs.name, "model": checkpoint.name}
    result["run"].pop("predictions", None)
    result["baseline"]["trained_on"] = train.name
    predictor = Predictor.from_pretrained(checkpoint)
    result["example"] = {"sequence": EXAMPLE, "expression": float(predictor.predict([EXAMPLE])[0])}
    if predictor.config.interval_quantiles:
        _, low, high = (float(values[0]) for values in predictor.predict_intervals([EXAMPLE]))
        result["example"] |= {"expression_low": low, "expression_high": high}
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


def categories(result: dict) -> dict[str, dict]:
    """Figures of each category, without the official scores."""
    return {name: figures for name, figures in result["all"].items() if name in TITLES}


def results_table(result: dict) -> str:
    """Format the categories of a result as Markdown: number, correlations with intervals, ridge, coverage."""
    has_coverage = "coverage_90" in result["all"]["all"]
    rows = [["category", "n", "Pearson r", "Spearman rho", "ridge r", "ridge rho", *["within 90 %"] * has_coverage]]
    for name, figures in categories(result).items():
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
    """Metadata of the Hub, with the figures of each category."""
    is_library = _is_of_the_library(Path(name))
    rows = "designed library, held-out clusters" if is_library else "test set"
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Promoter expression",
            dataset_type=_DATASET,
            dataset_name=f"Random Promoter DREAM Challenge 2022, {rows}",
            dataset_split=SPLIT if is_library else "test",
            metric_type=metric_type,
            metric_name=f"{metric_name}, {TITLES[category].lower()}",
            metric_value=figures[measure],
        )
        for category, figures in categories(result).items()
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
    template = "card_template.md" if _is_of_the_library(checkpoint) else "card_yeast.md"
    return environment.from_string((Path(__file__).parent / template).read_text(encoding="utf-8")).render(
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
        private=result.get("private"),
        without_interval=[
            TITLES[name].lower()
            for name, figures in categories(result).items()
            if figures["pearson_r_interval"][0] is None
        ],
        results=results_table(result),
        training=training_table(facts),
    )


def _megabytes(checkpoint: Path) -> float:
    return (checkpoint / "model.safetensors").stat().st_size / 1e6


def render_summary() -> str:
    """Render the block of the README about both checkpoints."""
    facts, result = _read_figures(YEAST)
    library_facts, library = _read_figures(CHECKPOINT)
    config, folder = MacaronConfig.from_pretrained(YEAST), f"checkpoints/{YEAST.name}"
    sequence, expression = result["example"]["sequence"], result["example"]["expression"]
    standardized = (expression - config.expression_mean) / config.expression_std
    interval = (result["example"][f"expression_{end}"] for end in ("low", "high"))
    low, high = (f"{bound:.2f}" for bound in interval)
    test, ridge = (part["all"]["all"] for part in (result, result["baseline"]))
    return f"""```python
from transformers import pipeline

predict = pipeline("promoter-expression", model="{folder}", trust_remote_code=True)
predict("{sequence}")
# {{'sequence': '{sequence[:8]}...', 'expression': {expression:.3f}, \
'standardized_expression': {standardized:.3f}, 'expression_low': {low}, 'expression_high': {high}}}
```

This checkpoint comes with the repository and needs no network: {facts["parameters"]:,} parameters, \
{_megabytes(YEAST):.1f} MB, trained on {facts["training_rows"]:,} public measurements of 80-nt promoters in yeast. \
`expression` is the mean sorting bin, about 0 to 17, and the bounds are a 90 % prediction interval. \
One run, Pearson r: **{facts["metrics"]["pearson_r"]:.3f}** on {facts["validation_rows"]:,} promoters of other \
clusters (LegNet on the same rows after 9 passes: 0.927), **{test["pearson_r"]:.3f}** on {test["n"]:,} rows of the \
challenge's test set, none of them related to the training rows (ridge regression on k-mers {ridge["pearson_r"]:.3f}; \
Carbon-500M 0.807 on all 71,103; models trained on the challenge's 6.7 million rows up to 0.973). Its \
[card]({folder}/README.md) has the official score, the nine categories with intervals, and the limits.

A second checkpoint, [`macaron-promoter-library`](checkpoints/{CHECKPOINT.name}/README.md), was trained on \
{library_facts["training_rows"]:,} promoters of the challenge's designed library, on the library's own scale \
(validation r {library["all"]["all"]["pearson_r"]:.3f}, single-nucleotide variants \
{library["all"]["SNVs"]["pearson_r"]:.3f}). [`docs/ablation.md`](docs/ablation.md) shows the effect of each of the \
method's ideas.
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
    parser.add_argument("--train", type=Path, help="training rows of ridge regression; default: those of the table")
    args = parse_library(parser, argv)
    refresh_code(args.checkpoint)
    if args.table is not None:
        measure(args.checkpoint, args.table, args.pairs, args.train or args.table, args.resamples)
    cards = {args.checkpoint / "README.md": ""}
    if args.checkpoint.resolve() == CHECKPOINT:
        cards[MODEL_CARD] = f"{CHECKPOINT.relative_to(ROOT).as_posix()}/"
    if args.checkpoint.resolve() in (CHECKPOINT, YEAST):
        replace_block(README, BLOCK, render_summary())
    for path, folder in cards.items():
        with new_file(path) as partial:
            partial.write_text(render_card(args.checkpoint, folder), encoding="utf-8")
    print(f"rendered {' and '.join(path.name for path in cards)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
