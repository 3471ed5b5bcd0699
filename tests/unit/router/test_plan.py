"""From the names in a request to who may answer it."""

from __future__ import annotations

from edge_runtime.router.contract import Policy, Privacy, Reason
from edge_runtime.router.plan import Directory, Wishes, fallbacks_of
from edge_runtime.router.settings import EndpointSettings, RouterSettings

ENDPOINT = EndpointSettings(models=["small", "large"], task="intent", max_output_tokens=64)
NAMES = Directory(
    RouterSettings(frontiers=["far", "near"]), {"helper": ENDPOINT}, frontiers=("near", "far")
)
NONE = Wishes()


def test_a_model_answers_for_itself_where_nothing_else_is_set() -> None:
    plan = NAMES.plan("small", NONE, served=True)
    assert plan is not None
    assert plan.plain
    assert (plan.ladder, plan.rules.kept_reason) == (("small",), Reason.REQUESTED_MODEL)
    assert not plan.may_leave


def test_an_endpoint_brings_ladder_policy_task_and_order() -> None:
    plan = NAMES.plan("helper", NONE, served=False)
    assert plan is not None
    assert (plan.ladder, plan.order) == (("small", "large"), ("far", "near"))
    assert plan.rules.policy is Policy.LOCAL_FIRST
    assert plan.task_of("small") == "intent"
    assert (plan.max_output_tokens, plan.may_leave, plan.plain) == (64, True, False)


def test_a_header_brings_rules_and_keeps_the_model_that_is_asked_for() -> None:
    other = NAMES.plan("other", Wishes(endpoint="helper"), served=True)
    first = NAMES.plan("small", Wishes(endpoint="helper", task="mine"), served=True)
    label = NAMES.plan("small", Wishes(endpoint="who knows"), served=True)
    assert other is not None
    assert first is not None
    assert label is not None
    assert (other.ladder, other.rules.policy) == (("other",), Policy.LOCAL_FIRST)
    assert (first.ladder, first.task) == (("small", "large"), "mine")
    assert (label.endpoint, label.plain) == ("who knows", True)


def test_a_frontier_may_be_named_and_nothing_else() -> None:
    plan = NAMES.plan("near", NONE, served=False)
    assert plan is not None
    assert (plan.rules.policy, plan.order, plan.ladder) == (Policy.FRONTIER_ONLY, ("near",), ())
    headed = NAMES.plan("near", Wishes(endpoint="helper"), served=False)
    assert headed is not None
    assert (headed.order, headed.endpoint) == (("near",), "helper")
    assert NAMES.plan("nobody", NONE, served=False) is None


def test_a_local_model_goes_before_a_frontier_of_its_name() -> None:
    plan = NAMES.plan("near", NONE, served=True)
    assert plan is not None
    assert plan.ladder == ("near",)


def test_the_strictest_privacy_counts() -> None:
    for router, endpoint, wish in (
        (Privacy.NEVER_LEAVE, Privacy.MAY_LEAVE, Privacy.MAY_LEAVE),
        (Privacy.MAY_LEAVE, Privacy.NEVER_LEAVE, Privacy.MAY_LEAVE),
        (Privacy.MAY_LEAVE, Privacy.MAY_LEAVE, Privacy.NEVER_LEAVE),
    ):
        names = Directory(
            RouterSettings(privacy=router), {"a": EndpointSettings(privacy=endpoint)}, ("near",)
        )
        plan = names.plan("a", Wishes(privacy=wish), served=False)
        assert plan is not None
        assert not plan.may_leave


def test_every_fault_has_its_switch() -> None:
    off = RouterSettings.model_validate(
        {name: False for name in RouterSettings.model_fields if name.startswith("on_")}
    )
    assert len(fallbacks_of(RouterSettings())) == 6
    assert not fallbacks_of(off)
