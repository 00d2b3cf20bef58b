"""Files broken by a seeded generator: bytes, JSON, and what each format claims of its numbers."""

import json
import struct
from random import Random

from numgpt.safetensors import DTYPES

# Whole numbers at the edges of the types that a careless reader would put them in.
EDGES = (-1, 0, 1, 2, 3, 4, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**61, 2**62, 2**63 - 1, 2**63,
         2**64 - 1, 2**64, 10**30)
# What may stand in the place of a JSON value, as text: JSON, and what some parsers take for it.
STRANGE = [*map(str, EDGES), "-0", "0.5", "4.0", "1e2", "1e999", "1e-999", "12" * 1000, "null", "true", "false",
           "[]", "{}", "[[]]", "[null]", "[0,0]", '{"a":1}', '""', '"a"', '"4"', '"gelu"', '"gpt2"', '"post"',
           '"F32"', '"BF16"', '"BOOL"', '"Q4"',
           '"\\ud83d\\ude00"', '"\\u0000"', '"/"', '".."', '"../config.json"', '"config.json"', '"model.safetensors"',
           f'"{"long" * 80}"', '"é\u2028"', "[" * 500 + "]" * 500, "[" + "0," * 99 + "0]", "[" + "1," * 64 + "1]",
           f"[0,{2**61}]", f"[0,{2**63 - 1}]", f"[{2**32},{2**32}]"]
BROKEN = ["01", "0x10", "1_000", "9" * 6000, "NaN", "Infinity", "-Infinity", "nul", "", "[1,2,]",
          '"\\ud800"', '"\n"', '"\t"', '"\\x"', "'a'", '"', "[" * 50_000,
          "[" * 5_000 + "]" * 5_000, '{"a":' * 5_000, "0//", "\ufeff0", "1 2"]
# Numbers that warn when they are cast or compared: signalling nans, infinities and the largest, as bytes.
FLOATS = (b"\x01\x00\x80\x7f", b"\x01\x00\x00\x00\x00\x00\xf0\x7f", b"\x01\x7c", b"\x81\x7f", b"\xff\xff\x7f\x7f",
          b"\xff\x7f", b"\xff")


