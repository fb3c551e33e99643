"""Complete checkpoints: write them, and find one to resume from."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from modeling_macaron.atomic import is_full_disk

from .arguments import MacaronTrainingArguments

logger = logging.getLogger(__name__)


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove the checkpoint written in the block and raise an `OSError` if the disk is full."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        is_from_torch = re.search("inline_container|PytorchStreamWriter", str(error))  # a RuntimeError
        if not (is_from_torch or is_full_disk(error)):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(
            f"no space is left for {folder}, which was removed: make room (--save_total_limit keeps fewer checkpoints) "
            "and continue with --resume_from_checkpoint auto"
        ) from error


def find_checkpoint(args: MacaronTrainingArguments) -> str | None:
    """Find the checkpoint that `resume_from_checkpoint` names (`auto`: the latest complete one), or None."""
    folders = [path for path in Path(args.output_dir).glob("checkpoint-*") if path.name[11:].isdecimal()]
    folders.sort(key=lambda path: int(path.name[11:]), reverse=True)
    if not args.resume_from_checkpoint:
        if folders:
            raise FileExistsError(
                f"{args.output_dir} holds {folders[0].name} of an earlier run: continue it with "
                "--resume_from_checkpoint auto, or choose another --output_dir"
            )
        return None
    is_auto = str(args.resume_from_checkpoint).lower() in ("auto", "true")
    candidates = folders if is_auto else [Path(args.resume_from_checkpoint)]
    found = next((path for path in candidates if is_complete(path)), None)
    if found is None and not is_auto:
        raise ValueError(f"{args.resume_from_checkpoint}: not a complete checkpoint (was its writing interrupted?)")
    skipped = [path.name for path in (candidates[: candidates.index(found)] if found else candidates)]
    if skipped and args.should_log:
        action = f"training continues from {found.name}" if found else "there is no other: training STARTS FROM STEP 0"
        logger.warning("%s: skipped the incomplete %s; %s", args.output_dir, ", ".join(skipped), action)
    return str(found) if found else None


def is_complete(checkpoint: Path) -> bool:
    """Whether all weights and states are readable, and `trainer_state.json`, which is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        names = {path.name for path in checkpoint.iterdir()}
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, "np"):
                pass
    except (OSError, ValueError, SafetensorError, RecursionError):
        return False
    sharded = {"optimizer.bin", "pytorch_model_fsdp.bin"}  # of FSDP
    needed = {"model.safetensors", "config.json", "scheduler.pt", *(sharded if sharded <= names else ["optimizer.pt"])}
    states = [path for path in checkpoint.iterdir() if path.name in sharded or path.suffix in (".pt", ".pth")]
    return needed <= names and all(map(zipfile.is_zipfile, states))
