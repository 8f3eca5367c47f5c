"""DAQUAR: the answer to a question about a photograph of a room.

source    ours: the head of VQA with answers that are right or wrong; no paper of the family reports it
data      tars of images with `qas` in their JSON
command   unimo finetune daquar --init-from RUN --train train.tar --dev dev.tar --test test.tar --out runs/daquar
hardware  not measured
expect    fraction of questions answered with just the right set; the most frequent answer gets 4.8 % on test
"""

from unimo.finetune.released import about_images
from unimo.finetune.settings import TaskData

daquar = about_images(
    "daquar",
    3e-5,
    read={"max_length": 48, "soft": True, "answers": 1000},
    data=TaskData(reader="questions"),
    metrics=("daquar_accuracy",),
    batch_size=64,
    epochs=20.0,
)
