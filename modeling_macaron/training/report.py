"""Count what becomes of the rows of a promoter table, and tell it."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter, defaultdict
from importlib.metadata import version

import numpy as np

from modeling_macaron.tables import PromoterTable
from modeling_macaron.training.rows import REASONS, TOO_LONG, EncodedRows
from tokenization import KmerTokenizer

SPLITS = ("train", "validation", "test")
MALFORMED = "wrong number of columns"
_MAX_REMEMBERED = 10
_HISTOGRAM_BINS = 50
_LIBRARIES = ("datasets", "numpy", "pyarrow", "transformers")


class Tally:
    """What became of the rows of a table so far: 12 bytes of memory for each row that is kept.

    Attributes
    ----------
    reasons : collections.Counter
        Rows by index into `REASONS`; 0 counts the rows that are kept.
    lengths : collections.Counter
        Rows by length of the variable part, of the rows kept or dropped for their length.
    trimmed : int
        Rows of which the flanks were cut.
    first_refused : list of (int, str, str)
        Number, reason and detail of the first rows that were refused.
    """

    def __init__(self) -> None:
        self.reasons: Counter[int] = Counter()
        self.lengths: Counter[int] = Counter()
        self.trimmed = 0
        self.first_refused: list[tuple[int, str, str]] = []
        self._hashes: defaultdict[str, list[np.ndarray]] = defaultdict(list)
        self._labels: defaultdict[str, list[np.ndarray]] = defaultdict(list)

    @property
    def room_for_refused(self) -> int:
        """How many more rows `first_refused` has room for."""
        return _MAX_REMEMBERED - len(self.first_refused)

    def add_read(self, rows: EncodedRows) -> None:
        """Count rows that were read."""
        for counter, values in (
            (self.reasons, rows.reasons),
            (self.lengths, rows.lengths[(rows.reasons == 0) | (rows.reasons == TOO_LONG)]),
        ):
            keys, counts = np.unique(values, return_counts=True)
            counter.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
        self.trimmed += int(np.count_nonzero(rows.trimmed))

    def add_kept(self, split: str, hashes: np.ndarray, labels: np.ndarray) -> None:
        """Count rows that were stored, by their hashes (rows,) uint64 and labels (rows,) float32."""
        if len(hashes):
            self._hashes[split].append(hashes)
            self._labels[split].append(labels)

    def hashes(self, split: str) -> np.ndarray:
        """Hashes (rows,) uint64 of a split."""
        return np.concatenate(self._hashes[split] or [np.zeros(0, np.uint64)])

    def labels(self, split: str) -> np.ndarray:
        """Labels (rows,) float32 of a split."""
        return np.concatenate(self._labels[split] or [np.zeros(0, np.float32)])


def build_report(table: PromoterTable, tally: Tally, tokenizer: KmerTokenizer, settings: dict) -> dict:
    """Sum up a table that was read to its end.

    Parameters
    ----------
    table : PromoterTable
        The source.
    tally : Tally
        What became of its rows.
    tokenizer : KmerTokenizer
        How sequences were trimmed and padded.
    settings : dict
        `seed` and `validation_fraction` of the split.

    Returns
    -------
    dict
        Fit for JSON. `rows_read` is the sum of `rows_kept`, `rows_dropped_for_length` and `rows_refused`.

    Raises
    ------
    ValueError
        If no row is left, the split for training or validation is empty, or all training values are equal.
    """
    refused = Counter({REASONS[index]: count for index, count in tally.reasons.items() if index not in (0, TOO_LONG)})
    if table.num_malformed:
        refused[MALFORMED] = table.num_malformed
    first = sorted([*tally.first_refused, *((number, MALFORMED, text) for number, text in table.malformed)])
    report = {
        "source": _describe_source(table),
        "rows_read": sum(tally.reasons.values()) + table.num_malformed,
        "rows_kept": tally.reasons[0],
        "rows_dropped_for_length": tally.reasons[TOO_LONG],
        "rows_refused": sum(refused.values()),
        "refused": dict(refused.most_common()),
        "first_refused": [
            {table.unit: number, "reason": reason, "detail": detail}
            for number, reason, detail in first[:_MAX_REMEMBERED]
        ],
        "rows_trimmed": tally.trimmed,
        "length_histogram": {str(length): tally.lengths[length] for length in sorted(tally.lengths)},
        "tokenizer": {
            name: getattr(tokenizer, name) for name in ("kmer_size", "strand_length", "flank5", "flank3", "trimming")
        },
        **settings,
    }
    _check_split_sizes(report, table, tally)
    return report | _describe_kept(tally, table.path) | {"versions": _versions()}


def _describe_source(table: PromoterTable) -> dict:
    return {
        "name": table.path,
        "unit": table.unit,
        "columns": {role: name for role, name in table.columns._asdict().items() if name is not None},
        "columns_found_by": table.columns_found_by,
        **table.details,
    }


def _check_split_sizes(report: dict, table: PromoterTable, tally: Tally) -> None:
    """Refuse a data set that nothing can be trained on."""
    if not report["rows_kept"]:
        limit = report["tokenizer"]["strand_length"]
        reasons = {f"longer than strand_length {limit}": report["rows_dropped_for_length"]} | report["refused"]
        told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        first = report["first_refused"][:1]
        example = f"; first: {table.unit} {first[0][table.unit]}, {first[0]['detail']}" if first else ""
        raise ValueError(f"{table.path}: no row is left of {report['rows_read']:,} ({told or 'no rows'}){example}")
    for split in SPLITS[:2]:
        if not len(tally.labels(split)):
            column = table.columns.split
            advice = "pass another --validation_fraction" if column is None else f"look at its column {column!r}"
            raise ValueError(
                f"{table.path}: none of the {report['rows_kept']:,} rows kept is in the {split} split; {advice}"
            )


def _describe_kept(tally: Tally, path: str) -> dict:
    """Describe splits, duplicates and values of the rows kept."""
    labels = {split: tally.labels(split) for split in SPLITS}
    hashes = {split: tally.hashes(split) for split in SPLITS}
    mean, std = (float(function(labels["train"], dtype=np.float64)) for function in (np.mean, np.std))
    if std == 0:
        raise ValueError(f"{path}: all training rows have the same value, {mean}: there is nothing to learn")
    counts, edges = np.histogram(np.concatenate(list(labels.values())), bins=_HISTOGRAM_BINS)
    return {
        "splits": {
            split: {"rows": len(labels[split]), "fingerprint": _fingerprint(hashes[split], labels[split])}
            for split in SPLITS
            if len(labels[split])
        },
        "duplicates": _count_duplicates(hashes),
        "expression_mean": mean,
        "expression_std": std,
        "value_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _count_duplicates(hashes: dict[str, np.ndarray]) -> dict[str, int]:
    """Count equal sequences, by sorting: at full scale `np.unique` and `np.isin` take several times as long."""
    everything = np.concatenate(list(hashes.values()))
    everything.sort()
    train = np.sort(hashes["train"])
    held_out = np.concatenate([hashes["validation"], hashes["test"]])
    nearest = train[np.minimum(np.searchsorted(train, held_out), len(train) - 1)]
    return {
        "rows_repeating_an_earlier_sequence": int(np.count_nonzero(everything[1:] == everything[:-1])),
        "held_out_rows_seen_in_training": int(np.count_nonzero(nearest == held_out)),
    }


def _fingerprint(hashes: np.ndarray, labels: np.ndarray) -> str:
    """Name of the contents, by which `datasets` knows what it has computed before."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(hashes)
    digest.update(labels)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def format_report(report: dict) -> str:
    """Lay out the figures of a report for people.

    Parameters
    ----------
    report : dict
        What `build_report` gives.

    Returns
    -------
    str
        A few lines without a newline at the end.
    """
    source, tokenizer = report["source"], report["tokenizer"]
    splits = " + ".join(f"{split} {about['rows']:,}" for split, about in report["splits"].items())
    lengths = {int(length): count for length, count in report["length_histogram"].items()}
    usual = max(lengths, key=lengths.get)
    edges, duplicates = report["value_histogram"]["edges"], report["duplicates"]
    lines = [
        ("source", f"{source['name']}; {source['columns_found_by']}"),
        ("rows read", f"{report['rows_read']:,}"),
        ("kept", f"{report['rows_kept']:,} = {splits}"),
        ("dropped", f"{report['rows_dropped_for_length']:,} longer than {tokenizer['strand_length']} nt"),
        ("refused", f"{report['rows_refused']:,}"),
        *(("", f"{count:,} {reason}") for reason, count in report["refused"].items()),
        *(("", _format_refused(entry)) for entry in report["first_refused"]),
        ("duplicates", f"{duplicates['rows_repeating_an_earlier_sequence']:,} rows repeat an earlier sequence"),
        ("flanks cut", f"{report['rows_trimmed']:,} rows (trimming {tokenizer['trimming']!r})"),
        ("length", f"{min(lengths)} to {max(lengths)} nt, most often {usual}"),
        ("expression", f"{edges[0]:.4g} to {edges[-1]:.4g}"),
        ("", f"mean {report['expression_mean']:.4f}, sd {report['expression_std']:.4f} in training rows"),
    ]
    if duplicates["held_out_rows_seen_in_training"]:
        count = duplicates["held_out_rows_seen_in_training"]
        lines.append(("warning", f"{count:,} validation or test rows have a sequence that is trained on as well"))
    return "\n".join(f"{name:<11} {text}" for name, text in lines)


def _format_refused(entry: dict) -> str:
    (unit, number), (_, reason), (_, detail) = entry.items()
    return f"- {unit} {number}: {reason}: {detail}"
