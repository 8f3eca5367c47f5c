"""Checkpoints that survive kills, power cuts, full disks and rotting bits, and never execute code.

A checkpoint is one folder:

    step-00001234/
      model.safetensors  optimizer.safetensors  ...     one file per group of tensors
      state.json                                        everything that is not a tensor
      MANIFEST.json                                     format version, step; size and SHA-256 of each file

`save` writes it under another name, flushes it to the disk, renames it, reads it back and only then lets older ones
go. There is no "latest" pointer that could be torn or point to nothing: `latest` looks, verifies and picks the newest
good one, and says what it passed over. A step saved again stands beside the first as `step-00001234.1`, because
replacing a folder would take two renames with nothing between them.
"""

from __future__ import annotations

from unimo.checkpoint.loading import Checkpoint, latest, load
from unimo.checkpoint.manifest import FORMAT_VERSION, MANIFEST, STATE, verify
from unimo.checkpoint.saving import save

__all__ = ["FORMAT_VERSION", "MANIFEST", "STATE", "Checkpoint", "latest", "load", "save", "verify"]
