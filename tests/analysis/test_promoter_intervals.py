"""Promoters as intervals of a genome: read from BED, and what lies in them."""

import gzip

from hypothesis import given
from hypothesis import strategies as st

from modeling_macaron.analysis.genome import Promoter, read_promoters
from modeling_macaron.analysis.genome_variants import _by_contig, _merged, _overlapping


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(0, 40),
    st.integers(1, 9),
)
def test_overlaps_and_regions_equal_slow_ones(intervals, start, length):
    promoters = [Promoter("c", a, a + n, str(i), "+") for i, (a, n) in enumerate(intervals)]
    contig = _by_contig(promoters)["c"]
    inside = set(range(start, start + length))
    slow = {p for p in promoters if inside & set(range(p.start, p.end))}
    got = _overlapping(contig, start, start + length)
    assert len(got) == len(slow)
    assert set(got) == slow
    regions = list(_merged(contig))
    covered = {i for p in promoters for i in range(p.start, p.end)}
    assert {i for a, b in regions for i in range(a, b)} == covered
    assert all(regions[i][1] < regions[i + 1][0] for i in range(len(regions) - 1))


def test_promoters_of_twelve_columns(tmp_path):
    more = "\t".join("123456")
    (tmp_path / "p.bed").write_text(
        f"track a\n# a b\nc\t0\t7\tp\t0\t-\nc\t1\t7\tq\t0\t+\t{more}\nc\t2\t7\tr\t0\t-\t1\n"
    )
    assert [promoter.name for promoter in read_promoters(tmp_path / "p.bed")] == ["p", "q", "r"]


def test_promoters_of_a_bed_file(tmp_path):
    lines = (
        'browser position chr1\ntrack name=a\n#c\ttracks\nchrM\t0\t7\t.\t.\t-\textra\r\n\nNA\t3\t5\ttracks "x\t1\t+\n'
    )
    (tmp_path / "p.bed").write_text(lines)
    expected = [Promoter("chrM", 0, 7, "chrM:1-7", "-"), Promoter("NA", 3, 5, 'tracks "x', "+")]
    assert read_promoters(tmp_path / "p.bed") == expected
    (tmp_path / "p.bed.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_promoters(tmp_path / "p.bed.gz") == expected
