"""One quota for several processes, kept in a shared store.

Each process has a coordinator and, in each lane, a shared pacer in place of the plain one. When a
call could leave and no reservation is left, the worker hands the costs of the next few calls to the
coordinator. One transaction in the store reserves an instant for each of them, behind all instants
that other processes have reserved, and reports what became of the earlier ones: what they cost in
truth, which were not used, a pause, what response headers taught. The worker waits for the reserved
instants without asking the store again.

The coordinator's thread sends what no reservation carried within 50 ms, and heartbeats: they keep
this process's slots in flight, and tell it how many processes there are. If the store cannot be
reached, each process keeps to its share of the quotas by itself, and the thread tries to reach the
store again.

Read in this order: ``stores/contract`` (what a transaction carries), ``stores/transaction`` (what
it does), ``reservations``, ``shared_pacer`` and ``learned_state`` (one lane), ``degraded_mode``
(a lane without the store), ``concurrency_share`` (slots in flight), ``coordinator`` (one process).
``virtual_queue`` and ``fleet`` are for callers; ``open_store`` builds all of it.
"""
