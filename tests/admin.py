"""An admin, as the tests use one: calls to a node's REST API, and waiting until what it lists is so."""

from typing import Any

import httpx

from tests.service import Service, bearer, until

READ = "queues:read"
WRITE = "queues:write"


class Admin:
    """Calls of an admin to one node."""

    def __init__(self, service: Service, scope: str = WRITE, subject: str = "root") -> None:
        self._service = service
        self._headers = bearer(subject, scope=scope)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._service.client.request(method, f"/v1/admin{path}", headers=self._headers, **options)

    async def get(self, path: str, **query: object) -> Any:
        answer = await self.call("GET", path, params={name: str(value) for name, value in query.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def act(self, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
        answer = await self.call(method, path, **options)
        assert answer.status_code == status, answer.text
        return answer.json() if status == 200 else None

    async def queues(self, **query: object) -> dict[str, int]:
        """Return how much is pending by user."""
        return {item["user"]: item["pending"] for item in (await self.get("/queues", **query))["items"]}

    async def settled(self, expected: dict[str, int]) -> None:
        """Wait until the list of queues is this."""

        async def is_so() -> bool:
            return await self.queues() == expected

        await until(is_so, seconds=5)

    async def acts(self) -> list[tuple[str, str, str, int]]:
        """Return who did what to whom, and how many it touched; the latest first."""
        items = (await self.get("/audit"))["items"]
        return [(item["actor"], item["action"], item["target"], item["affected"]) for item in items]


async def is_listed(admin: Admin, count: int, **query: object) -> None:
    """Wait until so many sessions are listed."""

    async def is_so() -> bool:
        return len((await admin.get("/sessions", **query))["items"]) == count

    await until(is_so, seconds=5)


async def nodes_are(admin: Admin, expected: set[str]) -> bool:
    """Tell whether these nodes are listed."""
    return {node["node"] for node in (await admin.get("/nodes"))["items"]} == expected
