"""Detects objects in images and videos: `fcos_tf.cli.detect` as a script."""

from fcos_tf.cli.detect import main

if __name__ == "__main__":
    main()
