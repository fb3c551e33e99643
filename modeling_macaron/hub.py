"""Push a complete model folder to the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, RepoUrl, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_imports

REQUIRED_FILES = ("config.json", "tokenizer_config.json", "README.md")
REQUIRED_CLASSES = {"config.json": ("AutoConfig", "AutoModel"), "tokenizer_config.json": ("AutoTokenizer",)}
NOT_UPLOADED = (
    "checkpoint-*",
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "raw_weights.safetensors",
    "trainer_state.json",
    "training_args.bin",
    "runs/*",
    "logs/*",
    "*.log",
    "*tfevents*",
    "*__pycache__*",
    ".ipynb_checkpoints/*",
)


def check_hub_folder(folder: str | Path) -> None:
    """Raise a ValueError that names all that a folder lacks for the Auto classes to load it without this package."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    faults = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    references = []
    for name, classes in REQUIRED_CLASSES.items():
        settings = _read_json(folder / name)
        auto_map = settings.get("auto_map") or {}
        if settings:
            faults += [f"{key} in the auto_map of {name}" for key in classes if not auto_map.get(key)]
        references += _code_references(settings)
    faults += _missing_modules(folder, references) + _weight_faults(folder)
    if faults:
        raise ValueError(f"{folder} is not a complete model folder, nothing was uploaded. Missing: {', '.join(faults)}")


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
        Default: that of huggingface_hub.
    token : str, optional
        Access token with write permission. Default: the environment variable HF_TOKEN or the stored login.

    Returns
    -------
    str
        URL of the repository, or of its branch if `revision` is given.

    Raises
    ------
    NotADirectoryError
        If the folder does not exist.
    ValueError
        If the folder is incomplete, the name is invalid, or the Hub rejects the model card.
    PermissionError
        If the token is missing or lacks permission.
    ConnectionError
        If the Hub cannot be reached or answers with another error.
    """
    check_hub_folder(folder)
    url = ensure_repository(repo_id, private=private, token=token)
    api = HfApi(token=token)
    with _clear_errors(repo_id, api.endpoint):
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
    validate_repo_id(repo_id)
    token = token or get_token()
    if not token:
        raise PermissionError("there is no Hugging Face token: run `hf auth login` or set HF_TOKEN")
    api = HfApi(token=token)
    with _clear_errors(repo_id, api.endpoint):
        return api.create_repo(repo_id, private=private or None, exist_ok=True)


def _read_json(path: Path) -> dict:
    """Read a JSON object; a missing file is empty."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object")
    return content


def _code_references(settings: dict) -> list[str]:
    """`module.Class` references of the settings, except to another repository (`owner/name--`)."""
    references = [pipeline.get("impl") for pipeline in (settings.get("custom_pipelines") or {}).values()]
    for value in (settings.get("auto_map") or {}).values():
        references += value if isinstance(value, list) else [value]
    return [reference for reference in references if reference and "--" not in reference]


def _missing_modules(folder: Path, references: list[str]) -> list[str]:
    """Missing Python files among those that are referenced or imported."""
    pending = [reference.split(".")[0] for reference in references]
    seen, missing = set(), []
    while pending:
        module = pending.pop(0)
        if module in seen:
            continue
        seen.add(module)
        path = folder / f"{module}.py"
        if path.is_file():
            pending += sorted(get_relative_imports(path))
        else:
            missing.append(path.name)
    return missing


def _weight_faults(folder: Path) -> list[str]:
    """Missing or broken weight files."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_read_json(index).get("weight_map", {}).values())) or ["model.safetensors"]
    faults = []
    for name in names:
        try:
            with safe_open(folder / name, "numpy"):
                pass
        except FileNotFoundError:
            faults.append(name)
        except SafetensorError as error:
            faults.append(f"{name} (there, but broken: {error})")
    return faults


@contextmanager
def reading_from_hub() -> Iterator[None]:
    """Turn Hub read errors into a ConnectionError or an OSError of one line; local errors pass through."""
    try:
        yield
    except (OSError, HTTPError) as error:
        cause = error
        while cause is not None and not isinstance(cause, HTTPError):
            cause = cause.__cause__ or cause.__context__
        if is_unreachable(cause):
            raise _unreachable(constants.ENDPOINT, cause) from error
        if "\n" in str(error):
            raise OSError(_one_line(error)) from error
        raise


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an HTTP error came without an answer from the Hub."""
    return isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)


def _unreachable(endpoint: str, error: BaseException) -> ConnectionError:
    reason = _one_line(error) or type(error).__name__
    return ConnectionError(f"the Hub at {endpoint} cannot be reached ({reason}): check the network and HF_ENDPOINT")


@contextmanager
def _clear_errors(repo_id: str, endpoint: str) -> Iterator[None]:
    """Turn Hub errors into one line that says what to do."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _explain_answer(error, repo_id, endpoint) from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError("offline mode is on: unset HF_HUB_OFFLINE to push to the Hub") from error
    except HTTPError as error:
        raise _unreachable(endpoint, error) from error
    except (LookupError, TypeError, json.JSONDecodeError, UnicodeError) as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise ConnectionError(
            f"{endpoint} is not a Hugging Face Hub ({reason}): check the network and HF_ENDPOINT"
        ) from error
    except (RuntimeError, ConnectionError) as error:  # the transfer of a large file failed
        reason = _one_line(error.__cause__ or error)
        raise ConnectionError(f"the upload to {repo_id} was interrupted, push again: {reason}") from error
    except ValueError as error:
        raise ValueError(f"the Hub rejected the upload to {repo_id}: {_one_line(error)}") from error


def _explain_answer(error: HfHubHTTPError, repo_id: str, endpoint: str) -> OSError:
    """Error for an HTTP status."""
    status = error.response.status_code
    said = f" (it says: {_one_line(error.server_message)})" if error.server_message else ""
    hints = {
        401: f"make a token that may write at {endpoint}/settings/tokens, then run `hf auth login` or set HF_TOKEN",
        403: "the token needs write permission, and the owner must be you or an organization that you may write to",
    }
    if status in hints:
        return PermissionError(f"the Hub rejected the token for {repo_id} ({status}){said}: {hints[status]}")
    return ConnectionError(f"the Hub answered {status} to the upload to {repo_id}{said or f': {_one_line(error)}'}")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
