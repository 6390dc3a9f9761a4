"""What compression to a byte budget costs, how well it fills it, and what detection loses by it.

Costs are CPU time of this thread as ratios to one bare encode: `simplejpeg.encode_jpeg_yuv_planes`
of the same frame's ready planes, at the best quality that fits. Everything compared is measured in
turns, in shuffled order, on the same frames. Frames are 1280x720 NV21 with padded rows, made from
the photos in ../shared/faces beside the repository if they are there, else from scikit-image's.

    python benchmarks/bench_compression.py [steady] [cuts] [cold] [layouts] [quality] [faces]
                                           [memory[=FRAMES]] [threads]
"""

from __future__ import annotations

import io
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from hybrid_detect import Frame, ImageCompressionService
from hybrid_detect.compression.codec import PillowCodec, TurboCodec
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.raster import Planes

FACES = Path(__file__).parents[2] / "shared" / "faces"
SIZE = WIDTH, HEIGHT = 1280, 720
STRIDE = 1344
FRAMES = 30
TOP_QUALITY = 92


# ---- frames ----


def photos() -> dict[str, Image.Image]:
    """Real photos, upright, by name."""
    if FACES.is_dir():
        names = sorted(json.loads((FACES / "labels.json").read_text())["images"])
        return {n: ImageOps.exif_transpose(Image.open(FACES / n)).convert("RGB") for n in names}
    from skimage import data

    return {n: Image.fromarray(getattr(data, n)()) for n in ("astronaut", "coffee", "chelsea")}


def canvas(photo: Image.Image, border: int = 64) -> np.ndarray:
    """A photo that covers the frame and `border` pixels around it, as YCbCr."""
    size = (WIDTH + 2 * border, HEIGHT + 2 * border)
    return np.asarray(ImageOps.fit(photo, size, Image.Resampling.LANCZOS).convert("YCbCr"))


def moving(scene: np.ndarray, kind: str, count: int, seed: int) -> Iterator[Planes]:
    """A stream of `count` frames that looks at `scene`, as full-range 4:2:0 planes."""
    rng = np.random.default_rng(seed)
    x = y = 64.0
    for index in range(count):
        if kind == "handheld":
            x, y = (min(max(at + rng.normal(0, 3), 0), 128) for at in (x, y))
        elif kind == "pan":
            x, y = 128 * index / count, 64.0
        left, top = int(x) & ~1, int(y) & ~1
        part = scene[top : top + HEIGHT, left : left + WIDTH]
        luma = part[:, :, 0].astype(np.float32)
        if kind == "light":
            luma *= 0.75 + 0.25 * np.cos(index / 8)
        sigma = 4.0 if kind == "noise" else 1.5
        luma += rng.standard_normal(luma.shape, dtype=np.float32) * sigma
        chroma = part.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3)).round()
        y_plane = luma.clip(0, 255).astype(np.uint8)
        yield Planes(y_plane, *(chroma[:, :, at].astype(np.uint8) for at in (1, 2)))


