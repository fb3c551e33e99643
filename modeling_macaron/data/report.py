"""Count and report accepted and rejected rows."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from modeling_macaron.data.rows import REASONS, TOO_LONG, EncodedRows
from modeling_macaron.data.splits import SPLITS, Division, StoredRows
from modeling_macaron.io.tables import PromoterTable
from tokenization import TOKENIZER_SETTINGS, KmerTokenizer

MALFORMED = "wrong number of columns"
_MAX_REMEMBERED = 10
_HISTOGRAM_BINS = 50
_MUCH_SHORTER = 0.9  # of strand_length
_FEW_KMERS = 1.5  # sequences shorter than this many times the k-mer of clusters have few of them
_LIBRARIES = ("datasets", "numpy", "pyarrow", "transformers")


class Tally:
    """Counts of the rows of a table, and the first rows that were rejected."""

    def __init__(self) -> None:
        self.reasons: Counter[int] = Counter()  # by index into `REASONS`; 0 counts the accepted rows
        self.lengths: Counter[int] = Counter()  # of the variable parts of rows that are accepted or too long
        self.trimmed = 0  # rows whose flanks were cut
        self.first_refused: list[tuple[int, str, str]] = []  # number, reason and detail

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


def describe_rows(table: PromoterTable, tally: Tally, tokenizer: KmerTokenizer) -> dict:
    """Describe a table that was read to its end, for JSON; raise if no row is left."""
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
        "tokenizer": {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS},
    }
    if not report["rows_kept"]:
        raise _nothing_left(report, table)
    return report


def _describe_source(table: PromoterTable) -> dict:
    return {
        "name": table.path,
        "unit": table.unit,
        "columns": {role: name for role, name in table.columns._asdict().items() if name is not None},
        "columns_found_by": table.columns_found_by,
        **({"replicates": list(table.replicates)} if table.replicates else {}),
        **table.details,
    }


def _nothing_left(report: dict, table: PromoterTable) -> ValueError:
    limit = report["tokenizer"]["strand_length"]
    reasons = {f"longer than strand_length {limit}": report["rows_dropped_for_length"]} | report["refused"]
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    first = report["first_refused"][:1]
    example = f"; first: {table.unit} {first[0][table.unit]}, {first[0]['detail']}" if first else ""
    return ValueError(f"{table.path}: no row is left of {report['rows_read']:,} ({counts or 'no rows'}){example}")


def describe_stored(stored: StoredRows, division: Division, table: PromoterTable) -> dict:
    """Describe splits, clusters, duplicates and values of the rows to be stored, for JSON."""
    masks = {split: stored.splits == index for index, split in enumerate(SPLITS)}
    clusters = None if stored.clusters is None else _describe_clusters(stored)
    for split in SPLITS[:2]:
        if not masks[split].any():
            advice = _advice(len(stored.splits), clusters, division, table)
            raise ValueError(
                f"{table.path}: none of the {len(stored.splits):,} rows kept is in the {split} split; {advice}"
            )
    training = stored.labels[masks["train"]]
    mean, std = (float(function(training, dtype=np.float64)) for function in (np.mean, np.std))
    if std == 0:
        raise ValueError(f"{table.path}: all training rows have the same value, {mean}: there is nothing to learn")
    counts, edges = np.histogram(stored.labels, bins=_HISTOGRAM_BINS)
    return {
        "splits": {
            split: {
                "rows": int(np.count_nonzero(mask)),
                "fingerprint": _fingerprint(mask, stored.hashes, stored.labels, stored.weights),
            }
            for split, mask in masks.items()
            if mask.any()
        },
        "clusters": clusters,
        "duplicates": {
            "rows_repeating_an_earlier_sequence": stored.num_repeated,
            "held_out_rows_seen_in_training": _count_shared(stored.hashes, masks["train"]),
        },
        "expression_mean": mean,
        "expression_std": std,
        "value_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "versions": _versions(),
    }


def _describe_clusters(stored: StoredRows) -> dict[str, int]:
    sizes = np.bincount(stored.clusters)
    sizes = sizes[sizes > 0]
    return {
        "number": len(sizes),
        "rows_of_the_largest": int(sizes.max()),
        "rows_in_clusters_of_several": int(sizes[sizes > 1].sum()),
        "held_out_rows_in_clusters_of_training": _count_shared(stored.clusters, stored.splits == 0),
    }


def _count_shared(names: np.ndarray, is_training: np.ndarray) -> int:
    """Count held-out rows whose name is also that of a training row; `np.isin` takes several times as long."""
    train, held_out = np.sort(names[is_training]), names[~is_training]
    if not len(train):
        return 0
    nearest = train[np.minimum(np.searchsorted(train, held_out), len(train) - 1)]
    return int(np.count_nonzero(nearest == held_out))


def _advice(num_rows: int, clusters: dict | None, division: Division, table: PromoterTable) -> str:
    """Say what to do about a split without rows."""
    if table.columns.split is not None:
        return f"look at its column {table.columns.split!r}"
    if num_rows == 1:
        return "two rows are needed at least"
    if clusters is None or clusters["number"] > 1:
        return "pass another --validation_fraction"
    return f"all are in one cluster: {_about_large_clusters(division.cluster_kmer, division.cluster_column)}"


def _about_large_clusters(cluster_kmer: int, cluster_column: str | None) -> str:
    """Say why clusters may be large, and what to do."""
    if cluster_column is not None:
        return f"look at the column {cluster_column!r}, or leave out --cluster_column"
    return (
        f"rows with {cluster_kmer} nt in common stay together. Cut what all have in common (--flank5, --flank3), ask "
        "for a longer --cluster_kmer, or pass --split_by row for rows that are variants of one sequence"
    )


def _fingerprint(mask: np.ndarray, *columns: np.ndarray | None) -> str:
    """Hash of the contents, by which `datasets` recognizes what it has computed before."""
    digest = hashlib.blake2b(digest_size=8)
    for column in columns:
        if column is not None:
            digest.update(column[mask])
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def format_report(report: dict) -> str:
    """Format the report of `prepare_dataset` as a few lines of text."""
    source, tokenizer = report["source"], report["tokenizer"]
    splits = " + ".join(f"{split} {about['rows']:,}" for split, about in report["splits"].items())
    stored = sum(about["rows"] for about in report["splits"].values())
    averaged = f", averaged to {stored:,}" if report["average_duplicates"] else ""
    lengths = list(map(int, report["length_histogram"]))
    edges = report["value_histogram"]["edges"]
    lines = [
        ("source", f"{source['name']}; {source['columns_found_by']}"),
        *(
            [("", f"values are means with {', '.join(map(repr, source['replicates']))}")]
            if "replicates" in source
            else []
        ),
        ("rows read", f"{report['rows_read']:,}"),
        ("kept", f"{report['rows_kept']:,}{averaged} = {splits}"),
        ("dropped", f"{report['rows_dropped_for_length']:,} longer than {tokenizer['strand_length']} nt"),
        ("rejected", f"{report['rows_refused']:,}"),
        *(("", f"{count:,} {reason}") for reason, count in report["refused"].items()),
        *(("", _format_refused(entry)) for entry in report["first_refused"]),
        *_format_duplicates(report),
        *_format_clusters(report),
        ("flanks cut", f"{report['rows_trimmed']:,} rows (trimming {tokenizer['trimming']!r})"),
        ("length", f"{min(lengths)} to {max(lengths)} nt, most often {_usual_length(report)}"),
        *_format_padding(report, max(lengths)),
        ("expression", f"{edges[0]:.4g} to {edges[-1]:.4g}"),
        ("", f"mean {report['expression_mean']:.4f}, sd {report['expression_std']:.4f} in training rows"),
        *_format_warnings(report),
    ]
    return "\n".join(f"{name:<11} {text}" for name, text in lines)


def _format_duplicates(report: dict) -> Iterator[tuple[str, str]]:
    repeated = report["duplicates"]["rows_repeating_an_earlier_sequence"]
    yield "duplicates", f"{repeated:,} rows repeat an earlier sequence"
    if repeated > report["rows_kept"] / 10 and not report["average_duplicates"]:
        yield "", "more than a tenth: --average_duplicates stores each sequence once, with its mean value"


def _format_clusters(report: dict) -> Iterator[tuple[str, str]]:
    clusters, column = report["clusters"], report["cluster_column"]
    if clusters is not None:
        kind = f"{report['cluster_kmer']} nt in common" if column is None else f"column {column!r}"
        yield "clusters", f"{clusters['number']:,} ({kind}), the largest of {clusters['rows_of_the_largest']:,} rows"
        if several := clusters["rows_in_clusters_of_several"]:
            yield "", f"{several:,} rows are in clusters of more than one"


def _format_padding(report: dict, longest: int) -> Iterator[tuple[str, str]]:
    padded = report["tokenizer"]["strand_length"]
    if longest <= _MUCH_SHORTER * padded and report.get("init_from") is None:
        yield "", f"padded to {padded} nt: --strand_length {longest} would fit, --init_from takes a checkpoint's"


def _format_warnings(report: dict) -> Iterator[tuple[str, str]]:
    seen, clusters = report["duplicates"]["held_out_rows_seen_in_training"], report["clusters"]
    if seen:
        yield "warning", f"{seen:,} validation or test rows have a sequence that is trained on as well"
    if clusters is None:
        return
    near = clusters["held_out_rows_in_clusters_of_training"]
    if near > seen:
        yield "warning", f"{near:,} validation or test rows share a cluster with training rows"
    if report["cluster_column"] is None:
        yield from _warn_of_short_sequences(report)
    if report["split_by"] == "cluster":
        yield from _warn_of_large_clusters(report)


def _warn_of_short_sequences(report: dict) -> Iterator[tuple[str, str]]:
    usual, kmer = _usual_length(report), report["cluster_kmer"]
    if usual < _FEW_KMERS * kmer:
        yield (
            "warning",
            f"most sequences have {usual} nt, so near-copies seldom have {kmer} nt in common and may be on both sides "
            "of the split: pass a smaller --cluster_kmer",
        )


def _warn_of_large_clusters(report: dict) -> Iterator[tuple[str, str]]:
    stored = sum(about["rows"] for about in report["splits"].values())
    validation, wanted = report["splits"]["validation"]["rows"], max(1, report["validation_fraction"] * stored)
    if abs(validation - wanted) > max(1, wanted / 4):
        yield "warning", f"validation has {validation:,} rows instead of {wanted:,.0f}, since clusters stay whole"
    share = report["clusters"]["rows_of_the_largest"] / stored
    if share > 0.5:
        advice = _about_large_clusters(report["cluster_kmer"], report["cluster_column"])
        yield "warning", f"the largest cluster has {share:.0%} of all rows: {advice}"


def _usual_length(report: dict) -> int:
    """Most frequent length of a variable part."""
    return int(max(report["length_histogram"], key=report["length_histogram"].get))


def _format_refused(entry: dict) -> str:
    (unit, number), (_, reason), (_, detail) = entry.items()
    return f"- {unit} {number}: {reason}: {detail}"
