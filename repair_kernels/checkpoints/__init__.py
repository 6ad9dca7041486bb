"""State dicts in files: read without running any code of theirs, written whole or not at all.

Read:    `.pt` `.pth` `.th` `.bin` `.ckpt` `.tar` (PyTorch, tensors only), `.safetensors`, `.npz`,
         shards under an index (`model.safetensors.index.json`, or the folder that holds it), and
         folders of `torch.distributed.checkpoint`
Written: `.pt` `.pth` `.th` `.bin`, `.safetensors`
"""

from repair_kernels.checkpoints.digest import sha256_of
from repair_kernels.checkpoints.loading import check_finite, load_into
from repair_kernels.checkpoints.nesting import NESTINGS
from repair_kernels.checkpoints.reading import load_metadata, load_state_dict
from repair_kernels.checkpoints.versions import METADATA_KEY
from repair_kernels.checkpoints.writing import save_state_dict

__all__ = [
    "METADATA_KEY",
    "NESTINGS",
    "check_finite",
    "load_into",
    "load_metadata",
    "load_state_dict",
    "save_state_dict",
    "sha256_of",
]
