"""Handlers: claims, enrolment, approvals, rotation."""

from __future__ import annotations

from pydantic import Field
from sqlalchemy import Connection

from edge_runtime.agent.protocol import EnrolAnswer
from edge_runtime.bundle.manifest import Name
from fleet.api.routes import Call, Done, Model, Page, PageQuery, float_cursor
from fleet.enrol import claims, requests
from fleet.enrol.claims import Claim
from fleet.enrol.requests import Enrolment, State
from fleet.registry.audit import note
from fleet.registry.boxes import Labels


class ClaimBody(Model):
    """A claim to make. `box`: for this box only, and it may replace what that box had."""

    tenant: Name
    box: Name | None = None
    labels: Labels = Field(default_factory=dict)
    approve: bool = Field(default=False, description="Let the box in without asking anybody.")
    lives_s: float | None = Field(None, gt=0, description="None: as the settings say.")


class NewClaim(Model):
    """The claim, and its secret, which is shown this once."""

    claim: Claim
    secret: str


class EnrolmentQuery(PageQuery):
    """Which requests."""

    state: State | None = None


class DecisionBody(Model):
    """What an operator says of a request."""

    reason: str = Field("", max_length=300)


async def create_claim(call: Call) -> NewClaim:
    """Make a one-time claim."""
    body: ClaimBody = call.body
    lives_s = body.lives_s or call.services.settings.enrol.claim_lives_s

    def work(connection: Connection) -> NewClaim:
        claim, secret = claims.create(
            connection,
            tenant=body.tenant,
            box=body.box,
            labels=body.labels,
            approve=body.approve,
            lives_s=lives_s,
            by=call.actor.name,
            now_s=call.now_s,
        )
        note(
            connection, call.actor, "claim.create", f"claim/{claim.id}",
            now_s=call.now_s, detail=body.model_dump(mode="json", exclude_none=True),
        )  # fmt: skip
        return NewClaim(claim=claim, secret=secret)

    return await call.services.database.write(work)


async def list_claims(call: Call) -> Page[Claim]:
    """Claims, the newest first; never their secrets."""
    limit, after = call.query.limit, float_cursor(call.query.after)
    found = await call.services.database.read(lambda c: claims.listed(c, after=after, limit=limit))
    more = str(found[-1].created_s) if len(found) == limit else None
    return Page[Claim](items=found, next=more)


async def revoke_claim(call: Call) -> Done:
    """End a claim that was not used, or that should not be again."""

    def work(connection: Connection) -> None:
        claims.revoke(connection, call.path["id"], now_s=call.now_s)
        thing = f"claim/{call.path['id']}"
        note(connection, call.actor, "claim.revoke", thing, now_s=call.now_s)

    await call.services.database.write(work)
    return Done()


async def enrol(call: Call) -> EnrolAnswer:
    """A box asks to be let in: an envelope of `EnrolRequest`."""
    call.services.admit_enrolment()
    return await call.services.enrolment.enrol(call.raw_body)


async def poll_enrolment(call: Call) -> EnrolAnswer:
    """A box asks what was decided."""
    call.services.admit_enrolment()
    return await call.services.enrolment.poll(call.path["ticket"])


async def rotate(call: Call) -> EnrolAnswer:
    """A box asks for a new credential: an envelope of `RotateRequest`."""
    call.services.admit_enrolment()
    return await call.services.enrolment.rotate(call.raw_body)


async def list_enrolments(call: Call) -> Page[Enrolment]:
    """Requests to be let in, the newest first."""
    query: EnrolmentQuery = call.query
    after = float_cursor(query.after)
    found = await call.services.database.read(
        lambda c: requests.listed(c, state=query.state, after=after, limit=query.limit)
    )
    more = str(found[-1].created_s) if len(found) == query.limit else None
    return Page[Enrolment](items=found, next=more)


async def approve_enrolment(call: Call) -> Enrolment:
    """Let a box in."""
    return await _decide(call, approve=True)


async def refuse_enrolment(call: Call) -> Enrolment:
    """Do not let a box in; final."""
    return await _decide(call, approve=False)


async def _decide(call: Call, *, approve: bool) -> Enrolment:
    return await call.services.enrolment.decide(
        call.path["id"], approve=approve, reason=call.body.reason, actor=call.actor
    )
