"""What is put into networks where something else stood."""
