"""How training would scale over GPUs, from step times measured on one and the bytes of an all-reduce.

Rendered into `docs/reliability.md` by `python -m benchmarks.reliability`; nothing of it was measured on several GPUs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.figures import RESULTS
from benchmarks.pages import table
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction

MEASURED = RESULTS / "nvidia-h200.json"
GLOBAL_BATCH = 512
NVLINK, FABRIC, ETHERNET = 450e9, 400e9, 12.5e9  # bytes/s out of a GPU; out of a node of 8: 8 x 400 Gb/s, 100 Gb/s
SETTINGS = ((1, NVLINK), (4, NVLINK), (8, NVLINK), (64, FABRIC), (64, ETHERNET))
LINKS = {NVLINK: "NVLink, 450 GB/s", FABRIC: "nodes of 8, 400 GB/s", ETHERNET: "nodes of 8, 12.5 GB/s"}
BACKWARD = 2 / 3  # share of a step's arithmetic, behind which the all-reduce can hide
PAPER_ROWS, PAPER_EPOCHS = 6_739_258, 20


class Step(NamedTuple):
    """One optimizer step of data-parallel training.

    Attributes
    ----------
    gpus : int
        Number of GPUs.
    link : float
        Slowest link of the ring, in bytes/s.
    batch_size : int
        Sequences of each GPU.
    compute_s : float
        Seconds of the step on one GPU, measured.
    all_reduce_s : float
        Seconds of the exchange of all gradients in a ring.
    """

    gpus: int
    link: float
    batch_size: int
    compute_s: float
    all_reduce_s: float

    @property
    def seconds(self) -> float:
        """Seconds of the step, of which the exchange hides as much as it can behind the backward pass."""
        return self.compute_s + max(0.0, self.all_reduce_s - BACKWARD * self.compute_s)

    @property
    def sequences_per_s(self) -> float:
        """Sequences of all GPUs in a second."""
        return self.gpus * self.batch_size / self.seconds


def gradient_bytes() -> int:
    """Count the bytes of the float32 gradients of the paper's model."""
    with torch.device("meta"):
        return 4 * MacaronForExpressionPrediction(MacaronConfig()).num_parameters()


def steps(report: dict, grows: bool) -> list[Step]:
    """Compute a step for each number of GPUs.

    Parameters
    ----------
    report : dict
        Results of `benchmarks.gpu` with compiled training steps of the plain model.
    grows : bool
        Whether each GPU takes the whole batch, so that it grows with their number; else they share it.

    Returns
    -------
    list of Step
        In the order of `SETTINGS`.
    """
    measured = {
        row["batch_size"]: row["ms"] / 1e3
        for row in report["tables"]["train"]
        if row["compiled"] and row["projections"] == "separate" and row["ms"]
    }
    found = []
    for gpus, link in SETTINGS:
        batch_size = GLOBAL_BATCH if grows else GLOBAL_BATCH // gpus
        exchange = 2 * (gpus - 1) / gpus * gradient_bytes() / link
        found.append(Step(gpus, link, batch_size, measured[batch_size], exchange))
    return found


def render_scaling(path: Path = MEASURED) -> str:
    """Tabulate both ways to use more GPUs.

    Parameters
    ----------
    path : Path
        Results of `benchmarks.gpu`, see `steps`.

    Returns
    -------
    str
        Markdown.
    """
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for grows in (False, True):
        computed = steps(report, grows)
        for step in computed:
            if grows and step.gpus == 1:
                continue
            gain = step.sequences_per_s / computed[0].sequences_per_s
            hours = PAPER_ROWS * PAPER_EPOCHS / step.sequences_per_s / 3600
            rows.append([
                f"{step.gpus} x {step.batch_size}", LINKS[step.link] if step.gpus > 1 else "",
                f"{1e3 * step.compute_s:.1f} ms", f"{1e3 * step.all_reduce_s:.1f} ms", f"{1e3 * step.seconds:.1f} ms",
                f"{step.sequences_per_s:,.0f}", f"{gain:.1f} x", f"{hours:.1f} h",
            ])  # fmt: skip
    names = ["GPUs x sequences", "slowest link", "step on one GPU", "all-reduce", "step", "sequences/s", "gain",
             f"{PAPER_EPOCHS} epochs of {PAPER_ROWS:,}"]  # fmt: skip
    (plain,) = [
        row["ms"]
        for row in report["tables"]["train"]
        if not row["compiled"] and row["projections"] == "separate" and row["batch_size"] == 128
    ]
    machine = report["machine"]
    versions = f"torch {machine['versions']['torch']}, bf16 autocast, compiled"
    return (
        table(names, rows)
        + f"\nSteps measured on one {machine['name']} ({versions}, {report['date']}). Not compiled, as "
        f"`configs/paper_4gpu.yaml` leaves it, 128 sequences took {plain:.1f} ms.\n"
    )
