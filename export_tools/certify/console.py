"""What `edge-export certify` says to people."""

from __future__ import annotations

from rich.console import Console

from edge_runtime.stats.clopper_pearson import upper_bound
from export_tools.certify.command import Certification, CertifyRequest


def show(result: Certification, request: CertifyRequest, console: Console) -> None:
    """Print the promise and what it costs in coverage, or why there is none."""
    for line in lines(result, request):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def lines(result: Certification, request: CertifyRequest) -> list[str]:
    """The lines of `show`."""
    promise = f"error <= {request.terms.alpha:.1%} at confidence {1 - request.terms.delta:.0%}"
    found = []
    if result.too_long:
        found.append(f"left out: {result.too_long} inputs too long for the model, which escalate")
    certificate, walk = result.certificate, result.walk
    if certificate is None:
        found.append(f"nothing certified for {promise}: everything escalates")
        found.append(_why(result))
        return found
    bound = upper_bound(certificate.k, certificate.n, certificate.delta)
    score = certificate.score.name
    found += [
        f"{request.out}: {certificate.task}, {promise}",
        f"keeps {certificate.coverage:.1%}: {score} >= {certificate.threshold:.6f}",
        f"calibrated on {certificate.traffic}: AUROC {certificate.auroc:.3f}",
        f"{certificate.k} wrong of {certificate.n}, bound {bound:.2%}, {len(walk.steps)} looks",
    ]
    if result.report is not None:
        report = result.report
        found.append(
            f"on the other half: keeps {report.coverage:.1%} of {report.samples}, "
            f"{report.errors} wrong of {report.kept} ({report.error:.2%})"
        )
    found.append(f"valid until {certificate.expires}; digest {certificate.digest}")
    return found


def _why(result: Certification) -> str:
    walk = result.walk
    if not walk.steps:
        return f"{walk.samples} samples are too few: the first test needs {walk.start} kept"
    step = walk.steps[0]
    return (
        f"already the strictest test fails: {step.errors} wrong of {step.kept} kept. "
        "Add data, a better model, or a larger alpha"
    )
