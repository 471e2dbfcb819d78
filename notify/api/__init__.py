"""REST handlers, one file per audience: producers, inbox, admin, health."""
