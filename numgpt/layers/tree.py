"""A layer as a short tree: what it is made of, with the shapes of its parameters.

A layer is known here by its _parts, and a parameter by its grad.
"""


def tree(layer, note: str = "") -> str:
    """A line a layer: its name, its class, its parameters; like layers of a list share their lines."""
    (_, kind, parameters), *lines = _lines("", "", layer, {})
    widths = [max((len(line[i]) for line in lines), default=0) for i in (0, 1)]
    return "\n".join([f"{kind}  {note}{parameters}".rstrip()]
                     + [f"{name:{widths[0]}}  {kind:{widths[1]}}  {text}".rstrip() for name, kind, text in lines])


def _lines(name: str, path: str, layer, seen: dict[int, str]) -> list[tuple[str, str, str]]:
    """(name, class, notes) of a layer and of those inside it; seen has the path at which a parameter was met first."""
    note = layer._note()
    notes, inside = [note] if note else [], []
    for key, item in layer._parts().items():
        here = f"{path}.{key}".lstrip(".")
        if hasattr(item, "grad"):
            first = seen.setdefault(id(item), here)
            notes.append(f"{key} {item.shape}" if first == here else f"{key} is {first} {item.shape}")
        elif hasattr(item, "_parts"):
            inside += _lines(key, here, item, seen)
        elif isinstance(item, list):
            inside += _folded(key, here, item, seen)
    if name and note is None and not notes and not inside:
        return []
    return [(name, type(layer).__name__, ", ".join(notes)),
            *(("  " * bool(name) + below, kind, text) for below, kind, text in inside)]


def _folded(key: str, path: str, items: list, seen: dict[int, str]) -> list[tuple[str, str, str]]:
    """The lines of a list's layers, those with the same lines together."""
    alike: dict[tuple, list[int]] = {}
    for i, item in enumerate(items):
        if hasattr(item, "_parts"):
            alike.setdefault(tuple(_lines(key, f"{path}.{i}", item, seen)), []).append(i)
    return [(f"{key} {_range(where)}" if line is lines[0] else line[0], *line[1:])
            for lines, where in alike.items() for line in lines]


def _range(where: list[int]) -> str:
    if len(where) > 2 and where == list(range(where[0], where[-1] + 1)):
        return f"{where[0]}-{where[-1]}"
    return ", ".join(map(str, where)) if len(where) < 5 else f"{where[0]}, {where[1]}, ... {where[-1]}"
