"""What has to change in torchvision before it can be compared."""

import importlib

import numpy as np


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
