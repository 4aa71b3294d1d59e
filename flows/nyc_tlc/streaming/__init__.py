"""Months as a stream of events: their order and their messages, and where they are sent."""
