"""Training rows that are read while they are needed."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub.errors import HTTPError

from modeling_macaron.data.clusters import KeySet
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.io.tables import open_table, string_buffers
from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.run import build_model, make_trainer, train
from modeling_macaron.training.streaming import StreamedPromoters
from tests.training.test_run import RECIPE, ROOT, TINY, finish, launch, weights_of
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
    rows = take(StreamedPromoters(pattern, TOKENIZER, seed=1, buffer_rows=50, num_shards=1), 594)
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
    assert [row["epoch"] for row in rows] == [0] * 297 + [1] * 297
    assert len({row["row"] for row in rows}) == 297
    assert re.findall(r": (\d+) of (\d+) rows that were read are no promoters", caplog.text) == [("1", "100")]


@pytest.mark.parametrize(
    ("row_group_size", "num_shards"), [(30, 4), (30, 8), (1_000, 8), (5, 8), (100, 3), (30, 64), (200, 8)]
)
def test_each_pass_of_the_shards_has_every_row_once(files, tmp_path, caplog, row_group_size, num_shards):
    """Units are files, row groups or parts of those; shards of unequal length go through their passes by themselves."""
    _, sequences, values = files
    part_rows = 10 if (row_group_size, num_shards) == (5, 8) else 100
    for start in range(0, 300, part_rows):
        mine = slice(start, start + part_rows)
        table = pa.table({"sequence": sequences[mine], "value": values[mine]})
        pyarrow.parquet.write_table(table, tmp_path / f"part-{start:03}.parquet", row_group_size=row_group_size)
    stream = StreamedPromoters(f"{tmp_path}/*", TOKENIZER, seed=1, buffer_rows=50, num_shards=num_shards)
    rows, passes = take(stream, 1500), ([], [])
    for row in rows:
        if row["epoch"] < 2:
            passes[row["epoch"]].append(row["row"])
    expected = {
        2**40 * (index // part_rows) + index % part_rows + 1 for index in range(300) if index not in (10, 150, 200)
    }
    for numbers in passes:
        assert len(numbers) == 297 and set(numbers) == expected
    assert passes[0] != passes[1]
    told = re.findall(r": (\d+) of [\d,]+ rows that were read are no promoters", caplog.text)
    assert told[0] == "1" and len(told) == 2 and 10 <= int(told[1]) < 100  # of the first, of ten, a hundred, ...
    assert 1500 / 297 - 2 < np.mean([row["epoch"] for row in rows[-num_shards:]]) < 1500 / 297 + 1


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("each", [1, 3, 5])
def test_processes_share_each_global_batch_of_one(files, processes, each):
    stream = StreamedPromoters(files[0], TOKENIZER, seed=1, buffer_rows=50)
    whole = [row["row"] for row in take(stream, 720)]
    batch_rows = each * processes
    shares = [[row["row"] for row in take(stream.share(process, processes), 720)] for process in range(processes)]
    assert len(set(map(tuple, shares))) == processes
    for batch in range(720 // batch_rows):
        together = [row for share in shares for row in share[batch * each : (batch + 1) * each]]
        assert sorted(together) == sorted(whole[batch * batch_rows : (batch + 1) * batch_rows])


def opened_in_passes(stream, monkeypatch, rows):
    """Files that are opened for so many rows."""
    opened = []
    usual = stream._open
    monkeypatch.setattr(stream, "_open", lambda file: opened.append(file) or usual(file))
    take(stream, rows)
    return opened


def test_process_reads_its_share_of_the_files_alone(tmp_path, monkeypatch):
    sequences, values = random_rows(320, 0)
    parts = [{"sequence": sequences[at : at + 10], "value": values[at : at + 10]} for at in range(0, 320, 10)]
    stream = StreamedPromoters(write_parts(tmp_path, *parts), TOKENIZER, buffer_rows=8)
    reads = [opened_in_passes(stream.share(process, 4), monkeypatch, 78) for process in range(4)]  # of the 80 of each
    assert all(len(files) == 8 for files in reads) and len(set().union(*reads)) == 32


@pytest.mark.parametrize(("row_group_size", "most"), [(10, 40), (40, 40), (125, 16), (1000, 8)])
def test_data_are_opened_seldom_and_read_as_often_as_need_be(tmp_path, monkeypatch, caplog, row_group_size, most):
    """Small row groups are read in runs; of large ones each shard takes a part, which is told."""
    sequences, values = random_rows(1000, 0)
    table = pa.table({"sequence": sequences, "value": values})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=row_group_size)
    stream = StreamedPromoters(str(tmp_path / "a.parquet"), TOKENIZER, buffer_rows=8)
    assert len(opened_in_passes(stream, monkeypatch, 992)) <= most
    assert ("are read up to 8 times" in caplog.text) == (row_group_size == 1000)


@pytest.mark.parametrize("sizes", [[2000] + [100] * 39, [30] * 33, [9000] + [30] * 35, [100] * 3, [40, 60, 900]])
def test_shards_have_about_as_many_rows_each(tmp_path, sizes):
    """After a pass's worth of rows, hardly one was not seen, however unequal the files are."""
    sequences, values = random_rows(50, 0)
    for number, size in enumerate(sizes):
        table = pa.table({"sequence": (sequences * 200)[:size], "value": np.resize(values, size)})
        pyarrow.parquet.write_table(table, tmp_path / f"{number:02}.parquet", row_group_size=100)
    total = sum(sizes)
    rows = [row["row"] for row in take(StreamedPromoters(f"{tmp_path}/*", TOKENIZER, buffer_rows=8), 3 * total)]
    assert len(set(rows[:total])) > 0.85 * total
    assert len(set(rows)) == total


