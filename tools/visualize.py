"""Draws training images, or the curves of runs: `fcos_tf.cli.visualize` as a script."""

from fcos_tf.cli.visualize import main

if __name__ == "__main__":
    main()
