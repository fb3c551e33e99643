"""Saving and reading of the measured values of a model."""

import json

import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError

from modeling_macaron import reference as module
from modeling_macaron.reference import REFERENCE, load_reference, write_reference
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.run import _check_final_is_ours
from tests.training.runs import ONE_STEP, ROOT, run

CHECKPOINT = ROOT / "checkpoints/macaron-promoter-library"


@pytest.fixture(scope="module")
def data(prepared):
    return PreparedData(prepared)


@pytest.mark.parametrize("split", ["training", "validation"])
def test_reference_describes_the_rows(data, tmp_path, split):
    write_reference(tmp_path, "mine.tsv", data, split, save_examples=True)
    found = load_reference(tmp_path)
    held_out = data.validation.__getitems__(range(len(data.validation)))
    rows = data.train.__getitems__(range(len(data.train))) if split == "training" else held_out
    values = rows["labels"].astype(float)
    assert (found.data, found.split, found.num_promoters) == ("mine.tsv", split, len(values))
    assert (found.edges[0], found.edges[-1]) == (values.min(), values.max())
    np.testing.assert_array_equal(found.counts, np.histogram(values, found.edges)[0])
    assert found.percentile_of(np.median(values)) == pytest.approx(50)
    assert (found.percentile_of(-1e9), found.percentile_of(1e9)) == (0, 100)
    measured = {
        "".join("ACGTN"[base] for base in ids): value
        for ids, value in zip(held_out["input_ids"], held_out["labels"], strict=True)
    }
    assert [one.description for one in found.examples] == ["low", "middle", "high"]
    for one in found.examples:
        assert one.measured == pytest.approx(measured[one.sequence], rel=1e-5)
        assert found.measured(one.sequence) == one.measured
    values = [one.measured for one in found.examples]
    assert values == sorted(values) and found.measured("ACGT") is None


def test_examples_lose_their_padding(data, tmp_path, monkeypatch):
    rows = {"input_ids": np.array([[4, 4, 0, 4, 3, 4]]), "labels": np.array([1.5], np.float32)}
    split = type("Rows", (), {"labels": rows["labels"], "__getitem__": lambda *_: rows})
    monkeypatch.setattr(data, "validation", split())
    write_reference(tmp_path, "mine.tsv", data, "validation", save_examples=True)
    assert {one.sequence for one in load_reference(tmp_path).examples} == {"ANT"}


@pytest.mark.parametrize("options", [(), ("--save_examples", "true")])
def test_run_saves_the_reference_and_examples_on_request(prepared, data, tmp_path, options):
    final = run(prepared, tmp_path / "run", *ONE_STEP, *options)
    found = load_reference(final)
    assert (found.data, found.split, found.num_promoters) == ("simulate", "training", len(data.train))
    assert [one.description for one in found.examples] == (["low", "middle", "high"] if options else [])
    if not options:
        assert json.loads((final / REFERENCE).read_text())["examples"] == []
    _check_final_is_ours(final)


def test_checkpoint_has_a_reference(shared):
    import pandas as pd

    found = load_reference(CHECKPOINT)
    library = pd.read_parquet(shared / "data/dream2022/measured_library.parquet")
    values = library.loc[library["split"] == "train", "activity"]
    assert found.num_promoters == len(values) == json.loads((CHECKPOINT / "training.json").read_text())["training_rows"]
    np.testing.assert_allclose(found.percentiles, np.percentile(values, np.arange(101)), atol=1e-4)
    np.testing.assert_allclose(found.counts, np.histogram(values, found.edges)[0], atol=5)
    measured = library[library["split"] == "validation"].set_index("sequence")["activity"]
    for one in found.examples:
        whole = "TGCATTTTTTTCACATC" + one.sequence + "GGTTACGGCTGTT"
        assert one.measured == pytest.approx(measured[whole], abs=0.005)


EXAMPLE = {"description": "low", "sequence": "ACGT", "measured": 1.0}


def content(**change):
    plain = {
        "data": "mine.tsv", "split": "training", "edges": [0, 1], "counts": [3], "percentiles": [0.5] * 101,
        "examples": [EXAMPLE],
    }  # fmt: skip
    return json.dumps(plain | change).encode()


DAMAGED = [
    b"{", b"[]", b"\xff\xfe", b" " * 200_001, content(edges=[1, 0]), content(counts=[1, 2]),
    content(percentiles=[1] * 100), content(split="<b>"), content(examples=[EXAMPLE | {"measured": None}]),
]  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda one: one[:40].decode(errors="replace"))
def test_damaged_references_are_reported_in_one_line(damaged, tmp_path, caplog):
    assert load_reference(tmp_path) is None and not caplog.records
    (tmp_path / REFERENCE).write_bytes(content())
    assert load_reference(tmp_path).num_promoters == 3 and not caplog.records
    (tmp_path / REFERENCE).write_bytes(damaged)
    assert load_reference(tmp_path) is None
    (line,) = [one.getMessage() for one in caplog.records]
    assert "\n" not in line and len(line) < 500 and f"{REFERENCE} of {tmp_path} is not readable and is ignored" in line


@pytest.mark.parametrize("answer", ["name", EntryNotFoundError("404"), ConnectionError("closed")])
def test_references_on_the_hub_are_downloaded(tmp_path, monkeypatch, caplog, answer):
    (tmp_path / REFERENCE).write_bytes(content())

    def download(repository, name):
        assert (repository, name) == ("owner/model", REFERENCE)
        if isinstance(answer, Exception):
            raise answer
        return str(tmp_path / REFERENCE)

    monkeypatch.setattr(module, "hf_hub_download", download)
    found = load_reference("owner/model")
    assert found is None if isinstance(answer, Exception) else found.data == "mine.tsv"
    assert ("owner/model" in caplog.text) == isinstance(answer, ConnectionError)
