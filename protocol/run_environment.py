"""The variables that every launched run gets, by which the stock client in it knows what it is part of."""

import json

from protocol.launch_spec import LaunchSpec

MAX_VALUE_CHARS = 32670
"""Longer values are cut into numbered pieces. Some platforms allow less."""
CUT_VARIABLES = (CONFIG, FILE_OVERRIDES) = ("WANDB_CONFIG", "WANDB_LAUNCH_FILE_OVERRIDES")
"""Those that the client puts together again."""


def run_environment(
    spec: LaunchSpec,
    *,
    run_id: str,
    base_url: str,
    queue: str | None,
    queue_entity: str | None,
    item_id: str | None,
    image: str | None,
    max_value_chars: int = MAX_VALUE_CHARS,
) -> dict[str, str]:
    """Return the variables, without the API key: that is a secret and travels another way."""
    artifacts = {"_wandb_job": spec.job, **spec.overrides.artifacts} if spec.job else dict(spec.overrides.artifacts)
    values: dict[str, str | None] = {
        "WANDB_BASE_URL": base_url,
        "WANDB_PROJECT": spec.project or None,
        "WANDB_ENTITY": spec.entity,
        "WANDB_LAUNCH": "True",
        "WANDB_RUN_ID": run_id,
        "WANDB_DOCKER": image,
        "WANDB_NAME": spec.name,
        "WANDB_USERNAME": spec.author if not spec.api_key else None,
        "WANDB_SWEEP_ID": spec.sweep_id,
        "WANDB_RESUME": "allow" if spec.resume_count > 0 else None,
        "WANDB_LAUNCH_QUEUE_NAME": queue,
        "WANDB_LAUNCH_QUEUE_ENTITY": queue_entity if queue else None,
        "WANDB_LAUNCH_TRACE_ID": item_id,
        "WANDB_ARTIFACTS": json.dumps(artifacts),
    }
    present = {name: value for name, value in values.items() if value is not None}
    return {
        **present,
        **split_variable(CONFIG, json.dumps(spec.overrides.run_config), max_value_chars),
        **split_variable(FILE_OVERRIDES, json.dumps(spec.overrides.files), max_value_chars),
    }


def split_variable(name: str, text: str, max_chars: int) -> dict[str, str]:
    """Return one variable, or `NAME_0`, `NAME_1`, ... if the text is too long for one."""
    if len(text) <= max_chars:
        return {name: text}
    pieces = [text[start : start + max_chars] for start in range(0, len(text), max_chars)]
    return {f"{name}_{number}": piece for number, piece in enumerate(pieces)}
