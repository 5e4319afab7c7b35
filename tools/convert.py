"""Converts PyTorch checkpoints to Keras: `fcos_tf.cli.convert` as a script."""

from fcos_tf.cli.convert import main

if __name__ == "__main__":
    main()
