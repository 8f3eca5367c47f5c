"""Saved folders in transformers: `AutoModel.from_pretrained(folder, trust_remote_code=True)`, `pipeline(model=folder)`.

The module `modeling_unimo` that lies beside saved weights imports these classes, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.utils import ModelOutput

from unimo.inference.model import Pipeline, load


class UnimoConfig(transformers.PreTrainedConfig):
    """config.json of a saved folder: `settings["model"]` are those of `unimo.model.build.ModelSettings`."""

    model_type = "unimo"


class Unimo2Config(UnimoConfig):
    model_type = "unimo-2"


@dataclass
class UnimoOutput(ModelOutput):
    """Embeddings (N, D) and (M, D), L2-normalised, and their cosines (N, M); None of a side that was not given."""

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None


_Model: Any = transformers.PreTrainedModel  # whose methods take dozens of arguments that mean nothing here
_Pipeline: Any = transformers.Pipeline


class UnimoModel(_Model):
    """A model for inference. unimo: the `unimo.inference.Pipeline` with all that it answers."""

    config_class = UnimoConfig
    main_input_name = "pixel_values"

    def __init__(self, config: UnimoConfig, unimo: Pipeline):
        super().__init__(config)
        self.unimo, self.model = unimo, unimo.model

    @classmethod
    def from_pretrained(cls, name: str | Path, *_: Any, config: Any = None, **options: Any) -> UnimoModel:
        """Read by `unimo.load`, so compared with their SHA-256; of the options only revision and device_map count."""
        place = options.get("device_map")
        device = place if isinstance(place, str) and place != "auto" else None
        unimo = load(name, device=device, precision="fp32", revision=options.get("revision"))
        return cls(config or cls.config_class.from_pretrained(name), unimo).eval()

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        self.unimo.save_pretrained(folder)

    @torch.inference_mode()
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> UnimoOutput:
        """pixel_values: (N, 3, H, W) uint8 or 0 to 1, of any size; input_ids, attention_mask: of the tokenizer."""
        images = texts = None
        if pixel_values is not None:
            images = self.unimo.encode_image(list(pixel_values), convert_to_tensor=True)
        if input_ids is not None:
            whole = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            rows = [row[mask.bool()].cpu().numpy()[1:-1].astype(np.int64) for row, mask in zip(input_ids, whole)]
            texts = self.unimo.encode_texts(rows).embedding  # framed again: [CLS] and [SEP] are left out above
        return UnimoOutput(images, texts, None if images is None or texts is None else images @ texts.T)


class Unimo2Model(UnimoModel):
    config_class = Unimo2Config


class CaptioningPipeline(_Pipeline):
    """`pipeline(model=folder, trust_remote_code=True)(image, num_beams=5)` -> [{"generated_text": ...}]."""

    _load_tokenizer = _load_processor = _load_feature_extractor = _load_image_processor = False

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        return {}, options, {}

    def preprocess(self, image: Any) -> dict[str, Any]:
        return {"image": image}

    def _forward(self, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {"text": self.model.unimo.caption([inputs["image"]], **options)[0]}

    def postprocess(self, outputs: dict[str, Any]) -> list[dict[str, str]]:
        return [{"generated_text": outputs["text"]}]
