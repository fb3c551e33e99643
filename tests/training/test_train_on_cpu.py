"""Tests of training on a CPU: dropout masks, the depthwise convolution, compiled blocks."""

import copy

import pytest
import torch
from torch import nn

from modeling_macaron.training import cpu
from modeling_macaron.training.arguments import MacaronTrainingArguments
from modeling_macaron.training.cpu import draw_mask, train_on_cpu
from tests.batches import random_batch

ABLATIONS = [{"feed_forward": "single"}, {"use_convolution": False}, {"reverse_complement": False}]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.2, 0.5, 0.99999])
def test_mask_drops_at_its_rate_and_dropout_keeps_the_mean(rate):
    torch.manual_seed(0)
    mask = draw_mask(torch.empty(3_000_001), rate)
    bits, dropped = cpu._threshold(rate)
    assert abs(dropped / 2**bits - rate) < 1e-3
    assert mask.dtype == torch.int8 and set(mask.unique().tolist()) <= {0, 1}
    assert mask.double().mean().item() == pytest.approx(1 - rate, abs=2e-3)
    if rate < 0.9:
        dropout = nn.Sequential(nn.Dropout(rate))
        train_on_cpu(dropout)
        assert dropout(torch.ones(3_000_000)).mean().item() == pytest.approx(1, abs=2e-3)
        assert torch.equal(dropout.eval()(torch.ones(5)), torch.ones(5))


def test_masks_follow_the_seed():
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append([draw_mask(torch.empty(1000), 0.2) for _ in range(2)])
    assert torch.equal(masks[0][1], masks[1][1])
    assert not torch.equal(masks[0][0], masks[0][1]) and not torch.equal(masks[0][0], masks[2][0])


@pytest.mark.parametrize("width", [1, 4, 5, 15])
def test_depthwise_convolution_equals_pytorch(width):
    conv = nn.Conv1d(16, 16, width, padding="same", groups=16, bias=False)
    fast = nn.Sequential(copy.deepcopy(conv))
    train_on_cpu(fast)
    inputs, towards = torch.randn(3, 16, 33, requires_grad=True), torch.randn(3, 16, 33)
    expected = conv(inputs)
    if width % 2:
        with torch.autocast("cpu", torch.bfloat16):  # in bfloat16 oneDNN would not return
            under_autocast = fast(inputs)
        assert torch.equal(under_autocast, fast(inputs))
    torch.testing.assert_close(fast(inputs), expected)
    got, expected = (torch.autograd.grad(one, (inputs, *m.parameters()), towards) for one, m in
                     ((fast(inputs), fast), (expected, conv)))  # fmt: skip
    torch.testing.assert_close(got, expected)


def test_operators_match_their_declarations():
    inputs, weight = torch.randn(2, 4, 9, requires_grad=True), torch.randn(4, 1, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.macaron.depthwise_conv.default, (inputs, weight))
    checks = ("test_schema", "test_faketensor")
    for like in (inputs.detach(), inputs.detach().transpose(1, 2)):
        torch.library.opcheck(torch.ops.macaron.draw_mask.default, (like, 0.2), test_utils=checks)


@pytest.mark.parametrize(
    "fields", [{}, {"attention_projections": "merged"}, *ABLATIONS, {"gate_activation": "sigmoid"}]
)
def test_outputs_stay_the_same(make_model, fields):
    model = make_model(hidden_dropout=0.0, **fields).double().train()
    fast = copy.deepcopy(model)
    train_on_cpu(fast)
    losses, gradients = _losses_and_gradients(model, fast, random_batch())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-11)
    assert {type(module) for module in fast.modules()} > {cpu._Dropout}


@pytest.mark.slow
def test_compiled_blocks_give_the_same_outputs(make_model, require_or_skip):
    """Checked in training, with the last block at expression positions and masked nucleotides."""
    if not cpu._can_compile():
        require_or_skip("PyTorch cannot compile here")
    torch._dynamo.reset()
    model = make_model(hidden_dropout=0.0, attn_implementation="eager").train()
    fast = copy.deepcopy(model)
    train_on_cpu(fast, compile_blocks=True)
    batch = random_batch() | {"output_nucleotide_logits": False}
    losses, gradients = _losses_and_gradients(model, fast, batch)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    for module in fast.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    with_dropout = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16):
            with_dropout.append(fast(**batch).loss)
    assert with_dropout[0] == with_dropout[1] != with_dropout[2]
    with torch.compiler.set_stance("fail_on_recompile"), torch.no_grad():  # evaluation is not compiled
        assert fast.eval()(batch["input_ids"][:1]).logits.shape == (1, 1)


def _losses_and_gradients(model, fast, batch):
    losses, gradients = [], []
    for one in (model, fast):
        losses.append(one(**batch).loss)
        losses[-1].backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in one.named_parameters()})
    return losses, gradients


def test_torch_compile_on_a_cpu_compiles_blocks(tmp_path, make_model, monkeypatch, caplog):
    arguments = MacaronTrainingArguments(output_dir=str(tmp_path), use_cpu=True, torch_compile=True)
    assert arguments.compile_blocks and not arguments.torch_compile
    assert not MacaronTrainingArguments(output_dir=str(tmp_path), use_cpu=True).compile_blocks
    arguments = MacaronTrainingArguments(output_dir=str(tmp_path), use_cpu=True, torch_compile_mode="default")
    assert arguments.compile_blocks and not arguments.torch_compile

    def fail(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: no compiler\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    model = make_model()
    train_on_cpu(model, compile_blocks=True)
    assert "cannot compile here, so training is slower (InvalidCxxCompiler: no compiler)" in caplog.text
    assert not any(isinstance(module, cpu._CompiledLayer) for module in model.modules())
