import pytest
from hypothesis import given
from hypothesis import strategies as st

from space.reading import (
    BadInput,
    Limits,
    Pasted,
    Promoter,
    doubt_lines,
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
        ("1 acgtac gtacgt 13 acg", [("", "acgtacgtacgtacg", 1)]),
        (">one\n1 acgtac gtacgt\n13 acg", [("one", "acgtacgtacgtacg", 1)]),
        ("5\u2032 ACGT 3\u2032", [("", "ACGT", 1)]),
        ("\ufeff>one name\nAC\nGT\n\n>two\nT", [("one name", "ACGT", 1), ("two", "T", 5)]),
        (">\nACGT", [("", "ACGT", 1)]),
    ],
)
def test_pasted_text_is_split(text, expected):
    assert read_pasted(text, LIMITS) == [Pasted(*one) for one in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Paste a promoter first"),
        (None, "Paste a promoter first"),
        (" \n\t\n", "Paste a promoter first"),
        ("A" * 201, "201 characters; at most 200"),
        ("A\n" * 4, "4 promoters; at most 3"),
        (">one\n>two\nACGT", "“one” .line 1. has a name but no sequence"),
        ("ACGT\n>two\nACGT", "Line 2 begins with >"),
    ],
)
def test_pasted_text_that_cannot_be_split(text, message):
    with pytest.raises(BadInput, match=message):
        read_pasted(text, LIMITS)


@pytest.mark.parametrize(
    ("text", "sequence", "notes"),
    [
        ("ACGTACGTACGTACGTACGT", "ACGTACGTACGTACGTACGT", ()),
        ("acguR", "ACGTN", ("5 nt long: padded to 20 with N, 7 before and 8 after it.",
                            "1 ambiguous base read as N (including R).", "U was read as T.")),
        ("ACCA" + "ACGTACGTACGTACGTACNN" + "GGT", "ACGTACGTACGTACGTACNN",
         ("The constant flanks were trimmed: 4 nt at the 5' end, 3 nt at the 3' end.",
          "2 ambiguous bases read as N.")),
    ],
)  # fmt: skip
def test_notes_describe_what_the_model_reads(tiny_tokenizer, text, sequence, notes):
    found = read_one(tiny_tokenizer, text, LIMITS)
    assert found == Promoter("", sequence, notes, found.warnings)


@pytest.mark.parametrize(
    ("text", "sequence", "note"),
    [
        ("accaUU" + "T" * 16, "T" * 18, "The constant 5' flank was trimmed (4 nt); the 3' flank is missing"),
        ("C" * 20 + "GGT", "C" * 20, "The constant 3' flank was trimmed (3 nt); the 5' flank is missing."),
        ("CACCATTTTGGTC", "CACCATTTTGGTC", ""),
    ],
)
def test_single_flanks_are_trimmed_and_reported(tiny_tokenizer, text, sequence, note):
    found = read_one(tiny_tokenizer, text, LIMITS)
    assert found.sequence == sequence
    assert any("flank" in one for one in found.notes) == bool(note) and (not note or found.notes[0].startswith(note))


@pytest.mark.parametrize(
    ("text", "known"),
    [("A", 1), ("ACGTACGTA", 9), ("ACGTACGTAC", None), ("ACGTACGTAC" + "N" * 10, None)],
)
def test_mostly_unknown_promoters_give_a_warning(tiny_tokenizer, text, known):
    told = read_one(tiny_tokenizer, text, LIMITS).warnings
    expected = f"Only {known} of the 20 nt that the model reads are known: do not trust this prediction."
    assert told == (() if known is None else (expected,))


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("ACGTACGTAC\nACGTACGTAC", True),
        ("ACCAACGTACGTAC\nACGTACGTAC\nGGT", True),
        ("ACGTACGTACGT\nACGTACGTACGT", False),
        (">one\nACGT\n>two\nACGT", False),
        ("ACGT", False),
        ("ACGT\nAXGT", False),
    ],
)
def test_sequences_over_several_lines_give_a_warning(tiny_tokenizer, text, warned):
    told = doubt_lines(text, LIMITS, tiny_tokenizer)
    assert told.startswith(f"Each of the {text.count(chr(10)) + 1} lines") if warned else told == ""


