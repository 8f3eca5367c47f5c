"""Weights from files: published archives, Hugging Face checkpoints, our own folders. Nothing in a file is executed.

loading.py, saving.py     models of ours: runs, checkpoints, saved folders, the hub (hub.py)
files.py, paddle.py       the formats of others
convert.py                published weights as our models: published_names.py, published_config.py, key_map.py
init_from.py              models that start from other weights; huggingface.py: RoBERTa and ViT
"""
