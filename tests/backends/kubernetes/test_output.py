"""The output of a launch: all its containers as one stream, whose offsets hold whatever happens."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from backends.kubernetes.api import KubeObject
from backends.kubernetes.output import LINE_BYTES, OUTPUT, POSITIONS, Output
from backends.kubernetes.sources import Source, sources_of

MAIN = Source("launch-1-abc", "job", is_main=True, is_over=False, is_gone=False)
SIDECAR = Source("launch-1-abc", "proxy", is_main=False, is_over=False, is_gone=False)
OTHER = Source("launch-1-def", "job", is_main=True, is_over=False, is_gone=False)


class Log:
    """What a container has printed, as a kubelet keeps it: lines with their times, in nanoseconds."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self.tail = b""

    def print(self, *lines: bytes, at: int) -> None:
        self.lines += [(at, line) for line in lines]

    async def read(self, since: str) -> AsyncIterator[bytes]:
        """Give it in small pieces, from the second of `since` on."""
        data = b"".join(
            b"%b %b\n" % (_stamp(at).encode(), line) for at, line in self.lines if _stamp(at)[:19] >= since[:19]
        )
        data += self.tail
        for start in range(0, len(data), 7):
            yield data[start : start + 7]


def _stamp(at: int) -> str:
    return f"2026-01-01T00:00:{at // 10**9:02}.{at % 10**9:09}Z"


@pytest.fixture
def make_output(tmp_path: Path) -> Callable[[], Output]:
    return lambda: Output(tmp_path / "launch-1", lambda: 0.0)


async def opened(make: Callable[[], Output]) -> Output:
    output = make()
    await output.open()
    return output


async def take(output: Output, source: Source, log: Log, *, to_its_end: bool = False) -> None:
    await output.take(source, log.read(output.since(source)), to_its_end=to_its_end)


async def content(output: Output, since: int = 0) -> bytes:
    return b"".join([chunk.data async for chunk in output.chunks(since)])


async def test_lines_of_the_job_come_as_they_are_and_once(make_output: Callable[[], Output]) -> None:
    output, log = await opened(make_output), Log()
    log.print(b"a", b"b", at=5)
    await take(output, MAIN, log)
    log.print(b"c", at=5)  # at the very time of the last one
    log.print(b"d", at=6)
    await take(output, MAIN, log)
    await take(output, MAIN, log)
    assert await content(output) == b"a\nb\nc\nd\n"
    assert await content(output, 3) == b"\nc\nd\n"


async def test_a_restarted_agent_goes_on_where_it_was(make_output: Callable[[], Output]) -> None:
    output, log = await opened(make_output), Log()
    log.print(b"a", b"b", at=5)
    await take(output, MAIN, log)
    await output.close()
    log.print(b"c", at=2 * 10**9)
    output = await opened(make_output)
    assert output.length == 4
    await take(output, MAIN, log)
    assert await content(output) == b"a\nb\nc\n"


async def test_what_a_crash_left_beyond_the_positions_is_read_again(
    make_output: Callable[[], Output], tmp_path: Path
) -> None:
    output, log = await opened(make_output), Log()
    log.print(b"a", at=5)
    await take(output, MAIN, log)
    await output.close()
    with (tmp_path / "launch-1" / OUTPUT).open("ab") as file:
        file.write(b"b\nhalf a li")
    log.print(b"b", b"half a line", at=6)
    output = await opened(make_output)
    await take(output, MAIN, log)
    assert await content(output) == b"a\nb\nhalf a line\n"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"length": 99, "main": "", "positions": {}}'])
async def test_damaged_positions_have_everything_read_again(
    make_output: Callable[[], Output], tmp_path: Path, damage: bytes
) -> None:
    output, log = await opened(make_output), Log()
    log.print(b"a", b"b", at=5)
    await take(output, MAIN, log)
    await output.close()
    (tmp_path / "launch-1" / POSITIONS).write_bytes(damage)
    output = await opened(make_output)
    await take(output, MAIN, log)
    assert await content(output) == b"a\nb\n"


