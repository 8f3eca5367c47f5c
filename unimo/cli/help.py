"""Help of the command line: verbs and options in groups, and examples of each verb."""

from __future__ import annotations

from typing import Any

VERBS = {
    "Train": ("pretrain", "finetune", "sweep", "benchmark"),
    "Use a model": ("search", "index", "caption", "classify", "answer", "encode", "fill-mask", "predict", "serve"),
    "Look at results": ("evaluate", "compare", "describe", "plan", "recipes", "speed"),
    "Data and weights": ("data", "prepare", "download", "convert", "export", "init-from-pretrained"),
}
OPTIONS = {
    "Data": "texts images pairs val_texts val_images val_pairs regions foils train dev test data column reader "
    "index_dir verify max_bad_fraction bad_samples",
    "Model": "init_from source like model device precision batch_size roberta vit",
    "Settings": "recipe resume minutes epochs steps seed seeds grid assignments",
    "Generation": "num_beams max_length min_length no_repeat_ngram_size temperature top_k top_p",
    "Output": "out as_json page rows page_seed sample log evaluation strict",
}
EXAMPLES = {
    "pretrain": (
        "unimo pretrain scenes",
        "unimo pretrain photos --pairs captions.csv --images photos/ --texts notes/ --minutes 60",
        "unimo pretrain photos --pairs shards/*.tar --set optimizer.lr=1e-3 --set batch.pairs=64 --out runs/mine",
        "unimo pretrain runs/mine --out runs/mine --resume",
        "torchrun --nproc-per-node 8 -m unimo pretrain base --pairs PAIRS --set batch.micro_batches=8",
    ),
    "finetune": (
        "unimo finetune sst2 --init-from runs/mine --train train.tsv --dev dev.tsv",
        "unimo finetune classification --init-from runs/mine --train rows.csv --column text=review",
    ),
    "sweep": ("unimo sweep sst2 --init-from runs/mine --train train.tsv --dev dev.tsv --grid optimizer.lr=1e-3,3e-3",),
    "benchmark": ("unimo benchmark runs/scenes --out runs/benchmark --minutes 30",),
    "evaluate": ("unimo evaluate runs/mine", "unimo evaluate runs/mine --pairs held-out/ --out reports/held-out"),
    "compare": ("unimo compare runs/paired runs/all",),
    "speed": ("unimo speed train --size tiny", "unimo speed --compare before.jsonl after.jsonl"),
    "predict": ("unimo predict runs/sst2 --data new.csv --out answers.jsonl",),
    "search": ("unimo search runs/index --text 'a red ring' --top-k 5",),
    "index": ("unimo index runs/mine --images photos/ --out runs/index",),
    "caption": ("unimo caption runs/mine photo.jpg --num-beams 5",),
    "classify": ("unimo classify runs/mine photo.jpg --names cat,dog,horse",),
    "answer": ("unimo answer runs/vqa 'how many dogs?' photos/ --out answers.csv",),
    "encode": ("unimo encode runs/mine photos/ --out images.parquet", "unimo encode runs/mine --texts 'a dog'"),
    "serve": ("unimo serve", "unimo serve runs/mine --index runs/index --port 8080"),
    "fill-mask": ("unimo fill-mask runs/mine 'a red [MASK]' --image photo.jpg",),
    "describe": ("unimo describe base", "unimo describe scenes --set width=256"),
    "plan": ("unimo plan base --gpus 8 --memory 80", "unimo plan large --gpus 64 --pairs 4096"),
    "recipes": ("unimo recipes photos",),
    "download": ("unimo download unimo-2-base",),
    "convert": ("unimo convert unimo_mnli_en.tar.gz unimo-mnli",),
    "export": ("unimo export runs/mine graphs",),
    "init-from-pretrained": ("unimo init-from-pretrained start --recipe unimo-base --roberta roberta-base",),
}
_PANEL_OF_VERB = {verb: panel for panel, verbs in VERBS.items() for verb in verbs}
_PANEL_OF_OPTION = {option: panel for panel, options in OPTIONS.items() for option in options.split()}


def dressed(command: Any) -> Any:
    """A verb with its group, its options in theirs, and its examples."""
    command.rich_help_panel = _PANEL_OF_VERB.get(command.name)
    if command.name in EXAMPLES:
        command.epilog = "\n\n".join(("Examples:", *EXAMPLES[command.name]))
    generates = any(parameter.name == "num_beams" for parameter in command.params)
    for parameter in command.params:
        panel = _PANEL_OF_OPTION.get(parameter.name)
        if parameter.param_type_name == "option" and parameter.rich_help_panel is None:
            parameter.rich_help_panel = panel if generates or panel != "Generation" else None  # top_k of a search
    return command
