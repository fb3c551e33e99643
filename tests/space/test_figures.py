import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from modeling_macaron.analysis.design import Design
from modeling_macaron.analysis.mutagenesis import Mutagenesis
from modeling_macaron.dna import Difference, where_they_differ
from space import figures
from space.answers import ComparedAlleles, MutatedPromoter, PredictedPromoter, Substitution
from space.reading import Promoter
from space.searching import DesignedPromoters
from space.uploads import PredictedFile

EVIL = '<img src=x onerror="alert(1)">'


def downloaded(html):
    """Return the name and content of a link's file."""
    name, content = re.search(r'download="([^"]*)" href="data:[a-z/.-]+;base64,([^"]*)"', html).groups()
    return name, base64.b64decode(content).decode()


def parsed(html):
    """Parse the answer as XML, which checks that all tags are closed."""
    return ElementTree.fromstring(f"<div>{html.replace('<wbr>', '')}</div>")


@pytest.mark.parametrize(
    ("value", "expected"), [(0.256, "+0.26"), (-0.256, "\u22120.26"), (0.001, "0.00"), (-0.001, "0.00"), (0, "0.00")]
)  # fmt: skip
def test_signs(value, expected):
    assert figures.signed(value) == expected


def test_input_is_escaped(reference):
    promoter = Promoter(EVIL, "ACGT", (EVIL,))
    fine = PredictedPromoter(EVIL, promoter, 0.5, 60.0, None, "")
    bad = PredictedPromoter(EVIL, None, None, None, None, EVIL)
    file = PredictedFile(
        f"{EVIL}.csv", b"a", 2, 1, 1, 1, 2, 1, np.array([0.5]), EVIL, ((1, EVIL, 0.5),), ((2, EVIL),), ((3, EVIL),)
    )
    for html in (
        figures.predicted_one(fine, reference), figures.predicted_many([fine, bad], reference, EVIL),
        figures.problem(EVIL), figures.predicted_file(file, reference), figures.ended(EVIL),
        figures.progressing(EVIL, 1, 2), figures.warnings([EVIL]),
    ):  # fmt: skip
        assert "<img" not in html and "&lt;img" in html
        parsed(html)


def test_a_table_of_predictions_can_be_saved(reference):
    promoter = Promoter("a", "ACGT", ())
    answers = [
        PredictedPromoter("=1+1", promoter, 0.123456789, 50.0, None, ""),
        PredictedPromoter("", None, None, None, None, "no, DNA"),
    ]
    html = figures.predicted_many(answers, reference)
    assert "1 of 2 promoters predicted, 1 not" in html
    assert downloaded(html) == (
        "predictions.csv",
        'name,sequence,predicted_expression,problem\n\'=1+1,ACGT,0.123457,\n2,,,"no, DNA"\n',
    )


@pytest.mark.parametrize(("percentile", "told"), [(0.0, "below all"), (100.0, "above all"), (36.6, "higher than 37 %")])
def test_predictions_are_compared_with_measurements(percentile, told, reference):
    answer = PredictedPromoter("", Promoter("", "ACGT", ()), 0.1, percentile, -0.25, "")
    html = figures.predicted_one(answer, reference)
    assert told in html and "Measured: <strong>\u22120.25" in html


def test_marks_of_the_histogram_stand_at_the_values(reference):
    html = figures.histogram(reference, [reference.edges[0] - 1, reference.edges[20], reference.edges[-1]])
    bars = [float(x) for x in re.findall(r'class="bar" x="([\d.]+)"', html)]
    marks = [float(x) for x in re.findall(r'class="mark" d="M([\d.]+)', html)]
    assert len(bars) == len(reference.counts)
    assert marks == pytest.approx([bars[0], bars[20], 470.0], abs=0.1)


