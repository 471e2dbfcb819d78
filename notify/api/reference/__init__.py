"""The published reference: OpenAPI, AsyncAPI, the problems, and the page that shows them, all built from the code."""
