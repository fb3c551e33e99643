"""Tokenizer against a slow reference."""

import doctest

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modeling_macaron import MacaronConfig
from modeling_macaron.modeling_macaron import MacaronEmbeddings
from tokenization import FLANK3, FLANK5, PROBLEMS, KmerTokenizer, reverse_complement, tokenization_kmer

MASK = "[MASK]"
LENGTH = 12
fast = settings(deadline=None, max_examples=150)
DNA = [*"ACGTUNacgtunRYSWKMBDHVryswkmbdhv", MASK]
dna_letters = st.lists(st.sampled_from(DNA), max_size=20)
any_letters = dna_letters | st.lists(st.sampled_from([*DNA, *"XéÀ"]), max_size=20)  # the last three are not DNA


class SlowTokenizer:
    """Documented behaviour, base by base."""

    def __init__(self, strand_length, flank5, flank3, trimming):
        self.strand_length, self.flank5, self.flank3, self.trimming = strand_length, flank5, flank3, trimming

    @staticmethod
    def letter(letter):
        if letter == MASK:
            return MASK
        letter = letter.upper().replace("U", "T")
        if letter in "ACGT":
            return letter
        return "N" if letter in "NRYSWKMBDHV" else None

    def encode(self, letters, truncation=False):
        """Ids of both strands, or None for a problem."""
        if "".join(letters).upper() in ("NA", "NAN", "ND", "NTC", "TBD", "WT"):
            return None
        letters = [self.letter(letter) for letter in letters]
        if not letters or None in letters:
            return None
        left, right = len(self.flank5), len(self.flank3)
        end = len(letters) - right
        if self.trimming == "always":
            if end < left:
                return None
            letters = letters[left:end]
        if self.trimming == "auto" and end >= left:
            flanked = letters[:left] == list(self.flank5) and letters[end:] == list(self.flank3)
            letters = letters[left:end] if flanked else letters
        if not letters:
            return None
        if truncation:
            from_left = True  # the last one taken is from the right
            surplus = max(len(letters) - self.strand_length, 0)
            for step in range(surplus):
                from_left = (surplus - step) % 2 == 0
                letters = letters[1:] if from_left else letters[:-1]
        if len(letters) > self.strand_length or set(letters) == {"N"}:
            return None
        while len(letters) < self.strand_length:
            letters = [*letters, "N"] if (self.strand_length - len(letters)) % 2 else ["N", *letters]
        pairs = dict(zip("ACGT", "TGCA", strict=True))
        other = [pairs.get(letter, letter) for letter in reversed(letters)]
        return [[*"ACGTN", MASK].index(letter) for letter in letters + other]


@st.composite
def tokenizer_settings(draw):
    return {
        "strand_length": LENGTH,
        "kmer_size": 3,
        "flank5": draw(st.sampled_from(["", "AC", "GATTA"])),
        "flank3": draw(st.sampled_from(["", "T", "GGT"])),
        "trimming": draw(st.sampled_from(["auto", "always", "never"])),
    }


@st.composite
def batches(draw, letters):
    """Settings and sequences, some with flanks."""
    settings_ = draw(tokenizer_settings())
    rows = draw(st.lists(letters, min_size=1, max_size=8))
    flanked = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    rows = [
        [*settings_["flank5"], *row, *settings_["flank3"]] if has_flanks else row
        for row, has_flanks in zip(rows, flanked, strict=True)
    ]
    return settings_, rows


def slow_of(settings_):
    return SlowTokenizer(**{name: value for name, value in settings_.items() if name != "kmer_size"})


