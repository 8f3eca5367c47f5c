"""Metrics as pure functions of arrays and lists: no model, no torch. `METRICS` leads from a name to its function.

What each equals, and where it differs from its reference: `docs/metrics.md`.
"""

from unimo.metrics.answers import coqa_em, coqa_f1, squad_em, squad_f1
from unimo.metrics.captions import bleu, bleu_as_released, caption_report, cider_d, rouge_l
from unimo.metrics.classification import accuracy, f1, fraction_by_kind, matthews, pearson, pearson_spearman, spearman
from unimo.metrics.retrieval import mean_rank, recall_at_k, retrieval_report
from unimo.metrics.rouge import rouge
from unimo.metrics.vqa import daquar_accuracy, vqa_accuracy

METRICS = {
    "accuracy": accuracy,
    "fraction_by_kind": fraction_by_kind,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "pearson_spearman": pearson_spearman,
    "bleu": bleu,
    "bleu_as_released": bleu_as_released,
    "rouge": rouge,
    "rouge_l": rouge_l,
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
}
