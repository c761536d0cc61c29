"""Prints a run as the public API of a fresh process sees it. Argument: its path."""

import json
import sys

import wandb
from wandb.apis.public import Run
from wandb.apis.public.runhistory import IncompleteRunHistoryError

HAS_CONSOLE = hasattr(Run, "console_logs")  # since 0.26
api = wandb.Api()
run = api.run(sys.argv[1])
exports = run.download_history_exports("exports", require_complete_history=False)
try:
    run.download_history_exports("exports")
    exports_are_whole = True
except IncompleteRunHistoryError:
    exports_are_whole = False
saved = run.file("notes/über uns.txt").download(root="downloaded", exist_ok=True)
print(
    json.dumps(
        {
            "viewer": api.viewer.username,
            "id": run.id,
            "name": run.name,
            "state": run.state,
            "user": run.user.username,
            "group": run.group,
            "job_type": run.job_type,
            "tags": run.tags,
            "notes": run.notes,
            "config": run.config,
            "summary": run.summary_metrics,
            "metadata": run.metadata is not None,
            "last_step": run.lastHistoryStep,
            "history": run.history(pandas=False),
            "sampled": run.history(samples=5, pandas=False),
            "of_keys": run.history(keys=["sparse"], pandas=False),
            "scan": list(run.scan_history(page_size=7)),
            "scan_of_keys": list(run.scan_history(keys=["loss", "_step"], min_step=3, max_step=6)),
            "beta_scan": list(run.beta_scan_history(page_size=7)),
            "beta_scan_of_keys": list(run.beta_scan_history(keys=["loss"], page_size=2, min_step=3, max_step=6)),
            "exports": [exports.paths, exports.contains_live_data],
            "exports_are_whole": exports_are_whole,
            "system": len(run.history(stream="system", pandas=False)),
            "files": sorted(file.name for file in run.files()),
            "some_files": sorted(file.name for file in run.files(pattern="%.txt")),
            "saved": saved.read(),
            "console": [line.content for line in run.console_logs()] if HAS_CONSOLE else None,
            "console_tail": [line.content for line in run.console_logs(last=1)] if HAS_CONSOLE else None,
        }
    )
)
