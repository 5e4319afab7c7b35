"""Evaluates a trained detector, or scores COCO result files: `fcos_tf.cli.evaluate` as a script."""

from fcos_tf.cli.evaluate import main

if __name__ == "__main__":
    main()
