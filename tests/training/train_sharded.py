"""`scripts/train.py` in shards on CPU processes: accelerate itself keeps FSDP for accelerators and trains with DDP."""

import os
import runpy
import sys
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_usual = AcceleratorState.__init__


def _with_shards(self, *args, fsdp_plugin=None, **kwargs):
    """Take FSDP where the launch file says so, as on GPUs."""
    _usual(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if self.distributed_type != DistributedType.MULTI_CPU:  # done before
        return
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    if self._mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self._mixed_precision)
    self.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = _with_shards
sys.argv[0] = str(Path(__file__).parents[2] / "scripts" / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
