"""The two models and their parts; this room knows no data.

unified.py        what both share: towers, one packed row, one Transformer, heads
unimo.py          UNIMO: one Transformer over regions and words
unimo2.py         UNIMO-2: ViT, text encoder, Grounded Transformer
gradient_cache.py towers in chunks, encoded again in the backward pass
attention.py      who sees whom, as data; block_mask.py: its sparse form
grounding.py      the grounded dictionary
transformer.py    the encoder of all towers; embeddings.py, heads.py, task_heads.py, kv_cache.py
build.py          settings -> model; flops.py: its arithmetic
"""
