"""Run a script with FSDP on CPU processes: `accelerate launch --config_file fsdp2.yaml tests/fsdp_on_cpu.py SCRIPT`.

torch's `fully_shard` works over gloo, but accelerate turns FSDP on only where it finds GPUs.  This takes that
condition away, and gathers the weights that are saved, which the copy from GPU to host does else.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

_original = AcceleratorState.__init__


def _with_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


_get_state_dict = Accelerator.get_state_dict


def _whole(self: Accelerator, *args: Any, **kwargs: Any) -> Any:
    found = _get_state_dict(self, *args, **kwargs)
    return {name: weight.full_tensor() for name, weight in found.items()}


if __name__ == "__main__":
    Accelerator.get_state_dict = _whole
    AcceleratorState.__init__ = _with_fsdp
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
