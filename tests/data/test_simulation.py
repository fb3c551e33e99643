import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modeling_macaron.data.simulation import MAX_SITES, MOTIFS, noise_free_expression, simulate
from tokenization import FLANK3, FLANK5

LETTERS = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "N": "ACGT", "A": "A", "C": "C", "G": "G", "T": "T"}
CONSENSUS = {motif.name: motif.consensus for motif in MOTIFS}
NEUTRAL = "CT" * 40  # contains no motif site


def rows_of(num_sequences, **options):
    return pa.concat_tables(batch.table for batch in simulate(num_sequences, **options)).to_pylist()


def complement(sequence):
    return sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def put(sequence, site, start):
    return sequence[:start] + site + sequence[start + len(site) :]


def instance(name):
    return "".join(LETTERS[letter][0] for letter in CONSENSUS[name])


def expression_of(sequence):
    return float(noise_free_expression([sequence])[0])


def slow_expression(sequence):
    """Compute the five numbered steps of the module site by site."""
    odds, weight, transcription = 0.003, 0.02, 1.0
    for motif in MOTIFS:
        free = 1.0
        for text, strand_weight in ((sequence, 1.0), (complement(sequence), motif.reverse_weight)):
            for start in range(len(text) - len(motif.consensus) + 1):
                site = text[start : start + len(motif.consensus)]
                mismatches = sum(
                    letter != "N" and base not in LETTERS[letter]
                    for base, letter in zip(site, motif.consensus, strict=True)
                )
                if mismatches > 2:
                    continue
                z = math.exp(2.5 - 4.5 * mismatches)
                site_weight = strand_weight
                if motif.role == "activator":
                    distance = start if text is not sequence else len(text) - start - len(site)
                    site_weight /= 1 + math.exp((distance - 35) / 4)
                free *= 1 - site_weight * z / (1 + z)
        effect = 1 + (1 - free) * (math.exp(motif.energy) - 1)
        odds *= effect if motif.role == "opener" else 1
        weight *= effect if motif.role in ("activator", "core") else 1
        transcription *= effect if motif.role == "repressor" else 1
    is_open = odds / (1 + odds)
    rate = transcription * (is_open * weight / (1 + weight) + (1 - is_open) * 0.01)
    return 17 * math.log(1 + 1000 * rate) / math.log(1001)


@pytest.fixture(scope="module")
def rows():
    return rows_of(3000, seed=7)


def test_columns_and_types():
    batch = next(simulate(10, seed=0))
    assert batch.table.schema == pa.schema(
        {
            "sequence": pa.string(),
            "expression": pa.float64(),
            "expression_noise_free": pa.float64(),
            "motif": pa.list_(pa.string()),
            "motif_start": pa.list_(pa.int16()),
            "motif_strand": pa.list_(pa.int8()),
        }
    )
    assert batch.numbers.tolist() == list(range(1, 11)) and batch.numbers.dtype == np.int64


def test_a_shorter_simulation_is_the_start_of_a_longer_one():
    batches = list(simulate(70_000, seed=5))
    assert [batch.table.num_rows for batch in batches] == [65_536, 4_464]
    assert np.array_equal(np.concatenate([batch.numbers for batch in batches]), np.arange(1, 70_001))
    assert rows_of(5000, seed=5) == batches[0].table.slice(0, 5000).to_pylist()


def test_seeds_and_blocks_give_other_rows():
    sequences = [row["sequence"] for seed in (0, 1) for row in rows_of(8192, seed=seed)]
    assert len(set(sequences)) == len(sequences)


def test_flanks_and_bases(rows):
    assert all(row["sequence"].startswith(FLANK5) and row["sequence"].endswith(FLANK3) for row in rows)
    assert {len(row["sequence"]) for row in rows} == {110}
    assert set("".join(row["sequence"] for row in rows)) == set("ACGT")


