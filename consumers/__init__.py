"""The consumers: events from Kafka into mails and service calls.

Effects happen once or say so: one (event, rule, target) is one delivery, and it ends as `sent`, `skipped` or `dead`
(with a reason, and replayable) or `unknown`, when a mail's final dot may have left and the answer was never recorded.
Deliveries of one lane for one user run in commit order; one that is retried holds back only its own key in its own
lane.
"""
