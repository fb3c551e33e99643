"""Export to ONNX: the file gives PyTorch's numbers for any batch, and says how it is to be used."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from modeling_macaron.analysis import export
from modeling_macaron.analysis.export import export_onnx, open_session, predict_onnx, random_promoters
from modeling_macaron.analysis.predict import predict
from tokenization import reverse_complement

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "export_onnx.py"
SEQUENCES = ["ACGTACGTAC", "acgu" * 4, "GGGG", "ACCATTTTGGT", "NRYACG", "ACCAACGTTGCAGGT"]
ONE_LAYER = {"num_hidden_layers": 1}


def letters(rows, seed=5):
    """Letter ids (rows, 40) of both strands, N and padding included."""
    strands = random_promoters(rows, 20, seed)
    return np.concatenate([strands, reverse_complement(strands)], axis=1).astype(np.int64)


@torch.no_grad()
def expected(model, ids):
    """Expression in assay units of a plain forward pass, nucleotide logits and all."""
    logits = model(torch.from_numpy(ids)).logits.double().flatten().numpy()
    return logits * model.config.expression_std + model.config.expression_mean


def initializers(path):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    """Export of the tiny folder as it is by default."""
    return export_onnx(tiny_folder, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="module")
def graph(exported):
    """Graph of the tiny folder without metadata: tracing takes seconds."""

    def copied(*_):
        proto = onnx.load(exported.path)
        del proto.metadata_props[:]
        return proto

    return copied


@pytest.mark.parametrize("batch", [1, 5, 7, 64])
def test_numbers_are_those_of_pytorch_in_any_batch(exported, make_model, batch):
    model, ids = make_model(), letters(batch)
    (got,) = open_session(exported.path).run(["expression"], {"input_ids": ids})
    assert got.shape == (batch,) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected(model, ids), atol=2.5e-4)
    assert batch == 1 or got.std() > 1e-3, "the model tells promoters apart"
    assert export.TOLERANCE == 1e-4 and exported.error < 1e-5


@pytest.mark.parametrize(
    ("fields", "merged"),
    [
        ({"attn_implementation": "eager"}, False),
        ({"pooling": "mean"}, True),
        ({"both_orientations": True, "expression_bins": (-2.0, 0.0, 2.0)}, True),
        ({"reverse_complement": False, "feed_forward": "single", "use_convolution": False}, False),
    ],
)
def test_all_kinds_of_models(make_model, tmp_path, fields, merged):
    attention = fields.get("attn_implementation", "sdpa")
    model = make_model(**ONE_LAYER, **{name: value for name, value in fields.items() if name != "attn_implementation"})
    model.set_attn_implementation(attention)
    result = export_onnx(model, tmp_path / "m.onnx", merged=merged, check=False)
    assert result.error is None
    for batch in (1, 3):
        ids = letters(batch)
        (got,) = open_session(result.path).run(None, {"input_ids": ids})
        np.testing.assert_allclose(got, expected(model, ids), atol=2.5e-4)
    metadata = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    assert metadata["attention_projections"] == ("merged" if merged else "separate")
    widths = {array.shape for array in initializers(result.path).values()}
    # Heads together are 2 * 8 wide apart, 2 * 16 merged; nothing else in the tiny model is 16 by 32.
    assert ((16, 32) in widths) == merged


@pytest.mark.parametrize(("head_dim", "expected"), [(8, "separate"), (16, "merged")])
def test_projections_are_merged_where_that_pays(make_model, tmp_path, head_dim, expected):
    export_onnx(make_model(**ONE_LAYER, head_dim=head_dim), tmp_path / "m.onnx", check=False)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert metadata["attention_projections"] == expected


def test_nucleotide_head_is_left_out(exported, make_model):
    model, arrays = make_model(), initializers(exported.path)
    assert any("expression_head" in name for name in arrays)
    assert not any("nucleotide" in name for name in arrays)

    def holds(weights):
        weights = weights.detach().numpy()
        return any(
            array.shape == form.shape and np.allclose(array, form)
            for array in arrays.values()
            for form in (weights, weights.T)
        )

    assert holds(model.expression_head.weight), "it would be found under any name"
    assert not holds(model.nucleotide_head.weight) and not holds(model.nucleotide_head.bias)


def test_last_block_computes_the_expression_positions_alone(exported):
    values = onnx.load(exported.path).graph.value_info
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]
    # What `up_proj` gives: 2 * 24 wide at 3 + 40 positions, except in the last feed-forward layer of four.
    wide = [shape for shape in shapes if shape[:1] == ["batch"] and shape[-1] == 48]
    assert wide == 3 * [["batch", 43, 48]] + [["batch", 3, 48]]


def test_interface_and_metadata(exported, tiny_tokenizer):
    session = open_session(exported.path)
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("input_ids", "tensor(int64)", ["batch", 40])
    assert (gives.name, gives.type, gives.shape) == ("expression", "tensor(float)", ["batch"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata.pop("package_version")
    assert metadata == {
        "kmer_size": "5",
        "strand_length": "20",
        "flank5": "ACCA",
        "flank3": "GGT",
        "trimming": "auto",
        "expression_mean": "11.25",
        "expression_std": "2.5",
        "model_type": "macaron",
        "letters": "A C G T N [MASK]",
        "attention_projections": "separate",
        "package": "macaron-promoter",
    }


def test_file_tells_nothing_of_this_machine(exported):
    content = exported.path.read_bytes()
    assert b".py" not in content and str(ROOT).encode() not in content
    assert exported.num_bytes == len(content)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_sequences_are_read_as_the_checkpoint_reads_them(exported, tiny_folder, batch_size):
    got = predict_onnx(exported.path, SEQUENCES, batch_size=batch_size)
    np.testing.assert_allclose(got, predict(tiny_folder, SEQUENCES), atol=2.5e-4)
    assert got.dtype == np.float64 and predict_onnx(exported.path, []).shape == (0,)


def test_one_sequence_and_no_dna_are_refused(exported):
    with pytest.raises(ValueError, match="got one str"):
        predict_onnx(exported.path, "ACGT")
    with pytest.raises(ValueError, match="letter 'X' at position 2"):
        predict_onnx(exported.path, ["AX"])


def test_files_that_are_not_ours_are_named(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.onnx"):
        predict_onnx(tmp_path / "absent.onnx", ["ACGT"])
    graph = onnx.load(exported.path)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match=r"bare\.onnx was not written by export_onnx: its metadata lack kmer_size"):
        predict_onnx(tmp_path / "bare.onnx", ["ACGT"])


def test_loaded_model_stays_as_it_is(make_model, graph, monkeypatch, tmp_path):
    model, seen = make_model().to(torch.bfloat16).train(), []
    model.set_attn_implementation("sdpa")
    monkeypatch.setattr(export, "build_graph", lambda model, opset: seen.append(model) or graph())
    export_onnx(model, tmp_path / "m.onnx", merged=True, check=False)
    assert model.training and model.dtype == torch.bfloat16 and model.config._attn_implementation == "sdpa"
    assert model.config.attention_projections == "separate"
    (traced,) = seen
    assert not traced.training and traced.dtype == torch.float32 and traced.config.attention_projections == "merged"


def test_existing_output_is_replaced_only_when_asked(tiny_folder, graph, monkeypatch, tmp_path):
    output = tmp_path / "m.onnx"
    output.write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_onnx(tiny_folder, output)
    assert output.read_text() == "mine"
    monkeypatch.setattr(export, "build_graph", graph)
    assert export_onnx(tiny_folder, output, overwrite=True).error < 1e-5
    assert onnx.load(output).graph.input[0].name == "input_ids"


@pytest.mark.parametrize("change", [{"seed": 1}, {"expression_mean": 11.2503}, {"expression_std": 1.001}])
def test_other_numbers_are_an_error_and_leave_nothing(make_model, graph, monkeypatch, tmp_path, change):
    model = make_model(seed=change.get("seed", 0))
    for name in change.keys() - {"seed"}:
        setattr(model.config, name, change[name])
    monkeypatch.setattr(export, "build_graph", graph)
    with pytest.raises(RuntimeError, match="differs from PyTorch by"):
        export_onnx(model, tmp_path / "new" / "m.onnx")
    assert list((tmp_path / "new").iterdir()) == []


def test_graph_of_one_batch_size_is_an_error(tiny_folder, graph, monkeypatch, tmp_path):
    def of_two(*_):
        proto = graph()
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        return proto

    monkeypatch.setattr(export, "build_graph", of_two)
    with pytest.raises(Exception, match="Got: 1 Expected: 2"):
        export_onnx(tiny_folder, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told_before_anything_is_traced(tiny_folder, make_model, monkeypatch, tmp_path, tiny_tokenizer):
    monkeypatch.setattr(export, "build_graph", lambda *_: pytest.fail("traced"))
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export_onnx(tiny_folder, tmp_path / "m.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        export_onnx(tmp_path / "absent", tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="the tokenizer has kmer_size 5, the model 3"):
        export_onnx(make_model(kmer_size=3), tmp_path / "m.onnx", tokenizer=tiny_tokenizer)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install -e .\.\[export\]. in a clone"):
        export_onnx(tiny_folder, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_model_too_large_for_one_file(make_model, monkeypatch):
    monkeypatch.setattr(export, "_MAX_BYTES", 4 * make_model().num_parameters())
    with pytest.raises(ValueError, match="too many for one ONNX file"):
        export.build_graph(make_model())


def test_opset(make_model, tmp_path):
    result = export_onnx(make_model(**ONE_LAYER), tmp_path / "m.onnx", opset=18)
    assert result.opset == 18 and result.error < 1e-5
    assert onnx.load(result.path).opset_import[0].version == 18


def test_an_opset_that_is_not_possible_is_refused_in_one_line(make_model, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"^opset 3 is not possible: torch exports"):
        export_onnx(make_model(**ONE_LAYER), tmp_path / "m.onnx", opset=3)
    assert not list(tmp_path.iterdir())
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_random_promoters_have_n_within_and_around():
    strands = random_promoters(200, 100, seed=1)
    assert strands.dtype == np.uint8 and set(np.unique(strands)) == {0, 1, 2, 3, 4}
    assert (strands[:, 50] == 4).any() and not (strands[:, 40:60] == 4).all(axis=1).any()
    assert (strands[:, 0] == 4).mean() > 0.9
    assert not np.array_equal(strands, random_promoters(200, 100, seed=2))


def load_script(path):
    spec = importlib.util.spec_from_file_location("export_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line_passes_its_options(monkeypatch, capsys):
    script, calls = load_script(SCRIPT), []
    monkeypatch.setattr(
        script,
        "export_onnx",
        lambda **options: calls.append(options) or export.OnnxExport(options["output"], None, 18, 1),
    )
    script.main(["m", "o.onnx"])
    script.main(["m", "o.onnx", "--merged"])
    script.main(["m", "o.onnx", "--separate", "--opset", "18", "--overwrite", "--no_check"])
    common = {"model": "m", "output": Path("o.onnx")}
    assert calls == [
        common | {"merged": None, "opset": None, "overwrite": False, "check": True},
        common | {"merged": True, "opset": None, "overwrite": False, "check": True},
        common | {"merged": False, "opset": 18, "overwrite": True, "check": False},
    ]
    assert "largest difference" not in capsys.readouterr().out


@pytest.mark.slow
def test_command_line(tiny_folder, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "out/tiny.onnx"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "tiny.onnx written" in result.stdout and "largest difference from PyTorch" in result.stdout
    assert "Traceback" not in result.stderr and "torchvision" not in result.stderr
    np.testing.assert_allclose(
        predict_onnx(tmp_path / "out" / "tiny.onnx", SEQUENCES), predict(tiny_folder, SEQUENCES), atol=2.5e-4
    )
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert "--overwrite" in again.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "tiny.onnx"]


@pytest.mark.slow
def test_benchmark_runs(tiny_folder, tmp_path):
    from benchmarks import onnx as benchmark

    output = tmp_path / "out.json"
    options = ["--checkpoint", str(tiny_folder), "--threads", "1", "--rounds", "1", "--output", str(output)]
    assert benchmark.main(options) == 0
    report = json.loads(output.read_text())
    assert report["machine"]["threads"] == 1 and report["machine"]["versions"]["onnxruntime"]
    assert len(report["checks"]) == 2 and all(check["holds"] for check in report["checks"])
    rows = report["tables"]["onnx"]
    forms = {(row["library"], row["projections"], row["batch"]) for row in rows}
    assert len(rows) == len(forms) == 12 and all(row["sequences_per_second"] > 0 for row in rows)
    assert [figure["name"] for figure in report["figures"]][-2:] == [
        f"ONNX Runtime against PyTorch, fastest form of each, batch {size}" for size in (1, 64)
    ]
