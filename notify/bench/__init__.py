"""`notify bench`: how much a deployment carries, measured from the outside, with real sockets and real HTTP.

    command ──▶ run ──▶ phases ──▶ fleet ══(pipe)══▶ loader processes ──▶ the service
                 │         └─ meter: CPU and memory of the service, of PostgreSQL, of everybody else
                 ├─ own (`--self`): a PostgreSQL and a service of its own
                 ├─ floors: what the same machine does without us
                 └─ report, plot

Keeps the promise that the numbers are honest: latency counts from when a send was due, not from when it got its turn
(https://www.scylladb.com/2021/04/22/on-coordinated-omission/); what was accepted and did not arrive is counted as lost;
and where the loader or somebody else's process was the bottleneck, it says so.
"""
