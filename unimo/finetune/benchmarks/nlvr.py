"""NLVR, the first version: is a sentence true of a drawing of three boxes?

source    no paper of the family reports it; head and rates are those of entailment (spec unimo §6.7)
data      NLVR (12,409 sentences, each with its three boxes in six orders)
command   unimo finetune nlvr --init-from RUN --train train.tar --dev dev.tar --test test.tar --out runs/nlvr
hardware  not measured
expect    accuracy; the majority class gets 55.4 % on test

Tars of images with `sentence` and `label` in their JSON; for the published files --set data.reader=nlvr_json.
"""

from unimo.finetune.released import about_images

nlvr = about_images("nlvr", 2e-5, read={"max_length": 64}, batch_size=64, epochs=20.0)
