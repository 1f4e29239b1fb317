"""Picture files: which of them can be read, and what their pixels are in 8-bit RGB."""

import hashlib
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from nasbench.errors import DataError, listed

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# What these files may be inside. Pillow knows more, and for some of it would start other programs (EPS).
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
MOST_PIXELS = 89_478_485  # where Pillow begins to warn: ¼ GiB of RGB
T = TypeVar("T")


class Photo(NamedTuple):
    """A picture to be cropped."""

    pixels: NDArray[np.uint8]  # (H, W, 3), of a large JPEG in a half, a quarter or an eighth of its size
    size: tuple[int, int]  # height and width in its file


def is_image(name: str) -> bool:
    """Whether a file is called as pictures are, and is no hidden one."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


class BrokenPicture(DataError):
    """A file that has a picture's name and cannot be read as one; the message is one line that names it."""

    def __init__(self, text: str) -> None:
        """Keep the message, taken out of the traceback in which a loader's worker process wraps it."""
        super().__init__(text.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


def read_picture(path: str) -> Image.Image:
    """Read a picture as it is meant to be seen, in 8-bit RGB.

    Turned as its EXIF orientation says. Of 16 bits a channel the upper eight count. Where it is transparent it is laid
    on white. Of several frames the first is read. BrokenPicture: no picture, damaged, over `MOST_PIXELS` pixels, or of
    32 bits a channel, which do not say what is black and what white.
    """
    return _read(path)[0]


def read_photo(path: str, least: int) -> Photo:
    """Read a picture like `read_picture`; a JPEG scaled down while it is decoded, to `least` pixels a side or more."""
    picture, (width, height) = _read(path, least)
    return Photo(np.array(picture), (height, width))


def _read(path: str, least: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    try:
        return _decoded(path, least)
    except Exception as e:
        raise BrokenPicture(
            f"{listed([path])} cannot be read: {reason_of(e)}; repair or remove it, or leave such files out with "
            "--skip-broken"
        ) from e


def examined(paths: Iterable[str]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Decode every picture once, in parallel: path → what is wrong, and path → digest of what several files show.

    The former are those that cannot be read, the latter those whose picture another file shows, too, pixel by pixel.
    """
    every = list(paths)
    with warnings.catch_warnings(), ThreadPoolExecutor() as threads:
        warnings.simplefilter("ignore")  # Pillow's, about what is refused anyway or can be read all the same
        looks = dict(zip(every, threads.map(_look, every), strict=True))
        # Sketches are compared first, which tells nearly all apart.
        alike = _several({path: sketch for path, (fault, sketch) in looks.items() if not fault})
        digests = threads.map(lambda path: _pixels(read_picture(path)), alike)
        copies = _several(dict(zip(alike, digests, strict=True)))
    return {path: fault for path, (fault, _) in looks.items() if fault}, copies


def kept_pictures(
    paths: Sequence[str], read: Callable[[str], T], area: Callable[[str], int], most_bytes: int
) -> dict[str, T]:
    """Path → what `read` makes of it, for all that can be read, if three bytes for each of `area` fit; else nothing."""
    with ThreadPoolExecutor() as threads:
        if 3 * sum(threads.map(area, paths)) > most_bytes:
            return {}
        found = [(path, threads.submit(read, path)) for path in paths]
    return {path: picture.result() for path, picture in found if not picture.exception()}  # which is told on its use


def read_area(path: str, least: int) -> int:
    """How many pixels `read_photo` will read; none of what is no picture."""
    with suppress(Exception):
        if stat.S_ISREG(Path(path).stat().st_mode):  # opening a pipe would wait for somebody to write
            with Image.open(path, formats=FORMATS) as image:
                image.draft(None, (least, least))
                return image.width * image.height
    return 0


def _several(digests: dict[str, bytes]) -> dict[str, bytes]:
    """Those whose digest another one has, too."""
    times = Counter(digests.values())
    return {path: digest for path, digest in digests.items() if times[digest] > 1}


def _pixels(picture: Image.Image) -> bytes:
    return hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=16).digest()


def _look(path: str) -> tuple[str | None, bytes]:
    try:
        facts = Path(path).stat()
    except OSError as e:
        return reason_of(e), b""
    return _look_at(path, facts.st_size, facts.st_mtime_ns)


@cache  # search and retraining read the same files
def _look_at(path: str, size: int, changed: int) -> tuple[str | None, bytes]:
    """What is wrong with a file, if anything, and a digest of its pixels, an eighth of a JPEG's in each direction."""
    try:
        return None, _pixels(_decoded(path, least=1)[0])
    except Exception as e:
        return reason_of(e), b""


def reason_of(error: BaseException) -> str:
    """What is wrong with a picture, in a few words, by the error that reading it raised."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"  # Pillow's own text repeats the path
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return listed([" ".join(text.split()) or type(error).__name__])


def _decoded(path: str, least: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, of a JPEG as little as has `least` pixels a side; and its size (width, height) in full."""
    facts = Path(path).stat()
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for somebody to write
        raise ValueError("not a regular file")
    if not facts.st_size:
        raise ValueError("empty")
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width}×{image.height} pixels")
        full = image.size
        if least:  # all of a JPEG is read, but down to an eighth of its pixels made in each direction
            image.draft(None, (least, least))
        # The format is lost when the picture is turned.
        sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
        image.load()
        upright: Image.Image = image
        with suppress(Exception):  # an orientation that cannot be read is none
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else this would copy it
                upright = ImageOps.exif_transpose(image)
        full = full if upright.size == image.size else full[::-1]
        if sixteen:
            values = np.asarray(upright)
            grey = (values >> 8).astype(np.uint8)
            if "transparency" in upright.info:  # one grey level that stands for nothing
                grey[values == upright.info["transparency"]] = 255
            upright = Image.fromarray(grey)
        elif upright.mode in ("I", "F"):
            raise ValueError("32 bits a channel")
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        return upright if upright.mode == "RGB" else upright.convert("RGB"), full
