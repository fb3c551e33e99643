"""Designed promoters against explicit predictions and constraints checked base by base."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import SearchOptions, design, design_file, random_starts
from modeling_macaron.analysis.design_search import METHODS, Goal, Space, search_beam, search_by_evolution
from modeling_macaron.analysis.files import FileOptions
from modeling_macaron.analysis.nearest import nearest_training_distance
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import names_in, read, write
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


def sequences_of(designs):
    return [found.sequence for found in designs]


def assert_consistent(predictor, found, max_edits):
    """Check that the edits lead from the start to the sequence and that both expressions are predictions."""
    bases = list(found.start)
    for position, ref, alt in found.edits:
        assert bases[position] == ref != alt
        bases[position] = alt
    assert "".join(bases) == found.sequence
    assert len(found.edits) == hamming(found.start, found.sequence) <= max_edits
    values = predictor.predict([found.start, found.sequence])
    np.testing.assert_allclose([found.start_expression, found.expression], values, rtol=1e-9)


@pytest.mark.parametrize("target", ["higher", "lower", 11.3])
def test_first_step_of_greedy_is_the_best_mutant(predictor, target):
    for start in STARTS:
        mutants = single_mutants(start)
        values = predictor.predict(mutants)
        scores = [closeness(target, value) for value in values]
        best = int(np.argmax(scores))
        assert scores[best] > closeness(target, predictor.predict([start])[0]), "an edit is an improvement"
        (found,) = design(predictor, [start], SearchOptions(target, max_edits=1))
        assert found.sequence == mutants[best]
        assert found.expression == pytest.approx(values[best], rel=1e-9)


def test_greedy_repeats_the_best_mutant(predictor):
    sequence, value = START, predictor.predict([START])[0]
    for max_edits in (1, 2, 3, 4):
        changed = [i for i in range(len(START)) if sequence[i] != START[i]]
        mutants = [mutant for mutant in single_mutants(sequence) if all(mutant[i] == sequence[i] for i in changed)]
        values = predictor.predict(mutants)
        if values.max() > value:
            sequence, value = mutants[int(values.argmax())], values.max()
        assert sequences_of(design(predictor, [START], SearchOptions(max_edits=max_edits))) == [sequence]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["higher", "lower", 11.0])
def test_designs_are_better_than_their_starts(predictor, method, target):
    designs = design(predictor, STARTS, SearchOptions(target, max_edits=4, method=method, **SMALL))
    assert [(found.start_index, found.start) for found in designs] == list(enumerate(STARTS))
    for found in designs:
        assert_consistent(predictor, found, 4)
        assert found.edits and found.nearest_training_distance is None
        assert closeness(target, found.expression) > closeness(target, found.start_expression)


def test_a_target_within_reach_is_reached(predictor):
    low, high = (design(predictor, [START], SearchOptions(target, 3))[0].expression for target in ("lower", "higher"))
    for target in np.linspace(low, high, 5)[1:-1].tolist():
        (found,) = design(predictor, [START], SearchOptions(target, 3, method="beam", beam_width=5))
        assert abs(found.expression - target) < 0.05 * (high - low)


@pytest.mark.parametrize("method", METHODS)
def test_constraints_are_always_met(predictor, method):
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
        starts = random_starts(predictor, 2, length=20, constraints=constraints, seed=seed)
        search = SearchOptions(target, max_edits=4, method=method, num_designs=2, seed=seed, **SMALL)
        for found in design(predictor, starts, search, constraints=constraints):
            assert gc[0] - 1e-9 <= sum(base in "CG" for base in found.sequence) / 20 <= gc[1] + 1e-9
            construct = "ACCA" + found.sequence + "GGT"
            for site in sites:
                part = construct[max(4 - len(site) + 1, 0) : 24 + min(len(site) - 1, 3)]
                assert not re.search(PATTERNS[site], part), (site, found)
            assert not {position for position, _, _ in found.edits} & fixed

    check()


@pytest.mark.parametrize("method", METHODS)
def test_several_designs_are_far_from_each_other(predictor, method):
    search = SearchOptions(max_edits=4, method=method, num_designs=4, min_distance=5, **SMALL)
    designs, firsts = design(predictor, STARTS[:2], search), []
    for index in (0, 1):
        own = [found for found in designs if found.start_index == index]
        firsts.append(own[0])
        assert len(own) >= 3
        for number, one in enumerate(own):
            assert_consistent(predictor, one, 4)
            assert one.expression >= one.start_expression - 1e-4
            assert all(hamming(one.sequence, other.sequence) >= 5 for other in own[:number])
    assert firsts == design(predictor, STARTS[:2], replace(search, num_designs=1))


def test_no_more_designs_than_there_are(predictor):
    """One free position allows four sequences. Few are at least as good as the start."""
    values = predictor.predict([START, *(START[:7] + base + START[8:] for base in "ACGT")])
    fixed = Constraints(fixed_positions=tuple(i for i in range(20) if i != 7))
    search = SearchOptions(max_edits=1, num_designs=9, min_distance=1)
    found = design(predictor, [START], search, constraints=fixed)
    expected = sorted(values[1:][values[1:] >= values[0] - 1e-9], reverse=True)
    np.testing.assert_allclose([one.expression for one in found], expected, rtol=1e-9)


def test_without_an_improvement_the_design_is_the_start(predictor):
    frozen = Constraints(fixed_positions=tuple(range(20)))
    for method in METHODS:
        (found,) = design(predictor, [START], SearchOptions(method=method, **SMALL), constraints=frozen)
        assert found.sequence == found.start == START and found.edits == ()
        assert found.expression == found.start_expression
    assert design(predictor, []) == []


@pytest.mark.parametrize("method", METHODS)
def test_designs_depend_on_the_seed_and_not_on_batches(tiny_folder, method):
    predictor = Predictor.from_pretrained(tiny_folder)  # float32
    search = SearchOptions(max_edits=3, method=method, num_designs=2, seed=3, **SMALL)
    expected = design(predictor, STARTS, search)
    again = design(replace(predictor, batch_size=7), STARTS, search)
    assert sequences_of(again) == sequences_of(expected)
    alone = design(predictor, STARTS[1:2], search)
    assert sequences_of(alone) == [found.sequence for found in expected if found.start_index == 1]
    merged = design(Predictor.from_pretrained(tiny_folder, merged=True), STARTS, search)
    assert sequences_of(merged) == sequences_of(expected)
    other = design(predictor, STARTS, replace(search, seed=4))
    assert (sequences_of(other) != sequences_of(expected)) == (method == "evolution")


@pytest.mark.parametrize("trimming", ["auto", "always", "never"])
def test_random_starts_are_read_as_variable_parts(predictor, tiny_tokenizer, trimming):
    """They have flanks if the tokenizer always trims them."""
    settings = {name: getattr(tiny_tokenizer, name) for name in ("kmer_size", "strand_length", "flank5", "flank3")}
    predictor = replace(predictor, tokenizer=KmerTokenizer(**settings, trimming=trimming))
    constraints = Constraints(gc_range=(0.2, 0.4))
    starts = random_starts(predictor, 3, length=10, constraints=constraints, seed=1)
    assert starts[:2] == random_starts(predictor, 2, length=10, constraints=constraints, seed=1)
    assert not set(starts) & set(random_starts(predictor, 3, length=10, constraints=constraints, seed=2))
    assert [start[:4] == "ACCA" and start[-3:] == "GGT" for start in starts] == [trimming == "always"] * 3
    for found in design(predictor, starts, SearchOptions(max_edits=1), constraints=constraints):
        assert len(found.start) == 10 and sum(base in "CG" for base in found.start) == 3


def test_more_starts_than_run_at_once(predictor):
    sequences = ["".join("ACGT"[(i * j) % 4] for j in range(1, 9)) for i in range(1, 20)]
    designs = design(predictor, sequences, SearchOptions(max_edits=1))
    assert [(found.start_index, found.start) for found in designs] == list(enumerate(sequences))
    assert designs[-1] == design(predictor, sequences[-1:], SearchOptions(max_edits=1))[0]._replace(start_index=18)


@pytest.mark.parametrize(
    ("starts", "options", "expected"),
    [
        ([START], {}, [1, 60]),
        ([START], {"num_designs": 3}, [1, 60]),  # nothing is predicted twice
        ([START], {"method": "gradient", "num_candidates": 5}, [1, 1, 5]),
        ([START] * 2 + ["ACGTACGTAC"], {"batch_size": 50}, [3, 50, 50, 50]),  # batches are filled across starts
    ],
)
def test_forward_passes(predictor, forwards, starts, options, expected):
    predictor = replace(predictor, batch_size=options.pop("batch_size", 256))
    (found, *_) = design(predictor, starts, SearchOptions(max_edits=1, **options))
    assert forwards == expected
    if "method" in options:
        best = np.sort(predictor.predict(single_mutants(START)))[::-1]
        assert found.expression >= best[11], "the first-order proposals are far better than chance"


def test_with_all_candidates_gradient_search_is_greedy(predictor):
    search = SearchOptions("lower", max_edits=3)
    proposed = design(predictor, STARTS, replace(search, method="gradient", num_candidates=60))
    assert sequences_of(proposed) == sequences_of(design(predictor, STARTS, search))


def test_a_search_can_be_stopped(predictor):
    """The designs are the best so far, or the starts without a round of edits."""
    counts = []

    def stop_after(rounds):
        return lambda count: counts.append(count) or len(counts) >= rounds

    for rounds, edits in ((1, 0), (2, 1), (3, 2)):
        counts.clear()
        (found,) = design(predictor, [START], SearchOptions(max_edits=6), should_stop=stop_after(rounds))
        assert len(found.edits) == edits and len(counts) == rounds
        assert counts == sorted(counts) and counts[0] == 1


def drive(search, value):
    """Run a search on a function of ids (length,), and return its requests."""
    requests, reply = [], None
    while True:
        try:
            requests.append((search.send(reply) if requests else next(search)).ids)
        except StopIteration:
            return requests
        reply = np.array([value(row) for row in requests[-1]], dtype=float)


def test_beam_keeps_the_greedy_line(rules):
    """Greedy search takes 3 and 4. A beam of two with only 5 and 4.9 would miss them and 10."""
    values = {"C.....": 3, ".T....": 2.9, ".TC...": 5, ".T.C..": 4.9, "C...C.": 4, "C...CC": 10}
    space = Space(np.zeros(6, np.uint8), rules(), 3, np.empty((0, 6), np.uint8), 2)
    search = search_beam(space, Goal("higher", 1.0), 2)
    requests = drive(search, lambda row: values.get("".join(".CGT"[base] for base in row), 0))
    assert len(requests) == 4
    assert [1, 0, 0, 0, 1, 1] in requests[-1].tolist() and [0, 3, 1, 0, 0, 0] in requests[2].tolist()


def test_evolution_keeps_its_best_and_selects(rules):
    optimum = np.random.default_rng(5).integers(1, 4, 20)
    space = Space(np.zeros(20, np.uint8), rules(), 12, np.empty((0, 20), np.uint8), 2)
    gains = []
    for seed in range(3):
        search = search_by_evolution(space, Goal("higher", 1.0), 32, 12, np.random.default_rng(seed))
        requests = drive(search, lambda row: (row == optimum).sum())
        assert [len(rows) for rows in requests] == [1] + [32] * 13
        assert all(((rows != 0).sum(axis=1) <= 12).all() for rows in requests)
        scores = [(rows == optimum).sum(axis=1) for rows in requests]
        bests = [int(values.max()) for values in scores]
        assert bests == sorted(bests), "the elite stays"
        gains.append(scores[-1].mean() - scores[1].mean())
    assert np.mean(gains) > 6, gains  # 8.4; 4.3 with parents drawn at random


@pytest.mark.parametrize(("logit", "expected"), [(3.01, True), (-3.01, True), (2.99, False), (-2.99, False)])
def test_out_of_range_is_beyond_three_standard_deviations(predictor, logit, expected):
    def set_logits(_, __, outputs):
        outputs.logits = torch.full_like(outputs.logits, logit)
        return outputs

    hook = predictor.model.register_forward_hook(set_logits)
    try:
        (found,) = design(predictor, [START], SearchOptions(max_edits=1))
    finally:
        hook.remove()
    assert found.expression == pytest.approx(11.25 + 2.5 * logit)
    assert found.out_of_range is expected


@pytest.mark.parametrize(("deviations", "warns"), [(0, False), (2.9, False), (-3.1, True)])
def test_targets_beyond_the_training_data_give_a_warning(predictor, caplog, deviations, warns):
    design(predictor, [START], SearchOptions(11.25 + 2.5 * deviations, max_edits=1))
    messages = [record.getMessage() for record in caplog.records if record.name == "modeling_macaron.analysis.design"]
    assert [message.startswith("the target 3.5 is outside 3.75 to 18.75") for message in messages] == [True] * warns


def test_nearest_training_sequence(predictor, tiny_tokenizer, tmp_path):
    training = ["ACCA" + START[:-1] + "C" + "GGT", "ACGT", "ttttttttttttttttuuuu", "GCTTTATATAAGGCGGGC"]
    distances = nearest_training_distance(tiny_tokenizer, [START, "ACGA", "TTTTTTTTTTTTTTTTTTTA"], training)
    assert distances.tolist() == [1, 1, 1]
    padded = "N" + training[3] + "N"  # as the model reads it
    assert nearest_training_distance(tiny_tokenizer, [START], training[3:]).tolist() == [hamming(START, padded)]
    path = tmp_path / "training.tsv"
    path.write_text("sequence\texpression\n" + "".join(f"{text}\t1\n" for text in [*training, "AX", "A" * 21]))
    for source in (training, path, str(path)):
        search = SearchOptions(max_edits=3, num_designs=2)
        for found in design(predictor, [START, "ACGT"], search, training_sequences=source):
            first, *others = [text.center(20, "N") for text in (found.sequence, START[:-1] + "C", "ACGT", training[3])]
            assert found.nearest_training_distance == min(hamming(first, other) for other in [*others, "T" * 20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "up"}, 'target must be "higher", "lower" or a number'),
        ({"target": float("nan")}, "target must be"),
        ({"method": "annealing"}, "method must be one of greedy, beam, evolution, gradient"),
        ({"max_edits": 0}, "max_edits must be at least 1"),
        ({"population": 1}, "population must be at least 2"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_designs": 2, "max_edits": 1, "min_distance": 3}, "min_distance 3 is too large"),
        ({"rank_by": "low"}, "rank_by must be one of expression, bound, got 'low'"),
        ({"rank_by": "bound", "target": 11.0}, 'needs the target "higher" or "lower", got 11'),
    ],
)
def test_invalid_search_options(options, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)


@pytest.mark.parametrize(
    ("starts", "options", "message"),
    [
        (START, {}, "got one str"),
        (["ACGT", "ACXT"], {}, "sequence 1 of the batch: letter 'X' at position 3"),
        (["ACGT", "ACNT"], {}, "start 1: position 3 .counted from 1. is not A, C, G or T"),
        (["ACGT"], {"training_sequences": []}, "no training sequence"),
        (["ACGT"], {"training_sequences": "absent.tsv"}, "there is no file absent.tsv"),
        (["ACGT"], {"constraints": Constraints((0.6, 0.7))}, "start 0: breaks a constraint: its GC content 0.500"),
        (["ACGTACG"], {"constraints": Constraints(None, ("GTACG",))}, "GTACG at position 3 .counted from 1., forward"),
        (["ACGTACCA"], {"constraints": Constraints(None, ("TGGTA",))}, "forbidden site TGGTA .*, reverse strand"),
        (
            ["ACGT"],
            {"constraints": Constraints(None, (), (8,))},
            "position 9 .counted from 1. is fixed, but it has only 4",
        ),
        (["ACGT"], {"options": SearchOptions(rank_by="bound")}, "no interval of 90 %"),
    ],
)
def test_invalid_starts_and_constraints(predictor, starts, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        design(predictor, starts, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"length": 21}, "length must be 1 to strand_length = 20"), ({"num_starts": 0}, "num_starts must be at least 1"),
     ({"gc": 1.5}, "gc must be a fraction")],
)  # fmt: skip
def test_invalid_random_starts(predictor, options, message):
    with pytest.raises(ValueError, match=message):
        random_starts(predictor, **options)


@pytest.fixture(scope="module")
def uncertain(make_model):
    """Model whose intervals have different widths, in float64."""
    model = make_model(expression_bins=(-2.0, 0.0, 2.0), interval_quantiles={"90": 3.0}).double()
    return Predictor.from_pretrained(model)


@pytest.mark.parametrize(("target", "bound"), [("higher", "low"), ("lower", "high")])
def test_rank_by_bound_takes_the_best_bound(uncertain, target, bound):
    differs = False
    for start in STARTS:
        mutants = single_mutants(start)
        values = uncertain.predict_intervals(mutants)
        best = int(np.argmax([closeness(target, value) for value in getattr(values, bound)]))
        (found,) = design(uncertain, [start], SearchOptions(target, max_edits=1, rank_by="bound"))
        assert found.sequence == mutants[best]
        given = (found.expression, found.expression_low, found.expression_high)
        np.testing.assert_allclose(given, [part[best] for part in values], rtol=1e-9)
        (usual,) = design(uncertain, [start], SearchOptions(target, max_edits=1))
        assert usual.expression_low is not None
        differs |= usual.sequence != found.sequence
    assert differs, "the bound and the expression rank differently"


@pytest.mark.parametrize(("name", "target"), [("out.tsv", "higher"), ("out.csv", 60.0), ("out.parquet", 7.5)])
def test_file_has_a_line_for_each_design(uncertain, tmp_path, name, target):
    names = ["s0", "s1", "s 2"]
    source = write(pd.DataFrame({"name": names, "sequence": STARTS}), tmp_path / "in.tsv")
    search, training = SearchOptions(target, max_edits=3, num_designs=2), {"training_sequences": [START]}
    files = uncertain, source, tmp_path / name, search
    options = FileOptions(name_column="name")
    result = design_file(*files, fasta=tmp_path / "out.fa", options=options, **training)
    expected = design(uncertain, STARTS, search, **training)
    lines = read(tmp_path / name)
    assert lines.columns.tolist() == [
        "row", "name", "rank", "start", "sequence", "start_expression", "expression", "expression_low",
        "expression_high", "num_edits", "edits", "nearest_training_distance", "out_of_range", "problem",
    ]  # fmt: skip
    assert lines["row"].tolist() == [found.start_index + 1 for found in expected]
    assert lines["name"].tolist() == [names[found.start_index] for found in expected]
    assert lines["problem"].tolist() == [""] * len(expected)
    assert (lines["rank"] == lines.groupby("row").cumcount() + 1).all()
    for field in ("start", "sequence", "nearest_training_distance", "out_of_range"):
        assert lines[field].tolist() == [getattr(found, field) for found in expected]
    for field in ("start_expression", "expression", "expression_low", "expression_high"):
        np.testing.assert_allclose(lines[field], [getattr(found, field) for found in expected], rtol=1e-9)
    assert lines["edits"][0] == " ".join(f"{ref}{i + 1}{alt}" for i, ref, alt in expected[0].edits)
    assert lines["num_edits"].tolist() == [len(found.edits) for found in expected]
    records = (tmp_path / "out.fa").read_text().splitlines()
    assert records[1::2] == sequences_of(expected)
    assert records[0] == f">s0_1_1 expression={expected[0].expression:.6g}"
    assert {record.split()[0] for record in records[::2]} >= {">s1_2_1", ">s_2_3_1"}
    details = {
        "num_designs": len(expected), "num_unchanged": 0, "num_out_of_range": int(lines["out_of_range"].sum()),
        "median_change": (lines["expression"] - lines["start_expression"]).median(),
    }  # fmt: skip
    if target != "higher":
        distances = (lines["expression"] - target).abs()
        details["num_reached"] = int((distances <= 0.05 * 2.5).sum())
        details["nearest"] = lines["expression"][distances.argmin()]
        assert (details["num_reached"] == 0) == (target == 60.0)
    assert result[:3] == (3, len(expected), 0) and result.details == pytest.approx(details)


BAD = {
    2: (START.replace("A", "N", 1), "is not A, C, G or T"), 4: ("", "empty sequence"),
    5: ("ACGTXC", "letter 'X' at position 5 (counted from 1) is not DNA"),
    6: ("A" * 99, "99 nt are more than the 20 that the model reads"),
    7: ("GAATTC" + START[6:], "breaks a constraint: it has the forbidden site GAATTC at position 1 (counted from 1)"),
}  # fmt: skip


def test_unusable_starts_stay_in_the_output(predictor, tmp_path):
    starts = [BAD[row][0] if row in BAD else START for row in range(1, 9)]
    source = write(pd.DataFrame({"sequence": starts, "gene": list("abcdefgh")}), tmp_path / "in.csv")
    search, constraints = SearchOptions(max_edits=1), Constraints(forbidden_sites=("GAATTC",))
    result = design_file(
        predictor, source, tmp_path / "out.csv", search, constraints=constraints, fasta=tmp_path / "out.fa",
        options=FileOptions(name_column="gene"),
    )  # fmt: skip
    assert result[:3] == (8, 8, 5) and result.details["num_designs"] == 3
    lines = read(tmp_path / "out.csv").fillna("")
    assert lines["row"].tolist() == list(range(1, 9)) and lines["name"].tolist() == list("abcdefgh")
    assert lines["start"].tolist() == starts
    for row, problem, sequence in zip(lines["row"], lines["problem"], lines["sequence"], strict=True):
        assert (problem == "") == (sequence != "") == (row not in BAD)
        assert row not in BAD or BAD[row][1] in problem
    names = [line.split()[0] for line in (tmp_path / "out.fa").read_text().splitlines() if line.startswith(">")]
    assert names == [">a_1_1", ">c_3_1", ">h_8_1"]


def test_an_interrupted_run_leaves_no_fasta(predictor, tmp_path):
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("out of memory")

    hook = predictor.model.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            design_file(replace(predictor, batch_size=8), [START], tmp_path / "out.tsv", fasta=tmp_path / "out.fa")
    finally:
        hook.remove()
    assert names_in(tmp_path) == []
