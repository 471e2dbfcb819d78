"""The admin's pages at `/admin`: is it healthy, who is not getting what, since when, why, and what can I do about it.

Rendered here, from what the admin API reads; htmx fetches a page again every few seconds and idiomorph changes what differs.
Without JavaScript everything works but the refresh.
"""
