"""A classification's beginning: its models, its inputs as cases, the cache, then the tokens.

Rules
- The cache is asked before anything is tokenised: an answer that is kept needs no tokens.
- An input that is too long for a model is not tried there; where that model alone may answer, it
  is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_runtime.core import Kind, ModelInfo
from edge_runtime.errors import CapacityError, UsageError
from edge_runtime.router.contract import Reason
from edge_runtime.router.plan import Plan
from edge_runtime.server import classify_cache
from edge_runtime.server.classify_item import Item
from edge_runtime.server.encoders import cut_batch, refuse_empty, too_long
from edge_runtime.server.prompts import OneInput, split_inputs, to_tokens

if TYPE_CHECKING:
    from edge_runtime.server.classify_course import ClassifyCourse


async def begin(course: ClassifyCourse) -> None:
    """Fill the course's models and items; those the cache knows have their answer."""
    limit = course.services.settings.server.max_inputs_per_request
    inputs = split_inputs(course.body.input, param="input", limit=limit)
    router, alone = course.services.router, len(inputs) == 1
    errors = _models(course)
    for index, one in enumerate(inputs):
        payer = course.context.payer(course.plan, None if alone else index)
        case = router.open_case(course.plan, router.told(payer))
        item = Item(index, one, _text(course, one), case)
        course.items.append(item)
        course.context.told.append(case.told)
        for rung, info in enumerate(course.infos):
            case.rung(info, error=errors.get(rung))
        classify_cache.look_up(course, item)
    fresh = [item for item in course.items if item.answer is None]
    if fresh:
        with course.own.away():
            await _tokenise(course, fresh)


def _models(course: ClassifyCourse) -> dict[int, Exception]:
    """The ladder's models, and why some of them cannot be tried."""
    errors: dict[int, Exception] = {}
    for rung, name in enumerate(course.plan.ladder):
        info: ModelInfo | None = None
        try:
            info = course.services.model(name, Kind.CLASSIFY)
        except (UsageError, CapacityError) as error:
            errors[rung] = error
        course.infos.append(info)
    # the labels that are asked for are those of the ladder's own model, not of its candidate
    known = [one for one in course.infos if one is not None]
    own = [one for one in known if one.name != course.plan.candidate]
    course.context.info = next(iter([*own, *known]), None)
    if course.context.info is None:
        # labels come from a bundle: without one there is nothing a frontier could be asked
        raise next(iter(errors.values()), _no_labels(course.plan))
    return errors


def _text(course: ClassifyCourse, one: OneInput) -> str:
    if isinstance(one, str):
        return one
    assert course.context.info is not None
    return course.services.host.codec(course.context.info.name).decode(one)


async def _tokenise(course: ClassifyCourse, items: Sequence[Item]) -> None:
    inputs = [item.given for item in items]
    for rung, info in enumerate(course.infos):
        if info is None:
            continue
        codec = course.services.host.codec(info.name)
        lists = await to_tokens(codec, inputs, info, "input")
        for item, tokens in zip(items, lists, strict=True):
            refuse_empty(item.index, tokens)
        cut_to = course.body.limit(info)
        if cut_to is None:
            _take_fitting(course, rung, info, items, lists)
            continue
        cut = await cut_batch(codec, inputs, lists, cut_to)
        for item, fitting in zip(items, cut, strict=True):
            item.tokens[rung] = fitting


def _take_fitting(
    course: ClassifyCourse,
    rung: int,
    info: ModelInfo,
    items: Sequence[Item],
    lists: Sequence[Sequence[int]],
) -> None:
    for item, tokens in zip(items, lists, strict=True):
        error = too_long(item.index, tokens, info)
        if error is None:
            item.tokens[rung] = tuple(tokens)
        elif course.plan.plain:
            raise error
        else:
            item.case.failed(rung, Reason.CONTEXT_TOO_LONG, error)


def _no_labels(plan: Plan) -> UsageError:
    return UsageError(
        f"{plan.asked} has no local classifier whose labels could be asked for; "
        "use /v1/chat/completions",
        param="model",
        code="wrong_model_kind",
    )
