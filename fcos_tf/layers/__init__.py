"""Building blocks with weights: backbones, feature pyramid, heads."""
