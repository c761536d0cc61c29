"""The table, line by line: some take minutes."""


def show(what: str, asked: str, found: str) -> None:
    """Print a line."""
    print(f"| {what} | {asked} | {found} |", flush=True)
