"""Push a complete model folder to the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, RepoUrl, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from transformers.dynamic_module_utils import get_relative_import_files

_AUTO_CLASSES = {"config.json": ("AutoConfig", "AutoModel"), "tokenizer_config.json": ("AutoTokenizer",)}
_UNREACHABLE = "the Hub at {} cannot be reached ({}): check the network, HF_ENDPOINT and HF_HUB_OFFLINE"
NOT_UPLOADED = (
    "checkpoint-*", "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "raw_weights.safetensors",
    "trainer_state.json", "training_args.bin", "runs/*", "logs/*", "*.log", "*tfevents*", "*__pycache__*",
    ".ipynb_checkpoints/*",
)  # fmt: skip


def check_hub_folder(folder: str | Path) -> None:
    """Raise a ValueError that names all missing files that the Auto classes need to load a folder by itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    names, references = {"README.md", *_AUTO_CLASSES}, []
    for name, classes in _AUTO_CLASSES.items():
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            auto_map = settings.get("auto_map") or {}
            names |= {f"{key} in the auto_map of {name}" for key in classes if key not in auto_map}
            for value in auto_map.values():
                references += value if isinstance(value, list) else [value]
            references += [pipeline.get("impl") for pipeline in (settings.get("custom_pipelines") or {}).values()]
    for reference in references:
        if reference and "--" not in reference:  # `OWNER/NAME--module.Class` is code of another repository
            module = folder / f"{reference.partition('.')[0]}.py"
            names.add(module.name)
            try:
                names |= {Path(path).name for path in get_relative_import_files(module)}
            except FileNotFoundError as error:
                names.add(Path(error.filename).name)
    index = folder / "model.safetensors.index.json"
    names |= set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise ValueError(
            f"{folder} is not a complete model folder, nothing was uploaded. Missing: {', '.join(missing)}"
        )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a complete model folder to the Hub, and create the repository if needed.

    Checkpoints, optimizer states and logs (`NOT_UPLOADED`) are not uploaded.

    Parameters
    ----------
    folder : str or Path
        Folder of the saved model and tokenizer, with README.md; checked before the upload.
    repo_id : str
        `NAME` (of the token's owner) or `OWNER/NAME`.
    private : bool
        Make a new repository private; an existing one does not change.
    revision : str, optional
        Branch to push to, created if needed. Default: `main`.
    commit_message : str, optional
        Default: the message of huggingface_hub.
    token : str, optional
        Access token with write permission. Default: the environment variable HF_TOKEN or the stored login.

    Returns
    -------
    str
        URL of the repository, or of its branch if `revision` is given.

    Raises
    ------
    ValueError
        If the folder is incomplete or the name is invalid.
    OSError
        If the folder or the token is missing, or the Hub cannot be reached or rejects the token or the upload.
    """
    check_hub_folder(folder)
    url = ensure_repository(repo_id, private=private, token=token)
    api = HfApi(token=token or True)
    with _explain_rejection(repo_id, api.endpoint):
        if revision is not None:
            api.create_branch(url.repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=list(NOT_UPLOADED),
        )
    return str(url) if revision is None else f"{url}/tree/{revision}"


def ensure_repository(repo_id: str, *, private: bool = False, token: str | None = None) -> RepoUrl:
    """Create a model repository if needed; see `push_folder` for arguments and errors."""
    api = HfApi(token=token or True)
    with _explain_rejection(repo_id, api.endpoint):
        return api.create_repo(repo_id, private=private or None, exist_ok=True)


@contextmanager
def _explain_rejection(repo_id: str, endpoint: str) -> Iterator[None]:
    """Turn any upload error into a one-line OSError."""
    try:
        yield
    except (HFValidationError, LocalTokenNotFoundError):
        raise
    except (OSError, HTTPError, LookupError, TypeError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error if isinstance(error, RuntimeError) else error  # a large file failed
        reason = f"{type(cause).__name__}: {_one_line(cause)}"
        if is_unreachable(cause):
            raise ConnectionError(_UNREACHABLE.format(endpoint, reason)) from error
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            reason = f"the token needs write permission, run `hf auth login` or set HF_TOKEN ({reason})"
        raise OSError(f"the upload to {repo_id} at {endpoint} failed: {reason}") from error


@contextmanager
def reading_from_hub() -> Iterator[None]:
    """Turn Hub read errors into a one-line ConnectionError or OSError; local errors pass through."""
    try:
        yield
    except (OSError, HTTPError) as error:
        cause = error
        while cause is not None and not isinstance(cause, HTTPError):
            cause = cause.__cause__ or cause.__context__
        if is_unreachable(cause):
            reason = _one_line(cause) or type(cause).__name__
            raise ConnectionError(_UNREACHABLE.format(constants.ENDPOINT, reason)) from error
        if "\n" in str(error):
            raise OSError(_one_line(error)) from error
        raise


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an HTTP error means that the Hub did not answer."""
    return isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
