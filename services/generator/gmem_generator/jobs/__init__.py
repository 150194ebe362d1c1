"""Asynchronous jobs and repeated requests: what front ends share through Redis.

`record` is what is known of a job, `board` keeps it in Redis, `queue` hands out its parts, `worker`
takes them, `making` makes them, `office` is what the routes talk to; `idempotency` remembers
requests. All of it reaches Redis through `connection`.
"""
