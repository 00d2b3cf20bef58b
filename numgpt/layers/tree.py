"""A layer as a short tree: what it is made of, with the shapes of its parameters.

A layer is known here by its _parts, and a parameter by its grad, since the file of both imports this one.
"""


def tree(layer, note: str = "") -> str:
    """A line a layer: its name, its class, its parameters; like layers of a list share their lines."""
    (_, kind, text), *lines = _lines("", "", layer, {}, ())
    widths = [max((len(line[i]) for line in lines), default=0) for i in (0, 1)]
    return "\n".join([f"{kind}  {', '.join(filter(None, (note, text)))}".rstrip()]
                     + [f"{name:{widths[0]}}  {kind:{widths[1]}}  {text}".rstrip() for name, kind, text in lines])


def _lines(name: str, path: str, layer, seen: dict[int, str], above: tuple) -> list[tuple[str, str, str]]:
    """(name, class, text) of a layer and of those inside it; seen has the path at which a parameter was met first."""
    note = layer._note()
    notes, inside = [note] if note else [], []
    for key, item in layer._parts().items():
        here = f"{path}.{key}".lstrip(".")
        if hasattr(item, "grad"):
            first = seen.setdefault(id(item), here)
            notes.append(f"{key} {item.shape}" if first == here else f"{key} is {first} {item.shape}")
        elif hasattr(item, "_parts") and not any(item is one for one in (layer, *above)):
            inside += _lines(key, here, item, seen, (layer, *above))
        elif isinstance(item, (list, tuple)):
            inside += _folded(key, here, item, seen, (layer, *above))
    if name and note is None and not notes and not inside:
        return []  # nothing to tell, as of a dropout that drops nothing
    return [(name, type(layer).__name__, ", ".join(notes)),
            *(("  " * bool(name) + below, kind, text) for below, kind, text in inside)]


def _folded(key: str, path: str, items, seen: dict[int, str], above: tuple) -> list[tuple[str, str, str]]:
    """The lines of a list's layers, those with the same lines together under the numbers of all."""
    alike: dict[tuple, list[int]] = {}
    for i, item in enumerate(items):
        if hasattr(item, "_parts") and not any(item is one for one in above):
            alike.setdefault(tuple(_lines(key, f"{path}.{i}", item, seen, above)), []).append(i)
    return [(f"{key} {_range(where)}" if line is lines[0] else line[0], *line[1:])
            for lines, where in alike.items() for line in lines]


def _range(where: list[int]) -> str:
    if len(where) > 2 and where == list(range(where[0], where[-1] + 1)):
        return f"{where[0]}-{where[-1]}"
    return ", ".join(map(str, where)) if len(where) < 5 else f"{where[0]}, {where[1]}, ... {where[-1]}"
