"""``rdsdk verify ARTEFACT CHECKPOINT``: is this file still what that checkpoint does?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mobile_export.progress import silent, to_stderr
from mobile_export.rnnlm import SUFFIX as RNNLM_SUFFIX
from mobile_export.rnnlm import verify_rnnlm
from mobile_export.targets import TARGETS, target_of
from rdsdk.errors import ExportError
from rdsdk.models import checkpoint

REFUSED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine an artefact; 0 if it is proven, 1 if it is refused.

    Raises:
        RdsdkError: the artefact or the checkpoint cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="rdsdk verify",
        description=(
            "Examine an artefact beside the checkpoint it was made from: its structure, its "
            "numbers in the real runtime, where its time goes, and on a manifest its word error "
            "rate. Of a recurrent language model (.rnnlm) its words, what is delegated, and its "
            "numbers. The exit code is 0 if it is proven, 1 if it is refused, 2 if it cannot be "
            "examined."
        ),
    )
    parser.add_argument("artefact", type=Path, help="what rdsdk export wrote")
    parser.add_argument(
        "checkpoint", type=Path, help="the folder that it was exported from, or a bundled name"
    )
    parser.add_argument("--to", choices=list(TARGETS), help="its kind (default: as it looks)")
    parser.add_argument("--manifest", type=Path, help="recordings with text, as for rdsdk evaluate")
    parser.add_argument(
        "--json", action="store_true", help="the whole report on the output, as in PATH.report.json"
    )
    options = parser.parse_args(arguments)
    if options.artefact.suffix == RNNLM_SUFFIX:
        return _verify_rnnlm(options)
    target = TARGETS[options.to or target_of(options.artefact)]
    source = checkpoint.load(options.checkpoint)
    report = target.examine(
        source, options.artefact, options.manifest, silent if options.json else to_stderr
    )
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print(f"{options.artefact}: {'proven' if report.passed else 'refused'}")
        for line in report.lines():
            print(f"  {line}")
    for fault in report.faults:
        print(f"rdsdk: {fault}", file=sys.stderr)
    return 0 if report.passed else REFUSED


def _verify_rnnlm(options: argparse.Namespace) -> int:
    if options.to is not None or options.manifest is not None:
        raise ExportError(
            f"{options.artefact} is a recurrent language model, which is examined without --to "
            "and --manifest; leave them out"
        )
    try:
        agreement = verify_rnnlm(options.artefact, options.checkpoint)
    except ExportError as error:
        if options.json:
            print(json.dumps({"verdict": "refused", "faults": [str(error)]}, indent=1))
        else:
            print(f"{options.artefact}: refused")
        print(f"rdsdk: {error}", file=sys.stderr)
        return REFUSED
    if options.json:
        print(json.dumps(agreement.to_dict(), indent=1))
    else:
        print(f"{options.artefact}: proven")
        print(f"  likely words differ from the model's by {agreement.model.likely:.2g} nats")
    return 0
