"""Chatterline's service: call legs, speech queues, operations and the command line."""

__version__ = "0.1.0"
