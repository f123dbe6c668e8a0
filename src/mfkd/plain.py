"""YAML as recipes need it: mappings, lists, text, numbers, switches and null, of a size that a person writes."""

from typing import Any

import yaml

LONGEST = 1 << 18
"""Characters of a file, and of its content once every `*alias` stands for what it means."""
DEEPEST = 40
BITS = 63  # of a whole number without its sign; beyond it neither torch nor JSON's readers follow

_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads nothing but plain values; a date is text, and a key that stands twice is refused."""

    yaml_constructors = {  # noqa: RUF012 - so PyYAML has it
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _KINDS
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in rows if not tag.endswith(":timestamp")]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        """The whole document, weighed before anything is built from it."""
        node = super().get_single_node()
        if node is not None:
            weigh(node, {}, 0)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number of 64 bits."""
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > BITS:
            raise _refused(node, f"a whole number of more than {BITS} bits")
        return value

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Text that can be written to a file, or name one."""
        value: str = super().construct_yaml_str(node)
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _refused(node, "text with a character that no file can hold")
        return value


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_yaml_int)
PlainLoader.add_constructor("tag:yaml.org,2002:str", PlainLoader.construct_yaml_str)


def parse(text: str) -> Any:
    """The plain values of a YAML text.

    Raises:
        ValueError: no YAML, something else than plain values, or too much of it; one line.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text):,} characters, expected at most {LONGEST:,}")
    loader = PlainLoader("")
    try:
        loader = PlainLoader(text)
        return loader.get_single_data()
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None
    except Exception as error:  # a wrong tag such as !!int [] lets the library raise almost anything
        reason = " ".join(str(error).split())
        raise ValueError(reason if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {reason}") from None
    finally:
        loader.dispose()


def weigh(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Characters and entries below a node, counted wherever an alias repeats them.

    Args:
        node: of a document that is composed, not yet built.
        known: what was weighed already, by identity; 0 for what is being weighed.
        depth: of the node.

    Raises:
        YAMLError: too much, too deep, or a mapping that names a key twice.
    """
    if id(node) in known:
        if known[id(node)] == 0:
            raise _refused(node, "something that contains itself")
        return known[id(node)]
    if depth > DEEPEST:
        raise _refused(node, f"values nested more than {DEEPEST} deep")
    known[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
    size = 1 + sum(weigh(part, known, depth + 1) for part in parts)
    size += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
    if size > LONGEST:
        raise _refused(node, f"more than {LONGEST:,} characters once its aliases are written out")
    known[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refused(key, "a key that is no text")
        if key.value in seen:
            raise _refused(key, f"the key {key.value!r} twice")
        seen.add(key.value)


def _refused(node: yaml.Node, what: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, f"found {what}", node.start_mark)
