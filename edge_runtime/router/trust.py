"""The certificates this box knows, and which of them holds now.

Rules
- A file that cannot be read, is signed by nobody trusted or proves nothing is named in
  `problems` and does not count; the others do.
- Of several certificates for one model and task the one issued last that holds decides; where an
  alpha is asked for, the one that promises the most within it.
- What `judge` says is kept for the second it was said in: a request costs two dictionary reads.
- A model that nobody has asked about and that has no certificate is told to `on_missing`, once: it
  may have come a moment ago, and its certificate lie in the folder already.

`reload` reads the folder and takes milliseconds a file: give it to a thread. It swaps one
reference, so lookups meanwhile see the old or the new set, never a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edge_runtime.bundle.certificate import (
    Certificate,
    Context,
    Invalid,
    judge,
    open_certificate,
)
from edge_runtime.bundle.envelope import TrustedKeys, read_public_key, trust
from edge_runtime.core import Kind
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.router.settings import CertificatesSettings
from edge_runtime.stats.scores import CLASSIFIER_SCORES, TOKEN_LOGISTIC, VERSIONS

MAX_FILES = 4096
MAX_BYTES = 1 << 20

_SCORES_OF_KIND = {Kind.CLASSIFY: frozenset(CLASSIFIER_SCORES), Kind.GENERATE: {TOKEN_LOGISTIC}}


@dataclass(frozen=True, slots=True)
class Known:
    """A certificate with its digest, which costs a sha256."""

    certificate: Certificate
    digest: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What counts for a model and task now; `known` None: nothing, and `detail` says why."""

    known: Known | None
    detail: str = ""


Key = tuple[str, str]


def utc_now() -> datetime:
    """The wall clock, aware."""
    return datetime.now(UTC)


@dataclass(slots=True)
class CertificateBook:
    """See the module."""

    settings: CertificatesSettings = field(default_factory=CertificatesSettings)
    clock: Callable[[], datetime] = utc_now
    problems: tuple[str, ...] = ()
    on_missing: Callable[[], None] = lambda: None
    _missed: set[Key] = field(default_factory=set)
    _by_key: Mapping[Key, tuple[Known, ...]] = field(default_factory=dict)
    _judged: dict[tuple[Key, float | None], tuple[int, Holding]] = field(default_factory=dict)

    def all(self) -> tuple[Known, ...]:
        """Every certificate that could be read, whether it holds or not."""
        return tuple(one for ones in self._by_key.values() for one in ones)

    def reload(self) -> None:
        """Read the folder again. Raises `ConfigError` for keys and folders that cannot be read."""
        directory = self.settings.directory
        if directory is None:
            return
        trusted = _trusted(self.settings)
        if not directory.is_dir():
            raise ConfigError(f"certificates.directory: {directory} is no folder; make it")
        found: dict[Key, list[Known]] = {}
        problems = []
        for path in sorted(directory.glob("*.json"))[:MAX_FILES]:
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_BYTES + 1)
                certificate = open_certificate(data, trusted, name=path.name)
            except (BundleError, OSError) as error:
                problems.append(str(error))
                continue
            known = Known(certificate, certificate.digest)
            found.setdefault((certificate.model_digest, certificate.task), []).append(known)
        newest = {key: sorted(ones, key=_issued, reverse=True) for key, ones in found.items()}
        self._by_key = {key: tuple(ones) for key, ones in newest.items()}
        self.problems = tuple(problems)
        self._judged = {}

    def add(self, certificate: Certificate) -> None:
        """Take one certificate that was checked elsewhere; for tests and dry runs."""
        key = (certificate.model_digest, certificate.task)
        ones = [*self._by_key.get(key, ()), Known(certificate, certificate.digest)]
        self._by_key = {**self._by_key, key: tuple(sorted(ones, key=_issued, reverse=True))}
        self._judged = {}

    def holding(
        self, model_digest: str, task: str, kind: Kind, alpha: float | None = None
    ) -> Holding:
        """The certificate that holds for the model and task now.

        `alpha` is the largest share of wrong answers it may promise; see `router.alpha`.
        """
        now = self.clock()
        second = int(now.timestamp())
        key = (model_digest, task)
        kept = self._judged.get((key, alpha))
        if kept is not None and kept[0] == second:
            return kept[1]
        holding = self._judge(key, kind, now, alpha)
        if key in self._by_key or len(self._judged) < MAX_FILES:
            self._judged[key, alpha] = (second, holding)
        return holding

    def change(self, settings: CertificatesSettings) -> None:
        """Judge by other settings from now on; the folder is as it was read."""
        self.settings = settings
        self._judged = {}

    def _judge(self, key: Key, kind: Kind, now: datetime, alpha: float | None) -> Holding:
        scores = {name: VERSIONS[name] for name in _SCORES_OF_KIND.get(kind, ())}
        context = Context(key[0], key[1], scores, revoked=frozenset(self.settings.revoked))
        known_here = self._by_key.get(key, ())
        if not known_here and key not in self._missed and len(self._missed) < MAX_FILES:
            self._missed.add(key)
            self.on_missing()
        usable = _in_order(known_here, alpha)
        detail = f"there is no certificate for task {key[1]!r} of this model"
        if known_here and not usable:
            least = min(one.certificate.alpha for one in known_here)
            detail = f"its certificates promise alpha {least} at best, {alpha} is asked for"
        for known in usable:
            verdict = judge(known.certificate, context, now)
            if not isinstance(verdict, Invalid):
                return Holding(known)
            detail = f"certificate {known.digest[:12]} {verdict.detail}"
        return Holding(None, detail)


def _in_order(ones: Sequence[Known], alpha: float | None) -> Sequence[Known]:
    """Those that promise enough, newest first; with an alpha those nearest to it first."""
    if alpha is None:
        return ones
    enough = [one for one in ones if one.certificate.alpha <= alpha]
    return sorted(enough, key=lambda one: -one.certificate.alpha)


def _issued(known: Known) -> str:
    return known.certificate.issued


def _trusted(settings: CertificatesSettings) -> TrustedKeys:
    keys = []
    for path in settings.trusted_keys:
        try:
            keys.append(read_public_key(path.read_bytes(), name=str(path)))
        except OSError as error:
            raise ConfigError(
                f"certificates.trusted_keys: {path}: {error.strerror}; name a readable public key"
            ) from error
    return trust(keys)
