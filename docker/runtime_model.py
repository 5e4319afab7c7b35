"""A detector in an .onnx or .xml file of tools/export.py, without fcos_tf and TensorFlow.

It needs NumPy, Pillow, and ONNX Runtime or OpenVINO. Images are read and resized as fcos_tf does.
h, w: the size of an image.
"""

import io
import json
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

OUTPUTS = ("boxes", "scores", "labels", "num_detections")
MAX_SCANS = 100  # of a progressive JPEG: each costs the time of the whole image
Image.MAX_IMAGE_PIXELS = None  # `decode` has the limit


class ImageError(ValueError):
    """An image cannot be read."""


class TooManyPixelsError(ImageError):
    """An image is larger than the limit."""


def open_model(file: str, threads: int = 0) -> tuple[dict, Callable]:
    """Opens a model on the CPU.

    Args:
        file: the .onnx, or the .xml beside its .bin.
        threads: of the runtime; 0: as many as it likes.

    Returns:
        The description in the file, and its inputs by name -> the arrays of `OUTPUTS`, which
        several threads may call.

    Raises:
        ImportError: the runtime is not installed.
        Exception: those of the runtimes, and KeyError of a file of another origin.
    """
    about, run = (open_onnx if file.endswith(".onnx") else open_openvino)(file, threads)
    blank = prepare(np.zeros([8, 8, 3], np.uint8), about["image_size"])
    run(blank | {"score_threshold": np.ones(1, np.float32)})  # the first image takes longer
    return about, run


def open_onnx(file: str, threads: int) -> tuple[dict, Callable]:
    """See `open_model`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["fcos_tf"])
    return about, lambda inputs: session.run(OUTPUTS, inputs)


def open_openvino(file: str, threads: int) -> tuple[dict, Callable]:
    """See `open_model`."""
    import openvino

    graph = openvino.Core().read_model(file)
    about = json.loads(graph.get_rt_info("fcos_tf").astype(str))
    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[about["precision"]]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    model = openvino.compile_model(graph, "CPU", options)

    def run(inputs):
        found = model.create_infer_request().infer(inputs)  # threads cannot share a request
        return [found[name] for name in OUTPUTS]

    return about, run


def detect(
    about: dict, run: Callable, data: bytes, score_threshold: float, max_pixels: int
) -> dict:
    """The size of an image file and its detections, to be written as JSON.

    Args:
        about: of `open_model`.
        run: of `open_model`.
        data: the bytes of a JPEG or PNG file.
        score_threshold: of the detections.
        max_pixels: h * w of a larger image raises `TooManyPixelsError` before it is decoded.

    Raises:
        ImageError: the image cannot be read.
    """
    pixels = decode(data, about["apply_exif"], max_pixels)
    inputs = prepare(pixels, about["image_size"])
    found = run(inputs | {"score_threshold": np.array([score_threshold], np.float32)})
    boxes, scores, labels, count = (output[0].tolist() for output in found)
    names = dict(zip(about["category_ids"], about["class_names"] or (), strict=False))
    detections = [
        {"box": box, "score": score, "category_id": label, "class_name": names.get(label)}
        for box, score, label in zip(boxes[:count], scores, labels, strict=False)
    ]
    return {"height": pixels.shape[0], "width": pixels.shape[1], "detections": detections}


def decode(data: bytes, apply_exif: bool, max_pixels: int) -> np.ndarray:
    """uint8 [h, w, 3] RGB; see `detect`."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            if image.width * image.height > max_pixels:
                got = f"{image.width} x {image.height}"
                raise TooManyPixelsError(f"expected at most {max_pixels} pixels, got {got}")
            if image.format != "PNG" and data.count(b"\xff\xda\x00") > MAX_SCANS:
                raise ImageError(f"expected at most {MAX_SCANS} scans")
            image = ImageOps.exif_transpose(image) if apply_exif else image
            if image.mode.startswith("I"):  # grey levels of 16 bits
                return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError("expected the bytes of a JPEG or PNG file") from None
    except Exception as error:  # Pillow raises anything
        raise ImageError(f"cannot decode the image: {error}") from error


def prepare(pixels: np.ndarray, image_size: str) -> dict[str, np.ndarray]:
    """The inputs for one image, by the rule `image_size`: "512x512" or "800,1333"."""
    height, width = pixels.shape[:2]
    is_canvas = "x" in image_size
    sides = [int(side.split("-")[-1]) for side in image_size.replace("x", ",").split(",")]
    before = (height, width) if is_canvas else sorted((height, width))
    scale = min(side / length for side, length in zip(sides, before, strict=True))
    size = max(int(height * scale), 1), max(int(width * scale), 1)
    canvas = sides if is_canvas else [-(-side // 32) * 32 for side in size]
    images = np.zeros([1, *canvas, 3], np.float32)
    images[0, : size[0], : size[1]] = resize(pixels, size)
    pairs = {"image_sizes": size, "original_sizes": (height, width)}
    return {"images": images} | {key: np.array([x], np.float32) for key, x in pairs.items()}


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [*size, 3] by bilinear interpolation with half-pixel centres, not antialiased."""
    # The longer side first, so that nothing in between is larger than needed.
    for axis in sorted((0, 1), key=lambda axis: -pixels.shape[axis]):
        before, after = pixels.shape[axis], size[axis]
        place = (np.arange(after) + 0.5) * (before / after) - 0.5
        first = np.floor(place)
        low, high = (
            np.take(pixels, np.clip(end, 0, before - 1).astype(int), axis).astype(np.float32)
            for end in (first, first + 1)
        )
        weight = (place - first).astype(np.float32)
        pixels = low + (high - low) * np.expand_dims(weight, (1, 2) if axis == 0 else 1)
    return pixels
