"""Which files may be opened: a guard in front of FFmpeg's demuxers.

FFmpeg also reads playlists and descriptions (HLS, DASH, concat, SDP, numbered images ...) that make it open
further files or network addresses, and it picks a demuxer by content, so a playlist named `video.mp4` is still a
playlist. Here only demuxers that read nothing but the one file are allowed; FFmpeg checks the list before the
chosen demuxer reads anything.
"""

import os
import zlib
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from tinyhd.errors import InputError
from tinyhd.files import StrPath

MAX_PIXELS = 2**27
"""Frames with more are not decoded: a header of a few bytes can ask for gigabytes."""

# Images are recognized here by their first bytes and given to a demuxer by name: left to itself FFmpeg would
# choose `image2` for names such as photo.jpg, which takes % and * in a name for a pattern of further files.
_IMAGE_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "jpeg_pipe"),
    (0, b"\x89PNG\r\n\x1a\n", "png_pipe"),
    (0, b"GIF8", "gif"),
    (8, b"WEBP", "webp_pipe"),
    (0, b"BM", "bmp_pipe"),
    (0, b"II*\0", "tiff_pipe"),
    (0, b"MM\0*", "tiff_pipe"),
    (0, b"\0\0\0\x0cjP  ", "j2k_pipe"),
    (0, b"\xff\x0a", "jpegxl_pipe"),
    (0, b"\0\0\0\x0cJXL ", "jpegxl_pipe"),
    (0, b"qoif", "qoi_pipe"),
    (0, b"\x76\x2f\x31\x01", "exr_pipe"),
)
STILL_DEMUXERS = frozenset(name for _, _, name in _IMAGE_MAGIC if name.endswith("_pipe"))

_VIDEO_DEMUXERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "ogg", "flv", "live_flv", "asf", "nut", "mxf", "wtv"),
    *("rm", "dv", "gxf", "ivf", "amv", "swf", "apng", "gif", "yuv4mpegpipe", "mjpeg", "mjpeg_2000", "h261", "h263"),
    *("h264", "hevc", "vvc", "evc", "m4v", "vc1", "vc1test", "av1", "obu", "dirac", "cavsvideo", "avs2", "avs3"),
)
# Harmless as well; allowed so that such a file is told to have no video instead of being refused.
_AUDIO_DEMUXERS = ("mp3", "aac", "wav", "w64", "flac", "ac3", "eac3", "aiff", "caf", "au", "amr", "ape", "wv", "tta")
_ALLOWED = ",".join((*_VIDEO_DEMUXERS, *_AUDIO_DEMUXERS, *sorted(STILL_DEMUXERS)))

_PLAYLIST_STARTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<MPD", b"[playlist]", b"<smil", b"<asx", b"[Reference]", b"RTSP")


def open_container(path: StrPath) -> InputContainer:
    """Open a video or image file for demuxing; `InputError` says why where that cannot or may not be done.

    Nothing but the file itself is opened, whatever it contains and however it is named.
    """
    file = Path(path)
    name = repr(str(file))
    if file.is_dir():
        raise InputError(f"{name} is a folder, not a video file: name the files in it.")
    if not file.exists():
        raise InputError(f"{name} does not exist: check the path.")
    if not file.is_file():
        raise InputError(f"{name} is not a regular file: save the video to a file first.")
    try:
        with file.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}.") from error
    if not head:
        raise InputError(f"{name} is empty.")
    if _is_playlist(head):
        raise InputError(
            f"{name} is a playlist that would make the reader open further files or addresses, which is refused: "
            "give the video file itself."
        )
    options = {"protocol_whitelist": "file", "format_whitelist": _ALLOWED, "max_pixels": str(MAX_PIXELS)}
    try:
        # The file: prefix keeps names such as "12:30.mp4" from being taken for a protocol.
        return av.open(
            f"file:{file.absolute()}", format=_image_demuxer(head, file), options=options, metadata_errors="replace"
        )
    except av.error.ArgumentError as error:
        raise InputError(
            f"{name} is in a format that is not read, because it is not a video or may refer to further files: "
            "convert it to mp4 or mkv first."
        ) from error
    except av.error.FFmpegError as error:
        raise InputError(f"{name} is not a video file, or is damaged beyond reading ({error.strerror}).") from error


def _is_playlist(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<?xml"):
        return b"<MPD" in text or b"CompositionPlaylist" in text or b"<SmoothStreamingMedia" in text or b"<smil" in text
    return text.lower().startswith(tuple(start.lower() for start in _PLAYLIST_STARTS))


def _image_demuxer(head: bytes, file: Path) -> str | None:
    """The demuxer for an image's first bytes; None: let FFmpeg find out."""
    for offset, magic, demuxer in _IMAGE_MAGIC:
        if head[offset:].startswith(magic):
            if demuxer == "png_pipe" and b"acTL" in head:
                return "apng"
            if demuxer == "jpeg_pipe" and file.suffix.lower() in (".mjpg", ".mjpeg"):
                return "mjpeg"
            return demuxer
    return None


def missing_bytes(path: StrPath) -> int:
    """How many bytes the headers of an mp4, Matroska or AVI file promise beyond its end; 0 if none or unknown.

    Demuxers report the end of a truncated file as a normal end, so this is how truncation is noticed.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] in (b"AVI ", b"WEBP"):
            length = int.from_bytes(head[4:8], "little")
            missing = length + 8 - size
            # Writers that were never closed leave the largest number here, others count these 8 bytes as well.
            return missing if missing > 8 and length < 0xFFFFFF00 else 0
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _matroska_end(file) - size)
        if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return max(0, _mp4_end(file, size) - size)
    return 0


def is_damaged_png(path: StrPath) -> bool:
    """Whether a file is a PNG with a wrong check sum, or without its end; FFmpeg's decoder does not look at them."""
    with open(path, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return False
        while len(head := file.read(8)) == 8:
            kind, left = head[4:], int.from_bytes(head[:4], "big")
            checksum = zlib.crc32(kind)
            while left and (data := file.read(min(left, 2**20))):
                checksum, left = zlib.crc32(data, checksum), left - len(data)
            if file.read(4) != checksum.to_bytes(4, "big"):
                return True
            if kind == b"IEND":
                return False
    return True


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Where the last top-level box ends (ISO/IEC 14496-12, 4.2)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if length < 8 or not box[4:8].isalnum():  # 0: up to the end of the file; else not a box, so stop
            return size
        position += length
    return position


def _matroska_end(file: BinaryIO) -> int:
    """Where the Segment ends (RFC 9559, 5.1; RFC 8794 for the variable-length numbers); 0 if it is open-ended."""
    position = 4
    for skip in (True, False):  # the EBML header is skipped, then the Segment's size is what counts
        file.seek(position)
        raw = file.read(8)
        width = 9 - raw[0].bit_length() if raw and raw[0] else 9
        if width > 8:
            return 0
        value = int.from_bytes(raw[:width], "big") & ((1 << 7 * width) - 1)
        if value == (1 << 7 * width) - 1:
            return 0
        position += width + value
        if skip:
            file.seek(position)
            if file.read(4) != b"\x18\x53\x80\x67":
                return 0
            position += 4
    return position