def test_trainer_reads_the_share_of_its_process(files, prepared, tmp_path, monkeypatch):
    arguments = [RECIPE, "--dataset", str(prepared), "--output_dir", str(tmp_path), *TINY, *STEPS, "--stream", files[0]]
    workers = ["--dataloader_num_workers", "2", "--dataloader_persistent_workers", "true"]  # as the recipes for GPUs
    model_arguments, args = parse_recipe([*arguments, *workers])
    data = PreparedData(args.dataset)
    trainer = make_trainer(build_model(model_arguments, data, None), args, data)
    monkeypatch.setattr(Accelerator, "num_processes", 4)
    monkeypatch.setattr(Accelerator, "process_index", 1)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.get_eval_dataloader().num_workers == 2
    expected = take(trainer.train_dataset.share(1, 4), len(batch["row"]))
    assert batch["row"].tolist() == [row["row"] for row in expected]


def test_held_out_sequences_are_left_out_and_counted(files, caplog):
    pattern, sequences, _ = files
    good = pa.array([sequence for sequence in sequences if len(sequence) == 80])
    ids = TOKENIZER.encode_strands(*string_buffers(good)).ids
    held_out = {strand.tobytes() for strand in ids[:149]}  # one of them has no value
    rows = take(StreamedPromoters(pattern, TOKENIZER, buffer_rows=50, held_out=KeySet([ids[:149]])), 600)
    assert len({row["row"] for row in rows}) == 148
    assert not held_out & {row["input_ids"].tobytes() for row in rows}
    assert "are held out for validation or test" in caplog.text
    with pytest.raises(ValueError, match=r"no row is a promoter with a value .3 were left out, and 297 held out for"):
        take(StreamedPromoters(pattern, TOKENIZER, held_out=KeySet([ids])), 1)


@pytest.mark.parametrize("split_by", ["cluster", "row"])
def test_near_copies_of_held_out_rows_are_left_out(tmp_path, split_by):
    """Reverse complements and rows with 20 nt in common, on either strand; only copies where rows were divided so."""
    sequences, _ = random_rows(200, 5)
    write_parts(tmp_path, {"sequence": sequences, "value": range(200)})
    table = open_table(tmp_path / "part-0.parquet")
    prepare_dataset(
        table, tmp_path / "data", tokenizer=TOKENIZER, split_by=split_by, validation_fraction=0.1, extra_columns=[]
    )
    data = PreparedData(tmp_path / "data")
    validation = data.validation.__getitems__(range(len(data.validation)))["input_ids"][:10]
    texts = ["".join("ACGT"[letter] for letter in strand) for strand in validation]
    reverse = [text[::-1].translate(str.maketrans("ACGT", "TGCA")) for text in texts]
    others, _ = random_rows(30, 6)
    near = [text[:30] + other[30:] for text, other in zip(texts, others[20:], strict=True)]
    near += [other[:40] + text[-20:] + other[60:] for text, other in zip(reverse, others[20:], strict=True)]
    far = [text[:19] + other[19:] for text, other in zip(texts, others[:10], strict=True)]
    rows = [*texts, *reverse, *near, *far, *others[10:20]]
    (tmp_path / "stream").mkdir()
    files = write_parts(tmp_path / "stream", {"sequence": rows, "value": np.arange(len(rows), dtype=np.float64)})
    stream = StreamedPromoters(files, TOKENIZER, buffer_rows=8, held_out=data.held_out())
    kept = {int(row["labels"]) for row in take(stream, 500)}
    assert kept == set(range(40 if split_by == "cluster" else 20, 60))


