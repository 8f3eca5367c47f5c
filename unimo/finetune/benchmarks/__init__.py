"""All benchmarks by name; one file each, with its official recipe. To add one, copy a file and add a line here."""

from __future__ import annotations

from collections.abc import Callable

from unimo.finetune.benchmarks.cnn_dailymail import cnn_dailymail
from unimo.finetune.benchmarks.coco_captions import coco_captions
from unimo.finetune.benchmarks.cola import cola
from unimo.finetune.benchmarks.coqa import coqa
from unimo.finetune.benchmarks.daquar import daquar
from unimo.finetune.benchmarks.flickr30k_retrieval import flickr30k_retrieval
from unimo.finetune.benchmarks.gigaword import gigaword
from unimo.finetune.benchmarks.imagenet import imagenet
from unimo.finetune.benchmarks.mnli import mnli
from unimo.finetune.benchmarks.mrpc import mrpc
from unimo.finetune.benchmarks.nlvr import nlvr
from unimo.finetune.benchmarks.rte import rte
from unimo.finetune.benchmarks.scenes_entailment import scenes_entailment
from unimo.finetune.benchmarks.scenes_vqa import scenes_vqa
from unimo.finetune.benchmarks.snli import snli
from unimo.finetune.benchmarks.snli_ve import snli_ve
from unimo.finetune.benchmarks.squad_qg import squad_qg
from unimo.finetune.benchmarks.sst2 import sst2
from unimo.finetune.benchmarks.stsb import stsb
from unimo.finetune.benchmarks.visual_entailment import visual_entailment
from unimo.finetune.benchmarks.vqa import vqa
from unimo.finetune.settings import Finetuning

BENCHMARKS: dict[str, Callable[[], Finetuning]] = {
    "cnn_dailymail": cnn_dailymail,
    "coco_captions": coco_captions,
    "cola": cola,
    "coqa": coqa,
    "daquar": daquar,
    "flickr30k_retrieval": flickr30k_retrieval,
    "gigaword": gigaword,
    "imagenet": imagenet,
    "mnli": mnli,
    "mrpc": mrpc,
    "nlvr": nlvr,
    "rte": rte,
    "scenes_entailment": scenes_entailment,
    "scenes_vqa": scenes_vqa,
    "snli": snli,
    "snli_ve": snli_ve,
    "squad_qg": squad_qg,
    "sst2": sst2,
    "stsb": stsb,
    "visual_entailment": visual_entailment,
    "vqa": vqa,
}

__all__ = ["BENCHMARKS"]
