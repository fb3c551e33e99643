"""Export to ONNX: numbers equal PyTorch's for any batch, and metadata describe the input."""

import json

import numpy as np
import onnx
import pytest
import torch

from modeling_macaron import export
from modeling_macaron.export import export_onnx, open_session, predict_onnx, random_promoters
from modeling_macaron.predictor import as_predictor
from scripts.export_onnx import main
from tokenization import reverse_complement

SEQUENCES = ["ACGTACGTAC", "acgu" * 4, "GGGG", "ACCATTTTGGT", "NRYACG", "ACCAACGTTGCAGGT"]
ONE_LAYER = {"num_hidden_layers": 1}


def random_ids(rows, seed=5):
    """Token ids (rows, 40) of both strands, N and padding included."""
    strands = random_promoters(rows, 20, seed)
    return np.concatenate([strands, reverse_complement(strands)], axis=1).astype(np.int64)


@torch.no_grad()
def expected(model, ids):
    """Expression in assay units of a plain forward pass, with nucleotide logits."""
    logits = model(torch.from_numpy(ids)).logits.double().flatten().numpy()
    return logits * model.config.expression_std + model.config.expression_mean


def metadata_of(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    """Path of the tiny model exported by the command."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    main([str(tiny_folder), str(path)])
    return path


@pytest.fixture
def traced(exported, monkeypatch):
    """Replace the slow tracing by the exported graph without metadata."""

    def build_graph(*_):
        proto = onnx.load(exported)
        del proto.metadata_props[:]
        return proto

    monkeypatch.setattr(export, "build_graph", build_graph)
    return build_graph


@pytest.mark.parametrize("batch", [1, 5, 7, 64])
def test_numbers_are_those_of_pytorch_in_any_batch(exported, make_model, batch):
    model, ids = make_model(), random_ids(batch)
    (got,) = open_session(exported).run(["expression"], {"input_ids": ids})
    assert got.shape == (batch,) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected(model, ids), atol=2.5e-4)
    assert batch == 1 or got.std() > 1e-3, "predictions differ between promoters"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "merged"),
    [
        ({"pooling": "mean"}, True),
        ({"both_orientations": True, "expression_bins": (-2.0, 0.0, 2.0)}, True),
        ({"reverse_complement": False, "feed_forward": "single", "use_convolution": False}, False),
    ],
)
def test_all_kinds_of_models(make_model, tmp_path, fields, merged):
    model = make_model(**ONE_LAYER, **fields)
    result = export_onnx(model, tmp_path / "m.onnx", merged=merged, check=False)
    assert result.error is None
    for batch in (1, 3):
        ids = random_ids(batch)
        (got,) = open_session(result.path).run(None, {"input_ids": ids})
        np.testing.assert_allclose(got, expected(model, ids), atol=2.5e-4)
    assert metadata_of(result.path)["attention_projections"] == ("merged" if merged else "separate")


@pytest.mark.parametrize(("head_dim", "projections"), [(8, "separate"), (16, "merged")])
def test_projections_are_merged_if_that_is_faster(make_model, tmp_path, traced, head_dim, projections):
    export_onnx(make_model(head_dim=head_dim), tmp_path / "m.onnx", check=False)
    assert metadata_of(tmp_path / "m.onnx")["attention_projections"] == projections


def test_interface_and_metadata(exported):
    session = open_session(exported)
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("input_ids", "tensor(int64)", ["batch", 40])
    assert (gives.name, gives.type, gives.shape) == ("expression", "tensor(float)", ["batch"])
    assert metadata_of(exported) == {
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
    }
    assert b".py" not in exported.read_bytes(), "no path of the exporting machine"
    names = {tensor.name for tensor in onnx.load(exported).graph.initializer}
    assert any("expression_head" in name for name in names) and not any("nucleotide" in name for name in names)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_sequences_are_read_as_the_checkpoint_reads_them(exported, tiny_folder, batch_size):
    got = predict_onnx(exported, SEQUENCES, batch_size=batch_size)
    np.testing.assert_allclose(got, as_predictor(tiny_folder).predict(SEQUENCES), atol=2.5e-4)
    assert got.dtype == np.float64 and predict_onnx(exported, []).shape == (0,)
    with pytest.raises(ValueError, match=r"sequence 1 .*letter 'X' at position 2"):
        predict_onnx(exported, ["ACGT", "AX"], batch_size=batch_size)


def test_other_onnx_files_are_rejected(traced, tmp_path):
    onnx.save(traced(), tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match=r"bare\.onnx was not written by export_onnx"):
        predict_onnx(tmp_path / "bare.onnx", ["ACGT"])


def test_loaded_model_does_not_change(make_model, traced, tmp_path):
    model = make_model().to(torch.bfloat16).train()
    export_onnx(model, tmp_path / "m.onnx", merged=True, check=False)
    assert model.training and model.dtype == torch.bfloat16 and model.config._attn_implementation == "sdpa"
    assert model.config.attention_projections == "separate"


def test_existing_output_needs_overwrite(tiny_folder, traced, tmp_path, capsys):
    output = tmp_path / "m.onnx"
    output.write_text("mine")
    with pytest.raises(SystemExit, match="--overwrite"):
        main([str(tiny_folder), str(output)])
    assert output.read_text() == "mine"
    main([str(tiny_folder), str(output), "--overwrite", "--separate"])
    assert "m.onnx written" in (printed := capsys.readouterr().out) and "largest difference from PyTorch" in printed
    assert onnx.load(output).graph.input[0].name == "input_ids"


@pytest.mark.parametrize("change", [{"seed": 1}, {"expression_mean": 11.2503}, {"expression_std": 1.001}])
def test_different_numbers_raise_and_leave_no_file(make_model, traced, tmp_path, change):
    model = make_model(seed=change.get("seed", 0))
    for name in change.keys() - {"seed"}:
        setattr(model.config, name, change[name])
    with pytest.raises(RuntimeError, match="differs from PyTorch by"):
        export_onnx(model, tmp_path / "new" / "m.onnx")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "missing", "message"),
    [
        (["FOLDER", "m.pt"], "", r"ends in \.onnx"),
        (["absent", "m.onnx"], "", "no checkpoint folder"),
        (["FOLDER", "m.onnx"], "onnxscript", r"needs onnxscript: pip install .macaron-promoter\[export\]"),
        (["FOLDER", "m.onnx", "--opset", "3"], "", "opset 3 is not possible: torch exports"),
    ],
)
def test_errors_leave_no_output(tiny_folder, monkeypatch, tmp_path, arguments, missing, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(SystemExit, match=message):
        main([str(tiny_folder) if word == "FOLDER" else word for word in arguments])
    assert list(tmp_path.iterdir()) == []


def test_opset(make_model, tmp_path):
    result = export_onnx(make_model(**ONE_LAYER), tmp_path / "m.onnx", opset=18)
    assert result.opset == 18 and result.error < 1e-5
    assert onnx.load(result.path).opset_import[0].version == 18


@pytest.mark.slow
def test_benchmark_runs(tiny_folder, tmp_path):
    from benchmarks import onnx as benchmark

    output = tmp_path / "out.json"
    options = ["--checkpoint", str(tiny_folder), "--threads", "1", "--rounds", "1", "--output", str(output)]
    assert benchmark.main(options) == 0
    report = json.loads(output.read_text())
    assert len(report["checks"]) == 2 and all(check["holds"] for check in report["checks"])
    rows = report["tables"]["onnx"]
    forms = {(row["library"], row["projections"], row["batch"]) for row in rows}
    assert len(rows) == len(forms) == 12 and all(row["sequences_per_second"] > 0 for row in rows)
