"""Designed promoters: against predictions that are written out, and against rules that are checked letter by letter."""

import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import Designer, SearchOptions, design
from modeling_macaron.analysis.design_search import METHODS, Goal, Space, search_beam, search_by_evolution
from modeling_macaron.analysis.nearest import nearest_training_distance
from modeling_macaron.analysis.predict import predict, predict_intervals
from tests.analysis.test_constraints import rules_allow
from tokenization import KmerTokenizer

START = "GCTTTATATAAGGCGGGCAT"
STARTS = [START, "ACGTACGTACGG", "TTGACCATGCATGGTA"]
SMALL = {"population": 12, "generations": 4, "beam_width": 3, "num_candidates": 6}
PATTERNS = {"GAAT": "GAAT|ATTC", "RCGY": "[AG]CG[CT]", "AAA": "AAA|TTT", "GGS": "GG[CG]|[CG]CC"}


def single_mutants(sequence):
    return [
        sequence[:i] + base + sequence[i + 1 :]
        for i in range(len(sequence)) for base in "ACGT" if base != sequence[i]
    ]  # fmt: skip


def hamming(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def closeness(target, value):
    return {"higher": value, "lower": -value}.get(target, -abs(value - target) if isinstance(target, float) else None)


def assert_true_to_its_start(model, found, max_edits):
    """Edits make the sequence from its start, and both expressions are what `predict` says."""
    letters = list(found.start)
    for position, ref, alt in found.edits:
        assert letters[position] == ref != alt
        letters[position] = alt
    assert "".join(letters) == found.sequence
    assert len(found.edits) == hamming(found.start, found.sequence) <= max_edits
    values = predict(model, [found.start, found.sequence])
    np.testing.assert_allclose([found.start_expression, found.expression], values, rtol=1e-9)


@pytest.mark.parametrize("target", ["higher", "lower", 11.3])
def test_first_step_of_greedy_is_the_best_mutant_of_all(model, target):
    for start in STARTS:
        mutants = single_mutants(start)
        values = predict(model, mutants)
        own = predict(model, [start])[0]
        scores = [closeness(target, value) for value in values]
        best = int(np.argmax(scores))
        assert scores[best] > closeness(target, own), "an edit must help for this test to tell anything"
        (found,) = design(model, [start], target=target, max_edits=1)
        assert found.sequence == mutants[best]
        assert found.expression == pytest.approx(values[best], rel=1e-9)


def test_greedy_is_repeated_best_mutants(model):
    sequence, value = START, predict(model, [START])[0]
    for max_edits in (1, 2, 3, 4):
        changed = [i for i in range(len(START)) if sequence[i] != START[i]]
        mutants = [mutant for mutant in single_mutants(sequence) if all(mutant[i] == sequence[i] for i in changed)]
        values = predict(model, mutants)
        if values.max() > value:
            sequence, value = mutants[int(values.argmax())], values.max()
        (found,) = design(model, [START], max_edits=max_edits)
        assert found.sequence == sequence


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["higher", "lower", 11.0])
def test_designs_are_better_and_say_how(model, method, target):
    designs = design(model, STARTS, target=target, max_edits=4, method=method, **SMALL)
    assert [found.start for found in designs] == STARTS
    assert [found.start_index for found in designs] == [0, 1, 2]
    for found in designs:
        assert_true_to_its_start(model, found, 4)
        assert found.edits
        assert closeness(target, found.expression) > closeness(target, found.start_expression)
        assert found.nearest_training_distance is None


def test_a_wanted_expression_is_met_where_it_can_be(model):
    low, high = (design(model, [START], target=target, max_edits=3)[0].expression for target in ("lower", "higher"))
    for wanted in np.linspace(low, high, 5)[1:-1].tolist():
        (found,) = design(model, [START], target=wanted, max_edits=3, method="beam", beam_width=5)
        assert abs(found.expression - wanted) < 0.05 * (high - low)


