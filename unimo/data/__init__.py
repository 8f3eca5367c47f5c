"""Raw things become samples, samples become packed batches; this room knows no model.

sample.py    one image with its texts, as bytes and strings
sources.py   folders, globs and files of the user -> one indexed corpus (`open_corpus`)
shards.py    where bytes lie: tar headers, positioned reads, the sidecar index
text.py      strict readers of .txt, .jsonl(.gz), .parquet and JSON
images.py    bytes -> upright RGB, or a located error (`load_rgb`)
ledger.py    every bad sample by name: offered = used + quarantined
"""