async def test_rotation_of_the_containers_log_repeats_and_loses_nothing_that_was_read(
    make_output: Callable[[], Output],
) -> None:
    output, log = await opened(make_output), Log()
    log.print(b"a", b"b", at=5)
    await take(output, MAIN, log)
    log.lines.clear()  # its node keeps the newest part alone
    log.print(b"c", at=9)
    await take(output, MAIN, log)
    assert await content(output) == b"a\nb\nc\n"


async def test_others_say_who_they_are(make_output: Callable[[], Output]) -> None:
    output, main, sidecar, other = await opened(make_output), Log(), Log(), Log()
    sidecar.print(b"listening", at=1)
    main.print(b"epoch 1", at=2)
    other.print(b"epoch 1", b"epoch 2", at=3)
    for source, log in ((SIDECAR, sidecar), (MAIN, main), (OTHER, other)):
        await take(output, source, log)
    await output.close()
    main.print(b"epoch 2", at=4)
    output = await opened(make_output)
    await take(output, MAIN, main)
    assert await content(output) == (
        b"[proxy] listening\nepoch 1\n[launch-1-def/job] epoch 1\n[launch-1-def/job] epoch 2\nepoch 2\n"
    )


async def test_a_last_line_without_an_end_is_taken_when_no_more_can_come(make_output: Callable[[], Output]) -> None:
    output, log, sidecar = await opened(make_output), Log(), Log()
    log.print(b"a", at=5)
    log.tail = f"{_stamp(6)} rest".encode()
    await take(output, MAIN, log)
    assert await content(output) == b"a\n"
    await take(output, MAIN, log, to_its_end=True)
    assert await content(output) == b"a\nrest"
    sidecar.print(b"bye", at=7)
    await take(output, SIDECAR, sidecar)
    assert await content(output) == b"a\nrest\n[proxy] bye\n"


async def test_an_endless_line_does_not_fill_the_memory(make_output: Callable[[], Output]) -> None:
    output, words = await opened(make_output), b"x" * (3 * LINE_BYTES)

    async def stream() -> AsyncIterator[bytes]:
        yield _stamp(1).encode() + b" "
        for start in range(0, len(words), 64 * 1024):
            yield words[start : start + 64 * 1024]
            assert output.length >= start - 2 * LINE_BYTES
        yield b"\n" + _stamp(2).encode() + b" end\n"

    await output.take(MAIN, stream(), to_its_end=True)
    assert await content(output) == words + b"\nend\n"


async def test_what_could_not_begin_has_the_platforms_words_for_output(make_output: Callable[[], Output]) -> None:
    output = await opened(make_output)
    source = Source("launch-1-abc", "job", is_main=True, is_over=True, is_gone=False, words="exec: no such file")
    await output.done(source)
    await output.done(source)
    assert await content(output) == b"exec: no such file\n"


def test_sources_are_the_containers_that_have_begun_the_oldest_pods_first() -> None:
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    ended = {"terminated": {"exitCode": 0}}

    def pod(name: str, created: str, **states: Mapping[str, object]) -> KubeObject:
        containers = [{"name": each} for each in states if each != "fetch"]
        return {
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"restartPolicy": "Never", "initContainers": [{"name": "fetch"}], "containers": containers},
            "status": {
                "phase": "Running",
                "initContainerStatuses": [{"name": "fetch", "state": states.get("fetch", {})}],
                "containerStatuses": [{"name": each["name"], "state": states[each["name"]]} for each in containers],
            },
        }

    young = pod("b", "2026-01-01T00:00:02Z", fetch=running, job={"waiting": {}})
    old = pod("a", "2026-01-01T00:00:01Z", fetch=ended, job=running, proxy=ended)
    found = sources_of([young, old])
    assert [(each.key, each.is_main, each.is_over) for each in found] == [
        ("a/fetch", False, True),
        ("a/job", True, False),
        ("a/proxy", False, True),
        ("b/fetch", False, False),
    ]
    assert all(each.is_over and each.is_gone for each in sources_of([], [young, old]))
