"""Tables of simulated measurements."""

import numpy as np
import pandas as pd

from modeling_macaron.evaluation.measurements import load_measurements, read_predictions


def make_tables(folder):
    """Write `table`, `pairs` and `predictions` (.parquet); the expression is the GC content."""
    random, rows = np.random.default_rng(0), 60
    sequences = ["".join(random.choice(list("ACGT"), 80, p=p)) for p in random.dirichlet([2, 2, 2, 2], rows)]
    activity = np.array([(s.count("G") + s.count("C")) / 80 for s in sequences])
    table = pd.DataFrame({
        "row_id": np.arange(rows)[::-1] * 10, "sequence": sequences, "activity": activity,
        "random": random.random(rows) < 0.5, "leaderboard_public": random.random(rows) < 0.3,
        "split": np.where(np.arange(rows) < rows // 2, "train", "validation"), "family": np.arange(rows) // 3,
    })  # fmt: skip
    alt = random.integers(0, rows, 40)
    ref = 3 * (alt // 3) + random.integers(0, 3, 40)  # from the same family
    pairs = pd.DataFrame(
        {"kind": "SNVs", "alt_row_id": (59 - alt) * 10, "ref_row_id": (59 - ref) * 10, "public": alt < 10}
    )
    predictions = pd.DataFrame({"row_id": table["row_id"], "prediction": activity + random.normal(0, 0.05, rows)})
    predictions = predictions.sample(frac=1, random_state=0)
    frames = {"table": table, "pairs": pairs, "predictions": predictions}
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet")
    return frames


def load_tables(folder, split=None, suffix=".parquet"):
    """Predictions (rows,) and `Measurements`."""
    measurements = load_measurements(folder / f"table{suffix}", folder / f"pairs{suffix}", split=split)
    predictions, _ = read_predictions(folder / f"predictions{suffix}", measurements.rows["row_id"])
    return predictions, measurements
