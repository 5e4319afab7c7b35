"""The one place that imports keras-cv, which has had no release since 2024."""

from types import ModuleType


def import_keras_cv() -> ModuleType:
    """Imports keras_cv, which takes seconds: call it where it is used.

    Returns:
        The module `keras_cv`.

    Raises:
        ImportError: it is not installed, or its own import fails, with an error of any kind.
    """
    try:
        import keras_cv
    except Exception as error:
        words = " ".join(str(error).split())
        raise ImportError(
            f"keras-cv cannot be imported ({type(error).__name__}: {words}); "
            "the backbones keras_cv/... and the augmentations color_jitter and rand_augment need "
            "it, and nothing else does: pip install keras-cv"
        ) from error
    return keras_cv