def test_what_a_run_trains_on_is_not_what_it_is_validated_on(prepared, tmp_path, caplog):
    data = PreparedData(prepared)
    ids = data.validation.__getitems__(range(len(data.validation)))["input_ids"]
    texts = ["".join("ACGTN-"[letter] for letter in strand).strip("-N") for strand in ids]
    sequences, values = random_rows(100, 3)
    files = write_parts(tmp_path, {"promoter": [*texts, *sequences], "y": [*([0.5] * len(texts)), *values]})
    arguments = [RECIPE, "--dataset", str(prepared), "--output_dir", str(tmp_path / "run"), *TINY, *STEPS]
    columns = ["--sequence_column", "promoter", "--value_column", "y"]
    with pytest.raises(ValueError, match="are for --stream"):
        train(*parse_recipe([*arguments, *columns]))
    with pytest.raises(ValueError, match="Pass --value_column"):
        train(*parse_recipe([*arguments, "--stream", files]))
    final = train(*parse_recipe([*arguments, "--stream", files, *columns]))
    assert re.search(r"\d+ of \d+ rows that were read are held out for validation or test", caplog.text)
    facts, card = json.loads((final / "training.json").read_text()), (final / "README.md").read_text()
    assert (facts["training_rows"], facts["stream"]) == (None, {"files": "part-*.parquet", "number": 1})
    assert "| Training rows | 768 (with repeats) of the stream `part-*.parquet` (files: 1) |" in card
    assert str(tmp_path) not in card
    assert json.loads((final / "reference.json").read_text())["split"] == "validation"


@pytest.mark.parametrize(("shards", "processes"), [(8, 3), (2, 4)])
def test_shards_that_processes_cannot_share_are_refused(files, shards, processes):
    with pytest.raises(ValueError, match=f"must be a multiple of the number of processes, {processes}, got {shards}"):
        StreamedPromoters(files[0], TOKENIZER, num_shards=shards).share(0, processes)
    with pytest.raises(ValueError, match="needs a buffer and shards, got 100000 rows and 0 shards"):
        StreamedPromoters(files[0], TOKENIZER, num_shards=0)


def test_folders_are_no_files_and_links_are(tmp_path):
    sequences, values = random_rows(20, 0)
    pattern = write_parts(tmp_path, {"sequence": sequences, "value": values})
    (tmp_path / "part-folder.parquet").mkdir()
    assert len(take(StreamedPromoters(pattern, TOKENIZER), 30)) == 30
    (tmp_path / "links").mkdir()  # as those of a snapshot in the Hub's cache
    (tmp_path / "links/part-0.parquet").symlink_to(tmp_path / "part-0.parquet")
    (tmp_path / "links/part-1.parquet").symlink_to(tmp_path / "part-folder.parquet")
    assert len(take(StreamedPromoters(f"{tmp_path}/links/*.parquet", TOKENIZER), 30)) == 30
    with pytest.raises(FileNotFoundError, match=r"part-f\*\.parquet$"):
        StreamedPromoters(f"{tmp_path}/part-f*.parquet", TOKENIZER)
    hint = f"{tmp_path}: it is a folder, name what is in it: {tmp_path}/*.parquet"
    with pytest.raises(FileNotFoundError, match=re.escape(hint)):
        StreamedPromoters(str(tmp_path), TOKENIZER)