def mutate(rng: Random, files: dict[str, bytes], donor: bytes) -> dict[str, bytes]:
    """Valid files after one to three changes; donor is another file's bytes, for a piece of it."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        name = rng.choice(sorted(files))
        if len(files) > 1 and rng.random() < 0.05:  # the folder itself
            other = rng.choice(sorted(files))
            files[name], files[other] = files[other], files[name]
            if other not in ("config.json", name) and rng.random() < 0.5:
                del files[other]
        else:
            files[name] = _changed(rng, name, files[name], donor)
    return files


def _changed(rng: Random, name: str, data: bytes, donor: bytes) -> bytes:
    """One change, of the bytes, or of what they say as long as they say something."""
    try:
        if rng.random() < 0.2:
            return change_bytes(rng, data, donor)
        if name.endswith(".json"):
            return change_json(rng, data.decode()).encode("utf-8", "surrogatepass")
        if name.endswith(".bin"):
            return change_header(rng, data)
        return (change_claims if rng.random() < 0.6 else change_tensors)(rng, data)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error, RecursionError):
        return change_bytes(rng, data, donor)  # an earlier change left nothing to understand


# -- bytes


def change_bytes(rng: Random, data: bytes, donor: bytes) -> bytes:
    # Headers come first and are the smaller part, so half of all changes fall among the first bytes.
    end = len(data) if rng.random() < 0.5 else min(len(data), rng.choice((8, 64, 1024)))
    begin = rng.randint(0, end)
    end = min(len(data), begin + rng.choice((1, 1, 2, 4, 8, 64, len(data))))
    few = rng.randbytes(rng.randint(0, 9))
    deed = rng.randrange(9)
    if deed == 0:
        return data[:begin]
    if deed == 1:
        return data[:begin] + data[end:]
    if deed == 2:
        return data[:begin] + few + data[begin:]
    if deed == 3:
        return data[:begin] + rng.randbytes(end - begin) + data[end:]
    if deed == 4:
        return data[:begin] + rng.choice((b"\0", b"\xff", b" ", b"9", b"[", b"\x7f")) * (end - begin) + data[end:]
    if deed == 5:
        edge = rng.choice(EDGES) % 2**64
        size, begin = rng.choice((4, 8)), begin // 4 * 4
        return data[:begin] + struct.pack("<Q", edge)[:size] + data[begin + size:]
    if deed == 6:  # a piece of another file, or of this one
        source = rng.choice((donor, data))
        cut = rng.randint(0, len(source))
        return data[:begin] + source[cut:cut + (end - begin)] + data[end if rng.random() < 0.5 else begin:]
    if deed == 7:
        return data + (few or b"\0") * rng.choice((1, 1, 100))
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if flipped:
            flipped[rng.randrange(begin, end) if begin < end else -1] ^= 1 << rng.randrange(8)
    return bytes(flipped)


# -- JSON


class Pairs(list):
    """An object as a list of [name, value], in which a name may stand twice."""


class Raw(str):
    """Text that goes into the file as it is."""


def change_json(rng: Random, text: str) -> str:
    """One to three values, names or pairs of a JSON text replaced, removed, doubled, renamed or exchanged."""
    root = [json.loads(text, object_pairs_hook=lambda pairs: Pairs(map(list, pairs)))]  # in a list, as all else is
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(root))
        if not places:
            break
        inner = [place for place in places if isinstance(text := place[2][place[3]], str) and text.startswith("{")]
        container, i, slot, j = rng.choice(inner if inner and rng.random() < 0.3 else places)
        value = slot[j]
        if isinstance(value, str) and value.startswith("{") and rng.random() < 0.9:  # JSON in JSON: numgpt's config
            slot[j] = change_json(rng, value)
            continue
        named = isinstance(container, Pairs)
        deed = rng.randrange(9)
        if deed == 0 or deed == 1:
            slot[j] = _strange(rng)
        elif deed == 2 and type(value) is int:
            slot[j] = rng.choice((value + 1, value - 1, 2 * value, -value, value // 2))
        elif deed == 3:
            del container[i]
        elif deed == 4:  # a name twice, with the same value or another
            again = rng.choice((value, _strange(rng)))
            container.insert(rng.randint(0, len(container)), [slot[0], again] if named else again)
        elif deed == 5 and named:
            slot[0] = rng.choice((rng.choice(container)[0], slot[0] + "x", slot[0][:-1], "", "__metadata__", "\ud800"))
        elif deed == 6:
            _, _, other, k = rng.choice(places)
            slot[j], other[k] = other[k], value
        elif deed == 7:
            _, _, other, k = rng.choice(places)
            slot[j] = Raw(_text(other[k]))
        elif named:
            name = rng.choice(("extra", "quantization_config", "hidden_size", "architectures", "n_inner", "window"))
            container.append([name, _strange(rng)])
    return _text(root[0]) if root else ""


def _strange(rng: Random) -> Raw:
    return Raw(rng.choice(STRANGE if rng.random() < 0.8 else BROKEN))


def _places(item):
    """Every value below: the list that it, or its pair, is a part of, and where; the list that holds it, and where."""
    for i, part in enumerate(item):
        slot, j = (part, 1) if isinstance(item, Pairs) else (item, i)
        yield item, i, slot, j
        if isinstance(slot[j], list):
            yield from _places(slot[j])


def _text(item) -> str:
    if isinstance(item, Raw):
        return item
    if isinstance(item, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{_text(value)}" for name, value in item) + "}"
    if isinstance(item, list):
        return "[" + ",".join(map(_text, item)) + "]"
    return json.dumps(item)


# -- safetensors


def change_claims(rng: Random, data: bytes) -> bytes:
    """Another header over the same tensors; where they begin is mostly still where they do."""
    n = struct.unpack("<Q", data[:8])[0]
    header = change_json(rng, data[8:8 + n].decode()).encode("utf-8", "surrogatepass")
    claimed = len(header) + rng.choice((*8 * [0], 1, -1, 8))
    return struct.pack("<Q", claimed % 2**64) + header + data[8 + n:]


def change_tensors(rng: Random, data: bytes) -> bytes:
    """Other tensors under a header that still fits them, but for the holes, overlaps and sizes that are meant."""
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    metadata = header.pop("__metadata__", None)
    tensors = [[name, one["dtype"], one["shape"], data[8 + n + one["data_offsets"][0]:8 + n + one["data_offsets"][1]]]
               for name, one in header.items()]
    one, other = rng.choice(tensors), rng.choice(tensors)
    shift = gap = 0  # added to the offsets from one on, and bytes put there: a hole if equal, an overlap, a tail
    deed = rng.choice((0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10))  # 5 leaves a file that is read to its end
    if deed == 0:
        tensors.remove(one)
    elif deed == 1:
        one[0] = rng.choice((other[0], one[0] + "x", one[0].removeprefix("transformer."), "h.0.attn.bias",
                             "lm_head.weight", ""))
    elif deed == 2:
        one[0], other[0] = other[0], one[0]
    elif deed == 3:  # the same bytes as another type, which may not split into them
        one[1] = rng.choice(list(DTYPES))
        if rng.random() < 0.7:
            one[2] = [len(one[3]) // DTYPES[one[1]].itemsize]
    elif deed == 4:
        one[2] = rng.choice((one[2][::-1], [*one[2], 1], [len(one[3]), 0], [0, 2**61], other[2], [1] * 65, []))
    elif deed == 5:
        one[3] = rng.choice((rng.randbytes(len(one[3])), (rng.choice(FLOATS) * len(one[3]))[:len(one[3])],
                             other[3], one[3][:-1], one[3] + b"\0", b""))
    elif deed == 6:
        rng.shuffle(tensors)
    elif deed == 7:
        tensors.append([one[0] + rng.choice(("", "x")), *one[1:]])
    elif deed == 8:  # nothing, with axes as long as they can be
        one[1:] = rng.choice(list(DTYPES)), [], b""
        one[2] = [0, 2 ** rng.randint(61, 64) // DTYPES[one[1]].itemsize - rng.randint(0, 1)]
    elif deed == 9:
        shift = gap = rng.randint(0, 9)
    else:
        shift, gap = rng.randint(-9, 9), rng.randint(0, 9)
    described, body, end = Pairs(), b"", 0
    if metadata is not None:
        described.append(["__metadata__", Pairs(map(list, metadata.items()))])
    for tensor in tensors:
        name, dtype, shape, content = tensor
        if tensor is one:
            body, end = body + bytes(gap), end + shift
        places = [end, end + len(content)]
        described.append([name, Pairs([["dtype", dtype], ["shape", shape], ["data_offsets", places]])])
        body, end = body + content, end + len(content)
    text = _text(described).encode()
    return struct.pack("<Q", len(text)) + text + body


# -- llm.c


def change_header(rng: Random, data: bytes) -> bytes:
    """Other numbers in llm.c's header, and in half of all cases as many parameters as weights of these sizes take."""
    numbers = list(struct.unpack("<10i", data[:40]))
    for _ in range(rng.choice((1, 1, 2))):
        i = rng.randrange(2, 8) if rng.random() < 0.9 else rng.randrange(2)  # kind and version, or sizes
        numbers[i] = rng.choice((numbers[i] + 1, numbers[i] - 1, 2 * numbers[i], numbers[rng.randrange(8)],
                                 (rng.choice(EDGES) + 2**31) % 2**32 - 2**31))
    body = data[40:]
    _, version, T, V, L, H, C, padded = numbers[:8]
    wanted = 1024 + (2 if version == 5 else 4) * (padded * C + T * C + L * (12 * C * C + 13 * C) + 2 * C)
    # A layer is 16 kB of Python objects however narrow it is: many in a small file would look like a false claim.
    if rng.random() < 0.5 and 1024 < wanted < 1 << 14 and L <= 8:
        body = (body + rng.randbytes(wanted))[:wanted - 40]
    return struct.pack("<10i", *(((number + 2**31) % 2**32) - 2**31 for number in numbers)) + body
