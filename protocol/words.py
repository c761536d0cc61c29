"""Words that more than one program needs to speak to people."""


def counted(number: float, one: str, many: str = "") -> str:
    """Return a number with its noun, as `1 launch` and `2 launches`; `many` is for nouns that take more than an s."""
    return f"{number:g} {one if number == 1 else many or f'{one}s'}"
