"""What handlers work with, in one place: put together by app.py, read by every audience's handlers."""

from dataclasses import dataclass

from notify.auth import Authenticator
from notify.hub import Hub
from notify.orders import Orders
from notify.outbound import Outbound
from notify.roster import Roster
from notify.settings import Settings
from notify.store import Store
from notify.webpush import Signer


@dataclass(frozen=True, slots=True)
class Services:
    """The running parts of one process."""

    settings: Settings
    authenticator: Authenticator
    hub: Hub
    store: Store
    roster: Roster
    orders: Orders
    outbound: Outbound
    signer: Signer