def test_layouts_of_any_kind_give_every_row_once_in_a_pass(tmp_path):
    """Files without rows, of one row, and row groups of all sizes, in up to 16 shards."""
    rng = np.random.default_rng(7)
    for layout in range(60):
        folder, expected = tmp_path / str(layout), {}
        folder.mkdir()
        for file in range(rng.integers(1, 6)):
            sizes = rng.choice([1, 2, 3, 10, 60], rng.integers(0, 6))
            sequences, values = random_rows(int(sizes.sum()), layout * 10 + file)
            table = pa.table({"sequence": pa.array(sequences, pa.string()), "value": pa.array(values)})
            with pyarrow.parquet.ParquetWriter(folder / f"{file}.parquet", table.schema) as writer:
                for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
                    writer.write_table(table.slice(start, size))
            expected |= {file * 2**40 + index + 1: value for index, value in enumerate(values)}
        if not expected:
            continue
        num_shards = int(rng.integers(1, 17))
        stream = StreamedPromoters(f"{folder}/*", TOKENIZER, seed=layout, buffer_rows=20, num_shards=num_shards)
        for turn in (0, 1):
            units = [unit for shard in stream._assign(stream._units, turn) for unit in shard]
            rows = np.concatenate([batch for unit in units for batch in stream._read(unit, lambda some: None)])
            assert sorted(rows["row"]) == sorted(expected)
            assert all(expected[int(row)] == label for row, label in zip(rows["row"], rows["labels"], strict=True))
        assert take(stream, len(expected))


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


def write_parts(folder, *parts):
    for number, columns in enumerate(parts):
        pyarrow.parquet.write_table(pa.table(columns), folder / f"part-{number}.parquet")
    return f"{folder}/part-*.parquet"


def test_rows_can_be_traced(files):
    pattern, sequences, _ = files
    stream = StreamedPromoters(pattern, TOKENIZER, seed=1, buffer_rows=50)
    for row in take(stream, 350):
        number, path = re.fullmatch(r"row (\d+) of (.*)", stream.name_row(row["row"])).groups()
        found = pyarrow.parquet.read_table(path)["sequence"][int(number) - 1].as_py()
        assert found == "".join("ACGTN"[letter] for letter in row["input_ids"])
    assert found in sequences


def test_rows_leave_the_buffer_in_random_order(files):
    """With a buffer that holds a tenth of the rows, rows move over about its size; with one of a row, not at all."""
    streams = (StreamedPromoters(files[0], TOKENIZER, buffer_rows=size, num_shards=1) for size in (30, 1))
    rows, kept = ([row["row"] % 2**40 for row in take(stream, 297)] for stream in streams)
    assert sum(b - a == 1 for a, b in itertools.pairwise(kept)) > 290
    assert sum(b - a == 1 for a, b in itertools.pairwise(rows)) < 60


def test_masks_are_drawn_anew_in_each_pass(files):
    rows = take(StreamedPromoters(files[0], TOKENIZER, buffer_rows=50), 1200)
    collate = PromoterCollator(0.0, 1.0, mask_probability=0.3)
    batches = [
        collate(sorted((row for row in rows if row["epoch"] == epoch), key=lambda row: row["row"])) for epoch in (0, 1)
    ]
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    masked = [batch["masked_nucleotides"] != -100 for batch in batches]
    assert 0.05 < (masked[0] & masked[1]).float().mean() < 0.13 < masked[0].float().mean() < 0.35


@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**24 + 1, 3], pa.int64()),
        pa.array([16777217, 3], pa.uint32()),
        pa.array(["16777217", " 3.0"]),
        pa.array([2**24 + 1, 3], pa.float64()),
        pa.array([2**24 + 1, 3]).cast(pa.decimal128(21, 2)),
    ],
)
def test_values_of_any_kind_of_number(tmp_path, values):
    files = write_parts(tmp_path, {"sequence": ["ACGT", "TTTT"], "value": values})
    assert {float(row["labels"]) for row in take(StreamedPromoters(files, TOKENIZER), 40)} == {2.0**24, 3.0}


