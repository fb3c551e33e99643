"""Run `scripts/train.py` with FSDP on CPU processes, for which accelerate only supports DDP.

Delays writing the final folder by two seconds. Each process records at its end whether the folder exists.
"""

import atexit
import os
import runpy
import sys
import time
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from modeling_macaron.training import run

_usual = AcceleratorState.__init__


def _with_shards(self, *args, fsdp_plugin=None, **kwargs):
    """Use FSDP if the launch file says so, as on GPUs."""
    _usual(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if self.distributed_type != DistributedType.MULTI_CPU:  # done before
        return
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    if self._mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self._mixed_precision)
    self.fsdp_plugin = fsdp_plugin


def _slowly(*args, write=run.write_model_card):
    time.sleep(2)
    write(*args)


def _record_the_end(output_dir, rank):
    final = "final written" if (output_dir / "final").exists() else "final not written"
    (output_dir / f"end_{rank}.txt").write_text(final)


AcceleratorState.__init__ = _with_shards
run.write_model_card = _slowly
atexit.register(_record_the_end, Path(sys.argv[sys.argv.index("--output_dir") + 1]), os.environ["RANK"])
sys.argv[0] = str(Path(__file__).parents[2] / "scripts" / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
