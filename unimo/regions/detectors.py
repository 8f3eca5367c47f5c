"""Regions by models: object detectors, and image towers for the grid. Weights come from safetensors only.

Q queries · R regions · F features · K classes · D width · g patches per side
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

from unimo.data.augment import resize
from unimo.errors import UsageError, WeightsError
from unimo.extras import optional
from unimo.json_files import load_json
from unimo.regions.grid import PatchEncoder
from unimo.regions.source import CorpusImage, Detections, RegionSource, arrays_digest


class UNIMO2Patches:
    """Patch states of a UNIMO-2's image tower, behind its last layer."""

    bins = 1

    def __init__(self, place: str, device: str | None = None):
        from unimo.inference import load
        from unimo.model.unimo2 import UNIMO2

        self.pipeline = load(place, device=device, precision="fp32")
        if not isinstance(self.pipeline.model, UNIMO2):
            raise UsageError("this model sees no pixels", where=place, expected="a UNIMO-2, or another ViT")
        tower = self.pipeline.model
        self._digest = weights_digest({"patches": tower.patches, "image_encoder": tower.image_encoder})

    def identity(self) -> dict[str, Any]:
        return {"patches": "unimo-2", "weights": self._digest, "side": self.pipeline.side}

    def states(self, image: Image.Image) -> np.ndarray:
        patches = self.pipeline.encode_images([image]).hidden[0, 1:]
        return _square(patches.float().cpu().numpy())


