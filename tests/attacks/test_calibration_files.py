"""Arrays that are damaged, that lie about their size, that are something else, or that say nothing."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import RUN, write_pair
from tests.command_line import Cli

DATA = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
Make = Callable[[Path], Any]


def file(name: str, make: Make, *, ids: bool = False) -> Callable[[Path], Sequence[object]]:
    """A merge on the file that ``make`` writes."""

    def build(folder: Path) -> Sequence[object]:
        write_pair(folder, ids=ids)
        make(folder / name)
        return [*RUN, "--calib", name]

    return build


def header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """A .npy file with this header."""
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode("latin1") + data


def shaped(shape: str, descr: str = "'<f4'", order: str = "False", data: bytes = DATA.tobytes()) -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n", data)


def npy(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def array(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED, states: int | None = None) -> bytes:
    """A .npz file; ``states`` is the size that it claims its members to have."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(stream, "w", method) as opened:
            for name, content in members:
                opened.writestr(name, content)
            for info in opened.filelist:
                info.file_size = info.file_size if states is None else states
    return stream.getvalue()


def corrupt(method: int) -> bytes:
    """An archive whose compressed member was overwritten in its middle."""
    whole = archive(("x.npy", array(DATA)), method=method)
    return whole[:600] + b"\xff" * 100 + whole[700:]


def flagged(local: int, central: int, value: int) -> bytes:
    """An archive with a byte changed in what it says of its member, at its two places."""
    whole = bytearray(archive(("x.npy", array(DATA))))
    whole[local] = whole[whole.index(b"PK\x01\x02") + central] = value
    return bytes(whole)


HEADERS = {
    "huge": (shaped(f"({2**40}, 6)"), "states"),
    "overflowing": (shaped(f"({2**70}, {2**70})"), "which no array has"),
    "negative": (shaped("(-16, 6)"), "which no array has"),
    "too large": (shaped("(97, 6)"), "states 2,328 bytes"),
    "no data": (shaped("(16, 6)", data=b""), "it has 0"),
    "many axes": (shaped("(1,) * 9"), "x.npy: cannot be read"),
    "deep": (header("(" * 9000 + ")" * 9000), "x.npy: cannot be read"),
    "no text": (header("\x00\xff"), "x.npy: cannot be read"),
    "code": (header("__import__('os').system('touch owned')"), "x.npy: cannot be read"),
    "objects": (shaped("(16, 6)", "'|O'"), "pickled objects"),
    "records": (shaped("(16,)", "[('a', '<f4')]"), "found"),
    "text": (shaped("(16, 6)", "'<U1'"), "found <U1"),
    "dates": (shaped("(16, 6)", "'<M8[s]'", data=bytes(999)), "found datetime64"),
    "nothing": (shaped("(16, 6)", "'|V0'"), "found"),
    "complex": (shaped("(16, 6)", "'<c8'", data=bytes(999)), "found complex64"),
    "empty": (b"", "x.npy: cannot be read"),
    "short": (b"\x93NUMPY", "x.npy: cannot be read"),
    "new version": (b"\x93NUMPY\x09\x00" + bytes(99), "x.npy: cannot be read"),
    "no array": (b"hello", "x.npy: cannot be read"),
    "no samples": (array(DATA[:0]), "holds no samples"),
    "scalar": (array(np.float32(1)), "scalar"),
    "one axis more": (array(DATA[None]), "1x96x6"),
    "nothing in each": (array(np.zeros((10**9, 0), np.float32)), "x.npy"),
    "integers": (array(DATA.astype(int)), "found int64; convert"),
    "NaN": (array(np.where(np.arange(96)[:, None] == 90, np.nan, DATA)), "in sample 90"),
    "infinity": (array(np.where(np.arange(96)[:, None] == 7, np.inf, DATA)), "in sample 7"),
    "too large for float32": (array(np.full((9, 6), 1e300)), "in sample 0"),
}
ARCHIVES = {
    "deflate": (corrupt(zipfile.ZIP_DEFLATED), "x.npz: cannot be read"),
    "bzip2": (corrupt(zipfile.ZIP_BZIP2), "x.npz: cannot be read"),
    "LZMA": (corrupt(zipfile.ZIP_LZMA), "x.npz: cannot be read"),
    "stored": (corrupt(zipfile.ZIP_STORED), "Bad CRC"),
    "twice": (archive(("x.npy", array(DATA)), ("x.npy", array(-DATA))), "holds 'x.npy' twice"),
    "encrypted": (flagged(6, 8, 1), "encrypted"),
    "unknown method": (flagged(8, 10, 99), "x.npz: cannot be read"),
    "archive inside": (archive(("x.npz", archive(("x.npy", array(DATA))))), "nothing for input 'x'"),
    "nothing inside": (archive(), "nothing for input 'x'"),
    "other files": (archive(("readme.txt", b"hello")), "nothing for input 'x'"),
    "text for an array": (archive(("x.npy", b"hello")), "x.npz: cannot be read"),
    "objects": (archive(("x.npy", shaped("(16, 6)", "'|O'"))), "pickled objects"),
    "a thousandfold": (archive(("x.npy", array(DATA)), method=zipfile.ZIP_DEFLATED, states=1 << 31), "that unpack to"),
    "huge shape": (archive(("x.npy", shaped(f"({2**40}, 6)"))), "states"),
    "shape into the next member": (archive(("x.npy", shaped("(97, 6)")), ("y.npy", array(DATA))), "states"),
    "cut off": (archive(("x.npy", array(DATA)))[:-40], "x.npz: cannot be read"),
    "no archive": (b"PK\x03\x04hello", "x.npz: cannot be read"),
    "other names": (archive(("y.npy", array(DATA)), ("z.npy", array(DATA))), "found y, z: name one array"),
}


