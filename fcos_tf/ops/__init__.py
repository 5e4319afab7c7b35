"""Pure functions on tensors: boxes, points, losses, non-maximum suppression."""
