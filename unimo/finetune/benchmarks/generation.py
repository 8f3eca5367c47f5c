"""Texts to be written: summaries, questions, answers in a conversation, captions."""

from typing import Any

from unimo.finetune.benchmarks.benchmark import NO_UNIMO2, Benchmark, adam
from unimo.finetune.settings import Finetuning, TaskData, Writing


def writing(task: str, lr: float, write: Writing, **settings: Any) -> Finetuning:
    defaults: dict[str, Any] = {"data": TaskData(reader=task), "optimizer": adam(lr, weight_decay=0.01)}
    return Finetuning(task=task, kind="generation", write=write, **defaults | settings)


cnn_dailymail = Benchmark(
    writing(
        "cnn_dailymail",
        4e-5,
        Writing(max_source_length=512, max_target_length=128, num_beams=5, length_penalty=0.6, min_length=20,
                max_length=128, no_repeat_ngram_size=3),
        data=TaskData(reader="lines"),
        metrics=("rouge",),
        batch_size=32,
        epochs=20.0,
    ),
    "CNN/DailyMail: the highlights of a newspaper article.",
    "287,113 / 13,368 / 11,490 articles; published: the first 2,000 of dev",
    "--train train.source --train train.target --dev val.source --dev val.target",
    source=NO_UNIMO2,
    hardware="published: 4 V100, 32 hours (base)",
    remarks="published for large: rate 2e-5, 6 beams, length penalty 1.2. Articles as .story files: "
    "--set data.reader=stories.",
)  # fmt: skip
gigaword = Benchmark(
    writing(
        "gigaword",
        3e-5,
        Writing(max_source_length=128, max_target_length=32, num_beams=5, length_penalty=0.6, min_length=5,
                max_length=32),
        data=TaskData(reader="lines"),
        metrics=("rouge",),
        batch_size=128,
        epochs=10.0,
    ),
    "Gigaword: the headline of a first sentence of news.",
    "3,803,957 / 189,651 / 1,951 pairs; published: 20,000 of dev",
    "--train train.src.txt --train train.tgt.txt --dev dev.src.txt --dev dev.tgt.txt",
    source=NO_UNIMO2,
    hardware="published: 4 V100, 27 hours (base)",
    remarks="published for large: 6 beams, length penalty 1.2.",
)  # fmt: skip
squad_qg = Benchmark(
    writing(
        "squad_qg",
        1.25e-5,
        Writing(one_segment=True, max_source_length=416, max_target_length=96, num_beams=5, length_penalty=1.0,
                min_length=5, max_length=48),
        data=TaskData(reader="squad"),
        metrics=("bleu", "rouge_l"),
        batch_size=32,
        epochs=20.0,
    ),
    "SQuAD question generation: a question about a passage whose answer is given.",
    "SQuAD 1.1 in the split of question generation (75,722 / 10,570 / 11,877)",
    "--train train.json --dev dev.json",
    source=NO_UNIMO2,
    hardware="published: 4 V100, 4 hours (base)",
    remarks="Passage and answer are one segment with a [SEP] between them, as released. published for large: rate "
    "5e-6, 6 beams, length penalty 1.2. METEOR is a Java program with data of its own and is not computed.",
)  # fmt: skip
coqa = Benchmark(
    writing(
        "coqa",
        1e-5,
        Writing(dialogue=True, max_source_length=480, max_target_length=32, num_beams=3, length_penalty=0.0,
                max_length=30),
        metrics=("coqa_f1", "coqa_em"),
        batch_size=32,
        epochs=20.0,
    ),
    "CoQA: the next answer in a conversation about a story.",
    "CoQA (108,647 / 7,983 questions); scored on dev, the only public split",
    "--train coqa-train-v1.0.json --dev coqa-dev-v1.0.json",
    source=NO_UNIMO2,
    hardware="published: 4 V100, 7 hours (base)",
    remarks='F1 is the papers\' column "Acc". Story and turns with tables of speakers and turns, fresh at the start; '
    "the last 15 turns are kept. Only UNIMO has these tables: for UNIMO-2 --set write.dialogue=false. published for "
    "large: rate 8e-6.",
)  # fmt: skip
coco_captions = Benchmark(
    writing(
        "coco_captions",
        1e-5,
        Writing(sees=True, max_source_length=100, max_target_length=50, end="sep", keep_end=True, num_beams=5,
                length_penalty=0.6, min_length=5, max_length=50),
        data=TaskData(reader="karpathy"),
        metrics=("cider_d", "bleu", "rouge_l"),
        batch_size=128,
        epochs=10.0,
        optimizer=adam(1e-5, weight_decay=0.01, decay="unimo2"),
    ),
    "COCO captions: a sentence about an image.",
    "dataset_coco.json (Karpathy's splits: 113,287 / 5,000 / 5,000 images, 566,747 captions to learn from)",
    "--train dataset_coco.json --dev dataset_coco.json --test dataset_coco.json --images coco",
    source="spec unimo §6.9, unimo2 §6.2",
    hardware="published: 16 V100, 3 days (UNIMO base)",
    remarks="No reinforcement stage, as in the papers. As released for UNIMO-2: 128 captions a step, rate 1e-5, 10 "
    "epochs; UNIMO base: 64 a step, rate 7e-6, 20 epochs, and adversarial training: --set adversarial.lr=0.03 --set "
    "adversarial.max_norm=0. The release reads object tags of a detector before it writes: a column of them can be "
    "given as text (--column text=tags); without it a caption is written from the image alone. UNIMO-2 sees 384 px: "
    "--set model.pixels=384.",
)  # fmt: skip
