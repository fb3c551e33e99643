import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from modeling_macaron.analysis.design import Design
from modeling_macaron.analysis.mutagenesis import Mutagenesis
from space import figures
from space.answers import ComparedAlleles, PredictedPromoter
from space.reading import Promoter
from space.reference import load_reference
from space.searching import DesignedPromoters
from space.uploads import PredictedFile

EVIL = '<img src=x onerror="alert(1)">'


def downloaded(html):
    """Name and content of the file that a link saves."""
    name, content = re.search(r'download="([^"]*)" href="data:[a-z/.-]+;base64,([^"]*)"', html).groups()
    return name, base64.b64decode(content).decode()


def parsed(html):
    """The answer as XML, in which what is open is closed."""
    return ElementTree.fromstring(f"<div>{html.replace('<wbr>', '')}</div>")


@pytest.mark.parametrize(
    ("value", "expected"), [(0.256, "+0.26"), (-0.256, "\u22120.26"), (0.001, "0.00"), (-0.001, "0.00"), (0, "0.00")]
)  # fmt: skip
def test_signs(value, expected):
    assert figures.signed(value) == expected


def test_nothing_that_was_entered_is_markup():
    reference = load_reference()
    promoter = Promoter(EVIL, "ACGT", (EVIL,))
    fine = PredictedPromoter(EVIL, promoter, 0.5, 60.0, None, "")
    bad = PredictedPromoter(EVIL, None, None, None, None, EVIL)
    file = PredictedFile(f"{EVIL}.csv", b"a", 1, 1, 0, ((1, EVIL),))
    for html in (
        figures.predicted_one(fine, reference), figures.predicted_many([fine, bad], reference), figures.problem(EVIL),
        figures.predicted_file(file), figures.ended(EVIL),
    ):  # fmt: skip
        assert "<img" not in html and "&lt;img" in html
        parsed(html)


def test_a_table_of_predictions_can_be_saved():
    promoter = Promoter("a", "ACGT", ())
    answers = [
        PredictedPromoter("=1+1", promoter, 0.123456789, 50.0, None, ""),
        PredictedPromoter("", None, None, None, None, "no, DNA"),
    ]
    html = figures.predicted_many(answers, load_reference())
    assert "1 of 2 promoters predicted, 1 not" in html
    assert downloaded(html) == (
        "predictions.csv",
        'name,sequence,predicted_expression,problem\n\'=1+1,ACGT,0.123457,\n2,,,"no, DNA"\n',
    )


@pytest.mark.parametrize(("percentile", "told"), [(0.0, "below all"), (100.0, "above all"), (36.6, "higher than 37 %")])
def test_where_a_prediction_stands(percentile, told):
    answer = PredictedPromoter("", Promoter("", "ACGT", ()), 0.1, percentile, -0.25, "")
    html = figures.predicted_one(answer, load_reference())
    assert told in html and "Measured: <strong>\u22120.25" in html


def test_marks_of_the_histogram_stand_at_the_values():
    reference = load_reference()
    html = figures.histogram(reference, [reference.edges[0] - 1, reference.edges[20], reference.edges[-1]])
    bars = [float(x) for x in re.findall(r'class="bar" x="([\d.]+)"', html)]
    marks = [float(x) for x in re.findall(r'class="mark" d="M([\d.]+)', html)]
    assert len(bars) == len(reference.counts)
    assert marks == pytest.approx([bars[0], bars[20], 470.0], abs=0.1)


@pytest.mark.parametrize("length", [1, 20, 21, 45])
def test_each_cell_tells_its_substitution(length):
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
    html = figures.alignment(reference, alternative)
    letters = re.findall(r'y="(12|32)\.0" text-anchor="middle">(.)<', html)
    assert "".join(letter for y, letter in letters if y == "12") == lines[0]
    assert "".join(letter for y, letter in letters if y == "32") == lines[1]
    assert told in html
    assert html.count("<rect") == sum(a != b for a, b in zip(*lines, strict=True))


def test_both_orientations_are_shown():
    pair = [Promoter("", "ACGT", ("note",)), Promoter("", "AGGT", ())]
    html = figures.compared(ComparedAlleles(*pair, (1.0, 1.5), (1.0, 0.9)))
    assert re.findall(r"<output>(.*?)</output>", html) == ["+0.50", "+0.50", "\u22120.10", "+0.20"]
    assert "Reference: note" in html


def test_designs_can_be_saved_and_their_edits_are_marked():
    design = Design("ACGT", "TCGA", 0.5, 1.25, ((0, "A", "T"), (3, "T", "A")), None, True, 0)
    html = figures.designed(DesignedPromoters(None, (design,), ""))
    assert "<mark>T</mark>CG<mark>A</mark>" in html and "A1T T4A" in html and "far outside" in html
    assert downloaded(html) == (
        "designs.fasta",
        ">start predicted=0.5000\nACGT\n>design_1 predicted=1.2500 edits=A1T,T4A\nTCGA\n",
    )
    assert "Nothing was found" in figures.designed(DesignedPromoters(None, (), ""))
