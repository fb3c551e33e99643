"""Commands replace existing files only with --overwrite, and never their inputs."""

import importlib
import os
import shutil

import pytest

SOURCE = "sequence\texpression\treference_sequence\talternative_sequence\nACGT\t1\tACGT\tACGA\n"
FILES = {
    "in.tsv": SOURCE, "pairs.tsv": "kind\n", "predictions.tsv": "row_id\n", "train.tsv": SOURCE, "promoters.tsv": "",
    "genome.tsv": "", "v.vcf": "",
}  # fmt: skip
VCF = "variants MODEL v.vcf OUTPUT --genome genome.tsv --promoters promoters.tsv"
EVALUATE = "evaluate --table in.tsv --predictions predictions.tsv --pairs pairs.tsv --baseline_train train.tsv"
READ = [
    ("predict MODEL in.tsv OUTPUT", "in.tsv"),
    ("predict MODEL in.tsv OUTPUT --resume", "in.tsv"),
    ("predict MODEL promoters.tsv OUTPUT --genome genome.tsv", "genome.tsv"),
    ("variants MODEL in.tsv OUTPUT", "in.tsv"),
    (VCF, "genome.tsv"),
    (VCF, "promoters.tsv"),
    ("mutagenesis MODEL in.tsv OUTPUT", "in.tsv"),
    ("attribution MODEL in.tsv OUTPUT", "in.tsv"),
    ("design MODEL OUTPUT --starts in.tsv", "in.tsv"),
    ("design MODEL OUTPUT --random 1 --training train.tsv", "train.tsv"),
    ("design MODEL new.tsv --fasta OUTPUT --starts in.tsv", "in.tsv"),
    *((f"{EVALUATE} --output OUTPUT", name) for name in ("in.tsv", "predictions.tsv", "pairs.tsv", "train.tsv")),
]  # fmt: skip
WRITTEN = [
    *(f"{name} MODEL in.tsv OUTPUT.tsv" for name in ("predict", "variants", "mutagenesis", "attribution")),
    "design MODEL OUTPUT.tsv --random 1",
    "design MODEL new.tsv --random 1 --fasta OUTPUT.fa",
    f"{EVALUATE} --output OUTPUT.json",
    f"{EVALUATE} --output new.json --plots OUTPUT",
    "export_onnx MODEL OUTPUT.onnx",
    "convert_tf_checkpoint in.tsv OUTPUT",
]


@pytest.fixture
def folder(tiny_folder, tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    shutil.copytree(tiny_folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(command, *options):
    """Run a command in this process, and return its one line of error."""
    name, *arguments = command.replace("MODEL", "model").split()
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"scripts.{name}").main([*arguments, *options])
    assert str(stop.value.code).startswith("error: ") and "\n" not in stop.value.code
    return stop.value.code


@pytest.mark.parametrize("spelling", ["same", "absolute", "dots", "link", "hard link"])
@pytest.mark.parametrize(("command", "read"), READ)
def test_an_input_is_never_an_output(folder, command, read, spelling):
    other = {"same": read, "absolute": str(folder / read), "dots": f"{folder}/model/../{read}"}.get(spelling, "o.tsv")
    if "link" in spelling:
        (os.symlink if spelling == "link" else os.link)(read, other)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = fails(command.replace("OUTPUT", other), "--overwrite")
    assert "is also an input" in message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", WRITTEN)
def test_existing_outputs_are_replaced_only_with_overwrite(folder, command):
    if "--plots" in command:
        (folder / "OUTPUT").mkdir()
        (folder / "OUTPUT" / "SNVs.png").write_text("mine")
    elif command.startswith("convert"):
        (folder / "OUTPUT").mkdir()
        (folder / "OUTPUT" / "config.json").write_text("mine")
    else:
        (folder / f"OUTPUT{command.partition('OUTPUT')[2].split()[0]}").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = fails(command)
    assert "exists already" in message and "--overwrite" in message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_files_in_input_folders_are_kept(folder):
    before = (folder / "model" / "config.json").read_bytes()
    message = fails("evaluate --model MODEL --table in.tsv --output model/config.json", "--overwrite")
    assert "model/config.json exists already, and replacing it would change the input model" in message
    assert (folder / "model" / "config.json").read_bytes() == before


def test_a_folder_that_holds_the_source_is_not_replaced(folder):
    shutil.copy(folder / "model" / "model.safetensors", folder / "model" / "original.safetensors")
    message = fails("convert_tf_checkpoint model/original.safetensors MODEL", "--overwrite")
    assert "model exists already, and replacing it would change the input model/original.safetensors" in message
    assert (folder / "model" / "original.safetensors").is_file()


def test_prepare_does_not_replace_a_folder_that_holds_its_source(folder):
    (folder / "data").mkdir()
    (folder / "data" / "report.json").write_text("{}")
    (folder / "data" / "in.tsv").write_text(SOURCE)
    message = fails("prepare_data --source data/in.tsv --output data", "--overwrite")
    assert "data exists already, and replacing it would change the input data/in.tsv" in message
    assert (folder / "data" / "in.tsv").read_text() == SOURCE
