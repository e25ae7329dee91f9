"""Looking at a stream: status, scores and incidents, alerts, what `check` finds, pictures."""
