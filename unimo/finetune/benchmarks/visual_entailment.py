"""Entailment by an image of Flickr8k: SNLI's pairs whose premise is one of its captions; the image stands for it.

source    ours: the recipe of SNLI-VE without adversarial training
data      .jsonl with image, hypothesis and label; images of Flickr8k
command   unimo finetune visual_entailment --init-from RUN --train train.jsonl.gz --dev dev.jsonl.gz --test
          test.jsonl.gz --images flickr8k --out runs/visual_entailment
hardware  not measured
expect    accuracy; the majority class gets 34.3 % on test

The premise's words are never read: with them a model can answer without looking.
"""

from unimo.finetune.released import about_images

visual_entailment = about_images("visual_entailment", 2e-5, read={"max_length": 64}, batch_size=64, epochs=10.0)
