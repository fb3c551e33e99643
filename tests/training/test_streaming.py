"""Training rows streamed from Parquet files."""

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
from modeling_macaron.io.tables import open_table
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.run import build_model, make_trainer
from modeling_macaron.training.streaming import StreamedPromoters
from tests.training.runs import ROOT, SHORT, TINY, assert_close, finish, launch, options, parse, run
from tokenization import KmerTokenizer

TOKENIZER = KmerTokenizer(strand_length=80)
STEPS = [*SHORT, *options(hidden_dropout=0.0, stream_buffer=50)]
BAD = (10, 150, 200)  # rows of `files` that are not promoters or have no value


def random_rows(number, seed):
    rng = np.random.default_rng(seed)
    sequences = ["".join(rng.choice(list("ACGT"), 80)) for _ in range(number)]
    return sequences, rng.normal(size=number).astype(np.float32)


def write_parts(folder, *parts, row_group_size=30):
    """Write a file for each pair of sequences and values. Returns their pattern."""
    for number, (sequences, values) in enumerate(parts):
        table = pa.table(
            {"name": ["x"] * len(sequences), "sequence": pa.array(sequences, pa.string()), "value": values}
        )
        pyarrow.parquet.write_table(table, folder / f"part-{number:02}.parquet", row_group_size=row_group_size)
    return f"{folder}/part-*.parquet"


def cut(sequences, values, rows):
    return [(sequences[at : at + rows], values[at : at + rows]) for at in range(0, len(sequences), rows)]


def text_of(ids):
    return "".join("ACGTN"[base] for base in ids)


@pytest.fixture(scope="module")
def source():
    """300 rows; three are not promoters or have no value."""
    sequences, values = random_rows(300, 0)
    sequences[10], sequences[150], values[200] = "ACXT", "A" * 81, np.nan
    return sequences, values


@pytest.fixture(scope="module")
def files(source, tmp_path_factory):
    """These rows in three Parquet files."""
    return write_parts(tmp_path_factory.mktemp("stream"), *cut(*source, 100))


def take(stream, number):
    return list(itertools.islice(stream, number))


