"""Mail: templates into bytes, bytes to the relay. A mail is never sent twice without the ledger knowing.

`MailEffect` in `effect` performs one delivery; the rest are its parts.
"""
