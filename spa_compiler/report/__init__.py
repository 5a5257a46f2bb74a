"""What a run says: JSON and terminal."""
