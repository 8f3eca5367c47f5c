"""What people write who come from other tools, and what it is called here: for the hint beside a name that is refused.

Nothing is accepted under another name; a hint says where to find it. Names are compared without case, "-" and "_".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from unimo.errors import nearest

T = TypeVar("T")

LR, BATCH, LENGTH = ("optimizer.lr",), ("batch.pairs", "batch_size"), ("steps", "epochs", "minutes")
TEXT = ("batch.caption_length", "batch.passage_length", "read.max_length", "write.max_source_length", "rank.max_length")
DEPTH = ("model.image_depth", "model.text_depth", "model.grounded_depth", "model.depth")

# Their name -> our keys, of which those are told that the settings at hand have.
SETTINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lr", "learning_rate", "base_lr", "peak_lr", "max_lr", "rate"), LR),
    **dict.fromkeys(("warmup_ratio", "warmup_steps", "num_warmup_steps", "warmup_proportion"), ("optimizer.warmup",)),
    **dict.fromkeys(("scheduler", "schedule", "lr_scheduler", "lr_scheduler_type", "lr_decay"), ("optimizer.decay",)),
    **dict.fromkeys(("optim", "opt", "layers"), ("optimizer.matrix_optimizer", "optimizer.lr")),
    **dict.fromkeys(("max_grad_norm", "grad_clip", "gradient_clip_val", "clip_norm", "clip_grad"), ("optimizer.clip",)),
    **dict.fromkeys(("betas", "adam_beta1", "adam_beta2"), ("optimizer.beta1", "optimizer.beta2")),
    **dict.fromkeys(("eps", "adam_epsilon", "adam_eps"), ("optimizer.epsilon",)),
    **dict.fromkeys(("wd", "adamw_weight_decay"), ("optimizer.weight_decay",)),
    **dict.fromkeys(("llrd", "layerwise_lr_decay", "layer_lr_decay"), ("optimizer.layer_decay",)),
    **dict.fromkeys(("batch", "batch_size", "train_batch_size", "per_device_train_batch_size", "bs", "bsz"), BATCH),
    **dict.fromkeys(("epoch", "num_epochs", "num_train_epochs", "max_epochs", "n_epochs"), ("epochs", "steps")),
    **dict.fromkeys(("max_steps", "num_steps", "total_steps", "train_steps", "iterations", "max_iters"), ("steps",)),
    **dict.fromkeys(("duration", "max_time", "hours"), ("minutes",)),
    **dict.fromkeys(("num_workers", "dataloader_num_workers", "n_workers"), ("workers",)),
    **dict.fromkeys(("gradient_checkpointing", "grad_checkpointing", "recompute"), ("activation_checkpointing",)),
    **dict.fromkeys(("compile", "torchcompile", "compile_model"), ("torch_compile",)),
    **dict.fromkeys(("ema", "model_ema", "average"), ("ema_decay",)),
    **dict.fromkeys(("fp16", "bf16", "fp32", "amp", "dtype", "mixed_precision", "half", "torch_dtype"), ("precision",)),
    **dict.fromkeys(("save_every", "save_interval", "checkpoint_every"), ("save_steps", "save_minutes")),
    **dict.fromkeys(("save_total_limit", "keep_last", "max_checkpoints"), ("keep",)),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), ("patience",)),
    **dict.fromkeys(("eval_steps", "eval_every", "val_check_interval"), ("dev_steps", "dev_epochs")),
    **dict.fromkeys(("longest", "max_len", "max_seq_length", "max_seq_len", "seq_len", "context_length"), TEXT),
    **dict.fromkeys(("max_new_tokens", "max_output_length"), ("write.max_length",)),
    **dict.fromkeys(("share",), ("time_weight",)),
    **dict.fromkeys(("min_new_tokens", "shortest"), ("write.min_length",)),
    **dict.fromkeys(("beam_size", "beam_width", "beam", "beams"), ("write.num_beams",)),
    **dict.fromkeys(("repeat_trigrams", "repetition_penalty"), ("write.no_repeat_ngram_size",)),
    **dict.fromkeys(("label_smoothing", "label_smoothing_factor"), ("write.smoothing", "objectives.seq2seq.smoothing")),
    **dict.fromkeys(("hidden_size", "hidden_dim", "d_model", "n_embd", "embed_dim", "dim"), ("model.width",)),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads", "n_head"), ("model.heads",)),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer"), DEPTH),
    **dict.fromkeys(("vocab_size", "vocab"), ("model.vocabulary",)),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), ("model.positions",)),
    **dict.fromkeys(("patch_size",), ("model.patch",)),
    **dict.fromkeys(("img_size", "image_resolution", "resolution", "input_size"), ("model.image_size", "model.pixels")),
    **dict.fromkeys(("hidden_dropout_prob", "dropout_rate", "hidden_dropout"), ("model.dropout",)),
    **dict.fromkeys(("attention_probs_dropout_prob", "attn_dropout"), ("model.attention_dropout",)),
    **dict.fromkeys(("initializer_range", "init_std"), ("model.initial_std",)),
    **dict.fromkeys(("codebook_size", "num_codes", "num_embeddings"), ("model.dictionary",)),
    **dict.fromkeys(("topk", "top_k"), ("model.chosen",)),
    **dict.fromkeys(("mlm_probability", "mask_prob", "mask_ratio", "masking_ratio"), ("objectives.mlm.ratio",)),
    **dict.fromkeys(("random_seed", "manual_seed"), ("seed",)),
    **dict.fromkeys(("train_file", "train_data", "train_path", "dataset", "data_dir"), ("data.train", "data.pairs")),
    **dict.fromkeys(("validation_file", "val", "valid", "validation", "eval_file", "dev_file"), ("data.dev",)),
    **dict.fromkeys(("test_file",), ("data.test",)),
    **dict.fromkeys(("model_name_or_path", "pretrained", "init_checkpoint", "weights", "start"), ("init_from",)),
    **dict.fromkeys(("report_to", "tensorboard", "wandb", "trackio", "logger", "log_with", "tracker"), ("log",)),
    **dict.fromkeys(("metric", "metric_for_best_model"), ("metrics",)),
}

# What is no setting, and what it is instead.
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(
        ("device", "cuda", "gpu", "gpus", "n_gpu", "num_gpus", "use_cuda", "no_cuda"),
        "no setting: a GPU is used where there is one; CUDA_VISIBLE_DEVICES chooses it (empty: the CPU)",
    ),
    **dict.fromkeys(
        ("world_size", "nproc", "num_processes", "distributed"), "torchrun --nproc-per-node N -m unimo ..."
    ),
    **dict.fromkeys(("output_dir", "out", "out_dir", "save_dir", "logging_dir", "run_name"), "--out FOLDER"),
    **dict.fromkeys(("resume", "resume_from_checkpoint"), "--resume"),
    **dict.fromkeys(
        ("eval_batch_size", "per_device_eval_batch_size", "val_batch_size"), "--batch-size ROWS, where rows are scored"
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum"),
        "no setting: a step is one batch; tower_chunk, activation_checkpointing or more processes make room for more",
    ),
}

# Options of other tools, and our own of earlier releases.
OPTIONS: dict[str, str] = {
    **dict.fromkeys(("ledger", "bad", "errors"), "--bad-samples FILE"),
    **dict.fromkeys(("output_dir", "output", "out_dir", "save_dir", "o"), "--out PATH"),
    **dict.fromkeys(
        ("model", "model_name_or_path", "pretrained", "checkpoint", "weights", "start"), "--init-from MODEL"
    ),
    **dict.fromkeys(("beams", "beam_size"), "--num-beams N"),
    **dict.fromkeys(("k", "topk", "num_results"), "--top-k N"),
    **dict.fromkeys(("config", "overrides"), "--set KEY=VALUE; the recipe's name or a settings.json comes first"),
    **dict.fromkeys(("train_data", "train_file", "data", "dataset"), "--pairs, --images, --texts or --train PATH"),
}

MODEL = "no task, a model: `unimo init-from-pretrained OUT {option}`, then `unimo finetune TASK --init-from OUT`"
# Names given for tasks -> the task, several to choose from, or what it is instead.
TASKS: dict[str, str] = {
    **dict.fromkeys(("bert", "roberta", "roberta_base", "bert_base"), MODEL.format(option="--roberta roberta-base")),
    **dict.fromkeys(("vit", "clip", "vit_base"), MODEL.format(option="--vit google/vit-base-patch16-224-in21k")),
    **dict.fromkeys(
        ("unimo", "unimo2", "unimo_2", "blip", "albef", "gpt", "gpt2", "t5", "bart", "flamingo"),
        "no task but a model; see `unimo recipes` for tasks, `unimo convert` for published weights",
    ),
    "glue": "one of its tasks: cola, sst2, mrpc, stsb, rte, mnli; others: classification with your own files",
    **dict.fromkeys(("qqp", "qnli", "wnli", "boolq", "superglue", "imdb"), "classification"),
    **dict.fromkeys(("imagenet1k", "imagenet_1k", "ilsvrc", "ilsvrc2012", "in1k"), "imagenet"),
    **dict.fromkeys(("cifar", "cifar10", "cifar100", "mnist", "food101", "image_classification"), "classification"),
    **dict.fromkeys(("text_classification", "sentiment", "ner", "token_classification"), "classification"),
    **dict.fromkeys(("coco", "mscoco", "coco_caption", "coco_captioning"), "coco_captions"),
    **dict.fromkeys(("nlvr2",), "nlvr"),
    **dict.fromkeys(
        ("flickr", "flickr30k", "flickr8k", "itr", "image_text_retrieval"), "flickr30k_retrieval, or retrieval"
    ),
    **dict.fromkeys(("vqa2", "vqav2", "vqa_v2", "okvqa", "gqa", "vizwiz"), "vqa"),
    **dict.fromkeys(("ve", "entailment"), "snli_ve, visual_entailment or scenes_entailment"),
    **dict.fromkeys(("nli", "anli", "xnli", "multinli"), "mnli or snli"),
    **dict.fromkeys(("squad", "squad1", "squadv1", "question_generation", "qg"), "squad_qg"),
    **dict.fromkeys(("cnn", "cnndm", "cnn_dm", "dailymail", "xsum"), "cnn_dailymail, or generation"),
    **dict.fromkeys(("summarization", "summarisation", "translation", "text_generation", "seq2seq"), "generation"),
    **dict.fromkeys(("caption", "captioning", "image_captioning", "image_to_text"), "captions"),
    "sst": "sst2",
    **dict.fromkeys(("sts", "sts_benchmark", "similarity"), "stsb, or regression"),
}


def plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def keys_meant(key: str, known: Iterable[str]) -> list[str]:
    """The known keys that a key which does not exist most likely means; [] where nothing is like it."""
    known = list(known)
    group, _, last = key.rpartition(".")
    theirs = _lookup(SETTINGS, last) or _lookup(SETTINGS, key.replace(".", "_")) or ()
    for names in (theirs, [ours.partition(".")[2] for ours in theirs]):  # the second: where a group stands alone
        if found := [one for ours in names for one in known if ours and f".{one}".endswith(f".{ours}")]:
            return found
    by_last: dict[str, list[str]] = {}
    for one in known:
        by_last.setdefault(one.rpartition(".")[2], []).append(one)
    in_group = [name for name, ones in by_last.items() if any(one.rpartition(".")[0] == group for one in ones)]
    close = (
        next((name for name in by_last if plain(name) == plain(last)), None)
        or (nearest(last, in_group) if group else None)
        or nearest(last, by_last)
    )
    if close is None:
        return []
    best = difflib.get_close_matches(key, by_last[close], n=1, cutoff=0.0) if group else by_last[close]
    return best[:4]


def elsewhere(key: str) -> str | None:
    """What stands in the place of a setting that there is not."""
    return _lookup(ELSEWHERE, key.rpartition(".")[2])


def option_hint(option: str) -> str | None:
    """What to write instead of an option of the command line that there is not."""
    name = option.lstrip("-")
    if found := _lookup(OPTIONS, name):
        return found
    keys = _lookup(SETTINGS, name) or ()
    return _lookup(ELSEWHERE, name) or " or ".join(f"--set {key}=..." for key in keys) or None


def task_hint(name: str, tasks: Iterable[str]) -> str | None:
    """What to do about a task that there is not."""
    tasks = list(tasks)
    same = next((task for task in tasks if plain(task) == plain(name)), None)
    known = same or _lookup(TASKS, name) or nearest(name, tasks)
    if known is None:
        return None
    return known if known.startswith(("no task", "one of")) else f"did you mean {known}?"


def _lookup(table: dict[str, T], name: str) -> T | None:
    return next((value for theirs, value in table.items() if plain(theirs) == plain(name)), None)
