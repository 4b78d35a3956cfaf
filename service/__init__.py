"""The front door: HTTP gateway and supervisor. Never imports torch."""
