"""Count and report accepted and rejected rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from modeling_macaron.data.rows import REASONS, TOO_LONG, EncodedRows, explain_row
from modeling_macaron.data.splits import SPLITS, Division, StoredRows
from modeling_macaron.io.tables import PromoterTable, TableBatch
from tokenization import TOKENIZER_SETTINGS, KmerTokenizer

MALFORMED = "wrong number of columns"
_MAX_REMEMBERED = 10
_FEW_KMERS = 1.5  # sequences shorter than this many times the k-mer of clusters have few of them


class Tally:
    """Counts of the rows of a table, and the first rows that were rejected."""

    def __init__(self) -> None:
        self.reasons: Counter[int] = Counter()  # by index into `REASONS`; 0 counts the accepted rows
        self.lengths: Counter[int] = Counter()  # of the variable parts of rows that are accepted or too long
        self.trimmed = 0  # rows whose flanks were cut
        self.first_rejected: list[tuple[int, str]] = []

    def add(self, table: PromoterTable, batch: TableBatch, rows: EncodedRows, tokenizer: KmerTokenizer) -> None:
        """Count rows that were read."""
        self.reasons.update(rows.reasons.tolist())
        self.lengths.update(rows.lengths[(rows.reasons == 0) | (rows.reasons == TOO_LONG)].tolist())
        self.trimmed += int(np.count_nonzero(rows.trimmed))
        for index in rows.rejected[: _MAX_REMEMBERED - len(self.first_rejected)].tolist():
            problem = explain_row(batch.table, rows, index, table, tokenizer)
            self.first_rejected.append((int(batch.numbers[index]), problem))


def describe_rows(table: PromoterTable, tally: Tally, tokenizer: KmerTokenizer) -> dict:
    """Describe a table that was read to its end, for JSON; raise if no row was accepted."""
    rejected = Counter({REASONS[index]: count for index, count in tally.reasons.items() if index not in (0, TOO_LONG)})
    if table.num_malformed:
        rejected[MALFORMED] = table.num_malformed
    first = sorted([*tally.first_rejected, *table.malformed])[:_MAX_REMEMBERED]
    num_read, num_long = tally.reasons.total() + table.num_malformed, tally.reasons[TOO_LONG]
    if not tally.reasons[0]:
        counts = {f"longer than {tokenizer.strand_length} nt": num_long, **rejected}
        counts = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "no rows"
        example = "".join(f"; first: {table.unit} {number}, {problem}" for number, problem in first[:1])
        raise ValueError(f"{table.path}: no row is left of {num_read:,} ({counts}){example}")
    return {
        "source": {
            "name": table.path,
            "unit": table.unit,
            "columns": {role: name for role, name in table.columns._asdict().items() if name is not None},
            "columns_found_by": table.columns_found_by,
            "replicates": list(table.replicates),
            **table.details,
        },
        "rows_read": num_read,
        "rows_kept": tally.reasons[0],
        "rows_dropped_for_length": num_long,
        "rows_rejected": rejected.total(),
        "rejected": dict(rejected.most_common()),
        "first_rejected": [{table.unit: number, "problem": problem} for number, problem in first],
        "rows_trimmed": tally.trimmed,
        "length_histogram": {str(length): tally.lengths[length] for length in sorted(tally.lengths)},
        "tokenizer": {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS},
    }


def describe_stored(stored: StoredRows, division: Division, table: PromoterTable) -> dict:
    """Describe the division, splits, clusters, duplicates and values of the rows to be stored, for JSON."""
    by_column = table.columns.split is not None
    masks = {split: stored.splits == index for index, split in enumerate(SPLITS)}
    clusters = None if stored.clusters is None else _describe_clusters(stored)
    for split in SPLITS[:2]:
        if not masks[split].any():
            advice = "pass --split_by row, a longer --cluster_kmer, or another --validation_fraction"
            if by_column:
                advice = f"look at its column {table.columns.split!r}"
            elif clusters and clusters["number"] == 1:
                advice = "all are in one cluster: " + advice
            raise ValueError(f"{table.path}: none of {len(stored.splits):,} rows is in the {split} split; {advice}")
    training = stored.labels[masks["train"]]
    mean, std = (float(function(training, dtype=np.float64)) for function in (np.mean, np.std))
    if std == 0:
        raise ValueError(f"{table.path}: all training rows have the same value, {mean}: there is nothing to learn")
    counts, edges = np.histogram(stored.labels, bins=50)
    return {
        **division._asdict(),
        "validation_fraction": None if by_column else division.validation_fraction,
        "split_by": "column" if by_column else division.split_by,
        "cluster_kmer": division.cluster_kmer if division.split_by == "cluster" else None,
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
    }


def _describe_clusters(stored: StoredRows) -> dict[str, int]:
    sizes = np.bincount(stored.clusters)
    sizes = sizes[sizes > 0]
    return {
        "number": len(sizes),
        "rows_of_the_largest": int(sizes.max()),
        "held_out_rows_in_clusters_of_training": _count_shared(stored.clusters, stored.splits == 0),
    }


def _count_shared(names: np.ndarray, is_training: np.ndarray) -> int:
    """Count held-out rows whose name is also that of a training row."""
    return int(np.count_nonzero(np.isin(names[~is_training], names[is_training])))


def _fingerprint(mask: np.ndarray, *columns: np.ndarray | None) -> str:
    """Hash of the contents, which `datasets` uses to find cached results."""
    digest = hashlib.blake2b(digest_size=8)
    for column in columns:
        if column is not None:
            digest.update(column[mask])
    return digest.hexdigest()


def format_report(report: dict) -> str:
    """Format the report of `prepare_dataset` as a few lines of text."""
    source, tokenizer, clusters = report["source"], report["tokenizer"], report["clusters"]
    sizes = {split: about["rows"] for split, about in report["splits"].items()}
    splits = " + ".join(f"{split} {rows:,}" for split, rows in sizes.items())
    averaged = f", averaged to {sum(sizes.values()):,}" if report["average_duplicates"] else ""
    means = "".join(f", mean with {name!r}" for name in source["replicates"])
    repeated = report["duplicates"]["rows_repeating_an_earlier_sequence"]
    edges, lengths = report["value_histogram"]["edges"], list(map(int, report["length_histogram"]))
    lines = [
        ("source", f"{source['name']}; {source['columns_found_by']}{means}"),
        ("rows read", f"{report['rows_read']:,}"),
        ("kept", f"{report['rows_kept']:,}{averaged} = {splits}"),
        ("dropped", f"{report['rows_dropped_for_length']:,} longer than {tokenizer['strand_length']} nt"),
        ("rejected", f"{report['rows_rejected']:,}"),
        *(("", f"{count:,} {reason}") for reason, count in report["rejected"].items()),
        *(("", f"- {source['unit']} {row[source['unit']]}: {row['problem']}") for row in report["first_rejected"]),
        ("duplicates", f"{repeated:,} rows repeat an earlier sequence (--average_duplicates)"),
    ]
    if clusters is not None:
        column, kmer, largest = report["cluster_column"], report["cluster_kmer"], clusters["rows_of_the_largest"]
        kind = f"{kmer} nt in common" if column is None else f"column {column!r}"
        lines.append(("clusters", f"{clusters['number']:,} ({kind}), the largest of {largest:,} rows"))
    lines += [
        ("flanks cut", f"{report['rows_trimmed']:,} rows (trimming {tokenizer['trimming']!r})"),
        ("length", f"{min(lengths)} to {max(lengths)} nt, most often {_usual_length(report)}"),
        ("", f"padded to {tokenizer['strand_length']} nt (--strand_length)"),
        ("expression", f"{edges[0]:.4g} to {edges[-1]:.4g}"),
        ("", f"mean {report['expression_mean']:.4f}, sd {report['expression_std']:.4f} in training rows"),
        *(("warning", text) for text in _warnings(report, sum(sizes.values()))),
    ]
    return "\n".join(f"{name:<11} {text}" for name, text in lines)


def _usual_length(report: dict) -> int:
    """Most frequent length of a variable part."""
    return int(max(report["length_histogram"], key=report["length_histogram"].get))


def _warnings(report: dict, num_rows: int) -> Iterator[str]:
    seen, clusters = report["duplicates"]["held_out_rows_seen_in_training"], report["clusters"]
    usual, kmer = _usual_length(report), report["cluster_kmer"]
    if seen:
        yield f"{seen:,} validation or test rows have a sequence that is also in training rows"
    if clusters is None:
        return
    if (near := clusters["held_out_rows_in_clusters_of_training"]) > seen:
        yield f"{near:,} validation or test rows share a cluster with training rows"
    if usual < _FEW_KMERS * kmer and report["cluster_column"] is None:
        yield f"most sequences have {usual} nt: near-copies rarely have {kmer} nt in common (--cluster_kmer)"
    if (share := clusters["rows_of_the_largest"] / num_rows) > 0.5:
        yield f"the largest cluster has {share:.0%} of all rows (common parts: --flank5, --flank3, --cluster_kmer)"
