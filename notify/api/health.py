"""For operators: is it alive, is it ready."""

from typing import Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from notify.api.described import Answer, describe
from notify.api.readiness import Readiness
from notify.metrics import render


@get("/metrics", summary="Counters for Prometheus", tags=["Operators"], media_type="text/plain")
async def metrics() -> Response[bytes]:
    """Return this process's metrics. Open to whoever reaches it: keep it inside."""
    text, media_type = render()
    return Response(text, media_type=media_type)


class Health(msgspec.Struct, frozen=True):
    """Whether this process does its work, check by check."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, Literal["ok", "failed"]]


@get("/livez", summary="Is the process alive", tags=["Operators"])
async def livez() -> Health:
    """Answer as long as the event loop turns."""
    return Health("ok", {})


@get(
    "/readyz",
    summary="Should it get traffic",
    tags=["Operators"],
    opt=describe(answers={503: Answer("Not now; `checks` says why.", Health)}),
)
async def readyz(readiness: NamedDependency[Readiness]) -> Response[Health]:
    """Answer 200 when database, schema and LISTEN link all work and the process isn't leaving, otherwise 503."""
    checks = await readiness.check()
    good = all(checks.values())
    return Response(
        Health("ok" if good else "unavailable", {name: "ok" if fine else "failed" for name, fine in checks.items()}),
        status_code=200 if good else 503,
    )
