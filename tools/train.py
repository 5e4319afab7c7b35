"""Trains a detector: `fcos_tf.cli.train` as a script."""

from fcos_tf.cli.train import main

if __name__ == "__main__":
    main()
