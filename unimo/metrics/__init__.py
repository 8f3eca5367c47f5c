"""Scores as pure functions of arrays and lists: no model, no torch. A name leads to its function.

What each equals, and where it differs from its reference: `docs/metrics.md`.
"""

from unimo.metrics.answers import (
    coqa_em,
    coqa_em_each,
    coqa_f1,
    coqa_f1_each,
    squad_em,
    squad_em_each,
    squad_f1,
    squad_f1_each,
)
from unimo.metrics.captions import (
    bleu,
    bleu_as_released,
    bleu_of_sums,
    bleu_sums_each,
    caption_report,
    cider_d,
    cider_d_each,
    rouge_l,
    rouge_l_each,
)
from unimo.metrics.classification import (
    accuracy,
    accuracy_by_kind,
    f1,
    matthews,
    pearson,
    pearson_spearman,
    share_by_kind,
    spearman,
)
from unimo.metrics.codebook import codebook_report
from unimo.metrics.intervals import Score, mean_score, wilson
from unimo.metrics.meteor import METEOR_NAME, meteor, meteor_each, meteor_of_sums, meteor_sums_each
from unimo.metrics.paired import Comparison, paired_bootstrap, paired_randomisation
from unimo.metrics.retrieval import mean_rank, recall_at_k, retrieval_report
from unimo.metrics.rouge import rouge, rouge_each
from unimo.metrics.tokenise import tokenise
from unimo.metrics.verdict import paired_verdict, verdict
from unimo.metrics.vqa import (
    clean_answer,
    daquar_accuracy,
    daquar_accuracy_each,
    soft_targets,
    vqa_accuracy,
    vqa_accuracy_each,
)

METRICS = {
    "accuracy": accuracy,
    "accuracy_by_kind": accuracy_by_kind,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "pearson_spearman": pearson_spearman,
    "bleu": bleu,
    "bleu_as_released": bleu_as_released,
    "rouge": rouge,
    "rouge_l": rouge_l,
    "meteor": meteor,
    "cider_d": cider_d,
    "captions": caption_report,
    "squad_em": squad_em,
    "squad_f1": squad_f1,
    "coqa_em": coqa_em,
    "coqa_f1": coqa_f1,
    "vqa_accuracy": vqa_accuracy,
    "daquar_accuracy": daquar_accuracy,
    "recall_at_k": recall_at_k,
    "mean_rank": mean_rank,
    "retrieval": retrieval_report,
    "codebook": codebook_report,
}

__all__ = [
    "METEOR_NAME",
    "METRICS",
    "Comparison",
    "Score",
    "accuracy",
    "accuracy_by_kind",
    "bleu",
    "bleu_as_released",
    "bleu_of_sums",
    "bleu_sums_each",
    "caption_report",
    "cider_d",
    "cider_d_each",
    "clean_answer",
    "codebook_report",
    "coqa_em",
    "coqa_em_each",
    "coqa_f1",
    "coqa_f1_each",
    "daquar_accuracy",
    "daquar_accuracy_each",
    "f1",
    "matthews",
    "mean_rank",
    "mean_score",
    "meteor",
    "meteor_each",
    "meteor_of_sums",
    "meteor_sums_each",
    "paired_bootstrap",
    "paired_randomisation",
    "paired_verdict",
    "pearson",
    "pearson_spearman",
    "recall_at_k",
    "retrieval_report",
    "rouge",
    "rouge_each",
    "rouge_l",
    "rouge_l_each",
    "share_by_kind",
    "soft_targets",
    "spearman",
    "squad_em",
    "squad_em_each",
    "squad_f1",
    "squad_f1_each",
    "tokenise",
    "verdict",
    "vqa_accuracy",
    "vqa_accuracy_each",
    "wilson",
]
