"""Where the data of a tensor may lie when it is not in the model: in a file in the model's own folder, nowhere else.

The place that a model names is resolved once, checked, and replaced by the real path of the file. What is checked is
so what is read, and neither the working directory nor a link that is changed later has a say. A file that was replaced
or changed since is not read any more.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, MutableMapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.memory import require_room
from onnxmerge.model.walk import short

Identity = tuple[int, int, int, int]
"""Device, number, size and time of change of a file."""

IDENTITY = "onnxmerge.identity"
"""Key in the ``meta`` of an external tensor (in memory only): the file as it was when it was checked."""

_NUMBER = re.compile(r"[0-9]{1,19}")
_BESIDE = "put the data file beside the model"


def find(location: str, where: str, model: Path) -> Path:
    """The real path of the data file that a model names.

    Args:
        location: The name, relative to the folder in which the model is named.
        where: What messages call the tensor.
        model: The path of the model. The file must lie in the folder that this path names, or in that of the file to
            which it leads: in a cache of Hugging Face, model and data are links into one folder of blobs.

    Raises:
        InputError: the name is absolute, leads outside, or names nothing that is a file.

    """
    if not location:
        raise InputError(f"{where} keeps its data in a file, but names none; export again")
    if "\0" in location or "://" in location:
        raise InputError(f"{where} points at {short(location)}, which is no name of a file; {_BESIDE}")
    # As on both systems: what a model may name must not depend on where it is read.
    pure = (PurePosixPath(location), PureWindowsPath(location))
    path = model.parent / location
    try:
        real = Path(os.path.realpath(path))
        folders = {Path(os.path.realpath(model.parent)), Path(os.path.realpath(model)).parent}
        outside = any(name.drive or name.root or ".." in name.parts for name in pure) or folders.isdisjoint(
            real.parents
        )
        kind = real.stat().st_mode if not outside and real.exists() else None
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: data file {short(location)} cannot be read ({_reason(error)}); {_BESIDE}") from None
    if outside:
        raise InputError(f"{where} points at {short(location)}, outside the model's folder; {_BESIDE}")
    if kind is None:
        moved = " (the model is a link: give the path that it leads to)" if model.is_symlink() else ""
        raise InputError(f"{where} is kept in {path}, which does not exist; {_BESIDE}{moved}")
    if not stat.S_ISREG(kind):
        raise InputError(f"{where} is kept in {path}, which is not a file; {_BESIDE}")
    return real


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def settle(tensor: onnx.TensorProto, nbytes: int, where: str, model: Path) -> tuple[str, Path]:
    """Check an external tensor that holds ``nbytes`` and have it name its file by the real path.

    Gives the name that the model has for the file, and that path. Raises InputError where the file is not as it must
    be, or too short.
    """
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    file = find(location, where, model)
    offset, length = info.get("offset") or "0", info.get("length") or str(nbytes)
    if not (_NUMBER.fullmatch(offset) and _NUMBER.fullmatch(length)):
        raise InputError(f"{where} gives no usable offset and length into {short(location)}; export again")
    _require_length(int(offset), int(length), nbytes, file, where)
    del tensor.external_data[:]
    for key, value in {"location": str(file), "offset": int(offset), "length": int(length)}.items():
        tensor.external_data.add(key=key, value=str(value))
    return location, file


def _require_length(offset: int, length: int, nbytes: int, file: Path, where: str) -> None:
    size = file.stat().st_size
    if length != nbytes or offset < 0 or offset + length > size:
        raise InputError(
            f"{where} of {nbytes} bytes should lie at bytes {offset} to {offset + length} of {file}, "
            f"which has {size}; the data file is cut off or belongs to another model"
        )


def confine(model: ir.Model, label: str) -> None:
    """Hold a model that came in memory to the same rule, in place: data must lie below the folder it was loaded from.

    Raises InputError for a tensor that is kept in a file without naming a folder, or outside of it.
    """
    _replace(model, label, _confined)


def _confined(tensor: ir.ExternalTensor, where: str) -> ir.ExternalTensor:
    folder = os.fspath(tensor.base_dir)
    if not folder:
        raise InputError(f"{where} keeps its data in a file, but the model came without a path; give the path instead")
    file = find(os.fspath(tensor.location), where, Path(os.path.abspath(folder), "model"))  # noqa: PTH100
    _require_length(tensor.offset or 0, tensor.length or tensor.nbytes, tensor.nbytes, file, where)
    return _at(tensor, file, identity(file))


def remember(model: ir.Model) -> None:
    """Note with every external tensor, in place, how its file is now. Raises InputError where there is none."""
    _replace(model, "", lambda tensor, _where: reopened(tensor))


def embed_attributes(model: ir.Model, label: str) -> None:
    """Read those external tensors that stand in attributes, in place: initializers alone are read when needed."""

    def read(tensor: ir.ExternalTensor, where: str) -> ir.TensorProtocol:
        require_room(tensor.nbytes, where)
        return ir.Tensor(np.array(reopened(tensor).numpy()), dtype=tensor.dtype, name=tensor.name)

    _replace(model, label, read, initializers=False)


def _replace(
    model: ir.Model,
    label: str,
    change: Callable[[ir.ExternalTensor, str], ir.TensorProtocol],
    *,
    initializers: bool = True,
) -> None:
    """Put what ``change`` gives in the place of every external tensor: initializers, attributes, their defaults."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in [inner for outer in graphs for inner in (outer, *outer.subgraphs())]:
        for value in graph.initializers.values() if initializers else ():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = change(value.const_value, f"{label}: initializer {short(value.name)}")
        for node in graph:
            _replace_in(node.attributes, f"{label}: node {short(node.name)} ({node.op_type})", change)
    for function in model.functions.values():
        _replace_in(function.attributes, f"{label}: function {short(function.name)}", change)


def _replace_in(
    attributes: MutableMapping[str, ir.Attr],
    owner: str,
    change: Callable[[ir.ExternalTensor, str], ir.TensorProtocol],
) -> None:
    for name, attribute in list(attributes.items()):
        several = attribute.type == ir.AttributeType.TENSORS
        if attribute.is_ref() or not (several or attribute.type == ir.AttributeType.TENSOR):
            continue
        tensors = attribute.value if several else [attribute.value]
        where = f"{owner}, attribute {short(name)}"
        found = [change(each, where) if isinstance(each, ir.ExternalTensor) else each for each in tensors]
        if any(new is not old for new, old in zip(found, tensors, strict=True)):
            attributes[name] = ir.Attr(name, attribute.type, found if several else found[0])


def reopened(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """A fresh handle on external data: onnx-ir's own keeps its memory map and a file descriptor once it was read.

    Raises InputError where the file is no longer the one that was first opened.
    """
    file = Path(tensor.path)
    try:
        found = identity(file)
    except OSError as error:
        raise InputError(f"tensor {short(tensor.name)} cannot be read: {file}: {error.strerror}") from None
    if tensor.meta.get(IDENTITY, found) != found:
        raise InputError(f"tensor {short(tensor.name)} cannot be read: {file} was changed meanwhile; start again")
    return _at(tensor, file, found)


def _at(tensor: ir.ExternalTensor, file: Path, known: Identity) -> ir.ExternalTensor:
    fresh = ir.ExternalTensor(
        str(file),
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
    )
    fresh.meta[IDENTITY] = known
    return fresh


def identity(file: Path) -> Identity:
    """What tells a file from another one, or from itself after it was written to. A link is not followed.

    Raises OSError where there is no file.
    """
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