def _many(path: Path) -> None:
    path.write_bytes(archive(*((f"{index}.npy", b"") for index in range(10_001))))


NO_FILES: dict[str, tuple[Make, str]] = {
    "pipe": (os.mkfifo, "is a pipe"),
    "folder": (Path.mkdir, "holds no .npy"),
    "missing": (lambda _: None, "no such file"),
    "loop": (lambda path: path.symlink_to(path.name), "x.npy"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
}


@attacks(
    *(Attack(f"header: {name}", file("x.npy", npy(data)), says=(said,)) for name, (data, said) in HEADERS.items()),
    *(Attack(f"archive: {name}", file("x.npz", npy(data)), says=(said,)) for name, (data, said) in ARCHIVES.items()),
    Attack("archive: many members", file("x.npz", _many), says=("10,001 arrays",)),
    *(Attack(f"no file: {name}", file("x.npy", make), says=(said,)) for name, (make, said) in NO_FILES.items()),
    Attack("NUL in the name", lambda _: [*RUN, "--calib", "x\0.npy"], 2, says=("'x\\x00.npy' is no path",)),
    Attack(
        "inputs of unlike lengths",
        file("x.npz", npy(archive(("x.npy", array(DATA)), ("i.npy", array(np.ones((9, 6), int))))), ids=True),
        says=("different numbers of samples",),
    ),
    Attack(
        "a fraction for an integer",
        file("x.npz", npy(archive(("x.npy", array(DATA)), ("i.npy", array(DATA)))), ids=True),
        says=("input 'i'", "found float32"),
    ),
    Attack("one input of two", file("x.npz", npy(archive(("x.npy", array(DATA)))), ids=True), says=("input 'i'",)),
)
def test_what_is_refused(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _link(path: Path) -> None:
    np.savez(path.with_name("blob"), x=DATA)
    path.with_name("blob.npz").rename(path.with_name("blob"))
    path.symlink_to("blob")


def _folder(path: Path) -> None:
    path.mkdir()
    np.save(path / "1.npy", DATA[:48])
    np.savez_compressed(path / "2.npz", other=DATA[48:])
    os.mkfifo(path / "3.npy")


NOTICED: dict[str, tuple[Make, tuple[str, ...]]] = {
    "link": (_link, ()),
    "folder": (_folder, ("2.npz: its only array, 'other', was taken for input 'x'",)),
    "other name": (lambda path: np.savez(path, other=DATA), ("its only array, 'other', was taken for input 'x'",)),
    "zeros": (lambda path: np.savez(path, x=0 * DATA), ("96 samples, all zero",)),
    "equal": (lambda path: np.savez(path, x=0 * DATA + DATA[0]), ("96 samples, all equal",)),
    "one": (lambda path: np.savez(path, x=DATA[:1]), ("1 calibration sample is few: the widest", "needs 64 or more")),
    "few": (lambda path: np.savez(path, x=DATA[:6]), ("6 calibration samples are few", "p0 of 8 units, needs 64")),
    "whole floats for integers": (lambda path: np.savez(path, x=DATA, i=np.round(DATA)), ()),
}


@attacks(
    *(
        Attack(name, file("x.npz", make, ids=name == "whole floats for integers"), 0, said, ("m.onnx",))
        for name, (make, said) in NOTICED.items()
    )
)
def test_what_is_noticed(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    arguments = attack.build(tmp_path)
    told = Attack(attack.name, lambda _: [each for each in arguments if each != "-q"], 0, attack.says, attack.writes)
    ended = told.check(tmp_path, cli)
    assert bool(attack.says) == ("note" in ended.stdout), ended.stdout
