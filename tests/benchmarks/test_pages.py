"""README and docs show the committed results."""

import json

import pytest

from benchmarks import ablation, report, tour
from benchmarks.pages import render_block


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "page", "render"),
    [
        (ablation, ablation.PAGE, lambda: ablation.render_figures(read(ablation.RESULT), ablation.read_variants())),
        (report, report.README, lambda: report.render_figures(report.read_results())),
        (tour, tour.README, lambda: tour.render_tour(read(tour.RESULT))),
    ],
)
def test_page_shows_the_committed_results(module, page, render):
    assert render_block(module.BLOCK, render()) in page.read_text(encoding="utf-8"), f"run python -m {module.__name__}"
    assert ablation.PLOT.is_file() and report.PLOT.is_file()
