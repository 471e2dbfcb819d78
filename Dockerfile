# notify for production: `docker run -e NOTIFY_DATABASE_URL=... -e NOTIFY_JWT_SECRET=... -p 8000:8000 notify`
# The embedded PostgreSQL, the tests and every build tool stay out of it.

FROM python:3.12-slim AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/notify
# What we depend on changes rarely, what we write often: two layers.
COPY requirements-serve.lock .
RUN /opt/notify/bin/pip install --require-hashes --only-binary=:all: -r requirements-serve.lock
COPY pyproject.toml README.md LICENSE ./
COPY notify notify
COPY sql sql
COPY openapi openapi
# Not editable: the image keeps nothing of /build.
RUN /opt/notify/bin/pip install --no-deps .

FROM python:3.12-slim
COPY --from=build /opt/notify /opt/notify
ENV PATH=/opt/notify/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that an orchestrator can see that it isn't root (Kubernetes' runAsNonRoot).
USER 10001:10001
# Empty, and not writable: a .env file is read from here.
WORKDIR /srv
EXPOSE 8000
# Liveness only: a database that is away must not get the process restarted; /readyz is for the load balancer.
# In Python because the image has no curl, with http.client because urllib would ask a proxy for 127.0.0.1.
# A port set with --port needs a health check of its own.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=2); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
# SIGTERM drains: `docker stop` waits 10 s by default, and a drain ends within that.
STOPSIGNAL SIGTERM
ENTRYPOINT ["notify"]
CMD ["serve", "--host", "0.0.0.0"]
