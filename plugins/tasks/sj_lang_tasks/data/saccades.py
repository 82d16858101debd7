"""Images turned into the events of a camera that moves in front of them.

N-MNIST was recorded so (Orchard et al. 2015, arXiv 1507.07629): a camera sees a still image and
moves along a triangle. Here both are computed:

    L(x, t) = ln(I(x + p(t)) + 0.1)            I in 0..1, bilinear between pixels, p the way
    n       = trunc((L(x, t) - R(x)) / theta)  R: the level of the last event; at first L(x, 0)
    R(x)    = R(x) + n theta

n > 0 are ON events, n < 0 are -n OFF events. They are counted in T bins of equal length.
"""

import numpy as np
from numpy.typing import NDArray

MOMENTS = 4  # at which the camera looks within a bin
DARK = 0.1
LEVELS = 255.0
#: each recording begins at one of the corners, and goes round in one of the two directions
WAYS = [(corner, direction) for corner in range(3) for direction in (1, -1)]


def way(times: NDArray[np.float64], amplitude: float, corner: int, direction: int) -> NDArray[np.float64]:
    """Where the camera is, `[..., 2]` in pixels (x, y). times: 0..1; at 1 it is back."""
    angles = 2 * np.pi * (corner + direction * np.arange(4)) / 3
    corners = amplitude * np.stack([np.sin(angles), np.cos(angles)], 1)
    side = np.minimum((times * 3).astype(int), 2)
    share = (times * 3 - side)[..., None]
    places: NDArray[np.float64] = corners[side] * (1 - share) + corners[side + 1] * share
    return places


def record(
    pixels: NDArray[np.uint8], *, steps: int, threshold: float, amplitude: float, seed: int
) -> NDArray[np.uint8]:
    """The events of each image, counted: `[N, T, 2, H, W]`, ON before OFF. pixels: `[N, H, W]`.

    steps: T. threshold: theta, of the logarithm. amplitude: of the triangle, in pixels. seed:
    decides the ways. Counts above 255 are 255.
    """
    ways = np.random.default_rng(seed).integers(len(WAYS), size=len(pixels))
    counts = np.zeros((len(pixels), steps, 2, *pixels.shape[1:]), np.uint8)
    times = np.linspace(0, 1, steps * MOMENTS + 1)
    for number, (corner, direction) in enumerate(WAYS):
        chosen = np.flatnonzero(ways == number)
        if not len(chosen):
            continue
        images = pixels[chosen].astype(np.float32) / LEVELS
        places = way(times, amplitude, corner, direction)
        level = _brightness(images, places[0])
        for step in range(steps):
            events = np.zeros((2, *level.shape), np.float32)
            for place in places[1 + step * MOMENTS : 1 + (step + 1) * MOMENTS]:
                crossed = np.trunc((_brightness(images, place) - level) / threshold)
                level += crossed * threshold
                events += np.stack([np.maximum(crossed, 0), np.maximum(-crossed, 0)])
            counts[chosen, step] = np.minimum(events, 255).swapaxes(0, 1)
    return counts


def _brightness(images: NDArray[np.float32], place: NDArray[np.float64]) -> NDArray[np.float32]:
    """ln(I + 0.1) of the images `[N, H, W]` seen from a place; beyond an edge they go on."""
    seen = images
    for axis, shift in ((2, place[0]), (1, place[1])):
        whole = int(np.floor(shift))
        part = np.float32(shift - whole)
        ends = images.shape[axis] - 1
        near, far = (np.clip(np.arange(ends + 1) + whole + more, 0, ends) for more in (0, 1))
        seen = (1 - part) * seen.take(near, axis) + part * seen.take(far, axis)
    levels: NDArray[np.float32] = np.log(seen + np.float32(DARK))
    return levels
