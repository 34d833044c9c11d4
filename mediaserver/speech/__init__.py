"""What one call has to say, from its text to its playout buffer."""
