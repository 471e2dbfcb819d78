"""OPTIONS names every method that a path takes (RFC 9110, section 9.3.7), as the refusal of any other method does."""

import inspect

from litestar import Litestar
from litestar.routes import HTTPRoute


def complete_options(web: Litestar) -> Litestar:
    """Let the framework's answers to OPTIONS name all methods; returns the application that it was given.

    The framework makes that answer together with a path's first handler and does not hear of those that come later. Its
    function looks the methods up in the route it was made with, which nothing else refers to any more.
    """
    for route in web.routes:
        if isinstance(route, HTTPRoute):
            answer, _ = route.route_handler_map["OPTIONS"]
            inspect.getclosurevars(answer.fn).nonlocals["self"].methods = route.methods
    return web
