"""Every pinned package has hashes, and both files name the same versions."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins(name):
    found = re.findall(r"^([\w.-]+)==([\w.+-]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {package.lower().replace("_", "-"): version for package, version in found}


def test_hashes_match_the_constraints():
    pinned = pins("constraints.txt")
    assert pinned.pop("torch")  # its builds differ (CUDA, CPU)
    assert pins("requirements-test.txt") == pinned


def test_every_pin_has_a_hash():
    text = (ROOT / "requirements-test.txt").read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    assert all("--hash=sha256:" in block for block in blocks)
