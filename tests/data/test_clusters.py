"""Clusters of near-copies, which stay on one side of a split."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_macaron.data import clusters as module
from modeling_macaron.data.clusters import KeySet, find_clusters
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.report import format_report
from modeling_macaron.data.splits import split_clusters
from modeling_macaron.io.tables import open_table
from tests.data.test_prepare import all_rows, random_dna, write_tsv
from tokenization import KmerTokenizer
from tokenization.tokenization_kmer import is_missing

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def reverse_complement(text):
    return text[::-1].translate(COMPLEMENT)


def dna(max_size):
    """DNA strings that do not spell a missing value, such as NA, on either strand."""
    texts = st.text("ACGTN", min_size=1, max_size=max_size)
    return texts.filter(lambda text: not is_missing(text) and not is_missing(reverse_complement(text)))


def encode(texts, length):
    tokenizer = KmerTokenizer(kmer_size=1, strand_length=length, trimming="never")
    letters = np.frombuffer("".join(texts).encode(), np.uint8)
    return tokenizer.encode_strands(letters, np.cumsum([0, *map(len, texts)])).ids


def slow_keys(text, size):
    """All k-mers without N, or the whole strand if there are none, in their smaller orientation."""
    text = text.strip("N")
    kmers = [text[start : start + size] for start in range(len(text) - size + 1)] if size else []
    kmers = [kmer for kmer in kmers if "N" not in kmer]
    if not kmers:
        return {"whole " + min(text, reverse_complement(text))}
    return {min(kmer, reverse_complement(kmer)) for kmer in kmers}


def slow_clusters(texts, size):
    """Number clusters by joining any two strands with a common key, until nothing changes."""
    labels, keys = list(range(len(texts))), [slow_keys(text, size) for text in texts]
    changed = True
    while changed:
        changed = False
        for one in range(len(texts)):
            for other in range(one):
                if labels[one] != labels[other] and keys[one] & keys[other]:
                    labels[one] = labels[other] = min(labels[one], labels[other])
                    changed = True
    return [sorted(set(labels)).index(label) for label in labels]


@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(dna(14), min_size=1, max_size=30),
    size=st.sampled_from([1, 3, 4, 5, 8, 13, 20, 32]),
    parts=st.integers(1, 5),
    length=st.integers(14, 17),
)
def test_clusters_equal_a_slow_search(texts, size, parts, length):
    texts += [reverse_complement(text) for text in texts[::3]]
    ids = encode(texts, length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_KEYS_AT_A_TIME", max(len(texts) * max(length - size + 1, 1) // parts, 1))
        patch.setattr(module, "_CHUNK_ROWS", 7)
        found = find_clusters(np.array_split(ids, 3) if len(ids) > 2 else [ids], size)
    assert found.tolist() == slow_clusters(texts, size)


@settings(deadline=None, max_examples=100)
@given(
    known=st.lists(dna(12), max_size=8),
    asked=st.lists(dna(12), min_size=1, max_size=20),
    size=st.sampled_from([None, 1, 3, 5, 8, 20]),
)
def test_key_set_equals_a_slow_search(known, asked, size):
    asked += [reverse_complement(text) for text in known[::2]]
    keys = set().union(*(slow_keys(text, size) for text in known))
    found = KeySet([encode(known, 13)] if known else [], size).find(encode(asked, 13))
    assert found.tolist() == [bool(slow_keys(text, size) & keys) for text in asked]


def near_copies(kind):
    """400 pairs: reverse complements, or copies with one to three changes."""
    rng = np.random.default_rng(0)
    for text in random_dna(400, 80, seed=2):
        if kind == "reverse":
            yield text, reverse_complement(text)
        else:
            letters = list(text)
            for at in rng.choice(80, rng.integers(1, 4), replace=False):
                letters[at] = rng.choice([letter for letter in "ACGT" if letter != letters[at]])
            yield text, "".join(letters)


@pytest.mark.parametrize("kind", ["reverse", "changed"])
@pytest.mark.parametrize("seed", [0, 1])
def test_near_copies_stay_on_one_side(tmp_path, kind, seed):
    pairs = list(near_copies(kind))
    assert all(slow_keys(one, 20) & slow_keys(other, 20) for one, other in pairs)
    rows = [(text, index) for index, pair in enumerate(pairs) for text in pair]
    path = write_tsv(tmp_path, [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))])
    report = prepare_dataset(open_table(path), tmp_path / "out", validation_fraction=0.2, seed=seed)
    sides = {}
    for split, _, label in all_rows(tmp_path / "out").values():
        sides.setdefault(label, set()).add(split)
    assert len(sides) == len(pairs) and all(len(splits) == 1 for splits in sides.values())
    assert abs(report["splits"]["validation"]["rows"] - 0.2 * len(rows)) <= 2
    assert report["clusters"] == {
        "number": len(pairs),
        "rows_of_the_largest": 2,
        "held_out_rows_in_clusters_of_training": 0,
    }
    text = format_report(report)
    assert f"clusters    {len(pairs)} (20 nt in common), the largest of 2 rows" in text and "warning" not in text


def warnings_of(report):
    lines = format_report(report).splitlines()
    return [line.removeprefix("warning").strip() for line in lines if line.startswith("warning")]


def read_clusters(folder):
    loaded = datasets.load_from_disk(str(folder))
    return {row["row"]: row.get("cluster") for split in loaded.values() for row in split.to_list()}


def test_clusters_are_stored_and_do_not_depend_on_the_order(tmp_path):
    rows = [(text, index) for index, pair in enumerate(near_copies("changed")) for text in pair]
    orders = [np.arange(len(rows)), np.random.default_rng(0).permutation(len(rows))]
    results = []
    for name, order in zip("ab", orders, strict=True):
        path = write_tsv(tmp_path, [rows[index] for index in order], f"{name}.tsv")
        prepare_dataset(open_table(path, batch_rows=97), tmp_path / name)
        splits = {int(order[number - 1]): split for number, (split, *_) in all_rows(tmp_path / name).items()}
        clusters = {int(order[number - 1]): cluster for number, cluster in read_clusters(tmp_path / name).items()}
        results.append((splits, clusters))
    assert results[0][0] == results[1][0]
    first, second = (clusters for _, clusters in results)
    assert len(set(zip(first.values(), (second[row] for row in first), strict=True))) == len(set(first.values()))
    firsts = list(dict.fromkeys(first[row] for row in sorted(first)))
    assert firsts == list(range(len(firsts)))


def test_split_by_row(tmp_path):
    path = write_tsv(tmp_path, [(text, index) for index, pair in enumerate(near_copies("reverse")) for text in pair])
    report = prepare_dataset(open_table(path), tmp_path / "out", split_by="row", validation_fraction=0.2)
    sides = {}
    for split, _, label in all_rows(tmp_path / "out").values():
        sides.setdefault(label, set()).add(split)
    assert sum(len(splits) == 2 for splits in sides.values()) > 100
    assert report["clusters"] is None and report["cluster_kmer"] is None
    assert datasets.load_from_disk(str(tmp_path / "out"))["train"].column_names == ["input_ids", "labels", "row"]


def test_shorter_stretches_join_more(tmp_path):
    common = random_dna(1, 14, seed=9)[0]
    texts = [text[:30] + common + text[44:] for text in random_dna(10)] + random_dna(60, seed=3)
    path = write_tsv(tmp_path, [(text, index) for index, text in enumerate(texts)])
    for size, largest in ((20, 1), (14, 10)):
        report = prepare_dataset(open_table(path), tmp_path / str(size), cluster_kmer=size)
        assert report["clusters"]["rows_of_the_largest"] == largest and report["cluster_kmer"] == size


def test_own_clusters(tmp_path):
    texts = random_dna(200)
    rows = [("sequence", "expression", "family"), *((text, i, f"f{i // 4}") for i, text in enumerate(texts))]
    path = write_tsv(tmp_path, rows)
    report = prepare_dataset(open_table(path), tmp_path / "out", cluster_column="family", validation_fraction=0.2)
    splits = {number: split for number, (split, *_) in all_rows(tmp_path / "out").items()}
    assert len({(number - 2) // 4 for number, split in splits.items() if split == "validation"}) == 10
    assert report["splits"]["validation"]["rows"] == 40
    assert read_clusters(tmp_path / "out") == {number: f"f{(number - 2) // 4}" for number in splits}
    assert "clusters    50 (column 'family'), the largest of 4 rows" in format_report(report)

    for family in (" ", "NA", "n/a", "-"):
        path = write_tsv(tmp_path, [*rows, (texts[0], 1, family)])
        with pytest.raises(ValueError, match=f"line 202: cluster '{family}' in column 'family' is missing"):
            prepare_dataset(open_table(path), tmp_path / "out2", cluster_column="family")
    with pytest.raises(ValueError, match="there is no cluster column 'kin'"):
        prepare_dataset(open_table(path), tmp_path / "out2", cluster_column="kin")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "table.tsv"]


def test_near_copies_across_the_tables_own_splits_are_reported(tmp_path):
    texts = random_dna(100)
    rows = [(text, i, "train" if i < 80 else "val") for i, text in enumerate(texts)]
    rows += [(reverse_complement(text), 1, "test") for text in texts[:3]]
    path = write_tsv(tmp_path, [("sequence", "expression", "fold"), *rows])
    report = prepare_dataset(open_table(path, split_column="fold"), tmp_path / "out")
    assert report["clusters"]["held_out_rows_in_clusters_of_training"] == 3
    assert report["split_by"] == "column"
    assert "3 validation or test rows share a cluster with training rows" in format_report(report)


def test_variants_of_one_sequence_give_one_clear_error(tmp_path):
    wild_type = random_dna(1)[0]
    rows = [(wild_type[:at] + "A" + wild_type[at + 1 :], at) for at in range(80) if wild_type[at] != "A"]
    path = write_tsv(tmp_path, rows)
    with pytest.raises(ValueError, match=r"in the validation split; all are in one cluster: pass --split_by row"):
        prepare_dataset(open_table(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare_dataset(open_table(path), tmp_path / "out", split_by="row", validation_fraction=0.2)


def test_large_cluster_goes_to_training_and_is_reported(tmp_path):
    flank = random_dna(1, 25)[0]
    rows = [(flank + text, i) for i, text in enumerate(random_dna(180, 50))]
    rows += [(text, i) for i, text in enumerate(random_dna(20, 75, seed=5))]
    report = prepare_dataset(open_table(write_tsv(tmp_path, rows)), tmp_path / "out", validation_fraction=0.05)
    assert report["splits"]["validation"]["rows"] == 10
    (warning,) = warnings_of(report)
    assert warning.startswith("the largest cluster has 90% of all rows")


@pytest.mark.parametrize(
    ("length", "options", "is_warned"),
    [
        (18, {}, True),
        (29, {}, True),
        (30, {}, False),
        (18, {"cluster_kmer": 12}, False),
        (18, {"cluster_column": "family"}, False),
    ],
)
def test_sequences_too_short_for_the_kmer_are_reported(tmp_path, length, options, is_warned):
    rows = [("sequence", "expression", "family")]
    rows += [(text, i, f"f{i // 2}") for i, text in enumerate(random_dna(100, length))]
    report = prepare_dataset(open_table(write_tsv(tmp_path, rows)), tmp_path / "out", **options)
    assert [f"most sequences have {length} nt" in warning for warning in warnings_of(report)] == [True] * is_warned


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([1] * 100, 0.05, {5}),
        ([50, 50], 0.05, {50}),  # a large cluster is better than none
        ([100] * 10, 0.05, {100}),
        ([90, *[1] * 10], 0.2, {10}),  # the large cluster goes to training
        ([30] * 10 + [1] * 300, 0.05, {30}),
        ([7] * 100, 0.05, {35}),
        ([1] * 9, 0.05, {1}),
        ([1], 1e-9, {1}),
        ([1], 1 - 1e-9, {1}),
        ([5], 0.5, {0}),
    ],
)
def test_sizes_of_validation(sizes, fraction, expected):
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(20):
        hashes = np.random.default_rng(seed).integers(0, 2**63, len(clusters)).astype(np.uint64)
        chosen = split_clusters(clusters, hashes, fraction)
        assert int(chosen.sum()) in expected
        assert (np.bincount(clusters, chosen) % np.array(sizes) == 0).all()


def test_duplicates_are_averaged(tmp_path):
    texts = random_dna(100)
    rows = [("sequence", "expression", "barcode"), *((text, i, "a") for i, text in enumerate(texts))]
    rows += [(text, i + 3, "b") for i, text in enumerate(texts[:60])]
    rows += [(f"TGCATTTTTTTCACATC{text}GGTTACGGCTGTT", i + 30, "c") for i, text in enumerate(texts[:20])]
    path = write_tsv(tmp_path, rows)
    plain = format_report(prepare_dataset(open_table(path), tmp_path / "plain"))
    assert "80 rows repeat an earlier sequence" in plain
    report = prepare_dataset(
        open_table(path, batch_rows=33), tmp_path / "out", average_duplicates=True, extra_columns=["barcode"]
    )
    assert report["rows_kept"] == 180 and sum(split["rows"] for split in report["splits"].values()) == 100
    assert "kept        180, averaged to 100 = train 95 + validation 5" in format_report(report)
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    stored = {row["row"]: row for split in loaded.values() for row in split.to_list()}
    assert sorted(stored) == list(range(2, 102))
    for number, row in stored.items():
        index = number - 2
        values = [index, *([index + 3] * (index < 60)), *([index + 30] * (index < 20))]
        assert (row["count"], row["barcode"]) == (len(values), "a")
        assert row["labels"] == np.float32(np.mean(values))
    train = [stored[number]["labels"] for number in stored if number in {r["row"] for r in loaded["train"]}]
    assert report["expression_mean"] == pytest.approx(np.mean(train))


def test_averaging_stays_within_the_tables_own_splits(tmp_path):
    texts = random_dna(20)
    rows = [(text, i, "train" if i < 15 else "val") for i, text in enumerate(texts)]
    rows += [(texts[0], 10, "train"), (texts[0], 100, "val")]
    path = write_tsv(tmp_path, [("sequence", "expression", "fold"), *rows])
    prepare_dataset(open_table(path, split_column="fold"), tmp_path / "out", average_duplicates=True)
    rows = all_rows(tmp_path / "out")
    assert (rows[2][0], rows[2][2]) == ("train", 5.0) and (rows[23][0], rows[23][2]) == ("validation", 100.0)
    assert len(rows) == 21
