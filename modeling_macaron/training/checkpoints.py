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
    """Record the number of processes that wrote a checkpoint in `trainer_state.json`."""

    def state(self) -> dict:
        """State to write: the number of processes of this run, not of the resumed one."""
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
    """Find the checkpoint that `resume_from_checkpoint` names (`auto`: the latest complete one), or None."""
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
    """Warn of incomplete checkpoints that are later than the one found."""
    passed = [path.name for path in (candidates if found is None else candidates[: candidates.index(found)])]
    if passed:
        way = "no other is there, so training STARTS ANEW" if found is None else f"training goes on from {found.name}"
        logger.warning("%s: %s not complete (interrupted?), passed over; %s", output_dir, ", ".join(passed), way)


def is_complete(checkpoint: Path, averaging: bool = False) -> bool:
    """Whether all weights and states of a checkpoint are readable, raw weights included if the run averages them."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for name in ("model.safetensors", *([RAW_WEIGHTS] if averaging else [])):
            with safe_open(checkpoint / name, "np"):
                pass
        names = {path.name for path in checkpoint.iterdir()}
        sharded = {"optimizer.bin", "pytorch_model_fsdp.bin"}  # of FSDP
        needed = {"scheduler.pt", *(sharded if sharded <= names else ["optimizer.pt"]), *_random_states(state, names)}
        return "config.json" in names and all(zipfile.is_zipfile(checkpoint / name) for name in needed)
    except (OSError, ValueError, SafetensorError, RecursionError):
        return False


def _random_states(state: dict, names: set[str]) -> set[str]:
    """Random-state files of all processes that wrote a checkpoint; raises a ValueError if some are missing."""
    there = {name for name in names if name.startswith("rng_state")}
    try:
        saved = state.get("stateful_callbacks", {}).get(NumProcesses.__name__)  # not in old checkpoints
        processes = len(there) if saved is None else saved["attributes"]["num_processes"]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("trainer_state.json does not hold the Trainer's state") from error
    needed = {"rng_state.pth"} if len(there) == 1 else {f"rng_state_{rank}.pth" for rank in range(len(there))}
    if processes != len(there) or not there or there != needed:
        raise ValueError("random states of some processes are missing")
    return needed
