"""Raw things become samples, samples become packed batches; this room knows no model.

sample.py    one image with its texts, as bytes and strings
sources.py   folders, globs and files of the user -> one indexed corpus (`open_corpus`)
shards.py    where bytes lie: tar headers, positioned reads, the sidecar index
text.py      strict readers of .txt, .jsonl(.gz), .parquet and JSON
images.py    bytes -> upright RGB, or a located error (`load_rgb`)
bad_samples.py    every bad sample by name: offered = used + quarantined
pack.py      a batch builder that objectives write on, then one batch; loader.py: batches by step number

regions.py, region_rows.py       what UNIMO sees of an image, and how it is stored
region_sidecar.py, region_writer.py, region_store.py    the regions of a shard: read, written; of a corpus
scene_graph.py, rewriting.py     captions parsed, and rewritten; rewrites.py: as training reads them
similarity.py, neighbours.py     what is near what; related images and sentences, as training reads them
beside.py                        all that was prepared for a pair
"""
