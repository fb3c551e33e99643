"""Training rows that are read while they are needed."""

import itertools
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.run import train
from modeling_macaron.training.streaming import StreamedPromoters
from tests.training.test_run import RECIPE, TINY, finish, launch, weights_of
from tokenization import KmerTokenizer

TOKENIZER = KmerTokenizer(strand_length=80)
STEPS = [
    *(
        "--global_batch_size",
        "64",
        "--max_steps",
        "12",
        "--eval_steps",
        "4",
        "--save_steps",
        "4",
        "--logging_steps",
        "2",
    ),
    *("--hidden_dropout", "0.0", "--stream_buffer", "50", "--save_total_limit", "5"),
]


def random_rows(number, seed):
    rng = np.random.default_rng(seed)
    sequences = ["".join(rng.choice(list("ACGT"), 80)) for _ in range(number)]
    return sequences, rng.normal(size=number).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """300 rows in three Parquet files, with three rows that are no promoters or have no value."""
    folder = tmp_path_factory.mktemp("stream")
    sequences, values = random_rows(300, 0)
    sequences[10], sequences[150], values[200] = "ACXT", "A" * 81, np.nan
    for part in range(3):
        mine = slice(100 * part, 100 * part + 100)
        table = pa.table({"activity": values[mine], "name": ["x"] * 100, "sequence": sequences[mine]})
        pyarrow.parquet.write_table(table, folder / f"part-{part}.parquet", row_group_size=30)
    return f"{folder}/part-*.parquet", sequences, values


def take(stream, number):
    return list(itertools.islice(stream, number))


def test_each_pass_has_every_row_once_and_an_order_of_its_own(files, caplog):
    pattern, sequences, values = files
    rows = take(StreamedPromoters(pattern, TOKENIZER, seed=1, buffer_rows=50), 594)
    expected = sorted(
        (sequence, float(value))
        for index, (sequence, value) in enumerate(zip(sequences, values, strict=True))
        if index not in (10, 150, 200)
    )
    orders = []
    for turn in (rows[:297], rows[297:]):
        texts = ["".join("ACGTN"[letter] for letter in row["input_ids"]) for row in turn]
        orders.append(texts)
        assert sorted(zip(texts, (float(row["labels"]) for row in turn), strict=True)) == expected
    assert orders[0] != orders[1] and orders[0] != sequences[:297]
    assert len({row["row"] for row in rows}) == 594
    assert "3 rows are no promoters with a value" in caplog.text


def test_order_depends_on_the_seed_alone(files):
    first, again, other = (
        [row["labels"] for row in take(StreamedPromoters(files[0], TOKENIZER, seed=seed, buffer_rows=50), 400)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sequence": ["ACGT"]}, "no column is known to be the value"),
        ({"value": [1.0]}, "no column is known to be the sequence"),
        ({"sequence": ["ACXT", "A" * 99], "value": [1.0, 2.0]}, "no row is a promoter with a value .2 were left out."),
    ],
)
def test_files_without_promoters(tmp_path, columns, message):
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        take(StreamedPromoters(str(tmp_path / "a.parquet"), TOKENIZER), 1)


def test_no_files_and_no_parquet(tmp_path):
    with pytest.raises(FileNotFoundError):
        StreamedPromoters(str(tmp_path / "absent-*.parquet"), TOKENIZER)
    (tmp_path / "a.parquet").write_bytes(b"hello")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        take(StreamedPromoters(str(tmp_path / "a.parquet"), TOKENIZER), 1)


@pytest.mark.parametrize(
    ("options", "message"), [(["--max_steps", "-1"], "--max_steps"), (["--stream_buffer", "0"], "--stream_buffer")]
)
def test_streams_need_an_end_and_a_buffer(files, prepared, tmp_path, options, message):
    arguments = [RECIPE, "--dataset", str(prepared), "--output_dir", str(tmp_path), *TINY, *STEPS]
    with pytest.raises(ValueError, match=message):
        train(*parse_recipe([*arguments, "--stream", files[0], *options]))


@pytest.mark.slow
def test_two_processes_and_a_resumed_run_end_as_one_run_does(files, prepared, tmp_path):
    """Twelve steps of 64 rows go through the 297 rows more than twice; the run is resumed in the second pass."""
    arguments = ["--dataset", prepared, *TINY, *STEPS, "--stream", files[0]]
    finish(launch([*arguments, "--output_dir", tmp_path / "one"]))
    finish(launch([*arguments, "--output_dir", tmp_path / "two"], processes=2))
    shutil.copytree(tmp_path / "one", tmp_path / "resumed")
    for name in ("checkpoint-12", "final"):
        shutil.rmtree(tmp_path / "resumed" / name)
    finish(launch([*arguments, "--output_dir", tmp_path / "resumed", "--resume_from_checkpoint", "auto"]))
    one, two, resumed = (weights_of(tmp_path / name / "checkpoint-12") for name in ("one", "two", "resumed"))
    for name, values in one.items():
        assert torch.equal(resumed[name], values), name
        torch.testing.assert_close(two[name], values, rtol=1e-3, atol=1e-4, msg=name)
    assert weights_of(tmp_path / "one/checkpoint-4").keys() == one.keys()
    assert any(not torch.equal(values, one[name]) for name, values in weights_of(tmp_path / "one/checkpoint-8").items())