@fast
@given(batches(any_letters), st.booleans())
def test_batch_equals_the_slow_tokenizer(batch, truncation):
    settings_, rows = batch
    tokenizer, texts = KmerTokenizer(**settings_), ["".join(row) for row in rows]
    expected = [slow_of(settings_).encode(row, truncation) for row in rows]
    for text, ids in zip(texts, expected, strict=True):
        if ids is None:
            with pytest.raises(ValueError, match=r"^(?!sequence \d)"):
                tokenizer(text, truncation=truncation)
        else:
            assert tokenizer(text, truncation=truncation)["input_ids"] == ids
    if None in expected:
        first = expected.index(None)
        with pytest.raises(ValueError, match=f"^sequence {first} of the batch: "):
            tokenizer(texts, truncation=truncation)
    else:
        assert tokenizer(texts, truncation=truncation)["input_ids"] == expected


@fast
@given(batches(st.lists(st.sampled_from("ACGTUNacgtRYMXé"), max_size=20)), st.booleans(), st.data())
def test_arrow_buffers_equal_texts(batch, truncation, data):
    settings_, rows = batch
    tokenizer, slow = KmerTokenizer(**settings_), slow_of(settings_)
    start = data.draw(st.integers(0, len(rows) - 1))
    large = data.draw(st.booleans())
    column = pa.array(["".join(row) for row in rows], pa.large_string() if large else pa.string())[start:]
    _, offsets, letters = column.buffers()
    offsets = np.frombuffer(offsets, np.int64 if large else np.int32)[start : len(rows) + 1]
    strands = tokenizer.encode_strands(np.frombuffer(letters or b"", np.uint8), offsets, truncation)
    assert strands.ids.shape == (len(rows) - start, LENGTH)
    assert (strands.ids.dtype, strands.lengths.dtype, strands.problem.dtype) == (np.uint8, np.int64, np.uint8)
    for row, ids, problem in zip(rows[start:], strands.ids, strands.problem, strict=True):
        expected = slow.encode(row, truncation)
        assert (problem == 0) == (expected is not None), (row, PROBLEMS[problem])
        assert ids.tolist() == ([4] * LENGTH if expected is None else expected[:LENGTH])


@pytest.mark.parametrize(
    ("text", "trimming", "problem"),
    [
        ("ACGT", "never", ""),
        ("", "never", "empty sequence"),
        ("ACGG", "auto", "empty sequence"),
        ("ACG", "always", "shorter than the flanks"),
        ("A" * 12 + "C", "always", ""),
        ("A" * 13, "never", "longer than strand_length"),
        ("ACXT", "never", "letter that is not DNA"),
        ("A" * 30 + "X", "never", "letter that is not DNA"),
        ("X", "always", "letter that is not DNA"),
    ],
)
def test_problem_of_a_row(text, trimming, problem):
    tokenizer = KmerTokenizer(strand_length=12, kmer_size=3, flank5="AC", flank3="GG", trimming=trimming)
    letters = np.frombuffer(text.encode(), np.uint8)
    strands = tokenizer.encode_strands(letters, np.array([0, len(letters)]))
    assert PROBLEMS[strands.problem[0]] == problem


def test_lengths_are_those_before_truncation():
    tokenizer = KmerTokenizer(strand_length=4, kmer_size=3, flank5="AC", flank3="G")
    for truncation in (True, False):
        strands = tokenizer.encode_strands(np.frombuffer(b"ACTTTTTGAAA", np.uint8), np.array([0, 8, 11]), truncation)
        assert strands.lengths.tolist() == [5, 3] and strands.trimmed.tolist() == [True, False]


@fast
@given(st.lists(st.integers(0, 5), max_size=30))
def test_reverse_complement_equals_the_slow_one(ids):
    expected = [(3, 2, 1, 0, 4, 5)[base] for base in reversed(ids)]
    array = np.array(ids, dtype=np.uint8)
    assert reverse_complement(np.stack([array, array])).tolist() == [expected, expected]
    assert reverse_complement(array).dtype == np.uint8


