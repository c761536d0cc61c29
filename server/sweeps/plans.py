"""What a sweep's config asks for, as far as the server decides by it. Read from YAML once, and remembered."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from protocol.json_types import Json, dig
from server.storage.sweep_runs import Made
from server.sweeps.config import SweepConfig, expected_runs, parse, parse_yaml

REMEMBERED = 500


@dataclass(frozen=True, slots=True)
class Plan:
    """A config, understood."""

    config: SweepConfig
    raw: Json
    warnings: Sequence[str]
    expected: int | None
    """How many runs the sweep makes; None if it goes on for ever."""
    program: str
    local_controller: bool
    """Whether its user runs the search, and writes down in the sweep what is to be tried."""
    searched_elsewhere: bool
    """Whether somebody else runs the search, and makes the runs: a scheduler, local or on launch."""

    def is_through(self, made: Made) -> bool:
        """Whether the sweep makes no more runs, as far as their number tells."""
        cap = self.config.run_cap
        return (cap is not None and made.all >= cap) or (self.expected is not None and made.searched >= self.expected)


@lru_cache(REMEMBERED)
def plan_of(text: str) -> Plan:
    """Read a config; an error says what is wrong with it, and where."""
    raw = parse_yaml(text)
    config, warnings = parse(raw)
    return Plan(
        config=config,
        raw=raw,
        warnings=warnings,
        expected=expected_runs(config),
        program=str(raw.get("program") or ""),
        local_controller=dig(raw, "controller", "type") == "local",
        searched_elsewhere=config.method == "custom" or dig(raw, "scheduler", "engine") is not None,
    )
