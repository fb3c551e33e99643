"""What the next release of a library takes away is an error where our own code asks for it."""

import warnings

import pytest


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize(
    "module",
    ["modeling_macaron.analysis.predict", "tokenization.tokenization_kmer", "space.app",
     "transformers_modules.tiny.modeling_macaron"],
)  # fmt: skip
def test_warnings_of_our_code_are_errors(category, module):
    with pytest.raises(category):
        warnings.warn_explicit("will be gone", category, "somewhere.py", 1, module=module)


def test_warnings_of_others_are_not():
    with pytest.warns(FutureWarning):
        warnings.warn_explicit("will be gone", FutureWarning, "somewhere.py", 1, module="torch.onnx")
