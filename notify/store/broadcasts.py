"""Handing messages that are never stored to every node: one NOTIFY statement for all that wait."""

from collections.abc import Sequence

from notify.batch import Interrupted, Lane
from notify.errors import Unavailable
from notify.ids import mint_id
from notify.momentary import Momentary, split
from notify.store.database import Database

MAX_WEIGHT = 1_024 * 1_024
"""Bytes of data and recipients in one statement (but always one message): far less than momentary.MAX_PARTS can carry."""

QUEUE = 5_000
"""Messages that wait at most; they are for now or never, so a long queue would only age them."""


def weigh(message: Momentary) -> int:
    """Bytes of a message as it travels, about."""
    return len(bytes(message.data)) + sum(len(user) + len('"",') for user in message.to)


class Broadcasts:
    """The lane of messages that are not stored."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lane = Lane[Momentary, None](
            "broadcast",
            self._send,
            capacity=QUEUE,
            max_weight=MAX_WEIGHT,
            weigh=weigh,
        )

    async def send(self, messages: Sequence[Momentary]) -> None:
        """Hand messages to every node. Returns once PostgreSQL has them. Raises Unavailable."""
        pending = [self.lane.put(message) for message in messages]
        try:
            for done in pending:
                await done
        except Interrupted as error:
            raise Unavailable(f"the database can't pass this on at the moment ({error})") from error

    async def _send(self, messages: Sequence[Momentary]) -> Sequence[None]:
        # All rows: asking for one value would stop PostgreSQL after the first part.
        await self._database.rows("broadcast", split(str(mint_id()), messages))
        return [None] * len(messages)
