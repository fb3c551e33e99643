"""Files that somebody made to harm: none runs code, and none takes the machine's memory."""

import gzip
import json
import os
import pickle
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.analysis.predict import load_model
from modeling_macaron.tables import open_table
from tokenization import KmerTokenizer

GIGABYTE = 1 << 30


class Bomb:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def copy_of(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target


def load_remote_code(folder):
    return AutoModel.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize("loader", [load_model, MacaronForExpressionPrediction.from_pretrained, load_remote_code])
def test_pickled_weights_are_never_read(tiny_folder, tmp_path, loader):
    folder = copy_of(tiny_folder, tmp_path / "pickled")
    model = MacaronForExpressionPrediction.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        loader(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    with pytest.raises(OSError, match="safetensors"):
        loader(str(folder))
    assert not (tmp_path / "harm").exists()


def test_pickles_cannot_be_asked_for(tiny_folder):
    with pytest.raises(ValueError, match="safetensors only"):
        MacaronForExpressionPrediction.from_pretrained(tiny_folder, use_safetensors=False)
    with pytest.raises(ValueError, match="safetensors only"):
        AutoModel.from_pretrained(tiny_folder, use_safetensors=None, trust_remote_code=True)


def test_pickles_beside_the_weights_are_left_alone(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "both")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    load_model(folder)
    KmerTokenizer.from_pretrained(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 1 << 40}, "`hidden_size` must be at most 16,384"),
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` must be at most 256"),
        ({"strand_length": 10**9}, "`strand_length` must be at most 10,000"),
        ({"conv_kernel_size": 10**7}, "`conv_kernel_size` must be at most 1,001"),
        ({"hidden_size": 16_384, "num_hidden_layers": 256}, "more than 1,000,000,000"),
        ({"intermediate_size": 131_072, "hidden_size": 16_384}, "more than 1,000,000,000"),
        ({"num_attention_heads": 256, "head_dim": 16_384, "hidden_size": 64}, "more than 1,000,000,000"),
        ({"attention_projections": "merged", "hidden_size": 16_384}, "more than 1,000,000,000"),
    ],
)  # fmt: skip
def test_huge_configs_are_refused(tiny_folder, tmp_path, fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        MacaronConfig(**fields)
    folder = copy_of(tiny_folder, tmp_path / "huge")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ValueError, match=message):
        load_model(folder)


@pytest.mark.parametrize("projections", ["separate", "merged"])
@pytest.mark.parametrize("feed_forward", ["half_steps", "single"])
def test_counted_weights_are_a_close_lower_bound(projections, feed_forward):
    config = MacaronConfig(attention_projections=projections, feed_forward=feed_forward)
    with torch.device("meta"):
        num_parameters = MacaronForExpressionPrediction(config).num_parameters()
    assert 0.99 * num_parameters < config._num_weights() <= num_parameters


def test_a_model_sixteen_times_as_large_as_the_papers_is_allowed():
    MacaronConfig(num_hidden_layers=32, hidden_size=1_024)


def test_a_tokenizer_of_huge_strands_is_refused(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "huge")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"strand_length": 10**10}))
    with pytest.raises(ValueError, match="`strand_length` must be at most 10,000"):
        KmerTokenizer.from_pretrained(folder)


def squeeze(path, head, piece, megabytes):
    """Write a gzip file that becomes large: `head`, then megabytes of `piece`, each a member of the file."""
    content = piece * (1_000_000 // len(piece))
    path.write_bytes(gzip.compress(head) + gzip.compress(content) * megabytes)
    return path, megabytes * (1_000_000 // len(piece))


READ = """
import sys
from modeling_macaron.tables import open_table
rows = 0
try:
    for batch in open_table(sys.argv[1], sequence_column="sequence" if sys.argv[1].endswith("csv.gz") else None):
        rows += len(batch.numbers)
except ValueError as error:
    sys.exit(f"refused: {error}")
print(rows)
"""


def read_within(path, memory):
    """Read a table in a process that may take so much memory; give what it says."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))  # noqa: E731
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, preexec_fn=limit, env=environment,
        timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "head", "piece", "message"),
    [
        ("bomb.csv.gz", b"sequence,value\n", b"A", "a line of more than 4,194,304 bytes"),
        ("bomb.fa.gz", b">one\n", b"A", "line 2: a record of more than 4,194,304 letters"),
        ("name.fa.gz", b">", b"A", "line 1: a record of more than 4,194,304 letters"),
        ("lines.fa.gz", b">one\n", b"ACGTACGT\n", "a record of more than 4,194,304 letters"),
        ("quote.csv.gz", b'sequence,value\n"', b"A\n", "mend the quotes"),
    ],
)  # fmt: skip
def test_endless_lines_are_refused_in_bounded_memory(tmp_path, name, head, piece, message):
    path, _ = squeeze(tmp_path / name, head, piece, megabytes=2_000)
    assert path.stat().st_size < 5_000_000
    code, told = read_within(path, 3 * GIGABYTE // 2)
    assert code == 1 and told.startswith("refused:") and len(told.splitlines()) == 1
    assert message in told


@pytest.mark.parametrize(
    ("name", "head", "piece"),
    [
        ("many.csv.gz", b"sequence,value\n", b"ACGTACGTACGTACG,12\n"),
        ("many.fa.gz", b"", b">a\n" + b"ACGT" * 255 + b"\n"),
    ],
)
def test_large_files_stream_in_bounded_memory(tmp_path, name, head, piece):
    path, num_rows = squeeze(tmp_path / name, head, piece, megabytes=2_000)
    code, told = read_within(path, 3 * GIGABYTE // 2)
    assert (code, told.strip()) == (0, str(num_rows))


def test_records_of_any_length_up_to_the_limit_are_read(tmp_path):
    path = tmp_path / "long.fa"
    path.write_text(">one\n" + "A" * (4 << 20) + "\n>two\n" + ("C" * 1_000 + "\n") * 4_194 + "C" * 304)
    (batch,) = open_table(path)
    assert [len(text) for text in batch.table.column("sequence").to_pylist()] == [4 << 20, 4 << 20]


def test_many_long_records_are_read_in_several_batches(tmp_path):
    path = tmp_path / "long.fa"
    path.write_text("".join(f">{index}\n{'ACGT' * 262_144}\n" for index in range(130)))
    batches = list(open_table(path))
    assert len(batches) == 3
    assert [number for batch in batches for number in batch.numbers.tolist()] == list(range(1, 131))


def test_names_of_columns_are_no_code(tmp_path):
    harm = f"__import__('os').mkdir('{tmp_path}/harm')"
    table = pa.table({harm: ["x"], "sequence": ["ACGT"], "{0.__class__}": ["%s%n"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (batch,) = open_table(tmp_path / "a.parquet")
    assert batch.table.column_names == [harm, "sequence", "{0.__class__}"]
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bert"}, "is a model of type 'bert', not 'macaron'"),
        ({"hidden_size": 24}, "has weights of other shapes than its config: "),
        ({"num_hidden_layers": 3}, "lacks 2[0-9] of the model's weights, macaron.layers.2"),
    ],
)
def test_no_weight_is_made_up(tiny_folder, tmp_path, fields, message):
    folder = copy_of(tiny_folder, tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ValueError, match=message):
        load_model(folder)
