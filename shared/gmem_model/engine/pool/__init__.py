"""Engines in processes of their own, behind the interface of one.

`pool` is what callers use; `process` is one child as its parent sees it, `child` what runs inside
it, `messages` what they say to each other. Nothing but `child` imports torch.
"""
