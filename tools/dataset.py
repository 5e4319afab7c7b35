"""Summarises a data set, or writes it in another format: `fcos_tf.cli.dataset` as a script."""

from fcos_tf.cli.dataset import main

if __name__ == "__main__":
    main()
