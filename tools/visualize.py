"""Draws what a detector learns from, and how it learns: `fcos_tf.cli.visualize` as a script."""

from fcos_tf.cli.visualize import main

if __name__ == "__main__":
    main()
