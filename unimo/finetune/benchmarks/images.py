"""A class or an answer about an image, beside a text or alone: VQA, entailment, NLVR, ImageNet."""

from typing import Any

from unimo.data.augment import Views
from unimo.finetune.benchmarks.benchmark import Benchmark, adam
from unimo.finetune.settings import Finetuning, Reading, TaskData
from unimo.objectives.adversarial import Adversarial
from unimo.train.optimizer import OptimizerSettings

WORLD = "--images WORLD/pairs --images WORLD/heldout"


def about_image(task: str, lr: float, read: dict[str, Any], **settings: Any) -> Finetuning:
    """A class for one text beside an image. read: settings of `Reading`."""
    defaults: dict[str, Any] = {"data": TaskData(reader=task), "optimizer": adam(lr)}
    reading = Reading(**{"texts": 1, "sees": True, "reads": "both", "fusion": "sum", **read})
    return Finetuning(task=task, read=reading, **defaults | settings)


vqa = Benchmark(
    about_image(
        "vqa",
        3e-5,
        {"max_length": 32, "fusion": "product", "hidden": 2048, "activation": "relu", "dropout": 0.5, "soft": True,
         "answers": 3129, "least": 9},
        metrics=("vqa_accuracy",),
        batch_size=256,
        epochs=10.0,
    ),
    "VQA v2: the answer to a question about an image, one of 3,129.",
    "VQA v2 (443,757 / 214,354 questions), images of COCO",
    "--train v2_OpenEnded_mscoco_train2014_questions.json --train v2_mscoco_train2014_annotations.json --dev "
    "v2_OpenEnded_mscoco_val2014_questions.json --dev v2_mscoco_val2014_annotations.json --images coco",
    source="never released by the authors. Head and loss: the sister model ERNIE-ViL's (spec unimo §6.10); rate and "
    "length are the specification's advice (unimo2 §6.4)",
    remarks="Answers given at least nine times; soft scores; sigmoids whose losses add up. Product of the poolers, "
    "2048, ReLU, dropout 0.5. The published models were trained on validation questions and Visual Genome too.",
)  # fmt: skip
snli_ve = Benchmark(
    about_image(
        "snli_ve",
        1e-5,
        {"max_length": 512, "hidden": 2048},
        adversarial=Adversarial(steps=4, lr=0.05, initial_norm=0.4, max_norm=0.4),
        batch_size=192,
        epochs=10.0,
        optimizer=adam(1e-5, beta2=0.999),
    ),
    "SNLI-VE: does a sentence follow from an image, contradict it, or neither?",
    "SNLI-VE (529,527 / 17,858 / 17,901 pairs), images of Flickr30k",
    "--train snli_ve_train.jsonl --dev snli_ve_dev.jsonl --test snli_ve_test.jsonl --images flickr30k-images",
    source="spec unimo §6.7, §6.8, unimo2 §6.4",
    hardware="published: 16 V100, 16 hours (base)",
    remarks="The image is the premise: rows with the premise's words as well are refused, for with them a model can "
    "answer without looking. Head: the poolers' sum, 2048, dropout, 3. Adversarial training as released; UNIMO-2 sees "
    "pixels, which cannot be perturbed: --set adversarial.sides=text, or --set adversarial=none as the specification "
    "advises to begin with.",
)
visual_entailment = Benchmark(
    about_image("visual_entailment", 2e-5, {"max_length": 64}, batch_size=64, epochs=10.0),
    "Entailment by an image of Flickr8k: SNLI's pairs whose premise is one of its captions; the image stands for it.",
    ".jsonl with image, hypothesis and label; images of Flickr8k",
    "--train train.jsonl.gz --dev dev.jsonl.gz --test test.jsonl.gz --images flickr8k",
    source="ours: the recipe of SNLI-VE without adversarial training",
    expect="accuracy; the majority class gets 34.3 % on test",
    remarks="The premise's words are never read: with them a model can answer without looking.",
)
nlvr = Benchmark(
    about_image("nlvr", 2e-5, {"max_length": 64}, batch_size=64, epochs=20.0),
    "NLVR, the first version: is a sentence true of a drawing of three boxes?",
    "NLVR (12,409 sentences, each with its three boxes in six orders)",
    "--train train.tar --dev dev.tar --test test.tar",
    source="no paper of the family reports it; head and rates are those of entailment (spec unimo §6.7)",
    expect="accuracy; the majority class gets 55.4 % on test",
    remarks="Tars of images with `sentence` and `label` in their JSON; for the published files "
    "--set data.reader=nlvr_json.",
)
daquar = Benchmark(
    about_image(
        "daquar",
        3e-5,
        {"max_length": 48, "soft": True, "answers": 1000},
        data=TaskData(reader="questions"),
        metrics=("daquar_accuracy",),
        batch_size=64,
        epochs=20.0,
    ),
    "DAQUAR: the answer to a question about a photograph of a room.",
    "tars of images with `qas` in their JSON",
    "--train train.tar --dev dev.tar --test test.tar",
    source="ours: the head of VQA with answers that are right or wrong; no paper of the family reports it",
    expect="fraction of questions answered with just the right set; the most frequent answer gets 4.8 % on test",
)
imagenet = Benchmark(
    Finetuning(
        task="imagenet",
        kind="classification",
        data=TaskData(reader="folder", views=Views(crop=0.35, flip=0.5, jitter=0.3)),
        read=Reading(sees=True, reads="image"),
        batch_size=512,
        epochs=30.0,
        optimizer=OptimizerSettings(lr=2e-4, warmup=0.1, decay="cosine", weight_decay=0.05, layer_decay=0.75),
    ),
    "ImageNet and other folders of classes: what is on an image.",
    "a folder for each class, or tars whose JSON names it",
    "--train train --dev val",
    source="spec unimo2 §6.4: image-only mode, image pooler, one linear layer. The authors' recipe is not known (§11)",
    remarks="Rate, layer-wise decay, crops and flips are those with which vision Transformers are usually fine-tuned. "
    "From class names alone (`unimo evaluate`) the paper reports 66.3.",
)
scenes_vqa = Benchmark(
    about_image(
        "scenes_vqa",
        2e-5,
        {"max_length": 48},
        data=TaskData(reader="scenes_qa"),
        metrics=("accuracy",),
        batch_size=64,
        epochs=10.0,
    ),
    "Questions about scenes of the generated world, whose answers are known.",
    "qa/train.jsonl and qa/heldout.jsonl of the world, with its images",
    f"--train WORLD/qa/train.jsonl --dev WORLD/qa/heldout.jsonl {WORLD}",
    hardware="2 CPU cores",
    expect="not measured yet",
    start="runs/scenes",
)
scenes_entailment = Benchmark(
    about_image("scenes_entailment", 2e-5, {"max_length": 64}, batch_size=64, epochs=10.0),
    "Does a sentence follow from a scene of the generated world, contradict it, or neither? The world's grammar knows.",
    "entailment/*.jsonl of the world, with its images",
    f"--train WORLD/entailment/train.jsonl --dev WORLD/entailment/heldout.jsonl {WORLD}",
    hardware="2 CPU cores",
    expect="not measured yet",
    start="runs/scenes",
)
