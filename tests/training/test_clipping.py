"""Clipping of gradients."""

import pytest
import torch

from modeling_macaron.training.callbacks import ClipEachGradient, clip_gradients


def test_clipping_each_gradient():
    parameters = torch.nn.ParameterDict({"large": torch.ones(100), "small": torch.ones(2)})
    parameters["large"].grad = torch.full((100,), 3.0)
    parameters["small"].grad = torch.tensor([0.1, -0.2])
    ClipEachGradient(0.5, 1.0).on_pre_optimizer_step(None, None, None, model=parameters)
    # 100 values clipped to 0.5 have the norm 5, which is then brought to 1: 0.1 each.
    torch.testing.assert_close(parameters["large"].grad, torch.full((100,), 0.1), rtol=1e-4, atol=0)
    torch.testing.assert_close(parameters["small"].grad, torch.tensor([0.1, -0.2]))


def test_no_gradient_is_nothing_to_clip(make_model):
    clip_gradients(make_model().parameters(), 0.5, 1.0)


@pytest.mark.parametrize(("value", "norm"), [(0.5, 1.0), (None, 1.0), (0.1, None), (None, None)])
def test_all_at_once_is_one_after_another(make_model, value, norm):
    models = make_model(), make_model()
    for model in models:
        generator = torch.Generator().manual_seed(0)
        for parameter in list(model.parameters())[1:]:
            parameter.grad = 0.3 * torch.randn(parameter.shape, generator=generator)
    for parameter in list(models[0].parameters())[1:]:
        if value is not None:
            torch.nn.utils.clip_grad_value_(parameter, value)
        if norm is not None:
            torch.nn.utils.clip_grad_norm_(parameter, norm)
    clip_gradients(models[1].parameters(), value, norm)
    for expected, parameter in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)