def nv21(planes: Planes) -> CameraImage:
    """The planes as an Android camera would deliver them, rows padded."""
    u, v = planes.chroma
    data = np.zeros((HEIGHT * 3 // 2, STRIDE), np.uint8)
    data[:HEIGHT, :WIDTH] = planes.y
    data[HEIGHT:, 0:WIDTH:2], data[HEIGHT:, 1:WIDTH:2] = v, u
    return CameraImage.from_buffer(
        data, format="nv21", width=WIDTH, height=HEIGHT, row_stride=STRIDE
    )


# ---- what others do ----


def searched(encode: Callable[[int], bytes], target: int) -> tuple[bytes, int, int]:
    """The best picture that fits, its quality and the number of encodes, by bisection."""
    low, high, best, encodes = 1, 95, (b"", 0), 0
    while low <= high:
        middle = (low + high) // 2
        data, encodes = encode(middle), encodes + 1
        if len(data) <= target:
            best, low = (data, middle), middle + 1
        else:
            high = middle - 1
    return (*best, encodes)


def through_rgb(camera: CameraImage) -> Image.Image:
    return camera.picture().convert("RGB")


def saved(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def fixed(quality: int) -> Callable[[CameraImage, int], bytes]:
    def encode(camera: CameraImage, _target: int) -> bytes:
        rgb = np.asarray(through_rgb(camera))
        return simplejpeg.encode_jpeg(rgb, quality=quality, colorsubsampling="420")

    return encode


def naive_pillow(camera: CameraImage, target: int) -> bytes:
    picture = through_rgb(camera)
    return searched(lambda quality: saved(picture, quality), target)[0]


def naive_simplejpeg(camera: CameraImage, target: int) -> bytes:
    y, u, v = camera.yuv()
    encode = simplejpeg.encode_jpeg_yuv_planes
    return searched(lambda quality: encode(y, u, v, quality=quality), target)[0]


# ---- the race ----


def cpu_s(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


class Ours:
    """A service, and what it did."""

    def __init__(self, codec: TurboCodec | PillowCodec, *, cold: bool = False) -> None:
        self.codec = codec
        self.cold = cold
        self.service = ImageCompressionService(codec=codec)
        self.results: list[tuple[int, float, int, int]] = []

    def __call__(self, camera: CameraImage, target: int) -> bytes:
        if self.cold:
            self.service = ImageCompressionService(codec=self.codec)
        done = self.service.compress(camera, target_bytes=target, quality=TOP_QUALITY)
        self.results.append((done.encodes, len(done.data) / target, done.width, done.quality))
        return done.data

    def summary(self) -> str:
        encodes, fills, _, qualities = zip(*self.results, strict=True)
        # At the top quality there is nothing left to spend bytes on.
        wanting = [f for f, q in zip(fills, qualities, strict=True) if q < TOP_QUALITY] or [1.0]
        return (
            f"encodes {statistics.mean(encodes):.3f}  over {sum(f > 1 for f in fills)}"
            f"  fill mean {statistics.mean(wanting):.3f} p5 {np.quantile(wanting, 0.05):.3f}"
            f" min {min(wanting):.3f} (below the cap: {len(wanting)} of {len(fills)})"
        )

    def by_width(self, ratios: list[float]) -> str:
        """The median of `ratios`, one for each result, for each width that was chosen."""
        groups: dict[int, list[float]] = {}
        for (_, _, width, _), ratio in zip(self.results, ratios, strict=True):
            groups.setdefault(width, []).append(ratio)
        return ", ".join(
            f"{statistics.median(group):.3f} at {width} ({len(group)})"
            for width, group in sorted(groups.items(), reverse=True)
        )


def race(title: str, streams: list[Callable[[], Iterator[Planes]]], target_kb: int) -> None:
    """All methods on all frames of all streams, each stream with services of its own."""
    target = target_kb * 1024
    times: dict[str, list[float]] = {}
    totals: dict[str, list[tuple[int, float, int, int]]] = {}
    for make in streams:
        ours = {
            "ours": Ours(TurboCodec()),
            "ours, cold each time": Ours(TurboCodec(), cold=True),
            "ours, Pillow alone": Ours(PillowCodec()),
        }
        methods: dict[str, Callable[[CameraImage, int], bytes]] = {
            **ours,
            "simplejpeg search": naive_simplejpeg,
            "Pillow search over RGB": naive_pillow,
            "fixed quality 95 (cv2, Roboflow)": fixed(95),
            "fixed quality 75 (Pillow)": fixed(75),
        }
        for planes in make():
            camera = nv21(planes)
            y, u, v = planes.y, *planes.chroma
            encode = simplejpeg.encode_jpeg_yuv_planes
            best = max(1, searched(lambda q: encode(y, u, v, quality=q), target)[1])  # noqa: B023
            merged = Image.merge(
                "YCbCr",
                [Image.fromarray(y)] + [Image.fromarray(c).resize(SIZE, 0) for c in (u, v)],
            )
            work = {
                "bare": lambda: encode(y, u, v, quality=best),  # noqa: B023
                "bare Pillow": lambda: saved(merged, best),  # noqa: B023
                **{
                    name: lambda do=do: do(camera, target)  # noqa: B023
                    for name, do in methods.items()
                },
            }
            for name in random.sample(list(work), len(work)):
                times.setdefault(name, []).append(cpu_s(work[name]))
        for name, one in ours.items():
            totals.setdefault(name, []).extend(one.results)
            one.results = totals[name]
    bare = times.pop("bare")
    print(f"\n{title}, {target_kb} KB, {len(bare)} frames; CPU as a ratio to a bare encode")
    for name, spent in times.items():
        ratios = [one / base for one, base in zip(spent, bare, strict=True)]
        print(
            f"  {name:34s} median {statistics.median(ratios):6.3f}"
            f"  mean {sum(spent) / sum(bare):6.3f}"
        )
    by_pillow = [
        one / base
        for one, base in zip(times["ours, Pillow alone"], times["bare Pillow"], strict=True)
    ]
    print(f"  Pillow alone by its own bare encode: median {statistics.median(by_pillow):.3f}")
    for name, one in ours.items():
        print(f"  {name:34s} {one.summary()}")
        ratios = [mine / base for mine, base in zip(times[name], bare, strict=True)]
        print(f"  {'':34s} CPU, median: {one.by_width(ratios)}")


def steady() -> None:
    scenes = list(photos().values())[::6]
    for target_kb in (80, 40, 20):
        for kind in ("handheld", "pan", "noise", "light"):
            race(
                f"steady stream, {kind}",
                [
                    lambda s=scene, n=number, k=kind: moving(canvas(s), k, FRAMES, n)
                    for number, scene in enumerate(scenes)
                ][:: 1 if target_kb == 80 else 3],
                target_kb,
            )


def cuts() -> None:
    scenes = list(photos().values())

    def stream() -> Iterator[Planes]:
        for number, scene in enumerate(scenes):
            yield from moving(canvas(scene), "handheld", 8, number)

    for target_kb in (80, 40, 20):
        race("a cut every 8 frames", [stream], target_kb)


def cold() -> None:
    scenes = list(photos().values())

    def stream() -> Iterator[Planes]:
        for number, scene in enumerate(scenes):
            yield from moving(canvas(scene), "still", 1, number)

    for target_kb in (80, 40, 20):
        race("every frame another photo", [stream], target_kb)


# ---- the rest ----


def layouts() -> None:
    """What each layout costs on top of a bare encode, at a quality that fits at once."""
    planes = next(moving(canvas(next(iter(photos().values()))), "still", 1, 0))
    y, u, v = planes.y, *planes.chroma
    packed = np.empty((HEIGHT, 2 * WIDTH), np.uint8)
    packed[:, 0::2] = y
    packed[:, 1::4], packed[:, 3::4] = np.repeat(u, 2, axis=0), np.repeat(v, 2, axis=0)
    flat = np.concatenate([y.ravel(), u.ravel(), v.ravel()])
    pairs = np.stack([u, v], axis=-1).ravel()
    rgb = np.asarray(nv21(planes).picture().convert("RGB"))

    def camera(data: np.ndarray, name: str, **options: object) -> CameraImage:
        return CameraImage.from_buffer(data, format=name, width=WIDTH, height=HEIGHT, **options)

    semi = np.concatenate([y.ravel(), pairs])
    inputs = {
        "I420": camera(flat, "i420"),
        "NV12": camera(semi, "nv12"),
        "NV21, padded rows": nv21(planes),
        "YUYV": camera(packed, "yuyv"),
        "NV12, limited range": camera(semi, "nv12", full_range=False),
        "NV12, rotated by 90": camera(semi, "nv12", rotation=90),
        "NV12, mirrored": camera(semi, "nv12", mirror=True),
        "NV12, cropped to 1024x576": camera(semi, "nv12", crop=(128, 72, 1024, 576)),
        "RGB array": Frame.of(rgb),
        "BGR array": Frame.of(rgb[:, :, ::-1], pixel_format="rgb"),
    }
    for codec in (TurboCodec(), PillowCodec()):
        service = ImageCompressionService(codec=codec)
        ratios: dict[str, list[float]] = {name: [] for name in inputs}
        bare = []
        for _ in range(FRAMES):
            bare.append(cpu_s(lambda: simplejpeg.encode_jpeg_yuv_planes(y, u, v, quality=50)))
            for name in random.sample(list(inputs), len(inputs)):
                spent = cpu_s(
                    lambda n=name, s=service: s.compress(
                        inputs[n], quality=50, target_bytes=1 << 20
                    )
                )
                ratios[name].append(spent)
        print(f"\nlayouts, {type(codec).__name__}; CPU as a ratio to a bare encode")
        for name, spent in ratios.items():
            print(f"  {name:28s} {statistics.median(spent) / statistics.median(bare):.3f}")


def quality() -> None:
    """SSIM of luma, and SSIMULACRA2 if its package is there, of a stream's eighth frame.

    Against the best quality at the size that was chosen, and against the best at full size.
    """
    measures: dict[str, Callable[[Image.Image, Image.Image], float]] = {"SSIM": ssim_of_luma}
    try:
        import ssimulacra2
    except ImportError:
        print("\nSSIMULACRA2: no package ssimulacra2")
    else:
        compare = ssimulacra2.compute_ssimulacra2
        measures["SSIMULACRA2"] = lambda one, other: compare(as_file(one), as_file(other))
    changes: dict[tuple[str, str], list[float]] = {}

    def best_of(planes: Planes, target: int) -> bytes:
        encode = simplejpeg.encode_jpeg_yuv_planes
        y, u, v = planes.y, *planes.chroma
        return searched(lambda q: encode(y, u, v, quality=min(q, TOP_QUALITY)), target)[0]

    for number, photo in enumerate(list(photos().values())[::3]):
        frames = list(moving(canvas(photo), "handheld", 8, number))
        original = nv21(frames[-1]).picture().convert("RGB")
        for target_kb in (80, 40, 20):
            target, service = target_kb * 1024, ImageCompressionService()
            done = [
                service.compress(nv21(f), target_bytes=target, quality=TOP_QUALITY) for f in frames
            ][-1]
            size = done.width, done.height
            rivals = {"best at that size": best_of(frames[-1].resized(size), target)}
            if size != SIZE:
                rivals["best at full size"] = best_of(frames[-1], target)
            for name, measure in measures.items():
                got = measure(original, shown(done.data))
                for rival, data in rivals.items():
                    if data:
                        key = name, f"{done.width} at {target_kb} KB against {rival}"
                        change = got - measure(original, shown(data))
                        changes.setdefault(key, []).append(change)
    print("\nquality of what was sent")
    for (name, what), values in sorted(changes.items()):
        print(
            f"  {name:11s} {what:44s} mean {statistics.mean(values):+.4f}, "
            f"worst {min(values):+.4f} (n {len(values)})"
        )


def shown(data: bytes) -> Image.Image:
    """A compressed picture at the size of the original."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return picture if picture.size == SIZE else picture.resize(SIZE, Image.Resampling.BICUBIC)


def ssim_of_luma(one: Image.Image, other: Image.Image) -> float:
    from skimage.metrics import structural_similarity

    return structural_similarity(*(np.asarray(p.convert("YCbCr"))[:, :, 0] for p in (one, other)))


def as_file(picture: Image.Image) -> io.BytesIO:
    out = io.BytesIO()
    picture.save(out, "BMP")
    out.seek(0)
    return out


def faces() -> None:
    """F1 of MediaPipe's full-range model on what is left after compression."""
    from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
    from hybrid_detect.backends.device.models import load_model

    if not FACES.is_dir():
        print("\nfaces: no labelled photos in", FACES)
        return
    labels = json.loads((FACES / "labels.json").read_text())["images"]
    frames = {}
    for name, photo in photos().items():
        factor = min(1.0, 1280 / max(photo.size), 720 / min(photo.size))
        size = tuple(round(side * factor) for side in photo.size)
        frames[name] = photo.resize(size, Image.Resampling.LANCZOS), labels[name]

    def ours(picture: Image.Image, target: int) -> Image.Image:
        done = ImageCompressionService().compress(
            i420(picture), target_bytes=target, quality=TOP_QUALITY, max_side_px=None
        )
        assert len(done.data) <= target
        return Image.open(io.BytesIO(done.data))

    def full_size(picture: Image.Image, target: int) -> Image.Image:
        data = searched(lambda quality: saved(picture, quality), target)[0]
        return Image.open(io.BytesIO(data or saved(picture, 1)))

    with MediaPipeFaceDetector(load_model("full_range")) as detector:
        backends: dict[str, Callable[[Image.Image], Image.Image]] = {"uncompressed": lambda p: p}
        for kb in (80, 40, 20):
            backends[f"ours, {kb} KB"] = lambda p, kb=kb: ours(p, kb * 1024)
            backends[f"full size, {kb} KB"] = lambda p, kb=kb: full_size(p, kb * 1024)
        print("\nfaces: precision, recall and F1 at IoU 0.5, full-range model")
        print("                       whole picture           whole and 2x2 tiles")
        for name, backend in backends.items():
            row = f"  {name:20s}"
            for tiled in (False, True):
                counts = np.zeros(3, int)
                for picture, label in frames.values():
                    counts += scored(detector, np.asarray(backend(picture)), label, tiled=tiled)
                hits, found, wanted = counts
                precision, recall = hits / max(1, found), hits / wanted
                f1 = 2 * hits / (found + wanted)
                row += f"  P {precision:.3f} R {recall:.3f} F1 {f1:.3f}"
            print(row)


def i420(picture: Image.Image) -> CameraImage:
    """A picture as a camera would deliver it."""
    width, height = picture.size
    bands = picture.convert("YCbCr").split()
    half = (width + 1) // 2, (height + 1) // 2
    chroma = (band.resize(half, Image.Resampling.BOX) for band in bands[1:])
    data = b"".join(band.tobytes() for band in (bands[0], *chroma))
    return CameraImage.from_buffer(data, format="i420", width=width, height=height)


def scored(detector: object, pixels: np.ndarray, label: dict, *, tiled: bool) -> np.ndarray:
    """Hits, detections that count, and faces wanted in one picture."""
    height, width = pixels.shape[:2]
    scale = label["width"] / width
    areas = [(0, 0, width, height)]
    if tiled:
        w, h = round(width / 1.75), round(height / 1.75)
        areas += [(x, y, w, h) for y in (0, height - h) for x in (0, width - w)]
    boxes = []
    for left, top, w, h in areas:
        part = np.ascontiguousarray(pixels[top : top + h, left : left + w])
        for face in detector.detect(part):
            x, y, right, bottom = face.box.xyxy
            inner = (left > 0, top > 0, left + w < width, top + h < height)
            edges = (x < 1, y < 1, right > w - 1, bottom > h - 1)
            if not any(i and e for i, e in zip(inner, edges, strict=True)):
                at = (left + x, top + y, right - x, bottom - y)
                boxes.append((face.score, [side * scale for side in at]))
    kept: list[list[float]] = []
    for _, box in sorted(boxes, key=lambda entry: -entry[0]):
        if all(iou(box, other) < 0.3 for other in kept):
            kept.append(box)
    wanted, hits, found = list(label["boxes"]), 0, 0
    for box in kept:
        match = max(wanted, key=lambda face: iou(box, face), default=None)
        if match is not None and iou(box, match) >= 0.5:
            wanted.remove(match)
            hits, found = hits + 1, found + 1
        elif not any(overlap(box, area) >= 0.5 * box[2] * box[3] for area in label["ignore"]):
            found += 1
    return np.array([hits, found, len(label["boxes"])])


def overlap(one: list[float], other: list[float]) -> float:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)


def iou(one: list[float], other: list[float]) -> float:
    both = overlap(one, other)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def memory(count: int = 10_000) -> None:
    """Resident memory over many frames of one stream."""
    import psutil

    process = psutil.Process()
    for codec in (TurboCodec(), PillowCodec()):
        service = ImageCompressionService(codec=codec)
        scenes = list(photos().values())[:2]
        cameras = [nv21(p) for s in scenes for p in moving(canvas(s), "handheld", 4, 0)]
        before = process.memory_info().rss
        marks = {}
        for index in range(1, count + 1):
            service.compress(cameras[index // 16 % len(cameras)], quality=TOP_QUALITY)
            if index in (1, 100, count // 10, count // 2, count):
                marks[index] = (process.memory_info().rss - before) / 1024
        grown = ", ".join(f"{kb:.0f} KB after {index}" for index, kb in marks.items())
        print(f"\nmemory, {type(codec).__name__}: {grown}")


def threads() -> None:
    """Wall time of two streams in two threads, against the same two one after the other.

    Beside it, what the machine gives to encodes that hold no GIL at all; where that is far from
    0.5 the cores were busy with other things.
    """
    scenes = list(photos().values())[:2]
    frames = [list(moving(canvas(scene), "handheld", 8, 0)) for scene in scenes]
    cameras = [[nv21(planes) for planes in stream] for stream in frames]

    def bare(number: int) -> None:
        for planes in frames[number]:
            simplejpeg.encode_jpeg_yuv_planes(planes.y, *planes.chroma, quality=60)

    def ours(codec: TurboCodec | PillowCodec) -> Callable[[int], None]:
        services = [ImageCompressionService(codec=codec) for _ in scenes]

        def stream(number: int) -> None:
            for camera in cameras[number]:
                services[number].compress(camera)

        return stream

    backends = {
        "bare encodes": bare,
        "ours": ours(TurboCodec()),
        "ours, Pillow alone": ours(PillowCodec()),
    }
    ratios: dict[str, list[float]] = {name: [] for name in backends}
    spent: dict[str, list[float]] = {name: [] for name in backends}
    for _ in range(40):
        for name in random.sample(list(backends), len(backends)):
            work = backends[name]
            started, cpu = time.perf_counter(), time.process_time()
            work(0), work(1)
            between, cpu_between = time.perf_counter(), time.process_time()
            both = [threading.Thread(target=work, args=(n,)) for n in (0, 1)]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
            ratios[name].append((time.perf_counter() - between) / (between - started))
            spent[name].append((time.process_time() - cpu_between) / (cpu_between - cpu))
    print("\nthreads: two streams at once, as a share of one after the other")
    for name, values in ratios.items():
        print(
            f"  {name:20s} wall: median {statistics.median(values):.2f}, "
            f"best tenth {np.quantile(values, 0.1):.2f}; "
            f"CPU: median {statistics.median(spent[name]):.2f}"
        )


SECTIONS: dict[str, Callable[[], None]] = {
    "steady": steady,
    "cuts": cuts,
    "cold": cold,
    "layouts": layouts,
    "quality": quality,
    "faces": faces,
    "memory": memory,
    "threads": threads,
}


def main() -> None:
    random.seed(1)
    for wish in sys.argv[1:] or list(SECTIONS):
        name, _, value = wish.partition("=")
        if value:
            memory(int(value))
        else:
            SECTIONS[name]()


if __name__ == "__main__":
    main()
