"""Small VOC trees for tests: every image is 40 pixels wide and 30 high."""

from PIL import Image

from fcos_tf.data.formats.listing import read_listing
from fcos_tf.data.formats.records import STORED
from fcos_tf.data.formats.voc import list_voc


def read_voc(root, split, **options):
    usual = {"class_names": None, "limit": None, "include_difficult": False, "frame": STORED}
    listing = list_voc(split, data_dir=root)
    return read_listing(listing, split, val_fraction=0.2, **(usual | options))


def voc_object(name="cat", corners=(1, 1, 10, 20), extra=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def write_list(root, split, *lines):
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{x}\n" for x in lines))


def add_image(root, stem, *objects, split="train", head="", suffix=".jpg"):
    """Adds an image with its annotation to a tree and to a list; makes the folders."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (128, 128, 128)).save(root / "JPEGImages" / (stem + suffix))
    xml = f"<annotation>{head}{''.join(objects)}</annotation>"
    (root / "Annotations" / f"{stem}.xml").write_text(xml)
    with open(root / "ImageSets" / "Main" / f"{split}.txt", "a") as file:
        file.write(stem + "\n")