def test_long_sequences_are_rejected_or_cut(tiny_tokenizer):
    pasted = read_pasted("T" + "ACGTACGTACGTACGTACGT" + "CC", LIMITS)
    (refused,) = read_promoters(tiny_tokenizer, pasted)
    assert isinstance(refused, BadInput) and "23 nt are too many: the model reads up to 20 nt" in str(refused)
    (cut,) = read_promoters(tiny_tokenizer, pasted, keep_middle=True)
    assert cut.sequence == "ACGTACGTACGTACGTACGT"
    assert cut.notes == ("Too long by 3 nt: 1 were cut off at the 5' end and 2 at the 3' end.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ACXT", "character “X” at position 3 is not DNA"),
        ("ACG,0.5", "“,” at position 4: paste the DNA alone"),
        ("1acgt", "a number at position 1"),
        ("N/A", "“N/A” marks a missing value"),
        ("nan", "“nan” marks a missing value"),
        ("N" * 20, "The sequence has no A, C, G or T"),
        ("AC--GT", "“-” at position 3: write N"),
        ("AC[MASK]T", "character “\\[” at position 3"),
        ("hello", "This does not look like DNA: it has E, L, O."),
        ("MKVLAAG", "This looks like a protein, not like DNA: it has L."),
        ("ACUX", "Use A, C, G, T, U, or N and other IUPAC codes"),
        ("ACſT", "character “ſ” at position 3"),  # noqa: RUF001  its capital is S, an IUPAC code
        ("ACGT\nACGT", "Enter one promoter, not 2"),
        ("3'", "The sequence has no DNA"),
        ("ACCAGGT", "The sequence has no DNA"),
    ],
)
def test_messages_about_invalid_promoters(tiny_tokenizer, text, message):
    with pytest.raises(BadInput, match=message) as caught:
        read_one(tiny_tokenizer, text, LIMITS, "start")
    assert caught.value.field == "start"


@given(text=st.text(max_size=60) | st.text("ACGTNacgtRU>5'-3 \n[MASK],", max_size=60))
def test_any_text_is_read_or_rejected_with_a_message(tiny_tokenizer, text):
    try:
        promoter = read_one(tiny_tokenizer, text, LIMITS)
    except BadInput as error:
        assert not str(error)[0].islower() and str(error)[-1] in ".)" and len(str(error)) > 20
    else:
        assert set(promoter.sequence) <= set("ACGTN") and 1 <= len(promoter.sequence) <= 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A12G", ("A", 12, "G")),
        (" cg4c ", ("CG", 4, "C")),
        ("12T>G", ("T", 12, "G")),
        ("T12>g", ("T", 12, "G")),
        ("T12del", ("T", 12, "")),
        ("12delTA", ("TA", 12, "")),
        ("5'-ACGT-3'", None),
        (">a1\nACGT", None),
        ("1 " + "ACGT" * 20, None),
        ("ACGT", None),
    ],
)
def test_changes(text, expected):
    assert read_change(text) == expected


@pytest.mark.parametrize("text", ["12", "A12", "X1A", "T12G, T13A", "g.12T>G", "12T", "12insA", "p.Gly12Asp"])
def test_invalid_changes(text):
    with pytest.raises(BadInput, match="is not a valid change") as caught:
        read_change(text)
    assert caught.value.field == "alternative"


def test_sites_and_positions():
    assert read_sites(" gaattc; GGTCTC,\nRYN ") == ("GAATTC", "GGTCTC", "RYN")
    assert read_sites(None) == () == read_positions(None, 80) == read_positions(" ", 80)
    assert read_positions("1 - 3, 80;2", 80) == (0, 1, 2, 79)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "within 1 to 80"), ("81", "within 1 to 80"), ("70-81", "within 1 to 80"), ("a", "is not a position"),
        ("3-2", "3-2 runs backwards: write 2-3"), ("1-", "is not a position"), ("-5", "is not a position"),
        ("1-2-3", "is not a position"), ("99999999999999999999", "is not a position"),
    ],
)  # fmt: skip
def test_invalid_positions(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        read_positions(text, 80)
    assert caught.value.field == "positions"
