"""Service calls: which services a user's plan concerns, and signed calls to them that may arrive twice without harm.

`ServiceEffect` in `effect` performs one delivery; the rest are its parts.
"""