@pytest.mark.parametrize(
    ("part_rows", "row_group_size", "num_shards"),
    [(100, 30, 1), (100, 30, 8), (100, 1000, 8), (10, 5, 8), (100, 100, 3), (100, 30, 64), (300, 7, 16)],
)
def test_each_pass_has_every_row_once(source, tmp_path, caplog, part_rows, row_group_size, num_shards):
    sequences, values = source
    pattern = write_parts(tmp_path, *cut(sequences, values, part_rows), row_group_size=row_group_size)
    rows = take(StreamedPromoters(pattern, TOKENIZER, seed=1, buffer_rows=50, num_shards=num_shards), 1500)
    expected = {
        2**40 * (index // part_rows) + index % part_rows + 1: (sequences[index], values[index])
        for index in range(300)
        if index not in BAD
    }
    passes = [[row["row"] for row in rows if row["epoch"] == epoch] for epoch in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(expected) and passes[0] != passes[1] != sorted(expected)
    assert all((text_of(row["input_ids"]), row["labels"]) == expected[row["row"]] for row in rows)
    assert 1500 / 297 - 2 < np.mean([row["epoch"] for row in rows[-num_shards:]]) < 1500 / 297 + 1
    assert re.search(r"[\d,]+ of [\d,]+ rows read so far are skipped", caplog.text)


def test_any_layout_gives_every_row_once_in_a_pass(tmp_path):
    """Files without rows, of one row, and row groups of all sizes, in up to 16 shards."""
    rng = np.random.default_rng(7)
    for layout in range(40):
        folder, expected = tmp_path / str(layout), set()
        folder.mkdir()
        for file in range(rng.integers(1, 6)):
            sizes = rng.choice([1, 2, 3, 10, 60], rng.integers(0, 6))
            sequences, values = random_rows(int(sizes.sum()), layout * 10 + file)
            table = pa.table({"sequence": pa.array(sequences, pa.string()), "value": pa.array(values)})
            with pyarrow.parquet.ParquetWriter(folder / f"{file}.parquet", table.schema) as writer:
                for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
                    writer.write_table(table.slice(start, size))
            expected |= {file * 2**40 + index + 1 for index in range(len(values))}
        if expected:
            num_shards = int(rng.integers(1, 17))
            stream = StreamedPromoters(f"{folder}/*", TOKENIZER, seed=layout, buffer_rows=20, num_shards=num_shards)
            for turn in (0, 1):
                units = [unit for shard in stream._assign(turn) for unit in shard]
                rows = np.concatenate([batch for unit in units for batch in stream._read(unit, lambda some: None)])
                assert sorted(rows["row"]) == sorted(expected)


@pytest.mark.parametrize("sizes", [[2000] + [100] * 39, [30] * 33, [9000] + [30] * 35, [100] * 3, [40, 60, 900]])
def test_shards_have_about_as_many_rows_each(tmp_path, sizes):
    """After as many rows as a pass has, few rows are unseen, even for files of unequal sizes."""
    sequences, values = random_rows(50, 0)
    parts = [((sequences * 200)[:size], np.resize(values, size)) for size in sizes]
    files, total = write_parts(tmp_path, *parts, row_group_size=100), sum(sizes)
    rows = [row["row"] for row in take(StreamedPromoters(files, TOKENIZER, buffer_rows=8), 3 * total)]
    assert len(set(rows[:total])) > 0.85 * total
    assert len(set(rows)) == total


@pytest.mark.parametrize(("processes", "each"), [(2, 1), (4, 3), (8, 5)])
def test_processes_share_each_global_batch_of_one(files, processes, each):
    stream = StreamedPromoters(files, TOKENIZER, seed=1, buffer_rows=50)
    whole, batch_rows = [row["row"] for row in take(stream, 720)], each * processes
    shares = [[row["row"] for row in take(stream.share(process, processes), 720)] for process in range(processes)]
    assert len(set(map(tuple, shares))) == processes
    for batch in range(720 // batch_rows):
        together = [row for share in shares for row in share[batch * each : (batch + 1) * each]]
        assert sorted(together) == sorted(whole[batch * batch_rows : (batch + 1) * batch_rows])
    with pytest.raises(ValueError, match="--stream_shards 8 is not a multiple of the number of processes, 3"):
        stream.share(0, 3)


def test_order_depends_on_the_seed_alone_and_is_random(files):
    orders = [
        [row["row"] for row in take(StreamedPromoters(files, TOKENIZER, seed=seed, buffer_rows=50, num_shards=1), 297)]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sum(b - a == 1 for a, b in itertools.pairwise(orders[0])) < 60


def test_process_reads_its_share_of_the_files_alone(tmp_path, monkeypatch):
    stream = StreamedPromoters(write_parts(tmp_path, *cut(*random_rows(320, 0), 10)), TOKENIZER, buffer_rows=8)
    opened, usual = [], stream._read
    monkeypatch.setattr(stream, "_read", lambda unit, note: opened.append(unit.file) or usual(unit, note))
    for process in range(4):
        take(stream.share(process, 4), 78)  # of the 80 of each
    assert len(opened) == len(set(opened)) == 32


def test_trainer_reads_the_share_of_its_process(files, prepared, tmp_path, monkeypatch):
    workers = options(dataloader_num_workers=2, dataloader_persistent_workers="true")  # as in the recipes for GPUs
    model_arguments, args = parse(prepared, tmp_path, *STEPS, "--stream", files, *workers)
    data = PreparedData(args.dataset)
    trainer = make_trainer(build_model(model_arguments, data, None), args, data)
    monkeypatch.setattr(Accelerator, "num_processes", 4)
    monkeypatch.setattr(Accelerator, "process_index", 1)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.get_eval_dataloader().num_workers == 2
    expected = take(trainer.train_dataset.share(1, 4), len(batch["row"]))
    assert batch["row"].tolist() == [row["row"] for row in expected]


@pytest.mark.parametrize("split_by", ["cluster", "row"])
def test_held_out_rows_and_near_copies_are_skipped(tmp_path, caplog, split_by):
    """Skips reverse complements and rows that share 20 nt, or only copies after a split by row."""
    write_parts(tmp_path, (random_rows(200, 5)[0], np.arange(200.0)))
    prepare_dataset(
        open_table(tmp_path / "part-00.parquet"), tmp_path / "data", tokenizer=TOKENIZER, split_by=split_by,
        validation_fraction=0.1, extra_columns=[],
    )  # fmt: skip
    data = PreparedData(tmp_path / "data")
    texts = [text_of(ids) for ids in data.validation.__getitems__(range(10))["input_ids"]]
    reverse = [text[::-1].translate(str.maketrans("ACGT", "TGCA")) for text in texts]
    others, _ = random_rows(30, 6)
    near = [text[:30] + other[30:] for text, other in zip(texts, others[20:], strict=True)]
    near += [other[:40] + text[-20:] + other[60:] for text, other in zip(reverse, others[20:], strict=True)]
    far = [text[:19] + other[19:] for text, other in zip(texts, others[:10], strict=True)]
    rows = [*texts, *reverse, *near, *far, *others[10:20]]
    (tmp_path / "stream").mkdir()
    files = write_parts(tmp_path / "stream", (rows, np.arange(60.0)))
    stream = StreamedPromoters(files, TOKENIZER, buffer_rows=8, held_out=data.held_out())
    kept = {int(row["labels"]) for row in take(stream, 500)}
    assert kept == set(range(40 if split_by == "cluster" else 20, 60))
    assert "are held out for validation or test" in caplog.text
    everything = KeySet([np.array([["ACGT".index(base) for base in row] for row in rows], np.uint8)])
    with pytest.raises(ValueError, match=r"no row is a promoter with a value .0 were skipped, and 60 held out for"):
        StreamedPromoters(files, TOKENIZER, held_out=everything)


def test_run_names_its_stream_and_is_resumed_with_the_same_only(prepared, tmp_path):
    sequences, values = random_rows(120, 2)
    files = write_parts(tmp_path, *cut(sequences, values, 60))
    once = [*STEPS, *options(max_steps=1, save_steps=1, eval_steps=1, stream=files)]
    final = run(prepared, tmp_path / "run", *once)
    facts, card = json.loads((final / "training.json").read_text()), (final / "README.md").read_text()
    assert (facts["training_rows"], facts["stream"]) == (None, {"files": "part-*.parquet", "number": 2})
    assert "| Training rows | 64 (with repeats) of the stream `part-*.parquet` (files: 2) |" in card
    assert str(tmp_path) not in card
    assert json.loads((final / "reference.json").read_text())["split"] == "validation"

    resumed = [*once, "--resume_from_checkpoint", "auto"]
    for more, then, now in (
        (["--stream", f"{tmp_path}/p*"], f"stream: {files}", f"{tmp_path}/p*"),
        (["--stream_buffer", "51"], "stream_buffer: 50", "51"),
        (["--stream_shards", "16"], "stream_shards: 8", "16"),
        (["--value_column", "value"], "value_column: None", "value"),
        (["--seed", "7"], "seed: 42", "7"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"with stream setting {then}, not {now}")):
            run(prepared, tmp_path / "run", *resumed, *more)
    run(prepared, tmp_path / "run", *resumed)
    write_parts(tmp_path, *cut(sequences, values, 40))
    with pytest.raises(ValueError, match="with stream setting files: 2, not 3"):
        run(prepared, tmp_path / "run", *resumed)


def test_rows_can_be_traced(files):
    stream = StreamedPromoters(files, TOKENIZER, seed=1, buffer_rows=50)
    for row in take(stream, 350):
        number, path = re.fullmatch(r"row (\d+) of (.*)", stream.name_row(row["row"])).groups()
        assert pyarrow.parquet.read_table(path)["sequence"][int(number) - 1].as_py() == text_of(row["input_ids"])


def test_loss_that_is_not_finite_names_file_and_row(prepared, tmp_path):
    sequences, values = random_rows(40, 1)
    values[[13, 37]] = 3e38, 3e38
    files = write_parts(tmp_path, *cut(sequences, values, 20))
    with pytest.raises(FloatingPointError, match=r"from 2 of 40 rows of a batch") as caught:
        run(prepared, tmp_path / "run", *STEPS, *options(global_batch_size=40, stream=files))
    for row, part in ((14, 0), (18, 1)):
        assert f"row {row} of {tmp_path}/part-0{part}.parquet" in str(caught.value)


def test_masks_are_drawn_anew_in_each_pass(files):
    rows = take(StreamedPromoters(files, TOKENIZER, buffer_rows=50), 1200)
    collate = PromoterCollator(0.0, 1.0, mask_probability=0.3)
    batches = [
        collate(sorted((row for row in rows if row["epoch"] == epoch), key=lambda row: row["row"])) for epoch in (0, 1)
    ]
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    masked = [batch["masked_nucleotides"] != -100 for batch in batches]
    assert 0.05 < (masked[0] & masked[1]).float().mean() < 0.13 < masked[0].float().mean() < 0.35


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (pa.table({"sequence": ["ACGT"], "value": [True]}), r"part-01\.parquet, column 'value' holds bool"),
        (pa.table({"sequence": ["ACGT"]}), r"part-01\.parquet: no column is known to be the value"),
        (b"", r"part-01\.parquet cannot be read as Parquet"),
        (b"PAR1 hello, this was cut off", r"part-01\.parquet cannot be read as Parquet"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path, second, message):
    files = write_parts(tmp_path, (["ACGT"], [1.0]))
    if isinstance(second, bytes):
        (tmp_path / "part-01.parquet").write_bytes(second)
    else:
        pyarrow.parquet.write_table(second, tmp_path / "part-01.parquet")
    with pytest.raises(ValueError, match=message):
        take(StreamedPromoters(files, TOKENIZER), 9)


@pytest.mark.parametrize("error", [OSError("closed"), pa.ArrowInvalid("closed"), HTTPError("closed"), TypeError("bug")])
def test_only_errors_of_reading_name_the_file(tmp_path, monkeypatch, error):
    files = write_parts(tmp_path, (["ACGT"], [1.0]))

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", fail)
    with pytest.raises(TypeError if isinstance(error, TypeError) else ValueError) as raised:
        StreamedPromoters(files, TOKENIZER)
    is_named = str(raised.value) == f"{tmp_path}/part-00.parquet cannot be read as Parquet: closed"
    assert is_named != isinstance(error, TypeError)


def test_sources_without_usable_rows(tmp_path, monkeypatch):
    (tmp_path / "part-folder.parquet").mkdir()
    for name in ("absent-*.parquet", "part-f*.parquet", ""):
        with pytest.raises(FileNotFoundError, match=r"name Parquet files, for example DIR/\*\.parquet"):
            StreamedPromoters(str(tmp_path / name), TOKENIZER)
    (tmp_path / "part-folder.parquet").rmdir()
    files = write_parts(tmp_path, ([], pa.array([], pa.float64())), (["ACXT", "A" * 99], [1.0, 2.0]))
    with pytest.raises(ValueError, match=r"no row is a promoter with a value .2 were skipped"):
        StreamedPromoters(files, TOKENIZER)
    with pytest.raises(ValueError, match="--stream_buffer and --stream_shards must be positive, got 100000, 0"):
        StreamedPromoters(files, TOKENIZER, num_shards=0)
    (tmp_path / "links").mkdir()  # like a snapshot in the Hub's cache
    write_parts(tmp_path, (["ACGT"], [1.0]))
    (tmp_path / "links" / "part.parquet").symlink_to(tmp_path / "part-00.parquet")
    assert len(take(StreamedPromoters(f"{tmp_path}/links/*.parquet", TOKENIZER), 3)) == 3
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda files: 1 / 0)
    with pytest.raises(ValueError, match=r"s3://x/\*\.parquet cannot be opened: division"):
        StreamedPromoters("s3://x/*.parquet", TOKENIZER)


def test_other_file_systems():
    """A file system in memory replaces the Hub and object stores. fsspec reads all of them."""
    memory = fsspec.filesystem("memory")
    for part in range(2):
        with memory.open(f"/streamed/part-{part}.parquet", "wb") as file:
            pyarrow.parquet.write_table(pa.table({"sequence": ["ACGT"], "value": [float(part)]}), file)
    stream = StreamedPromoters("memory://streamed/*.parquet", TOKENIZER, num_shards=2)
    names = {stream.name_row(row["row"]) for row in take(stream, 20)}
    assert names == {f"row 1 of memory:///streamed/part-{part}.parquet" for part in range(2)}


@pytest.mark.parametrize("offline", [True, False])
def test_unreachable_hub_is_reported(offline):
    """Runs in its own process, since the Hub's address is read once."""
    code = (
        "from modeling_macaron.training.streaming import StreamedPromoters\n"
        "from tokenization import KmerTokenizer\n"
        "try:\n    StreamedPromoters('hf://datasets/nobody/nothing/*.parquet', KmerTokenizer())\n"
        "except ValueError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": str(int(offline)), "HF_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("hf://datasets/nobody/nothing/*.parquet cannot be opened: "), done.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_and_resumed_runs_end_like_one_run(files, prepared, tmp_path):
    """Twelve steps of 64 rows take more than two passes over 297 rows. Runs resume in the second pass."""
    words = [*TINY, *STEPS, *options(dataset=prepared, stream=files)]
    finish(launch([*words, "--output_dir", tmp_path / "one"]))
    accumulating = ["--gradient_accumulation_steps", "2"]  # two batches a step in each process
    finish(launch([*words, *accumulating, "--output_dir", tmp_path / "two"], processes=2))
    for name, processes in (("resumed", 1), ("resumed_by_two", 2)):
        shutil.copytree(tmp_path / "one", tmp_path / name)
        for later in ("checkpoint-12", "final"):
            shutil.rmtree(tmp_path / name / later)
        finish(launch([*words, *options(output_dir=tmp_path / name, resume_from_checkpoint="auto")], processes))
    one = tmp_path / "one" / "checkpoint-12"
    assert_close(tmp_path / "resumed" / "checkpoint-12", one)
    for name in ("two", "resumed_by_two"):
        assert_close(tmp_path / name / "checkpoint-12", one, rtol=1e-3, atol=1e-4)
