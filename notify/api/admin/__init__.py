"""For admins: everybody's mailboxes, sessions and nodes, and what can be done about them (contract, section 4).

A bearer token is the only credential here, so no page of another site can act through an admin's browser.
"""

from notify.api.admin.access import allow_denied, deny, list_denylist
from notify.api.admin.cluster import close_session, disconnect_user, list_audit, list_nodes, list_sessions
from notify.api.admin.overview import get_overview
from notify.api.admin.queues import erase_user, get_queue, list_queues, purge_queue, replay_queue
from notify.api.admin.webhooks import get_webhook, list_webhooks, remove_webhook, set_webhook

HANDLERS = (
    get_overview,
    list_queues,
    get_queue,
    replay_queue,
    purge_queue,
    list_sessions,
    close_session,
    disconnect_user,
    erase_user,
    list_denylist,
    deny,
    allow_denied,
    list_nodes,
    list_audit,
    list_webhooks,
    get_webhook,
    set_webhook,
    remove_webhook,
)
"""Every handler of /v1/admin that is put together here."""