@fast
@given(dna_letters.filter(bool))
def test_round_trip(letters):
    normal = [SlowTokenizer.letter(letter) for letter in letters]
    if normal[0] == "N" or normal[-1] == "N":
        normal = ["A", *normal, "C"]
        letters = ["a", *letters, "c"]
    tokenizer = KmerTokenizer(strand_length=22, trimming="never")
    ids = tokenizer("".join(letters))["input_ids"]
    assert tokenizer.decode(ids) == "".join(normal)
    assert tokenizer.decode(torch.tensor(ids)) == "".join(normal)
    assert tokenizer.batch_decode([ids, ids]) == ["".join(normal)] * 2
    assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids
    plain = "".join(letter for letter in normal if letter in "ACGT")
    assert tokenizer.decode(ids, skip_special_tokens=True) == plain


def test_default_flanks_are_those_of_the_challenge():
    variable, tokenizer = "ACGTTGCAAC" * 8, KmerTokenizer()
    assert (len(FLANK5), len(FLANK3)) == (17, 13)
    ids = tokenizer(FLANK5.lower() + variable + FLANK3)["input_ids"]
    assert ids == tokenizer(variable)["input_ids"]
    assert ids[:11] == [4] * 10 + [0] and ids[89:91] == [1, 4]


def test_vocabulary_is_that_of_the_config():
    config, tokenizer = MacaronConfig(), KmerTokenizer(kmer_size=3, strand_length=7)
    assert len(tokenizer) == config.vocab_size == tokenizer.vocab_size == len(tokenizer.get_vocab())
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (config.pad_token_id, config.mask_token_id)
    assert tokenizer.model_max_length == 14
    assert tokenizer.convert_ids_to_tokens(list(range(6))) == [*"ACGTN", MASK]
    assert tokenizer.convert_tokens_to_ids([*"ACGTN", MASK]) == list(range(6))


