"""What the detectors of torchvision have in common, and has to change before they are compared."""

import importlib

import numpy as np


class Detector:
    """A detector of torchvision: `model`, its module `torch`, and the dtype of images."""

    dtype = "float32"

    def num_parameters(self) -> int:
        """As torchvision counts: the statistics and factors of frozen batch norm are buffers."""
        return sum(p.numel() for p in self.model.parameters())

    def transform(self, photo: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """torchvision's own preprocessing of a photo: [1, H, W, 3] normalised, and (h, w)."""
        images, _ = self.model.transform([self._unit(photo)])
        return images.tensors.numpy().transpose(0, 2, 3, 1), images.image_sizes[0]

    def detect(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """Detections in a photo uint8 [h, w, 3], in its own pixels."""
        with self.torch.no_grad():
            (found,) = self.model([self._unit(photo)])
        return {name: found[name].numpy() for name in ("boxes", "scores", "labels")}

    def _inputs(self, images: np.ndarray, batch: dict) -> tuple[list, list[dict]]:
        """Images and targets of a `training_batch` without padding, as torchvision takes them."""
        inputs, targets = [], []
        for image, size, boxes, labels in zip(
            images, *(batch[k] for k in ("image_sizes", "boxes", "labels")), strict=True
        ):
            height, width = size.astype(int)
            inputs.append(self._unit(image[:height, :width]))
            real, from_numpy = labels >= 0, self.torch.from_numpy
            labels = from_numpy(labels[real].astype(np.int64))
            targets.append({"boxes": from_numpy(boxes[real]), "labels": labels})
        return inputs, targets

    def _planes(self, image):
        planes = self.torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        return planes.to(getattr(self.torch, self.dtype))

    def _unit(self, photo):
        return self._planes(photo[None])[0] / 255


def sample_keys(places: np.ndarray) -> np.ndarray:
    """In place of random numbers: a sample is the places of largest key. uint32 -> uint32."""
    return places * np.uint32(2654435761) >> np.uint32(8)


class FixedSampler:
    """Takes the place of torchvision's sampler.

    Args:
        sampler: to be replaced.
    """

    def __init__(self, sampler):
        self.num, self.fraction = sampler.batch_size_per_image, sampler.positive_fraction

    def __call__(self, labels):
        self.lengths = [len(each) for each in labels]
        masks = [], []
        for each in labels:
            keys = sample_keys(np.arange(len(each), dtype=np.uint32)).astype(int)
            left, most = self.num, int(self.num * self.fraction)
            for mask, chosen in ((each >= 1, masks[0]), (each == 0, masks[1])):
                places = np.flatnonzero(mask.numpy())
                places = places[np.argsort(-keys[places])[:most]]
                left = most = left - len(places)
                chosen.append(mask & False)
                chosen[-1][places] = True
        return masks


def align_as_compiled(torch) -> None:
    """Gives torchvision's Python form of RoIAlign, which takes over where the compiled operator
    does not load, that operator's value beyond the far sides of a map: 0, not the last cell."""
    module = importlib.import_module("torchvision.ops.roi_align")
    align, interpolate = module._roi_align, module._bilinear_interpolate
    if interpolate.__module__ == __name__:
        return

    def interpolated(maps, image, y, x, ymask, xmask):
        rows, columns = (at <= size for at, size in zip((y, x), maps.shape[2:], strict=True))
        inside = rows[:, None, :, None, :, None] & columns[:, None, None, :, None, :]
        return interpolate(maps, image, y, x, ymask, xmask) * inside

    def aligned(maps, boxes, *options):
        # In parts, as one box takes a megabyte; without the compiler.
        parts = [align.__wrapped__(maps, part, *options) for part in boxes.split(100)]
        return torch.cat(parts)

    aligned.__wrapped__ = align.__wrapped__
    module._bilinear_interpolate, module._roi_align = interpolated, aligned


def freeze_norms(torch, module, kind) -> None:
    """Replaces batch norms by frozen ones of epsilon 0, as the COCO file of version 1 needs."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(module, name, kind(child.num_features, eps=0.0))
        else:
            freeze_norms(torch, child, kind)
