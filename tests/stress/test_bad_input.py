"""Mistakes of users: every command ends with one clear error, no output and unchanged files."""

import gzip
import importlib
import io
import shutil

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from tests.stress.programs import ROOT

FINE = "name,sequence\na,ACGTACGT\nb,TTGACC\n"
PREDICT = "predict model in.csv out.csv"
TRAIN = f"train {ROOT}/configs/cpu_tiny.yaml --output_dir out --disable_tqdm true"
STREAM = f"{TRAIN} --dataset data --max_steps 1 --stream"
EVALUATE = "evaluate --table in.csv --output out.json"
VARIANTS = "variants model v.vcf out.csv --genome g.fa --promoters p.bed"
INDEX = '{"metadata": {}, "weight_map": {"expression_head.bias": "evil.bin"}}'


def parquet(**columns):
    file = io.BytesIO()
    pa.parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def weights(change):
    """Change the weights of `model`."""

    def write(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return write


def config(text):
    return {"in.csv": FINE, "model/config.json": text}


CASES = {  # mistake: command, files, part of the error
    "no file": ("predict model absent.csv out.csv", {}, "absent.csv"),
    "folder for a file": ("predict model model out.csv", {}, "folder"),
    "empty file": (PREDICT, {"in.csv": ""}, "in.csv is empty"),
    "header alone": (PREDICT, {"in.csv": "name,sequence\n"}, "in.csv has no rows"),
    "column of the output": (PREDICT, {"in.csv": "sequence,problem\nACGT,x\n"}, "problem"),
    "open quote": (PREDICT, {"in.csv": 'name,sequence\na,"ACGT\nb,ACGT\n'}, "line 2"),
    "not a spreadsheet": ("predict model in.xlsx out.csv", {"in.xlsx": "PK"}, "in.xlsx"),
    "cut gzip": ("predict model in.csv.gz out.csv", {"in.csv.gz": gzip.compress(FINE.encode() * 999)[:-40]}, "in.csv"),
    "not Parquet": ("predict model in.parquet out.csv", {"in.parquet": FINE}, "in.parquet"),
    "strict: not DNA": (f"{PREDICT} --strict", {"in.csv": "name,sequence\na,ACGT\nb,ACXT\n"}, "in.csv, line 3"),
    "strict: too long": (f"{PREDICT} --strict", {"in.csv": "sequence\n" + "ACGT" * 9 + "\n"}, "in.csv, line 2: 36 nt"),
    "unknown output": ("predict model in.csv out.xlsx", {"in.csv": FINE}, "out.xlsx"),
    "output exists": ("predict model in.csv old.csv", {"in.csv": FINE, "old.csv": "mine"}, "--overwrite"),
    "no such device": (f"{PREDICT} --device cuda:9", {"in.csv": FINE}, "cuda:9"),
    "batch size 0": (f"{PREDICT} --batch_size 0", {"in.csv": FINE}, "batch_size"),
    "no checkpoint": ("predict absent/folder/x in.csv out.csv", {"in.csv": FINE}, "absent/folder/x"),
    "no model": ("predict empty in.csv out.csv", {"in.csv": FINE, "empty/x": ""}, "config.json"),
    "cut weights": (PREDICT, {"in.csv": FINE, "model/model.safetensors": b"\x10\0\0\0"}, "checkpoint model"),
    "weights not finite": (
        PREDICT,
        {"in.csv": FINE, "model/model.safetensors": weights(lambda w: w["expression_head.bias"].fill_(torch.nan))},
        "expression_head.bias",
    ),
    "missing weight": (
        PREDICT,
        {"in.csv": FINE, "model/model.safetensors": weights(lambda w: w.pop("expression_head.bias"))},
        "expression_head.bias",
    ),
    "unexpected weight": (
        PREDICT,
        {"in.csv": FINE, "model/model.safetensors": weights(lambda w: w.update(other=torch.zeros(1)))},
        "other",
    ),
    "index of a pickle": (
        PREDICT,
        {"in.csv": FINE, "model/model.safetensors": None, "model/model.safetensors.index.json": INDEX},
        "evil.bin",
    ),
    "kernel": (PREDICT, config('{"model_type": "macaron", "attn_implementation": "org/kernel"}'), "org/kernel"),
    "overflow": (
        PREDICT,
        config('{"model_type": "macaron", "expression_mean": 1' + "0" * 400 + "}"),
        "expression_mean",
    ),
    "many labels": (PREDICT, config('{"model_type": "macaron", "num_labels": 1000000000}'), "num_labels"),
    "not JSON": (PREDICT, config("{"), "config.json"),
    "huge model": (PREDICT, config('{"model_type": "macaron", "hidden_size": 999999999}'), "hidden_size"),
    "another model": (PREDICT, config('{"model_type": "bert"}'), "bert"),
    "no alleles": ("variants model in.csv out.csv", {"in.csv": FINE}, "--reference_column"),
    "not VCF": (VARIANTS, {"v.vcf": "hello\n", "g.fa": ">c\nACGTACGT\n", "p.bed": "c\t2\t8\tp\t0\t+\n"}, "v.vcf"),
    "short BED": (VARIANTS, {"v.vcf": "", "g.fa": ">c\nACGTACGT\n", "p.bed": "c\t2\t8\n"}, "p.bed, line 1"),
    "wide window": ("mutagenesis model in.csv out.csv --window 50 --strict", {"in.csv": FINE}, "in.csv, line 2"),
    "no steps": ("attribution model in.csv out.csv --steps 0", {"in.csv": FINE}, "steps"),
    "start with N": ("design model out.csv --starts in.csv --strict", {"in.csv": "sequence\nACGN\n"}, "position 4"),
    "site is not DNA": ("design model out.csv --starts in.csv --forbid GAAXTC", {"in.csv": FINE}, "GAAXTC"),
    "target without a number": ("design model out.csv --starts in.csv --target up", {"in.csv": FINE}, "--target"),
    "no values": ("prepare_data --source in.csv --output out", {"in.csv": FINE}, "--value_column"),
    "no data set": (f"{TRAIN} --dataset absent", {}, "absent"),
    "no recipe": ("train absent.yaml --dataset x --output_dir out", {}, "absent.yaml"),
    "no files to stream": (f"{STREAM} absent/*.parquet", {}, "absent/*.parquet"),
    "stream is a folder": (f"{STREAM} data", {}, "data"),
    "stream is not Parquet": (f"{STREAM} in.parquet", {"in.parquet": FINE}, "in.parquet"),
    "stream without values": (f"{STREAM} in.parquet", {"in.parquet": parquet(sequence=["A"])}, "--value_column"),
    "stream without promoters": (
        f"{STREAM} in.parquet",
        {"in.parquet": parquet(sequence=["ACGX"], value=[1.0])},
        "in.parquet",
    ),
    "stream without an end": (
        f"{TRAIN} --dataset data --stream in.parquet",
        {"in.parquet": parquet(sequence=["ACGT"], value=[1.0])},
        "--max_steps",
    ),
    "no shards": (
        f"{STREAM} in.parquet --stream_shards 0",
        {"in.parquet": parquet(sequence=["ACGT"], value=[1.0])},
        "--stream_shards",
    ),
    "table without values": (f"{EVALUATE} --model model", {"in.csv": FINE}, "--value_column"),
    "value is not a number": (f"{EVALUATE} --model model", {"in.csv": "sequence,value\nACGT,1\nTTGACC,high\n"}, "high"),
    "predictions of other rows": (
        f"{EVALUATE} --predictions p.csv",
        {"in.csv": "row_id,sequence,value\n1,ACGT,2\n2,TTGA,3\n", "p.csv": "row_id,prediction\n9,1\n"},
        "p.csv",
    ),
    "no ONNX name": ("export_onnx model out.pt", {}, ".onnx"),
    "ONNX exists": ("export_onnx model old.onnx", {"old.onnx": "mine"}, "--overwrite"),
    "no such opset": ("export_onnx model out.onnx --opset 3", {}, "opset 3"),
    "no card to push": ("push_to_hub model owner/name", {}, "README.md"),
    "no name on the Hub": ("push_to_hub model a/b/c", {"model/README.md": "# Mine\n"}, "a/b/c"),
    "no TensorFlow checkpoint": ("convert_tf_checkpoint absent out", {}, "absent"),
    "weights of another model": ("convert_tf_checkpoint model/model.safetensors out", {}, "query_dense"),
    "settings are not JSON": ("convert_tf_checkpoint model/model.safetensors out --config relu", {}, "relu"),
    "unknown simulated table": ("simulate out.xlsx", {}, "out.xlsx"),
    "negative rows": ("simulate out.tsv --num_sequences -1", {}, "num_sequences"),
    "negative noise": ("simulate out.tsv --noise -1", {}, "noise"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "data"
    prepare_dataset(open_source("simulate", num_sequences=40, seed=0), folder, validation_fraction=0.2)
    return folder


def read_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        elif callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error(tiny_folder, data, tmp_path, monkeypatch, capsys, case):
    command, files, named = CASES[case]
    shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copytree(data, tmp_path / "data")
    write_files(tmp_path, files)
    before = read_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    script, *arguments = command.split()
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"scripts.{script}").main(arguments)
    message = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    (line,) = [line for line in message.splitlines() if "error: " in line]
    assert named in line
    after = read_files(tmp_path)
    assert stopped.value.code and before == {name: after.get(name) for name in before}
    assert not list(tmp_path.glob("out*"))