def test_file_without_rows_is_harmless(tmp_path):
    good, empty = {"sequence": ["ACGT"], "value": [1.0]}, {"sequence": pa.array([], pa.string()), "value": []}
    files = write_parts(tmp_path, empty, good, empty)
    assert len(take(StreamedPromoters(files, TOKENIZER), 3)) == 3
    with pytest.raises(ValueError, match=r"part-0\.parquet: no row is a promoter with a value .0 were left out."):
        take(StreamedPromoters(str(tmp_path / "part-0.parquet"), TOKENIZER), 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sequence": ["ACGT"], "value": [True]}, r"part-1\.parquet, column 'value' holds bool"),
        ({"sequence": ["ACGT"]}, r"part-1\.parquet: no column is known to be the value"),
        (b"", r"part-1\.parquet cannot be read as Parquet: Parquet file size is 0"),
        (b"PAR1 hello, this was cut off", r"part-1\.parquet cannot be read as Parquet"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path, columns, message):
    good = {"sequence": ["ACGT"], "value": [1.0]}
    files = write_parts(tmp_path, good, good)
    if isinstance(columns, bytes):
        (tmp_path / "part-1.parquet").write_bytes(columns)
    else:
        write_parts(tmp_path, good, columns)
    with pytest.raises(ValueError, match=message):
        take(StreamedPromoters(files, TOKENIZER), 2)


class ClientError(Exception):
    """Stands for the errors that clients of object stores define."""


@pytest.mark.parametrize(
    ("error", "is_read_error"),
    [(ClientError("closed"), True), (OSError("closed"), True), (pa.ArrowInvalid("closed"), True),
     (pa.ArrowNotImplementedError("closed"), True), (HTTPError("closed"), True), (MemoryError("full"), False),
     (pa.ArrowMemoryError("full"), False), (TypeError("a bug"), False)],
)  # fmt: skip
def test_only_errors_of_reading_name_the_file(tmp_path, monkeypatch, error, is_read_error):
    def fail(*args, **kwargs):
        raise error
        yield

    files = write_parts(tmp_path, {"sequence": ["ACGT"], "value": [1.0]})
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", fail)
    with pytest.raises(ValueError if is_read_error else type(error)) as raised:
        StreamedPromoters(files, TOKENIZER)
    assert (str(raised.value) == f"{tmp_path}/part-0.parquet cannot be read as Parquet: closed") == is_read_error


@pytest.mark.parametrize(("error", "expected"), [(ImportError("install x"), ValueError), (MemoryError(), MemoryError)])
def test_errors_of_listing_name_the_files(monkeypatch, error, expected):
    def fail(files):
        raise error

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(
        expected, match=r"s3://x/\*.parquet cannot be opened: install x" if expected is ValueError else None
    ):
        StreamedPromoters("s3://x/*.parquet", TOKENIZER)


def test_files_elsewhere():
    """A file system in memory stands for the Hub and for object stores: fsspec reads all of them."""
    memory = fsspec.filesystem("memory")
    for part in range(2):
        with memory.open(f"/streamed/part-{part}.parquet", "wb") as file:
            pyarrow.parquet.write_table(pa.table({"sequence": ["ACGT"], "value": [float(part)]}), file)
    stream = StreamedPromoters("memory://streamed/*.parquet", TOKENIZER, num_shards=2)
    rows = take(stream, 2)
    assert sorted(row["labels"] for row in rows) == [0.0, 1.0]
    assert {stream.name_row(row["row"]) for row in rows} == {
        f"row 1 of memory:///streamed/part-{part}.parquet" for part in range(2)
    }


@pytest.mark.parametrize("offline", [True, False])
def test_hub_that_cannot_be_reached_is_told(offline):
    """Without a network, or where it is not to be used; in a process of its own, as the Hub's address is read once."""
    code = (
        "from modeling_macaron.training.streaming import StreamedPromoters\n"
        "from tokenization import KmerTokenizer\n"
        "try:\n    StreamedPromoters('hf://datasets/nobody/nothing/*.parquet', KmerTokenizer())\n"
        "except ValueError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": str(int(offline)), "HF_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("hf://datasets/nobody/nothing/*.parquet cannot be opened: "), done.stderr[-2000:]


def test_loss_that_is_not_finite_names_file_and_row(prepared, tmp_path):
    sequences, values = random_rows(40, 1)
    values[[13, 37]] = 3e38, 3e38
    parts = [{"sequence": sequences[start : start + 20], "value": values[start : start + 20]} for start in (0, 20)]
    arguments = [RECIPE, "--dataset", str(prepared), "--output_dir", str(tmp_path / "run"), *TINY, *STEPS]
    with pytest.raises(FloatingPointError, match=r"from 2 of 40 rows of a batch") as caught:
        train(*parse_recipe([*arguments, "--global_batch_size", "40", "--stream", write_parts(tmp_path, *parts)]))
    for row, part in ((14, 0), (18, 1)):
        assert f"row {row} of {tmp_path}/part-{part}.parquet" in str(caught.value)


def test_stream_of_a_resumed_run_is_that_of_the_first(prepared, tmp_path):
    sequences, values = random_rows(120, 2)
    parts = [{"sequence": sequences[start : start + 40], "value": values[start : start + 40]} for start in (0, 40, 80)]
    files, run = write_parts(tmp_path, *parts[:2]), tmp_path / "run"
    once = ["--max_steps", "1", "--save_steps", "1", "--eval_steps", "1", "--stream_buffer", "50"]
    command = [RECIPE, "--dataset", str(prepared), "--output_dir", str(run), *TINY, *STEPS, *once, "--stream", files]
    train(*parse_recipe(command))
    command += ["--resume_from_checkpoint", "auto"]
    for options, then, now in (
        (["--stream", f"{tmp_path}/p*"], f"--stream {files}", f"--stream {tmp_path}/p*"),
        (["--stream_buffer", "51"], "--stream_buffer 50", "--stream_buffer 51"),
        (["--stream_shards", "16"], "--stream_shards 8", "--stream_shards 16"),
        (["--seed", "7"], "--seed 42", "--seed 7"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{run} was trained with {then}, and would go on with {now}: ")):
            train(*parse_recipe([*command, *options]))
    without = [*command[: command.index("--stream")], "--resume_from_checkpoint", "auto"]
    with pytest.raises(ValueError, match=re.escape(f"with --stream {files}, and would go on with no --stream: ")):
        train(*parse_recipe(without))
    train(*parse_recipe(command))
    write_parts(tmp_path, *parts)
    with pytest.raises(ValueError, match=r"with 2 files in the stream, and would go on with 3 files in the stream: "):
        train(*parse_recipe(command))
    (tmp_path / "part-2.parquet").unlink()
    before = (tmp_path / "part-0.parquet").read_bytes()
    pyarrow.parquet.write_table(pa.table(parts[0]), tmp_path / "part-0.parquet", compression="none")
    with pytest.raises(ValueError, match=r"with \d+ bytes in the stream, and would go on with \d+ bytes in the"):
        train(*parse_recipe(command))
    (tmp_path / "part-0.parquet").write_bytes(before)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"data": record["data"]}))  # as older versions wrote it
    train(*parse_recipe([*command, "--seed", "7"]))


def test_no_files_and_no_parquet(tmp_path):
    with pytest.raises(FileNotFoundError):
        StreamedPromoters(str(tmp_path / "absent-*.parquet"), TOKENIZER)
    (tmp_path / "a.parquet").write_bytes(b"hello")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        take(StreamedPromoters(str(tmp_path / "a.parquet"), TOKENIZER), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_steps", "-1"], "--max_steps"),
        (["--stream_buffer", "0"], "--stream_buffer"),
        (["--stream_shards", "0"], "--stream_shards must be a multiple of the number of processes, 1 .1, say., got 0"),
    ],
)
def test_streams_need_an_end_and_a_buffer(files, prepared, tmp_path, options, message):
    arguments = [RECIPE, "--dataset", str(prepared), "--output_dir", str(tmp_path), *TINY, *STEPS]
    with pytest.raises(ValueError, match=message):
        train(*parse_recipe([*arguments, "--stream", files[0], *options]))