@given(seed=st.integers(0, 10**6), width=st.integers(1, 6), max_edits=st.integers(1, 4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_beam_is_never_worse_than_greedy(model, seed, width, max_edits):
    options = {"num_starts": 2, "length": 10, "max_edits": max_edits, "seed": seed}
    greedy = design(model, **options)
    beam = design(model, method="beam", beam_width=width, **options)
    for one, other in zip(beam, greedy, strict=True):
        assert one.start == other.start
        assert one.expression >= other.expression - 1e-5 * model.config.expression_std


def test_a_wide_beam_finds_the_best_of_all_pairs(model):
    start = "ACGTTGCA"
    pairs = sorted({pair for mutant in single_mutants(start) for pair in single_mutants(mutant)} | {start})
    values = predict(model, pairs)
    (found,) = design(model, [start], max_edits=2, method="beam", beam_width=24)
    assert found.expression == pytest.approx(max(values.max(), predict(model, single_mutants(start)).max()), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_no_rule_is_ever_broken(model, method):
    @given(
        seed=st.integers(0, 10**6),
        gc=st.sampled_from([(0.3, 0.6), (0.5, 0.5), (0.2, 0.4)]),
        sites=st.sets(st.sampled_from(sorted(PATTERNS)), max_size=2),
        fixed=st.sets(st.integers(0, 19), max_size=12),
        target=st.sampled_from(["higher", "lower"]),
    )
    @settings(max_examples=12, deadline=None)
    def check(seed, gc, sites, fixed, target):
        constraints = Constraints(gc, tuple(sites), tuple(fixed))
        designs = design(model, num_starts=2, length=20, target=target, max_edits=4, method=method, num_designs=2,
                         constraints=constraints, seed=seed, **SMALL)  # fmt: skip
        assert designs
        for found in designs:
            assert len(found.edits) <= 4
            assert gc[0] - 1e-9 <= sum(base in "CG" for base in found.sequence) / 20 <= gc[1] + 1e-9
            construct = "ACCA" + found.sequence + "GGT"
            for site in sites:
                width = len(site)
                part = construct[max(4 - width + 1, 0) : 24 + min(width - 1, 3)]
                assert not re.search(PATTERNS[site], part), (site, found)
            assert not {position for position, _, _ in found.edits} & fixed

    check()


def test_the_rules_of_the_search_do_bind(model):
    """Without them the design has another GC content, the site and edits at the fixed positions."""
    (free,) = design(model, [START], max_edits=6)
    position = free.edits[0][0]
    (other,) = design(model, [START], max_edits=6, constraints=Constraints(fixed_positions=(position,)))
    assert position in [edit[0] for edit in free.edits]
    assert position not in [edit[0] for edit in other.edits] and other.edits
    site = next(
        free.sequence[i : i + 4] for i in range(17)
        if free.sequence[i : i + 4] not in START and rules_allow(START, free.sequence[i : i + 4])
    )  # fmt: skip
    (other,) = design(model, [START], max_edits=6, constraints=Constraints(forbidden_sites=(site,)))
    assert site not in other.sequence and other.edits


@pytest.mark.parametrize("method", METHODS)
def test_several_designs_are_far_from_each_other(model, method):
    options = {"max_edits": 4, "method": method, "num_designs": 4, "min_distance": 5, **SMALL}
    designs = design(model, STARTS[:2], **options)
    for index in (0, 1):
        own = [found for found in designs if found.start_index == index]
        assert len(own) >= 3
        for number, one in enumerate(own):
            assert_true_to_its_start(model, one, 4)
            assert one.expression >= one.start_expression - 1e-4
            assert all(hamming(one.sequence, other.sequence) >= 5 for other in own[:number])
    firsts = [found for found, before in zip(designs, [None, *designs], strict=False)
              if before is None or before.start_index != found.start_index]  # fmt: skip
    assert firsts == design(model, STARTS[:2], **{**options, "num_designs": 1})


def test_answers_come_only_as_long_as_there_are_some(model):
    """With one free position there are four sequences, and few at least as good as the start."""
    (start_value,) = predict(model, [START])
    values = predict(model, [START[:7] + base + START[8:] for base in "ACGT"])
    fixed = Constraints(fixed_positions=tuple(i for i in range(20) if i != 7))
    found = design(model, [START], max_edits=1, num_designs=9, min_distance=1, constraints=fixed)
    expected = sorted(values[values >= start_value - 1e-9], reverse=True)
    np.testing.assert_allclose([one.expression for one in found], expected, rtol=1e-9)


def test_nothing_better_gives_the_start(model):
    frozen = Constraints(fixed_positions=tuple(range(20)))
    for method in METHODS:
        (found,) = design(model, [START], method=method, constraints=frozen, **SMALL)
        assert found.sequence == found.start == START and found.edits == ()
        assert found.expression == found.start_expression


@pytest.mark.parametrize("method", METHODS)
def test_results_belong_to_the_seed_and_not_to_the_batches(tiny_folder, model, method):
    options = {"max_edits": 3, "method": method, "num_designs": 2, "seed": 3, **SMALL}
    for loaded, sequences in ((model, STARTS), (tiny_folder, None)):  # the folder's weights are float32
        expected = design(loaded, sequences, num_starts=2, **options)
        for batch_size in (1, 7):
            again = design(loaded, sequences, num_starts=2, batch_size=batch_size, **options)
            assert [found.sequence for found in again] == [found.sequence for found in expected]
    alone = design(model, STARTS[1:2], **options)
    among = [found._replace(start_index=0) for found in design(model, STARTS, **options) if found.start_index == 1]
    assert [found.sequence for found in alone] == [found.sequence for found in among]


def test_seeds_differ(model):
    options = {"max_edits": 5, "method": "evolution", "population": 8, "generations": 1}
    assert len({design(model, [START], seed=seed, **options)[0].sequence for seed in range(6)}) > 1
    starts = [found.start for seed in (0, 1) for found in design(model, num_starts=3, max_edits=1, seed=seed)]
    assert len(set(starts)) == 6 and {len(start) for start in starts} == {20}


def test_evolution_beats_its_founders(model):
    options = {"max_edits": 6, "method": "evolution", "population": 16}
    few, many = (
        [design(model, [START], generations=count, seed=seed, **options)[0].expression for seed in range(5)]
        for count in (1, 12)
    )
    assert all(late >= early for early, late in zip(few, many, strict=True))  # elites stay, so more is never worse
    assert np.mean(many) > np.mean(few) + 0.05


def test_more_starts_than_run_at_once(model):
    sequences = ["".join("ACGT"[(i * j) % 4] for j in range(1, 9)) for i in range(1, 20)]
    designs = design(model, sequences, max_edits=1)
    assert [found.start_index for found in designs] == list(range(19))
    assert [found.start for found in designs] == sequences
    assert designs[-1] == design(model, sequences[-1:], max_edits=1)[0]._replace(start_index=18)


def test_gradient_is_the_cheap_method(model, forwards):
    design(model, [START], max_edits=1)
    assert sum(forwards) == 1 + 60
    forwards.clear()
    (found,) = design(model, [START], max_edits=1, method="gradient", num_candidates=5)
    assert sum(forwards) == 1 + 1 + 5
    best = np.sort(predict(model, single_mutants(START)))[::-1]
    assert found.expression >= best[11], "the first-order guess is far better than chance"


def test_with_all_candidates_the_gradient_is_greedy(model):
    options = {"max_edits": 3, "target": "lower"}
    proposed = design(model, STARTS, method="gradient", num_candidates=60, **options)
    assert [found.sequence for found in proposed] == [found.sequence for found in design(model, STARTS, **options)]


def test_batches_are_full_whatever_start_they_come_from(model, forwards):
    design(model, [START] * 2 + ["ACGTACGTAC"], max_edits=1, batch_size=50)
    assert forwards == [3] + [50] * 3


def test_prefixes_are_not_predicted_twice(model, forwards):
    design(model, [START], max_edits=1, num_designs=3)
    assert sum(forwards) == 1 + 60


def drive(search, value):
    """Run a search against a function of letters (length,); all it asked for, request by request."""
    asked, reply = [], None
    while True:
        try:
            asked.append((search.send(reply) if asked else next(search)).letters)
        except StopIteration:
            return asked
        reply = np.array([value(row) for row in asked[-1]], dtype=float)


def test_beam_keeps_the_greedy_line_among_better_ones(rules):
    """What greedy reaches by 3 and 4 is hidden from a beam of two that keeps only 5 and 4.9."""
    values = {"C.....": 3, ".T....": 2.9, ".TC...": 5, ".T.C..": 4.9, "C...C.": 4, "C...CC": 10}
    asked = drive(
        search_beam(Space(np.zeros(6, np.uint8), rules(), 3, np.empty((0, 6), np.uint8), 2), Goal("higher", 1.0), 2),
        lambda row: values.get("".join(".CGT"[letter] for letter in row), 0),
    )
    assert [0 in map(len, asked), len(asked)] == [False, 4]
    assert [1, 0, 0, 0, 1, 1] in asked[-1].tolist()
    assert [0, 3, 1, 0, 0, 0] in asked[2].tolist()


def test_evolution_keeps_its_best_and_selects(rules):
    wanted = np.random.default_rng(5).integers(1, 4, 20)
    space = Space(np.zeros(20, np.uint8), rules(), 12, np.empty((0, 20), np.uint8), 2)
    lasts = []
    for seed in range(3):
        search = search_by_evolution(space, Goal("higher", 1.0), 32, 12, np.random.default_rng(seed))
        asked = drive(search, lambda row: (row == wanted).sum())
        assert [len(rows) for rows in asked] == [1] + [32] * 13
        scores = [(rows == wanted).sum(axis=1) for rows in asked]
        bests = [int(values.max()) for values in scores]
        assert bests == sorted(bests), "the elite stays"
        assert all(((rows != 0).sum(axis=1) <= 12).all() for rows in asked)
        lasts.append(scores[-1].mean() - scores[1].mean())
    assert np.mean(lasts) > 6, lasts  # 8.4; 4.3 where parents are drawn at random


def test_reachable_is_what_can_still_be_far_enough(rules):
    start, found = np.zeros(6, np.uint8), np.array([[1, 1, 0, 0, 0, 0]], np.uint8)
    space = Space(start, rules(), 2, found, 3)
    letters = np.array([[1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]], np.uint8)
    assert space.distances(letters).tolist() == [1, 2, 3, 5]
    assert space.may_pass(letters).tolist() == [False, False, True, False]
    assert space.may_end(letters).tolist() == [False, False, True, True]


@pytest.mark.parametrize(("logit", "expected"), [(3.01, True), (-3.01, True), (2.99, False), (-2.99, False)])
def test_out_of_range_is_beyond_three_standard_deviations(model, logit, expected):
    def set_logits(_, __, outputs):
        outputs.logits = torch.full_like(outputs.logits, logit)
        return outputs

    hook = model.register_forward_hook(set_logits)
    try:
        (found,) = design(model, [START], max_edits=1)
    finally:
        hook.remove()
    assert found.expression == pytest.approx(11.25 + 2.5 * logit)
    assert found.out_of_range is expected


def test_merged_model_gives_the_same_designs(model):
    for method in ("greedy", "gradient"):
        options = {"max_edits": 3, "method": method}
        merged = design(model, STARTS, merged=True, **options)
        assert [found.sequence for found in merged] == [found.sequence for found in design(model, STARTS, **options)]


def test_nearest_training_sequence(model, tiny_tokenizer, tmp_path):
    training = ["ACCA" + START[:-1] + "C" + "GGT", "ACGT", "ttttttttttttttttuuuu", "GCTTTATATAAGGCGGGC"]
    distances = nearest_training_distance(tiny_tokenizer, [START, "ACGA", "TTTTTTTTTTTTTTTTTTTA"], training)
    assert distances.tolist() == [1, 1, 1]
    padded = "N" + training[3] + "N"  # as the model reads it
    assert nearest_training_distance(tiny_tokenizer, [START], training[3:]).tolist() == [hamming(START, padded)]
    path = tmp_path / "training.tsv"
    path.write_text("sequence\texpression\n" + "".join(f"{text}\t1\n" for text in [*training, "AX", "A" * 21]))
    options = {"max_edits": 3, "num_designs": 2}
    for source in (training, path, str(path)):
        for found in design(model, [START, "ACGT"], training_sequences=source, **options):
            padded = [text.center(20, "N") for text in (found.sequence, START[:-1] + "C", "ACGT", training[3])]
            others = [*padded[1:], "T" * 20]
            assert found.nearest_training_distance == min(hamming(padded[0], other) for other in others)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_nearest_of_many(data):
    tokenizer = KmerTokenizer(kmer_size=3, strand_length=6)
    texts = st.lists(st.text("ACGT", min_size=6, max_size=6), min_size=1, max_size=8)
    own, training = data.draw(texts), data.draw(texts)
    expected = [min(hamming(one, other) for other in training) for one in own]
    assert nearest_training_distance(tokenizer, own, training).tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "up"}, 'target must be "higher", "lower" or a number'),
        ({"target": float("nan")}, "target must be"),
        ({"method": "annealing"}, "method must be one of greedy, beam, evolution, gradient"),
        ({"max_edits": 0}, "max_edits must be at least 1"),
        ({"num_designs": 0}, "num_designs must be at least 1"),
        ({"num_designs": 2, "max_edits": 1, "min_distance": 3}, "min_distance 3 is too large"),
        ({"beam_width": 0}, "beam_width must be at least 1"),
        ({"population": 1}, "population must be at least 2"),
        ({"generations": 0}, "generations must be at least 1"),
        ({"num_candidates": 0}, "num_candidates must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"starts": START}, "got one str"),
        ({"starts": ["ACGT", "ACXT"]}, "sequence 1 of the batch: letter 'X' at position 3"),
        ({"starts": ["ACGT", "ACNT"]}, "start 1: position 3 .counted from 1. is none of A, C, G and T"),
        ({"starts": ["ACGT", "AC[MASK]T"]}, "sequence 1 of the batch: a masked letter"),
        ({"starts": ["A" * 21]}, r"21 nt are more than the 20 that the model reads \(`strand_length`\)"),
        ({"starts": None, "length": 21}, "length must be 1 to strand_length = 20"),
        ({"starts": None, "num_starts": 0}, "num_starts must be at least 1"),
        ({"starts": None, "gc": 1.5}, "gc must be a fraction"),
        ({"training_sequences": []}, "no training sequence"),
        ({"training_sequences": "absent.tsv"}, "there is no file absent.tsv"),
        ({"constraints": Constraints(gc_range=(0.6, 0.7))}, "start 0: breaks a constraint: its GC content 0.500"),
        (
            {"constraints": Constraints(forbidden_sites=("GTACG",))},
            "GTACG at position 3 .counted from 1., forward",
        ),
        ({"constraints": Constraints(forbidden_sites=("TGGTA",))}, "forbidden site TGGTA"),
        ({"constraints": Constraints(fixed_positions=(8,))}, "position 9 .counted from 1. is to stay, and it has 8 nt"),
    ],
)
def test_mistakes_are_named(model, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("[", r"\[")):
        design(model, **{"starts": ["ACGTACGT" if "TGGTA" not in message else "ACGTACCA"], "max_edits": 2, **options})