@pytest.mark.parametrize("length", [1, 20, 21, 45])
def test_each_cell_describes_its_substitution(length):
    sequence = ("ACGTN" * 9)[:length]
    deltas = np.linspace(-1, 2, 4 * length).reshape(length, 4)
    for position, letter in enumerate(sequence):
        if letter != "N":
            deltas[position, "ACGT".index(letter)] = 0
    root = parsed(figures.mutation_map(Mutagenesis(sequence, 0.5, deltas)))
    cells = [element for element in root.iter() if "cell" in element.get("class", "").split()]
    assert len(cells) == 4 * length
    assert len(list(root.iter("svg"))) == -(-length // 20)
    for cell in cells:
        row, column = int(cell.get("data-row")), int(cell.get("data-column"))
        base, letter = "ACGT"[row], sequence[column]
        told = f"{letter} to {base} at position {column + 1}: {figures.signed(deltas[column, row])}"
        if base == letter:
            told = f"{letter} at position {column + 1}: no change, prediction 0.50"
        assert cell.get("data-told") == told == cell.find("title").text
        if base != letter:
            assert cell.get("class") == ("cell up" if deltas[column, row] > 0 else "cell down")


@pytest.mark.parametrize(
    ("reference", "alternative", "lines", "told"),
    [
        ("ACGT", "AGGT", ("ACGT", "AGGT"), "From position 2: C in the reference, G in the alternative"),
        ("ACGT", "ACGTTT", ("ACGT--", "ACGTTT"), "nothing in the reference, TT"),
        ("ACGT" * 6, "ACGT" * 4 + "GT" + "ACGT", ("ACGT" * 6, "ACGT" * 4 + "--GTACGT"), "nothing in the alternative"),
    ],
)  # fmt: skip
def test_alignments(reference, alternative, lines, told):
    html = figures.alignment(reference, where_they_differ(reference, alternative))
    letters = re.findall(r'y="(12|32)\.0" text-anchor="middle">(.)<', html)
    assert "".join(letter for y, letter in letters if y == "12") == lines[0]
    assert "".join(letter for y, letter in letters if y == "32") == lines[1]
    assert told in html
    assert html.count("<rect") == sum(a != b for a, b in zip(*lines, strict=True))


def test_an_alignment_counts_positions_of_the_reference_and_shows_what_is_cut():
    html = figures.alignment("ACGTACGTACGTACG", Difference(4, "", "TT"), num_cut=3)
    letters = re.findall(r'y="(12|32)\.0" text-anchor="middle">(.)<', html)
    assert "".join(letter for y, letter in letters if y == "12") == "ACGT--ACGTACGTACG"
    assert "".join(letter for y, letter in letters if y == "32") == "---TTTACGTACGTACG"
    ticks = re.findall(r'class="tick" x="([\d.]+)" y="48" text-anchor="middle">(\d+)<', html)
    assert [(float(x), told) for x, told in ticks] == [(26.0, "1"), (18 + 11 * 16 + 8, "10")]


def test_both_orientations_are_shown():
    pair = [Promoter("", "ACGT", ("note",)), Promoter("", "AGGT", (), ("doubt",))]
    difference = Difference(1, "C", "G")
    html = figures.compared(ComparedAlleles(*pair, (1.0, 1.5), (1.0, 0.9), difference, num_cut=2))
    assert re.findall(r"<output>(.*?)</output>", html) == ["+0.500", "+0.500", "\u22120.100", "+0.200"]
    assert "Reference: note" in html and "Alternative: 2 nt were cut off" in html
    assert '<p class="warning">Alternative: doubt</p>' in html


@pytest.mark.parametrize(
    ("before", "after", "told"), [(1.3249, 1.2751, "\u22120.04"), (1.0, 1.004, "0.00"), (-0.004, 0.006, "+0.01")]
)
def test_changes_are_differences_of_rounded_values(before, after, told):
    assert figures.change(before, after) == told


def test_all_substitutions_can_be_saved():
    all_of_them = [Substitution(1, "A", "C", 0.25), Substitution(1, "A", "G", -0.5)]
    result = Mutagenesis("A", 0.5, np.array([[0, 0.25, -0.5, 0.0]]))
    html = figures.mutated(MutatedPromoter(Promoter("", "A", (), ("doubt",)), result, all_of_them, all_of_them[1:]))
    assert downloaded(html) == ("substitutions.csv", "position,reference,alternative,delta\n1,A,C,0.25\n1,A,G,-0.5\n")
    assert "all 2 substitutions" in html and html.count("<td>") == 4 and '<p class="warning">doubt</p>' in html
    assert html.count('class="own"') == 1


def test_warnings_are_shown_with_predictions(reference):
    promoter = Promoter("", "A", (), ("doubt",))
    one = PredictedPromoter("", promoter, 0.5, 60.0, None, "")
    html = figures.predicted_one(one, reference)
    assert '<p class="warning">doubt</p>' in html and "higher than" not in html
    many = figures.predicted_many([one, one], reference, "lines")
    assert many.count(">doubt<") == 2 and '<p class="warning">lines</p>' in many


def test_many_values_are_drawn_as_a_distribution(reference):
    html = figures.histogram(reference, np.linspace(-3, 3, 101))
    assert html.count('class="outline"') == 1 and 'class="mark"' not in html and "of the 101 predictions" in html
    assert figures.histogram(reference, np.linspace(-3, 3, 100)).count('class="mark"') == 100


@pytest.mark.parametrize(
    ("low", "high", "names"),
    [
        (-1.4018, 1.6598, ["\u22121.0", "\u22120.5", "0.0", "0.5", "1.0", "1.5"]),
        (0, 18.7, ["0", "5", "10", "15"]),
        (1000.5, 1200, ["1050", "1100", "1150"]),
        (0.0011, 0.0032, ["0.0015", "0.0020", "0.0025", "0.0030"]),
    ],
)
def test_ticks_are_few_and_round_on_every_scale(reference, low, high, names):
    scaled = reference._replace(edges=np.linspace(low, high, len(reference.edges)))
    html = figures.histogram(scaled, [low], 4)
    assert re.findall(r'class="tick".*?>(.*?)<', html) == names


def test_without_a_reference_only_predictions_are_shown():
    one = PredictedPromoter("", Promoter("", "A", ()), 0.5, None, None, "")
    bad = PredictedPromoter("", None, None, None, None, "no DNA")
    file = PredictedFile("a.csv", b"a", 1, 0, 0, 0, 0, 0, np.array([0.5]), "id", ((1, "x", 0.5),), (), ())
    for html in (
        figures.predicted_one(one, None), figures.predicted_many([one, bad], None), figures.predicted_file(file, None),
    ):  # fmt: skip
        parsed(html)
        assert "0.50" in html and "histogram" not in html and "Percentile" not in html and "training" not in html


def test_digits_follow_the_scale():
    pair = [Promoter("", "A", ()), Promoter("", "C", ())]
    design = Design("A", "C", 0.0012, 0.0034, ((0, "A", "C"),), None, False, 0)
    one = PredictedPromoter("", pair[0], 0.00123, None, 0.00234, "")
    substitution = Substitution(1, "A", "C", 0.00123)
    deltas = np.array([[0, 0.00123, -0.0005, 0.0]])
    mutated = MutatedPromoter(pair[0], Mutagenesis("A", 0.0041, deltas), (substitution,), (substitution,))
    compared = ComparedAlleles(*pair, (0.001, 0.002), (0.001, 0.003), Difference(0, "A", "C"))
    for html, texts in (
        (figures.predicted_one(one, None, digits=4), ("0.0012", "0.0023")),
        (figures.mutated(mutated, digits=4), ("0.0041", "+0.0012", "\u22120.0005")),
        (figures.compared(compared, digits=4), ("+0.0010",)),
        (figures.designed(DesignedPromoters(None, (design,), ""), digits=4), ("0.0012", "0.0034", "+0.0022")),
    ):  # fmt: skip
        assert [text for text in texts if text not in html] == []


def test_a_file_names_malformed_lines(reference):
    malformed = ((4, "3 columns instead of 2: 'a'"), (7, "b"), (9, "c"))
    file = PredictedFile("a.csv", b"a", 2, 0, 5, 3, 4, 1, np.array([0.5, 1]), "id", ((1, "x", 0.5),), (), malformed)
    text = "".join(parsed(figures.predicted_file(file, reference)).itertext())
    assert "5 lines of the file are malformed and were left out. Line 4: 3 columns instead of 2" in text
    assert (
        "(and lines 7, 9, \u2026)" in text
        and "3 rows too long" in text
        and "4 rows with less than half of the promoter known" in text
        and "1 row with only one constant flank" in text
    )
    assert "1x0.50" in text.replace(" ", "")
    assert "(and" not in figures.predicted_file(file._replace(num_malformed=1, malformed=malformed[:1]), reference)


def test_designs_can_be_saved_and_their_edits_are_marked():
    design = Design("ACGT", "TCGA", 0.5, 1.25, ((0, "A", "T"), (3, "T", "A")), None, True, 0)
    html = figures.designed(DesignedPromoters(None, (design,), ""))
    assert "<mark>T</mark>CG<mark>A</mark>" in html and "A1T T4A" in html and "far outside" in html
    assert downloaded(html) == (
        "designs.fasta",
        ">start predicted=0.5000\nACGT\n>design_1 predicted=1.2500 edits=A1T,T4A\nTCGA\n",
    )
    assert "No design was found" in figures.designed(DesignedPromoters(None, (), ""))
    html = figures.designed(DesignedPromoters(None, (design,), "Stopped.", ("far away",)))
    assert "Stopped. Below is the best" in html and '<p class="warning">far away</p>' in html
    unchanged = design._replace(sequence="ACGT", expression=0.5, edits=())
    html = figures.designed(DesignedPromoters(None, (unchanged,), ""))
    assert "No edit was found that keeps the rules and brings the start closer" in html
