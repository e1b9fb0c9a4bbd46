"""Run a workflow of Olive in which models are merged: python run.py workflow.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from olive.package_config import OlivePackageConfig
from olive.workflows import run


def main() -> None:
    """Make the pass known beside Olive's own, and run."""
    known = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    anywhere = {"supported_providers": ["*"], "supported_accelerators": ["*"], "supported_precisions": ["*"]}
    known["passes"]["MergeModels"] = {"module_path": "merge_pass.MergeModels", **anywhere}
    found = run(sys.argv[1], package_config=known)
    print(found.get_best_candidate().model_path)


if __name__ == "__main__":
    main()
