"""All benchmarks by name; one file each, with its official recipe. A new one is its file and a row here."""

from __future__ import annotations

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

BENCHMARKS: dict[str, Finetuning] = {
    run.task: run
    for run in (
        cnn_dailymail,
        coco_captions,
        cola,
        coqa,
        daquar,
        flickr30k_retrieval,
        gigaword,
        imagenet,
        mnli,
        mrpc,
        nlvr,
        rte,
        scenes_entailment,
        scenes_vqa,
        snli,
        snli_ve,
        squad_qg,
        sst2,
        stsb,
        visual_entailment,
        vqa,
    )
}
