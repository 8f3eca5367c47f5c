"""VQA v2: the answer to a question about an image, one of 3,129.

source    never released by the authors. Head and loss: the sister model ERNIE-ViL's (spec unimo §6.10); rate and
          length are the specification's advice (unimo2 §6.4)
data      VQA v2 (443,757 / 214,354 questions), images of COCO
command   unimo finetune vqa --init-from RUN --train v2_OpenEnded_mscoco_train2014_questions.json --train
          v2_mscoco_train2014_annotations.json --dev v2_OpenEnded_mscoco_val2014_questions.json --dev
          v2_mscoco_val2014_annotations.json --images coco --out runs/vqa
hardware  not measured
expect    official accuracy on test-dev/test-std, published: UNIMO 73.79/74.02 base, 75.06/75.27 large; UNIMO-2
          76.31/76.42. Those were trained on validation questions and Visual Genome too

Answers given at least nine times; soft scores; sigmoids whose losses add up. Product of the poolers, 2048, ReLU,
dropout 0.5.
"""

from unimo.finetune.released import about_images

vqa = about_images(
    "vqa",
    3e-5,
    read={
        "max_length": 32,
        "fusion": "product",
        "hidden": 2048,
        "activation": "relu",
        "dropout": 0.5,
        "soft": True,
        "answers": 3129,
        "least": 9,
    },
    metrics=("vqa_accuracy",),
    batch_size=256,
    epochs=10.0,
)
