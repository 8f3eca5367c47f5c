"""Questions about scenes of the generated world, whose answers are known.

source    ours
data      qa/train.jsonl and qa/heldout.jsonl of the world, with its images
command   unimo finetune scenes_vqa --init-from runs/scenes --train WORLD/qa/train.jsonl --dev WORLD/qa/heldout.jsonl
          --images WORLD/pairs --images WORLD/heldout --out runs/scenes_vqa
hardware  2 CPU cores
expect    not measured yet
"""

from unimo.finetune.released import about_images
from unimo.finetune.settings import TaskData

scenes_vqa = about_images(
    "scenes_vqa",
    2e-5,
    read={"max_length": 48},
    data=TaskData(reader="scenes_qa"),
    metrics=("accuracy",),
    batch_size=64,
    epochs=10.0,
)