@pytest.mark.slow
def test_two_processes_and_resumed_runs_end_as_one_run_does(files, prepared, tmp_path):
    """Twelve steps of 64 rows go through the 297 rows more than twice; runs are resumed in the second pass."""
    arguments = ["--dataset", prepared, *TINY, *STEPS, "--stream", files[0]]
    finish(launch([*arguments, "--output_dir", tmp_path / "one"]))
    accumulating = ["--gradient_accumulation_steps", "2"]  # two batches a step in each process
    finish(launch([*arguments, *accumulating, "--output_dir", tmp_path / "two"], processes=2))
    for name, processes in (("resumed", 1), ("resumed_by_two", 2)):
        shutil.copytree(tmp_path / "one", tmp_path / name)
        for later in ("checkpoint-12", "final"):
            shutil.rmtree(tmp_path / name / later)
        resuming = [*arguments, "--output_dir", tmp_path / name, "--resume_from_checkpoint", "auto"]
        finish(launch(resuming, processes=processes))
    names = ("one", "two", "resumed", "resumed_by_two")
    one, two, resumed, resumed_by_two = (weights_of(tmp_path / name / "checkpoint-12") for name in names)
    for name, values in one.items():
        assert torch.equal(resumed[name], values), name
        torch.testing.assert_close(two[name], values, rtol=1e-3, atol=1e-4, msg=name)
        torch.testing.assert_close(resumed_by_two[name], values, rtol=1e-3, atol=1e-4, msg=name)
    assert weights_of(tmp_path / "one/checkpoint-4").keys() == one.keys()
    assert any(not torch.equal(values, one[name]) for name, values in weights_of(tmp_path / "one/checkpoint-8").items())
