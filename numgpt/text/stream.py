"""Text as it is made, token by token, and never half a character."""

import codecs


class StreamDecoder:
    """Feed it ids and print what it gives: the characters that are whole. finish() gives what is left.

    The pieces joined are tokenizer.decode of all ids.
    """

    def __init__(self, tokenizer, errors: str = "replace"):
        self.tokenizer = tokenizer
        self._last: list[int] = []
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors) if hasattr(tokenizer, "decode_bytes") else None

    def feed(self, *ids: int) -> str:
        if self._bytes is None:  # whole characters, but what stands between two tokens is known with the second
            shown, known = self.tokenizer.decode(self._last), [*self._last, *ids]
            self._last = known[-1:]
            return self.tokenizer.decode(known)[len(shown):]
        return self._bytes.decode(self.tokenizer.decode_bytes(ids))

    def finish(self) -> str:
        """The rest: half a character is what errors makes of it."""
        return "" if self._bytes is None else self._bytes.decode(b"", final=True)
