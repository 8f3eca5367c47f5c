"""From samples to packed batches; this room knows no model and no store.

sample.py          a sample, and what the loader needs of corpora and of what was prepared beside them
images.py          bytes -> upright RGB, or a located error (`load_rgb`); image_metadata.py
augment.py         random views of an image
regions.py         what UNIMO sees of an image
masking.py         masked spans, fragments for sequence-to-sequence generation
segments.py        [CLS] A [SEP] B [SEP]; records.py: sources and targets of text generation
side_inputs.py     rewritten captions and neighbours of a pair
schedule.py        which samples a step reads, from (seed, step)
batch_builder.py   an open batch that objectives write on
loader.py          batches by step number; workers.py: processes that make them
"""