class ViTPatches:
    """Last patch states of a ViT in Hugging Face format; tokens before the patches ([CLS], registers) are left out."""

    bins = 1

    def __init__(self, folder: Path, device: str | None = None):
        self.model, self.device = _load_transformers("AutoModel", folder, device)
        config = self.model.config
        side, patch = (getattr(config, name, None) for name in ("image_size", "patch_size"))
        if not isinstance(side, int) or not isinstance(patch, int):
            raise WeightsError(
                "not a ViT", where=folder, got=config.model_type, expected="an image_size and a patch_size"
            )
        self.side, self.patches = side, (side // patch) ** 2
        self.pixels = Preprocessing.read(folder, config.model_type)

    def identity(self) -> dict[str, Any]:
        pixels = {"mean": self.pixels.mean, "deviation": self.pixels.deviation}
        digest = weights_digest({"": self.model})
        return {"patches": self.model.config.model_type, "weights": digest, "side": self.side, **pixels}

    def states(self, image: Image.Image) -> np.ndarray:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(self.pixels.normalise(resize(image, self.side)))[None].to(self.device)
            hidden = self.model(pixel_values=batch).last_hidden_state[0]
        return _square(hidden[-self.patches :].float().cpu().numpy())


@dataclass(frozen=True)
class Preprocessing:
    """What a model in Hugging Face format wants done to an image: its own file's numbers, by our code.

    size: (height, width), or (shortest, longest) side with the aspect ratio kept, as `keep` says.
    """

    size: tuple[int, int]
    keep: bool
    mean: tuple[float, ...] | None
    deviation: tuple[float, ...] | None

    @classmethod
    def read(cls, folder: Path, family: str) -> Preprocessing:
        """preprocessor_config.json, or what the family's papers used. Raises WeightsError where that says nothing."""
        place = folder / "preprocessor_config.json"
        stored = load_json(place) if place.is_file() else {}
        square = family.startswith(("rt_detr", "d_fine"))
        default: Any = {"height": 640, "width": 640} if square else {"shortest_edge": 800, "longest_edge": 1333}
        size = stored.get("size", default)
        size = {"shortest_edge": size, "longest_edge": stored.get("max_size", 1333)} if isinstance(size, int) else size
        try:
            keep = "shortest_edge" in size
            names = ("shortest_edge", "longest_edge") if keep else ("height", "width")
            sides = (int(size[names[0]]), int(size.get(names[1], 1333)))
            mean = deviation = None
            if stored.get("do_normalize", not square):
                mean = tuple(map(float, stored.get("image_mean", IMAGENET_MEAN)))
                deviation = tuple(map(float, stored.get("image_std", IMAGENET_DEVIATION)))
            if min(sides) <= 0 or min(deviation or (1,)) <= 0:
                raise ValueError(f"{sides}, {deviation}")
        except (TypeError, ValueError, KeyError, AttributeError) as fault:
            raise WeightsError("unknown preprocessing", where=place, got=repr(fault)) from fault
        return cls(sides, keep, mean, deviation)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(3, height, width) float32."""
        height, width = self.size
        if self.keep:
            min_length, max_length = self.size
            scale = min(min_length / min(image.size), max_length / max(image.size))
            width, height = (max(1, round(side * scale)) for side in image.size)
        return self.normalise(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 -> (3, height, width) float32."""
        x = pixels.astype(np.float32) / 255
        if self.mean is not None and self.deviation is not None:
            x = (x - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return np.ascontiguousarray(x.transpose(2, 0, 1))


IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _ObjectDetector(RegionSource):
    """Regions most confident first: those from `threshold` on, and the `min_regions` best in any case, as in bottom-up
    attention, so that every image has regions."""

    def __init__(self, model: Any, device: str, threshold: float, min_regions: int):
        self.model, self.device, self.threshold, self.min_regions = model, device, threshold, min_regions

    @cached_property
    def _weights(self) -> str:
        return weights_digest({"": self.model})

    def _settings(self) -> dict[str, Any]:
        return {"weights": self._weights, "threshold": self.threshold, "min_regions": self.min_regions}


class Detector(_ObjectDetector):
    """Queries of a DETR-like detector.

    features: the decoder's last hidden state of each query, F = D. classes: the detector's and, last, none of them: its
    softmax, or, where it judges each class alone by a sigmoid, the softmax of the logits beside a 0, which gives a lone
    class the probability that its sigmoid gave.
    """

    def __init__(self, place: str, *, threshold: float = 0.2, min_regions: int = 10, device: str | None = None):
        from unimo.weights.hub import fetch

        folder = fetch(place, MODEL_FILES)
        model, device = _load_transformers("AutoModelForObjectDetection", folder, device)
        super().__init__(model, device, threshold, min_regions)
        self.pixels = Preprocessing.read(folder, model.config.model_type)
        logits, _, states = self._run(Image.new("RGB", (64, 64)))
        labels = len(model.config.id2label)
        if logits.shape[1] not in (labels, labels + 1) or len(states) != len(logits):
            got, expected = f"{logits.shape} logits, {states.shape} states", f"queries of {labels} classes"
            raise WeightsError("a detector of an unknown kind", where=place, got=got, expected=expected)
        self.has_none = logits.shape[1] == labels + 1
        self.feature_size, self.classes = states.shape[1], labels + 1

    def identity(self) -> dict[str, Any]:
        pixels = [*self.pixels.size, self.pixels.keep, self.pixels.mean, self.pixels.deviation]
        return {"source": "detector", "model": self.model.config.model_type, **self._settings(), "pixels": pixels}

    def regions(self, image: CorpusImage) -> Detections:
        width, height = image.size
        logits, boxes, states = self._run(image.image)
        if self.has_none:
            classes = softmax(logits, axis=1)
            scores = classes[:, :-1].max(axis=1)
        else:
            classes = softmax(np.concatenate([logits, np.zeros_like(logits[:, :1])], axis=1), axis=1)
            scores = 1 / (1 + np.exp(-logits.max(axis=1)))
        order = np.argsort(-scores, kind="stable")
        kept = order[: max(int((scores >= self.threshold).sum()), self.min_regions)]
        x, y, w, h = boxes[kept].T
        corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1).clip(0, 1)
        return Detections(states[kept], corners * [width, height, width, height], width, height, classes[kept])

    def _run(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """logits (Q, K), boxes (Q, 4) as centre and size in fractions of the image, states (Q, D)."""
        import torch

        with torch.inference_mode():
            seen = self.model(pixel_values=torch.from_numpy(self.pixels(image))[None].to(self.device))
        logits, boxes, states = (
            x[0].float().cpu().numpy() for x in (seen.logits, seen.pred_boxes, seen.last_hidden_state)
        )
        return logits, boxes, states[-len(logits) :]  # YOLOS has its patches before the queries


class FasterRCNN(_ObjectDetector):
    """torchvision's Faster R-CNN (ResNet-50 FPN, either version), read as bottom-up attention reads its own.

    place: its weights in safetensors (`safetensors.torch.save_file(model.state_dict(), FILE)`). Regions are the
    proposals, for the features are theirs: those of the box head (F = 1024). classes: its softmax, background last.
    Of proposals of one class that overlap by more than `overlap` the best stays.
    """

    def __init__(
        self,
        place: str,
        *,
        threshold: float = 0.2,
        min_regions: int = 10,
        overlap: float = 0.3,
        device: str | None = None,
    ):
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        detection = _torchvision().models.detection
        try:
            state = load_file(place)
            versions = {"fc6.weight": "fasterrcnn_resnet50_fpn", "0.0.weight": "fasterrcnn_resnet50_fpn_v2"}
            build = next(name for key, name in versions.items() if f"roi_heads.box_head.{key}" in state)
            self.classes = len(state["roi_heads.box_predictor.cls_score.bias"])
            model = getattr(detection, build)(weights=None, weights_backbone=None, num_classes=self.classes)
            model.load_state_dict(state)
        except (OSError, SafetensorError, StopIteration, KeyError, RuntimeError) as fault:
            expected = "the weights of torchvision's Faster R-CNN with ResNet-50 FPN, in safetensors"
            raise WeightsError("not a Faster R-CNN", where=place, got=fault, expected=expected) from fault
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        super().__init__(model.to(device).eval(), device, threshold, min_regions)
        self.overlap = overlap
        self.feature_size = model.roi_heads.box_predictor.cls_score.in_features

    def identity(self) -> dict[str, Any]:
        return {"source": "faster-rcnn", **self._settings(), "overlap": self.overlap}

    def regions(self, image: CorpusImage) -> Detections:
        import torch

        ops, (width, height), heads = _torchvision().ops, image.size, self.model.roi_heads
        with torch.inference_mode():
            pixels = torch.from_numpy(np.asarray(image.image).transpose(2, 0, 1).copy()).to(self.device) / 255
            images, _ = self.model.transform([pixels])
            maps = self.model.backbone(images.tensors)
            proposals, _ = self.model.rpn(images, maps)
            features = heads.box_head(heads.box_roi_pool(maps, proposals, images.image_sizes))
            classes = heads.box_predictor(features)[0].softmax(-1).roll(-1, dims=1)  # their background is class 0
            scores, labels = classes[:, :-1].max(dim=1)
            order = ops.batched_nms(proposals[0], scores, labels, self.overlap)  # most confident first
            kept = order[: max(int((scores[order] >= self.threshold).sum()), self.min_regions)]
            rows, columns = images.image_sizes[0]
            scale = torch.tensor([width / columns, height / rows, width / columns, height / rows], device=self.device)
            found = features[kept], proposals[0][kept] * scale, classes[kept]
        seen, corners, named = (x.float().cpu().numpy() for x in found)
        return Detections(seen, corners, width, height, named)


def _torchvision() -> Any:
    """torchvision, where there is one that fits its torch."""
    try:
        import torchvision.models.detection
        import torchvision.ops
    except (ImportError, RuntimeError, OSError) as fault:  # the last two: made for another torch
        raise UsageError(
            "Faster R-CNN needs a torchvision that works",
            got=fault,
            do="pip install the torchvision made for this torch, or take --source detector:MODEL, grid, or tsv:FILES",
        ) from fault
    return torchvision


MODEL_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")


def _load_transformers(kind: str, folder: Path, device: str | None) -> tuple[Any, str]:
    """A model of `transformers` in evaluation mode, from safetensors only: nothing of its folder is executed."""
    import torch

    transformers = optional("transformers", "this source", "pip install transformers", where=folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as fault:  # the library has dozens of kinds, none of them ours
        raise WeightsError(
            "transformers cannot load this model",
            where=folder,
            got=fault,
            expected=f"config.json and safetensors for {kind}",
            do="where it asks for timm, take a copy saved with use_timm_backbone=False",
        ) from fault
    return model.to(device).eval(), device


def weights_digest(modules: Mapping[str, Any]) -> str:
    """SHA-256 of all parameters and buffers, by name."""
    arrays = {
        f"{prefix}.{name}": x.detach().float().cpu().numpy()
        for prefix, module in modules.items()
        for name, x in module.state_dict().items()
    }
    return arrays_digest(arrays)


def patch_encoder(place: str, device: str | None) -> PatchEncoder:
    """Our model or theirs, as the folder says."""
    from unimo import checkpoint
    from unimo.weights.hub import fetch

    path = Path(place)
    if any((path / name).exists() for name in ("checkpoints", checkpoint.MANIFEST)):
        return UNIMO2Patches(place, device)
    config = fetch(place, ["config.json"]) / "config.json"
    if not config.is_file():
        raise WeightsError(
            "not a model", where=place, expected="a run, a folder with config.json, or a name on the hub"
        )
    if str(load_json(config).get("model_type", "")).startswith("unimo"):
        return UNIMO2Patches(place, device)
    return ViTPatches(fetch(place, MODEL_FILES), device)


def _square(patches: np.ndarray) -> np.ndarray:
    """(g * g, D) -> (g, g, D)."""
    side = round(len(patches) ** 0.5)
    if side * side != len(patches):
        raise WeightsError("patches that make no square", got=len(patches), expected="a square number")
    return patches.reshape(side, side, -1)