def test_no_start_gives_no_design(model):
    assert design(model, []) == []


@pytest.mark.parametrize(
    ("target", "is_far"), [("higher", False), (None, False), (2.9, False), (-2.9, False), (3.1, True), (-3.1, True)]
)
def test_target_beyond_the_training_data_is_warned_of(make_model, tiny_tokenizer, caplog, target, is_far):
    model = make_model()
    mean, std = model.config.expression_mean, model.config.expression_std
    value = target if target == "higher" else mean if target is None else mean + target * std
    design(model, [START], target=value, max_edits=1, tokenizer=tiny_tokenizer)
    told = [record.getMessage() for record in caplog.records if record.name == "modeling_macaron.analysis.design"]
    assert len(told) == is_far
    if is_far:
        expected = (
            f"the target {value:g} lies outside {mean - 3 * std:.2f} to {mean + 3 * std:.2f}, 3 standard deviations"
        )
        assert told[0].startswith(expected)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_counted_and_bounded(model, forwards, monkeypatch, method):
    bars = []
    original = Designer.progress

    def progress(*arguments, **options):
        bars.append(original(*arguments, **options))
        return bars[-1]

    monkeypatch.setattr(Designer, "progress", progress)
    options = SearchOptions(max_edits=3, method=method, num_designs=2, **SMALL)
    most = sum(options.most_predictions(len(start)) for start in STARTS)
    design(model, STARTS, **options._asdict(), verbose=True)
    (bar,) = bars
    assert forwards[:2] == [1, min(most, 256)], "timed before the bar begins"
    forwards = forwards[2:]
    gradients = 2 * 3 * len(STARTS) if method == "gradient" else 0
    assert bar.n <= sum(forwards) <= bar.n + gradients
    assert len(STARTS) < bar.n <= most
    assert bar.total == bar.n


