"""Protocol Buffers messages that are described as tables of field numbers.

The classes are made at import by the protobuf library: there is no generated code to keep in
step with its version. Source: the proto3 language.
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    struct_pb2,
)

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "bytes": _FIELD.TYPE_BYTES,
    "string": _FIELD.TYPE_STRING,
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
}
_WELL_KNOWN: Final = {"Duration": duration_pb2.DESCRIPTOR, "Struct": struct_pb2.DESCRIPTOR}


def make_messages(package: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Message classes by name.

    Args:
        package: Name of the protobuf package; any that is ours alone.
        fields: By message: its fields as ``name:kind=number``, parted by spaces. A kind is a
            scalar type, another message of the table, ``Duration`` or ``Struct`` of
            ``google.protobuf``; with ``*`` behind it a list; with ``{}`` a map of strings to it.
    """
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}.proto", package=package, syntax="proto3"
    )
    for name, text in fields.items():
        message = file.message_type.add(name=name)
        for item in text.split():
            label, _, rest = item.partition(":")
            kind, _, number = rest.partition("=")
            _add_field(file, message, label, kind, int(number))
    for path in file.dependency:
        known = next(each for each in _WELL_KNOWN.values() if each.name == path)
        pool.AddSerializedFile(known.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in fields
    }


def _add_field(
    file: descriptor_pb2.FileDescriptorProto,
    message: descriptor_pb2.DescriptorProto,
    label: str,
    kind: str,
    number: int,
) -> None:
    """Add a field to a message's description; for a map also the message of its entries."""
    is_map, is_list = kind.endswith("{}"), kind.endswith("*")
    kind = kind.removesuffix("{}").removesuffix("*")
    field = message.field.add(name=label, number=number)
    field.label = _FIELD.LABEL_REPEATED if is_map or is_list else _FIELD.LABEL_OPTIONAL
    if not is_map:
        _set_type(file, field, kind)
        return
    # protobuf demands this name of the entries' message.
    entry = message.nested_type.add(
        name="".join(part.capitalize() for part in label.split("_")) + "Entry"
    )
    entry.options.map_entry = True
    for name, position in (("key", 1), ("value", 2)):
        added = entry.field.add(name=name, number=position, label=_FIELD.LABEL_OPTIONAL)
        _set_type(file, added, "string" if name == "key" else kind)
    field.type = _FIELD.TYPE_MESSAGE
    field.type_name = f".{file.package}.{message.name}.{entry.name}"


def _set_type(
    file: descriptor_pb2.FileDescriptorProto,
    field: descriptor_pb2.FieldDescriptorProto,
    kind: str,
) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _FIELD.TYPE_MESSAGE
    if kind not in _WELL_KNOWN:
        field.type_name = f".{file.package}.{kind}"
        return
    field.type_name = f".google.protobuf.{kind}"
    path = _WELL_KNOWN[kind].name
    if path not in file.dependency:
        file.dependency.append(path)
