"""What findings become: one file per output format."""
