import pytest
from hypothesis import given
from hypothesis import strategies as st

from space.reading import (
    BadInput,
    Limits,
    Pasted,
    Promoter,
    read_change,
    read_one,
    read_pasted,
    read_positions,
    read_promoters,
    read_sites,
)

LIMITS = Limits(characters=200, promoters=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ACGT", [("", "ACGT", 1)]),
        ("  ac gt\u00a0n \r\n\n TTT\t\n", [("", "acgtn", 1), ("", "TTT", 3)]),
        ("5'-ACGT-3'", [("", "ACGT", 1)]),
        ("5\u2032 ACGT 3\u2032", [("", "ACGT", 1)]),
        ("\ufeff>one name\nAC\nGT\n\n>two\nT", [("one name", "ACGT", 1), ("two", "T", 5)]),
        (">\nACGT", [("", "ACGT", 1)]),
    ],
)
def test_what_is_pasted_is_taken_apart(text, expected):
    assert read_pasted(text, LIMITS) == [Pasted(*one) for one in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Paste a promoter first"),
        (None, "Paste a promoter first"),
        (" \n\t\n", "Paste a promoter first"),
        ("A" * 201, "201 characters; at most 200"),
        ("A\n" * 4, "4 promoters; at most 3"),
        (">one\n>two\nACGT", "“one” .line 1. has a name and no sequence"),
        ("ACGT\n>two\nACGT", "Line 2 begins with >"),
    ],
)
def test_what_cannot_be_taken_apart(text, message):
    with pytest.raises(BadInput, match=message):
        read_pasted(text, LIMITS)


@pytest.mark.parametrize(
    ("text", "sequence", "notes"),
    [
        ("ACGTACGTACGTACGTACGT", "ACGTACGTACGTACGTACGT", ()),
        ("acguR", "ACGTN", ("5 nt long: padded to 20 with N, 7 before and 8 after it.",
                            "1 ambiguous letter read as N (R among them).", "U was read as T.")),
        ("ACCA" + "ACGTACGTACGTACGTACNN" + "GGT", "ACGTACGTACGTACGTACNN",
         ("The constant flanks were trimmed: 4 nt at the 5' end, 3 nt at the 3' end.",
          "2 ambiguous letters read as N.")),
    ],
)  # fmt: skip
def test_what_the_model_reads_is_told(tiny_tokenizer, text, sequence, notes):
    assert read_one(tiny_tokenizer, text, LIMITS) == Promoter("", sequence, notes)


def test_too_long_is_refused_or_cut(tiny_tokenizer):
    pasted = read_pasted("T" + "ACGTACGTACGTACGTACGT" + "CC", LIMITS)
    (refused,) = read_promoters(tiny_tokenizer, pasted)
    assert isinstance(refused, BadInput) and "23 nt are too many: the model reads the 20 nt" in str(refused)
    (cut,) = read_promoters(tiny_tokenizer, pasted, keep_middle=True)
    assert cut.sequence == "ACGTACGTACGTACGTACGT"
    assert cut.notes == ("Too long by 3 nt: 1 were cut off at the 5' end and 2 at the 3' end.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ACXT", "letter “X” at position 3 is not DNA"),
        ("ACG,0.5", "“,” at position 4: paste the DNA alone"),
        ("1 acgt", "a number at position 1"),
        ("AC--GT", "“-” at position 3: write N"),
        ("AC[MASK]T", "letter “\\[” at position 3"),
        ("ACſT", "letter “ſ” at position 3"),  # noqa: RUF001  its capital is S, which is a letter of IUPAC
        ("ACGT\nACGT", "One promoter, please: here are 2"),
        ("3'", "There is no DNA in it"),
        ("ACCAGGT", "There is no DNA in it"),
    ],
)
def test_sentences_on_what_is_no_promoter(tiny_tokenizer, text, message):
    with pytest.raises(BadInput, match=message) as caught:
        read_one(tiny_tokenizer, text, LIMITS, "start")
    assert caught.value.field == "start"


@given(text=st.text(max_size=60) | st.text("ACGTNacgtRU>5'-3 \n[MASK],", max_size=60))
def test_any_text_is_read_or_refused_with_a_sentence(tiny_tokenizer, text):
    try:
        promoter = read_one(tiny_tokenizer, text, LIMITS)
    except BadInput as error:
        assert str(error)[0].isupper() and str(error)[-1] in ".)" and len(str(error)) > 20
    else:
        assert set(promoter.sequence) <= set("ACGTN") and 1 <= len(promoter.sequence) <= 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A12G", ("A", 12, "G")),
        (" cg4c ", ("CG", 4, "C")),
        ("ACGT", None),
        ("12", None),
        ("A12", None),
        ("X1A", None),
    ],
)
def test_changes(text, expected):
    assert read_change(text) == expected


def test_sites_and_positions():
    assert read_sites(" gaattc; GGTCTC,\nRYN ") == ("GAATTC", "GGTCTC", "RYN")
    assert read_sites(None) == () == read_positions(None, 80) == read_positions(" ", 80)
    assert read_positions("1 - 3, 80;2", 80) == (0, 1, 2, 79)


@pytest.mark.parametrize("text", ["0", "81", "3-2", "a", "1-", "-5", "1-2-3", "99999999999999999999"])
def test_positions_that_are_none(text):
    with pytest.raises(BadInput) as caught:
        read_positions(text, 80)
    assert caught.value.field == "positions"
