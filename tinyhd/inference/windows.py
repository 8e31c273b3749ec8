"""Which samples the network sees together, and which of its maps count for which sample: index arithmetic only.

A shot is a run of frames without a cut; its samples (every Nth frame) are numbered from its first one and called frames
here. Windows never reach across a cut.
"""

from dataclasses import dataclass

from tinyhd.network.config import CLIP_LENGTH

DEFAULT_OVERLAP = 4
"""Frames that neighboring windows share when cross-fading. Measured with the published M of channel reduction 4: 4
predicts fixations as well as 8 and better than 0, and takes away most of the pulse at window borders for a third more
computing; 8 halves what is left of it, for twice the computing."""


@dataclass(frozen=True)
class Window:
    """One pass of the network over 16 frames of a shot."""

    frames: tuple[int, ...]
    """The 16 frames it sees; a shot that is too short has its first frame repeated in front."""
    weights: tuple[float, ...]
    """One for each map it gives, the weight in the mean over all windows' maps of that frame; 0: not used."""
    finalized: int
    """Frames before this number have got all their maps once this window is done."""

    @property
    def map_frames(self) -> tuple[int, ...]:
        """The frame that each map belongs to; a single map belongs to the last frame."""
        return self.frames[-len(self.weights) :]


@dataclass(frozen=True)
class Windowing:
    """How windows follow each other within a shot.

    Models with one map per clip (S) have one window for each frame, which ends there. Models with 16 maps (M) have a
    window every `16 - overlap` frames and a last one that ends with the shot.

    `crossfade`: each window's weight rises over the first `overlap` frames and falls over the last ones, so that maps
    change smoothly from one window to the next; with at most 8 frames of overlap the weights of a frame sum to 1.
    `published`: as the authors run it, side by side; the last window overwrites what it shares with the one before.
    """

    maps_per_clip: int
    """16 or 1."""
    kind: str = "crossfade"
    """crossfade or published."""
    overlap: int = DEFAULT_OVERLAP
    """Frames that neighboring windows share, 0 to 15; M with crossfade only."""

    @property
    def stride(self) -> int:
        """Frames from the start of one window to the start of the next."""
        if self.maps_per_clip == 1:
            return 1
        return CLIP_LENGTH if self.kind == "published" else CLIP_LENGTH - self.overlap

    def window(self, index: int, length: int, complete: bool) -> Window | None:
        """Window number `index` of a shot of which `length` frames are here; None where it does not exist (yet).

        `complete`: the shot ends after `length` frames. What is given does not depend on frames still to come. As long
        as a shot has not ended, it has a window to come: the one that finalizes its last frame.
        """
        if self.maps_per_clip == 1:
            # one frame late, so that a shot has a window to come as long as it has not ended
            return Window(_ending_at(index), (1.0,), index + 1) if index < length - (not complete) else None
        start = index * self.stride
        end = start + CLIP_LENGTH
        if end <= length:
            # the last window is told from the others by what follows it
            needed = length if complete else end + (CLIP_LENGTH if self.kind == "published" else 1)
            return self._full(start, length, complete) if needed <= length else None
        covered = end - self.stride if index else 0
        if complete and covered < length:
            return self._final(start, length)
        return None

    def plan(self, length: int) -> list[Window]:
        """All windows of a shot of `length` frames."""
        windows: list[Window] = []
        while (window := self.window(len(windows), length, complete=True)) is not None:
            windows.append(window)
        return windows

    def _full(self, start: int, length: int, complete: bool) -> Window:
        """A window in step: frames `start` to `start` + 15."""
        frames = tuple(range(start, start + CLIP_LENGTH))
        if self.kind == "published":
            end = start + CLIP_LENGTH
            if complete and end < length < end + CLIP_LENGTH:
                end = length - CLIP_LENGTH  # from here on the shot's last window overwrites
            return Window(frames, tuple(float(f < end) for f in frames), end)
        ramp = self.overlap + 1
        weights = tuple(min(1.0, (j + 1) / ramp, (CLIP_LENGTH - j) / ramp) for j in range(CLIP_LENGTH))
        return Window(frames, weights, length if complete and frames[-1] == length - 1 else start + self.stride)

    def _final(self, start: int, length: int) -> Window:
        """The window over a shot's last frames, where the one in step, from `start` on, would reach beyond it."""
        frames = _ending_at(length - 1)
        first = length - CLIP_LENGTH  # < 0: padded
        if self.kind == "published":
            return Window(frames, tuple(float(first + j >= 0) for j in range(CLIP_LENGTH)), length)
        # It fades in where the window in step would have: earlier frames are finalized.
        ramp = self.overlap + 1
        positions = range(first - start, first - start + CLIP_LENGTH)
        return Window(frames, tuple(min(1.0, max(0, j + 1) / ramp) for j in positions), length)


def _ending_at(last: int) -> tuple[int, ...]:
    """16 frames up to `last`; the first one of the shot is repeated where there are fewer."""
    return tuple(max(0, f) for f in range(last - CLIP_LENGTH + 1, last + 1))
