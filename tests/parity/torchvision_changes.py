"""What has to change in torchvision before it can be compared."""

import importlib


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
