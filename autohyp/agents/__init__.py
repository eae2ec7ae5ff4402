"""The roles of a campaign as plain classes: tests drive them directly, `autohyp.cluster` as Ray actors."""
