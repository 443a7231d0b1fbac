"""What several tests need around the engine."""
