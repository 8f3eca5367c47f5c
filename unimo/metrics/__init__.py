"""Scores as pure functions of arrays and lists: no model, no torch. A name leads to its function."""

from unimo.metrics.captions import bleu, bleu_as_released, caption_report, cider_d, rouge_l
from unimo.metrics.classification import accuracy, f1, matthews, pearson, spearman
from unimo.metrics.codebook import codebook_report
from unimo.metrics.intervals import Score, mean_score, wilson
from unimo.metrics.retrieval import mean_rank, recall_at_k, retrieval_report
from unimo.metrics.tokenise import tokenise

METRICS = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "bleu": bleu,
    "bleu_as_released": bleu_as_released,
    "rouge_l": rouge_l,
    "cider_d": cider_d,
    "captions": caption_report,
    "recall_at_k": recall_at_k,
    "mean_rank": mean_rank,
    "retrieval": retrieval_report,
    "codebook": codebook_report,
}

__all__ = [
    "METRICS",
    "Score",
    "accuracy",
    "bleu",
    "bleu_as_released",
    "caption_report",
    "cider_d",
    "codebook_report",
    "f1",
    "matthews",
    "mean_rank",
    "mean_score",
    "pearson",
    "recall_at_k",
    "retrieval_report",
    "rouge_l",
    "spearman",
    "tokenise",
    "wilson",
]
