"""ImageNet and other folders of classes: what is on an image.

source    spec unimo2 §6.4: image-only mode, image pooler, one linear layer. The authors' recipe is not known (spec
          §11)
data      a folder for each class, or tars whose JSON names it
command   unimo finetune imagenet --init-from RUN --train train --dev val --out runs/imagenet
hardware  not measured
expect    top-1, published: UNIMO-2 80.8, from class names alone 66.3 (`unimo evaluate`)

Rate, layer-wise decay, crops and flips are those with which vision Transformers are usually fine-tuned.
"""

from unimo.data.augment import Views
from unimo.finetune.settings import Finetuning, Reading, TaskData
from unimo.train.optimizer import OptimizerSettings

imagenet = Finetuning(
    task="imagenet",
    kind="classification",
    data=TaskData(reader="folder", views=Views(crop=0.35, flip=0.5, jitter=0.3)),
    read=Reading(sees=True, reads="image"),
    batch_size=512,
    epochs=30.0,
    optimizer=OptimizerSettings(lr=2e-4, warmup=0.1, decay="cosine", weight_decay=0.05, layer_decay=0.75),
)
