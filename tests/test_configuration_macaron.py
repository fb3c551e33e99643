"""Configuration: defaults of the paper and rejected values."""

import doctest
import json
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction, configuration_macaron

DEFAULTS = {
    "model_type": "macaron", "vocab_size": 6, "kmer_size": 10, "strand_length": 100, "reverse_complement": True,
    "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 512, "intermediate_size": 1024,
    "attention_projections": "separate", "feed_forward": "half_steps", "use_convolution": True, "conv_kernel_size": 15,
    "num_expression_positions": 32, "hidden_dropout": 0.01, "layer_norm_eps": 1e-6, "gate_activation": "silu",
    "pooling": "expression_positions", "reconstruction_weight": 1.0, "expression_bins": None,
    "both_orientations": False, "interval_quantiles": None, "expression_mean": 0.0, "expression_std": 1.0,
    "problem_type": "regression", "num_labels": 1, "id2label": {0: "expression"}, "label2id": {"expression": 0},
    "pad_token_id": 4, "mask_token_id": 5, "sequence_length": 200, "num_pooled_positions": 32,
}  # fmt: skip
SIZES = {
    "kmer_size", "strand_length", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "intermediate_size", "conv_kernel_size", "num_expression_positions",
}  # fmt: skip
IMPOSSIBLE = [
    *((name, value) for name in sorted(SIZES) for value in (0, 2.5, "4", None, 1 << 40)),
    *(("vocab_size", value) for value in (0, 7, "6")),
    ("kmer_size", 201),
    *(("expression_bins", (-1.0, value)) for value in (-1, -2.0, math.nan, 10**400, "1", None)),
    *(("expression_bins", value) for value in ((), (0.0,), tuple(range(1001)), (0.0, 1.0, 3.0), "01", 18)),
    *(("interval_quantiles", {"90": value}) for value in (-1.0, math.nan, 10**400, "1", None)),
    *(("interval_quantiles", {key: 1.0}) for key in ("0", "100", "0.9", "x", 90)),
    *(("both_orientations", value) for value in (1, "true", None)),
    *(("hidden_dropout", value) for value in (-0.1, 1, math.nan, "0.1")),
    *(("layer_norm_eps", value) for value in (0.0, math.nan, 1e308, None)),
    *(("gate_activation", value) for value in ("gelu", None)),
    *(("feed_forward", value) for value in ("full", None)),
    *(("use_convolution", value) for value in (2, "false", None)),
    *(("reverse_complement", value) for value in (2, "false", None)),
    *(("pooling", value) for value in ("max", None)),
    *(("reconstruction_weight", value) for value in (-1.0, math.nan, 10**400, None)),
    *(("expression_std", value) for value in (0, -2.0, math.nan, math.inf, None)),
    *(("expression_mean", value) for value in (math.nan, -math.inf, 10**400, "11")),
    ("problem_type", "multi_label_classification"),
    ("num_labels", 3),
]


def test_defaults():
    config = MacaronConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_value_is_rejected_by_name(name, value):
    with pytest.raises((ValueError, StrictDataclassError), match=f"[`']{name}[`']"):
        MacaronConfig(**{name: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"both_orientations": True, "reverse_complement": False}, "both_orientations.*reverse_complement"),
        ({"hidden_size": 16_384, "num_hidden_layers": 256}, "more than 1,000,000,000"),
        ({"intermediate_size": 131_072, "hidden_size": 16_384}, "more than 1,000,000,000"),
        ({"num_attention_heads": 256, "head_dim": 16_384, "hidden_size": 64}, "more than 1,000,000,000"),
        ({"attention_projections": "merged", "hidden_size": 16_384}, "more than 1,000,000,000"),
    ],
)
def test_impossible_combination_is_rejected(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        MacaronConfig(**fields)


@pytest.mark.parametrize("projections", ["separate", "merged"])
@pytest.mark.parametrize("feed_forward", ["half_steps", "single"])
def test_counted_weights_are_a_close_lower_bound(projections, feed_forward):
    config = MacaronConfig(attention_projections=projections, feed_forward=feed_forward)
    with torch.device("meta"):
        num_parameters = MacaronForExpressionPrediction(config).num_parameters()
    assert 0.99 * num_parameters < config._num_weights() <= num_parameters
    MacaronConfig(num_hidden_layers=32, hidden_size=1_024)  # 16 times as large


@pytest.mark.parametrize(("name", "value"), [("expression_std", 0.0), ("kmer_size", 0), ("hidden_dropout", 1.5)])
def test_impossible_value_of_a_config_file_is_rejected(tmp_path, name, value):
    MacaronConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(StrictDataclassError, match=f"`{name}`"):
        MacaronConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pooling": "mean", "gate_activation": "sigmoid", "expression_mean": -1, "expression_std": 3},
        {"expression_mean": 11.147_999_763_488_77, "expression_std": 1 / 3, "layer_norm_eps": 1e-12, "kmer_size": 200},
        {"expression_bins": (-(10**29), 0, 10**29), "interval_quantiles": {"90": 1.5}},
        {"hidden_dropout": 0, "reconstruction_weight": 0, "conv_kernel_size": 4, "num_expression_positions": 1},
    ],
)
def test_round_trip(tmp_path, fields):
    config = MacaronConfig(**fields)
    config.save_pretrained(tmp_path)
    loaded = MacaronConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == {**config.to_dict(), "transformers_version": loaded.to_dict()["transformers_version"]}
    for name, value in {**DEFAULTS, **fields, "num_pooled_positions": None, "sequence_length": None}.items():
        if value is not None:
            assert getattr(loaded, name) == value, name
    remote = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(remote).__module__.startswith("transformers_modules.")
    assert remote.to_json_string() == loaded.to_json_string()


def test_every_auto_class_and_the_pipeline_are_named(tmp_path):
    MacaronConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == {
        "AutoConfig": "configuration_macaron.MacaronConfig",
        "AutoModel": "modeling_macaron.MacaronForExpressionPrediction",
        "AutoModelForSequenceClassification": "modeling_macaron.MacaronForExpressionPrediction",
        "AutoModelForMaskedLM": "modeling_macaron.MacaronForMaskedLM",
        "AutoTokenizer": ["tokenization_kmer.KmerTokenizer", None],
    }
    pipeline = saved["custom_pipelines"]["promoter-expression"]
    assert pipeline["impl"] == "pipeline_macaron.PromoterExpressionPipeline"
    assert pipeline["pt"] == ["AutoModelForSequenceClassification"]


def test_configs_share_nothing_that_changes():
    name, first, second = "promoter-expression", MacaronConfig(), MacaronConfig()
    assert first.auto_map is not second.auto_map
    assert first.id2label is not second.id2label
    assert first.custom_pipelines is not second.custom_pipelines
    assert first.custom_pipelines[name] is not second.custom_pipelines[name]


def test_examples_of_the_documentation_run():
    result = doctest.testmod(configuration_macaron)
    assert result.attempted >= 2
    assert result.failed == 0