def test_planted_sites_are_at_their_recorded_positions(rows):
    seen = set()
    for row in rows:
        variable, end = row["sequence"][17:97], 0
        for name, start, strand in zip(row["motif"], row["motif_start"], row["motif_strand"], strict=True):
            consensus = CONSENSUS[name]
            assert end <= start <= 80 - len(consensus), "sites are ordered and do not overlap"
            end = start + len(consensus)
            site = complement(variable[start:end]) if strand else variable[start:end]
            assert all(base in LETTERS[letter] for base, letter in zip(site, consensus, strict=True))
            seen.add((name, strand))
    assert seen == {(name, strand) for name in CONSENSUS for strand in (0, 1)}
    assert {len(row["motif"]) for row in rows} == set(range(MAX_SITES + 1))
    starts = [row["motif_start"][0] for row in rows if row["motif"]]
    ends = [row["motif_start"][-1] + len(CONSENSUS[row["motif"][-1]]) for row in rows if row["motif"]]
    assert min(starts) == 0 and max(ends) == 80


def test_noise_changes_only_the_measured_value(rows):
    quiet = rows_of(3000, seed=7, noise=0.0)
    noisy = rows_of(3000, seed=7, noise=2.0)
    assert all(row["expression"] == row["expression_noise_free"] for row in quiet)
    for column in ("sequence", "expression_noise_free", "motif", "motif_start", "motif_strand"):
        assert [row[column] for row in quiet] == [row[column] for row in noisy]
    errors = np.array([row["expression"] - row["expression_noise_free"] for row in noisy])
    assert abs(errors.mean()) < 0.15 and abs(errors.std() - 2) < 0.15  # 4 and 5 standard errors


def test_values_span_the_range_of_the_challenge(rows):
    values = np.array([row["expression_noise_free"] for row in rows])
    assert 0 <= values.min() < 2 and 15 < values.max() <= 17 and 3 < values.std() < 5


def test_noise_free_values_follow_from_the_sequences(rows):
    expected = [row["expression_noise_free"] for row in rows]
    np.testing.assert_allclose(noise_free_expression([row["sequence"] for row in rows]), expected, rtol=1e-12)
    np.testing.assert_allclose(noise_free_expression([row["sequence"][17:97] for row in rows]), expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from("ACGTN"), st.sampled_from([instance(name) for name in CONSENSUS])),
        min_size=1,
        max_size=20,
    ).filter(lambda pieces: set(pieces) != {"N"})
)
@example(["A"])
@example([instance(name) for name in CONSENSUS])
@example(["AGTNCCGGGTAAC"])  # an N where the Abf1 consensus allows any base
def test_values_equal_an_explicit_model(pieces):
    sequence = "".join(pieces)
    assert expression_of(sequence) == pytest.approx(slow_expression(sequence), rel=1e-9)


def test_sequences_of_many_lengths_at_once():
    sequences = ["A", "ACGTN" * 9, FLANK5 + NEUTRAL + FLANK3, NEUTRAL.lower(), "TGACTCA" * 20] * 1500
    values = noise_free_expression(sequences)
    expected = [slow_expression(s) for s in ("A", "ACGTN" * 9, NEUTRAL, NEUTRAL, "TGACTCA" * 20)] * 1500
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    assert noise_free_expression([]).shape == (0,)


def test_an_activator_needs_an_opener():
    activator = put(NEUTRAL, instance("Gcn4"), 60)
    gain_closed = expression_of(activator) - expression_of(NEUTRAL)
    gain_open = expression_of(put(activator, instance("Reb1"), 4)) - expression_of(put(NEUTRAL, instance("Reb1"), 4))
    assert gain_open > gain_closed + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sequences": 0}, "`num_sequences` must be at least 1, got 0"),
        ({"num_sequences": 5, "seed": -1}, "`seed` must be"),
        ({"num_sequences": 5, "noise": -0.1}, "`noise` must be"),
        ({"num_sequences": 5, "noise": math.nan}, "`noise` must be"),
    ],
)
def test_impossible_arguments_are_rejected_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(**options)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (["ACGT", ""], r"sequence 1 \(counted from 0\): empty sequence"),
        (["ACGT"] * 4999 + ["AXGT"], "sequence 4999 .*letter that is not DNA"),
        (["ACGÄ"], "sequence 0 .*letter that is not DNA"),
        ("ACGT", "got one str"),
    ],
)
def test_bad_sequences_are_named(sequences, message):
    with pytest.raises(ValueError, match=message):
        noise_free_expression(sequences)
