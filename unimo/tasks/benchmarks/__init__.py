"""All benchmarks by name; one file each, with its official recipe. To add one, copy a file and add a line here."""

from __future__ import annotations

from collections.abc import Callable

from unimo.tasks.benchmarks.cnn_dailymail import cnn_dailymail
from unimo.tasks.benchmarks.coco_captions import coco_captions
from unimo.tasks.benchmarks.cola import cola
from unimo.tasks.benchmarks.coqa import coqa
from unimo.tasks.benchmarks.daquar import daquar
from unimo.tasks.benchmarks.flickr30k_retrieval import flickr30k_retrieval
from unimo.tasks.benchmarks.gigaword import gigaword
from unimo.tasks.benchmarks.imagenet import imagenet
from unimo.tasks.benchmarks.mnli import mnli
from unimo.tasks.benchmarks.mrpc import mrpc
from unimo.tasks.benchmarks.nlvr import nlvr
from unimo.tasks.benchmarks.rte import rte
from unimo.tasks.benchmarks.scenes_entailment import scenes_entailment
from unimo.tasks.benchmarks.scenes_vqa import scenes_vqa
from unimo.tasks.benchmarks.snli import snli
from unimo.tasks.benchmarks.snli_ve import snli_ve
from unimo.tasks.benchmarks.squad_qg import squad_qg
from unimo.tasks.benchmarks.sst2 import sst2
from unimo.tasks.benchmarks.stsb import stsb
from unimo.tasks.benchmarks.visual_entailment import visual_entailment
from unimo.tasks.benchmarks.vqa import vqa
from unimo.tasks.settings import Finetuning

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
