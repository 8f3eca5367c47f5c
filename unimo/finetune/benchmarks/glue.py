"""Texts in, one answer out: GLUE and SNLI (spec unimo §6.2, unimo2 §6.4).

The grid: batch 16 and 32, rates 1e-5, 2e-5, 3e-5, five seeds, best dev result; the recipe is its middle. The released
scripts run one process over eight GPUs and count its batch once, so that they end at an eighth of their schedule
(§6.1); this is the schedule that was meant.
"""

from typing import Any

from unimo.finetune.benchmarks.benchmark import Benchmark, adam
from unimo.finetune.settings import Finetuning, Reading, TaskData

GRID = "--seeds 5 --grid optimizer.lr=1e-5,2e-5,3e-5 --grid batch_size=16,32"


def glue(
    task: str,
    title: str,
    data: str,
    train: str,
    dev: str,
    gpus: str | None = None,
    *,
    source: str = "spec unimo §6.2, unimo2 §6.4",
    start: str = "RUN",
    remarks: str = "",
    positive: str | None = None,
    **settings: Any,
) -> Benchmark:
    """gpus: what the published grid took. positive: class of F1 and Matthews."""
    defaults: dict[str, Any] = {"metrics": ("accuracy",), "batch_size": 32, "epochs": 10.0, "optimizer": adam(2e-5)}
    read = Reading(max_length=512, positive=positive)
    run = Finetuning(task=task, data=TaskData(reader=task), read=read, **defaults | settings)
    took = (
        f"published: {gpus} for base and the whole grid" if gpus else "published: nothing; the recipe is that of MNLI"
    )
    files = f"--train {train} --dev {dev} {GRID}"
    return Benchmark(run, title, data, files, source, took, remarks=remarks, start=start, verb="sweep")


cola = glue(
    "cola", "CoLA: is a sentence of English well formed?", "GLUE's CoLA (8,551 / 1,043 sentences)",
    "CoLA/train.tsv", "CoLA/dev.tsv", "4 V100, 2 hours", metrics=("matthews", "accuracy"), positive="1",
)  # fmt: skip
mnli = glue(
    "mnli", "MNLI: does a sentence follow from another, contradict it, or neither?",
    "GLUE's MNLI (392,702 pairs; dev matched and mismatched)",
    "MNLI/train.tsv", "MNLI/dev_matched.tsv", "8 V100, 44 hours",
    remarks="Give dev_mismatched.tsv as --test. UNIMO-2's own script runs 20 epochs of 8 x 16 (spec unimo2 §6.3).",
)  # fmt: skip
mrpc = glue(
    "mrpc", "MRPC: do two sentences of news say the same?", "GLUE's MRPC (3,668 / 408 pairs)",
    "MRPC/train.tsv", "MRPC/dev.tsv", metrics=("accuracy", "f1"), positive="1",
)  # fmt: skip
rte = glue(
    "rte", "RTE: does a sentence follow from another?", "GLUE's RTE (2,490 / 277 pairs)",
    "RTE/train.tsv", "RTE/dev.tsv",
)  # fmt: skip
snli = glue(
    "snli", "SNLI: does a sentence follow from a caption, contradict it, or neither? In words alone.",
    "SNLI 1.0 (549,367 pairs; rows without a majority label are left out)",
    "snli_1.0_train.jsonl", "snli_1.0_dev.jsonl",
)  # fmt: skip
sst2 = glue(
    "sst2", "SST-2: is a sentence of a film review positive?", "GLUE's SST-2 (67,349 / 872 sentences)",
    "SST-2/train.tsv", "SST-2/dev.tsv", "8 V100, 9 hours",
)  # fmt: skip
stsb = glue(
    "stsb", "STS-B: how alike do two sentences mean, 0 to 5?", "GLUE's STS-B (5,749 / 1,500 pairs)",
    "STS-B/train.tsv", "STS-B/dev.tsv", "8 V100, 2 hours",
    source="spec unimo §6.3, unimo2 §6.4", start="MNLI_RUN", kind="regression",
    metrics=("pearson_spearman", "pearson", "spearman"),
    remarks="Starts from the model fine-tuned on MNLI, without its answers. Checkpoints are chosen by the mean of both "
    "correlations. The score is learnt as it stands, by the mean squared error.",
)  # fmt: skip
