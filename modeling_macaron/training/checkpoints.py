"""Checkpoints: written completely or not at all, and found again to resume from."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from modeling_macaron.io.atomic import is_full_disk

from .arguments import MacaronTrainingArguments
from .averaging import RAW_WEIGHTS

logger = logging.getLogger(__name__)


class NumProcesses(TrainerCallback, ExportableState):
    """Let `trainer_state.json` tell how many processes wrote a checkpoint."""

    def state(self) -> dict:
        """Give what is written: always the processes of this run, not those of one that is resumed."""
        return {"args": {}, "attributes": {"num_processes": PartialState().num_processes}}


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove the checkpoint that the block writes if the disk is full, and raise an `OSError` that says so."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        is_of_torch = isinstance(error, RuntimeError) and re.search("inline_container|PytorchStreamWriter", str(error))
        if not (is_of_torch or is_full_disk(error)):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(
            f"no space is left for {folder}, which was removed: make room (--save_total_limit keeps fewer checkpoints) "
            "and go on with --resume_from_checkpoint auto"
        ) from error


def find_checkpoint(args: MacaronTrainingArguments) -> str | None:
    """Choose the checkpoint to resume from, as `--resume_from_checkpoint auto` or a path says.

    Parameters
    ----------
    args : MacaronTrainingArguments
        `resume_from_checkpoint` is None, a folder, or `auto` (`true` too) for the latest complete one of `output_dir`.

    Returns
    -------
    str or None
        Folder, or None to start from the beginning. A warning names the later ones that `auto` passes over.

    Raises
    ------
    FileExistsError
        If `output_dir` holds checkpoints and nothing was said of resuming.
    ValueError
        If the folder that was named is no complete checkpoint, or weights are to be averaged and no checkpoint did so.
    """
    asked = args.resume_from_checkpoint
    folders = [path for path in Path(args.output_dir).glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])]
    folders.sort(key=lambda path: int(path.name[11:]), reverse=True)
    if asked is None or str(asked).lower() in ("false", "none", ""):
        if folders:
            raise FileExistsError(
                f"{args.output_dir} holds {folders[0].name} of an earlier run: go on with "
                "--resume_from_checkpoint auto, or choose another --output_dir"
            )
        return None
    auto, averaging = str(asked).lower() in ("auto", "true"), args.ema_decay is not None
    candidates = folders if auto else [Path(asked)]
    found = next((path for path in candidates if is_complete(path, averaging)), None)
    if found is None:
        plain = next((path for path in candidates if is_complete(path) and not (path / RAW_WEIGHTS).exists()), None)
        if plain is not None:
            raise ValueError(f"{plain} has no {RAW_WEIGHTS}: it was trained without --ema_decay, go on without it")
        if not auto:
            raise ValueError(f"{asked}: no complete checkpoint (was its writing interrupted?)")
    if args.should_log:
        _warn_of_passed_over(args.output_dir, candidates, found)
    return None if found is None else str(found)


def _warn_of_passed_over(output_dir: str, candidates: list[Path], found: Path | None) -> None:
    """Name the checkpoints that are later than the one that was found."""
    passed = [path.name for path in (candidates if found is None else candidates[: candidates.index(found)])]
    if passed:
        way = "no other is there, so training STARTS ANEW" if found is None else f"training goes on from {found.name}"
        logger.warning("%s: %s not complete (interrupted?), passed over; %s", output_dir, ", ".join(passed), way)


def is_complete(checkpoint: Path, averaging: bool = False) -> bool:
    """Tell whether a checkpoint was written to its end: the main process writes the Trainer's state last.

    Parameters
    ----------
    checkpoint : Path
        Folder `checkpoint-STEP`.
    averaging : bool
        The run averages weights, so the raw ones must be there too.

    Returns
    -------
    bool
        Whether its weights can be read, and the states of the optimizer, the schedule and the random numbers of every
        process that wrote it are there and not cut off. How many processes resume from it does not matter.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for name in ("model.safetensors", *([RAW_WEIGHTS] if averaging else [])):
            with safe_open(checkpoint / name, "np"):
                pass
        names = {path.name for path in checkpoint.iterdir()}
        sharded = {"optimizer.bin", "pytorch_model_fsdp.bin"}  # FSDP's, from which it resumes
        needed = {"scheduler.pt", *(sharded if sharded <= names else ["optimizer.pt"]), *_random_states(state, names)}
        return "config.json" in names and all(zipfile.is_zipfile(checkpoint / name) for name in needed)
    except (OSError, ValueError, SafetensorError, RecursionError):
        return False


def _random_states(state: dict, names: set[str]) -> set[str]:
    """Files of the random states that a checkpoint must have: what it tells, or, of an old one, what it has.

    Raises
    ------
    ValueError
        If it has others, or the state is not what the Trainer writes.
    """
    there = {name for name in names if name.startswith("rng_state")}
    try:
        told = state.get("stateful_callbacks", {}).get(NumProcesses.__name__)
        processes = len(there) if told is None else told["attributes"]["num_processes"]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("trainer_state.json does not hold the Trainer's state") from error
    needed = {"rng_state.pth"} if len(there) == 1 else {f"rng_state_{rank}.pth" for rank in range(len(there))}
    if processes != len(there) or not there or there != needed:
        raise ValueError("random states of some processes are missing")
    return needed