@pytest.fixture(scope="module")
def uncertain(make_model):
    """Model whose intervals have different widths, in float64."""
    return make_model(expression_bins=(-2.0, 0.0, 2.0), interval_quantiles={"90": 3.0}).double()


@pytest.mark.parametrize(("target", "bound"), [("higher", "low"), ("lower", "high")])
def test_rank_by_bound_takes_the_best_bound(uncertain, target, bound):
    differs = False
    for start in STARTS:
        mutants = single_mutants(start)
        values = predict_intervals(uncertain, mutants)
        best = int(np.argmax([closeness(target, value) for value in getattr(values, bound)]))
        (found,) = design(uncertain, [start], target=target, max_edits=1, rank_by="bound")
        assert found.sequence == mutants[best]
        given = (found.expression, found.expression_low, found.expression_high)
        np.testing.assert_allclose(given, [part[best] for part in values], rtol=1e-9)
        (usual,) = design(uncertain, [start], target=target, max_edits=1)
        assert usual.expression_low is not None
        differs |= usual.sequence != found.sequence
    assert differs, "the two must differ somewhere for this test to tell anything"


@pytest.mark.parametrize("method", METHODS)
def test_no_bound_gets_worse_by_a_search(uncertain, method):
    for found in design(uncertain, STARTS, method=method, max_edits=2, rank_by="bound", **SMALL):
        assert found.expression_low >= predict_intervals(uncertain, [found.start]).low[0] - 1e-9


def test_rank_by_bound_needs_intervals_and_a_direction(model, uncertain):
    with pytest.raises(ValueError, match="no interval of 90 %"):
        design(model, STARTS, rank_by="bound")
    with pytest.raises(ValueError, match='needs the target "higher" or "lower", got 11'):
        design(uncertain, STARTS, rank_by="bound", target=11.0)
    with pytest.raises(ValueError, match="rank_by must be one of expression, bound, got 'low'"):
        design(uncertain, STARTS, rank_by="low")