@pytest.mark.parametrize("kmer_size", [1, 2, 3, 6, 10])
def test_kmers_are_the_windows_of_the_embedding(kmer_size):
    tokenizer = KmerTokenizer(kmer_size=kmer_size, strand_length=8, trimming="never")
    text = "ACG[MASK]TNA"
    config = MacaronConfig(
        kmer_size=kmer_size, strand_length=8, hidden_size=8, head_dim=8, intermediate_size=8, num_hidden_layers=1
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    one_hot = torch.nn.functional.one_hot(ids, 6).float()
    windows = MacaronEmbeddings(config).sliding_kmers(one_hot)[0].view(16, kmer_size, 6)
    kmers = tokenizer.kmers(text)
    assert len(kmers) == 16
    letters = [*"ACGTN", MASK]
    for window, kmer in zip(windows, kmers, strict=True):
        shown = ["-" if row.sum() == 0 else letters[int(row.argmax())] for row in window]
        assert kmer == "".join(shown)


@pytest.mark.parametrize("return_tensors", ["np", "pt"])
def test_tensors(return_tensors):
    tokenizer = KmerTokenizer(strand_length=9, kmer_size=3)
    texts = ["ACGT", "ttgac"]
    batch = tokenizer(texts, return_tensors=return_tensors, padding=True)
    assert list(batch) == ["input_ids"]
    assert batch["input_ids"].tolist() == tokenizer(texts)["input_ids"]
    assert batch["input_ids"].shape == (2, 18)
    assert str(batch["input_ids"].dtype).endswith("int64")
    single = tokenizer("ACGT", return_tensors=return_tensors)["input_ids"]
    assert single.reshape(-1).tolist() == tokenizer("ACGT")["input_ids"]
    assert single.shape == (1, 18)
    assert tokenizer([])["input_ids"] == []


@pytest.mark.parametrize(
    ("text", "options", "parts"),
    [
        ("ACGTXA", {}, ["'X'", "position 5"]),
        ("acgé", {}, ["'é'", "position 4"]),
        ("AC G-T", {}, ["'-'", "position 4"]),
        ("1acgt", {}, ["digit '1'", "position 1"]),
        (" nan", {}, ["missing sequence 'nan'"]),
        ("nNnN", {}, ["no A, C, G or T in the sequence"]),
        ("ACCANNNGGT", {}, ["no A, C, G or T in the sequence between its flanks"]),
        ("A" * 5 + "N" * 40 + "A" * 5, {"truncation": True}, ["no A, C, G or T"]),
        ("A[MASK]CGT!", {}, ["'!'", "position 11"]),
        ("A[MASK", {}, ["'['", "position 2"]),
        ("A" * 60 + "@", {"truncation": True}, ["'@'", "position 61"]),
        ("\U0001f600ACGT", {}, ["'\U0001f600'", "position 1"]),
        ("ACGT\x00", {}, ["position 5"]),
        ("", {}, ["empty sequence"]),
        ("A" * 21, {}, ["21 nt are more than the 20", "`strand_length`", "truncation=True"]),
        ("A[MASK]" * 11, {}, ["22 nt"]),
        ("ACCA" + "A" * 21 + "GGT", {}, ["21 nt"]),
        ("ACCAGGT", {}, ["nothing is left", "flanks"]),
    ],
)
def test_errors_name_position_and_letter_or_length(tiny_tokenizer, text, options, parts):
    with pytest.raises(ValueError, match=r".") as single:
        tiny_tokenizer(text, **options)
    with pytest.raises(ValueError, match=r".") as batch:
        tiny_tokenizer(["ACGT", text, "CGTA"], **options)
    for part in parts:
        assert part in str(single.value)
    assert str(batch.value) == f"sequence 1 of the batch: {single.value}"


def test_a_mask_counts_as_one_nucleotide():
    with pytest.raises(ValueError, match=r"\b25 nt .*17 \+ 13 nt"):
        KmerTokenizer(trimming="always")("A" * 24 + MASK)


@pytest.mark.parametrize("text", [3, None, b"ACGT", ["ACGT", 3], ["ACGT", None]])
def test_other_types_are_rejected(tiny_tokenizer, text):
    with pytest.raises(ValueError, match=r"DNA as a str|`text`"):
        tiny_tokenizer(text)


def test_pairs_other_lengths_and_unknown_ids_are_rejected(tiny_tokenizer):
    with pytest.raises(ValueError, match="pairs"):
        tiny_tokenizer("ACGT", "ACGT")
    with pytest.raises(ValueError, match="max_length=10"):
        tiny_tokenizer("ACGT", max_length=10, truncation=True)
    with pytest.raises(ValueError, match="unknown token id 6"):
        tiny_tokenizer.decode([0, 6])


@pytest.mark.parametrize(
    "options",
    [
        {"kmer_size": 0},
        {"kmer_size": 2.5},
        {"strand_length": -1},
        {"strand_length": 10**10},
        {"trimming": "sometimes"},
        {"flank5": "ACGN"},
        {"flank3": 5},
        {"kmer_size": 11, "strand_length": 5},
    ],
)
def test_impossible_settings_are_rejected_by_name(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        KmerTokenizer(**options)


@settings(deadline=None, max_examples=10)
@given(tokenizer_settings())
def test_saved_settings_load(tmp_path_factory, settings_):
    folder = tmp_path_factory.mktemp("saved")
    KmerTokenizer(**settings_).save_pretrained(folder)
    for loaded in (
        KmerTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True),
    ):
        assert {name: getattr(loaded, name) for name in settings_} == settings_
        assert len(loaded) == 6
        text = settings_["flank5"] + "ANC" + settings_["flank3"]
        assert loaded(text)["input_ids"] == KmerTokenizer(**settings_)(text)["input_ids"]
    assert type(loaded).__module__.startswith("transformers_modules.")
    assert not list(folder.glob("vocab*"))


def test_examples_of_the_documentation_run():
    result = doctest.testmod(tokenization_kmer)
    assert result.attempted >= 4
    assert result.failed == 0
