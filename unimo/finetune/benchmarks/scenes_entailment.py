"""Does a sentence follow from a scene of the generated world, contradict it, or neither? The world's grammar knows.

source    ours
data      entailment/*.jsonl of the world, with its images
command   unimo finetune scenes_entailment --init-from runs/scenes --train WORLD/entailment/train.jsonl --dev
          WORLD/entailment/heldout.jsonl --images WORLD/pairs --images WORLD/heldout --out runs/scenes_entailment
hardware  2 CPU cores
expect    not measured yet
"""

from unimo.finetune.released import about_images

scenes_entailment = about_images("scenes_entailment", 2e-5, read={"max_length": 64}, batch_size=64, epochs=10.0)
