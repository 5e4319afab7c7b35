"""Exports a trained detector: `fcos_tf.cli.export` as a script."""

from fcos_tf.cli.export import main

if __name__ == "__main__":
    main()
