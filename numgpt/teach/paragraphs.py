"""Text made to fit a width."""

import re
import textwrap

BEGINS = r"\S+:? .{0,20}\(|.* = "  # a line about shapes that goes on from none: it names an array with its own, or equates


def docstring(text: str, width: int) -> list[str]:
    """As it stands, but for lines that are too long: those of a sentence are filled anew, others go on below themselves."""
    found = []
    for group in _sentences(text):
        if all(len(line) <= width for line in group):
            found += group
        elif "-- " in group[0]:
            before, words = group[0].partition("-- ")[0], " ".join(line.partition("-- ")[2] for line in group)
            found += fill(words, width, before + "-- ", " " * (len(before) + 3))
        else:
            found += fill(" ".join([group[0], *map(str.strip, group[1:])]), width, "", " " * _margin(group[0], width))
    return found


def fill(text: str, width: int, first: str = "", later: str | None = None) -> list[str]:
    """Lines no longer than the width, the first after one indent, the others after another; what fits stays as it is."""
    if len(first + text) <= width:
        return [first + text]
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=first if later is None else later,
                         break_on_hyphens=False)


def _sentences(text: str) -> list[list[str]]:
    """The lines in groups: code line by line, prose as far as it goes on."""
    groups, above, part = [], "", ""
    for line in text.splitlines():
        title = re.match("(Forward|Backward|Saved) ", line)
        part = title[1] if title else "closing" if part and not line else part
        if above and line and not title and _goes_on(above, line, part):
            groups[-1].append(line)
        else:
            groups.append([line])
        above = line
    return groups


def _goes_on(above: str, line: str, part: str) -> bool:
    if "-- " in line or part in ("Forward", "Backward"):
        return "-- " in line and "-- " in above
    return bool(part) or not re.match(BEGINS, line)


def _margin(line: str, width: int) -> int:
    """Where a line that is too long goes on: below what stands to the right, or its own beginning and a little."""
    right = re.search(r"\S {3,}(?=\S)", line[10:])
    if right:
        return right.end() + 10 if right.end() + 10 < width - 20 else 8
    margin = re.match("(?:(?:Forward|Backward|Saved) +| +)?", line).end()
    return min(margin + 4 * (0 < margin and not line.startswith("Saved")), width // 2)
